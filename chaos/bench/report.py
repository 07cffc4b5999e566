"""How are the figures shown? As one Markdown table, as JSON with every round's value, and between two marks in README.

`of raw`: our figure as a fraction of what the machine does at best (latencies: the other way round). `client limit`:
what the same client gets from a server that does nothing; a figure near it is the client's. `must` and `aim`: goals.py.
"""

import dataclasses
import json
import statistics
from pathlib import Path
from typing import Any

from chaos.bench.brokers import OURS
from chaos.bench.goals import GOALS, judge
from chaos.bench.machine import Facts, describe
from chaos.bench.rounds import Row, repeated

README_BEGIN, README_END = "<!-- bench: written by `refbroker bench --readme` -->", "<!-- bench ends -->"


def judged(row: Row, against: str | None) -> tuple[str, str]:
    """(must, aim) of a row, "" where it has no goal."""
    goal = GOALS.get((row.workload, row.figure))
    if not goal:
        return "", ""
    ratio = row.ratio(OURS, against) if against else None
    return judge(goal, row.higher, ours=row.median(OURS), ratio=ratio, of_raw=row.of_raw(OURS))


def table(rows: list[Row], against: str | None) -> str:
    """A Markdown table: medians, (lowest to highest), and how many times the peer's figure ours is."""
    titles = ["Workload", "Figure", OURS, *([against, "ratio"] if against else []), "of raw", "client limit"]
    titles += ["must", "aim"] if against else []
    lines = ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]
    for row in rows:
        of_raw = row.of_raw(OURS)
        name = row.workload + (" (noisy)" if row.noisy else "")
        cells = [name, row.figure, _cell(row.values[OURS])]
        if against:
            cells += [_cell(row.values[against]), _number(row.ratio(OURS, against))]
        cells += ["" if of_raw is None else _number(of_raw), "" if row.limit is None else _number(row.limit)]
        lines.append("| " + " | ".join(cells + (list(judged(row, against)) if against else [])) + " |")
    return "\n".join(lines)


def verdict(rows: list[Row], against: str | None) -> str:
    """One line: how many of the goals that must be reached are."""
    words = [judged(row, against)[0] for row in rows]
    wanted = [word for word in words if word]
    missed = [f"{row.workload}, {row.figure}" for row, word in zip(rows, words, strict=True) if word.startswith("NO")]
    text = f"{len(wanted) - len(missed)} of {len(wanted)} goals that must be reached are"
    return text + (f"; missed: {'; '.join(missed)}" if missed else "")


def notes(rows: list[Row], missing: dict[str, str], rounds: int) -> list[str]:
    """What a reader must know about these figures: repeated and noisy rounds, and what was not run."""
    noisy = sorted({row.workload for row in rows if row.noisy})
    lines = [f"Medians of {rounds} rounds, brokers in turn (lowest to highest); a ratio is the median of the rounds' ratios."]
    lines.append(f"{repeated(rows)} noisy rounds were thrown away and repeated." if repeated(rows) else "No round was noisy.")
    if noisy:
        lines.append(f"Still noisy, not to be relied on: {'; '.join(noisy)}.")
    return lines + [f"Not run: {name}: {why}" for name, why in missing.items()]


def markdown(facts: Facts, rows: list[Row], against: str | None, told: list[str], command: str) -> str:
    described = ", ".join(f"{name} {value}" for name, value in describe(facts).items())
    parts = [f"`{command}`: {described}.", table(rows, against), "\n".join(told)]
    return "\n\n".join(parts + ([verdict(rows, against) + "."] if against else [])) + "\n"


def as_json(facts: Facts, rows: list[Row], against: str | None, missing: dict[str, str], extra: dict[str, Any]) -> str:
    found = []
    for row in rows:
        must, aim = judged(row, against)
        found.append({**dataclasses.asdict(row), "ratio": row.ratio(OURS, against) if against else None,
                      "of_raw": row.of_raw(OURS), "must": must, "aim": aim})
    return json.dumps({"machine": facts, **extra, "results": found, "not run": missing}, indent=1) + "\n"


def put_into_readme(readme: Path, text: str) -> None:
    """Replace what is between the two marks. Raises ValueError where they are missing."""
    before, begin, rest = readme.read_text().partition(README_BEGIN)
    _, end, after = rest.partition(README_END)
    if not begin or not end:
        raise ValueError(f"{readme} lacks the lines {README_BEGIN} and {README_END}")
    readme.write_text(f"{before}{begin}\n{text.strip()}\n{end}{after}")


def _cell(values: list[float]) -> str:
    middle = _number(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({_number(min(values))} to {_number(max(values))})"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
