"""A checkpoint that had waited for a thread was written over a newer one. At a clean stop, which writes the last one itself, the recovery
point fell behind the log, and what DeleteRecords had deleted was back at the next start (C1.1, C3.5)."""

import uuid

from refbroker.config import Config, LogConfig
from refbroker.log.directory import LogDirectory
from refbroker.log.disk import Disk
from refbroker.log.records import Record, build

KEY = ("t", 0)


def opened(path):
    logs = LogDirectory(Disk(), f"{path}/data", Config(), lambda: 0)
    logs.open()
    return logs


def test_the_newer_one_stays(tmp_path):
    logs = opened(tmp_path)
    log = logs.create(*KEY, uuid.UUID(int=1), LogConfig())
    log.append(build([Record(0, 0, None, b"a")]), 0)
    log.flush()
    late = logs.begin_checkpoint()
    log.append(build([Record(0, 0, None, b"b")]), 0)
    log.delete_records(-1)
    assert logs.close()
    late()
    logs = opened(tmp_path)
    log = logs.partitions[KEY]
    assert logs.clean_start and not logs.reports[KEY].actions
    assert (log.log_start_offset, log.log_end_offset) == (2, 2)
    logs.close()
