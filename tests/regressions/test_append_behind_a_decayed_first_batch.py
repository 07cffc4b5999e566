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


def test_the_append_is_refused_and_the_partition_offline(tmp_path):
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
    with pytest.raises(KafkaError) as refused:
        log.append(batch(), NOW_MS)
    assert refused.value.code is ErrorCode.KAFKA_STORAGE_ERROR
    assert "magic" in log.offline
