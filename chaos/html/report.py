"""What did a run find, on one page? `build/chaos/report.html`.

In the order in which a reader asks: did it hold; what broke, with its story and the command that shows it again; every verdict by
statement, policy and fault with the losses that the contract allows; when faults struck and what clients noticed; how much was tried;
which crash states were covered; what was not run, not checked, and why.

The page stays under `BYTES_MAX`: where a run has too much to say, stories and rows without news are left out, and the page says so.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from chaos.checks.history.case import ANY
from chaos.contract import SANITY, STATEMENTS, by_reason
from chaos.html import chart
from chaos.html.page import banner, bullets, escape, facts, number, page, table
from chaos.report import Place

BYTES_MAX = 500_000
FAULTS = {"F0": "clean stop", "F1": "process killed", "F2": "power lost", "F3": "write or fsync fails", "F4": "no space, no descriptors, short write",
          "F5": "bits decay, writes land elsewhere", "F6": "the network lies", "F7": "the clock jumps"}
WORST = ("BROKEN", "bad", "BROKEN"), ("weaker", "weak", "weaker"), ("allowed loss", "warn", "allowed losses"), ("held", "good", "held")
EXAMPLES_MAX = 5
EVIDENCE_MAX = 1500  # characters of one finding
STORY_MAX = 12_000  # characters of one story; its own page has it all

STYLE = chart.STYLE + """
.verdicts td{white-space:nowrap}.verdicts td.s{white-space:normal;min-width:300px}.verdicts td.good,.verdicts td.warn,.verdicts td.bad{font-weight:600}
.verdicts td span{font-weight:400;color:var(--soft);font-variant-numeric:tabular-nums}.verdicts td.bad{background:var(--bad-bg)}
.verdicts td.warn{background:var(--warn-bg)}.verdicts .fault th{background:var(--panel);text-align:left}
.verdicts.news tr.quiet,.verdicts:not(.news) tr.sum{display:none}.verdicts tr.sum td{white-space:normal;color:var(--soft)}.verdicts tr.sum b{color:var(--good)}
@media print{.verdicts.news tr.quiet{display:table-row}}
.verdicts td.weak{color:var(--violet);font-weight:600}.glance td{text-align:center;font-weight:600}.glance td span{display:block;font-weight:400;font-size:.76rem;color:var(--soft)}
.glance th{min-width:64px}.glance thead th{text-align:center}.glance thead th:first-child{text-align:left}.glance th small{display:block;font-weight:400}.glance td.good{background:var(--good-bg)}.glance td.warn{background:var(--warn-bg)}.glance td.bad{background:var(--bad-bg)}.glance td.weak{color:var(--violet)}
.failure{border-left:4px solid var(--bad);padding-left:12px;margin:18px 0}
.coverage td:not(:nth-child(-n+2)){text-align:right;font-variant-numeric:tabular-nums}.coverage td.no{color:var(--soft)}
button{font:inherit;font-size:.84rem;color:var(--text);background:var(--panel);border:1px solid var(--line);border-radius:6px;padding:3px 10px;cursor:pointer}
@media (max-width:640px){.verdicts thead{display:none}.verdicts tr{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));border-top:1px solid var(--line)}
.verdicts td,.verdicts th{border:0;padding:4px 8px;white-space:normal}.verdicts tr.sum td{grid-column:1/-1}.verdicts td.s,.verdicts .fault th{grid-column:1/-1;min-width:0}.verdicts td[data-p]::before{content:attr(data-p)" ";
font-size:.76rem;font-weight:400;color:var(--soft)}.verdicts td:empty{display:none}}
"""
SCRIPT = """
for(const b of document.querySelectorAll('button[data-news]'))b.onclick=()=>{const t=b.nextElementSibling.querySelector('table');
const on=t.classList.toggle('news');b.textContent=on?'Show every row':'Show only rows with losses or breaks'};
"""


class Limits(NamedTuple):
    """How much of what may grow without bound goes onto the page."""

    stories: int
    failures: int
    quiet_rows: bool
    timelines: int
    coverage_rows: int


LIMITS = Limits(10, 60, True, 24, 400), Limits(3, 20, False, 8, 100), Limits(1, 5, False, 2, 20)


def write(report, directory: Path) -> Path:
    """The page, and beside each plan the page of its story."""
    for plan in _plans(report):
        _story_page(plan)
    path = directory / "report.html"
    path.write_text(render(report))
    return path


def render(report) -> str:
    for limits in LIMITS:
        text = _render(report, limits)
        if len(text.encode()) < BYTES_MAX:
            break
    return text


def _render(report, limits: Limits) -> str:
    body = [*_head(report), *_broken(report, limits), *_weaker(report, limits), *_verdicts(report, limits), *_timelines(report, limits), *_figures(report),
            *_coverage(report, limits), *_not_done(report), *_foot(report)]
    return page("refbroker chaos: " + _outcome(report)[1], body, STYLE, SCRIPT)


def _outcome(report) -> tuple[str, str, str]:
    """(kind, head, text)."""
    if report.exit_code == 1:
        statements = sorted({key[1] for key, row in report.rows.items() if row.broken}, key=_statement_order)
        return "bad", f"{len(statements)} {'statement' if len(statements) == 1 else 'statements'} broken: {', '.join(statements)}", "What follows shows how."
    if report.exit_code == 2:
        return "warn", "Not enough evidence", "; ".join(report.not_enough) or "nothing was judged"
    return "good", "All statements that were judged held", "Losses that the contract allows are counted below."


def _head(report) -> Iterator[str]:
    kind, head, text = _outcome(report)
    yield "<h1>What does the log still owe after a crash?</h1>"
    yield banner(kind, head, text)
    rows = report.rows.values()
    yield facts([
        ("judged", report.target), ("seed", str(report.seed)), ("begun (UTC)", time.strftime("%m-%d %H:%M", time.gmtime(report.started))),
        ("seconds", round(time.time() - report.started)), ("statements judged", len({key[1] for key in report.rows})),
        ("judgements", sum(row.judged for row in rows)), ("allowed losses", sum(row.allowed for row in rows)),
        ("broken", sum(len(row.broken) for row in rows))])
    yield f"<p>The same run again: <code>{escape(report.again or f'make chaos SEED={report.seed}')}</code></p>"
    yield from _glance(report)
    yield ("<nav>" + ("<a href='#broken'>What broke</a>" if report.exit_code == 1 else "") + "<a href='#verdicts'>Verdicts</a>"
           + ("<a href='#timelines'>Time lines</a>" if report.timelines else "") + "<a href='#figures'>How much was tried</a>"
           + ("<a href='#coverage'>Crash space</a>" if report.coverage else "") + "<a href='#not'>What was not done</a></nav>")


def _glance(report) -> Iterator[str]:
    """Fault classes by layers: the worst verdict of each, in one small table."""
    cells: dict[tuple[str, str], list] = {}
    for place, row in report.rows.items():
        cells.setdefault((place.fault, place.layer), []).append((place.statement, row))
    layers = sorted({place.layer for place in report.rows})
    if not layers:
        return
    yield '<div class=scroll><table class=glance aria-label="faults by layers"><thead><tr><th>fault</th>'
    yield "".join(f"<th>{escape(layer)}</th>" for layer in layers) + "</tr></thead><tbody>"
    for fault in sorted({place.fault for place in report.rows}):
        yield f"<tr><th>{escape(fault)} <small class=soft>{escape(FAULTS.get(fault, ''))}</small></th>"
        for layer in layers:
            rows = cells.get((fault, layer), [])
            verdicts = {row.verdict for _, row in rows}
            kind, word = next(((kind, word) for verdict, kind, word in WORST if verdict in verdicts), ("", ""))
            said = f"{len({statement for statement, _ in rows})} statements", f"{number(sum(row.judged for _, row in rows))} judgements"
            yield f'<td class="{kind}">{word}{"".join(f"<span>{each}</span>" for each in said)}</td>' if rows else "<td></td>"
        yield "</tr>"
    yield "</tbody></table></div>"


# ------------------------------------------------------------ what broke


def _broken(report, limits: Limits) -> Iterator[str]:
    broken = _broken_rows(report)
    plans = _plans(report)
    if not broken and not plans:
        return
    yield "<h2 id=broken>What broke</h2>"
    told: set[Path] = set()
    for key, row in broken[:limits.failures]:
        layer, statement, policy, fault, _ = key
        yield f'<section class=failure id="{_anchor(key)}"><h3>{escape(key.label)}: {escape(_title(statement))}</h3>'
        yield f"<p class=soft>{escape(f'{layer} layer, {fault} {FAULTS.get(fault.split()[0], str())}, policy {policy}: {number(len(row.broken))} of {number(row.judged)} judgements')}</p>"
        yield "<ul>" + "".join(f"<li>{_finding(finding)}</li>" for finding in row.broken[:EXAMPLES_MAX]) + "</ul>"
        mine = [path for path in plans if (plans[path].get("statement"), _fault_of(plans[path])) == (statement, fault)]
        for path in mine if layer == "disk" else ():
            yield _plan(path, plans[path], told, len(told) < limits.stories)
        kept = [each for each in report.kept if (each.layer, each.policy, each.fault) == (layer, policy, fault)]
        yield from (_kept(each) for each in kept[:limits.stories])
        if not kept and (layer != "disk" or not mine):
            at = "" if report.target == "refbroker" else f" --target {report.target}"
            yield f"<p>Again: <code>{escape(f'refbroker-chaos run --layers {layer}{at} --seed {report.seed}')}</code></p>"
        yield "</section>"
    if len(broken) > limits.failures:
        yield f"<p>{len(broken) - limits.failures} more rows are broken; <code>results.json</code> has them all.</p>"
    for path in plans:
        if path not in told:
            yield f"<section class=failure>{_plan(path, plans[path], told, len(told) < limits.stories)}</section>"


def _fault_of(plan: dict) -> str:
    """As the verdict table has it."""
    return " ".join(filter(None, (plan.get("crash", {}).get("fault"), plan.get("layer"))))


def _broken_rows(report) -> list[tuple]:
    return [(key, row) for key, row in sorted(report.rows.items(), key=_row_order) if row.broken]


def _finding(finding) -> str:
    where = f"{finding.topic}-{finding.partition} at offset {finding.offset}: " if finding.topic else ""
    text = finding.evidence if len(finding.evidence) <= EVIDENCE_MAX else finding.evidence[:EVIDENCE_MAX] + " ..."
    return f"<b>{escape(finding.anomaly)}</b> {escape(where + text)}"


def _weaker(report, limits: Limits) -> Iterator[str]:
    """What another broker does not keep, and does not have to: labelled, with the same evidence."""
    rows = [(key, row) for key, row in sorted(report.rows.items(), key=_row_order) if row.weaker and not row.broken]
    if not rows:
        return
    yield "<h2 id=weaker>Weaker than refbroker's contract</h2>"
    yield ("<p class=soft>These statements are stricter than what Kafka promises. That they do not hold here is told and does not count as broken "
           "(<code>--stricter</code> makes it count).</p>")
    for key, row in rows[:limits.failures]:
        yield f"<h3>{escape(key.label)}: {escape(_title(key.statement))}</h3>"
        yield f"<p class=soft>{escape(f'{key.layer} layer, {key.fault}, policy {key.policy}: {len(row.weaker)} times')}</p>"
        yield "<ul>" + "".join(f"<li>{_finding(finding)}</li>" for finding in row.weaker[:EXAMPLES_MAX]) + "</ul>"
        for each in report.kept:
            if (each.layer, each.policy, each.fault) == (key.layer, key.policy, key.fault):
                yield _kept(each)
                break


def _kept(kept) -> str:
    cut = f"\n... {kept.directory}/story.txt has the rest\n" if len(kept.story) > STORY_MAX else ""
    return (f"<p>Replay: <code>{escape(kept.replay)}</code></p><details><summary>Story, with the files and the broker's own command line</summary>"
            f"<pre>{escape(kept.story[:STORY_MAX] + cut)}</pre></details>")


def _plan(path: Path, plan: dict, told: set[Path], with_story: bool) -> str:
    """The commands, and once the story."""
    lines = [f"<p>Replay: <code>refbroker-chaos replay {escape(path)}</code>"]
    if path.with_suffix(".html").exists():
        lines.append(f' · <a href="plans/{escape(path.with_suffix(".html").name)}">its story on a time line</a>')
    lines.append("</p>")
    story = path.with_suffix(".txt")
    if path not in told and with_story and story.exists():
        text = story.read_text()
        cut = "\n... the page of this plan has the rest\n" if len(text) > STORY_MAX else ""
        head = f"{plan.get('statement')} under {plan.get('policy')}, shrunk to {sum(len(plan.get(part, [])) for part in ('setup', 'operations', 'letters'))} operations"
        lines.append(f"<details><summary>Story: {escape(head)}</summary><pre>{escape(text[:STORY_MAX] + cut)}</pre></details>")
    told.add(path)
    return "".join(lines)


def _plans(report) -> dict[Path, dict]:
    """The plans that the run wrote, as its figures name them."""
    found = {}
    for figures in report.figures:
        path = Path(str(figures.get("plan", "")))
        if "plan" in figures and path.exists():
            found[path] = json.loads(path.read_text())
    return found


def _story_page(path: Path) -> None:
    from chaos import plan
    from chaos.html import story

    if "layer" not in (written := plan.load(path)):  # of a whole broker there is the text
        path.with_suffix(".html").write_text(story.render(plan.replay(written), str(path)))


# ------------------------------------------------------------ verdicts


def _verdicts(report, limits: Limits) -> Iterator[str]:
    yield "<h2 id=verdicts>Verdicts by statement, policy and fault</h2>"
    yield ("<p class=soft>How often each statement was judged. <b class=warn>+n allowed</b>: acked records were lost, or came twice, where the contract says that they may. "
           "<b class=bad>BROKEN</b>: more than that. Rows about records stand apart by the acks that they were sent with.</p>")
    if not report.rows:
        yield "<p>Nothing was judged.</p>"
    told = {key for key, _ in _broken_rows(report)[:limits.failures]}
    for layer in sorted({key[0] for key in report.rows}):
        rows = {key: row for key, row in report.rows.items() if key[0] == layer}
        yield f"<h3>{escape(layer)} layer</h3>"
        yield "<button data-news>Show every row</button>"
        yield _verdict_table(layer, rows, limits, told)


def _verdict_table(layer: str, rows: dict, limits: Limits, told: set[tuple]) -> str:
    policies = list(dict.fromkeys(key[2] for key in rows))
    lines: dict[str, dict[tuple[str, str], dict]] = {}
    for place, row in sorted(rows.items(), key=_row_order):
        lines.setdefault(place.fault, {}).setdefault((place.statement, place.acks), {})[place.policy] = row
    out = ['<div class=scroll><table class="verdicts news"><thead><tr><th>statement</th>', *(f"<th>{escape(policy)}</th>" for policy in policies), "</tr></thead>"]
    for fault, statements in lines.items():
        loud = {pair: cells for pair, cells in statements.items() if any(row.verdict != "held" for row in cells.values())}
        shown = statements if limits.quiet_rows else loud
        left = f"; {len(statements) - len(shown)} that held without a loss are in results.json" if len(shown) < len(statements) else ""
        words = f"{fault} {FAULTS.get(fault.split()[0], '')}: {len({statement for statement, _ in statements})} statements{left}"
        out.append(f'<tbody><tr class=fault><th colspan="{len(policies) + 1}">{escape(words)}</th></tr>')
        if len(loud) < len(statements):
            quiet = sorted({pair[0] for pair in statements.keys() - loud.keys()}, key=_statement_order)
            names = " ".join(f'<span title="{escape(_title(each))}">{escape(each)}</span>' for each in quiet)
            out.append(f'<tr class=sum><td colspan="{len(policies) + 1}"><b>held</b> without a loss: {names}</td></tr>')
        for (statement, acks), cells in shown.items():
            of = "" if acks == ANY else f" <small class=soft>acks={escape(acks)}</small>"
            out.append(f'<tr{"" if (statement, acks) in loud else " class=quiet"}><td class=s><b>{escape(statement)}</b> {escape(_title(statement))}{of}</td>')
            for policy in policies:
                where = Place(layer, statement, policy, fault, acks)
                out.append(_cell(policy, cells.get(policy), _anchor(where) if where in told else ""))
            out.append("</tr>")
        out.append("</tbody>")
    return "".join([*out, "</table></div>"])


def _cell(policy: str, row, anchor: str) -> str:
    if row is None:
        return "<td></td>"
    if row.broken:
        words = f"BROKEN {number(len(row.broken))}"
        link = f'<a class=bad href="#{anchor}">{words}</a>' if anchor else words
        return f'<td data-p="{escape(policy)}" class=bad>{link} <span>of {number(row.judged)}</span></td>'
    if row.weaker:
        return f'<td data-p="{escape(policy)}" class=weak>weaker {number(len(row.weaker))} <span>of {number(row.judged)}</span></td>'
    if row.allowed:
        return f'<td data-p="{escape(policy)}" class=warn>held <span>{number(row.judged)}</span> +{number(row.allowed)} allowed</td>'
    return f'<td data-p="{escape(policy)}" class=good>held <span>{number(row.judged)}</span></td>'


# ------------------------------------------------------------ the rest


def _timelines(report, limits: Limits) -> Iterator[str]:
    if not report.timelines:
        return
    yield "<h2 id=timelines>When faults struck, and what clients noticed</h2>"
    yield chart.legend()
    yield from (chart.chart(line) for line in report.timelines[:limits.timelines])
    if len(report.timelines) > limits.timelines:
        yield f"<p>{len(report.timelines) - limits.timelines} more are in results.json.</p>"


def _figures(report) -> Iterator[str]:
    yield "<h2 id=figures>How much was tried</h2>"
    groups: dict[tuple, list[dict]] = {}
    for figures in report.figures:
        if "plan" not in figures:
            groups.setdefault(tuple(figures), []).append(figures)
    if not groups:
        yield "<p>No layer gave figures.</p>"
    for names, rows in groups.items():
        if len(rows) == 1:
            yield facts((_spaced(name), value) for name, value in rows[0].items())
        else:
            yield table([_spaced(name) for name in names], ([row[name] for name in names] for row in rows), of="figures")


def _coverage(report, limits: Limits) -> Iterator[str]:
    if not report.coverage:
        return
    cells: dict[tuple[str, str], dict[str, dict]] = {}
    for entry in report.coverage:
        cells.setdefault((entry["site"], entry["kind"]), {})[entry["deviation"]] = entry
    deviations = sorted({entry["deviation"] for entry in report.coverage})
    yield "<h2 id=coverage>Crash space: which effect came out how</h2>"
    yield ("<p class=soft>Crash states in which the effect of a call site on a kind of file deviated from the page cache in this way, before states of equal content were "
           "put together. A dash: it cannot be, and pointing at it says why. A question mark: it could have been, and this run has not seen it.</p>")
    yield "<div class=scroll><table class=coverage><thead><tr><th>call site</th><th>file</th>" + "".join(
        f"<th>{escape(name)}</th>" for name in deviations) + "</tr></thead><tbody>"
    for (site, kind), found in sorted(cells.items())[:limits.coverage_rows]:
        yield f"<tr><td><code>{escape(site)}</code></td><td>{escape(kind)}</td>" + "".join(
            _coverage_cell(found.get(name)) for name in deviations) + "</tr>"
    yield "</tbody></table></div>"
    if len(cells) > limits.coverage_rows:
        yield f"<p>{len(cells) - limits.coverage_rows} more rows are in results.json.</p>"


def _coverage_cell(entry: dict | None) -> str:
    if entry is None:
        return "<td class=no>-</td>"
    if entry["states"]:
        return f"<td>{number(entry['states'])}</td>"
    why = escape(entry["why"])
    return f"<td class=no title='{why}'>-</td>" if why else "<td>?</td>"


def _not_done(report) -> Iterator[str]:
    yield "<h2 id=not>What was not done</h2>"
    if report.not_enough:
        yield "<h3>Not enough evidence</h3>" + bullets(report.not_enough)
    yield "<h3>Not run</h3>" + (bullets(report.not_run) if report.not_run else "<p>Every layer that was asked for ran.</p>")
    if report.unchecked:
        reasons = by_reason(report.unchecked).items()
        yield "<h3>Statements that nothing checks</h3>" + bullets(f"{each} {_title(each)} ({why})" for why, found in reasons for each in found)


def _foot(report) -> Iterator[str]:
    yield (f"<p class=soft><small>seed {report.seed} · exit code {report.exit_code} (0 all held, 1 a statement is broken, 2 not enough evidence) · beside this page: "
           "results.json, junit.xml, plans</small></p>")


def _title(statement: str) -> str:
    known = STATEMENTS | SANITY
    return known[statement].title if statement in known else ""


def _anchor(key: tuple) -> str:
    return escape("broken-" + "-".join(key))


def _spaced(name: str) -> str:
    return name.replace("_", " ")


def _statement_order(statement: str) -> tuple[str, int]:
    family, _, number = statement.partition(".")
    return family, int(number) if number.isdigit() else 0


def _row_order(item) -> tuple:
    place = item[0]
    return place.layer, place.fault, _statement_order(place.statement), place.acks, place.policy
