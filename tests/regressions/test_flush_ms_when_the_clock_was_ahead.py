"""What was acked while the wall clock was ahead, between two looks of the flusher, was not durable before that time had come (C1.5
under F7); nor was it in time where the clock was slow, or was set back again and again by less than goes by between two looks."""

import asyncio

import pytest
from test_flush_ms_of_a_new_topic import batch, durable_soon

from refbroker.broker import Broker, wall_clock_ms
from refbroker.config import Config

FLUSH_MS = 400
HOUR_MS = 3_600_000
SLOWER = 1000  # times


class Clock:
    def __init__(self):
        self.ahead_ms = 0
        self.slow_since_ms = None

    def __call__(self):
        now_ms = wall_clock_ms()
        if self.slow_since_ms is not None:
            return self.slow_since_ms + (now_ms - self.slow_since_ms) // SLOWER
        return now_ms + self.ahead_ms


@pytest.mark.parametrize("slow", [False, True], ids=["ahead for a moment", "slow"])
def test_it_is_durable_soon(tmp_path, slow):
    async def story():
        clock = Clock()
        config, _ = Config.load(None, {}, [f"log.dirs={tmp_path}/data", "listeners=PLAINTEXT://127.0.0.1:0"])
        broker = await Broker.start(config, clock=clock)
        await broker.metadata.create_topic("t", 1, {"flush.ms": str(FLUSH_MS)})
        partition = broker.partition("t", 0)
        await asyncio.sleep(0.05)  # the flusher has looked
        if slow:
            clock.slow_since_ms = wall_clock_ms()
        else:
            clock.ahead_ms = HOUR_MS
        await broker.append(partition, batch())
        clock.ahead_ms = 0
        assert await durable_soon(partition)
        await broker.stop()

    asyncio.run(story())
