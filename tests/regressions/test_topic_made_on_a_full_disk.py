"""A topic whose directories could not be made for want of space, and whose creation could not be taken back for the same reason, was
there without a leader until the next start (found by errors at every system call of the real process, C1.14)."""

import asyncio

import pytest

from refbroker.broker import Broker
from refbroker.config import Config
from refbroker.errors import ErrorCode, KafkaError
from refbroker.log.records import Record, build


def test_its_directories_are_made_when_space_is_back(tmp_path, monkeypatch):
    async def story():
        config, _ = Config.load(None, {}, [f"log.dirs={tmp_path}/data", "listeners=PLAINTEXT://127.0.0.1:0"])
        broker = await Broker.start(config)
        full = KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, "no space")

        def refuse(*_):
            raise full

        async def refuse_later(*_):
            raise full

        with monkeypatch.context() as patched:
            patched.setattr(broker.logs, "create_many", refuse)
            patched.setattr(broker.metadata, "_remove", refuse_later)
            with pytest.raises(KafkaError):
                await broker.metadata.create_topic("t", 2)
        assert "t" in broker.metadata.topics
        await broker._sweep()
        partition = broker.partition("t", 1)
        await broker.append(partition, build([Record(0, 0, None, b"x", [])]))
        assert partition.log_end_offset == 1
        await broker.stop()

    asyncio.run(story())
