"""A log without timestamps was not rolled by time for a batch whose timestamp is less than -1, which Kafka's rules allow.

Found by a comparison of random logs with the version before: -1 was taken for the least timestamp there is.
"""

import uuid

import pytest

from refbroker.config import Config, LogConfig
from refbroker.log.directory import LogDirectory
from refbroker.log.disk import Disk
from refbroker.log.records import Record, build

NOW_MS, SEGMENT_MS = 1_795_446_000_000, 1000
LEAST = -(2**63) + 2 * NOW_MS  # now - LEAST still is an int64


def batch(timestamp):
    return build([Record(0, timestamp, None, b"v")])


@pytest.mark.parametrize("timestamp", [-1, -2, -5000, LEAST])
@pytest.mark.parametrize("together", [1, 2])
def test_it_is_rolled(tmp_path, timestamp, together):
    logs = LogDirectory(Disk(), str(tmp_path), Config(), lambda: NOW_MS)
    logs.open(lambda metadata: lambda topic: LogConfig(segment_ms=SEGMENT_MS))
    log = logs.create("t", 0, uuid.UUID(int=9), LogConfig(segment_ms=SEGMENT_MS))
    log.append(batch(-1), NOW_MS)
    for late_ms, segments in ((SEGMENT_MS, 1), (SEGMENT_MS + 1, 2)):
        results = log.append_all([batch(timestamp) for _ in range(together)], NOW_MS + late_ms)
        assert all(result.log_append_time_ms == -1 for result in results)
        assert len(log.segments) == segments
