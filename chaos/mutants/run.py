"""How many of the planted bugs does the lab find, how fast, and does it cry wolf?

For each mutant: a copy of the tree with the bug in it, the lab run on it in a process of its own (`hunt.py`, or the test that the
mutant names), until a statement falls that the mutant names, or its time is over.

1. A mutant is killed if a statement that it names fell, or its test failed.
2. It survives if the time is over. What was broken meanwhile that it does not name is told: the entry, or the lab, is wrong.
3. A harmless change must get through its time without anything being broken, and so must the tree as it is. A test
   that is to kill a mutant must pass on the tree as it is.

Exit code 0 if all were killed and nothing harmless was flagged, 1 otherwise.
"""

import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path

from chaos import leftovers
from chaos.mutants.catalogue import HARMLESS, PYTEST, Misplaced, Mutant
from chaos.mutants.trees import command, planted_tree, run_there

TEST_SECONDS_MAX = 600
TEST_TIMEOUT = 60  # seconds for one test: some bugs make one wait for ever
UNPLANTED = "unplanted"
BEGIN, END = "<!-- the score of make mutants -->", "<!-- end of the score -->"
WALL_FACTOR = 60  # a hunt's time is the processor's; on a crowded machine it takes so much longer at most


@dataclass
class Outcome:
    """One hunt. `killed_by`: the statement, or the test; None for a survivor. `found`: everything that was broken."""

    mutant: str
    kind: str
    harmless: bool
    killed_by: str | None = None
    seconds: float = 0.0
    steps: int = 0
    found: dict[str, str] = field(default_factory=dict)
    trouble: str = ""  # why there is no verdict
    entry: str = ""  # of which text of the catalogue

    @property
    def good(self) -> bool:
        if self.trouble:
            return False
        return not self.found if self.harmless else self.killed_by is not None


def run(chosen: list[Mutant], *, seconds: float, seed: int, harmless_seconds: float = 20.0, plans: Path | None = None,
        processes: int = 2, known: Sequence[Outcome] = (), say: Callable[[str], None] = print) -> list[Outcome]:
    """Hunt each of them. With `plans`, the crash that killed a mutant is shrunk and written to a directory of its name there. What is
    `known` from before, and good, is not hunted for again."""
    entries = {str(mutant) for mutant in chosen}
    tests = {mutant.hunt for mutant in chosen if mutant.hunt.startswith(PYTEST)}
    outcomes = [each for each in known if each.good and (each.entry in entries or each.mutant in map(_unplanted_name, tests))]
    done = {each.mutant for each in outcomes}
    with ThreadPoolExecutor(processes) as pool:
        work = [pool.submit(_hunt_one, mutant, harmless_seconds if mutant.is_harmless else seconds, seed, plans)
                for mutant in chosen if mutant.name not in done]
        work += [pool.submit(_unplanted, test) for test in sorted(tests) if _unplanted_name(test) not in done]
        try:
            for future in as_completed(work):
                outcome = future.result()
                outcomes.append(outcome)
                say(line(outcome, len(outcomes), len(work) + len(done)))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            leftovers.end()  # the hunts under way, which are in sessions of their own
            raise
    return sorted(outcomes, key=lambda outcome: (outcome.harmless, outcome.kind, outcome.mutant))


def choose(mutants: list[Mutant], names: tuple[str, ...] = (), sample: int | None = None, pick: int = 0) -> list[Mutant]:
    """All, those of the given names (of mutants or classes), or a sample that the seed `pick` draws, with one harmless change."""
    if names:
        return [mutant for mutant in mutants if mutant.name in names or mutant.kind in names]
    if sample is None:
        return mutants
    rng = random.Random(pick)
    harmful = [mutant for mutant in mutants if not mutant.is_harmless]
    return rng.sample(harmful, min(sample, len(harmful))) + [rng.choice([mutant for mutant in mutants if mutant.is_harmless])]


def _hunt_one(mutant: Mutant, seconds: float, seed: int, plans: Path | None) -> Outcome:
    outcome = Outcome(mutant.name, mutant.kind, mutant.is_harmless, entry=str(mutant))
    test = mutant.hunt.removeprefix(PYTEST) if mutant.hunt.startswith(PYTEST) else None
    try:
        with planted_tree(mutant, with_tests=test is not None) as tree:
            if test is None:
                _run_lab(outcome, tree, seconds, seed, mutant.statements, plans)
            elif plans is None:
                _run_test(outcome, tree, test)
            else:
                outcome.trouble = f"a test hunts it ({test}), and tests make no plans"
    except Misplaced as error:
        outcome.trouble = str(error)
    return outcome


def _unplanted_name(test: str) -> str:
    return f"nothing, {test.removeprefix(PYTEST)}"


def _unplanted(test: str) -> Outcome:
    """The test on the tree as it is: it must pass."""
    outcome = Outcome(_unplanted_name(test), UNPLANTED, True)
    with planted_tree(None, with_tests=True) as tree:
        _run_test(outcome, tree, test.removeprefix(PYTEST))
    if outcome.killed_by:
        outcome.found = {"test": outcome.killed_by}
    return outcome


def _run_lab(outcome: Outcome, tree: Path, seconds: float, seed: int, statements: tuple[str, ...], plans: Path | None) -> None:
    hunt = command("chaos.mutants.hunt", "--seconds", seconds, "--seed", seed, "--for", ",".join(statements))
    if plans is not None:
        hunt += ["--plans", str((plans / outcome.mutant).absolute())]
    began = time.monotonic()
    try:
        _, out, err = run_there(hunt, tree, seconds * WALL_FACTOR + 120)
        result = json.loads(out)
    except (subprocess.TimeoutExpired, ValueError) as error:
        outcome.trouble = f"{type(error).__name__}: {err[-500:] if isinstance(error, ValueError) else 'no end'}"
        outcome.seconds = round(time.monotonic() - began, 1)
        return
    if not result["tree"].startswith(str(tree)):
        outcome.trouble = f"another tree was run: {result['tree']}"
    outcome.killed_by = result["killed"]
    outcome.seconds, outcome.steps, outcome.found = result["seconds"], result["steps"], result["found"]


def _run_test(outcome: Outcome, tree: Path, test: str) -> None:
    hunt = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", f"--timeout={TEST_TIMEOUT}", test]
    began = time.monotonic()
    try:
        code, out, err = run_there(hunt, tree, TEST_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        outcome.trouble = "the test did not end"
        return
    finally:
        outcome.seconds = round(time.monotonic() - began, 1)
    if code == 1:
        failed = [text for text in out.splitlines() if text.startswith("FAILED ")]
        outcome.killed_by = failed[0].removeprefix("FAILED ").partition(" - ")[0] if failed else test
    elif code != 0:
        outcome.trouble = f"pytest ended with {code}: {(out + err)[-300:]}"


# ---------------------------------------------------------------- telling


def line(outcome: Outcome, number: int, count: int) -> str:
    if outcome.trouble:
        verdict = f"NO VERDICT: {outcome.trouble}"
    elif outcome.harmless:
        verdict = f"FLAGGED: {outcome.found}" if outcome.found else "not flagged"
    elif outcome.killed_by:
        verdict = f"killed by {outcome.killed_by}"
    else:
        verdict = f"SURVIVED{f', though this fell: {outcome.found}' if outcome.found else ''}"
    return f"[{number}/{count}] {outcome.seconds:6.1f} s  {outcome.kind}/{outcome.mutant}: {verdict}"


def summary(outcomes: list[Outcome], how: str) -> str:
    """The table by class, in Markdown, how it was measured, and what is not as it should be."""
    harmful = [outcome for outcome in outcomes if not outcome.harmless]
    harmless = [outcome for outcome in outcomes if outcome.kind == HARMLESS]
    lines = ["| Class | Planted | Killed | Median time to kill |", "|---|---|---|---|"]
    lines += [_row(kind, [outcome for outcome in harmful if outcome.kind == kind]) for kind in sorted({outcome.kind for outcome in harmful})]
    lines += [_row("all", harmful)] if harmful else []
    lines += ["", f"Harmless changes: {len(harmless)} planted, {sum(not outcome.good for outcome in harmless)} flagged. "
              f"Measured by {how}, {sum(outcome.seconds for outcome in outcomes) / 60:.0f} minutes of hunts."]
    lines += [f"Not as it should be: {line(outcome, 1, 1).partition('] ')[2].strip()}" for outcome in outcomes if not outcome.good]
    return "\n".join(lines)


def _row(kind: str, outcomes: list[Outcome]) -> str:
    killed = [outcome for outcome in outcomes if outcome.good]
    median = f"{statistics.median(outcome.seconds for outcome in killed):.1f} s" if killed else "-"
    return f"| {kind} | {len(outcomes)} | {len(killed)} | {median} |"


def write(outcomes: list[Outcome], text: str, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "mutants.json").write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
    (out / "mutants.md").write_text(text + "\n")


def read(out: Path) -> list[Outcome]:
    """What an earlier run wrote down; nothing where none did."""
    path = out / "mutants.json"
    return [Outcome(**entry) for entry in json.loads(path.read_text())] if path.exists() else []


def publish(text: str, page: Path) -> None:
    """Put the score between the markers of a page. Raises ValueError where there are none."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no lines {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
