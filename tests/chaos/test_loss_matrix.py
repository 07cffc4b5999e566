"""Section C10 of the contract, cell by cell: what each policy may lose under each fault, by the lab's own verdicts.

The table is read from the spec; a cell's words are held against what the lab saw. F5 is the business of test_decay_is_never_served.
"""

import re
from pathlib import Path

import pytest

from chaos.disk import errors, lab
from chaos.disk.driver import POLICIES, quietly
from chaos.disk.lab import Lab, Limits
from chaos.disk.profiles import WEAKEST

SPEC = Path(__file__).parents[2] / "specs/contract.md"
WORDS = ("append append append", "append flush append", "append wait")
STRUCK_NTH = (1, 4)


def matrix():
    """(policy, fault) -> what may be lost, in the words of the spec."""
    section = SPEC.read_text().partition("## C10.")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")]
    faults = [cell.partition(" ")[0] for cell in rows[0][1:]]
    return {(re.sub(r"\(.\)", "", row[0]), fault): cell for row in rows[2:] for fault, cell in zip(faults, row[1:], strict=True)}


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(lab, "_RECOVERERS", {})
    with quietly():
        yield


@pytest.mark.parametrize("policy", POLICIES)
def test_a_kill_loses_nothing_and_a_power_cut_what_the_table_says(policy):
    seen = Lab(POLICIES[policy], 1, Limits(40, 0, (WEAKEST,)))
    for word in WORDS:
        seen.explore(tuple(word.split()))
    tally, cells = seen.tally, matrix()
    assert tally.failures == []
    assert cells[policy, "F1"] == "none"
    assert not [key for key in tally.allowed if key[1] == "F1"]
    lost = max(tally.losses)
    messages = POLICIES[policy].messages or 0
    says = {"none": lost == 0, "fewer than N offsets": lost == messages - 1, "all above D": lost == 3,
            "younger than S + period + fsync": lost == 3}
    assert says[cells[policy, "F2"]], (policy, cells[policy, "F2"], dict(tally.losses))


@pytest.mark.parametrize("policy", ["P0", "P3"])
@pytest.mark.parametrize("fault,kind", [("F3", "sync-eio-kept"), ("F4", "write-enospc")])
def test_a_call_that_fails_loses_what_the_table_says(policy, fault, kind):
    outcome = errors.SweepOutcome(policy, fault, kind, errors.errors.STATEMENTS)
    for nth in STRUCK_NTH:
        assert errors.strike(outcome, errors.Fault(kind, nth, lasting=True))
    assert [finding.evidence for finding in outcome.findings] == []
    assert matrix()[policy, fault] in ("none", "what was not flushed; then offline")


def test_without_acks_there_is_no_claim():
    assert {cell for (policy, _), cell in matrix().items() if policy == "acks=0"} == {"no claim"}
