"""`refbroker-chaos mutants`: is every planted bug found, and nothing harmless flagged? 0: so it is, 1: it is not."""

import os
import signal
import sys
import time
from pathlib import Path

import click

from chaos import leftovers


@click.command()
@click.option("--seconds", type=click.FloatRange(min=1), default=120.0, show_default=True,
              help="processor time for each mutant; with --layers: time of each layer's run")
@click.option("--seed", type=int, default=1, show_default=True, help="decides the order of the hunt")
@click.option("--sample", type=click.IntRange(min=1), help="so many of them, and one harmless change")
@click.option("--pick", type=int, help="decides the sample; drawn and printed if not given")
@click.option("--processes", type=click.IntRange(min=1), default=os.cpu_count() or 1, show_default="one for each core", help="hunts at a time")
@click.option("--out", type=click.Path(path_type=Path), default=Path("build/mutants"), show_default=True, help="where the score goes")
@click.option("--into", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="put the score of all between the markers of this page")
@click.option("--again", is_flag=True, help="hunt only for those that the last run into --out did not have, or had wrong")
@click.option("--plans", type=click.Path(file_okay=False, path_type=Path),
              help="shrink the crash that finds a bug, and write NAME/plan.json, story.txt and page.html there")
@click.option("--layers", help="instead, which of these layers of `run` finds a bug by itself: process,network,device")
@click.argument("names", nargs=-1)
def mutants(seconds: float, seed: int, sample: int | None, pick: int | None, processes: int, out: Path, into: Path | None, again: bool,
            plans: Path | None, layers: str | None, names: tuple[str, ...]) -> None:
    """Plant bugs in the broker, and see whether the lab finds them: all, or those of the NAMES (of mutants or classes)."""
    from chaos.mutants import catalogue, run

    if into and (sample or names or plans or layers):
        raise click.UsageError("--into is for the score of all")
    pick = int.from_bytes(os.urandom(4), "big") if pick is None else pick
    if sample:
        click.echo(f"sample of {sample}: --pick {pick}")
    chosen = run.choose(catalogue.load(), names, sample, pick)
    if not chosen:
        raise click.UsageError(f"no mutant or class is called {', '.join(names)}")
    began = time.monotonic()
    leftovers.sweep()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if layers:
        text, good = _by_layers(chosen, layers.split(","), seconds, seed, out)
    else:
        outcomes = run.run(chosen, seconds=seconds, seed=seed, plans=plans, processes=processes,
                           known=run.read(out) if again else [], say=click.echo)
        how = f"`refbroker-chaos mutants --seconds {seconds:g} --seed {seed}" + (f" --sample {sample} --pick {pick}" if sample else "")
        text = run.summary(outcomes, " ".join([how, *names]) + "`")
        run.write(outcomes, text, out)
        good = all(outcome.good for outcome in outcomes)
        if into and good:
            run.publish(text, into)
    click.echo(f"{text}\n{time.monotonic() - began:.0f} s; {out}/ has the details; exit {0 if good else 1}")
    sys.exit(0 if good else 1)


def _by_layers(chosen: list, names: list[str], seconds: float, seed: int, out: Path) -> tuple[str, bool]:
    from chaos.mutants import layers

    attempts = layers.run([mutant for mutant in chosen if not mutant.is_harmless], names, seconds, seed, out, click.echo)
    missed = layers.missed(attempts)
    text = layers.table(attempts)
    out.mkdir(parents=True, exist_ok=True)
    (out / "layers.md").write_text(text + "\n")
    return text + (f"\nfound by no layer: {', '.join(missed)}" if missed else ""), not missed
