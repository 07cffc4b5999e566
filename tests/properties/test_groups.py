"""The group state machine under every order of requests, time and storage: the five rules of `group_state.py`."""

import heapq
import itertools

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from refbroker.errors import ErrorCode, KafkaError
from refbroker.group_core import Outside, Settings, State
from refbroker.group_members import Join, parse_subscription
from refbroker.group_records import group_key, group_value, parse
from refbroker.group_state import Group

SESSION_MS, REBALANCE_MS = 10_000, 30_000


class World:
    """Time that stands still until told, and a store that answers when told."""

    def __init__(self, initial_rebalance_delay_ms=0, max_size=100):
        self.now = 0.0
        self.timers = []
        self.numbers = itertools.count(1)
        self.stores = []  # (value, then)
        self.stored = []
        self.settings = Settings(initial_rebalance_delay_ms, max_size)
        self.outside = Outside(
            self.settings, self.call_later, lambda: int(self.now * 1000), lambda: str(next(self.numbers)), self.store,
            lambda group: None,
        )  # fmt: skip

    def call_later(self, delay, callback):
        timer = Timer(self.now + delay, next(self.numbers), callback)
        heapq.heappush(self.timers, timer)
        return timer

    def store(self, group, value, then):
        self.stores.append((parse(group_key(group.group_id), group_value(value)).value, then))

    def finish_store(self, error=ErrorCode.NONE):
        value, then = self.stores.pop(0)
        if error is ErrorCode.NONE:
            self.stored.append(value)
        then(error)

    def advance(self, ms):
        until = self.now + ms / 1000
        while self.timers and self.timers[0].when <= until:
            timer = heapq.heappop(self.timers)
            self.now = max(self.now, timer.when)
            if not timer.cancelled:
                timer.callback()
        self.now = until


class Timer:
    def __init__(self, when, number, callback):
        self.when, self.number, self.callback, self.cancelled = when, number, callback, False

    def __lt__(self, other):
        return (self.when, self.number) < (other.when, other.number)

    def cancel(self):
        self.cancelled = True


class Answers:
    """Answers to requests, each to come once."""

    def __init__(self):
        self.open = 0

    def expect(self, then):
        self.open += 1
        done = []

        def reply(response):
            assert not done, "answered twice"
            done.append(response)
            self.open -= 1
            then(response)

        return reply


def join(member_id="", *, instance=None, protocols=("range",), metadata=b"", client="c", must_know=False, can_skip=True):
    return Join(
        member_id, instance, client, "/h", SESSION_MS, REBALANCE_MS, "consumer",
        tuple((name, metadata) for name in protocols), must_know, can_skip,
    )  # fmt: skip


PROTOCOLS = st.sampled_from([("range",), ("range", "sticky"), ("sticky", "range"), ("sticky",), ("cooperative", "range")])
METADATA = st.sampled_from([b"", b"\0\0\0\0\0\1\0\1t", b"not a subscription"])


class Machine(RuleBasedStateMachine):
    @initialize(delay=st.sampled_from([0, 3000]), max_size=st.sampled_from([2, 100]))
    def begin(self, delay, max_size):
        self.world = World(delay, max_size)
        self.group = Group("g", self.world.outside)
        self.answers = Answers()
        self.ids = []  # member ids that some client has been told
        self.generations = {}  # number -> {"leader":, "protocol":, "members": ids in the leader's answer, "told": ids}
        self.last_generation = 0
        self.assignments = {}  # generation -> what its leader sent first

    def pick(self, index):
        return self.ids[index % len(self.ids)] if self.ids else "nobody"

    def joined(self, response):
        if response["member_id"] and response["error_code"] in (ErrorCode.NONE, ErrorCode.MEMBER_ID_REQUIRED):
            if response["member_id"] not in self.ids:
                self.ids.append(response["member_id"])
        if response["error_code"] is not ErrorCode.NONE:
            return
        generation = self.generations.setdefault(response["generation_id"], {"told": set(), "members": None})
        generation["told"].add(response["member_id"])
        assert generation.setdefault("protocol", response["protocol_name"]) == response["protocol_name"]
        if response["members"]:
            assert response["leader"] == response["member_id"]
            names = {member["member_id"] for member in response["members"]}
            assert response["member_id"] in names
            generation["members"] = names

    @rule(static=st.sampled_from([None, None, "i1", "i2"]), protocols=PROTOCOLS, metadata=METADATA, must=st.booleans(), skip=st.booleans())
    def join_unknown(self, static, protocols, metadata, must, skip):
        self.group.join(
            join("", instance=static, protocols=protocols, metadata=metadata, must_know=must, can_skip=skip),
            self.answers.expect(self.joined),
        )

    @rule(index=st.integers(0, 9), protocols=PROTOCOLS, metadata=METADATA, static=st.sampled_from([None, None, "i1"]))
    def join_again(self, index, protocols, metadata, static):
        member_id = self.pick(index)
        if member_id in self.group.members:
            static = self.group.members[member_id].instance_id if static is None else static
        self.group.join(
            join(member_id, instance=static, protocols=protocols, metadata=metadata), self.answers.expect(self.joined)
        )

    @rule(index=st.integers(0, 9), behind=st.sampled_from([0, 0, 0, 1]), leader=st.booleans())
    def sync(self, index, behind, leader):
        member_id = self.group.members.leader if leader and self.group.members.leader else self.pick(index)
        generation = self.group.generation - behind
        number = next(self.world.numbers)
        sent = {id: f"{generation}/{number}/{id}".encode() for id in self.ids}
        if member_id == self.group.members.leader and self.group.state is State.COMPLETING_REBALANCE and not behind:
            self.assignments.setdefault(generation, sent)
        member = self.group.members[member_id] if member_id in self.group.members else None

        def synced(response):
            if response["error_code"] is ErrorCode.NONE:
                assert generation == self.group.generation
                assert any(value["generation"] == generation and value["members"] for value in self.world.stored), "not stored"
                # a static member's successor has the assignment of the id that the leader knew
                if member and member.instance_id is None:
                    assert response["assignment"] == self.assignments[generation][member_id]

        self.group.sync(
            member_id, member.instance_id if member else None, generation, None, None, sent, self.answers.expect(synced)
        )

    @rule(index=st.integers(0, 9), behind=st.sampled_from([0, 0, 1]))
    def heartbeat(self, index, behind):
        member_id = self.pick(index)
        known = member_id in self.group.members
        instance = self.group.members[member_id].instance_id if known else None
        try:
            self.group.heartbeat(member_id, instance, self.group.generation - behind)
            assert known and not behind and self.group.state in (State.STABLE, State.COMPLETING_REBALANCE)
        except KafkaError as error:
            if not known:
                assert error.code is ErrorCode.UNKNOWN_MEMBER_ID
            elif behind:
                assert error.code is ErrorCode.ILLEGAL_GENERATION
            else:
                assert error.code is ErrorCode.REBALANCE_IN_PROGRESS and self.group.state is State.PREPARING_REBALANCE

    @rule(index=st.integers(0, 9), by_instance=st.booleans())
    def leave(self, index, by_instance):
        try:
            self.group.leave("" if by_instance else self.pick(index), "i1" if by_instance else None)
        except KafkaError as error:
            assert error.code is ErrorCode.UNKNOWN_MEMBER_ID
        else:
            self.group.left()

    @rule(ms=st.sampled_from([1, 2999, 3001, SESSION_MS // 2, SESSION_MS, REBALANCE_MS]))
    def advance(self, ms):
        self.world.advance(ms)

    @precondition(lambda self: self.world.stores)
    @rule(error=st.sampled_from([ErrorCode.NONE] * 4 + [ErrorCode.NOT_COORDINATOR]))
    def finish_store(self, error):
        self.world.finish_store(error)

    @invariant()
    def generation_never_goes_down(self):
        if hasattr(self, "group"):
            assert self.group.generation >= self.last_generation
            self.last_generation = self.group.generation

    @invariant()
    def members_are_consistent(self):
        if not hasattr(self, "group"):
            return
        members = self.group.members
        ids = {member.member_id for member in members}
        instances = [member.instance_id for member in members if member.instance_id is not None]
        assert len(instances) == len(set(instances))
        assert not ids & members.pending
        assert (members.leader in ids) if ids else members.leader is None
        assert not ids or members.common_protocols()
        for member in members:
            assert member.member_id in self.group._timers or member.is_waiting, "a member that nothing ever removes"
        if self.group.state in (State.EMPTY, State.DEAD):
            assert not ids
        if self.group.state is State.STABLE:
            assert not any(member.sync_reply for member in members)
        if self.group.state is State.PREPARING_REBALANCE:
            assert "join timeout" in self.group._timers, "a rebalance that nothing ever ends"

    @invariant()
    def the_leaders_list_has_everybody_who_was_told(self):
        if hasattr(self, "group"):
            generation = self.generations.get(self.group.generation)
            if generation and generation["members"] and self.group.state is State.COMPLETING_REBALANCE:
                assert {m.member_id for m in self.group.members} <= generation["members"] | generation["told"]

    def teardown(self):
        """Silence: everything is answered, everybody is out, and what is stored says so."""
        if not hasattr(self, "group"):
            return
        for _ in range(20):
            while self.world.stores:
                self.world.finish_store()
            self.world.advance(400_000)
        assert self.answers.open == 0, "a request was never answered"
        assert self.group.state is State.EMPTY and not self.group.members and not self.group.members.pending
        assert not self.group._timers
        if self.world.stored:
            again = Group("g", self.world.outside)
            again.restore(self.world.stored[-1])
            if self.group.generation == again.generation:
                assert again.describe() == self.group.describe()


Machine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestGroups = Machine.TestCase


# Stories that the machine seldom tells


def start(*joins, **world):
    """A stable group of these members; gives world, group and the member ids."""
    world = World(**world)
    group = Group("g", world.outside)
    answers = []
    for wanted in joins:
        group.join(wanted, answers.append)
    world.advance(3 * world.settings.initial_rebalance_delay_ms)
    assert len(answers) == len(joins) and group.state is State.COMPLETING_REBALANCE
    ids = [member.member_id for member in group.members]
    synced = []
    for member in list(group.members):
        group.sync(member.member_id, member.instance_id, group.generation, "consumer", group.protocol,
                   {id: id.encode() for id in ids}, synced.append)  # fmt: skip
    world.finish_store()
    assert group.state is State.STABLE and [a["error_code"] for a in synced] == [ErrorCode.NONE] * len(ids)
    return world, group, ids


def test_initial_rebalance_waits_for_more_members_but_not_for_ever():
    world = World(initial_rebalance_delay_ms=3000)
    group = Group("g", world.outside)
    answers = []
    for _ in range(3):
        group.join(join(), answers.append)
        world.advance(2900)
    assert answers == []
    world.advance(3000)
    assert [a["generation_id"] for a in answers] == [1, 1, 1]
    assert sum(bool(a["members"]) for a in answers) == 1


@pytest.mark.parametrize("can_skip", [True, False])
def test_restarted_static_member_takes_its_place_without_rebalance(can_skip):
    world, group, ids = start(join(instance="a"), join(instance="b"), initial_rebalance_delay_ms=10)
    leader = group.members.leader
    instance = group.members[leader].instance_id
    generation, assignment, answers = group.generation, group.members[leader].assignment, []
    group.join(join("", instance=instance, can_skip=can_skip), answers.append)
    assert answers == [], "told before it was stored"
    world.finish_store()
    (answer,) = answers
    assert (answer["error_code"], answer["generation_id"]) == (ErrorCode.NONE, generation)
    assert group.state is State.STABLE and group.members[answer["member_id"]].assignment == assignment
    assert answer["skip_assignment"] is can_skip and len(answer["members"]) == (2 if can_skip else 0)
    assert answer["leader"] == (answer["member_id"] if can_skip else leader)
    with pytest.raises(KafkaError) as fenced:
        group.heartbeat(leader, instance, generation)
    assert fenced.value.code is ErrorCode.FENCED_INSTANCE_ID
    group.heartbeat(answer["member_id"], instance, generation)


def test_assignments_of_a_generation_that_is_over_are_not_handed_out():
    world, group, (leader,) = start(join())
    synced = []
    group.join(join(leader), [].append)
    group.sync(leader, None, 2, None, None, {leader: b"old"}, synced.append)  # on its way to the log
    group.join(join(""), [].append)
    group.join(join(leader), [].append)
    assert group.generation == 3 and group.state is State.COMPLETING_REBALANCE
    world.finish_store()
    assert group.state is State.COMPLETING_REBALANCE
    assert [answer["error_code"] for answer in synced] == [ErrorCode.REBALANCE_IN_PROGRESS]


def test_a_leader_that_syncs_twice_stores_once():
    """Else the log could say another assignment than the members were given."""
    world, group, (leader,) = start(join())
    group.join(join(leader), [].append)
    synced = []
    for assignment in (b"first", b"second"):
        group.sync(leader, None, group.generation, None, None, {leader: assignment}, synced.append)
    assert len(world.stores) == 1
    world.finish_store()
    assert [(a["error_code"], a["assignment"]) for a in synced] == [
        (ErrorCode.REBALANCE_IN_PROGRESS, b""), (ErrorCode.NONE, b"first")]  # fmt: skip


def test_who_never_asks_for_its_assignment_is_out_though_it_sends_heartbeats():
    world, group, ids = start(join(), join(), initial_rebalance_delay_ms=10)
    silent = next(member_id for member_id in ids if member_id != group.members.leader)
    group.join(join(group.members.leader), [].append)
    group.join(join(silent), [].append)
    group.sync(group.members.leader, None, group.generation, None, None, {}, [].append)
    world.finish_store()
    for _ in range(2 * REBALANCE_MS // SESSION_MS):
        for member_id in ids:
            if member_id in group.members:
                try:
                    group.heartbeat(member_id, None, group.generation)
                except KafkaError as error:
                    assert error.code is ErrorCode.REBALANCE_IN_PROGRESS
        world.advance(SESSION_MS - 1)
    assert silent not in group.members


def test_a_static_member_whose_return_was_stored_slowly_still_has_a_session():
    world, group, _ = start(join(instance="a"))
    answers = []
    group.join(join("", instance="a"), answers.append)
    world.advance(2 * SESSION_MS)
    world.finish_store()
    assert answers[0]["error_code"] is ErrorCode.NONE and len(group.members) == 1
    world.advance(2 * SESSION_MS)
    assert group.state is State.EMPTY


def test_protocol_with_most_votes_among_the_common_ones():
    _, group, _ = start(
        join(protocols=("range", "sticky")), join(protocols=("sticky", "range")), join(protocols=("sticky", "x", "range")),
        initial_rebalance_delay_ms=10,
    )  # fmt: skip
    assert group.protocol == "sticky"
    answers = []
    group.join(join(protocols=("x",)), answers.append)
    group.join(join()._replace(protocol_type="connect"), answers.append)
    group.join(join(protocols=()), answers.append)
    assert {a["error_code"] for a in answers} == {ErrorCode.INCONSISTENT_GROUP_PROTOCOL} and len(answers) == 3


def test_a_full_group_takes_nobody():
    _, group, _ = start(join(), join(), initial_rebalance_delay_ms=10, max_size=2)
    answers = []
    group.join(join(), answers.append)
    assert answers[0]["error_code"] is ErrorCode.GROUP_MAX_SIZE_REACHED and group.state is State.STABLE


def test_a_group_that_is_loaded_is_what_was_stored_and_its_sessions_run():
    world, group, ids = start(join(instance="a", metadata=b"\0\0\0\0\0\1\0\1t"), join(metadata=b"\0\0\0\0\0\0"), initial_rebalance_delay_ms=10)
    again = Group("g", world.outside)
    again.restore(world.stored[-1])
    assert again.describe()["members"] == group.describe()["members"] and again.generation == group.generation
    assert again.subscribed == group.subscribed == {"t"}
    again.wake()
    again.heartbeat(ids[0], "a", again.generation)
    world.advance(SESSION_MS + 1)
    assert again.state is State.EMPTY or again.state is State.PREPARING_REBALANCE
    assert not any(member.instance_id is None for member in again.members)


def test_commits_are_checked_against_member_and_generation():
    _, group, ids = start(join(), initial_rebalance_delay_ms=10)
    assert group.validate_commit(ids[0], None, group.generation).member_id == ids[0]
    for member_id, generation, code in [
        (ids[0], group.generation - 1, ErrorCode.ILLEGAL_GENERATION),
        ("somebody", group.generation, ErrorCode.UNKNOWN_MEMBER_ID),
        ("", -1, ErrorCode.UNKNOWN_MEMBER_ID),
    ]:
        with pytest.raises(KafkaError) as refused:
            group.validate_commit(member_id, None, generation)
        assert refused.value.code is code


@pytest.mark.parametrize("data, topics", [
    (b"\0\1\0\0\0\2\0\1a\0\2bc" + b"what follows", ["a", "bc"]),
    (b"\0\0\0\0\0\0", []),
    (b"", None),
    (b"\0\0\x7f\xff\xff\xff\0\1a", None),
    (b"\0\0\0\0\0\1\0\5ab", None),
    (b"\0\0\0\0\0\1\xff\xff", None),
    (b"\0\0\0\0\0\1\0\1\xff", None),
])  # fmt: skip
def test_subscriptions(data, topics):
    assert parse_subscription(data) == topics
