"""Records that their producer gave no timestamp (-1) have entries in the offset index and none in the time index. A truncation took
that for a lost file, when the log was cut already and nothing else was; the clean stop behind it left a partition that was refused."""

import uuid

from refbroker.config import Config, LogConfig
from refbroker.log.directory import LogDirectory
from refbroker.log.disk import Disk
from refbroker.log.records import Record, build

KEY, CONFIG = ("t", 0), LogConfig(index_interval_bytes=0)


def opened(path):
    logs = LogDirectory(Disk(), f"{path}/data", Config(), lambda: 0)
    logs.open(lambda metadata: lambda topic: CONFIG)
    return logs


def test_it_is_cut(tmp_path):
    logs = opened(tmp_path)
    log = logs.create(*KEY, uuid.UUID(int=1), CONFIG)
    for _ in range(5):
        log.append(build([Record(0, -1, None, b"v")]), 0)
    assert log.truncate(3) == log.log_end_offset == 3
    assert logs.close()
    log = opened(tmp_path).partitions[KEY]
    assert (log.offline, log.log_end_offset, log.offset_of_max_timestamp()) == (None, 3, None)
    log.append(build([Record(0, 5, None, b"v")]), 0)
    assert log.offset_for_time(0) == (5, 3, 0)
