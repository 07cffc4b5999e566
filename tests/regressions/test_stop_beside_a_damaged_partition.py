"""A stop with one partition offline, whose batch had decayed, flushed none of the others, and ended with exit code 0 all the same: a power
cut after it took what their policies leave in the page cache (C1.1). Such a stop is not clean, but what can be flushed is."""

import uuid

from chaos.disk.driver import ROOT, quietly
from chaos.disk.model import SimDisk
from chaos.disk.profiles import WEAKEST, Platters
from refbroker.config import Config, LogConfig
from refbroker.log.directory import LogDirectory
from refbroker.log.records import Record, build


def opened(disk):
    logs = LogDirectory(disk, ROOT, Config(), lambda: 0)
    logs.open(lambda metadata: lambda topic: LogConfig())
    return logs


def test_the_others_are_flushed():
    disk = SimDisk({ROOT: None})
    logs = opened(disk)
    damaged, healthy = [logs.create("t", number, uuid.UUID(int=1), LogConfig()) for number in (0, 1)]
    for log in (damaged, healthy):
        log.append(build([Record(0, 0, None, b"v")]), 0)
    damaged.go_offline("a batch has decayed")
    with quietly():
        assert not logs.close()
    assert not disk.exists(f"{ROOT}/.kafka_cleanshutdown")
    platters = Platters(disk, WEAKEST.commit)
    for event in disk.events:
        platters.feed(event)
    logs = opened(SimDisk(platters.durable_image()))
    assert not logs.clean_start and logs.partitions["t", 1].log_end_offset == 1
    assert logs.partitions["t", 1].recovery_point == 1
