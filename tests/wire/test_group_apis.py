"""The group APIs on a real broker, through their codecs and handlers: behaviour, version by version."""

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace
from uuid import uuid4

import pytest

from refbroker import apis
from refbroker.broker import Broker
from refbroker.config import Config
from refbroker.errors import ErrorCode
from refbroker.group_log import TOPIC, partition_for
from refbroker.group_records import parse
from refbroker.groups import GroupCoordinator
from refbroker.log.records import iterate
from refbroker.protocol import ZERO_UUID

SERVED = apis.load()
COMMIT, FETCH, FIND, JOIN, HEARTBEAT, LEAVE, SYNC, DESCRIBE, LIST = range(8, 17)
DELETE, OFFSET_DELETE = 42, 47
SUBSCRIPTION = b"\0\0\0\0\0\1\0\1t" + b"\xff\xff\xff\xff"


@asynccontextmanager
async def started(directory, topics=None, **keys):
    given = {
        "listeners": "PLAINTEXT://127.0.0.1:0", "log.dirs": str(directory), "group.initial.rebalance.delay.ms": "0",
        "offsets.topic.num.partitions": "3", "group.min.session.timeout.ms": "50", "offset.metadata.max.bytes": "10",
    } | {key.replace("_", "."): str(value) for key, value in keys.items()}  # fmt: skip
    config, _ = Config.load(None, {}, [f"{key}={value}" for key, value in given.items()])
    broker = await Broker.start(config)
    try:
        for name, partitions in (topics or {}).items():
            await broker.metadata.create_topic(name, partitions, {}, 1)
        await broker.groups.loaded()
        yield broker
    finally:
        await broker.stop()


async def call(broker, key, version, request, client_id="c"):
    """Through the codecs of both sides, as over a connection."""
    api, handle = SERVED[key].api, SERVED[key].handle
    decoded = api.decode_request(version, api.request.encode(version, request, flexible=api.is_flexible(version)))
    context = SimpleNamespace(api_key=key, version=version, client_id=client_id, client_host="/127.0.0.1", listener="PLAINTEXT",
                              correlation_id=1)
    response = handle(broker, decoded, context)
    if asyncio.iscoroutine(response):
        response = await asyncio.wait_for(response, 60)
    return api.decode_response(version, api.response.encode(version, response, flexible=api.is_flexible(version)))


def versions(key):
    first, last = SERVED[key].api.versions
    return range(first, last + 1)


async def join(broker, group="g", version=5, member_id="", instance=None, session_ms=10_000, client_id="c"):
    request = {
        "group_id": group, "session_timeout_ms": session_ms, "rebalance_timeout_ms": session_ms, "member_id": member_id,
        "group_instance_id": instance, "protocol_type": "consumer",
        "protocols": [{"name": "range", "metadata": SUBSCRIPTION}],
    }  # fmt: skip
    response = await call(broker, JOIN, version, request, client_id)
    if response["error_code"] == ErrorCode.MEMBER_ID_REQUIRED:
        response = await join(broker, group, version, response["member_id"], instance, session_ms)
    return response


async def sync(broker, joined, group="g", version=3, instance=None, **fields):
    assignments = [{"member_id": m["member_id"], "assignment": m["member_id"].encode()} for m in joined["members"]]
    request = {
        "group_id": group, "generation_id": joined["generation_id"], "member_id": joined["member_id"],
        "group_instance_id": instance, "protocol_type": "consumer", "protocol_name": "range", "assignments": assignments,
    } | fields  # fmt: skip
    return await call(broker, SYNC, version, request)


def commit_request(broker, group="g", generation=-1, member_id="", topic="t", offsets=((0, 5),), metadata="m", epoch=2, **fields):
    known = broker.metadata.topics.get(topic)
    return {
        "group_id": group, "generation_id_or_member_epoch": generation, "member_id": member_id,
        "topics": [{
            "name": topic, "topic_id": known.topic_id if known else uuid4(),
            "partitions": [{"partition_index": number, "committed_offset": offset, "committed_leader_epoch": epoch,
                            "committed_metadata": metadata} for number, offset in offsets],
        }],
    } | fields  # fmt: skip


def codes(response):
    return [p["error_code"] for topic in response["topics"] for p in topic["partitions"]]


async def fetched(broker, group="g", version=7, topic="t", partition=0):
    """(offset, leader epoch, metadata) of one partition, asked in this version."""
    topic_id = broker.metadata.topics[topic].topic_id if topic in broker.metadata.topics else ZERO_UUID
    asked = [{"name": topic, "topic_id": topic_id, "partition_indexes": [partition]}]
    if version < 8:
        del asked[0]["topic_id"]
        response = await call(broker, FETCH, version, {"group_id": group, "topics": asked, "require_stable": True})
    else:
        request = {"groups": [{"group_id": group, "topics": asked}], "require_stable": True}
        (response,) = (await call(broker, FETCH, version, request))["groups"]
    assert response["error_code"] == ErrorCode.NONE
    (found,) = response["topics"][0]["partitions"]
    return found["committed_offset"], found["committed_leader_epoch"], found["metadata"]


def test_commit_and_fetch_in_every_version(tmp_path):
    async def main():
        async with started(tmp_path, {"t": 2}) as broker:
            for number, version in enumerate(versions(COMMIT)):
                request = commit_request(broker, group=f"g{version}", offsets=((1, number),))
                assert codes(await call(broker, COMMIT, version, request)) == [ErrorCode.NONE]
                for fetch_version in versions(FETCH):
                    epoch = 2 if version >= 6 and fetch_version >= 5 else -1
                    assert await fetched(broker, f"g{version}", fetch_version, partition=1) == (number, epoch, "m")
                    assert await fetched(broker, f"g{version}", fetch_version, partition=0) == (-1, -1, "")
            every = await call(broker, FETCH, 7, {"group_id": "g9", "topics": None})
            assert [t["name"] for t in every["topics"]] == ["t"] and codes(every) == [ErrorCode.NONE]

    asyncio.run(main())


def test_what_a_commit_is_refused_for(tmp_path):
    async def main():
        async with started(tmp_path, {"t": 2}) as broker:
            async def commit(version=7, **fields):
                return codes(await call(broker, COMMIT, version, commit_request(broker, **fields)))

            assert await commit(topic="nope") == [ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
            assert await commit(10, topic="nope") == [ErrorCode.UNKNOWN_TOPIC_ID]
            assert await commit(offsets=((0, 1), (9, 1), (-1, 1))) == [
                ErrorCode.NONE, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]  # fmt: skip
            assert await commit(metadata="m" * 11) == [ErrorCode.OFFSET_METADATA_TOO_LARGE]
            assert await commit(group="x", generation=1, member_id="m") == [ErrorCode.ILLEGAL_GENERATION]
            assert await commit(9, group="x", generation=1, member_id="m") == [ErrorCode.GROUP_ID_NOT_FOUND]
            joined = await join(broker, "busy")
            mine = {"group": "busy", "generation": 1, "member_id": joined["member_id"]}
            assert await commit(**mine) == [ErrorCode.REBALANCE_IN_PROGRESS]
            await sync(broker, joined, "busy")
            assert await commit(**mine) == [ErrorCode.NONE]
            assert await commit(**mine | {"generation": 2}) == [ErrorCode.ILLEGAL_GENERATION]
            assert await commit(group="busy") == [ErrorCode.UNKNOWN_MEMBER_ID]
            assert await commit(**mine, group_instance_id="i") == [ErrorCode.UNKNOWN_MEMBER_ID]

    asyncio.run(main())


def test_members_in_every_version(tmp_path):
    async def main():
        async with started(tmp_path) as broker:
            for version in versions(JOIN):
                group = f"g{version}"
                joined = await join(broker, group, version)
                assert (joined["error_code"], joined["generation_id"], joined["protocol_name"]) == (0, 1, "range")
                assert joined["leader"] == joined["member_id"] and len(joined["members"]) == 1
                synced = await sync(broker, joined, group, min(version, 5))
                assert (synced["error_code"], synced["assignment"]) == (0, joined["member_id"].encode())
                beat = {"group_id": group, "generation_id": 1, "member_id": joined["member_id"]}
                beats = [(await call(broker, HEARTBEAT, v, beat))["error_code"] for v in versions(HEARTBEAT)]
                assert set(beats) == {ErrorCode.NONE}
                for v in versions(DESCRIBE):
                    (described,) = (await call(broker, DESCRIBE, v, {"groups": [group], "include_authorized_operations": True}))["groups"]
                    assert (described["group_state"], described["protocol_data"]) == ("Stable", "range")
                    assert described["members"][0]["client_host"] == "/127.0.0.1"
                    assert described["authorized_operations"] == (3400 if v >= 3 else -(2**31))
                one = {"member_id": joined["member_id"]}
                for expected in (ErrorCode.NONE, ErrorCode.UNKNOWN_MEMBER_ID):
                    v = min(version, 5)
                    left = await call(broker, LEAVE, v, {"group_id": group, **one, "members": [one]})
                    assert (left["error_code"] if v < 3 else left["members"][0]["error_code"]) == expected
            listed = await call(broker, LIST, 5, {"states_filter": ["EMPTY"], "types_filter": ["Classic"]})
            assert {(g["group_id"], g["group_state"], g["group_type"]) for g in listed["groups"]} == {
                (f"g{v}", "Empty", "classic") for v in versions(JOIN)}  # fmt: skip
            assert (await call(broker, LIST, 5, {"types_filter": ["consumer"]}))["groups"] == []
            assert (await call(broker, LIST, 4, {"states_filter": ["Stable"]}))["groups"] == []

    asyncio.run(main())


def test_what_a_join_is_refused_for(tmp_path):
    async def main():
        async with started(tmp_path) as broker:
            assert (await join(broker, ""))["error_code"] == ErrorCode.INVALID_GROUP_ID
            assert (await join(broker, session_ms=49))["error_code"] == ErrorCode.INVALID_SESSION_TIMEOUT
            assert (await join(broker, session_ms=2**31 - 1))["error_code"] == ErrorCode.INVALID_SESSION_TIMEOUT
            assert (await join(broker, member_id="m"))["error_code"] == ErrorCode.UNKNOWN_MEMBER_ID
            joined = await join(broker, client_id="é" * 10_000)  # a member id must stay a string of the protocol
            assert joined["error_code"] == ErrorCode.NONE
            assert (await sync(broker, joined, version=5, protocol_name="sticky"))["error_code"] == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
            assert (await sync(broker, joined, version=5, protocol_type=None))["error_code"] == ErrorCode.INCONSISTENT_GROUP_PROTOCOL
            assert (await sync(broker, {**joined, "generation_id": 7}))["error_code"] == ErrorCode.ILLEGAL_GENERATION
            assert (await call(broker, LIST, 0, {}))["groups"][0]["group_id"] == "g"

    asyncio.run(main())


def test_a_silent_member_is_out(tmp_path):
    async def main():
        async with started(tmp_path) as broker:
            joined = await join(broker, session_ms=500)  # it must not be over before it has joined, on a busy machine either
            await sync(broker, joined)
            async with asyncio.timeout(60):
                while broker.groups.describe("g")["group_state"] != "Empty":
                    await asyncio.sleep(0.01)

    asyncio.run(main())


def test_find_coordinator(tmp_path):
    async def main():
        async with started(tmp_path) as broker:
            host, port = broker.advertised("PLAINTEXT")
            for version in versions(FIND):
                request = {"key": "g", "key_type": 0, "coordinator_keys": ["g", "h"]}
                response = await call(broker, FIND, version, request)
                found = response["coordinators"] if version >= 4 else [response]
                assert [(c["error_code"], c["node_id"], c["host"], c["port"]) for c in found] == [(0, broker.node_id, host, port)] * len(found)
                if version >= 1:
                    response = await call(broker, FIND, version, {**request, "key_type": 1})
                    refused = response["coordinators"][0] if version >= 4 else response
                    assert refused["error_code"] == ErrorCode.INVALID_REQUEST and "transactions" in refused["error_message"]
            assert broker.metadata.topics[TOPIC].partitions == 3

    asyncio.run(main())


def test_delete_groups_and_offsets(tmp_path):
    async def main():
        async with started(tmp_path, {"t": 2, "u": 1}) as broker:
            joined = await join(broker)
            await sync(broker, joined)
            for topic in ("t", "u"):
                request = commit_request(broker, generation=1, member_id=joined["member_id"], topic=topic)
                assert codes(await call(broker, COMMIT, 7, request)) == [0]
            asked = [{"name": name, "partitions": [{"partition_index": 0}]} for name in ("t", "u", "nope")]
            deleted = await call(broker, OFFSET_DELETE, 0, {"group_id": "g", "topics": asked})
            assert codes(deleted) == [ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC, ErrorCode.NONE, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION]
            assert await fetched(broker, topic="u") == (-1, -1, "") and (await fetched(broker))[0] == 5
            for version in versions(DELETE):
                results = (await call(broker, DELETE, version, {"groups_names": ["g", "nope"]}))["results"]
                assert [r["error_code"] for r in results] == [ErrorCode.NON_EMPTY_GROUP, ErrorCode.GROUP_ID_NOT_FOUND]
                assert version < 3 or results[1]["error_message"] == "Group nope not found."
            await call(broker, LEAVE, 5, {"group_id": "g", "members": [{"member_id": joined["member_id"]}]})
            results = (await call(broker, DELETE, 2, {"groups_names": ["g"]}))["results"]
            assert [r["error_code"] for r in results] == [ErrorCode.NONE]
            assert (await fetched(broker))[0] == -1
            assert (await call(broker, OFFSET_DELETE, 0, {"group_id": "g", "topics": []}))["error_code"] == ErrorCode.GROUP_ID_NOT_FOUND
            (dead,) = (await call(broker, DESCRIBE, 5, {"groups": ["g"]}))["groups"]
            assert (dead["error_code"], dead["group_state"]) == (0, "Dead")
            (dead,) = (await call(broker, DESCRIBE, 6, {"groups": ["g"]}))["groups"]
            assert dead["error_code"] == ErrorCode.GROUP_ID_NOT_FOUND

    asyncio.run(main())


def test_records_are_kafkas_and_a_restart_brings_everything_back(tmp_path):
    """Bytes of the keys and values as Apache Kafka 4.4 writes them; C8.2 over a clean restart."""

    async def main():
        async with started(tmp_path, {"t": 1}) as broker:
            joined = await join(broker, instance="i")
            await sync(broker, joined, instance="i")
            request = commit_request(broker, generation=1, member_id=joined["member_id"], group_instance_id="i")
            assert codes(await call(broker, COMMIT, 7, request)) == [0]
            described, topic_id = broker.groups.describe("g"), broker.metadata.topics["t"].topic_id
            partition = broker.partition(TOPIC, partition_for("g", 3))
            records = [r for batch in partition.read_batches(0) for r in iterate(batch, bytes_max=1 << 20)]
            assert [bytes(r.key) for r in records] == [b"\0\2\0\1g", b"\0\1\0\1g\0\1t\0\0\0\0"]
            stamp = parse(records[1].key, records[1].value).committed.commit_timestamp_ms.to_bytes(8, "big")
            expected = b"\0\4" + (5).to_bytes(8, "big") + b"\0\0\0\2" + b"\2m" + stamp + b"\1\0\x10" + topic_id.bytes
            assert bytes(records[1].value) == expected
            assert bytes(records[0].value).startswith(b"\0\3\0\x08consumer\0\0\0\1\0\5range")
        async with started(tmp_path) as broker:
            assert broker.groups.describe("g") == described
            assert await fetched(broker) == (5, 2, "m")
            again = await join(broker, instance="i", version=9)
            assert again["generation_id"] == 1 and again["skip_assignment"] and again["member_id"] != joined["member_id"]

    asyncio.run(main())


def test_offsets_end_with_their_topic(tmp_path, monkeypatch):
    """C8.4: an offset never names records of another topic that has the name now."""

    async def main():
        async with started(tmp_path, {"t": 1}) as broker:
            assert codes(await call(broker, COMMIT, 7, commit_request(broker))) == [0]

            async def lost(name):
                """As if the broker had died between the removal and the tombstones."""

            monkeypatch.setattr(broker.groups, "topic_deleted", lost)
            await broker.metadata.delete_topic("t")
            await broker.metadata.create_topic("t", 1, {}, 1)
            monkeypatch.undo()
            assert await broker.groups.committed("g", stable=True)
            for version in versions(FETCH):
                assert await fetched(broker, version=version) == (-1, -1, "")
            assert (await call(broker, FETCH, 7, {"group_id": "g", "topics": None}))["topics"] == []
            assert codes(await call(broker, COMMIT, 7, commit_request(broker))) == [0]
            await broker.metadata.delete_topic("t")
            assert not await broker.groups.committed("g", stable=True)

    asyncio.run(main())


def test_offsets_of_a_topic_that_went_while_nobody_looked_are_dropped_at_start(tmp_path, monkeypatch):
    async def lost(self, name):
        """As if the broker had died between the removal and the tombstones."""

    async def main():
        async with started(tmp_path, {"t": 1}) as broker:
            assert codes(await call(broker, COMMIT, 7, commit_request(broker))) == [0]
            monkeypatch.setattr(GroupCoordinator, "topic_deleted", lost)
            await broker.metadata.delete_topic("t")
            monkeypatch.undo()
        async with started(tmp_path) as broker:
            assert not await broker.groups.committed("g", stable=True)

    asyncio.run(main())


@pytest.mark.parametrize("key", [COMMIT, FETCH, FIND, JOIN, HEARTBEAT, LEAVE, SYNC, DESCRIBE, LIST])
def test_while_loading(tmp_path, key):
    """COORDINATOR_LOAD_IN_PROGRESS; a heartbeat is fine, its session has not begun."""

    async def main():
        async with started(tmp_path, {"t": 1}) as broker:
            await call(broker, COMMIT, 7, commit_request(broker))
            broker.groups._log._loading.add(partition_for("g", 3))
            name = {"group_id": "g", "member_id": "m"}
            version, request = {
                COMMIT: (7, commit_request(broker)), FETCH: (7, {"group_id": "g", "topics": None}), FIND: (3, {"key": "g"}),
                JOIN: (5, {**name, "session_timeout_ms": 10_000, "rebalance_timeout_ms": 1, "protocol_type": "", "protocols": []}),
                HEARTBEAT: (3, {**name, "generation_id": 1}), LEAVE: (2, name), LIST: (0, {}), DESCRIBE: (3, {"groups": ["g"]}),
                SYNC: (3, {**name, "generation_id": 1, "assignments": []}),
            }[key]  # fmt: skip
            response = await call(broker, key, version, request)
            if key == COMMIT:
                code = codes(response)[0]
            else:
                code = response["groups"][0]["error_code"] if key == DESCRIBE else response["error_code"]
            assert code == (ErrorCode.NONE if key in (HEARTBEAT, FIND) else ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)

    asyncio.run(main())
