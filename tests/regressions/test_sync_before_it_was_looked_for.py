"""The lab waits for a sync after each jump of the wall clock. On a machine so busy that flush.ms went by between the ack and the first
look, that sync had been already, none was due any more, and C1.5 was said to be broken."""

import time
from types import SimpleNamespace

import pytest

from chaos.process import clocks


@pytest.mark.parametrize(("ack_takes_ms", "syncs", "broken"), [(clocks.FLUSH_MS, 1, []), (0, 0, ["C1.5"])], ids=["busy", "never synced"])
def test_a_sync_that_may_have_been_is_not_missed(monkeypatch, ack_takes_ms, syncs, broken):
    monkeypatch.setattr(clocks, "SYNC_SECONDS_MAX", 0.1)
    synced = SimpleNamespace(matched=0)

    def produce(number, where):
        time.sleep(ack_takes_ms / 1000)
        synced.matched += syncs
        return number

    target, story = SimpleNamespace(jump=lambda seconds: None), SimpleNamespace(produce=produce)
    member = SimpleNamespace(reads=lambda offset: True, revoked=0)
    found, looked = clocks._one_jump(target, story, member, synced, 3600, 0)
    assert looked == (ack_takes_ms == 0)
    assert [finding.statement for finding in found] == broken
