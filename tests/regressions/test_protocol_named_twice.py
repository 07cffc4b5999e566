"""A JoinGroup that named one protocol twice made the group count one member for two: no protocol was common to all, the rebalance
ended with an error of ours, and nobody could join that group any more before the broker's restart."""

from types import SimpleNamespace

from refbroker.errors import ErrorCode
from refbroker.group_core import Outside, Settings, State
from refbroker.group_members import Join
from refbroker.group_state import Group


def join(protocols):
    return Join("", None, "c", "/h", 10_000, 30_000, "consumer", tuple((name, b"") for name in protocols), False)


def test_it_counts_once():
    answers, timer = [], SimpleNamespace(cancel=lambda: None)
    outside = Outside(Settings(3000, 100), lambda *_: timer, lambda: 0, iter("ab").__next__, lambda *_: None, lambda _: None)
    group = Group("g", outside)
    group.join(join(["range", "range"]), answers.append)
    group.join(join(["sticky", "range"]), answers.append)
    group._complete_join()  # as the timer of the initial rebalance does
    assert [(answer["error_code"], answer["protocol_name"]) for answer in answers] == [(ErrorCode.NONE, "range")] * 2
    assert group.state is State.COMPLETING_REBALANCE
    group.leave("c-a", None)
    assert group.members.common_protocols() == {"sticky", "range"}
