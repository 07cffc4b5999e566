"""The command line of the lab: `refbroker-chaos run | ...`. Exit codes of every command: 0 all held, 1 a statement is broken,
2 not enough evidence, 64 usage, 70 an error of the lab itself."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import click

from chaos import contract, leftovers
from chaos.mutants.cli import mutants

NOT_ENOUGH, USAGE, INTERNAL = 2, 64, 70
LAYERS = {"disk": 0.48, "process": 0.2, "device": 0.12, "network": 0.1, "composed": 0.1}  # and their shares of the time
ON_REQUEST = {"machine": 0.5}  # layers that run only where --layers names them
DEFAULT_MINUTES = 4.0


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """What does a Kafka-style log still owe you after a crash? Break one and see."""


@cli.command()
@click.option("--layers", default=",".join(LAYERS), show_default=True, help=f"which layers, separated by commas; besides these: {', '.join(ON_REQUEST)}")
@click.option("--seed", type=int, help="makes the same plan again; drawn and printed if not given")
@click.option("--minutes", type=click.FloatRange(min=0.5), default=DEFAULT_MINUTES, show_default=True, help="time for all layers")
@click.option("--depth", type=click.IntRange(1, 4), help="longest exhaustive workload (disk layer); if given, all words up to it come first")
@click.option("--workers", default="2", show_default=True, help="processes, or dask://HOST:PORT (disk layer)")
@click.option("--sweep", is_flag=True, help="process layer: instead, SIGKILL at every system call, to the end (other targets: at every second, fourth ...)")
@click.option("--errors", is_flag=True, help="process layer: instead, errors at every system call, and full disks")
@click.option("--target", default="refbroker", show_default=True,
              help="refbroker, kafka, or a .toml file (chaos/targets); for others the disk layer does not apply")
@click.option("--bootstrap-server", metavar="HOST:PORT", help="instead: a broker that runs already; network and client faults only")
@click.option("--stricter/--no-stricter", default=None,
              help="whether statements that are stricter than Kafka can be broken; by default only for refbroker")
@click.option("--rules", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="network layer: instead, these rules for producers with and without idempotence (chaos/network/examples)")
@click.option("--plan", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="composed layer: instead, this plan of faults (chaos/composed/plan.py)")
@click.option("--out", type=click.Path(path_type=Path), default=Path("build/chaos"), show_default=True, help="where reports go")
def run(layers: str, seed: int | None, minutes: float, depth: int | None, workers: str, sweep: bool, errors: bool, target: str,
        bootstrap_server: str | None, stricter: bool | None, rules: Path | None, plan: Path | None, out: Path) -> None:
    """Run the layers, judge everything by the contract, print the verdict table."""
    if bootstrap_server:
        _address(bootstrap_server)
        target, layers = f"bootstrap={bootstrap_server}", "network"
    layers = "composed" if plan else layers
    asked = dict.fromkeys(layer.strip() for layer in layers.split(",") if layer.strip())
    chosen = [layer for layer in asked if layer != "disk" or target == "refbroker"]
    if unknown := [layer for layer in chosen if layer not in LAYERS | ON_REQUEST]:
        raise click.UsageError(f"no layer {unknown[0]!r}; there are: {', '.join(LAYERS | ON_REQUEST)}")
    from chaos.html import github
    from chaos.report import Report

    try:
        out.mkdir(parents=True, exist_ok=True)  # before minutes of work, not behind them
    except OSError as error:
        raise click.UsageError(f"--out: {error}") from None
    seed = seed if seed is not None else int.from_bytes(os.urandom(4), "big")
    console, report = _console(), Report(seed, _again(layers, seed, minutes, depth, target, sweep, errors, rules, plan), target=target)
    report.strict = target == "refbroker" if stricter is None else stricter
    report.unchecked = contract.unjudged()
    report.not_run += [f"{layer}: it has refbroker's code on a simulated disk" for layer in asked if layer not in chosen]
    left = list(chosen)
    console.print(f"seed {seed}: {report.again}", highlight=False)
    for line in leftovers.sweep():
        console.print(f"left by an earlier run that died: {line}", highlight=False, markup=False)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a CI that runs out of time gets its report, too
    try:
        for layer in chosen:
            seconds = _seconds(layer, chosen, minutes, depth)
            progress = Progress(console, layer)
            if layer == "disk":
                _run_on_simulated_disk(report, seed, seconds, depth, workers, out, progress)
            else:
                _run_on_broker(layer, report, seed, seconds, out / layer, progress, target, sweep, errors, rules, plan)
            progress.done()
            left.remove(layer)
    except KeyboardInterrupt:
        report.not_enough.append("interrupted: this is the report of what was done so far")
    except BaseException as error:
        report.not_enough.append(f"broken off, {type(error).__name__}: {error}: this is the report of what was done so far")
        raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):  # the second Ctrl-C must not cost the report
            signal.signal(number, signal.SIG_IGN)
        leftovers.end()
        report.not_run += [f"{layer}: not to its end" for layer in left]
        try:
            report.write(out)
        finally:
            report.print(console)
        github.tell(report, os.environ)
        console.print(f"seed {seed}; {time.time() - report.started:.0f} s; reports in {out}/ (report.html, results.json, junit.xml); "
                      f"exit {report.exit_code}", highlight=False)
    sys.exit(report.exit_code)


def _again(layers: str, seed: int, minutes: float, depth: int | None, target: str, sweep: bool, errors: bool, rules: Path | None,
           plan: Path | None) -> str:
    """The command that makes the same run."""
    name, address = target.partition("=")[::2]
    at = "" if target == "refbroker" else f" --bootstrap-server {address}" if name == "bootstrap" else f" --target {target}"
    at += " --sweep" * sweep + " --errors" * errors + (f" --rules {rules}" if rules else "") + (f" --plan {plan}" if plan else "")
    if layers == ",".join(LAYERS) and not at:
        return f"make chaos SEED={seed} MINUTES={minutes:g}" + (f" DEPTH={depth}" if depth else "")
    return f"refbroker-chaos run --layers {layers}{at} --seed {seed} --minutes {minutes:g}" + (f" --depth {depth}" if depth else "")


def _seconds(layer: str, chosen: list[str], minutes: float, depth: int | None) -> float:
    """A layer's share of the time. Where a depth was asked for, the disk layer has what the others do not need: they get as much as in
    a usual run."""
    shares = LAYERS | ON_REQUEST

    def share(each: str, minutes: float) -> float:
        return minutes * 60 * shares[each] / sum(shares[every] for every in chosen)

    if depth is None or "disk" not in chosen:
        return share(layer, minutes)
    others = {each: share(each, min(minutes, DEFAULT_MINUTES)) for each in chosen if each != "disk"}
    return others.get(layer, minutes * 60 - sum(others.values()))


def _console():
    from rich.console import Console

    class Lines(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich leaves with 1, which is a verdict here

    console = Lines(soft_wrap=True)
    return console if console.is_terminal else Lines(soft_wrap=True, width=160)  # a file or a CI log has no width of its own


def _run_on_simulated_disk(report, seed: int, seconds: float, depth: int | None, workers: str, out: Path, progress) -> None:
    from chaos.disk.cluster import NoWorkers
    from chaos.disk.run import run as run_disk

    try:
        run_disk(report, seed, seconds, depth=depth, workers=workers, out=out, progress=progress)
    except NoWorkers as error:
        raise click.UsageError(f"--workers: {error}") from None


def _run_on_broker(layer: str, report, seed: int, seconds: float, scratch: Path, progress, target: str,
                   sweep: bool, errors: bool, rules: Path | None, plan: Path | None) -> None:
    """The layers that need a running broker. What a broken statement left in `scratch` is kept for whoever looks."""
    from chaos.composed import layer as composed
    from chaos.device import layer as device
    from chaos.machine import layer as machine
    from chaos.network import layer as network
    from chaos.network.rules import BadRule
    from chaos.plan import BadPlan
    from chaos.process import errors as failing
    from chaos.process import layer as process
    from chaos.process import sweep as sweeping
    from chaos.process.evidence import verdict_of
    from chaos.process.observe import NoAnswer
    from chaos.targets import TargetError

    try:
        if layer == "network":
            network.run(report, seed, seconds, scratch, progress, target, rules)
        elif layer == "device":
            device.run(report, seed, seconds, scratch, progress, target)
        elif layer == "composed":
            composed.run(report, seed, seconds, scratch, progress, target, plan)
        elif layer == "machine":
            machine.run(report, seed, seconds, scratch, progress, target)
        elif sweep:
            sweeping.run(report, seconds if target != "refbroker" else None, scratch, progress, target)
        elif errors:
            failing.run(report, scratch, progress, target, seconds=seconds if target != "refbroker" else None, seed=seed)
        else:
            process.run(report, seed, seconds, scratch, progress, target)
    except BadRule as error:
        raise click.UsageError(f"{rules}: {error}") from None
    except BadPlan as error:
        raise click.UsageError(f"{plan}: {error}") from None
    except (TargetError, NoAnswer) as error:
        if finding := verdict_of(error):
            report.judge(layer, target, "F1", [finding.statement], [finding])
        else:
            report.not_run.append(f"{layer}: {error}")
    if report.exit_code != 1 and not report.kept:
        shutil.rmtree(scratch, ignore_errors=True)


@cli.command()
@click.argument("plan", type=click.Path(exists=True, path_type=Path))
def replay(plan: Path) -> None:
    """Follow PLAN and tell its story: what was asked, lost, recovered and owed. 0: all held, 1: a statement broke.

    A directory that a broken statement of a real broker left (build/chaos/process/...) is recovered and judged again.
    """
    if plan.is_dir():
        _judged_again(plan)
    result = _replayed(plan, "replay")
    click.echo(result.story(), nl=False)
    click.echo("\nThe crashed image and what broke are " + ("just as" if result.as_written else "not as") + " the plan says.")
    sys.exit(1 if result.broken else 0)


@cli.command()
@click.argument("plan", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--html", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="also draw it, as one page")
def explain(plan: Path, html: Path | None) -> None:
    """The story of PLAN in words, and as a page: time line, bytes, recovery."""
    result = _replayed(plan, "explain", *(["--html", str(html)] if html else []))
    click.echo(result.story(), nl=False)
    if html:
        from chaos.html.story import render

        if "layer" in result.plan:
            raise click.UsageError(f"{plan} is of a whole broker: pages are drawn of plans of the log alone")
        html.write_text(render(result, str(plan)))
        click.echo(f"\ndrawn in {html}")


def _judged_again(place: Path) -> None:
    from chaos.process import evidence
    from chaos.process.observe import NoAnswer
    from chaos.targets import TargetError

    try:
        details, findings = evidence.judge_again(place)
    except (evidence.NoCase, TargetError, NoAnswer) as error:
        if finding := evidence.verdict_of(error):
            click.echo(f"BROKEN {finding.statement} {finding.anomaly}: {finding.evidence}")
            sys.exit(1)
        raise click.UsageError(str(error)) from None
    broken = [finding for finding in findings if not finding.allowed]
    click.echo(f"{details['target']} has recovered {place}/crashed; {len(findings) - len(broken)} losses that the contract allows.")
    for finding in broken:
        where = f" {finding.topic}-{finding.partition} at {finding.offset}" if finding.topic else ""
        click.echo(f"BROKEN {finding.statement} {finding.anomaly}:{where} {finding.evidence}")
    again = {(finding.statement, finding.anomaly) for finding in broken}
    gone = [f"{each['statement']} {each['anomaly']}" for each in details["found"] if (each["statement"], each["anomaly"]) not in again]
    click.echo(f"not found this time: {', '.join(dict.fromkeys(gone))}" if gone else "All that was found then was found again.")
    sys.exit(1 if broken else 0)


def _replayed(path: Path, command: str, *options: str):
    """What comes of the plan. One of a planted bug is followed where the bug is: by this command, in a copy of the tree with it."""
    from chaos import plan
    from chaos.mutants import catalogue, trees

    try:
        written = plan.load(path)
        name = written.get("mutant")
        if name == trees.planted_here():
            return plan.replay(written)
        with trees.planted_tree(catalogue.named(name)) as tree:
            sys.exit(subprocess.call(trees.command("chaos.cli", command, *options, path), env=trees.environment(tree)))
    except (plan.BadPlan, catalogue.Misplaced) as error:
        raise click.UsageError(f"{path}: {error}") from None


@cli.command()
@click.option("--upstream", required=True, metavar="HOST:PORT", help="the broker")
@click.option("--listen", default="127.0.0.1:0", show_default=True, metavar="HOST:PORT", help="where clients connect")
@click.option("--rules", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="TOML, see chaos/network/rules.py")
def proxy(upstream: str, listen: str, rules: Path | None) -> None:
    """A Kafka-aware proxy: loses replies, delays, duplicates, resets, by rule. Ctrl-C ends it."""
    import asyncio

    from chaos.network.proxy import Proxy
    from chaos.network.rules import BadRule, parse_rules

    try:
        where = Proxy(_address(upstream), parse_rules(rules.read_text()) if rules else [])
    except BadRule as error:
        raise click.UsageError(f"{rules}: {error}") from None

    async def serve() -> None:
        host, port = await where.start(*_address(listen))
        click.echo(f"proxy ready on {host}:{port} for {upstream}, {len(where.rules)} rules")
        try:
            await asyncio.Event().wait()
        finally:
            await where.stop()
            for rule in where.rules:
                click.echo(f"{rule.action} {rule.api}: matched {rule.matched}, acted {rule.acted}", err=True)

    asyncio.run(serve())


cli.add_command(mutants)


@cli.command()
@click.option("--seconds", type=click.FloatRange(min=0.1), default=4.0, show_default=True, help="processor time for each row")
@click.option("--seed", type=int, default=1, show_default=True, help="decides the words")
@click.option("--json", "as_json", is_flag=True, help="one JSON object a line")
def bench(seconds: float, seed: int, as_json: bool) -> None:
    """How fast the disk layer is: crash states recovered and judged per second and core, by length of words and by profile."""
    from chaos.disk import speed

    if not as_json:
        click.echo("length  profile        words   distinct     judged  CPU s | per second and core: distinct   judged  recoveries")
    for row in speed.measure(seconds, seed):
        if as_json:
            click.echo(json.dumps(row.to_json()))
            continue
        distinct, judged, recoveries = map(row.per_second, (row.distinct, row.judged, row.recoveries))
        click.echo(f"{row.length:6}  {row.profiles:13} {row.words:6} {row.distinct:10,} {row.judged:10,} {row.cpu_seconds:6.1f} |"
                   f"{distinct:29,} {judged:8,} {recoveries:11,}")


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise click.UsageError(f"{text!r} is no HOST:PORT")
    return host, int(port)


class Progress:
    """At most one line a second on a terminal, rewritten in place; a line every five seconds elsewhere."""

    def __init__(self, console, layer: str):
        self._console, self._layer = console, layer
        self._last, self._began = 0.0, time.monotonic()
        self._gap = 1.0 if console.is_terminal else 5.0

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if now - self._last >= self._gap:
            self._last = now
            self._console.print(f"[{now - self._began:5.0f} s] {self._layer}: {text}", highlight=False, markup=False,
                                end="\r" if self._console.is_terminal else "\n")

    def done(self) -> None:
        if self._console.is_terminal:
            self._console.print(" " * 78, end="\r")


def main(args: list[str] | None = None) -> None:
    try:
        cli.main(args=args, standalone_mode=False)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(USAGE)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(130)
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still to be flushed
        sys.exit(NOT_ENOUGH)
    except Exception:
        traceback.print_exc()
        print("refbroker-chaos: an error of the lab itself; the above says where", file=sys.stderr)
        sys.exit(INTERNAL)


if __name__ == "__main__":
    main()
