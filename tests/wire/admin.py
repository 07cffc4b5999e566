"""How do the tests of the admin APIs ask a broker?

Requests go through the schemas, the handlers and back, without sockets; the broker's disk is the simulated one. Every
response is also read by kio, which was generated from Kafka's own schemas.
"""

import asyncio
from importlib import import_module
from types import SimpleNamespace

from kio.serial import entity_reader

from chaos.disk.model import SimDisk
from refbroker import apis
from refbroker.broker import Broker
from refbroker.config import Config
from refbroker.errors import ErrorCode

SERVED = apis.load()
METADATA, CREATE, DELETE, DESCRIBE, ALTER, LOG_DIRS, PARTITIONS, INCREMENTAL, CLUSTER, TOPIC_PARTITIONS = (
    SERVED[key].api for key in (3, 19, 20, 32, 33, 35, 37, 44, 60, 75)
)
TOPIC, BROKER = 2, 4
SET, REMOVE, APPEND, SUBTRACT = range(4)
NOW_MS = 1_795_446_000_000


async def call(broker: Broker, api, version: int, request: dict) -> dict:
    """The response, after both messages have been bytes."""
    decoded = api.decode_request(version, api.request.encode(version, request, flexible=api.is_flexible(version)))
    response = await SERVED[api.key].handle(
        broker, decoded, SimpleNamespace(version=version, client_id="test", api_key=api.key, listener="PLAINTEXT")
    )
    data = api.response.encode(version, response, flexible=api.is_flexible(version))
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
