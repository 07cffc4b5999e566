"""How did one failure come about? The page of a plan: `refbroker-chaos explain plan.json --html out.html`.

From top to bottom: what broke; the time line of client, effects, syncs and crash; what each client was told; what the crash made of the
unsynced effects; every file that differs, byte by byte, and what recovery left of it; recovery's report; what was owed; the whole write list; the plan itself,
to edit and replay.
"""

import json
from collections.abc import Iterator

from chaos.checks.crash import ROOT
from chaos.contract import STATEMENTS
from chaos.disk.lab import debts
from chaos.disk.ledger import Append
from chaos.disk.profiles import BY_NAME
from chaos.html import dump, lanes
from chaos.html.fates import LOST, NEVER, TORN, Facts, bytes_of, facts_of
from chaos.html.page import banner, bullets, escape, facts, page, table
from chaos.plan import durable_ends

STYLE = dump.STYLE + lanes.STYLE + """
.file{border-top:1px solid var(--line);padding-top:10px;margin-top:14px}tr:target{background:var(--warn-bg)}
.list td:first-child{color:var(--soft);white-space:nowrap}.list td{font-size:.84rem}.list td.st{font-weight:600;white-space:nowrap}
.st.lost{color:var(--bad)}.st.torn{color:var(--warn)}.st.durable{color:var(--good)}.st.kept{color:var(--blue)}.st.never,.st.sync{color:var(--soft);opacity:1}
tr.crashed td{background:var(--bad-bg);color:var(--bad);font-weight:700}
"""
SHOWN_MAX = 30  # files


def render(replay, name: str = "plan.json") -> str:
    """The page of a `chaos.plan.Replay`."""
    known = facts_of(replay)
    body = [*_head(replay), *_time_line(replay, known), *_client(replay, known), *_crash(replay, known), *_files(replay, known),
            *_recovery(replay), *_owed(replay), *_write_list(replay, known), *_plan(replay, name)]
    return page(f"{replay.plan['statement']} under {replay.plan['policy']}", body, STYLE, lanes.SCRIPT)


def _head(replay) -> Iterator[str]:
    plan, crash = replay.plan, replay.plan["crash"]
    title = STATEMENTS[plan["statement"]].title if plan["statement"] in STATEMENTS else ""
    yield f"<h1>{escape(plan['statement'])}: {escape(title)}</h1>"
    if not replay.broken:
        yield banner("good", "Every statement holds on this plan", "What recovery made of this crash is all that was owed.")
    for problem in replay.broken:
        where = f"{problem.key[0]}-{problem.key[1]}" + (f" at offset {problem.offset}" if problem.offset >= 0 else "") if problem.key[0] else "the data directory"
        title = STATEMENTS[problem.statement].title if problem.statement in STATEMENTS else ""
        yield banner("bad", f"{problem.statement} is broken: {title}", f"{where}: {problem.text}")
    for problem in replay.problems:
        if problem.allowed:
            yield banner("warn", f"{problem.statement}: a loss that the contract allows", problem.text)
    fault = {"F1": "process killed", "F2": "power lost"}.get(crash["fault"], crash["fault"])
    yield facts([("policy", plan["policy"]), ("fault", f"{crash['fault']} {fault}"), ("disk", crash["disk"]), ("crash after event", crash["after_events"]),
                 ("operations", len(plan["setup"]) + len(plan["operations"])), ("seed", str(plan["seed"])), ("as written in the plan", "yes" if replay.as_written else "no")])
    if plan.get("constants"):
        yield facts([("broker with", ", ".join(f"{name} = {value}" for name, value in plan["constants"].items()))])
    if crash["disk"] in BY_NAME:
        yield f"<p class=soft><small>{escape(crash['disk'])}: {escape(BY_NAME[crash['disk']].stands_for)}</small></p>"


def _time_line(replay, known: Facts) -> Iterator[str]:
    yield "<h2>Time line</h2>" + lanes.legend()
    yield lanes.draw(known, replay.plan["crash"]["after_events"], replay.plan["crash"]["fault"])
    yield "<p class=soft><small>Squares are written bytes, circles created or unlinked names, diamonds renames, triangles truncations. Time is the number of the effect.</small></p>"


def _client(replay, known: Facts) -> Iterator[str]:
    at = replay.plan["crash"]["after_events"]
    yield "<h2>What the client asked, and was told before the crash</h2>"
    rows = []
    later = [operation for operation in known.operations if operation.begin >= at and operation.end > at]
    for operation in known.operations:
        if operation in later or (operation.setup and not operation.told):
            continue
        for told in operation.told or ():
            rows.append((operation.name, told.text, f"yes, after event {told.at}" if told.at is not None else "no"))
        if not operation.told:
            rows.append((operation.name, "", f"done after event {operation.end}" if operation.end <= at else "under way"))
    yield table(("operation", "asked", "answered"), rows, of="client operations") if rows else "<p>Nothing.</p>"
    if later:
        yield f"<p class=soft>After the crash, so that they never happened: {escape(', '.join(operation.name for operation in later))}.</p>"


def _crash(replay, known: Facts) -> Iterator[str]:
    crash = replay.plan["crash"]
    at = crash["after_events"]
    yield "<h2>What the crash made of it</h2>"
    gone = [(f"#{index}", *_what(known.events[index]), fate.state, fate.how) for index, fate in enumerate(known.fates[:at]) if fate.state in (LOST, TORN)]
    unsynced = sum(fate.state not in ("durable", "sync") for fate in known.fates[:at])
    yield f"<p>{unsynced} of {at} lines of the write list were not covered by a sync; {len(gone)} of them did not come out as the page cache had them.</p>"
    if gone:
        yield table(("effect", "what", "file", "by", "fate", "as the plan says"), gone, of="effects lost or torn")
    if nested := replay.plan.get("inside_recovery"):
        yield "<p>Then it crashed again, inside recovery; the files below are as the last crash left them:</p>"
        yield bullets(f"after event {where} of recovery {number}: " + ("; ".join(" ".join(map(str, label)) for label in labels) or "nothing more was lost")
                      for number, (where, labels) in enumerate(nested, 1))


def _files(replay, known: Facts) -> Iterator[str]:
    yield "<h2>Files: page cache, disk, recovery</h2>" + dump.legend()
    paths = [path for path in sorted(known.cached.keys() | replay.crashed.keys()) if _tells(path, replay, known)]
    if not paths:
        yield "<p>Every file is as the page cache had it, and all of it durable.</p>"
    for path in paths[:SHOWN_MAX]:
        yield from _file(path, replay, known)
    if len(paths) > SHOWN_MAX:
        yield f"<p>{len(paths) - SHOWN_MAX} more files differ.</p>"


def _tells(path: str, replay, known: Facts) -> bool:
    """Whether a crash or recovery did anything to this file that somebody may want to see."""
    if path not in known.cached or path not in replay.crashed:
        return True
    cached = known.cached[path]
    return cached is not None and (not cached == replay.crashed[path] == known.durable.get(path))


def _file(path: str, replay, known: Facts) -> Iterator[str]:
    file = bytes_of(path, known, replay.crashed)
    after = known.recovered.get(path)
    yield f'<section class=file><h3><code title="{escape(path)}">{escape(lanes.short(path, ROOT + "/"))}</code></h3>'
    if path in known.cached and path not in replay.crashed:
        yield "<p class=bad>Its directory entry is gone: nothing under this name was on the disk after the crash.</p>"
    if path not in known.cached:
        yield "<p>The page cache had no such name any more; after the crash it is there again.</p>"
    if known.cached.get(path, b"") is None or (path not in known.cached and replay.crashed.get(path) is None):
        yield "<p class=soft>A directory.</p></section>"
        return
    if after is None and replay.recovered.refused is None:
        end = "recovery removed it" if path in replay.crashed else "not there after recovery"
    else:
        end = f"{len(after or b'')} bytes after recovery" if replay.recovered.refused is None else "recovery refused to start"
    left = f"{len(file.left)} on the disk after the crash" if file.left is not None else "none on the disk after the crash"
    yield f"<p class=soft>{len(file.cached or b'')} bytes in the page cache, {left}, {escape(end)}. {escape(dump.summary(file).capitalize())}.</p>"
    yield dump.strip(file)
    if rows := dump.batches(file, _acked(path, replay)):
        yield table(("offsets", "at byte", "bytes", "batch", "client was told"), rows, of="batches")
    if file.states:
        yield dump.hexdump(file)
    yield "</section>"


def _acked(path: str, replay) -> set[int]:
    """Base offsets of the appends to this partition that were acked before the crash."""
    directory = path.removeprefix(ROOT + "/").partition("/")[0]
    return {step.base_offset for entry in replay.driver.ledger.partitions if f"{entry.topic}-{entry.number}" == directory
            for step in entry.steps if isinstance(step, Append) and step.acked is not None and step.acked <= replay.plan["crash"]["after_events"]}


def _recovery(replay) -> Iterator[str]:
    yield "<h2>What recovery did</h2>"
    if replay.recovered.refused is not None:
        yield banner("bad", "The broker did not start", replay.recovered.refused)
    for (topic, number), log in sorted(replay.recovered.partitions.items()):
        report = log.report
        if report is None:
            yield f"<p>{escape(topic)}-{number}: offline: {escape(log.offline)}</p>"
            continue
        yield f"<p><code>{escape(str(report).splitlines()[0])}</code></p>"
        if report.actions:
            yield table(("file", "what", "bytes", "offsets", "why", "statement"), (
                (action.file, action.what, action.bytes, f"{action.offsets[0]} to {action.offsets[1] - 1}" if action.offsets and action.offsets[0] < action.offsets[1] else "",
                 action.reason, action.statement) for action in report.actions), of=f"recovery of {topic}-{number}")


def _owed(replay) -> Iterator[str]:
    """What each partition owed after this crash, and what it has."""
    crash = replay.plan["crash"]
    torn = bool(crash["deviations"].get("process"))
    rows = []
    for debt in debts(replay.driver.ledger, crash["after_events"] - torn, crash["fault"], durable_ends(replay.driver, crash["after_events"])):
        log = replay.recovered.partitions.get(debt.ledger.key)
        mine = log is not None and log.topic_id == debt.ledger.topic_id
        found = f"offsets {log.log_start_offset} to {log.log_end_offset}" if mine and log.offline is None else "offline" if mine else "not there"
        rows.append((f"{debt.ledger.topic}-{debt.ledger.number}", f"below {debt.acked_end}", f"below {debt.durable_end}",
                     f"below {debt.must_end} ({debt.statement})" if debt.must_exist else "nothing: being created or deleted", found))
    yield "<h2>What was owed, and what is there</h2>"
    yield table(("partition", "acked", "durable for certain", "owed", "after recovery"), rows, of="what each partition owed")


def _what(event) -> tuple[str, str, str]:
    """(what was done, to which file, by which function)."""
    return str(event).partition(" by ")[0].replace(f" {event.path}", "", 1), lanes.short(event.path, ROOT + "/"), event.site


def _write_list(replay, known: Facts) -> Iterator[str]:
    at = replay.plan["crash"]["after_events"]
    yield (f"<h2>The write list</h2><details><summary>{len(known.events)} effects and syncs, with the function that made each</summary>"
           "<div class=scroll><table class=list><thead><tr><th>#</th><th>what</th><th>file</th><th>by</th><th>fate</th></tr></thead><tbody>")
    begins = {operation.begin: operation for operation in reversed(known.operations)}
    for index, event in enumerate(known.events):
        if index == at:
            yield "<tr class=crashed><td></td><td colspan=4>the crash</td></tr>"
        if index in begins:
            yield f"<tr><td></td><td colspan=4><b>{escape(begins[index].name)}</b></td></tr>"
        fate = known.fates[index]
        what, file, site = _what(event)
        state = "after the crash" if fate.state == NEVER else fate.state
        yield (f'<tr id="e{index}"><td>#{index}</td><td>{escape(what)}</td><td>{escape(file)}</td><td><code>{escape(site)}</code></td>'
               f'<td class="st {fate.state}">{escape(state)}{escape(", " + fate.how if fate.how else "")}</td></tr>')
    if at >= len(known.events):
        yield "<tr class=crashed><td></td><td colspan=4>the crash</td></tr>"
    yield "</tbody></table></div></details>"


def _plan(replay, name: str) -> Iterator[str]:
    yield "<h2>The plan</h2>"
    yield f"<p>Edit it and replay it: <code>refbroker-chaos replay {escape(name)}</code> (0: all held, 1: a statement broke)</p>"
    yield f"<details><summary>{escape(name)}</summary><pre>{escape(json.dumps(replay.plan, indent=1))}</pre></details>"
