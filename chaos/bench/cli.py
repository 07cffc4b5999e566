"""`refbroker bench [--against kafka] [--quick]`: machine facts, then one table; how it is measured is in `rounds.py`."""

import shlex
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import click

from chaos.bench import machine, report

ROOT = Path(__file__).resolve().parents[2]


@click.command()
@click.option("--against", type=click.Choice(["kafka"]), help="the peer, on the same work, in alternating rounds (needs JDK and Maven)")
@click.option("--quick", is_flag=True, help="shorter rounds, and two of them")
@click.option("--rounds", type=click.IntRange(min=1), help="rounds of each workload [default: 3]")
@click.option("--only", help="workloads whose name contains this text")
@click.option("--crowd", is_flag=True, help="instead: 1,000 connections, 1,000 partitions, clients at work")
@click.option("--profile", is_flag=True, help="instead: flame graphs of the three hottest workloads (needs py-spy)")
@click.option("--cores", is_flag=True, help="instead: one broker process for each core, a sketch")
@click.option("--readme", is_flag=True, help="put the table into README.md")
@click.option("--json", "json_path", type=click.Path(path_type=Path), default=Path("build/bench/results.json"), show_default=True)
def bench(against: str | None, quick: bool, rounds: int | None, only: str | None, crowd: bool, profile: bool, cores: bool,
          readme: bool, json_path: Path) -> None:
    """How fast is it on this machine, and against Apache Kafka?"""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever stops it early is not left with two brokers
    began = time.monotonic()
    scratch = Path(tempfile.mkdtemp(prefix="refbroker-bench-"))
    try:
        if crowd:
            from chaos.bench.crowd import crowd as measure_crowd

            _show(measure_crowd())
        elif profile:
            from chaos.bench.profile import profile as make_profiles

            for line in make_profiles(scratch, json_path.parent, told=_progress):
                click.echo(line)
        elif cores:
            from chaos.bench.sketch_cores import sketch

            _show(sketch(scratch, told=_progress))
        else:
            _run(against, quick, rounds or (2 if quick else 3), only, readme, json_path, scratch)
        click.echo(f"took {time.monotonic() - began:.0f} s")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _show(figures: dict[str, float]) -> None:
    for name, value in figures.items():
        click.echo(f"{name:60} {value:,.2f}" if value < 100 else f"{name:60} {value:,.0f}")


def _run(against: str | None, quick: bool, rounds: int, only: str | None, readme: bool, json_path: Path, scratch: Path) -> None:
    _progress("machine facts")
    facts = machine.facts(str(scratch), quick=quick)
    for name, value in machine.describe(facts).items():
        click.echo(f"{name:36} {value}")
    rows, missing = _measure(against, quick, rounds, only, scratch, facts)
    if not rows:
        raise click.ClickException(f"no workload has {only!r} in its name" if not missing else f"nothing was run: {missing}")
    told = report.notes(rows, missing, rounds)
    click.echo("\n" + report.table(rows, against) + "\n\n" + "\n".join(told))
    if against:
        click.echo(report.verdict(rows, against))
    command = shlex.join(["refbroker", *sys.argv[1:]])
    text = report.markdown(facts, rows, against, told, command)
    json_path.parent.mkdir(parents=True, exist_ok=True)
    extra = {"command": command, "quick": quick, "rounds": rounds}
    json_path.write_text(report.as_json(facts, rows, against, missing, extra))
    json_path.with_suffix(".md").write_text(text)
    click.echo(f"written to {json_path} and {json_path.with_suffix('.md')}")
    if readme:
        report.put_into_readme(ROOT / "README.md", text)


def _measure(against: str | None, quick: bool, rounds: int, only: str | None, scratch: Path, facts: machine.Facts):
    """(rows, {workload that could not be run: why})."""
    from chaos.bench import alone
    from chaos.bench import rounds as method
    from chaos.bench.brokers import makers as make_makers
    from chaos.bench.goals import LOADED
    from chaos.bench.workloads import WORKLOADS
    from chaos.targets import NotAvailable, TargetError

    try:
        makers = make_makers(against)
    except TargetError as error:
        raise click.ClickException(f"cannot measure against {against}: {error}") from None
    chosen = [workload for workload in WORKLOADS if not only or only in workload.name]
    limits = method.client_limits(chosen, 0.4 if quick else 0.8, _progress)
    rows, missing = [], {}
    if not only or any(only in name for name in (alone.START, alone.IDLE, alone.RECOVERY, alone.CROWD)):
        rows += alone.measure(makers, scratch, rounds, 256 if quick else 1024, facts, _progress)
        if not any(row.workload == alone.RECOVERY for row in rows):
            missing[alone.RECOVERY] = "not to be told from the start itself on this busy machine"
    sides = {name: make(scratch / name) for name, make in makers.items()} if chosen else {}
    try:
        for name, side in sides.items():
            _progress(f"starting {name}")
            side.target.start()
        method.warm_up(sides, 0.5 if quick else 3.0, _progress)
        for workload in chosen:
            try:
                rows += method.measure(workload, sides, rounds, 0.7 if quick else 1.6, _progress, method.repeats_left(rows))
            except NotAvailable as why:
                missing[workload.name] = str(why)
        memory = {name: machine.memory_mib(side.pid) for name, side in sides.items()}
        peak = {name: machine.memory_mib(side.pid, "VmHWM") for name, side in sides.items()}
        if sides:
            rows += [method.Row(LOADED, figure, False, {name: [value] for name, value in values.items()})
                     for figure, values in (("MiB", memory), ("peak MiB", peak))]
    finally:
        for side in sides.values():
            side.target.stop()
    method.add_limits(rows, facts, limits)
    return rows, missing


def _progress(text: str) -> None:
    click.echo(f"\r{text:100}" if sys.stderr.isatty() else text, nl=not sys.stderr.isatty(), err=True)
