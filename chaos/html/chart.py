"""When did faults strike, and what did clients notice? Throughput, gaps in service and what each client did over time, as SVG.

A time line is plain data, as `chaos/process/timeline.py` makes it:

    {"layer": "process", "policy": "none", "fault": "F1", "step_ms": 100, "acked": [12, 9, 0, ...], "seen": [...],
     "lanes": [{"name": "idem", "what": "librdkafka 2.16.0, idempotent", "counts": [...], "marks": [[1530, "no answer"], ...]}, ...],
     "faults": [{"ms": 1530, "until_ms": 1710, "what": "SIGKILL"}, ...]}

Counts are per step; a fault lasts until the broker was ready again; a mark is a moment of one client. A gap is the time in which no record was acked at all, around a
fault or not; shorter ones than `GAP_MS_MIN` are no gaps, since clients batch.
"""

from collections.abc import Iterator

from chaos.html.page import escape, key, number, table

GAP_MS_MIN = 300
COLUMNS_MAX = 600  # more than a screen has; longer runs put several steps into one column
LANE_COLUMNS_MAX = 120
LANE_HEIGHT = 20
MARKS = {"commit": "a commit was acked", "rebalance": "partitions assigned", "no answer": "no answer, or a refusal"}
FAULTS_LISTED_MAX = 60
HEIGHT = 100

STYLE = """
figure{margin:14px 0 22px}figcaption{font-weight:600;margin-bottom:4px}.plot{background:var(--panel);border:1px solid var(--line);border-radius:6px;overflow:hidden}
.plot svg{width:100%;height:110px}.plot svg.low{height:46px;border-top:1px solid var(--line)}.axis{display:flex;justify-content:space-between;
color:var(--soft);font-size:.78rem;font-variant-numeric:tabular-nums}
.down{fill:var(--bad);fill-opacity:.28}.gap{fill:var(--warn);fill-opacity:.2}.strike{stroke:var(--bad);stroke-width:1.5;vector-effect:non-scaling-stroke}
.acked{fill:var(--blue)}.seen{fill:var(--violet)}
.lane{border-top:1px solid var(--line);position:relative}.plot .lane svg{height:34px}.lane span{position:absolute;left:6px;top:0;font-size:.72rem;line-height:15px;
color:var(--soft);white-space:nowrap;overflow:hidden;text-overflow:ellipsis;max-width:calc(100% - 12px);pointer-events:none}.lane b{color:var(--text);font-weight:600}
.lane .acked,.lane .seen{fill-opacity:.6}.lane path{vector-effect:non-scaling-stroke}.lane .commit{stroke:var(--good);stroke-width:1.5}.lane .rebalance{stroke:var(--text);stroke-width:1;
stroke-dasharray:2 2;stroke-opacity:.7}.lane .no{stroke:var(--warn);stroke-width:1.5}
"""


def gaps(line: dict) -> list[tuple[int, int]]:
    """(from, to) in ms, between the first ack and the last."""
    step, acked = line["step_ms"], line["acked"]
    busy = [place for place, count in enumerate(acked) if count]
    return [((before + 1) * step, after * step) for before, after in zip(busy, busy[1:], strict=False)
            if (after - before - 1) * step >= GAP_MS_MIN]


def chart(line: dict) -> str:
    """The figure for one time line."""
    per = -(-max(len(line["acked"]), 1) // COLUMNS_MAX)
    acked, seen = _columns(line["acked"], per), _columns(line.get("seen", []), per)
    step = line["step_ms"] * per
    length, silent = step * max(len(acked), len(seen), 1), gaps(line)
    longest = max((until - since for since, until in silent), default=0)
    per_second = 1000 / step
    title = f"{line['layer']}, {line['policy']}, {line['fault']}"
    said = (f"{number(sum(line['acked']))} records acked in {length / 1000:.1f} s, faults: {len(line['faults'])}; gaps in service of "
            f"{GAP_MS_MIN} ms or more: {len(silent)}" + (f", the longest {longest} ms" if silent else ""))
    return "".join([
        f"<figure><figcaption>{escape(title)}</figcaption><p class=soft><small>{escape(said)}</small></p>",
        f'<div class=axis><span>up to {max(acked, default=0) * per_second:,.0f} acked/s</span></div><div class=plot>',
        _svg(acked, "acked", length, step, [*_bands(silent), *_strikes(line["faults"])], f"{title}: {said}"),
        _svg(seen, "seen", length, step, _strikes(line["faults"]), f"records that consumers got: {number(sum(seen))}", "low") if any(seen) else "",
        *_lanes(line, length), "</div>", _axis(length), _listed(line), "</figure>"])


def legend() -> str:
    return key(("var(--blue)", "records acked to producers"), ("var(--violet)", "records handed to consumers"),
               ("color-mix(in srgb,var(--bad) 45%,transparent)", "a fault, until it is over or the broker is ready again"),
               ("color-mix(in srgb,var(--warn) 40%,transparent)", f"gap: nothing acked for {GAP_MS_MIN} ms or more"),
               ("var(--good)", f"in a client's strip: {MARKS['commit']}"), ("var(--text)", f"dashed: {MARKS['rebalance']}"),
               ("var(--warn)", MARKS["no answer"]))


def _lanes(line: dict, length: int) -> Iterator[str]:
    """A strip for each client: what it got, and its moments, under the same faults."""
    for lane in line.get("lanes", []):
        per = -(-len(lane["counts"]) // LANE_COLUMNS_MAX)
        step, counts = line["step_ms"] * per, _columns(lane["counts"], per)
        top, kind = max(counts, default=0) or 1, "acked" if "idempotent" in lane["what"] or "acks=0" in lane["what"] else "seen"
        bars = "".join(f"M{place * step} {LANE_HEIGHT}v{-max(1, round(count / top * (LANE_HEIGHT - 8)))}h{step}V{LANE_HEIGHT}z"
                       for place, count in enumerate(counts) if count)
        words = f"{lane['what']}: {number(sum(lane['counts']))} records" + "".join(
            f", {name} {count}" for name in MARKS if (count := sum(mark == name for _, mark in lane["marks"])))
        ticks = "".join(f'<path class="{name.split()[0]}" d="{"".join(f"M{ms} {top_of}V{LANE_HEIGHT}" for ms, mark in lane["marks"] if mark == name)}"/>'
                        for name, top_of in (("no answer", 12), ("rebalance", 0), ("commit", 15)))
        downs = "".join(f'<rect class="down" x="{fault["ms"]}" y="0" width="{max(fault.get("until_ms") or 0, fault["ms"]) - fault["ms"]}" height="{LANE_HEIGHT}"/>'
                        f'<path class="strike" d="M{fault["ms"]} 0V{LANE_HEIGHT}"/>' for fault in line["faults"])
        yield (f'<div class=lane><span><b>{escape(lane["name"])}</b> {escape(words)}</span><svg viewBox="0 0 {length} {LANE_HEIGHT}" preserveAspectRatio="none" '
               f'role="img" aria-label="{escape(lane["name"] + ", " + words)}"><path class="{kind}" d="{bars}"/>{downs}{ticks}</svg></div>')


def _columns(counts: list[int], per: int) -> list[int]:
    return [sum(counts[place:place + per]) for place in range(0, len(counts), per)]


def _svg(counts: list[int], kind: str, length: int, step: int, behind: list[str], label: str, more: str = "") -> str:
    top = max(counts, default=0) or 1
    bars = "".join(f"M{place * step} {HEIGHT}V{HEIGHT - round(count / top * (HEIGHT - 6), 1)}h{step}V{HEIGHT}z"
                   for place, count in enumerate(counts) if count)
    return (f'<svg class="{more}" viewBox="0 0 {length} {HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{escape(label)}">'
            f'<path class="{kind}" d="{bars}"/>{"".join(behind)}</svg>')


def _bands(silent: list[tuple[int, int]]) -> list[str]:
    return [f'<rect class="gap" x="{since}" y="0" width="{until - since}" height="{HEIGHT}"><title>nothing acked for {until - since} ms</title></rect>'
            for since, until in silent]


def _strikes(faults: list[dict]) -> list[str]:
    marks = []
    for fault in faults:
        since, until = fault["ms"], fault.get("until_ms") or fault["ms"]
        words = escape(f"{fault['what']} at {since / 1000:.2f} s" + (f", ready after {until - since} ms" if until > since else ""))
        marks.append(f'<g><title>{words}</title><rect class="down" x="{since}" y="0" width="{until - since}" height="{HEIGHT}"/>'
                     f'<path class="strike" d="M{since} 0V{HEIGHT}"/></g>')
    return marks


def _axis(length: int) -> str:
    parts = 4
    return '<div class=axis>' + "".join(f"<span>{length * part / parts / 1000:.1f} s</span>" for part in range(parts + 1)) + "</div>"


def _listed(line: dict) -> str:
    if not line["faults"]:
        return ""
    rows = list(_rows(line))
    left = f"<p class=soft>and {len(rows) - FAULTS_LISTED_MAX} more</p>" if len(rows) > FAULTS_LISTED_MAX else ""
    return (f"<details><summary>Each fault: {len(rows)}</summary>"
            + table(("at, s", "fault", "ready after, ms", "first ack after, ms"), rows[:FAULTS_LISTED_MAX], of="faults") + left + "</details>")


def _rows(line: dict) -> Iterator[tuple]:
    step = line["step_ms"]
    for fault in line["faults"]:
        ready = fault.get("until_ms")
        place = int((ready or fault["ms"]) // step)
        again = next((number * step for number in range(place, len(line["acked"])) if line["acked"][number]), None)
        yield (f"{fault['ms'] / 1000:.2f}", fault["what"], ready - fault["ms"] if ready else "-",
               max(0, again - fault["ms"]) if again is not None else "none: clients had stopped")
