"""What did a chaos run find? One report for all layers: a table on the terminal, a page, JUnit XML and JSON.

A row is (layer, statement, policy, fault, acks). It says how often the statement was judged, how many losses the contract allowed,
and what broke it. A run ends with 0 where all held, 1 where a statement is broken, 2 where the evidence is not enough: nothing
was acked, or a fault that must show never bit (contract S1, S2). Where another broker is judged, what breaks only a statement that
is stricter than Kafka is labelled "weaker" and breaks nothing, unless that was asked for.
"""

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from chaos.checks.history.case import ANY, Finding
from chaos.contract import SANITY, STATEMENTS, STRICTER, by_reason

HELD, BROKEN, NOT_ENOUGH = 0, 1, 2
EXAMPLES_MAX = 5  # findings of one row that are written out


class Place(NamedTuple):
    """What a row is about."""

    layer: str
    statement: str
    policy: str
    fault: str
    acks: str = ANY

    @property
    def label(self) -> str:
        """The statement, with the acks of the records where it is about records."""
        return self.statement if self.acks == ANY else f"{self.statement}/acks={self.acks}"


@dataclass
class Row:
    """`weaker`: what breaks a stricter statement where stricter statements do not count."""

    judged: int = 0
    allowed: int = 0
    broken: list[Finding] = field(default_factory=list)
    weaker: list[Finding] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        return "BROKEN" if self.broken else "weaker" if self.weaker else "allowed loss" if self.allowed else "held"


@dataclass
class Kept:
    """What was left of a failure for whoever wants to see it again: a directory with its story, and the command."""

    layer: str
    policy: str
    fault: str
    directory: str
    replay: str
    story: str


@dataclass
class Report:
    """Everything that the layers of one run have to say. `not_enough` and `not_run` are lines for people; `timelines` as
    chaos/html/chart.py describes them; `coverage` of crash space: {"site", "kind", "deviation", "states"}; `again` the command that
    makes the same run; `strict`: whether a statement that is stricter than Kafka can be broken; `target` what was judged."""

    seed: int
    again: str = ""
    target: str = "refbroker"
    strict: bool = True
    rows: dict[Place, Row] = field(default_factory=dict)
    figures: list[dict] = field(default_factory=list)
    not_enough: list[str] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    timelines: list[dict] = field(default_factory=list)
    coverage: list[dict] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    started: float = field(default_factory=time.time)

    def judge(self, layer: str, policy: str, fault: str, statements: Iterable[str | tuple[str, str]], findings: Iterable[Finding],
              times: int = 1) -> None:
        """Count `times` judgements of each statement, given by its number or as (number, acks), and what was found against them."""
        findings = list(findings)
        pairs = {(each, ANY) if isinstance(each, str) else each for each in statements}
        for statement, acks in pairs | {(finding.statement, finding.acks) for finding in findings}:
            assert statement in STATEMENTS or statement in SANITY, statement
            self.rows.setdefault(Place(layer, statement, policy, fault, acks), Row()).judged += times
        for finding in findings:
            row = self.rows[Place(layer, finding.statement, policy, fault, finding.acks)]
            if finding.allowed:
                row.allowed += 1
            elif finding.statement in STRICTER and not self.strict:
                row.weaker.append(finding)
            else:
                row.broken.append(finding)

    @property
    def exit_code(self) -> int:
        if any(row.broken for row in self.rows.values()):
            return BROKEN
        return NOT_ENOUGH if self.not_enough or not self.rows else HELD

    def write(self, directory: Path) -> None:
        """`results.json`, `junit.xml` and `report.html` under `directory`."""
        directory.mkdir(parents=True, exist_ok=True)
        rows = [
            {**place._asdict(), "verdict": row.verdict, "judged": row.judged, "allowed": row.allowed, "broken": len(row.broken),
             "weaker": len(row.weaker), "examples": [asdict(finding) for finding in (row.broken or row.weaker)[:EXAMPLES_MAX]]}
            for place, row in sorted(self.rows.items(), key=_order)]
        (directory / "results.json").write_text(json.dumps(
            {"seed": self.seed, "target": self.target, "strict": self.strict, "exit_code": self.exit_code,
             "seconds": round(time.time() - self.started, 1), "rows": rows, "figures": self.figures, "not_enough": self.not_enough,
             "not_run": self.not_run, "unchecked": self.unchecked, "again": self.again, "kept": [asdict(kept) for kept in self.kept],
             "timelines": self.timelines, "coverage": self.coverage}, indent=1) + "\n")
        self._write_junit(directory / "junit.xml")
        from chaos.html.report import write as write_page

        write_page(self, directory)

    def _write_junit(self, path: Path) -> None:
        """A test case for each row, and a skipped one for each thing that was not run."""
        suites = ElementTree.Element("testsuites")
        suite = ElementTree.SubElement(
            suites, "testsuite", name="refbroker-chaos", tests=str(len(self.rows) + len(self.not_run)), skipped=str(len(self.not_run)),
            failures=str(sum(bool(row.broken) for row in self.rows.values())))
        for place, row in sorted(self.rows.items(), key=_order):
            case = ElementTree.SubElement(suite, "testcase", classname=f"chaos.{place.layer}.{place.fault}",
                                          name=f"{place.label} {place.policy}")
            if row.broken:
                failure = ElementTree.SubElement(case, "failure", message=f"broken {len(row.broken)} times, seed {self.seed}")
                failure.text = _printable("\n".join(finding.evidence for finding in row.broken[:EXAMPLES_MAX]))
        for line in self.not_run:
            case = ElementTree.SubElement(suite, "testcase", classname="chaos.not_run", name=_printable(line.partition(":")[0]))
            ElementTree.SubElement(case, "skipped", message=_printable(line))
        ElementTree.indent(suites)
        ElementTree.ElementTree(suites).write(path, encoding="utf-8", xml_declaration=True)

    def _table(self, layer: str):
        """Statements by policies. Neighbouring statements that read the same share a line, so that it stays a page."""
        from rich.markup import escape
        from rich.table import Table

        rows = {key: row for key, row in sorted(self.rows.items(), key=_order) if key[0] == layer}
        policies = sorted({key[2] for key in rows})
        table = Table(title=f"{layer} layer, by statement: judged, (+ losses that the contract allows)", title_justify="left")
        table.add_column("fault", no_wrap=True)
        table.add_column("statements", max_width=46)
        for policy in policies:
            table.add_column(escape(policy), no_wrap=True)
        cells: dict[tuple[str, str], dict[str, str]] = {}
        for place, row in rows.items():
            cells.setdefault((place.fault, place.label), {})[place.policy] = _cell(row)
        lines: dict[tuple[str, tuple[str, ...]], list[str]] = {}
        for (fault, statement), found in cells.items():
            lines.setdefault((fault, tuple(found.get(policy, "") for policy in policies)), []).append(statement)
        for (fault, found), statements in lines.items():
            table.add_row(fault, " ".join(statements), *found)
        return table

    def print(self, console) -> None:
        """The verdict table of each layer, the figures, and what broke, on a rich console."""
        from rich.markup import escape

        for layer in dict.fromkeys(key[0] for key in self.rows):
            console.print(self._table(layer))
        for figures in self.figures:
            console.print("  ".join(f"{name} {value}" for name, value in figures.items()), highlight=False, markup=False)
        for place, row in sorted(self.rows.items(), key=_order):
            verdict = "[bold red]BROKEN[/]" if row.broken else "[bold yellow]weaker than refbroker's contract[/]"
            for finding in (row.broken or row.weaker)[:EXAMPLES_MAX]:
                where = f"{finding.topic}-{finding.partition} at {finding.offset}" if finding.topic else ""
                console.print(f"{verdict} {place.label} ({place.layer}, {place.fault}, {escape(place.policy)}) {finding.anomaly}: {where} "
                              f"{escape(finding.evidence)}", highlight=False)
        for kept in self.kept:
            console.print(f"kept for {kept.layer}, {kept.policy}, {kept.fault}: {kept.directory}; again: {kept.replay}",
                          highlight=False, markup=False)
        for line in self.not_run:
            console.print(f"not run: {line}", highlight=False, markup=False)
        for reason, numbers in by_reason(self.unchecked).items():
            console.print(f"not checked, {reason}: {' '.join(numbers)}", highlight=False)
        for line in self.not_enough:
            console.print(f"[bold yellow]not enough evidence[/]: {escape(line)}", highlight=False)


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if row.broken:
        return f"[bold red]BROKEN {len(row.broken)}[/] of {row.judged}"
    if row.weaker:
        return f"[yellow]weaker {len(row.weaker)}[/] of {row.judged}"
    return f"[green]held[/] {row.judged}" + (f" (+{row.allowed} allowed)" if row.allowed else "")


def _printable(text: str) -> str:
    """Without what XML cannot hold."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)


def _order(item: tuple[Place, Row]) -> tuple:
    place = item[0]
    family, _, number = place.statement.partition(".")
    return place.layer, place.fault, family, int(number) if number.isdigit() else 0, place.acks, place.policy
