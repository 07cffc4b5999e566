"""Where the system gave no thread for the fsyncs of a clean stop, the stop broke off with a traceback: no log was flushed, no marker left (C1.1)."""

import asyncio
import threading

from refbroker.broker import Broker
from refbroker.config import Config
from refbroker.log.records import Record, build


def test_the_event_loop_makes_them(tmp_path, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    async def story():
        broker = await Broker.start(Config.load(None, {}, [f"log.dirs={tmp_path}/data", "listeners=PLAINTEXT://127.0.0.1:0"])[0])
        await broker.metadata.create_topic("t", 4)
        partitions = [broker.partition("t", number) for number in range(4)]
        for partition in partitions:
            await broker.append(partition, build([Record(0, 0, None, b"v")]))
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            await broker.stop()
        assert [partition.recovery_point for partition in partitions] == [1] * 4
        assert (tmp_path / "data" / ".kafka_cleanshutdown").exists()

    asyncio.run(story())
