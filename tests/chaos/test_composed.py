"""Plans of composed runs: every seed makes one that can be followed, within its budget, and a file gives back what was saved."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.composed import plan as plans
from chaos.plan import BadPlan


@given(st.integers(0, 1 << 32), st.floats(1, 30), st.sampled_from(plans.ENDINGS))
def test_a_drawn_plan_keeps_its_budget_and_has_every_kind(tmp_path_factory, seed, seconds, ending):
    plan = plans.draw(seed, seconds, ending)
    assert plan == plans.draw(seed, seconds, ending)
    plans.check(plan)
    kinds = {fault["what"] for fault in plan["faults"]}
    assert kinds == set(plans.KEYS) - ({"kill"} if ending == "power" else set())
    assert any(fault.get("action") == "EIO" for fault in plan["faults"]) == (ending == "kill")
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    plans.save(plan, path)
    assert plans.load(path) == plan


def broken(**changes):
    plan = plans.draw(1, 3, "power")
    return json.dumps({**plan, **changes})


@pytest.mark.parametrize("text, says", [
    ("[]", "no plan"), ("{}", "no plan"), ("{", "no plan"),
    (broken(policy="sometimes"), "policy one of"),
    (broken(faults=[{"at": 1, "what": "meteor"}]), "'meteor': there are"),
    (broken(faults=[{"at": 1, "what": "stop"}]), "its keys are at, what, seconds"),
    (broken(faults=[{"at": 1, "what": "kill"}]), "must live until then"),
    (broken(faults=[{"at": 1, "what": "rule", "rule": {"action": "explode"}}]), "no action 'explode'"),
    (broken(faults=[{"at": 1, "what": "call", "seconds": 1, "call": "writ", "action": "ENOSPC", "nth": 1, "times": 1}]), "fault 1: writ"),
])
def test_a_plan_that_cannot_be_followed_says_why(tmp_path, text, says):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(BadPlan, match=says):
        plans.load(path)


def test_a_verdict_names_what_struck_and_nothing_else():
    assert plans.fault_classes("kill", ["ENOSPC", "toxic"]) == "F1+F4+F6"
    assert plans.fault_classes("kill", ["EIO", "ended by itself"]) == "F1+F3"
    assert plans.fault_classes("power", ["rule"]) == "F2+F6"


def test_a_stopped_broker_that_has_ended_meanwhile_is_not_resumed():
    """It had been stopped, and another fault ended it: the run goes on to its judges."""
    from chaos.composed import layer
    from chaos.process import rounds
    from chaos.targets import Process

    ended = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    ended.wait()
    run, fault = layer.Run.__new__(layer.Run), {"what": "stop", "at": 0, "seconds": 1}
    run.target, run.strikes, run._open = Process.__new__(Process), [], {id(fault): (ended.pid, 7)}
    run.target.process = ended
    run._finish(fault)
    assert [strike.what for strike in run.strikes] == ["stop"]
    rounds.pause(run.target, 0, run.strikes)
    assert [strike.what for strike in run.strikes] == ["stop", "SIGSTOP"]
