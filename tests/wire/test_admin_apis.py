"""Do the APIs for topics and cluster answer as Apache Kafka does, in every version? (Real clients: `tests/clients`.)"""

import errno
import struct
import uuid

import pytest
from admin import (
    CLUSTER,
    DELETE,
    LOG_DIRS,
    METADATA,
    PARTITIONS,
    SERVED,
    TOPIC_PARTITIONS,
    call,
    codes,
    create,
    new_topic,
    with_broker,
)

from refbroker.errors import ErrorCode
from refbroker.protocol import ZERO_UUID, ProtocolError, read_request_header
from refbroker.topic_rules import AUTHORIZED_CLUSTER, AUTHORIZED_TOPIC, NOT_ASKED

# ---------------------------------------------------------------- CreateTopics


@pytest.mark.parametrize("version", range(2, 8))
def test_create_topics_in_every_version(version):
    async def test(broker) -> None:
        wanted = new_topic("orders", 3, 1, {"retention.ms": "1000"})
        (row,) = await create(broker, wanted, version=version)
        assert (row["name"], row["error_code"], row["error_message"]) == ("orders", 0, None)
        assert len([place for place in broker.logs.partitions if place[0] == "orders"]) == 3
        if version >= 5:
            assert (row["num_partitions"], row["replication_factor"]) == (3, 1)
            configs = {config["name"]: config for config in row["configs"]}
            assert (configs["retention.ms"]["value"], configs["retention.ms"]["config_source"]) == ("1000", 1)
            assert (configs["segment.bytes"]["value"], configs["segment.bytes"]["config_source"]) == ("1073741824", 5)
            assert not any(config["read_only"] or config["is_sensitive"] for config in row["configs"])
        assert row["topic_id"] == (broker.metadata.topics["orders"].topic_id if version >= 7 else ZERO_UUID)

    with_broker(test)


REFUSED = [
    (new_topic("taken", 1, 1), "TOPIC_ALREADY_EXISTS", "Topic 'taken' already exists."),
    (new_topic("", 1, 1), "INVALID_TOPIC_EXCEPTION", "the empty string is not allowed"),
    (new_topic("..", 1, 1), "INVALID_TOPIC_EXCEPTION", "'..' is not allowed"),
    (new_topic("a" * 250, 1, 1), "INVALID_TOPIC_EXCEPTION", "longer than the max allowed length 249"),
    (new_topic("a/b", 1, 1), "INVALID_TOPIC_EXCEPTION", "ASCII alphanumerics"),
    (new_topic("dot_ted", 1, 1), "INVALID_TOPIC_EXCEPTION", "collides with existing topic: dot.ted"),
    (new_topic("__cluster_metadata", 1, 1), "INVALID_REQUEST", "prohibited"),
    (new_topic("x", 0, 1), "INVALID_PARTITIONS", "non-positive"),
    (new_topic("x", -2, 1), "INVALID_PARTITIONS", "non-positive"),
    (new_topic("x", 1, 0), "INVALID_REPLICATION_FACTOR", "larger than 0"),
    (new_topic("x", 1, 3), "INVALID_REPLICATION_FACTOR", "only 1 broker(s) are registered"),
    (new_topic("x", 10_001, 1), "POLICY_VIOLATION", "Excessively large"),
    (new_topic("x", 1, 1, {"no.such.key": "1"}), "INVALID_CONFIG", "no.such.key"),
    (new_topic("x", 1, 1, {"retention.ms": "soon"}), "INVALID_CONFIG", "soon"),
    (
        new_topic("x", 1, 1, {"retention.ms": None}),
        "INVALID_CONFIG",
        "Null value not supported for topic configs: retention.ms",
    ),
    (new_topic("x", -1, 1, assignments=[(0, [1])]), "INVALID_REQUEST", "replication factor was not set to -1"),
    (new_topic("x", 1, -1, assignments=[(0, [1])]), "INVALID_REQUEST", "numPartitions was not set to -1"),
    (
        new_topic("x", assignments=[(0, [1]), (0, [1])]),
        "INVALID_REPLICA_ASSIGNMENT",
        "multiple manual partition assignments",
    ),
    (new_topic("x", assignments=[(0, [1]), (2, [1])]), "INVALID_REPLICA_ASSIGNMENT", "consecutive 0-based"),
    (new_topic("x", assignments=[(0, [])]), "INVALID_REPLICA_ASSIGNMENT", "empty replica list"),
    (new_topic("x", assignments=[(0, [7])]), "INVALID_REPLICA_ASSIGNMENT", "broker 7"),
    (new_topic("x", assignments=[(0, [1, 1])]), "INVALID_REPLICA_ASSIGNMENT", "more than once"),
]


def test_create_topics_that_are_refused():
    async def test(broker) -> None:
        await broker.metadata.create_topic("taken", 1)
        await broker.metadata.create_topic("dot.ted", 1)
        before = set(broker.logs.partitions)
        for validate_only in (True, False):
            for wanted, code, words in REFUSED:
                (row,) = await create(broker, wanted, validate_only=validate_only)
                assert codes([row]) == [code], wanted
                assert words in row["error_message"]
                assert (row["topic_id"], row["num_partitions"]) == (ZERO_UUID, -1)
        assert set(broker.logs.partitions) == before

    with_broker(test)


def test_create_topics_defaults_assignments_duplicates_and_validate_only():
    async def test(broker) -> None:
        (row,) = await create(broker, new_topic("dry", 2), validate_only=True)
        assert (row["error_code"], row["num_partitions"], row["topic_id"]) == (0, 2, ZERO_UUID)
        assert not broker.metadata.topics
        rows = await create(
            broker, new_topic("plain"), new_topic("twice", 1), new_topic("manual", assignments=[(1, [1]), (0, [1])]),
            new_topic("twice", 2), new_topic("bad", 0))  # fmt: skip
        assert [row["name"] for row in rows] == ["plain", "twice", "manual", "bad"]
        assert codes(rows) == ["NONE", "INVALID_REQUEST", "NONE", "INVALID_PARTITIONS"]
        assert {name: topic.partitions for name, topic in broker.metadata.topics.items()} == {"plain": 4, "manual": 2}

    with_broker(test, "num.partitions=4")


# ---------------------------------------------------------------- DeleteTopics


@pytest.mark.parametrize("version", range(1, 7))
def test_delete_topics_in_every_version(version):
    async def test(broker) -> None:
        for name in ("one", "two", "three"):
            await broker.metadata.create_topic(name, 2)
        two, unknown = broker.metadata.topics["two"].topic_id, uuid.uuid4()
        topics = [{"name": "one"}, {"name": "absent"}]
        if version >= 6:
            topics = [{"name": "one"}, {"name": None, "topic_id": two}, {"name": "absent"},
                      {"name": None, "topic_id": unknown},
                      {"name": None}, {"name": "three", "topic_id": two}]  # fmt: skip
        request = {"topics": topics, "topic_names": ["one", "absent"], "timeout_ms": 1000}
        rows = (await call(broker, DELETE, version, request))["responses"]
        if version >= 6:
            assert [row["name"] for row in rows] == ["one", "two", "absent", None, None, "three"]
            assert codes(rows) == [
                "NONE",
                "NONE",
                "UNKNOWN_TOPIC_OR_PARTITION",
                "UNKNOWN_TOPIC_ID",
                "INVALID_REQUEST",
                "INVALID_REQUEST",
            ]
            assert rows[1]["topic_id"] == two
            assert set(broker.metadata.topics) == {"three"}
        else:
            assert codes(rows) == ["NONE", "UNKNOWN_TOPIC_OR_PARTITION"]
            assert set(broker.metadata.topics) == {"two", "three"}
        assert ("one", 0) not in broker.logs.partitions

    with_broker(test)


def test_delete_topics_named_twice_or_not_allowed():
    async def test(broker) -> None:
        topic = await broker.metadata.create_topic("one", 1)
        twice = [{"name": "one"}, {"name": None, "topic_id": topic.topic_id}]
        for version, request in (
            (6, {"topics": twice, "timeout_ms": 1}),
            (5, {"topic_names": ["one", "one"], "timeout_ms": 1}),
        ):
            rows = (await call(broker, DELETE, version, request))["responses"]
            assert set(codes(rows)) == {"INVALID_REQUEST"}
        broker.config.delete_topic_enable = False
        for version, code in ((1, "INVALID_REQUEST"), (3, "TOPIC_DELETION_DISABLED"), (5, "TOPIC_DELETION_DISABLED")):
            rows = (await call(broker, DELETE, version, {"topic_names": ["one"], "timeout_ms": 1}))["responses"]
            assert codes(rows) == [code]
        assert set(broker.metadata.topics) == {"one"}

    with_broker(test)


# ---------------------------------------------------------------- Metadata, DescribeTopicPartitions, DescribeCluster


@pytest.mark.parametrize("version", range(14))
def test_metadata_in_every_version(version):
    async def test(broker) -> None:
        await broker.metadata.create_topic("b", 2)
        await broker.metadata.create_topic("__consumer_offsets", 1)
        everything = {"topics": [] if version == 0 else None, "include_topic_authorized_operations": version >= 8}
        answer = await call(broker, METADATA, version, everything)
        assert answer["brokers"] == [{"node_id": 1, "host": "localhost", "port": 9999, "rack": None}]
        assert answer["controller_id"] == (1 if version >= 1 else -1)
        assert answer["cluster_id"] == (broker.cluster_id if version >= 2 else None)
        offsets, b = answer["topics"]
        assert (offsets["name"], b["name"], codes([offsets, b])) == ("__consumer_offsets", "b", ["NONE", "NONE"])
        assert (offsets["is_internal"], b["is_internal"]) == (version >= 1, False)
        assert b["topic_id"] == (broker.metadata.topics["b"].topic_id if version >= 10 else ZERO_UUID)
        assert b["topic_authorized_operations"] == (AUTHORIZED_TOPIC if version >= 8 else NOT_ASKED)
        assert [p["partition_index"] for p in b["partitions"]] == [0, 1]
        partition = b["partitions"][1]
        assert (partition["leader_id"], partition["replica_nodes"], partition["isr_nodes"]) == (1, [1], [1])
        assert partition["leader_epoch"] == (broker.logs.partitions["b", 1].leader_epoch if version >= 7 else -1)
        if version >= 1:
            assert (await call(broker, METADATA, version, {"topics": []}))["topics"] == []

    with_broker(test)


def test_metadata_authorized_operations_of_the_cluster_only_where_asked():
    async def test(broker) -> None:
        for version in (8, 10):
            for asked, expected in ((True, AUTHORIZED_CLUSTER), (False, NOT_ASKED)):
                request = {"topics": [], "include_cluster_authorized_operations": asked}
                assert (await call(broker, METADATA, version, request))["cluster_authorized_operations"] == expected

    with_broker(test)


@pytest.mark.parametrize(
    ("allowed", "enabled", "created"), [(True, True, True), (False, True, False), (True, False, False)]
)
def test_metadata_creates_topics_where_both_sides_want_it(allowed, enabled, created):
    async def test(broker) -> None:
        request = {
            "topics": [{"name": name} for name in ("new", "not/legal", "new")],
            "allow_auto_topic_creation": allowed,
        }
        rows = (await call(broker, METADATA, 9, request))["topics"]
        assert [row["name"] for row in rows] == ["new", "not/legal"]
        assert codes(rows) == ["NONE" if created else "UNKNOWN_TOPIC_OR_PARTITION", "INVALID_TOPIC_EXCEPTION"]
        assert ("new" in broker.metadata.topics) == created == (("new", 2) in broker.logs.partitions)

    with_broker(test, f"auto.create.topics.enable={str(enabled).lower()}", "num.partitions=3")


def test_metadata_by_id():
    async def test(broker) -> None:
        known, unknown = (await broker.metadata.create_topic("a", 1)).topic_id, uuid.uuid4()
        request = {"topics": [{"name": None, "topic_id": known}, {"name": None, "topic_id": unknown}, {"name": "new"}]}
        for version in (12, 13):
            rows = (await call(broker, METADATA, version, request))["topics"]
            assert [(row["name"], row["topic_id"]) for row in rows] == [("a", known), (None, unknown)]
            assert codes(rows) == ["NONE", "UNKNOWN_TOPIC_ID"]
        for version in (10, 11):
            rows = (await call(broker, METADATA, version, {"topics": [{"name": "a", "topic_id": known}]}))["topics"]
            assert codes(rows) == ["INVALID_REQUEST"]
        assert set(broker.metadata.topics) == {"a"}

    with_broker(test)


def test_metadata_for_all_topics_as_librdkafka_writes_it():
    def read(version, message):
        frame = memoryview(struct.pack(">hhihc", 3, version, 7, 1, b"c") + b"\0" + message)
        return METADATA.read_request(read_request_header(frame), frame)

    for version, rest in ((9, 3), (12, 2), (13, 2)):
        decoded = read(version, bytes(4) + b"\1" + bytes(rest))
        assert (decoded["topics"], decoded["allow_auto_topic_creation"]) == (None, True)
        for garbage in (bytes(4) + b"\1" + bytes(rest + 1), b"\1" + bytes(3) + b"\1" + bytes(rest)):
            with pytest.raises(ProtocolError):
                read(version, garbage)


def test_a_partition_that_is_offline_has_no_leader():
    async def test(broker) -> None:
        await broker.metadata.create_topic("a", 2)
        broker.logs.partitions["a", 1].go_offline("broken")
        (row,) = (await call(broker, METADATA, 9, {"topics": [{"name": "a"}]}))["topics"]
        good, bad = row["partitions"]
        assert (good["error_code"], good["leader_id"], good["offline_replicas"]) == (0, 1, [])
        assert (bad["error_code"], bad["leader_id"], bad["offline_replicas"]) == (
            ErrorCode.LEADER_NOT_AVAILABLE,
            -1,
            [1],
        )
        (row,) = (await call(broker, TOPIC_PARTITIONS, 0, {"topics": [{"name": "a"}]}))["topics"]
        assert [(p["error_code"], p["leader_id"]) for p in row["partitions"]] == [(0, 1), (0, -1)]

    with_broker(test)


def test_describe_topic_partitions_page_by_page():
    async def test(broker) -> None:
        for name, partitions in (("a", 3), ("b", 1), ("c", 4)):
            await broker.metadata.create_topic(name, partitions)
        for limit in (1, 2, 3, 4, 100, 0, -5):
            cursor, seen, pages = None, [], 0
            while cursor is not None or not pages:
                answer = await call(
                    broker, TOPIC_PARTITIONS, 0, {"topics": [], "response_partition_limit": limit, "cursor": cursor}
                )
                page = [(row["name"], p["partition_index"]) for row in answer["topics"] for p in row["partitions"]]
                assert 0 < len(page) <= max(1, min(limit, 5))
                assert all(row["topic_authorized_operations"] == AUTHORIZED_TOPIC for row in answer["topics"])
                seen += page
                cursor, pages = answer["next_cursor"], pages + 1
            assert seen == [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("c", 0), ("c", 1), ("c", 2), ("c", 3)]
        asked = [{"name": name} for name in ("c", "gone", "a", "no/pe")]
        rows = (await call(broker, TOPIC_PARTITIONS, 0, {"topics": asked[::2], "response_partition_limit": 100}))[
            "topics"
        ]
        assert [row["name"] for row in rows] == ["a", "c"]
        rows = (await call(broker, TOPIC_PARTITIONS, 0, {"topics": asked[1:], "response_partition_limit": 4}))["topics"]
        assert [(row["name"], row["error_code"]) for row in rows] == [("a", 0), ("gone", 3), ("no/pe", 17)]
        for cursor in ({"topic_name": "b", "partition_index": 0}, {"topic_name": "a", "partition_index": -1}):
            rows = (await call(broker, TOPIC_PARTITIONS, 0, {"topics": asked, "cursor": cursor}))["topics"]
            assert set(codes(rows)) == {"INVALID_REQUEST"}

    with_broker(test, "max.request.partition.size.limit=5")


@pytest.mark.parametrize("version", range(3))
def test_describe_cluster(version):
    async def test(broker) -> None:
        answer = await call(broker, CLUSTER, version, {"include_cluster_authorized_operations": True})
        assert (answer["cluster_id"], answer["controller_id"], answer["error_code"]) == (broker.cluster_id, 1, 0)
        assert answer["brokers"] == [
            {"broker_id": 1, "host": "localhost", "port": 9999, "rack": None, "is_fenced": False}
        ]
        assert answer["cluster_authorized_operations"] == AUTHORIZED_CLUSTER
        if version >= 1:
            for endpoint_type, code in ((2, "MISMATCHED_ENDPOINT_TYPE"), (9, "UNSUPPORTED_ENDPOINT_TYPE")):
                request = {"include_cluster_authorized_operations": False, "endpoint_type": endpoint_type}
                assert codes([await call(broker, CLUSTER, version, request)]) == [code]

    with_broker(test)


# ---------------------------------------------------------------- CreatePartitions


@pytest.mark.parametrize("version", range(4))
def test_create_partitions(version):
    async def test(broker) -> None:
        await broker.metadata.create_topic("a", 2)

        async def grow(name: str, count: int, assignments=None, validate_only: bool = False) -> str:
            topic = {"name": name, "count": count, "assignments": assignments}
            request = {"topics": [topic], "timeout_ms": 1, "validate_only": validate_only}
            return codes((await call(broker, PARTITIONS, version, request))["results"])[0]

        mine = {"broker_ids": [1]}
        assert await grow("nope", 3) == "UNKNOWN_TOPIC_OR_PARTITION"
        assert await grow("a", 2) == await grow("a", 1) == await grow("a", -1) == "INVALID_PARTITIONS"
        assert (
            await grow("a", 3, [mine, mine])
            == await grow("a", 3, [{"broker_ids": [4]}])
            == "INVALID_REPLICA_ASSIGNMENT"
        )
        assert await grow("a", 4, [mine]) == await grow("a", 3, []) == "INVALID_REPLICA_ASSIGNMENT"
        assert await grow("a", 4, validate_only=True) == "NONE"
        assert broker.metadata.topics["a"].partitions == 2
        assert await grow("a", 3, [mine]) == await grow("a", 5) == "NONE"
        assert {number for name, number in broker.logs.partitions if name == "a"} == set(range(5))
        topic = {"name": "a", "count": 9, "assignments": None}
        rows = (
            await call(broker, PARTITIONS, version, {"topics": [topic, topic], "timeout_ms": 1, "validate_only": False})
        )["results"]
        assert codes(rows) == ["INVALID_REQUEST"]
        assert broker.metadata.topics["a"].partitions == 5

    with_broker(test)


# ---------------------------------------------------------------- DeleteRecords, DescribeLogDirs, in trouble


def test_records_of_a_topic_of_kafkas_own_are_not_deleted():
    async def test(broker) -> None:
        api = SERVED[21].api
        await broker.metadata.auto_create("__consumer_offsets")
        topic = {"name": "__consumer_offsets", "partitions": [{"partition_index": 0, "offset": 0}]}
        (found,) = (await call(broker, api, 2, {"topics": [topic], "timeout_ms": 1}))["topics"]
        assert (codes(found["partitions"]), found["partitions"][0]["low_watermark"]) == (["INVALID_TOPIC_EXCEPTION"], -1)

    with_broker(test)


def test_a_directory_whose_file_system_does_not_answer(monkeypatch):
    async def test(broker) -> None:
        await broker.metadata.create_topic("a", 1)

        def gone(path):
            raise OSError(errno.EIO, "told so")

        monkeypatch.setattr(broker.disk, "space", gone, raising=False)
        for version in range(LOG_DIRS.versions[0], LOG_DIRS.versions[1] + 1):
            (found,) = (await call(broker, LOG_DIRS, version, {"topics": None}))["results"]
            assert (codes([found]), found["topics"]) == (["KAFKA_STORAGE_ERROR"], [])

    with_broker(test)
