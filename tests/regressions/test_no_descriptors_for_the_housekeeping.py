"""Where descriptors or space ran out for a moment, and a checkpoint or a look at what retention may delete came just then, the whole
directory went offline and the broker ended, though both can be done later as well: many idle connections were enough (C1.14)."""

import asyncio
import errno
import os
import uuid

import pytest

from refbroker.broker import Broker
from refbroker.config import Config, LogConfig
from refbroker.errors import KafkaError
from refbroker.log.directory import LogDirectory
from refbroker.log.disk import Disk
from refbroker.log.records import Record, build

KEY, CONFIG = ("t", 0), LogConfig(segment_bytes=200, retention_bytes=0, file_delete_delay_ms=0)


class FullDisk(Disk):
    """Whose calls on files of this name fail, so often."""

    def __init__(self, call, part, number):
        self.call, self.part, self.number, self.left = call, part, number, 0

    def _maybe_fail(self, call, path):
        if call == self.call and self.part in os.path.basename(path) and self.left:
            self.left -= 1
            raise OSError(self.number, os.strerror(self.number), path)

    def open(self, path, **how):
        self._maybe_fail("open", path)
        return super().open(path, **how)

    def rename(self, source, target):
        self._maybe_fail("rename", source)
        super().rename(source, target)

    def unlink(self, path):
        self._maybe_fail("unlink", path)
        super().unlink(path)


def opened(path, disk):
    logs = LogDirectory(disk, f"{path}/data", Config(), lambda: 0)
    logs.open(lambda metadata: lambda topic: CONFIG)
    return logs


def filled(path, disk):
    logs = opened(path, disk)
    log = logs.create(*KEY, uuid.UUID(int=1), CONFIG)
    for _ in range(6):
        log.append(build([Record(0, 0, None, b"v" * 100)]), 0)
    log.flush()
    return logs, log


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE])
@pytest.mark.parametrize("call, part", [("open", "checkpoint.tmp"), ("rename", "recovery-point")])
def test_a_checkpoint_is_made_later(tmp_path, call, part, number):
    disk = FullDisk(call, part, number)
    logs, log = filled(tmp_path, disk)
    disk.left = 1
    with pytest.raises(KafkaError):
        logs.checkpoint()
    assert logs.offline is None and log.append(build([Record(0, 0, None, b"v")]), 0).base_offset == 6
    logs.checkpoint()
    assert (tmp_path / "data" / "recovery-point-offset-checkpoint").read_text() == "0\n1\nt 0 6\n"


def test_but_not_on_a_disk_that_fails(tmp_path):
    disk = FullDisk("open", "checkpoint.tmp", errno.EIO)
    logs, log = filled(tmp_path, disk)
    disk.left = 1
    with pytest.raises(KafkaError):
        logs.checkpoint()
    assert logs.offline and log.offline


@pytest.mark.parametrize("part", ["log-start", ".timeindex", ".log"])
def test_retention_has_its_turn_later(tmp_path, part):
    disk = FullDisk("open", part, errno.EMFILE)
    logs, log = filled(tmp_path, disk)
    logs.close()
    logs = opened(tmp_path, disk)
    log = logs.partitions[KEY]
    disk.left = 1
    with pytest.raises(KafkaError):
        log.retain(10**15)
    assert logs.offline is None and log.segments[0].base_offset == 0
    assert log.retain(10**15) > 0 and len(log.segments) == 1


def test_half_of_a_retention_is_no_state_to_go_on_in(tmp_path):
    disk = FullDisk("rename", ".log", errno.ENOSPC)
    logs, log = filled(tmp_path, disk)
    disk.left = 1
    with pytest.raises(KafkaError):
        log.retain(10**15)
    assert logs.offline


def test_what_cannot_be_unlinked_does_not_keep_the_rest(tmp_path):
    disk = FullDisk("unlink", ".index.deleted", errno.EIO)
    logs, log = filled(tmp_path, disk)
    log.retain(10**15)
    disk.left = 1
    with pytest.raises(OSError):
        logs.sweep(10**15)
    logs.sweep(10**15)
    assert len(list((tmp_path / "data" / "t-0").glob("*.deleted"))) == 1  # it goes at the next start


def test_the_broker_lives_on(tmp_path):
    async def story():
        overrides = ["listeners=PLAINTEXT://127.0.0.1:0", "log.flush.offset.checkpoint.interval.ms=10", "log.retention.check.interval.ms=10"]
        config, _ = Config.load(None, {}, [f"log.dirs={tmp_path}/data", *overrides])
        disk = FullDisk("open", "checkpoint.tmp", errno.EMFILE)
        broker = await Broker.start(config, disk)
        await broker.metadata.create_topic("t", 1, {"retention.ms": "1", "file.delete.delay.ms": "0"})
        partition = broker.partition("t", 0)
        disk.left = 3
        await broker.append(partition, build([Record(0, 1, None, b"old")]))
        while partition.log_start_offset < 1 or disk.left:
            await asyncio.sleep(0.01)
        assert broker.logs.offline is None
        await broker.stop()
        return partition

    partition = asyncio.run(asyncio.wait_for(story(), 60))
    assert partition.sealed
