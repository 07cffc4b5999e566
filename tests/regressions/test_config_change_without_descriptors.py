"""Where a topic got flush.messages=1 and a partition could not be flushed just then, for want of a descriptor, the change was durable and
its other partitions did not know of it: what they acknowledged was not durable, until the next start (C1.3)."""

import asyncio
import errno
import os

from refbroker.broker import Broker
from refbroker.config import Config
from refbroker.log.disk import Disk
from refbroker.log.records import Record, build
from refbroker.metadata_records import Resource


class FewDescriptors(Disk):
    used_up = False

    def open(self, path, **how):
        if self.used_up and "/t-0/" in path:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
        return super().open(path, **how)


def test_the_policy_holds_for_every_partition(tmp_path):
    async def story():
        disk = FewDescriptors()
        broker = await Broker.start(Config.load(None, {}, [f"log.dirs={tmp_path}/data", "listeners=PLAINTEXT://127.0.0.1:0"])[0], disk)
        await broker.metadata.create_topic("t", 2)
        first, second = (broker.partition("t", number) for number in range(2))
        broker.logs.on_roll = lambda partition: None
        first.append(build([Record(0, 0, None, b"v")]), 0)
        first.roll(0)
        first.segments[0].close()
        disk.used_up = True
        await broker.metadata.alter_configs(Resource.TOPIC, "t", lambda _: {"flush.messages": "1"})
        await broker.append(second, build([Record(0, 0, None, b"v")]))
        durable = second.recovery_point
        disk.used_up = False
        await broker.append(first, build([Record(0, 0, None, b"v")]))
        assert broker.logs.offline is None and first.recovery_point == first.high_watermark == 2
        await broker.stop()
        return durable

    assert asyncio.run(story()) == 1
