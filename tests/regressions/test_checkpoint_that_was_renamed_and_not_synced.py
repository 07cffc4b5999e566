"""A checkpoint was renamed into its place, and then there was no descriptor to sync the directory with. The broker went on believing that
the file had the old values: those of a topic that was deleted next stayed in it, and a new topic of that name was offline after a kill,
for want of records that it never had (C9.6); nor was a recovery point lowered that a truncation had passed (C3.7)."""

import errno
import os
import uuid

import pytest

from refbroker.config import Config, LogConfig
from refbroker.errors import KafkaError
from refbroker.log.directory import LogDirectory
from refbroker.log.disk import Disk
from refbroker.log.records import Record, build

KEY, CONFIG = ("t", 0), LogConfig()


class NoDescriptors(Disk):
    """To sync the data directory with."""

    gone = False

    def sync_dir(self, path):
        if self.gone and path.endswith("/data"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), path)
        super().sync_dir(path)


def opened(path, disk):
    logs = LogDirectory(disk, f"{path}/data", Config(), lambda: 0)
    logs.open()
    return logs


def with_half_a_checkpoint(path):
    disk = NoDescriptors()
    logs = opened(path, disk)
    log = logs.create(*KEY, uuid.UUID(int=1), CONFIG)
    for _ in range(6):
        log.append(build([Record(0, 0, None, b"v")]), 0)
    log.flush()
    disk.gone = True
    with pytest.raises(KafkaError):
        logs.checkpoint()
    disk.gone = False
    assert logs.offline is None
    return logs, log


def test_a_topic_made_again_inherits_nothing(tmp_path):
    logs, _ = with_half_a_checkpoint(tmp_path)
    logs.delete(*KEY)
    log = logs.create(*KEY, uuid.UUID(int=2), CONFIG)
    log.append(build([Record(0, 0, None, b"new")]), 0)
    logs.close(clean=False)
    log = opened(tmp_path, Disk()).partitions[KEY]
    assert log.offline is None and log.log_end_offset == 1


def test_a_truncation_lowers_the_recovery_point(tmp_path):
    logs, log = with_half_a_checkpoint(tmp_path)
    log.truncate(2)
    logs.close(clean=False)
    log = opened(tmp_path, Disk()).partitions[KEY]
    assert log.offline is None and log.log_end_offset == 2
