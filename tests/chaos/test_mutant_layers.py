"""Which layer found a planted bug is read from what a run of the lab wrote down, and from nothing else."""

import json

import pytest

from chaos.mutants import catalogue, layers
from chaos.mutants.layers import Attempt

MUTANT = catalogue.named("fsync-is-a-no-op")
ROWS = [
    {"statement": "C1.3", "policy": "messages=1", "fault": "F2", "verdict": "BROKEN", "examples": [{"evidence": "offset 7 is gone"}]},
    {"statement": "C2.10", "policy": "none", "fault": "F2", "verdict": "BROKEN", "examples": [{"evidence": "ended with 1"}]},
    {"statement": "C3.1", "policy": "none", "fault": "F2", "verdict": "held", "examples": []},
]


@pytest.fixture
def lab(monkeypatch, tmp_path):
    """Stands for `refbroker-chaos run`: writes these results, or none, and ends with this code."""

    def attempt(code, rows, not_run=()):
        def there(command, tree, seconds_max):
            assert command[-2:] == ["--out", str(tmp_path)] and "--layers" in command
            if rows is not None:
                (tmp_path / "results.json").write_text(json.dumps({"rows": rows, "not_run": list(not_run)}))
            return code, "", "a traceback"

        monkeypatch.setattr(layers, "run_there", there)
        return layers._attempt(MUTANT, "process", tmp_path, 60, 1, tmp_path)

    return attempt


def test_a_named_statement_that_is_broken_finds_it(lab):
    attempt = lab(1, ROWS)
    assert attempt.statements == ["C1.3"] and attempt.others == ["C2.10"]
    assert attempt.evidence == "messages=1, F2: offset 7 is gone" and not attempt.trouble


def test_another_statement_does_not(lab):
    assert lab(1, ROWS[1:]).statements == []


def test_a_layer_that_did_not_run_says_why_and_one_that_failed_too(lab):
    assert "no Go" in lab(2, [], ["toxiproxy: no Go"]).trouble
    assert "exit 70: a traceback" in lab(70, ROWS[1:]).trouble
    assert "exit 64" in lab(64, None).trouble


def test_what_no_layer_found():
    attempts = [Attempt("a", "process", ["C1.3"]), Attempt("a", "network"), Attempt("b", "process", others=["C2.1"])]
    assert layers.missed(attempts) == ["b"]
    assert "| a | process | C1.3 | 0 |" in layers.table(attempts) and "| b | process | none | 0 |" in layers.table(attempts)
