"""Where the system gave no thread for a flush, that partition was taken for one that is being flushed, for ever: whoever waited for it
waited for ever, and so did the stop (C1.16)."""

import asyncio
import threading

import pytest

from refbroker.broker import Broker
from refbroker.config import Config
from refbroker.log.records import Record, build


@pytest.mark.parametrize("given", [0, 1])
def test_flushes_go_on_with_those_that_are_there_or_none(tmp_path, monkeypatch, given):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    def batch():
        return build([Record(0, 0, None, b"v")])

    async def story():
        broker = await Broker.start(Config.load(None, {}, [f"log.dirs={tmp_path}/data", "listeners=PLAINTEXT://127.0.0.1:0"])[0])
        await broker.metadata.create_topic("t", 4, {"flush.messages": "1"})
        partitions = [broker.partition("t", number) for number in range(4)]
        threads = list(broker.threads._threads)
        broker.threads.stop()
        for thread in threads:
            thread.join()
        if given:
            await broker.append(partitions[0], batch())
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            waiting = [asyncio.create_task(broker.append(partition, batch())) for partition in partitions]
            await asyncio.wait_for(asyncio.gather(*waiting), 60)
        await broker.stop()
        return [partition.recovery_point for partition in partitions]

    assert asyncio.run(story()) == [1 + given, 1, 1, 1]
