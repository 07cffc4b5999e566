"""CreateTopics, CreatePartitions and AlterConfigs compared each name with all the others of the request: one with 60,000 names, less than a
megabyte, kept every client of the broker waiting for a minute."""

import asyncio
import time
from types import SimpleNamespace

import pytest

from refbroker.apis import k19_create_topics, k33_alter_configs, k37_create_partitions
from refbroker.errors import ErrorCode, KafkaError

NAMES = [f"no topic {number}" for number in range(60_000)]
SECONDS_MAX = 10  # of the processor; the comparisons took five times as long, names apart take a tenth


async def refuse(*_, **__):
    raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)


async def no_topics(wanted, **_):
    assert not wanted
    return {}


BROKER = SimpleNamespace(node_id=1, metadata=SimpleNamespace(topics={}, create_topics=no_topics, create_partitions=refuse))


def new_topic(name, **more):
    return {"name": name, "num_partitions": 1, "replication_factor": 1, "assignments": [], "configs": [], **more}


@pytest.mark.parametrize("handler, request_of", [
    (k19_create_topics, lambda: {"topics": [new_topic(name) for name in NAMES]}),
    (k19_create_topics, lambda: {"topics": [new_topic("t", num_partitions=-1, replication_factor=-1, assignments=[
        {"partition_index": 1 + number, "broker_ids": [1]} for number in range(len(NAMES))])]}),
    (k37_create_partitions, lambda: {"topics": [{"name": name, "count": 2, "assignments": None} for name in NAMES]}),
    (k33_alter_configs, lambda: {"resources": [{"resource_type": 99, "resource_name": name, "configs": []} for name in NAMES]}),
], ids=["topics", "assignments", "partitions", "configs"])  # fmt: skip
def test_it_is_answered_soon(handler, request_of):
    request = {**request_of(), "validate_only": True}
    began = time.process_time()
    (rows,) = asyncio.run(handler.handle(BROKER, request, None)).values()
    assert time.process_time() - began < SECONDS_MAX
    assert len(rows) in (1, len(NAMES)) and all(row["error_code"] for row in rows)
