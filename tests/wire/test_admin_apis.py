"""Do the admin APIs answer as Apache Kafka does, in every version?

Requests go through the schemas, the handlers and back, without sockets; the broker's disk is the simulated one. What a
response says is read by kio, which was generated from Kafka's own schemas. (Real clients: `tests/clients`.)
"""

import asyncio
import uuid
from importlib import import_module
from types import SimpleNamespace

import pytest
from kio.serial import entity_reader

from chaos.disk.model import SimDisk
from refbroker import apis
from refbroker.broker import Broker
from refbroker.config import Config
from refbroker.errors import ErrorCode
from refbroker.protocol import ZERO_UUID, ProtocolError
from refbroker.topic_rules import AUTHORIZED_CLUSTER, AUTHORIZED_TOPIC, NOT_ASKED

SERVED = apis.load()
METADATA, CREATE, DELETE, DESCRIBE, ALTER, LOG_DIRS, PARTITIONS, INCREMENTAL, CLUSTER, TOPIC_PARTITIONS = (
    SERVED[key].api for key in (3, 19, 20, 32, 33, 35, 37, 44, 60, 75)
)
TOPIC, BROKER = 2, 4
SET, REMOVE, APPEND, SUBTRACT = range(4)
NOW_MS = 1_795_446_000_000


async def call(broker: Broker, api, version: int, request: dict) -> dict:
    """The response, after both messages have been bytes."""
    decoded = api.decode_request(version, b"".join(api.encode_request(version, request)))
    response = await SERVED[api.key].handle(
        broker, decoded, SimpleNamespace(version=version, client_id="test", api_key=api.key)
    )
    data = b"".join(api.encode_response(version, response))
    _read_by_kio(api, version, data)
    return api.decode_response(version, data)


def _read_by_kio(api, version: int, data: bytes) -> None:
    """An independent reader finds a whole response in these bytes, and nothing behind it."""
    package = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in api.name).lstrip("_")
    try:
        module = import_module(f"kio.schema.{package}.v{version}.response")
    except ModuleNotFoundError:  # newer than kio
        return
    read = entity_reader(getattr(module, f"{api.name}Response"))
    _, size = read(memoryview(data), 0)
    assert size == len(data)


def with_broker(test, *overrides: str, disk=None) -> None:
    async def run() -> None:
        config, _ = Config.load(None, {}, ["log.dirs=/data", "listeners=PLAINTEXT://localhost:9999", *overrides])
        broker = Broker(config, disk or SimDisk(sites=False), lambda: NOW_MS)
        broker.logs.open()
        await broker.metadata.start()
        await test(broker)
        await broker.flusher.stop()

    asyncio.run(run())


def new_topic(name: str, partitions: int = -1, factor: int = -1, configs=(), assignments=()) -> dict:
    return {
        "name": name,
        "num_partitions": partitions,
        "replication_factor": factor,
        "assignments": [{"partition_index": index, "broker_ids": ids} for index, ids in assignments],
        "configs": [{"name": key, "value": value} for key, value in dict(configs).items()],
    }


async def create(broker: Broker, *topics: dict, version: int = 7, validate_only: bool = False) -> list[dict]:
    request = {"topics": topics, "timeout_ms": 1000, "validate_only": validate_only}
    return (await call(broker, CREATE, version, request))["topics"]


def codes(rows: list[dict]) -> list[str]:
    return [ErrorCode(row["error_code"]).name for row in rows]


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
    for version, rest in ((9, 3), (12, 2), (13, 2)):
        decoded = METADATA.decode_request(version, bytes(4) + b"\1" + bytes(rest))
        assert (decoded["topics"], decoded["allow_auto_topic_creation"]) == (None, True)
        for garbage in (bytes(4) + b"\1" + bytes(rest + 1), b"\1" + bytes(3) + b"\1" + bytes(rest)):
            with pytest.raises(ProtocolError):
                METADATA.decode_request(version, garbage)


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


# ---------------------------------------------------------------- configs


async def describe(broker: Broker, kind: int, name: str, keys=None, version: int = 4, **options) -> dict:
    resource = {"resource_type": kind, "resource_name": name, "configuration_keys": keys}
    (row,) = (await call(broker, DESCRIBE, version, {"resources": [resource], **options}))["results"]
    return row


async def change(broker: Broker, kind: int, name: str, *operations, validate_only: bool = False) -> dict:
    configs = [{"name": key, "config_operation": operation, "value": value} for key, operation, value in operations]
    resource = {"resource_type": kind, "resource_name": name, "configs": configs}
    (row,) = (await call(broker, INCREMENTAL, 1, {"resources": [resource], "validate_only": validate_only}))[
        "responses"
    ]
    assert (row["resource_type"], row["resource_name"]) == (kind, name)
    return row


def by_name(row: dict) -> dict[str, dict]:
    assert row["error_code"] == 0, row
    return {config["name"]: config for config in row["configs"]}


@pytest.mark.parametrize("version", range(1, 5))
def test_describe_topic_configs_with_sources_and_synonyms(version):
    async def test(broker) -> None:
        await broker.metadata.create_topic("a", 1, {"retention.ms": "5"})
        await change(broker, BROKER, "", ("log.segment.bytes", SET, "2097152"))
        await change(broker, BROKER, "1", ("log.segment.bytes", SET, "3145728"))
        configs = by_name(await describe(broker, TOPIC, "a", version=version, include_synonyms=True))
        segment = configs["segment.bytes"]
        assert (segment["value"], segment["config_source"], segment["read_only"]) == ("3145728", 2, False)
        assert [(s["value"], s["source"]) for s in segment["synonyms"]] == [
            ("3145728", 2),
            ("2097152", 3),
            ("4194304", 4),
            ("1073741824", 5),
        ]
        retention = configs["retention.ms"]
        assert (retention["value"], retention["config_source"]) == ("5", 1)
        assert retention["synonyms"] == [{"name": "retention.ms", "value": "5", "source": 1}]
        assert configs["flush.messages"]["value"] == "9223372036854775807"
        assert configs["cleanup.policy"]["value"] == "delete"
        assert configs["preallocate"]["value"] == "false"
        assert not any(name.startswith("internal.") for name in configs)
        if version >= 3:
            assert (segment["config_type"], configs["cleanup.policy"]["config_type"]) == (3, 7)
        some = by_name(await describe(broker, TOPIC, "a", ["flush.ms", "no.such"], version=version))
        assert [(name, config["synonyms"]) for name, config in some.items()] == [
            ("flush.ms", [] if version >= 1 else ())
        ]

    with_broker(test, "log.segment.bytes=4194304")


def test_describe_broker_configs():
    async def test(broker) -> None:
        configs = by_name(await describe(broker, BROKER, "1", include_documentation=True, include_synonyms=True))
        assert (configs["num.partitions"]["value"], configs["num.partitions"]["config_source"]) == ("7", 4)
        assert configs["num.partitions"]["read_only"]
        assert not configs["log.retention.ms"]["read_only"]
        assert configs["auto.create.topics.enable"]["value"] == "true"
        assert configs["flush.messages" if "flush.messages" in configs else "node.id"]["documentation"]
        assert "No effect here" in configs["num.io.threads"]["documentation"]
        assert by_name(await describe(broker, BROKER, "")) == {}
        assert (await change(broker, BROKER, "", ("log.retention.ms", SET, "9")))["error_code"] == 0
        (default,) = by_name(await describe(broker, BROKER, "", include_synonyms=True)).values()
        assert (default["name"], default["value"], default["config_source"]) == ("log.retention.ms", "9", 3)

    with_broker(test, "num.partitions=7")


def test_describe_configs_of_what_is_not_there():
    async def test(broker) -> None:
        assert codes([await describe(broker, TOPIC, "a")]) == ["UNKNOWN_TOPIC_OR_PARTITION"]
        for name in ("a b", ""):
            assert codes([await describe(broker, TOPIC, name)]) == ["INVALID_TOPIC_EXCEPTION"]
        for kind, name in ((BROKER, "2"), (BROKER, "one"), (8, "1"), (16, "x"), (32, "g"), (0, "")):
            assert codes([await describe(broker, kind, name)]) == ["INVALID_REQUEST"]

    with_broker(test)


def test_incremental_changes_of_a_topic():
    async def test(broker) -> None:
        await broker.metadata.create_topic("a", 1)
        own = broker.metadata.topics["a"].configs
        partition = broker.logs.partitions["a", 0]
        assert codes(
            [await change(broker, TOPIC, "a", ("flush.messages", SET, "1"), ("cleanup.policy", APPEND, "compact"))]
        ) == ["NONE"]
        assert own == {"flush.messages": "1", "cleanup.policy": "delete,compact"}
        assert partition.config.flush_messages == 1
        await change(broker, TOPIC, "a", ("cleanup.policy", SUBTRACT, "delete"), ("flush.messages", REMOVE, None))
        assert own == {"cleanup.policy": "compact"}
        assert partition.config.flush_messages == 2**63 - 1
        await change(broker, TOPIC, "a", ("retention.ms", SET, "1"), validate_only=True)
        assert own == {"cleanup.policy": "compact"}
        for operations, code in (
            ([("retention.ms", SET, "1"), ("no.such", SET, "1")], "INVALID_CONFIG"),
            ([("retention.ms", SET, "x")], "INVALID_CONFIG"),
            ([("retention.ms", APPEND, "1")], "INVALID_CONFIG"),
            ([("retention.ms", SET, None)], "INVALID_REQUEST"),
            ([("retention.ms", 9, "1")], "INVALID_REQUEST"),
            ([("retention.ms", SET, "1"), ("retention.ms", SET, "2")], "INVALID_REQUEST"),
        ):
            for validate_only in (True, False):
                row = await change(broker, TOPIC, "a", *operations, validate_only=validate_only)
                assert codes([row]) == [code], operations
                assert row["error_message"]
        assert own == {"cleanup.policy": "compact"}
        assert codes([await change(broker, TOPIC, "b", ("retention.ms", SET, "1"))]) == ["UNKNOWN_TOPIC_OR_PARTITION"]
        assert codes([await change(broker, TOPIC, "", ("retention.ms", SET, "1"))]) == ["INVALID_REQUEST"]

    with_broker(test)


def test_changes_of_a_broker():
    async def test(broker) -> None:
        for name in ("", "1"):
            assert codes([await change(broker, BROKER, name, ("log.retention.bytes", SET, "123"))]) == ["NONE"]
            for key, value in (
                ("num.partitions", "3"),
                ("no.such", "1"),
                ("log.cleaner.threads", "2"),
                ("log.retention.bytes", "x"),
            ):
                row = await change(broker, BROKER, name, (key, SET, value))
                assert codes([row]) == ["INVALID_REQUEST"], key
        assert "read-only" in (await change(broker, BROKER, "1", ("num.partitions", SET, "3")))["error_message"]
        for kind, name in ((BROKER, "2"), (BROKER, "x"), (8, "1"), (32, "g")):
            assert codes([await change(broker, kind, name, ("log.retention.bytes", SET, "1"))]) == ["INVALID_REQUEST"]

    with_broker(test)


@pytest.mark.parametrize("version", range(3))
def test_alter_configs_replaces_everything(version):
    async def test(broker) -> None:
        await broker.metadata.create_topic("a", 1, {"retention.ms": "5", "segment.bytes": "2097152"})

        async def alter(*resources, validate_only: bool = False) -> list[str]:
            request = {
                "resources": [
                    {
                        "resource_type": TOPIC,
                        "resource_name": name,
                        "configs": [{"name": k, "value": v} for k, v in configs.items()],
                    }
                    for name, configs in resources
                ],
                "validate_only": validate_only,
            }
            return codes((await call(broker, ALTER, version, request))["responses"])

        assert await alter(("a", {"retention.ms": "7"}), validate_only=True) == ["NONE"]
        assert broker.metadata.topics["a"].configs == {"retention.ms": "5", "segment.bytes": "2097152"}
        assert await alter(("a", {"retention.ms": "7"}), ("b", {})) == ["NONE", "UNKNOWN_TOPIC_OR_PARTITION"]
        assert broker.metadata.topics["a"].configs == {"retention.ms": "7"}
        assert await alter(("a", {"retention.ms": None})) == ["INVALID_REQUEST"]
        assert await alter(("a", {}), ("a", {})) == ["INVALID_REQUEST", "INVALID_REQUEST"]
        assert broker.metadata.topics["a"].configs == {"retention.ms": "7"}

    with_broker(test)


# ---------------------------------------------------------------- DescribeLogDirs


@pytest.mark.parametrize("version", range(1, 6))
def test_describe_log_dirs(version):
    async def test(broker) -> None:
        await broker.metadata.create_topic("a", 2)
        await broker.metadata.create_topic("b", 1)
        (row,) = (await call(broker, LOG_DIRS, version, {"topics": None}))["results"]
        assert (row["error_code"], row["log_dir"]) == (0, "/data")
        assert {t["name"]: [p["partition_index"] for p in t["partitions"]] for t in row["topics"]} == {
            "a": [0, 1],
            "b": [0],
        }
        assert (row["total_bytes"] > row["usable_bytes"] - 1 > 0) == (version >= 4)
        asked = [{"topic": "a", "partitions": [1, 9]}, {"topic": "nope", "partitions": [0]}]
        (row,) = (await call(broker, LOG_DIRS, version, {"topics": asked}))["results"]
        assert [(t["name"], [p["partition_index"] for p in t["partitions"]]) for t in row["topics"]] == [("a", [1])]
        broker.logs.fail("broken")
        (row,) = (await call(broker, LOG_DIRS, version, {"topics": None}))["results"]
        assert (codes([row]), list(row["topics"])) == (["KAFKA_STORAGE_ERROR"], [])

    with_broker(test)
