"""What does a CI job show of a run? Under GitHub Actions: an annotation for each broken statement, and a summary of the job.

Annotations are lines on the standard output (`::error title=...::text`), in which line ends, percent signs, and in a title also
colons and commas, are escaped. The summary is Markdown appended to the file that GITHUB_STEP_SUMMARY names; a job may write at most
1 MiB there, so quiet rows are left out. Elsewhere nothing is done.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from chaos.contract import STATEMENTS, by_reason

ANNOTATIONS_MAX = 10  # GitHub shows no more of one step
TEXT_MAX = 600
ROWS_MAX = 200


def tell(report, environ: Mapping[str, str], say=print) -> None:
    if environ.get("GITHUB_ACTIONS") != "true":
        return
    for line in annotations(report):
        say(line)
    if path := environ.get("GITHUB_STEP_SUMMARY"):
        with Path(path).open("a") as file:
            file.write(summary(report))


def annotations(report) -> list[str]:
    lines = []
    for place, row in sorted(report.rows.items()):
        if row.broken:
            title = f"{place.label} broken: {place.layer}, {place.fault}, {place.policy}"
            lines.append(f"::error title={_property(title)}::{_data(_words(row.broken[0]))}")
    more = len(lines) - ANNOTATIONS_MAX
    if more > 0:
        lines = lines[:ANNOTATIONS_MAX - 1] + [f"::error title=more broken rows::{more + 1} more, see report.html"]
    return lines + [f"::warning title=not enough evidence::{_data(line)}" for line in report.not_enough[:ANNOTATIONS_MAX]]


def summary(report) -> str:
    return "\n".join(_summary(report)) + "\n"


def _summary(report) -> Iterator[str]:
    verdict = {0: "all statements that were judged held", 1: "a statement is broken", 2: "not enough evidence"}[report.exit_code]
    yield f"## refbroker chaos: {verdict}\n"
    yield f"Seed `{report.seed}`; the same run again: `{report.again or f'make chaos SEED={report.seed}'}`\n"
    yield "| Layer | Fault | Statements | Judged | Allowed losses | Broken |\n|---|---|--:|--:|--:|--:|"
    totals: dict[tuple[str, str], list] = {}
    for place, row in sorted(report.rows.items()):
        total = totals.setdefault((place.layer, place.fault), [set(), 0, 0, 0])
        total[0].add(place.statement)
        total[1], total[2], total[3] = total[1] + row.judged, total[2] + row.allowed, total[3] + len(row.broken)
    for (layer, fault), (statements, judged, allowed, broken) in totals.items():
        yield f"| {layer} | {fault} | {len(statements)} | {judged:,} | {allowed:,} | {f'**{broken}**' if broken else 0} |"
    loud = [(key, row) for key, row in sorted(report.rows.items()) if row.broken]
    if loud:
        yield "\n### What broke\n\n| Statement | Where | Times | First |\n|---|---|--:|---|"
    for place, row in loud[:ROWS_MAX]:
        title, where = STATEMENTS[place.statement].title, f"{place.layer}, {place.fault}, {_cell(place.policy)}"
        yield f"| {place.label} {_cell(title)} | {where} | {len(row.broken)} | {_cell(_words(row.broken[0]))} |"
    weaker = sorted({place.statement for place, row in report.rows.items() if row.weaker and not row.broken})
    if weaker:
        yield f"\nStricter than Kafka, and not kept by {report.target}: {' '.join(weaker)}"
    yield from (f"\n    {kept.replay}" for kept in report.kept)
    for figures in report.figures:
        if "replay" in figures:
            yield f"\n    {figures['replay']}"
    yield from (f"\nNot enough evidence: {line}" for line in report.not_enough)
    yield from (f"\nNot run: {line}" for line in report.not_run)
    for reason, numbers in by_reason(report.unchecked).items():
        yield f"\nNot checked, {reason}: {' '.join(numbers)}"


def _words(finding) -> str:
    where = f"{finding.topic}-{finding.partition} at offset {finding.offset}: " if finding.topic else ""
    text = f"{finding.anomaly}, {where}{finding.evidence}"
    return text if len(text) <= TEXT_MAX else text[:TEXT_MAX] + " ..."


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _cell(text: str) -> str:
    """Nothing of a text becomes markup of the table."""
    safe = text.replace("&", "&amp;").replace("<", "&lt;").replace("\\", "\\\\")
    for mark in "|*_`[]":
        safe = safe.replace(mark, "\\" + mark)
    return " ".join(safe.split())
