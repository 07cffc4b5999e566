"""`replay` answered 0, "all held", to a plan with a fault that there is not, such as "f2", and ended with 70, "an error of the lab itself", on
a second crash or a case that was written wrongly, and with 64, "usage", where a broker did not come back from what it had left."""

import json

import pytest

from chaos import cli
from chaos.process import evidence, observe
from chaos.targets import TargetError

PLAN = {"format": 1, "statement": "C1.3", "policy": "P3", "seed": 1, "setup": [], "operations": [{"op": "append", "records": 2}],
        "crash": {"fault": "F2", "disk": "posix", "after_events": 3, "deviations": {}}}


def replayed(path, content, capsys):
    """(exit code, the last line that it said)"""
    path.write_text(json.dumps(content))
    with pytest.raises(SystemExit) as left:
        cli.main(["replay", str(path.parent if path.name == "case.json" else path)])
    told = capsys.readouterr()
    return left.value.code, (told.err or told.out).strip().splitlines()[-1]


@pytest.mark.parametrize("change", [
    {"crash": {**PLAN["crash"], "fault": "f2"}}, {"crash": {**PLAN["crash"], "fault": "F9"}}, {"inside_recovery": [[1]]}, {"inside_recovery": "x"},
    {"inside_recovery": [[99_999, [["entries", "#3", "undone"]]]]}, {"inside_recovery": [[0, [["entries", "#3"]]]]},
])  # fmt: skip
def test_a_plan(tmp_path, capsys, change):
    assert replayed(tmp_path / "plan.json", PLAN, capsys)[0] == 0
    code, told = replayed(tmp_path / "plan.json", {**PLAN, **change}, capsys)
    assert code == 64 and told.startswith("Error:") and ("fault" in told or "inside_recovery" in told)


@pytest.mark.parametrize("content", [[], {}, {"format": 1}, {"format": 1, "policy": {"colour": "red"}}])
def test_a_case(tmp_path, capsys, content):
    code, told = replayed(tmp_path / "case.json", content, capsys)
    assert code == 64 and str(tmp_path) in told


@pytest.mark.parametrize("error, code, told", [
    (TargetError("refbroker ended with 1 instead of starting"), 1, "BROKEN C2.10 does not start again: refbroker ended with 1 instead of starting"),
    (observe.Unreadable("t", 0, "CRC"), 1, "BROKEN C2.6 unreadable: t-0: CRC"), (observe.NoAnswer("its ends"), 1, "BROKEN C1.16 no answer: its ends"),
    (TargetError("no target 'kafak'"), 64, "Error: no target 'kafak'"),
])  # fmt: skip
def test_a_broker_that_does_not_come_back(tmp_path, capsys, monkeypatch, error, code, told):
    def fail(_):
        raise error

    monkeypatch.setattr(evidence, "judge_again", fail)
    assert replayed(tmp_path / "case.json", {}, capsys) == (code, told)
