"""`refbroker bench [--against kafka] [--quick]`: machine facts, then one table, alternating rounds, medians, ratios."""

import json
import platform
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import click

from chaos.bench import machine

KAFKA_HEAP = ("-Xms1g", "-Xmx1g", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35",
              "-XX:+ExplicitGCInvokesConcurrent", "-Djava.awt.headless=true")  # Kafka's own start script, with its heap
OURS = "refbroker"


@click.command()
@click.option("--against", type=click.Choice(["kafka"]), help="the peer, on the same work, in alternating rounds (needs JDK and Maven)")
@click.option("--quick", is_flag=True, help="a tenth of the work, one round less")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="rounds of each workload")
@click.option("--only", help="workloads whose name contains this text")
@click.option("--crowd", is_flag=True, help="instead: 1,000 connections, 1,000 partitions, clients at work")
@click.option("--json", "json_path", type=click.Path(path_type=Path), default=Path("build/bench/results.json"), show_default=True)
def bench(against: str | None, quick: bool, rounds: int, only: str | None, crowd: bool, json_path: Path) -> None:
    """How fast is it on this machine, and against Apache Kafka?"""
    if crowd:
        from chaos.bench.crowd import crowd as measure_crowd

        for name, value in measure_crowd().items():
            click.echo(f"{name:44} {value:,.2f}" if value < 100 else f"{name:44} {value:,.0f}")
        return
    scale, rounds = (0.12, max(1, rounds - 1)) if quick else (1.0, rounds)
    scratch = Path(tempfile.mkdtemp(prefix="refbroker-bench-"))
    try:
        facts = {"python": platform.python_version(), **machine.facts(str(scratch), quick=quick)}
        for name, value in facts.items():
            click.echo(f"{name:32} {value}")
        results = _measure(against, scale, rounds, only, scratch)
        table = _table(results, against)
        click.echo("\n" + table)
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps({"machine": facts, "scale": scale, "rounds": rounds, "results": results}, indent=1) + "\n")
        json_path.with_suffix(".md").write_text("\n".join(f"- {k}: {v}" for k, v in facts.items()) + "\n\n" + table + "\n")
        click.echo(f"\nwritten to {json_path} and {json_path.with_suffix('.md')}")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _makers(against: str | None):
    from chaos.targets import Kafka, Refbroker
    from chaos.targets.kafka import fetch_kafka

    # One internal partition each, so that neither pays for fifty; nothing else differs from the defaults.
    same = {"offsets.topic.num.partitions": "1", "log.segment.bytes": str(1 << 30)}
    makers = {OURS: lambda directory: Refbroker(str(directory), properties=same)}
    if against == "kafka":
        fetch_kafka()
        makers["kafka"] = lambda directory: Kafka(str(directory), properties=same, jvm_flags=KAFKA_HEAP)
    return makers


def _measure(against: str | None, scale: float, rounds: int, only: str | None, scratch: Path) -> list[dict]:
    from chaos.bench.workloads import WORKLOADS, start_and_recovery
    from chaos.targets import TargetError

    try:
        makers = _makers(against)
    except TargetError as error:
        raise click.ClickException(f"cannot measure against {against}: {error}") from None
    results: list[dict] = []
    if not only or only in "start, memory, recovery":
        for _ in range(rounds):
            for name, make in makers.items():
                _progress(f"start, memory, recovery: {name}")
                _note(results, "start, memory, recovery", False, name, start_and_recovery(make, scratch / f"{name}-alone", scale))
    targets = {name: make(scratch / name) for name, make in makers.items()}
    try:
        for target in targets.values():
            target.start()
        for workload in WORKLOADS:
            if only and only not in workload.name:
                continue
            for number in range(rounds):
                for name, target in targets.items():
                    _progress(f"{workload.name}: {name}, round {number + 1} of {rounds}")
                    _note(results, workload.name, workload.higher, name, workload.figure(target, scale))
        for name, target in targets.items():
            _note(results, "memory after all of this", False, name, {"MiB": machine.memory_mib(target.pid)})
    finally:
        for target in targets.values():
            target.stop()
    return results


def _note(results: list[dict], workload: str, higher: bool, target: str, figures: dict[str, float]) -> None:
    for figure, value in figures.items():
        key = {"workload": workload, "figure": figure, "higher_is_better": higher}
        row = next((row for row in results if {k: row[k] for k in key} == key), None)
        if row is None:
            results.append(row := {**key, "values": {}})
        row["values"].setdefault(target, []).append(value)


def _table(results: list[dict], against: str | None) -> str:
    """A Markdown table: medians, (lowest to highest), and how many times the peer's figure ours is."""
    lines = ["| Workload | Figure | refbroker |" + (f" {against} | ratio |" if against else ""),
             "|---|---|---|" + ("---|---|" if against else "")]
    for row in results:
        cells = [row["workload"], row["figure"], _cell(row["values"][OURS])]
        if against:
            peer = row["values"][against]
            cells += [_cell(peer), f"{statistics.median(row['values'][OURS]) / statistics.median(peer):.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    def show(value: float) -> str:
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"

    middle = show(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({show(min(values))} to {show(max(values))})"


def _progress(text: str) -> None:
    click.echo(f"\r{text:78}" if sys.stderr.isatty() else text, nl=not sys.stderr.isatty(), err=True)
