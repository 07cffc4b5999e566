"""A flush that found no descriptor to sync the directory with, behind fsyncs that had all succeeded, was taken for a failed one, and ended the
broker: a segment that was rolled while many idle connections were open was enough, whatever the policy. And each roll that found no room
for the new segment kept one more descriptor, of the snapshot that it had made before (C1.14)."""

import asyncio
import errno
import os
import uuid

import pytest
from test_no_descriptors_for_the_housekeeping import KEY, FullDisk, opened

from refbroker.broker import Broker
from refbroker.config import Config, LogConfig
from refbroker.errors import ErrorCode, KafkaError
from refbroker.log.records import Record, build


class NoDescriptors(FullDisk):
    """For a directory of this name."""

    def sync_dir(self, path):
        self._maybe_fail("sync_dir", path)
        super().sync_dir(path)


def batch():
    return build([Record(0, 0, None, b"v" * 100)])


async def started(path, disk):
    return await Broker.start(Config.load(None, {}, [f"log.dirs={path}/data", "listeners=PLAINTEXT://127.0.0.1:0"])[0], disk)


@pytest.mark.parametrize("messages", [1, 1000])
def test_it_is_made_later(tmp_path, messages):
    async def story():
        disk = NoDescriptors("sync_dir", "t-0", errno.EMFILE)
        broker = await started(tmp_path, disk)
        await broker.metadata.create_topic("t", 1, {"flush.messages": str(messages)})
        log = broker.partition("t", 0)
        await broker.append(log, batch())
        disk.left = 10**9 if messages > 1 else 0  # a roll whose segment is flushed already syncs by itself
        log.roll(broker.clock())
        disk.left = 10**9
        if messages == 1:
            with pytest.raises(KafkaError) as refused:
                await asyncio.wait_for(broker.append(log, batch()), 30)
            assert refused.value.code is ErrorCode.KAFKA_STORAGE_ERROR and log.high_watermark == 1
        else:
            await broker.append(log, batch())
        await broker.flusher.stop()
        assert broker.logs.offline is None and log.recovery_point <= 1
        disk.left = 0
        broker.flusher.request(log)
        await broker.flusher.stop()
        assert (log.recovery_point, log.high_watermark, log.unfinished) == (2, 2, [])
        await broker.append(log, batch())
        await broker.stop()
        assert log.sealed

    asyncio.run(story())


def test_a_change_of_the_metadata_is_durable_or_the_end(tmp_path):
    """Else it would be in the log behind the back of those who go on, and a topic made again would be there twice."""

    async def story():
        disk = NoDescriptors("sync_dir", "__cluster_metadata-0", errno.EMFILE)
        broker = await started(tmp_path, disk)
        await broker.metadata.create_topic("first", 1)
        broker.logs.partitions["__cluster_metadata", 0].roll(broker.clock())
        disk.left = 1
        with pytest.raises(KafkaError):
            await broker.metadata.create_topic("t", 1)
        assert broker.logs.offline
        await broker.stop()
        disk.left = 0
        broker = await started(tmp_path, disk)
        with pytest.raises(KafkaError, match="TOPIC_ALREADY_EXISTS"):
            await broker.metadata.create_topic("t", 1)
        await broker.stop()

    asyncio.run(story())


class NoRoomForSegments(FullDisk):
    def open(self, path, **how):
        if self.left and how.get("create") and path.endswith(".log"):
            raise OSError(self.number, os.strerror(self.number), path)
        return super().open(path, **how)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE])
def test_rolls_that_fail_keep_no_descriptors(tmp_path, number):
    disk = NoRoomForSegments("", "", number)
    logs = opened(tmp_path, disk)
    log = logs.create(*KEY, uuid.UUID(int=1), LogConfig(segment_bytes=200))
    log.append(batch(), 0)
    disk.left = 1
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with pytest.raises(KafkaError):
            log.append(batch(), 0)
    assert len(os.listdir("/proc/self/fd")) <= before + 3
    disk.left = 0
    log.append(batch(), 0)
    log.flush()
    logs.close()
    assert opened(tmp_path, disk).partitions[KEY].log_end_offset == 2
