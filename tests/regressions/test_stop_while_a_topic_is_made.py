"""A broker that was told to stop while a topic was being made, or a config changed, never ended: the news of it and the stop came to the
flusher's clock in the same turn of the event loop, and there Python 3.11's `asyncio.wait_for` forgets that it was cancelled (C1.1, C1.16)."""

import asyncio

import pytest

from refbroker.broker import Broker
from refbroker.config import Config

SECONDS_MAX = 60


@pytest.mark.parametrize("turns", [0, 1, 3, 8])
def test_the_stop_comes_to_its_end(tmp_path, turns):
    async def story():
        broker = await Broker.start(Config.load(None, {}, [f"log.dirs={tmp_path}/data", "listeners=PLAINTEXT://127.0.0.1:0"])[0])
        change = asyncio.create_task(broker.metadata.create_topic("t", 1))
        for _ in range(turns):
            await asyncio.sleep(0)
        await asyncio.wait_for(broker.stop(), SECONDS_MAX)
        await change
        assert (tmp_path / "data" / ".kafka_cleanshutdown").exists()

    asyncio.run(story())
