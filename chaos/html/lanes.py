"""In which order did everything happen? One picture: the client's operations, the effects by file, the syncs, and the crash.

Time is the number of the line in the write list, not seconds. The picture has a fixed height for each lane and scrolls sideways; the names of
the lanes stay where they are. Every mark has a title, and leads to its line in the list below.
"""

import re

from chaos.disk.model import ENTRIES, SYNCS
from chaos.html.fates import DURABLE, KEPT, LOST, NEVER, TORN, Facts
from chaos.html.page import escape, key

LANE, STEP, LETTER = 28, 18, 7.2  # pixels: height of a lane, width of a line of the write list, width of a letter
MARGIN = 100  # behind the last operation: room for words
LANES_MAX = 40
_ZEROS = re.compile(r"0{10,}([0-9])")

STYLE = """
.lanes{display:grid;grid-template-columns:minmax(84px,max-content) minmax(0,1fr);border:1px solid var(--line);border-radius:6px;overflow:hidden;margin:8px 0}
.lanes .names{background:var(--panel);border-right:1px solid var(--line);max-width:230px}.lanes .names div{height:28px;line-height:28px;padding:0 8px;white-space:nowrap;
overflow:hidden;text-overflow:ellipsis;font-size:.8rem}.lanes .names div:nth-child(-n+2){font-weight:600}.lanes .view{overflow-x:auto}.lanes svg{min-width:100%}
.lanes text{font:12px system-ui,"DejaVu Sans",sans-serif;fill:var(--text)}.lanes .row{stroke:var(--line)}.op{fill:var(--panel);stroke:var(--soft)}.op.setup{stroke-dasharray:3 3}
.m{stroke-width:1.5}.durable{fill:var(--good);stroke:var(--good)}.kept{fill:var(--blue);stroke:var(--blue)}.torn{fill:var(--warn);stroke:var(--warn)}
.lost{fill:var(--bad-bg);stroke:var(--bad)}.never{fill:none;stroke:var(--soft);opacity:.45}.x{stroke:var(--bad);stroke-width:2}
.sync{stroke:var(--text);stroke-width:2}.sync.never{stroke:var(--soft);opacity:.35}.reply{fill:var(--good)}.crash{stroke:var(--bad);stroke-width:2;stroke-dasharray:6 3}
.lanes text.boom{fill:var(--bad);font-weight:700}.after{fill:var(--bad);opacity:.06}
@media (max-width:640px){.lanes .names{max-width:108px}.lanes .names div{font-size:.7rem;padding:0 5px}}
"""
SCRIPT = """
const v=document.querySelector('.view'),c=v&&v.querySelector('.crash');if(c)v.scrollLeft=Math.max(0,c.getAttribute('x1')-v.clientWidth*0.75);
"""


def legend() -> str:
    return key(("var(--good)", "durable: a completed sync covers it"), ("var(--blue)", "not synced, kept"), ("var(--warn)", "torn"),
               ("var(--bad)", "lost (crossed out)"), ("var(--soft)", "after the crash: it never happened"), ("var(--text)", "bar: a sync"))


def short(path: str, root: str = "/data/") -> str:
    """A path as a person would say it: without the root, and without a segment's leading zeros."""
    return _ZEROS.sub(r"\1", path.removeprefix(root)) or "/"


def draw(facts: Facts, at: int, fault: str) -> str:
    xs, width = _places(facts)
    names, lanes = _lanes(facts)
    height = LANE * (2 + len(names))
    crash_x = xs[at] - STEP / 2 if at < len(xs) else width - MARGIN - 3
    out = [f'<svg width="{width:.0f}" height="{height}" role="img" aria-label="time line of {len(facts.events)} effects and syncs; the crash comes after {at}">',
           f'<rect class="after" x="{crash_x}" y="0" width="100%" height="{height}"/>']
    out += (f'<line class="row" x1="0" x2="100%" y1="{LANE * row}" y2="{LANE * row}"/>' for row in range(1, 2 + len(names)))
    out += _operations(facts, xs, at)
    out += (_mark(index, facts, xs[index], LANE * (2 + lanes[index]) + LANE / 2) for index in range(len(facts.events)) if index in lanes)
    words = "power lost" if fault == "F2" else "process killed"
    out.append(f'<line class="crash" x1="{crash_x}" x2="{crash_x}" y1="0" y2="{height}"/><text class="boom" x="{crash_x + 5}" y="{LANE + 19}">{words}</text></svg>')
    labels = ["client asks", "client is told", *map(short, names)]
    return ('<div class="lanes"><div class="names">' + "".join(f'<div title="{escape(label)}">{escape(label)}</div>' for label in labels)
            + f'</div><div class="view" tabindex="0">{"".join(out)}</div></div>')


def _places(facts: Facts) -> tuple[list[float], float]:
    """Where each line of the write list stands: an operation is as wide as its name at least."""
    xs, x = [0.0] * len(facts.events), 6.0
    for operation in facts.operations:
        count = operation.end - operation.begin
        wide = max(count * STEP, len(operation.name) * LETTER + 14)
        for place in range(count):
            xs[operation.begin + place] = x + wide * (place + 0.5) / count
        operation.x, operation.width = x, wide
        x += wide + 6
    return xs, x + MARGIN


def _lanes(facts: Facts) -> tuple[list[str], dict[int, int]]:
    """The files and directories in order of appearance, and the lane of each line."""
    names: dict[str, int] = {}
    lanes: dict[int, int] = {}
    for index, event in enumerate(facts.events):
        if event.kind == "mark":
            continue
        lane = names.setdefault(event.path, len(names))
        lanes[index] = lane
    if len(names) > LANES_MAX:
        busiest = sorted(names, key=lambda name: -sum(lane == names[name] for lane in lanes.values()))[:LANES_MAX]
        chosen = {names[name]: number for number, name in enumerate(sorted(busiest, key=names.get))}
        return sorted(busiest, key=names.get), {index: chosen[lane] for index, lane in lanes.items() if lane in chosen}
    return list(names), lanes


def _operations(facts: Facts, xs: list[float], at: int) -> list[str]:
    out = []
    for operation in facts.operations:
        said = "; ".join(f"{told.text}: {'answered' if told.at is not None else 'no answer before the crash'}" for told in operation.told)
        kind = "op" + (" setup" if operation.setup else "") + (" never" if operation.begin >= at and operation.end > at else "")
        out.append(f'<g><title>{escape(operation.name)}{escape(": " + said if said else "")}</title><rect class="{kind}" x="{operation.x:.0f}" y="4" rx="4" '
                   f'width="{operation.width:.0f}" height="{LANE - 8}"/><text x="{operation.x + 7:.0f}" y="18">{escape(operation.name)}</text></g>')
        for told in operation.told:
            if told.at is not None:
                x = xs[told.at - 1] + STEP / 2 - 2 if told.at > operation.begin else operation.x + operation.width / 2
                out.append(f'<path class="reply" d="M{x - 5:.1f} {LANE + 8}h10l-5 11z"><title>answered: {escape(told.text)}</title></path>')
    return out


def _mark(index: int, facts: Facts, x: float, y: float) -> str:
    event, fate = facts.events[index], facts.fates[index]
    title = f"#{index} {event}" + (f": {fate.state}" if fate.state != "sync" else "") + (f", {fate.how}" if fate.how else "")
    state = fate.state
    if event.kind in SYNCS:
        shape = f'<line class="sync {"never" if state == NEVER else ""}" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 11}" y2="{y + 11}"/>'
    elif event.kind in ("append", "write"):
        shape = f'<rect class="m {state}" x="{x - 6:.1f}" y="{y - 7}" width="12" height="14" rx="2"/>'
    elif event.kind == "truncate":
        shape = f'<path class="m {state}" d="M{x - 7:.1f} {y - 6}h14l-7 12z"/>'
    elif event.kind in ENTRIES and event.kind != "rename":
        shape = f'<circle class="m {state}" cx="{x:.1f}" cy="{y}" r="5.5"/>'
    else:
        shape = f'<path class="m {state}" d="M{x:.1f} {y - 8}l7 8l-7 8l-7 -8z"/>'
    if state == LOST:
        shape += f'<path class="x" d="M{x - 6:.1f} {y - 7}l12 14m0 -14l-12 14"/>'
    assert state in (DURABLE, KEPT, TORN, LOST, NEVER, "sync"), state
    return f'<a href="#e{index}"><title>{escape(title)}</title>{shape}</a>'
