"""The first append after a start asks the first batch of the segment how old it is. Where that had decayed, which nobody looks at after a
clean stop, CorruptBatch went through the append: each request fell over, and the partition stayed online (C2.5). Found by the lab's
flips with HINT_BYTES small."""

import uuid

import pytest

from refbroker.config import Config, LogConfig
from refbroker.errors import ErrorCode, KafkaError
from refbroker.log.directory import LogDirectory
from refbroker.log.disk import Disk
from refbroker.log.records import Record, build

NOW_MS = 1_795_446_000_000
CONFIG = LogConfig(index_interval_bytes=100)
BATCHES = 100  # longer than what a start looks at
MAGIC_POSITION = 16


def opened(path):
    logs = LogDirectory(Disk(), str(path / "data"), Config(), lambda: NOW_MS)
    logs.open(lambda metadata: lambda topic: CONFIG)
    return logs


def batch():
    return build([Record(0, NOW_MS, None, b"v" * 50)])


@pytest.fixture
def log(tmp_path):
    logs = opened(tmp_path)
    log = logs.create("t", 0, uuid.UUID(int=9), CONFIG)
    for _ in range(BATCHES):
        log.append(batch(), NOW_MS)
    assert logs.close(clean=True)
    (file,) = (tmp_path / "data" / "t-0").glob("*.log")
    data = bytearray(file.read_bytes())
    data[MAGIC_POSITION] ^= 1
    file.write_bytes(data)
    log = opened(tmp_path).partitions["t", 0]
    assert log.offline is None
    return log


def test_the_append_is_refused_and_the_partition_offline(log):
    with pytest.raises(KafkaError) as refused:
        log.append(batch(), NOW_MS)
    assert refused.value.code is ErrorCode.KAFKA_STORAGE_ERROR
    assert "magic" in log.offline


def test_so_are_appends_that_come_together(log):
    """Found by reading: the second of them asked for the segment's room, and what that met went through all requests of the turn."""
    results = log.append_all([batch() for _ in range(3)], NOW_MS)
    assert [result.code for result in results] == [ErrorCode.KAFKA_STORAGE_ERROR] * 3
    assert "magic" in log.offline
