"""The planted bugs stand where they say they do, and the hunt finds what it must and nothing else."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

from chaos.contract import STATEMENTS
from chaos.mutants import catalogue, run

ROOT = Path(__file__).parent.parent.parent
MUTANTS = catalogue.load()
HARMFUL = [mutant for mutant in MUTANTS if not mutant.is_harmless]
PLANTED_MIN, HARMLESS_MIN = 60, 10
CLASSES = {
    "fsync", "directory-fsync", "order-of-syncs", "recovery-point", "clean-marker", "checkpoints", "torn-tails", "holes", "truncation",
    "offset-reuse", "epochs", "indexes", "producers", "retention", "group-offsets", "errors", "visibility",
    "limits",
}  # fmt: skip
KNOWN = {
    "CRC check off in recovery", "fsync a no-op", "recovery keeps a torn tail", "duplicate detection off", "group offsets not flushed", "high watermark ahead of the end",
}  # fmt: skip


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_it_can_be_planted(mutant):
    assert catalogue.planted(mutant) != (ROOT / mutant.file).read_text()
    assert mutant.shows
    if mutant.is_harmless:
        assert not mutant.statements and mutant.hunt == catalogue.DISK
    else:
        assert mutant.statements and set(mutant.statements) <= set(STATEMENTS)


def test_there_are_enough_of_each_kind():
    assert len(HARMFUL) >= PLANTED_MIN and len(MUTANTS) - len(HARMFUL) >= HARMLESS_MIN
    assert {mutant.kind for mutant in HARMFUL} == CLASSES
    assert Counter(mutant.known_as for mutant in HARMFUL if mutant.known_as) == Counter(KNOWN)
    assert not [name for name, count in Counter(mutant.name for mutant in MUTANTS).items() if count > 1]
    assert len({(mutant.file, mutant.function, mutant.before, mutant.after) for mutant in MUTANTS}) == len(MUTANTS)


def test_tests_that_hunt_are_there():
    for mutant in HARMFUL:
        if mutant.hunt.startswith(catalogue.PYTEST):
            file, _, name = mutant.hunt.removeprefix(catalogue.PYTEST).partition("::")
            functions = {node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)}
            assert not name or name in functions, mutant
        else:
            assert mutant.hunt == catalogue.DISK


def test_origins_are_references_that_can_be_looked_up():
    """A report's number says where it is from; an origin without one is a reading, and says of what."""
    for mutant in HARMFUL:
        assert not re.search(r"KAFKA-(?!\d{3,5}\b)", mutant.origin), mutant


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"before": "self.nothing = 1"}, "0 times in"),
        ({"before": "self"}, "times in FlushJob.run"),
        ({"function": "FlushJob.walk"}, "FlushJob.walk is 0 times"),
        ({"file": "refbroker/log/flash.py"}, "there is no"),
        ({"after": "if"}, "not Python"),
    ],
)
def test_a_mutant_that_lost_its_ground_is_refused(change, complaint):
    mutant = next(mutant for mutant in HARMFUL if mutant.name == "fsync-is-a-no-op")
    with pytest.raises(catalogue.Misplaced, match=complaint):
        catalogue.planted(mutant._replace(**change))


def test_a_sample_is_the_seeds():
    first, again, other = (run.choose(MUTANTS, sample=8, pick=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert len(first) == 9 and sum(mutant.is_harmless for mutant in first) == 1


def test_the_lab_kills_one_and_lets_one_live(tmp_path):
    """End to end: copies, processes, verdicts."""
    chosen = run.choose(MUTANTS, ("high-watermark-ahead-of-the-end", "flush-syncs-in-the-other-order"))
    outcomes = run.run(chosen, seconds=60, seed=1, harmless_seconds=2, say=str)
    assert {outcome.mutant: (outcome.killed_by, outcome.good) for outcome in outcomes} == {
        "high-watermark-ahead-of-the-end": ("C4.1", True), "flush-syncs-in-the-other-order": (None, True),
    }  # fmt: skip
    assert "| visibility | 1 | 1 |" in run.summary(outcomes, "this test")
    run.write(outcomes, "", tmp_path)
    outcomes[0].killed_by = "what is remembered"
    assert run.run(chosen, seconds=60, seed=1, known=outcomes, say=str) == outcomes
    assert run.read(tmp_path)[0].killed_by == "C4.1"


def test_the_readme_has_the_score_of_this_catalogue():
    """Rows and counts: a mutant that is added, or taken away, needs a new score."""
    _, _, rest = (ROOT / "README.md").read_text().partition(run.BEGIN)
    score, end, _ = rest.partition(run.END)
    assert end, "the README has lost its score"
    rows = {row[0]: row[1:] for row in (re.split(r" *\| *", line.strip("| ")) for line in score.splitlines() if line.startswith("| "))}
    planted = Counter(mutant.kind for mutant in HARMFUL)
    assert {kind: int(row[0]) for kind, row in rows.items() if kind not in ("Class", "all")} == planted
    assert all(row[0] == row[1] for kind, row in rows.items() if kind != "Class"), "not all were killed"
    assert int(rows["all"][0]) == len(HARMFUL)
    assert f"Harmless changes: {len(MUTANTS) - len(HARMFUL)} planted, 0 flagged. Measured by `refbroker-chaos mutants --seconds" in score


def test_a_score_goes_between_the_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"above\n{run.BEGIN}\nold\n{run.END}\nbelow\n")
    run.publish("new", page)
    assert page.read_text() == f"above\n{run.BEGIN}\nnew\n{run.END}\nbelow\n"
    page.write_text("no markers")
    with pytest.raises(ValueError, match="has no lines"):
        run.publish("new", page)
