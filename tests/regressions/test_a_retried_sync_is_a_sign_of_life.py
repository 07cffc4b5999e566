"""A member that joined or synced once more, since the answer had been lost, got it again, but its session went on from before: it could
be thrown out moments after it had been told its assignment, though the broker had just heard of it (rule 4 of group_state.py)."""

import pytest

from refbroker.errors import ErrorCode
from refbroker.group_core import Outside, Settings, State
from refbroker.group_members import Join
from refbroker.group_state import Group

SESSION_MS = 10_000


class Clock:
    """Timers of one group, by when they ring."""

    def __init__(self):
        self.now, self.timers = 0.0, []

    def call_later(self, delay, then):
        timer = Timer(self.now + delay, then)
        self.timers.append(timer)
        return timer

    def advance(self, ms):
        until = self.now + ms / 1000
        while due := [timer for timer in self.timers if timer.when <= until and not timer.is_over]:
            timer = min(due, key=lambda one: one.when)
            self.now, timer.is_over = timer.when, True
            timer.then()
        self.now = until


class Timer:
    def __init__(self, when, then):
        self.when, self.then, self.is_over = when, then, False

    def cancel(self):
        self.is_over = True


def join(member_id=""):
    return Join(member_id, None, "c", "/h", SESSION_MS, 60_000, "consumer", (("range", b""),), False)


@pytest.mark.parametrize("again", ["join", "sync"])
def test_the_session_begins_anew(again):
    clock, answers = Clock(), []
    outside = Outside(
        Settings(1, 100), clock.call_later, lambda: 0, iter("ab").__next__, lambda group, value, then: then(ErrorCode.NONE),
        lambda group: None,
    )  # fmt: skip
    group = Group("g", outside)
    group.join(join(), answers.append)
    group.join(join(), answers.append)
    clock.advance(10)
    leader, follower = group.members.leader, next(one.member_id for one in group.members if one.member_id != group.members.leader)
    for member_id in (follower, leader):
        group.sync(member_id, None, group.generation, None, None, {}, answers.append)
    assert group.state is State.STABLE
    clock.advance(SESSION_MS - 1000)
    group.heartbeat(leader, None, group.generation)
    if again == "join":
        group.join(join(follower), answers.append)
    else:
        group.sync(follower, None, group.generation, None, None, {}, answers.append)
    assert answers[-1]["error_code"] is ErrorCode.NONE and group.state is State.STABLE
    clock.advance(SESSION_MS - 1000)
    assert group.state is State.STABLE and follower in group.members
    clock.advance(1001)
    assert group.state is not State.STABLE and follower not in group.members
