"""Under flush.messages=1 a record of acks=0 whose flush could not begin, for want of a descriptor, stayed hidden from consumers until
somebody wrote the next one (C1.16): nobody asked for its flush again."""

import asyncio
import errno

import pytest
from test_config_change_without_descriptors import FewDescriptors

from refbroker.broker import Broker
from refbroker.config import Config
from refbroker.errors import KafkaError
from refbroker.log import flush, partition
from refbroker.log.records import Record, build

PERIOD_MS = 50


def test_it_is_shown_when_there_are_descriptors_again(tmp_path, monkeypatch):
    monkeypatch.setattr(flush, "PERIOD_MS_MAX", PERIOD_MS)
    monkeypatch.setattr(partition, "HIDDEN_MS_MAX", PERIOD_MS)

    async def story():
        disk = FewDescriptors()
        broker = await Broker.start(Config.load(None, {}, [f"log.dirs={tmp_path}/data", "listeners=PLAINTEXT://127.0.0.1:0"])[0], disk)
        await broker.metadata.create_topic("t", 1, {"flush.messages": "1"})
        log = broker.partition("t", 0)
        log.append(build([Record(0, 0, None, b"v")]), broker.clock())
        broker.logs.on_roll = lambda partition: None
        log.roll(broker.clock())
        log.append(build([Record(0, 0, None, b"v")]), broker.clock())
        log.segments[0].close()
        disk.used_up = True
        with pytest.raises(KafkaError, match=str(errno.EMFILE)):
            await broker.flusher.durable(log, 2)  # what acks=0 does, and nobody hears of the error
        hidden = log.high_watermark
        disk.used_up = False
        async with asyncio.timeout(60):
            while log.high_watermark < 2:
                await asyncio.sleep(0.01)
        await broker.stop()
        return hidden

    assert asyncio.run(story()) == 0
