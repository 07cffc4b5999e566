"""What the group APIs answer while the partition of __consumer_offsets is damaged, offline, gone or full, and what its load makes of
records that no broker of ours wrote: all groups of the other partitions are served."""

import asyncio
import struct

import pytest
from test_group_apis import COMMIT, DELETE, FETCH, call, codes, commit_request, fetched, join, started, versions

from refbroker import group_log, groups
from refbroker.errors import ErrorCode, KafkaError
from refbroker.group_log import TOPIC, partition_for
from refbroker.group_records import Committed, offset_key, offset_value
from refbroker.log.batch import parse
from refbroker.log.disk import Disk
from refbroker.log.records import CONTROL_ABORT, CONTROL_COMMIT, Record, build

PARTITIONS = 3
OTHER = next(name for name in "abcdefgh" if partition_for(name, PARTITIONS) != partition_for("g", PARTITIONS))


def partition_of(broker, group="g"):
    return broker.partition(TOPIC, partition_for(group, PARTITIONS))


def committed(group, offset, **fields):
    """One record of a commit, as a batch of these settings."""
    value = offset_value(Committed(offset, -1, "m", 0))
    return build([Record(0, 0, offset_key(group, "t", 0), value)], **fields)


@pytest.mark.parametrize("version", versions(FETCH))
def test_an_error_is_where_each_version_has_it(tmp_path, version):
    async def main():
        async with started(tmp_path, {"t": 1}) as broker:
            assert codes(await call(broker, COMMIT, 7, commit_request(broker))) == [0]
            partition_of(broker).go_offline("told so")
            topic_id = broker.metadata.topics["t"].topic_id
            asked = {"name": "t", "partition_indexes": [0, 1]}
            if version < 8:
                answer = await call(broker, FETCH, version, {"group_id": "g", "topics": [asked]})
            else:
                both = [{"group_id": name, "topics": [asked | {"topic_id": topic_id}]} for name in ("g", OTHER)]
                answer, other = (await call(broker, FETCH, version, {"groups": both}))["groups"]
                assert other["error_code"] == ErrorCode.NONE and codes(other) == [0, 0] or version >= 10
            if version < 2:
                assert codes(answer) == [ErrorCode.NOT_COORDINATOR] * 2
            else:
                assert answer["error_code"] == ErrorCode.NOT_COORDINATOR and answer["topics"] == []

    asyncio.run(main())


def test_a_damaged_partition_costs_its_own_groups_only(tmp_path, caplog):
    async def main():
        async with started(tmp_path, {"t": 1}) as broker:
            for group in ("g", OTHER):
                assert codes(await call(broker, COMMIT, 7, commit_request(broker, group=group))) == [0]
            path = partition_of(broker).active.path
        content = bytearray(Disk().open(path).pread(1 << 20, 0))
        content[-1] ^= 1  # of a record: a clean start does not look there
        Disk().open(path).truncate(0)
        Disk().open(path).append([content])
        async with started(tmp_path) as broker:
            assert await fetched(broker, group=OTHER) == (5, 2, "m")
            assert (await join(broker))["error_code"] == ErrorCode.COORDINATOR_NOT_AVAILABLE
            assert codes(await call(broker, COMMIT, 7, commit_request(broker))) == [ErrorCode.COORDINATOR_NOT_AVAILABLE]

    asyncio.run(main())
    assert "cannot be loaded, its groups are not served" in caplog.text


def test_transactions_and_nonsense_of_other_brokers(tmp_path, caplog, monkeypatch):
    """What a transaction committed counts, from its marker on; what it aborted does not; neither does what nobody can read."""
    monkeypatch.setattr(group_log, "RECORDS_PER_TURN", 2)

    def marker(kind, producer):
        key = struct.pack(">hh", 0, kind) if kind is not None else None
        return build([Record(0, 0, key, struct.pack(">hi", 0, 1))], producer_id=producer, producer_epoch=0, control=True, transactional=True)

    def part(offset, producer):
        return committed("g", offset, producer_id=producer, producer_epoch=0, base_sequence=0, transactional=True)

    written = [
        committed("g", 1), part(2, 7), part(3, 8), marker(CONTROL_ABORT, 8), marker(None, 9), marker(CONTROL_COMMIT, 10),
        build([Record(0, 0, b"\0\1not a key", b"\0\1")]), build([Record(0, 0, None, None)]), build([Record(0, 0, b"\0\x63k", b"")]),
        build([Record(0, 0, offset_key("g", "t", 0), struct.pack(">h", 99))]), marker(CONTROL_COMMIT, 7), part(4, 11),
    ]  # fmt: skip

    async def main():
        async with started(tmp_path, {"t": 1}) as broker:
            await broker.groups.committed("g", stable=True)
            await call(broker, COMMIT, 7, commit_request(broker, group=OTHER))
            partition = partition_of(broker)
            for data in written:
                struct.pack_into(">q", data, 0, partition.log_end_offset)
                partition.active.append([parse(data)])
                partition.log_end_offset += 1
            partition.high_watermark = partition.log_end_offset
        async with started(tmp_path) as broker:
            assert (await fetched(broker))[0] == 2
            assert (await fetched(broker, group=OTHER))[0] == 5

    asyncio.run(main())
    assert caplog.text.count("is not a group record") == 4


def test_a_commit_of_nothing_is_fine_and_metadata_of_a_member_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(groups, "JOIN_BYTES_MAX", 5)

    async def main():
        async with started(tmp_path, {"t": 1}) as broker:
            assert (await call(broker, COMMIT, 7, commit_request(broker) | {"topics": []}))["topics"] == []
            assert (await join(broker))["error_code"] == ErrorCode.UNKNOWN_SERVER_ERROR

    asyncio.run(main())


def test_what_cannot_be_written_is_not_forgotten(tmp_path, caplog):
    """A group that is deleted, and a topic whose offsets go with it."""

    async def main():
        async with started(tmp_path, {"t": 1}) as broker:
            assert codes(await call(broker, COMMIT, 7, commit_request(broker))) == [0]

            async def full(partition, records):
                raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, "no space")

            append, broker.append = broker.append, full
            (deleted,) = (await call(broker, DELETE, 2, {"groups_names": ["g"]}))["results"]
            assert deleted["error_code"] == ErrorCode.NOT_COORDINATOR
            broker.append = append
            assert await fetched(broker) == (5, 2, "m")
            partition_of(broker).go_offline("told so")
            await broker.metadata.delete_topic("t")
            broker.groups.expire()  # neither does this
            assert broker.groups._offsets.of("g")

    asyncio.run(main())
    assert "group g keeps its offsets of the deleted topic t" in caplog.text


def test_the_topic_of_the_groups_is_deleted_under_them(tmp_path):
    """So are all groups; who waits for a rebalance is not left waiting for ever."""

    async def main():
        async with started(tmp_path, {"t": 1}) as broker:
            joined = await join(broker)
            await broker.metadata.delete_topic(TOPIC)
            again = await join(broker, member_id=joined["member_id"])
            assert again["error_code"] == ErrorCode.UNKNOWN_MEMBER_ID
            assert (await join(broker))["generation_id"] == 1
            assert broker.metadata.topics[TOPIC].partitions == PARTITIONS

    asyncio.run(main())


def test_offsets_expire_by_the_clock(tmp_path):
    async def main():
        keys = {"offsets_retention_minutes": 1, "offsets_retention_check_interval_ms": 20}
        async with started(tmp_path, {"t": 1}, **keys) as broker:
            assert codes(await call(broker, COMMIT, 7, commit_request(broker))) == [0]
            await asyncio.sleep(0.06)
            assert (await fetched(broker))[0] == 5
            now = broker.clock()
            broker.clock = lambda: now + 61_000
            while (await fetched(broker))[0] != -1:
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_broker_that_stops_tells_who_still_commits(tmp_path):
    async def main():
        async with started(tmp_path, {"t": 1}) as broker:
            await join(broker, group=OTHER)
            never = asyncio.get_running_loop().create_future()

            async def endless(partition, records):
                await never

            broker.append = endless
            commit = asyncio.create_task(call(broker, COMMIT, 7, commit_request(broker)))
            while not any(broker.groups._log._writes.values()):
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.01)
        assert codes(await commit) == [ErrorCode.COORDINATOR_NOT_AVAILABLE]

    asyncio.run(main())


