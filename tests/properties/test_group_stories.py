"""What happens to a group when somebody is late, says something twice, or when what must be stored is not: stories that the machine of
test_groups.py tells too seldom to rely on."""

import pytest
from test_groups import REBALANCE_MS, SESSION_MS, World, join, start

from refbroker import group_state
from refbroker.errors import ErrorCode, KafkaError
from refbroker.group_core import State
from refbroker.group_state import Group


def follower_of(group):
    return next(member.member_id for member in group.members if member.member_id != group.members.leader)


def codes(answers):
    return [answer["error_code"] for answer in answers]


def keep_alive(world, group, ids, ms):
    """Heartbeats of these members for so long; nothing else."""
    for _ in range(ms // 1000):
        for member_id in ids:
            try:
                group.heartbeat(member_id, group.members[member_id].instance_id, group.generation)
            except (KafkaError, KeyError):
                pass
        world.advance(1000)


def test_who_does_not_join_in_time_is_out_though_it_sends_heartbeats():
    world, group, ids = start(join(), join(), initial_rebalance_delay_ms=10)
    late, answers = follower_of(group), []
    group.join(join(), answers.append)
    group.join(join(group.members.leader), answers.append)
    keep_alive(world, group, ids, REBALANCE_MS - 1000)
    assert late in group.members and answers == []
    world.advance(1000)
    assert codes(answers) == [ErrorCode.NONE] * 2 and late not in group.members and len(group.members) == 2


def test_a_leader_that_does_not_join_in_time_leads_no_more_but_a_static_one_stays_a_member():
    world, group, ids = start(join(instance="a"), join(instance="b"), initial_rebalance_delay_ms=10)
    leader, other, answers = group.members.leader, follower_of(group), []
    group.join(join(other, instance=group.members[other].instance_id, metadata=b"new"), answers.append)
    keep_alive(world, group, ids, REBALANCE_MS)
    (answer,) = answers
    assert (answer["leader"], answer["member_id"]) == (other, other) and leader in group.members
    assert {member["member_id"] for member in answer["members"]} == set(ids)


def test_static_members_that_are_all_silent_are_waited_for_until_one_comes():
    world, group, (first, second) = start(join(instance="a"), join(instance="b"), initial_rebalance_delay_ms=10)
    group.leave("", "a")
    group.left()
    generation = group.generation
    keep_alive(world, group, [second], 3 * REBALANCE_MS)
    assert group.state is State.PREPARING_REBALANCE and group.generation == generation
    answers = []
    group.join(join(second, instance="b"), answers.append)
    assert codes(answers) == [ErrorCode.NONE] and group.generation == generation + 1


def test_a_join_whose_answer_was_lost_is_answered_again_with_the_same_generation():
    world = World()
    group, answers = Group("g", world.outside), []
    group.join(join(), answers.append)
    world.advance(1)
    assert group.state is State.COMPLETING_REBALANCE
    group.join(join(group.members.leader), answers.append)
    assert answers[0] == answers[1] and answers[0]["generation_id"] == group.generation == 1


def test_a_follower_that_comes_again_gets_what_it_had():
    _, group, _ = start(join(), join(), initial_rebalance_delay_ms=10)
    follower, answers, generation = follower_of(group), [], group.generation
    group.join(join(follower), answers.append)
    group.sync(follower, None, generation, "consumer", "range", {}, answers.append)
    assert (answers[0]["generation_id"], answers[0]["members"], answers[1]["assignment"]) == (generation, [], follower.encode())
    assert group.state is State.STABLE


def test_assignments_that_could_not_be_stored_are_handed_out_to_nobody():
    world, group, ids = start(join(), join(), initial_rebalance_delay_ms=10)
    joined, synced = [], []
    for member_id in ids:
        group.join(join(member_id, metadata=b"new"), joined.append)
    for member_id in ids:
        group.sync(member_id, None, group.generation, None, None, {id: b"x" for id in ids}, synced.append)
    world.finish_store(ErrorCode.NOT_COORDINATOR)
    assert codes(synced) == [ErrorCode.NOT_COORDINATOR] * 2 and group.state is State.PREPARING_REBALANCE
    assert not any(member.assignment for member in group.members)
    for member_id in ids:
        group.join(join(member_id, metadata=b"new"), joined.append)
    assert codes(joined) == [ErrorCode.NONE] * 4 and joined[-1]["generation_id"] == joined[0]["generation_id"] + 1


def test_a_static_member_whose_return_could_not_be_stored_is_out():
    world, group, ids = start(join(instance="a"), join(instance="b"), initial_rebalance_delay_ms=10)
    other, answers = follower_of(group), []
    group.join(join("", instance=group.members[group.members.leader].instance_id), answers.append)
    world.finish_store(ErrorCode.COORDINATOR_NOT_AVAILABLE)
    assert codes(answers) == [ErrorCode.COORDINATOR_NOT_AVAILABLE] and [m.member_id for m in group.members] == [other]
    assert group.state is State.PREPARING_REBALANCE and group.members.leader == other


def test_a_rebalance_answers_a_static_member_whose_return_is_being_stored():
    world, group, ids = start(join(instance="a"), join(instance="b"), initial_rebalance_delay_ms=10)
    other, answers = follower_of(group), []
    group.join(join("", instance=group.members[group.members.leader].instance_id), answers.append)
    group.join(join(other, instance=group.members[other].instance_id, metadata=b"new"), answers.append)
    world.finish_store()
    assert codes(answers) == [ErrorCode.NONE] * 2 and {answer["generation_id"] for answer in answers} == {group.generation}


def test_a_static_member_that_comes_back_with_another_protocol_makes_the_group_rebalance():
    _, group, _ = start(
        join(instance="a", protocols=("range", "sticky")), join(instance="b", protocols=("range", "sticky")), initial_rebalance_delay_ms=10
    )
    assert group.protocol == "range"
    group.join(join("", instance="a", protocols=("sticky",)), [].append)
    assert group.state is State.PREPARING_REBALANCE
    other = group.members.with_instance("b").member_id
    answers = []
    group.join(join(other, instance="b", protocols=("range", "sticky")), answers.append)
    assert answers[0]["protocol_name"] == "sticky"


def test_a_group_that_was_made_smaller_while_the_broker_was_down_loses_its_last_members():
    world, group, ids = start(join(), join(), join(), initial_rebalance_delay_ms=10)
    smaller = World(max_size=2)
    again, answers = Group("g", smaller.outside), []
    again.restore(world.stored[-1])
    again.wake()
    assert again.state is State.PREPARING_REBALANCE
    for member_id in ids:
        again.join(join(member_id), answers.append)
    assert sorted(codes(answers)) == [ErrorCode.NONE, ErrorCode.NONE, ErrorCode.GROUP_MAX_SIZE_REACHED] and len(again.members) == 2


def test_ids_that_are_handed_out_and_not_used_are_bounded(monkeypatch):
    monkeypatch.setattr(group_state, "PENDING_MEMBERS_MAX", 2)
    world = World()
    group, answers = Group("g", world.outside), []
    for _ in range(3):
        group.join(join(must_know=True), answers.append)
    assert codes(answers) == [ErrorCode.MEMBER_ID_REQUIRED] * 2 + [ErrorCode.GROUP_MAX_SIZE_REACHED]
    world.advance(SESSION_MS)
    group.join(join(must_know=True), answers.append)
    assert answers[-1]["error_code"] is ErrorCode.MEMBER_ID_REQUIRED


def test_a_group_that_was_dropped_refuses_everything():
    """Its topic was deleted; who still holds it must not take it for alive."""
    _, group, (member_id,) = start(join(), initial_rebalance_delay_ms=10)
    group.stop()
    answers = []
    group.join(join(member_id), answers.append)
    group.sync(member_id, None, group.generation, None, None, {}, answers.append)
    assert codes(answers) == [ErrorCode.COORDINATOR_NOT_AVAILABLE] * 2
    for refused, code in [
        (lambda: group.heartbeat(member_id, None, group.generation), ErrorCode.COORDINATOR_NOT_AVAILABLE),
        (lambda: group.validate_commit(member_id, None, group.generation), ErrorCode.COORDINATOR_NOT_AVAILABLE),
        (lambda: group.leave(member_id, None), ErrorCode.COORDINATOR_NOT_AVAILABLE),
        (group.check_deletable, ErrorCode.GROUP_ID_NOT_FOUND),
    ]:
        with pytest.raises(KafkaError) as error:
            refused()
        assert error.value.code is code
