"""A clean stop that found no space for an index, or a start that did, was taken for a failed flush: the next start wrote all that was not
known to be durable anew, and so was refused until there was room for a second copy of it, which nobody had promised to a disk that is
only full (C1.14, C1.16). No fsync had failed."""

import uuid

import pytest

from chaos.disk.driver import ROOT, quietly
from chaos.disk.model import SimDisk
from refbroker.config import Config, LogConfig
from refbroker.log.directory import LogDirectory, StartupError
from refbroker.log.records import Record, build
from refbroker.log.segment import INDEX, file_name

KEY, CONFIG = ("t", 0), LogConfig(segment_bytes=50_000, index_interval_bytes=1000)
BATCHES = 120
A_LITTLE = 5_000


def opened(disk):
    logs = LogDirectory(disk, ROOT, Config(), lambda: 0)
    logs.open(lambda metadata: lambda topic: CONFIG)
    return logs


def filled():
    disk = SimDisk({ROOT: None})
    logs = opened(disk)
    log = logs.create(*KEY, uuid.UUID(int=1), CONFIG)
    for _ in range(BATCHES):
        log.append(build([Record(0, 0, None, b"v" * 1000)]), 0)
    disk.capacity = disk.used
    return disk, logs, log


def all_is_there(logs):
    log = logs.partitions[KEY]
    return log.offline is None and [batch.base_offset for batch in log.read_batches(0)] == list(range(BATCHES))


def test_a_stop(tmp_path):
    disk, logs, _ = filled()
    with quietly():
        assert not logs.close() and "no clean stop" in logs.offline
    disk.kill()
    disk.capacity += A_LITTLE
    assert all_is_there(opened(disk))


def test_a_start(tmp_path):
    disk, logs, log = filled()
    logs.close(clean=False)
    disk.kill()
    path = f"{log.directory}/{file_name(0, INDEX)}"
    disk.open(path).truncate(0)  # an index that must be made again
    disk.capacity = disk.used
    with quietly(), pytest.raises(StartupError, match="No space"):
        opened(disk)
    disk.kill()
    disk.capacity += A_LITTLE
    assert all_is_there(opened(disk))
