"""Do DescribeConfigs, AlterConfigs, IncrementalAlterConfigs and DescribeLogDirs answer as Apache Kafka does?"""

import pytest
from admin import (
    ALTER,
    APPEND,
    BROKER,
    DESCRIBE,
    INCREMENTAL,
    LOG_DIRS,
    REMOVE,
    SET,
    SUBTRACT,
    TOPIC,
    Broker,
    call,
    codes,
    with_broker,
)  # fmt: skip

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
