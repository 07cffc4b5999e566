"""Committed offsets: the live map is the replay of the log (C8.3), an acknowledged commit is seen and an unacknowledged
one is not (C8.1, C8.2), and the records of __consumer_offsets are read strictly."""

import asyncio
import random
from types import SimpleNamespace
from uuid import UUID

import pytest
from hypothesis import given, settings, strategies as st

from refbroker.errors import ErrorCode, KafkaError
from refbroker.group_core import Outside, Settings, State
from refbroker.group_log import CHUNK_BYTES, TOPIC, chunks, java_hash, partition_for
from refbroker.group_members import Join, Member
from refbroker.group_records import (
    GROUP_VALUE, OFFSET_VALUE, Committed, GroupRecord, OffsetRecord, group_key, group_value, offset_key, offset_value, parse,
)  # fmt: skip
from refbroker.group_state import Group
from refbroker.groups import Commit, GroupCoordinator
from refbroker.log import batch as batches
from refbroker.log.records import Record, build
from refbroker.offsets import Offsets
from refbroker.protocol import ProtocolError

DAY_MS = 86_400_000


class LogOfBatches:
    """A partition in memory. Every batch is in the log at once; when, and whether, it is acknowledged is up to `broker`."""

    def __init__(self):
        self.batches = []
        self.log_start_offset = self.log_end_offset = 0

    def read_batches(self, offset, upto):
        return iter(self.batches)


class Broker:
    def __init__(self, partitions=2, logs=None):
        self.config = SimpleNamespace(
            offsets_topic_num_partitions=partitions, group_initial_rebalance_delay_ms=0, group_max_size=10,
            group_min_session_timeout_ms=1, group_max_session_timeout_ms=10**6, offsets_retention_minutes=1440,
            offsets_retention_check_interval_ms=10**9,
        )  # fmt: skip
        self.now = 1_000_000
        self.logs = logs or {n: LogOfBatches() for n in range(partitions)}
        self.metadata = SimpleNamespace(topics={
            TOPIC: SimpleNamespace(topic_id=UUID(int=9), partitions=partitions), "t": None, "u": None,
        })  # fmt: skip
        self.waiting = []

    def clock(self):
        return self.now

    def partition(self, topic, number):
        return self.logs[number]

    async def append(self, log, records):
        """In the log now; acknowledged when the test says so."""
        batch = batches.parse(memoryview(records))
        batches.stamp(batch, log.log_end_offset, 0)
        log.batches.append(batches.parse(memoryview(bytes(records))))
        log.log_end_offset += batch.record_count
        acknowledged = asyncio.get_running_loop().create_future()
        self.waiting.append(acknowledged)
        await acknowledged

    async def acknowledge(self, chance, all=False):
        """Acknowledge appends, in any order: as many as `chance` likes."""
        await asyncio.sleep(0)
        while self.waiting and (all or chance.random() < 0.5):
            self.waiting.pop(chance.randrange(len(self.waiting))).set_result(None)
            await asyncio.sleep(0)
        await asyncio.sleep(0)


def contents(groups):
    return {group: dict(groups._offsets.of(group)) for group in groups._offsets}


async def started(broker):
    groups = GroupCoordinator(broker)
    await groups.start()
    await groups.loaded()
    return groups


@settings(max_examples=120, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 40))
def test_the_live_map_is_the_replay_of_the_log(seed, steps):
    """C8.3, whatever is on its way while groups are deleted, offsets deleted, topics deleted, offsets expired."""
    chance = random.Random(seed)

    async def main():
        broker = Broker()
        groups = await started(broker)
        tasks, acked = [], {}

        async def commit(group, topic, number, offset):
            committed = Committed(offset, -1, "", broker.now)
            error = await groups.commit(group, "", None, -1, [Commit(topic, number, committed)], version=8)
            assert error is ErrorCode.NONE
            acked[group, topic, number] = committed  # the last one to be acknowledged is the last one in the log

        async def quietly(work):
            try:
                await work
            except KafkaError:
                pass

        for step in range(steps):
            group, topic, number = chance.choice("abc"), chance.choice("tu"), chance.randrange(2)
            what = chance.random()
            broker.now += chance.choice([0, 1000, DAY_MS // 2])
            if what < 0.6:
                work = commit(group, topic, number, step)
            elif what < 0.7:
                work = quietly(groups.delete(group))
            elif what < 0.8:
                work = quietly(groups.delete_offsets(group, [(topic, number)]))
            elif what < 0.9:
                work = groups.topic_deleted(topic)
            else:
                groups.expire()
                continue
            tasks.append(asyncio.create_task(work))
            await broker.acknowledge(chance)
        while broker.waiting or not all(task.done() for task in tasks):
            await broker.acknowledge(chance, all=True)
        await asyncio.gather(*tasks)
        for _ in range(10):  # a group that became empty writes its tombstones in the background: they are to be applied, too
            await asyncio.sleep(0)
            while broker.waiting:
                await broker.acknowledge(chance, all=True)
        again = await started(Broker(logs=broker.logs))
        assert contents(again) == contents(groups)
        assert set(again._groups) >= set(contents(again)) and set(groups._groups) >= set(contents(groups))
        for group, offsets in contents(groups).items():
            for position, committed in offsets.items():
                assert acked[group, *position] == committed, "not the last acknowledged commit"

    asyncio.run(main())


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 12))
def test_a_commit_is_seen_when_it_is_acknowledged_and_not_before(seed, count):
    """C8.1, C8.2: also where a later append is durable before an earlier one."""
    chance = random.Random(seed)

    async def main():
        broker = Broker(partitions=1)
        groups = await started(broker)
        done = []

        async def commit(offset):
            assert await groups.commit("g", "", None, -1, [Commit("t", 0, Committed(offset, -1, "", 0))], version=8) is ErrorCode.NONE
            done.append(offset)
            assert (await groups.committed("g", stable=False))["t", 0].offset >= offset

        tasks = [asyncio.create_task(commit(offset)) for offset in range(count)]
        while len(broker.waiting) < count:
            await asyncio.sleep(0)
        stable = asyncio.create_task(groups.committed("g", stable=True))
        acknowledged = list(broker.waiting)
        while broker.waiting:
            await broker.acknowledge(chance)
            until = next((n for n, future in enumerate(acknowledged) if not future.done()), count)
            seen = (await groups.committed("g", stable=False)).get(("t", 0))
            assert (seen.offset if seen else -1) == until - 1, "not all, or more than all up to the first that waits"
            assert done == list(range(until))
        await asyncio.gather(*tasks)
        assert (await stable)["t", 0].offset == count - 1

    asyncio.run(main())


def test_a_failed_append_changes_nothing():
    async def main():
        broker = Broker(partitions=1)
        groups = await started(broker)
        for error, expected in [
            (ErrorCode.KAFKA_STORAGE_ERROR, ErrorCode.NOT_COORDINATOR),
            (ErrorCode.MESSAGE_TOO_LARGE, ErrorCode.INVALID_COMMIT_OFFSET_SIZE),
            (ErrorCode.NOT_ENOUGH_REPLICAS, ErrorCode.COORDINATOR_NOT_AVAILABLE),
        ]:
            task = asyncio.create_task(groups.commit("g", "", None, -1, [Commit("t", 0, Committed(1, -1, "", 0))], version=8))
            while not broker.waiting:
                await asyncio.sleep(0)
            broker.waiting.pop().set_exception(KafkaError(error))
            assert await task is expected
        assert contents(groups) == {} and groups.listed() == []

    asyncio.run(main())


def test_an_expiry_never_overtakes_a_commit():
    """A tombstone behind a commit that is on its way would take an acknowledged offset away (C8.2)."""

    async def main():
        broker = Broker(partitions=1)
        groups = await started(broker)
        chance = random.Random(1)

        async def commit(offset):
            return await groups.commit("g", "", None, -1, [Commit("t", 0, Committed(offset, -1, "", broker.now))], version=8)

        first = asyncio.create_task(commit(1))
        while not first.done():
            await broker.acknowledge(chance, all=True)
        broker.now += 2 * DAY_MS
        second = asyncio.create_task(commit(2))
        await asyncio.sleep(0)
        groups.expire()
        while not second.done():
            await broker.acknowledge(chance, all=True)
        assert contents(groups)["g"]["t", 0].offset == 2
        groups.expire()
        assert contents(groups)["g"]["t", 0].offset == 2
        broker.now += 2 * DAY_MS
        groups.expire()
        for _ in range(100):  # counted: with offsets that come back it would never end
            await broker.acknowledge(chance, all=True)
        assert contents(groups) == {} and groups.listed() == []

    asyncio.run(main())


def test_transactional_offsets_count_from_their_commit_marker():
    async def main():
        broker = Broker(partitions=1)
        log = broker.logs[0]

        def add(records, producer, **kind):
            stored = build([Record(i, 0, k, v, []) for i, (k, v) in enumerate(records)], producer_id=producer,
                           producer_epoch=0, base_sequence=-1, transactional=True, **kind)  # fmt: skip
            log.batches.append(batches.parse(memoryview(bytes(stored))))

        for producer, marker in ((1, 1), (2, 0), (3, None)):
            add([(offset_key("g", "t", producer), offset_value(Committed(producer, -1, "", 0)))], producer)
            if marker is not None:
                add([(b"\0\0" + marker.to_bytes(2, "big"), b"\0\0\0\0\0\0")], producer, control=True)
        groups = await started(broker)
        assert {position for position in contents(groups)["g"]} == {("t", 1)}

    asyncio.run(main())


# Expiry


def group_in(state, protocol_type="consumer", subscribed=frozenset(), since_ms=0):
    outside = Outside(Settings(0, 10), lambda delay, callback: None, lambda: 0, str, lambda *_: None, lambda _: None)
    group = Group("g", outside)
    group.protocol_type, group.subscribed, group.state, group.state_timestamp_ms = protocol_type, subscribed, state, since_ms
    if state is not State.EMPTY:
        group.members.add(Member("m", Join("m", None, "c", "h", 1, 1, protocol_type, (("range", b""),))))
    return group


@pytest.mark.parametrize("group, committed, expired", [
    (group_in(State.EMPTY, None), Committed(1, -1, "", 50), True),  # simple: since its commit
    (group_in(State.EMPTY, None), Committed(1, -1, "", 51), False),
    (group_in(State.EMPTY, since_ms=51), Committed(1, -1, "", 0), False),  # since the group is empty
    (group_in(State.EMPTY, since_ms=50), Committed(1, -1, "", 0), True),
    (group_in(State.EMPTY, since_ms=-1), Committed(1, -1, "", 50), True),  # stored by an old broker
    (group_in(State.STABLE, subscribed=frozenset("t")), Committed(1, -1, "", 0), False),
    (group_in(State.STABLE, subscribed=frozenset("u")), Committed(1, -1, "", 0), True),
    (group_in(State.STABLE, subscribed=None), Committed(1, -1, "", 0), False),
    (group_in(State.STABLE, "connect"), Committed(1, -1, "", 0), False),
    (group_in(State.PREPARING_REBALANCE), Committed(1, -1, "", 0), False),
    (group_in(State.EMPTY, None), Committed(1, -1, "", 100, 149), True),  # the client's own retention time
    (group_in(State.EMPTY, None), Committed(1, -1, "", 0, 151), False),
])  # fmt: skip
def test_what_expires(group, committed, expired):
    offsets = Offsets()
    offsets.apply(OffsetRecord("g", "t", 0, committed))
    found = offsets.expired(group, now_ms=150, retention_ms=100)
    assert found.positions == ([("t", 0)] if expired else []) and found.leaves_some is not expired


# Records

TEXT = st.text(max_size=20)
INT32 = st.integers(-(2**31), 2**31 - 1)
INT64 = st.integers(-(2**63), 2**63 - 1)


@given(TEXT, TEXT, INT32, st.builds(Committed, INT64, INT32, TEXT, INT64, st.just(-1), st.uuids()))
def test_offset_records_round_trip(group, topic, partition, committed):
    key = offset_key(group, topic, partition)
    assert parse(key, offset_value(committed)) == OffsetRecord(group, topic, partition, committed)
    assert parse(key, None) == OffsetRecord(group, topic, partition, None)


@given(st.integers(0, 4), INT64, INT32, TEXT, INT64)
def test_offset_values_of_every_version_are_read(version, offset, epoch, metadata, stamp):
    value = {"offset": offset, "leader_epoch": epoch, "metadata": metadata, "commit_timestamp": stamp}
    data = version.to_bytes(2, "big") + OFFSET_VALUE.encode(version, value, flexible=version == 4)
    expected = Committed(offset, epoch if version >= 3 else -1, metadata, stamp)
    assert parse(b"\0\0" + offset_key("g", "t", 0)[2:], data).committed == expected


@given(st.integers(0, 4), st.lists(st.tuples(TEXT, st.none() | TEXT, st.binary(max_size=9)), max_size=3), TEXT)
def test_group_values_of_every_version_are_read(version, members, protocol):
    value = {
        "protocol_type": "consumer", "generation": 3, "protocol": protocol, "leader": None,
        "members": [{
            "member_id": name, "group_instance_id": instance, "client_id": "c", "client_host": "/h", "session_timeout": 7,
            "subscription": data, "assignment": data,
        } for name, instance, data in members],
    }  # fmt: skip
    data = version.to_bytes(2, "big") + GROUP_VALUE.encode(version, value, flexible=version == 4)
    read = parse(group_key("g"), data).value
    assert [m["subscription"] for m in read["members"]] == [data for _, _, data in members]
    assert all(m["rebalance_timeout"] == -1 for m in read["members"]) and read["current_state_timestamp"] == -1
    group = group_in(State.EMPTY)
    try:
        group.restore(read)
    except ProtocolError:
        names = [name for name, _, _ in members]
        instances = [instance for _, instance, _ in members if instance is not None]
        assert len(set(names)) < len(names) or len(set(instances)) < len(instances)
    else:
        assert group.state is (State.STABLE if members else State.EMPTY)
        assert parse(group_key("g"), group_value(group.snapshot({m.member_id: m.assignment for m in group.members}))).value


@given(st.binary(max_size=40), st.none() | st.binary(max_size=80))
def test_hostile_records_are_refused_and_nothing_else(key, value):
    for kind in (b"", b"\0\0", b"\0\1", b"\0\2"):
        try:
            found = parse(kind + key, value)
        except ProtocolError:
            continue
        assert found is None or isinstance(found, (OffsetRecord, GroupRecord))


def test_kinds_of_newer_groups_are_left_alone():
    assert parse(b"\0\3\0\1g", b"\0\0whatever") is None


@given(st.lists(st.integers(0, 2 * CHUNK_BYTES), max_size=8))
def test_chunks_keep_order_and_size(sizes):
    records = [(bytes([n]), bytes(size)) for n, size in enumerate(sizes)]
    found = list(chunks(records))
    assert [record for chunk in found for record in chunk] == records
    assert all(len(chunk) == 1 or sum(len(v) for _, v in chunk) <= CHUNK_BYTES for chunk in found)


def test_partition_of_a_group_is_kafkas():
    """Values of Java's String.hashCode, one of them with a character beyond 16 bits, one of them Integer.MIN_VALUE."""
    assert [java_hash(text) for text in ("", "hello", "\U0001d11e", "polygenelubricants")] == [0, 99162322, 1772394, -(2**31)]
    assert partition_for("polygenelubricants", 50) == 0 and partition_for("hello", 50) == 22
