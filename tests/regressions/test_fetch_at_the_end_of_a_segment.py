"""A Fetch with a large min_bytes waited for max_wait_ms at the end of every segment but the last, and whenever the response had no room
for the next partition's first batch, though there was more to read: nothing that it waited for could come (C1.16).

Apache Kafka answers such a Fetch at once. A consumer with fetch.min.bytes that was behind got one segment each fetch.max.wait.ms.
"""

import asyncio
import time

import pytest

from chaos.bench import raw
from refbroker.apis import k01_fetch
from refbroker.broker import Broker
from refbroker.client import Client
from refbroker.config import Config

WAIT_MS = 120_000
SMALL, LARGE = 100, 5000


def fetched(address, limits):
    """Bytes of records of each partition, and whether they came at once."""
    partitions = [{"partition": number, "fetch_offset": 0, "partition_max_bytes": 1 << 20} for number in range(2)]
    request = {"max_wait_ms": WAIT_MS, "topics": [{"topic": "t", "partitions": partitions}], **limits}
    with Client(address) as client:
        began = time.monotonic()
        response = client.request(k01_fetch.API, request, 12)
    sizes = [len(row["records"]) for row in response["responses"][0]["partitions"]]
    return sizes, time.monotonic() - began < WAIT_MS / 2000


async def ask(path, rolled, other, limits):
    broker = await Broker.start(Config.load(None, {}, (f"log.dirs={path}", "listeners=PLAINTEXT://127.0.0.1:0"))[0])
    await broker.metadata.create_topic("t", 2, {}, 1)
    log = broker.logs.partitions["t", 0]
    log.append(bytearray(raw.batch(1, SMALL)), broker.clock())
    first = log.size_bytes
    if rolled:
        log.roll(broker.clock())
        log.append(bytearray(raw.batch(1, LARGE)), broker.clock())
    if other:
        broker.logs.partitions["t", 1].append(bytearray(raw.batch(1, LARGE)), broker.clock())
    result = await asyncio.to_thread(fetched, broker.server.address, limits)
    await broker.stop()
    return first, result


@pytest.mark.parametrize("rolled, other, limits", [
    (True, False, {"min_bytes": LARGE, "max_bytes": 1 << 20}),
    (False, True, {"min_bytes": SMALL * 4, "max_bytes": SMALL * 4}),
], ids=["end of a segment", "no room"])  # fmt: skip
def test_what_is_there_is_answered_at_once(tmp_path, rolled, other, limits):
    first, (sizes, at_once) = asyncio.run(ask(tmp_path, rolled, other, limits))
    assert sizes == [first, 0] and at_once
