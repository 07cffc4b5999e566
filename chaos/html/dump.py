"""Which bytes of a file did the crash take? A strip for the whole file, its batches with what became of each, and a hexdump.

Colour says it, and so do a shape and a word: lost bytes are struck through, torn ones (other than what was written there) are boxed, bytes
that no sync had covered are underlined. The hexdump folds rows in which nothing is worth a look.
"""

import re
from collections.abc import Iterator
from itertools import groupby

from chaos.html.fates import Bytes
from chaos.html.page import escape, key
from chaos.logfile import parse_log

ROWS_MAX = 160
ROW = 16
WORDS = {"d": "durable", "k": "kept, though no sync covered it", "t": "torn: other bytes than were written", "l": "lost",
         "x": "there again: its truncation was undone"}
COLOURS = {"d": "var(--good)", "k": "var(--blue)", "t": "var(--warn)", "l": "var(--bad)", "x": "var(--violet)"}
_LOG = re.compile(r"([0-9]{20})\.log$")

STYLE = """
.strip{width:100%;height:18px;border-radius:4px;background:var(--panel)}.bd{fill:var(--good)}.bk{fill:var(--blue)}.bt{fill:var(--warn)}.bl{fill:var(--bad)}.bx{fill:var(--violet)}
pre.hex{line-height:1.55;max-height:60vh}.hex .k{text-decoration:underline;color:var(--blue)}.hex .l{text-decoration:line-through;color:var(--bad);background:var(--bad-bg)}
.hex .t{color:var(--warn);background:var(--warn-bg);outline:1px solid var(--warn);outline-offset:-1px}.hex .x{color:var(--violet);text-decoration:overline}.hex .a{color:var(--soft)}
@media (max-width:640px){pre.hex{font-size:9.4px;padding:8px 6px}.hex .text{display:none}}
"""


def legend() -> str:
    return key(*((COLOURS[state], words) for state, words in WORDS.items()))


def strip(file: Bytes) -> str:
    """The whole file as one bar."""
    if not file.states:
        return ""
    runs, place = [], 0
    for state, group in groupby(file.states):
        count = len(list(group))
        runs.append(f'<rect class="b{state}" x="{place}" y="0" width="{count}" height="10"><title>bytes {place} to {place + count - 1}: {WORDS[state]}</title></rect>')
        place += count
    return f'<svg class="strip" viewBox="0 0 {place} 10" preserveAspectRatio="none" role="img" aria-label="{escape(summary(file))}">{"".join(runs)}</svg>'


def summary(file: Bytes) -> str:
    """"160 bytes durable, 40 lost"."""
    counts = {state: file.states.count(state) for state in WORDS}
    parts = [f"{count} {WORDS[state].partition(':')[0].partition(',')[0]}" for state, count in counts.items() if count]
    return "bytes: " + ", ".join(parts) if parts else "empty"


def batches(file: Bytes, acked: set[int]) -> list[tuple[str, int, int, str, str]]:
    """(offsets, position, bytes, fate, what the client was told) of each batch that the page cache held."""
    match = _LOG.search(file.path)
    if not match or not file.cached:
        return []
    rows = []
    for batch in parse_log(file.cached, int(match[1])).batches:
        states = set(file.states[batch.position:batch.end])
        fate = ("durable" if states == {"d"} else "lost" if states == {"l"} else "torn" if states & {"t", "l"} else "kept")
        offsets = str(batch.base_offset) if batch.base_offset == batch.last_offset else f"{batch.base_offset} to {batch.last_offset}"
        rows.append((offsets, batch.position, len(batch.data), fate, "acked" if batch.base_offset in acked else "not acked"))
    return rows


def hexdump(file: Bytes) -> str:
    """Rows of 16 bytes, as the crash left them; where bytes are gone, what they were."""
    return f'<pre class="hex">{chr(10).join(_rows(file))}</pre>'


def _rows(file: Bytes) -> Iterator[str]:
    data, states = file.shown, file.states
    shown, folded, total = 0, 0, 0
    wanted = _worth_a_look(states)
    for start in range(0, len(data), ROW):
        if start not in wanted or shown >= ROWS_MAX:
            folded, total = folded + 1, total + len(data[start:start + ROW])
            continue
        if folded:
            yield f'<span class="a">       ... {total} bytes {"" if shown >= ROWS_MAX else "durable, "}not shown</span>'
            folded, total = 0, 0
        shown += 1
        yield _row(start, data[start:start + ROW], states[start:start + ROW])
    if folded:
        yield f'<span class="a">       ... {total} bytes {"" if shown >= ROWS_MAX else "durable, "}not shown</span>'


def _worth_a_look(states: str) -> set[int]:
    """Starts of the rows that hold anything but durable bytes, and their neighbours; the first row, for the reader's bearings."""
    wanted = {0}
    for start in range(0, len(states), ROW):
        if states[start:start + ROW].strip("d"):
            wanted |= {start - ROW, start, start + ROW}
    return wanted


def _row(start: int, data: bytes, states: str) -> str:
    pairs, text = [], []
    place = 0
    for state, group in groupby(states):
        count = len(list(group))
        piece = data[place:place + count]
        place += count
        readable = escape("".join(chr(byte) if 32 <= byte < 127 else "." for byte in piece))
        mark = (lambda inside, state=state: inside if state == "d" else f'<span class="{state}">{inside}</span>')
        pairs.append(mark(piece.hex(" ")))
        text.append(mark(readable))
    gap = " " * (3 * (ROW - len(data)))
    return f'<span class="a">{start:05x}</span>  {" ".join(pairs)}{gap}<span class="text">  {"".join(text)}</span>'
