"""How does the lab look for a bug that it knows nothing about, in a minute?

Run in the planted tree, as a process of its own: `python -m chaos.mutants.hunt --seconds 60 --seed 1 --for C1.3,C1.6`. It prints one JSON
object. Time is the processor's, so that the verdict does not depend on what else runs. None of the steps depends on the mutant.
They come from three sources, which get the same time each:

1. every word of length 0 and 1, from every start, under every policy: a glimpse of the states of the weakest disk; the same with
   more states; the same on all disks, with many states and with crashes inside recovery;
2. every kind of file decays, and every call to the disk fails once;
3. a glimpse of every word of length 2 on a fresh disk; then random longer words from every start, until the time is over.

What is exhaustive comes in an order that the seed shuffles.

It ends at the first step that shows one of the statements asked for. What else was broken on the way is told too. An exception that no
client could have caused is a finding of its own kind, "exception". With `--plans DIR` it goes on until the statement fell to a crash
(the second source is left out), which it shrinks and writes down: `DIR/plan.json`, `story.txt`, `page.html`.
"""

import argparse
import json
import logging
import random
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain, product
from pathlib import Path
from typing import NamedTuple

from chaos import plan
from chaos.disk import errors, small, workloads
from chaos.disk.driver import POLICIES
from chaos.disk.faults import CALLS, Fault
from chaos.disk.lab import Failure, Lab, Limits
from chaos.disk.profiles import WEAKEST
from chaos.html.story import render
from chaos.shrink import shrink

GLIMPSE = Limits(24, 0, (WEAKEST,), share=0.03)
QUICK = Limits(24, 0, (WEAKEST,), share=0.15)
THOROUGH = Limits(200, 16)
LATER = Limits(40, 64, (WEAKEST,), share=0.3)
POLICY_ORDER = ("P3", "P0", "P1", "P2")
WALK_LENGTHS = (2, 2, 3, 4, 5)
EXCEPTION = "exception"


class Broken(NamedTuple):
    """A statement that fell. `failure` is the crash that did it, where it was one."""

    statement: str
    text: str
    failure: Failure | None = None


Found = list[Broken]


def steps(seed: int, crashes_only: bool = False) -> Iterator[tuple[str, Found]]:
    """(what was done, what was broken), for ever."""
    letters = chain.from_iterable(_letters(seed, limits) for limits in (GLIMPSE, QUICK, THOROUGH))
    words = chain(_pairs(seed), _walks(seed))
    yield from _in_turn(letters, words) if crashes_only else _in_turn(letters, _errors(seed), words)


def _in_turn(*sources: Iterator) -> Iterator:
    """Steps of all, each source getting the same time."""
    spent = dict.fromkeys(sources, 0.0)
    while spent:
        source = min(spent, key=spent.get)
        began = time.process_time()
        entry = next(source, None)
        if entry is None:
            del spent[source]
        else:
            spent[source] += time.process_time() - began
            yield entry


def _letters(seed: int, limits: Limits) -> Iterator[tuple[str, Found]]:
    lab_for = _labs(seed, limits)
    chosen = list(product(((), *workloads.words(1)), workloads.STARTS, POLICY_ORDER))
    random.Random(seed).shuffle(chosen)
    for word, start, name in chosen:
        yield _explore(lab_for(name, start), word, start)


def _labs(seed: int, limits: Limits) -> Callable[[str, str], Lab]:
    """The lab for a policy and a start: one for all starts with the same constants."""
    labs: dict[tuple, Lab] = {}

    def lab_for(name: str, start: str) -> Lab:
        constants = workloads.constants_of(start)
        key = name, *constants
        if key not in labs:
            labs[key] = Lab(POLICIES[name], seed, limits, constants)
        return labs[key]

    return lab_for


def _pairs(seed: int) -> Iterator[tuple[str, Found]]:
    labs = {name: Lab(POLICIES[name], seed, GLIMPSE) for name in POLICY_ORDER}
    chosen = list(product(workloads.words(2), POLICY_ORDER))
    random.Random(seed).shuffle(chosen)
    for word, name in chosen:
        yield _explore(labs[name], word, "fresh")


def _walks(seed: int) -> Iterator[tuple[str, Found]]:
    rng = random.Random(seed)
    lab_for = _labs(seed, LATER)
    letters, starts = list(workloads.ALPHABET), list(workloads.STARTS)
    while True:
        name, start = rng.choice(POLICY_ORDER), rng.choice(starts)
        lab = lab_for(name, start)
        word: tuple[str, ...] = ()
        for _ in range(rng.choice(WALK_LENGTHS)):  # letters that make no sense where they come are left out
            letter = rng.choice(letters)
            if lab.play((*word, letter), start)[0] is not None:
                word = (*word, letter)
        yield _explore(lab, word, start)


def _explore(lab: Lab, word: tuple[str, ...], start: str) -> tuple[str, Found]:
    seen = len(lab.tally.failures)
    what = f"{lab.policy.name} {start}: {' '.join(word) or '(start)'}"
    try:
        lab.explore(word, start)
    except Exception as error:
        return what, [Broken(EXCEPTION, f"{type(error).__name__}: {error}")]
    return what, [Broken(failure.problem.statement, f"{failure.fault}, disk {failure.disk}{', inside recovery' if failure.nested else ''}: "
                         f"{failure.problem.text}", failure) for failure in lab.tally.failures[seen:]]


def _errors(seed: int) -> Iterator[tuple[str, Found]]:
    for policy, constants in product(("P3", "P0"), (small.USUAL, small.SMALL)):
        try:
            yield f"{policy} decay", _findings(errors.decay(policy, constants=constants))
        except Exception as error:
            yield f"{policy} decay", [Broken(EXCEPTION, f"{type(error).__name__}: {error}")]
    chosen = list(product(CALLS, ("P3", "P0")))
    random.Random(seed).shuffle(chosen)
    for kind, policy in chosen:
        for lasting in (False, True):
            for nth in range(1, errors.NTH_MAX):
                outcome = errors.SweepOutcome(policy, "F3", kind, errors.errors.STATEMENTS)
                struck = _struck(outcome, Fault(kind, nth, lasting))
                yield f"{policy} {kind} {nth}", _findings(outcome)
                if not struck:
                    break


def _struck(outcome: errors.SweepOutcome, fault: Fault) -> bool:
    try:
        with small.applied(small.USUAL):
            return errors.strike(outcome, fault)
    except Exception as error:
        outcome.findings.append(errors.Finding(EXCEPTION, "broken", "", -1, -1, f"{fault}: {type(error).__name__}: {error}"))
        return True


def _findings(outcome: errors.SweepOutcome) -> Found:
    return [Broken(finding.statement, finding.evidence) for finding in outcome.findings]


def hunt(seconds: float, seed: int, wanted: frozenset[str], plans: Path | None = None) -> dict:
    """Until one of `wanted` falls (any, where it is empty), or the time is over."""
    began = time.process_time()
    others: dict[str, str] = {}
    done, hit = 0, None
    for what, found in steps(seed, crashes_only=plans is not None):
        done += 1
        for broken in found:
            others.setdefault(broken.statement, f"{what}: {broken.text}")
        hits = [broken for broken in found if broken.statement in wanted or (not wanted and broken.statement != EXCEPTION)]
        hit = next((broken for broken in hits if plans is None or _written(broken, seed, plans)), None)
        if hit or time.process_time() - began > seconds:
            break
    return {"killed": hit and hit.statement, "seconds": round(time.process_time() - began, 1), "steps": done, "found": others}


def _written(broken: Broken, seed: int, directory: Path) -> bool:
    """Shrink the failure and write it down; False where it is not one that a plan describes, and another may be."""
    if broken.failure is None or broken.failure.nested:
        return False
    least = shrink(plan.plan_of(broken.failure, seed))
    if not least["problems"]:
        return False
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "plan.json"
    path.write_text(plan.text_of(least))
    result = plan.replay(plan.load(path))
    (directory / "story.txt").write_text(result.story())
    (directory / "page.html").write_text(render(result, path.name))
    return True


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--for", dest="wanted", default="")
    parser.add_argument("--plans", type=Path)
    arguments = parser.parse_args()
    import refbroker

    logging.disable(logging.CRITICAL)  # what recovery warns of is the lab's daily bread
    result = hunt(arguments.seconds, arguments.seed, frozenset(filter(None, arguments.wanted.split(","))), arguments.plans)
    json.dump(result | {"tree": refbroker.__path__[0]}, sys.stdout)


if __name__ == "__main__":
    main()
