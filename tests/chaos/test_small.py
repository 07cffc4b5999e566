"""The broker's constants made small: every one has its place, they are everywhere or nowhere, and what lies behind them is seen to be broken."""

import ast
import json
from pathlib import Path

import pytest

from chaos.disk import lab, small, workloads
from chaos.disk.driver import POLICIES, quietly
from chaos.disk.lab import Lab, Limits
from chaos.disk.profiles import WEAKEST
from chaos.plan import BadPlan, load, plan_of, replay, save
from chaos.shrink import shrink
from refbroker.log import scan, segment, survey
from refbroker.log.segment import Segment

THRESHOLDS = ("MAX", "MIN", "BYTES", "PER", "ONCE", "ENTRIES", "BLOCK", "KEPT", "CACHED", "THREADS", "SIZE", "FIRST", "COUNT")
NOT_THRESHOLDS = {"log.batch.HEADER_SIZE", "frames.SIZE_BYTES", "groups.MS_PER_MINUTE"}  # how long something is
QUICK = Limits(24, 0, (WEAKEST,), share=0.2)


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    monkeypatch.setattr(lab, "_RECOVERERS", {})
    monkeypatch.setattr(lab, "_INSIDE", {})
    with quietly():
        yield


def thresholds():
    """Every size and count among the broker's constants, read from its source, by its name."""
    for full_name, module in small._modules().items():
        for node in ast.parse(Path(module.__file__).read_text()).body:
            for target in node.targets if isinstance(node, ast.Assign) else ():
                name = getattr(target, "id", "")
                if name.isupper() and set(name.split("_")) & set(THRESHOLDS) and isinstance(getattr(module, name), (int, float)):
                    yield f"{full_name.removeprefix(small.BROKER + '.')}.{name}"


def test_every_size_and_count_of_the_broker_is_made_small_or_explained():
    """Whoever adds a limit says here how the lab gets behind it, or why it need not."""
    there = set(thresholds()) - NOT_THRESHOLDS
    assert not small.SMALL.keys() & small.ELSEWHERE.keys()
    assert there - small.SMALL.keys() - small.ELSEWHERE.keys() == set(), "a place in chaos/disk/small.py is wanted"
    assert {name for name in small.ELSEWHERE if set(name.rpartition(".")[2].split("_")) & set(THRESHOLDS)} - there == set()


def test_they_are_set_wherever_they_are_and_set_back():
    def values():
        return scan.CHECK_CHUNK_BYTES, survey.CHECK_CHUNK_BYTES, scan.checked.__defaults__, scan.batches.__defaults__, segment.INDEX_GAP_BYTES_MAX

    before = values()
    with small.applied({"log.scan.CHECK_CHUNK_BYTES": 7}):
        assert values() == (7, 7, (7,), (7,), before[-1])
        with small.applied({"log.scan.CHECK_CHUNK_BYTES": 8, "log.segment.INDEX_GAP_BYTES_MAX": 9}):
            assert values() == (8, 8, (8,), (8,), 9)
        assert values() == (7, 7, (7,), (7,), before[-1])
    assert values() == before


@pytest.mark.parametrize("wrong", [{"log.scan.NOTHING_BYTES": 1}, {"scan": 1}, {"log.scan.CHECK_CHUNK_BYTES": "1"}, [1]])
def test_what_the_broker_does_not_have_is_refused(wrong):
    with pytest.raises(ValueError):
        small.checked(wrong)


def look_back_fails(monkeypatch):
    """As it was: only a look back that ends inside a segment meets what is missing."""
    real = Segment.headers_of_last

    def headers_of_last(self, count_bytes, offset):
        return real(self, count_bytes, offset) if count_bytes >= self.size else self.offset_index.position_after(count_bytes)

    monkeypatch.setattr(Segment, "headers_of_last", headers_of_last)


def failures_from(start, word=()):
    laboratory = Lab(POLICIES["P3"], 1, QUICK, workloads.constants_of(start))
    laboratory.explore(word, start)
    return laboratory.tally.failures


def test_what_a_long_log_meets_is_met_by_a_short_one(monkeypatch):
    assert failures_from("long, small") == []
    lab.forget()
    look_back_fails(monkeypatch)
    (first, *_) = failures_from("long, small")
    assert first.problem.statement == "C2.4" and "position_after" in first.problem.text
    usual = Lab(POLICIES["P3"], 1, QUICK)
    usual.explore((), workloads.STARTS["long, small"])
    assert usual.tally.judged and usual.tally.failures == []


def test_a_plan_names_them_and_only_those_that_matter_are_left(monkeypatch, tmp_path):
    look_back_fails(monkeypatch)
    failure = failures_from("long, small")[0]
    plan = plan_of(failure, 1)
    assert plan["constants"] == small.SMALL
    least = shrink(plan)
    assert least["constants"] == {"log.replay.REMEMBER_BYTES_MAX": small.SMALL["log.replay.REMEMBER_BYTES_MAX"], **small.USUAL}
    path = save(least, tmp_path)
    assert replay(load(path)).as_written
    assert "log.replay.REMEMBER_BYTES_MAX = 2400" in path.with_suffix(".txt").read_text()
    assert replay({**least, "constants": {}}).broken == []
    with pytest.raises(BadPlan, match="the broker has no constant"):
        replay({**json.loads(path.read_text()), "constants": {"log.replay.NONE": 1}})


@pytest.mark.parametrize("start", [start for start in workloads.STARTS if workloads.constants_of(start) is small.SMALL])
def test_a_sound_log_breaks_nothing(start):
    assert [(failure.problem, failure.policy) for failure in failures_from(start) + failures_from(start, ("restart",))] == []
