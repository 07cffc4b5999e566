"""flush.ms was looked at once a minute as long as no topic had one: the first topic that came with a flush.ms, and the
first that got one, had records acked and not durable for up to that minute (C1.5)."""

import asyncio

from refbroker.broker import Broker
from refbroker.config import Config
from refbroker.log.records import Record, build
from refbroker.metadata_records import Resource

FLUSH_MS = 100
PATIENCE_S = 30


async def durable_soon(partition) -> bool:
    for _ in range(PATIENCE_S * 100):
        if partition.recovery_point == partition.log_end_offset:
            return True
        await asyncio.sleep(0.01)
    return False


async def start(tmp_path) -> Broker:
    config, _ = Config.load(None, {}, [f"log.dirs={tmp_path}/data", "listeners=PLAINTEXT://127.0.0.1:0"])
    broker = await Broker.start(config)
    await asyncio.sleep(0.05)  # the flusher has asked for the period
    return broker


def batch():
    return build([Record(0, 0, None, b"x", [])])


def test_a_topic_that_is_made_with_flush_ms(tmp_path):
    async def story():
        broker = await start(tmp_path)
        await broker.metadata.create_topic("t", 1, {"flush.ms": str(FLUSH_MS)})
        partition = broker.partition("t", 0)
        await broker.append(partition, batch())
        assert partition.recovery_point == 0
        assert await durable_soon(partition)
        await broker.stop()

    asyncio.run(story())


def test_a_topic_that_gets_a_flush_ms(tmp_path):
    async def story():
        broker = await start(tmp_path)
        await broker.metadata.create_topic("t", 1)
        await asyncio.sleep(0.05)
        await broker.metadata.alter_configs(Resource.TOPIC, "t", lambda _: {"flush.ms": str(FLUSH_MS)})
        partition = broker.partition("t", 0)
        await broker.append(partition, batch())
        assert await durable_soon(partition)
        await broker.stop()

    asyncio.run(story())
