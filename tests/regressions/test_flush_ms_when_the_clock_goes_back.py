"""flush.ms was counted on the wall clock alone: after a step back by an hour, what was acked before it was not durable for that
hour, and under page cache only for ever (C1.5 under F7)."""

import asyncio

from refbroker.broker import Broker, wall_clock_ms
from refbroker.config import Config
from refbroker.log.records import Record, build

FLUSH_MS = 200
HOUR_MS = 3_600_000
PATIENCE_S = 30


def test_what_was_acked_before_the_step_is_durable_soon(tmp_path):
    step_ms = 0

    async def story():
        nonlocal step_ms
        config, _ = Config.load(None, {}, [f"log.dirs={tmp_path}/data", "listeners=PLAINTEXT://127.0.0.1:0"])
        broker = await Broker.start(config, clock=lambda: wall_clock_ms() + step_ms)
        await broker.metadata.create_topic("t", 1, {"flush.ms": str(FLUSH_MS)})
        partition = broker.partition("t", 0)
        await asyncio.sleep(0.1)
        await broker.append(partition, build([Record(0, 0, None, b"x", [])]))
        step_ms = -HOUR_MS
        for _ in range(PATIENCE_S * 100):
            if partition.recovery_point == 1:
                break
            await asyncio.sleep(0.01)
        assert partition.recovery_point == 1
        await broker.append(partition, build([Record(0, 0, None, b"y", [])]))  # and it goes on by the new time
        for _ in range(PATIENCE_S * 100):
            if partition.recovery_point == 2:
                break
            await asyncio.sleep(0.01)
        assert partition.recovery_point == 2
        await broker.stop()

    asyncio.run(story())
