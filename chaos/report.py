"""What did a chaos run find? One report for all layers: a table on the terminal, a page, JUnit XML and JSON.

A row is (layer, statement, policy, fault). It says how often the statement was judged, how many losses the contract allowed,
and what broke it. A run ends with 0 where all held, 1 where a statement is broken, 2 where the evidence is not enough: nothing
was acked, or a fault that must show never bit (contract S1, S2).
"""

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from chaos.checks.history.case import Finding

HELD, BROKEN, NOT_ENOUGH = 0, 1, 2
EXAMPLES_MAX = 5  # findings of one row that are written out


@dataclass
class Row:
    judged: int = 0
    allowed: int = 0
    broken: list[Finding] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        return "BROKEN" if self.broken else "allowed loss" if self.allowed else "held"


@dataclass
class Report:
    """Everything that the layers of one run have to say. `not_enough` and `not_run` are lines for people; `timelines` as
    chaos/html/chart.py describes them; `coverage` of crash space: {"site", "kind", "deviation", "states"}; `again` the command that
    makes the same run."""

    seed: int
    again: str = ""
    rows: dict[tuple[str, str, str, str], Row] = field(default_factory=dict)
    figures: list[dict] = field(default_factory=list)
    not_enough: list[str] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    timelines: list[dict] = field(default_factory=list)
    coverage: list[dict] = field(default_factory=list)
    started: float = field(default_factory=time.time)

    def judge(self, layer: str, policy: str, fault: str, statements: Iterable[str], findings: Iterable[Finding],
              times: int = 1) -> None:
        """Count `times` judgements of each statement, and what was found against them."""
        findings = list(findings)
        for statement in {*statements, *(finding.statement for finding in findings)}:
            self.rows.setdefault((layer, statement, policy, fault), Row()).judged += times
        for finding in findings:
            row = self.rows[layer, finding.statement, policy, fault]
            if finding.allowed:
                row.allowed += 1
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
            {"layer": layer, "statement": statement, "policy": policy, "fault": fault, "verdict": row.verdict,
             "judged": row.judged, "allowed": row.allowed, "broken": len(row.broken),
             "examples": [asdict(finding) for finding in row.broken[:EXAMPLES_MAX]]}
            for (layer, statement, policy, fault), row in sorted(self.rows.items(), key=_order)]
        (directory / "results.json").write_text(json.dumps(
            {"seed": self.seed, "exit_code": self.exit_code, "seconds": round(time.time() - self.started, 1), "rows": rows,
             "figures": self.figures, "not_enough": self.not_enough, "not_run": self.not_run, "unchecked": self.unchecked,
             "again": self.again, "timelines": self.timelines, "coverage": self.coverage}, indent=1) + "\n")
        suites = ElementTree.Element("testsuites")
        suite = ElementTree.SubElement(suites, "testsuite", name="refbroker-chaos", tests=str(len(rows)),
                                       failures=str(sum(row["broken"] > 0 for row in rows)))
        for row in rows:
            case = ElementTree.SubElement(suite, "testcase", classname=f"chaos.{row['layer']}.{row['fault']}",
                                          name=f"{row['statement']} {row['policy']}")
            if row["broken"]:
                failure = ElementTree.SubElement(case, "failure", message=f"broken {row['broken']} times, seed {self.seed}")
                failure.text = "\n".join(example["evidence"] for example in row["examples"])
        ElementTree.indent(suites)
        ElementTree.ElementTree(suites).write(directory / "junit.xml", encoding="utf-8", xml_declaration=True)
        from chaos.html.report import write as write_page

        write_page(self, directory)

    def _table(self, layer: str):
        """Statements by policies. Neighbouring statements that read the same share a line, so that it stays a page."""
        from rich.table import Table

        rows = {key: row for key, row in sorted(self.rows.items(), key=_order) if key[0] == layer}
        policies = sorted({key[2] for key in rows})
        table = Table(title=f"{layer} layer, by statement: judged, (+ losses that the contract allows)", title_justify="left")
        table.add_column("fault", no_wrap=True)
        table.add_column("statements", max_width=46)
        for policy in policies:
            table.add_column(policy, no_wrap=True)
        cells: dict[tuple[str, str], dict[str, str]] = {}
        for (_, statement, policy, fault), row in rows.items():
            cells.setdefault((fault, statement), {})[policy] = _cell(row)
        lines: dict[tuple[str, tuple[str, ...]], list[str]] = {}
        for (fault, statement), found in cells.items():
            lines.setdefault((fault, tuple(found.get(policy, "") for policy in policies)), []).append(statement)
        for (fault, found), statements in lines.items():
            table.add_row(fault, " ".join(statements), *found)
        return table

    def print(self, console) -> None:
        """The verdict table of each layer, the figures, and what broke, on a rich console."""
        for layer in dict.fromkeys(key[0] for key in self.rows):
            console.print(self._table(layer))
        for figures in self.figures:
            console.print("  ".join(f"{name} {value}" for name, value in figures.items()), highlight=False)
        for (layer, statement, policy, fault), row in sorted(self.rows.items(), key=_order):
            for finding in row.broken[:EXAMPLES_MAX]:
                where = f"{finding.topic}-{finding.partition} at {finding.offset}" if finding.topic else ""
                console.print(f"[bold red]BROKEN[/] {statement} ({layer}, {fault}, {policy}) {finding.anomaly}: {where} "
                              f"{finding.evidence}", highlight=False)
        for line in self.not_run:
            console.print(f"not run: {line}", highlight=False)
        if self.unchecked:
            console.print(f"statements that nothing checks yet: {' '.join(self.unchecked)}", highlight=False)
        for line in self.not_enough:
            console.print(f"[bold yellow]not enough evidence[/]: {line}", highlight=False)


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if row.broken:
        return f"[bold red]BROKEN {len(row.broken)}[/] of {row.judged}"
    return f"[green]held[/] {row.judged}" + (f" (+{row.allowed} allowed)" if row.allowed else "")


def _order(item):
    layer, statement, policy, fault = item[0]
    family, _, number = statement.partition(".")
    return layer, fault, family, int(number) if number.isdigit() else 0, policy
