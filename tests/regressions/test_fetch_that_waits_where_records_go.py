"""A Fetch that waited, for want of fetch.min.bytes, at an offset that DeleteRecords or retention then deleted, heard of it (OFFSET_OUT_OF_RANGE)
only when its max_wait_ms were over (C1.16)."""

import asyncio
import time

import pytest

from refbroker.apis import k01_fetch
from refbroker.broker import Broker
from refbroker.client import Client
from refbroker.config import Config
from refbroker.errors import ErrorCode
from refbroker.log.records import Record, build

WAIT_MS = 10_000


def fetched(address):
    partitions = [{"partition": 0, "fetch_offset": 0, "partition_max_bytes": 1 << 20}]
    request = {"max_wait_ms": WAIT_MS, "min_bytes": 1 << 20, "max_bytes": 1 << 20, "topics": [{"topic": "t", "partitions": partitions}]}
    with Client(address) as client:
        began = time.monotonic()
        row = client.request(k01_fetch.API, request, 12)["responses"][0]["partitions"][0]
    return row["error_code"], time.monotonic() - began


@pytest.mark.parametrize("delete", [
    lambda log, now_ms: log.delete_records(-1),
    lambda log, now_ms: log.retain(now_ms),
], ids=["DeleteRecords", "retention"])  # fmt: skip
def test_who_waits_is_told(tmp_path, delete):
    async def story():
        broker = await Broker.start(Config.load(None, {}, (f"log.dirs={tmp_path}", "listeners=PLAINTEXT://127.0.0.1:0"))[0])
        await broker.metadata.create_topic("t", 1, {"retention.ms": "1"})
        log = broker.partition("t", 0)
        log.append(build([Record(0, 1, None, b"old")]), broker.clock())
        fetch = asyncio.create_task(asyncio.to_thread(fetched, broker.server.address))
        while not log.waiters:
            await asyncio.sleep(0.01)
        delete(log, broker.clock())
        code, seconds = await fetch
        await broker.stop()
        return code, seconds

    code, seconds = asyncio.run(story())
    assert code == ErrorCode.OFFSET_OUT_OF_RANGE and seconds < WAIT_MS / 2000
