"""Fetch: when it is answered, what it holds, what it never shows, and its sessions. And the smaller APIs of the log."""

import asyncio
import time
from types import SimpleNamespace

import pytest
from fakes import PATIENCE_S, Client, batch, running, until
from hypothesis import given, settings
from hypothesis import strategies as st

from refbroker import apis
from refbroker.errors import ErrorCode, KafkaError
from refbroker.fetch_sessions import STALE_MS, FetchSessions

SERVED = apis.load()
PRODUCE, FETCH = SERVED[0].api, SERVED[1].api
SIZE = len(batch())
LONG_MS = 10 * PATIENCE_S * 1000  # whoever waited for this would be found out


def wanted(partition=0, offset=0, max_bytes=1 << 20, **more):
    return {"partition": partition, "fetch_offset": offset, "partition_max_bytes": max_bytes, **more}


def request(*entries, topic="t", max_wait_ms=0, min_bytes=1, max_bytes=1 << 20, **more):
    topics = [{"topic": topic, "partitions": list(entries)}] if entries else []
    return {"max_wait_ms": max_wait_ms, "min_bytes": min_bytes, "max_bytes": max_bytes, "topics": topics, **more}


async def fetch(client, *entries, version=12, **more):
    """{partition: result} of the one topic."""
    response = await client.call(FETCH, version, request(*entries, **more))
    assert response["error_code"] == 0, ErrorCode(response["error_code"])
    return {one["partition_index"]: one for topic in response["responses"] for one in topic["partitions"]}


async def produce(client, partition=0, count=1):
    data = [{"index": partition, "records": batch(count)}]
    await client.call(PRODUCE, 9, {"acks": 1, "timeout_ms": 1, "topic_data": [{"name": "t", "partition_data": data}]})


def run(tmp_path, story, **keys):
    async def whole():
        async with running(tmp_path, **keys) as broker:
            return await story(broker, await Client.connect(broker), await Client.connect(broker))

    return asyncio.run(whole())


def test_it_waits_for_records_and_no_longer(tmp_path):
    async def story(broker, client, producer):
        poll = asyncio.ensure_future(fetch(client, wanted(0), wanted(1), max_wait_ms=LONG_MS))
        await until(lambda: broker.partitions["t", 1].waiters)
        await asyncio.sleep(0.05)
        assert not poll.done() and len(broker.partitions["t", 1].waiters) == 1
        await produce(producer, 1)
        found = await asyncio.wait_for(poll, PATIENCE_S)
        assert len(found[1]["records"]) == SIZE and found[0]["records"] == b""
        assert not broker.partitions["t", 1].waiters

        started = time.monotonic()
        assert (await asyncio.wait_for(fetch(client, wanted(0), max_wait_ms=200), PATIENCE_S))[0]["records"] == b""
        assert 0.19 < time.monotonic() - started

    run(tmp_path, story, connections_max_idle_ms=LONG_MS)


def test_a_client_that_hangs_up_is_held_no_longer_than_an_idle_one(tmp_path):
    async def story(broker, client, producer):
        ages = 2**31 - 1
        assert (await asyncio.wait_for(fetch(client, wanted(0), max_wait_ms=ages), PATIENCE_S))[0]["records"] == b""

    run(tmp_path, story, connections_max_idle_ms=1000)


def test_it_waits_for_min_bytes(tmp_path):
    async def story(broker, client, producer):
        poll = asyncio.ensure_future(fetch(client, wanted(0), max_wait_ms=LONG_MS, min_bytes=3 * SIZE))
        for count in (1, 2, 3):
            assert not poll.done()
            await produce(producer)
            await asyncio.sleep(0.02)
        assert len((await asyncio.wait_for(poll, PATIENCE_S))[0]["records"]) == 3 * SIZE

    run(tmp_path, story)


def test_an_error_is_answered_at_once(tmp_path):
    async def story(broker, client, producer):
        await produce(producer)
        for entry, code in (
            (wanted(7), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION),
            (wanted(0, 2), ErrorCode.OFFSET_OUT_OF_RANGE),
            (wanted(0, 0, current_leader_epoch=2), ErrorCode.FENCED_LEADER_EPOCH),
            (wanted(0, 0, current_leader_epoch=4), ErrorCode.UNKNOWN_LEADER_EPOCH),
            (wanted(0, 0, last_fetched_epoch=1), ErrorCode.OFFSET_OUT_OF_RANGE),
        ):
            found = await asyncio.wait_for(fetch(client, wanted(1), entry, max_wait_ms=LONG_MS), PATIENCE_S)
            assert ErrorCode(found[entry["partition"]]["error_code"]) == code
            assert found[entry["partition"]]["high_watermark"] == -1
        replica = {"replica_id": 2, "replica_state": {"replica_id": 2, "replica_epoch": 1}}
        assert (await fetch(client, wanted(0), **replica))[0]["error_code"] == ErrorCode.NOT_LEADER_OR_FOLLOWER
        broker.partition = failing(ErrorCode.KAFKA_STORAGE_ERROR)
        assert (await fetch(client, wanted(0)))[0]["error_code"] == ErrorCode.KAFKA_STORAGE_ERROR
        assert (await fetch(client, wanted(0), version=5))[0]["error_code"] == ErrorCode.NOT_LEADER_OR_FOLLOWER

    run(tmp_path, story)


def failing(code):
    def fail(*_):
        raise KafkaError(code)

    return fail


def test_divergence_is_answered_at_once(tmp_path):
    async def story(broker, client, producer):
        await produce(producer)
        broker.partitions["t", 0].epoch_end = lambda epoch: (2, 0)
        found = (await asyncio.wait_for(fetch(client, wanted(0, 1, last_fetched_epoch=3), max_wait_ms=LONG_MS), PATIENCE_S))[0]
        assert found["diverging_epoch"] == {"epoch": 2, "end_offset": 0} and found["records"] == b""
        broker.partitions["t", 0].epoch_end = lambda epoch: (3, 1)
        found = (await fetch(client, wanted(0, 0, last_fetched_epoch=3)))[0]
        assert found["diverging_epoch"] == {"epoch": -1, "end_offset": -1} and len(found["records"]) == SIZE

    run(tmp_path, story)


def test_nothing_from_the_high_watermark_on(tmp_path):
    """C4.2"""

    async def story(broker, client, producer):
        for _ in range(3):
            await produce(producer)
        partition = broker.partitions["t", 0]
        partition.visible_end = 2
        for isolation_level in (0, 1):
            found = (await fetch(client, wanted(0), isolation_level=isolation_level))[0]
            assert len(found["records"]) == 2 * SIZE and found["high_watermark"] == 2
            assert found["aborted_transactions"] == ([] if isolation_level else None)
        poll = asyncio.ensure_future(fetch(client, wanted(0, 2), max_wait_ms=LONG_MS))
        await asyncio.sleep(0.02)
        await produce(producer)
        await asyncio.sleep(0.02)
        assert not poll.done()
        partition.visible_end = None
        partition.wake()
        assert len((await asyncio.wait_for(poll, PATIENCE_S))[0]["records"]) == 2 * SIZE

    run(tmp_path, story)


def test_limits_and_the_first_batch_whole(tmp_path):
    async def story(broker, client, producer):
        for partition in (0, 1):
            for _ in range(3):
                await produce(producer, partition)
        found = await fetch(client, wanted(0), wanted(1), max_bytes=1)
        assert len(found[0]["records"]) == SIZE and found[1]["records"] == b""
        found = await fetch(client, wanted(0, 0, 2 * SIZE), wanted(1), max_bytes=3 * SIZE)
        assert (len(found[0]["records"]), len(found[1]["records"])) == (2 * SIZE, SIZE)
        found = await fetch(client, wanted(0, 3), wanted(1, 0, 1))  # the first that has any
        assert (len(found[0]["records"]), len(found[1]["records"])) == (0, SIZE)
        await asyncio.wait_for(fetch(client, wanted(0), max_bytes=SIZE, min_bytes=9 * SIZE, max_wait_ms=LONG_MS), PATIENCE_S)

    run(tmp_path, story, fetch_max_bytes=1 << 20)


def test_topics_by_id(tmp_path):
    async def story(broker, client, producer):
        await produce(producer)
        topic_id = broker.metadata.topics["t"].topic_id
        for version in range(13, 19):
            topics = [{"topic_id": topic_id, "partitions": [wanted()]}]
            response = await client.call(FETCH, version, request() | {"topics": topics})
            (topic,) = response["responses"]
            assert topic["topic_id"] == topic_id and len(topic["partitions"][0]["records"]) == SIZE
        topics[0]["topic_id"] = apis.k01_fetch.ZERO_UUID
        (topic,) = (await client.call(FETCH, 13, request() | {"topics": topics}))["responses"]
        assert topic["partitions"][0]["error_code"] == ErrorCode.UNKNOWN_TOPIC_ID

    run(tmp_path, story)


# sessions


async def in_session(client, session_id, epoch, *entries, forgotten=(), version=12, **more):
    named = [{"topic": "t", "partitions": list(forgotten)}] if forgotten else []
    ids = {"session_id": session_id, "session_epoch": epoch, "forgotten_topics_data": named}
    response = await client.call(FETCH, version, request(*entries, min_bytes=0) | ids)
    told = {one["partition_index"] for topic in response["responses"] for one in topic["partitions"]}
    return ErrorCode(response["error_code"]).name, response["session_id"], told


def test_a_session(tmp_path):
    async def story(broker, client, producer):
        error, session, told = await in_session(client, 0, 0, wanted(0), wanted(1))
        assert error == "NONE" and session > 0 and told == {0, 1}
        assert await in_session(client, session, 1) == ("NONE", session, set())
        await produce(producer, 1)
        assert await in_session(client, session, 2) == ("NONE", session, {1})
        assert await in_session(client, session, 3, wanted(1, 1)) == ("NONE", session, set())
        broker.partitions["t", 0].log_start_offset = broker.partitions["t", 0].log_end_offset = 9
        assert await in_session(client, session, 4) == ("NONE", session, {0})  # out of range
        assert await in_session(client, session, 5, wanted(0, 9)) == ("NONE", session, {0})  # over, and told so
        assert await in_session(client, session, 6, forgotten=[0]) == ("NONE", session, set())
        assert await in_session(client, session, 6) == ("INVALID_FETCH_SESSION_EPOCH", 0, set())
        assert await in_session(client, session + 1, 1) == ("FETCH_SESSION_ID_NOT_FOUND", 0, set())
        ids = {"session_id": session, "session_epoch": 7}
        answer = await client.call(FETCH, 13, request() | ids)
        assert answer["error_code"] == ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR
        assert await in_session(client, session, 7, forgotten=[1]) == ("NONE", 0, set())  # nothing is left of it
        assert await in_session(client, session, 8) == ("FETCH_SESSION_ID_NOT_FOUND", 0, set())
        error, session, told = await in_session(client, 0, 0, wanted(0, 9))
        assert await in_session(client, session, 1, wanted(1, 1)) == ("NONE", session, {1})  # one more is assigned
        assert await in_session(client, session, 2, wanted(1, 1)) == ("NONE", session, set())
        assert await in_session(client, session, -1, wanted(0, 9)) == ("NONE", 0, {0})
        assert await in_session(client, session, 1) == ("FETCH_SESSION_ID_NOT_FOUND", 0, set())

    run(tmp_path, story)


def test_partitions_with_records_go_to_the_end(tmp_path):
    async def story(broker, client, producer):
        for partition in (0, 1):
            for _ in range(2):
                await produce(producer, partition)
        ids = {"session_id": 0, "session_epoch": 0}
        response = await client.call(FETCH, 12, request(wanted(0), wanted(1), max_bytes=SIZE) | ids)
        session = response["session_id"]
        order = []
        for epoch in (1, 2, 3):
            ids = {"session_id": session, "session_epoch": epoch}
            response = await client.call(FETCH, 12, request(max_bytes=SIZE) | ids)
            order += [one["partition_index"] for topic in response["responses"] for one in topic["partitions"] if one["records"]]
        assert order == [0, 1, 0]

    run(tmp_path, story)


def test_a_session_used_twice_at_a_time(tmp_path):
    async def story(broker, client, other):
        _, session, _ = await in_session(client, 0, 0, wanted(0))
        ids = {"session_id": session, "session_epoch": 1, "max_wait_ms": LONG_MS, "min_bytes": 1}
        poll = asyncio.ensure_future(client.call(FETCH, 12, request() | ids))
        await until(lambda: broker.partitions["t", 0].waiters)
        assert (await in_session(other, session, 2))[0] == "NONE"
        await produce(other)
        assert (await asyncio.wait_for(poll, PATIENCE_S))["error_code"] == ErrorCode.INVALID_FETCH_SESSION_EPOCH

    run(tmp_path, story)


def full(partitions):
    return {
        "session_id": 0, "session_epoch": 0, "forgotten_topics_data": (),
        "topics": [{"topic": "t", "partitions": [
            wanted(number, current_leader_epoch=-1, last_fetched_epoch=-1) for number in range(partitions)
        ]}],
    }  # fmt: skip


def told(plan):
    result = {"error_code": 0, "high_watermark": 0, "log_start_offset": 0, "records": b""}
    return [(item, dict(result)) for item in plan.partitions]


@settings(deadline=None)
@given(st.integers(0, 4), st.lists(st.tuples(st.integers(1, 5), st.integers(0, STALE_MS)), max_size=12))
def test_there_are_never_more_sessions_than_slots(slots, clients):
    sessions, now_ms = FetchSessions(slots), 0
    for partitions, pause_ms in clients:
        now_ms += pause_ms
        before = len(sessions)
        session_id = sessions.open(told(sessions.plan(full(partitions), 12, now_ms)), 12, now_ms)
        assert len(sessions) <= slots
        assert session_id or before == slots
        if session_id:
            follow_up = {"session_id": session_id, "session_epoch": 1, "topics": (), "forgotten_topics_data": ()}
            assert len(sessions.plan(follow_up, 12, now_ms).partitions) == partitions


def test_who_is_evicted():
    sessions = FetchSessions(2)
    for partitions in (1, 5):
        assert sessions.open(told(sessions.plan(full(partitions), 12, 0)), 12, 0)
    assert not sessions.open(told(sessions.plan(full(9), 12, STALE_MS)), 12, STALE_MS)  # both too young
    for session in sessions._sessions.values():
        session.used_ms = STALE_MS
    later = STALE_MS + 1
    assert sessions.open(told(sessions.plan(full(3), 12, later)), 12, later)  # in the place of the one with 1
    assert sorted(len(session.partitions) for session in sessions._sessions.values()) == [3, 5]
    assert not sessions.open(told(sessions.plan(full(4), 12, later)), 12, later)  # 5 is larger, 3 too young
    stale = later + STALE_MS + 1
    assert sessions.open(told(sessions.plan(full(1), 12, stale)), 12, stale)


# the smaller APIs


def test_list_offsets(tmp_path):
    api = SERVED[2].api

    async def find(client, timestamp, version=11, replica_id=-1, isolation_level=0, epoch=-1, times=1):
        entry = {"partition_index": 0, "timestamp": timestamp, "current_leader_epoch": epoch}
        topics = [{"name": "t", "partitions": [entry] * times}]
        asked = {"replica_id": replica_id, "isolation_level": isolation_level, "topics": topics}
        found = (await client.call(api, version, asked))["topics"][0]["partitions"][0]
        if found["error_code"]:
            return ErrorCode(found["error_code"]).name
        return found["timestamp"], found["offset"], found["leader_epoch"]

    async def story(broker, client, producer):
        assert await find(client, -3) == (-1, -1, -1)
        for _ in range(4):
            await produce(producer)
        broker.partitions["t", 0].visible_end = 3
        broker.partitions["t", 0].log_start_offset = 1
        assert await find(client, -1) == (-1, 3, 3)
        assert await find(client, -1, version=1) == (-1, 3, -1)
        assert await find(client, -1, isolation_level=1) == (-1, 3, 3)
        assert await find(client, -1, replica_id=-2) == (-1, 4, 3)
        assert await find(client, -2) == await find(client, -4) == (-1, 1, 3)
        assert await find(client, -5) == await find(client, -6) == (-1, -1, -1)
        assert await find(client, -3) == (-1, -1, -1)  # offset 3, which is not visible (C4.2)
        assert await find(client, 500) == (500, 0, 3)
        assert await find(client, 5000) == (-1, -1, -1)
        assert await find(client, -1, epoch=2) == "FENCED_LEADER_EPOCH"
        assert await find(client, -1, epoch=4) == "UNKNOWN_LEADER_EPOCH"
        assert await find(client, -1, times=2) == "INVALID_REQUEST"
        for timestamp, version in ((-3, 6), (-4, 7), (-5, 8), (-6, 10), (-7, 11)):
            assert await find(client, timestamp, version) == "UNSUPPORTED_VERSION"

    run(tmp_path, story)


def test_delete_records(tmp_path):
    api = SERVED[21].api

    async def delete(client, offset, topic="t", partition=0):
        entry = {"partition_index": partition, "offset": offset}
        asked = {"topics": [{"name": topic, "partitions": [entry]}], "timeout_ms": 1}
        found = (await client.call(api, 2, asked))["topics"][0]["partitions"][0]
        return ErrorCode(found["error_code"]).name, found["low_watermark"]

    async def story(broker, client, producer):
        for _ in range(4):
            await produce(producer)
        assert await delete(client, 2) == ("NONE", 2)
        assert await delete(client, 1) == ("NONE", 2)
        assert await delete(client, 5) == ("OFFSET_OUT_OF_RANGE", -1)
        assert await delete(client, -1) == ("NONE", 4)
        assert await delete(client, 0, "u") == ("UNKNOWN_TOPIC_OR_PARTITION", -1)
        broker.partitions["t", 1].config.cleanup_policy = "compact"
        assert await delete(client, 0, "t", 1) == ("POLICY_VIOLATION", -1)

    run(tmp_path, story)


def test_init_producer_id(tmp_path):
    api = SERVED[22].api

    async def init(client, version=5, **given):
        asked = {"transactional_id": None, "transaction_timeout_ms": 1} | given
        found = await client.call(api, version, asked)
        return ErrorCode(found["error_code"]).name, found["producer_id"], found["producer_epoch"]

    async def story(broker, client, _):
        assert await init(client, 0) == ("NONE", 1001, 0)
        assert await init(client) == ("NONE", 1002, 0)
        assert await init(client, producer_id=1002, producer_epoch=4) == ("NONE", 1003, 0)
        assert await init(client, producer_id=1002) == ("INVALID_REQUEST", -1, -1)
        assert await init(client, transactional_id="mine") == ("UNSUPPORTED_VERSION", -1, -1)
        assert await init(client, transactional_id="") == ("INVALID_REQUEST", -1, -1)

    run(tmp_path, story)


@pytest.mark.parametrize("version", [2, 3, 4])
def test_offset_for_leader_epoch(tmp_path, version):
    api = SERVED[23].api

    async def end(client, epoch, current=-1, partition=0):
        entry = {"partition": partition, "leader_epoch": epoch, "current_leader_epoch": current}
        found = (await client.call(api, version, {"topics": [{"topic": "t", "partitions": [entry]}]}))["topics"][0]
        (found,) = found["partitions"]
        return ErrorCode(found["error_code"]).name, found["leader_epoch"], found["end_offset"]

    async def story(broker, client, producer):
        await produce(producer)
        assert await end(client, 3, 3) == ("NONE", 3, 1)
        assert await end(client, 2) == ("NONE", -1, -1)
        assert await end(client, 3, 2) == ("FENCED_LEADER_EPOCH", -1, -1)
        assert await end(client, 3, partition=9) == ("UNKNOWN_TOPIC_OR_PARTITION", -1, -1)

    run(tmp_path, story)


def test_describe_producers(tmp_path):
    api = SERVED[61].api

    async def story(broker, client, _):
        producer = SimpleNamespace(
            producer_id=7, epoch=1, last_sequence=41, last_timestamp=1000, coordinator_epoch=-1, txn_start_offset=None
        )
        broker.partitions["t", 0].producers.active = [producer]
        asked = {"topics": [{"name": "t", "partition_indexes": [0, 1, 2]}, {"name": "u", "partition_indexes": [0]}]}
        known, unknown = (await client.call(api, 0, asked))["topics"]
        assert [entry["error_code"] for entry in known["partitions"]] == [0, 0, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
        assert known["partitions"][0]["active_producers"] == [
            {
                "producer_id": 7, "producer_epoch": 1, "last_sequence": 41, "last_timestamp": 1000,
                "coordinator_epoch": -1, "current_txn_start_offset": -1,
            }
        ]  # fmt: skip
        assert unknown["partitions"][0]["error_code"] == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION

    run(tmp_path, story)
