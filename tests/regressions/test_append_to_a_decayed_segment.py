"""Whether a segment is old enough to be rolled is read from its first batch. Where that had decayed each append ended in an error of ours,
which closes the connection, again and again, and nobody was told what was wrong: the partition is offline (C2.5)."""

import uuid

import pytest

from refbroker.config import Config, LogConfig
from refbroker.errors import ErrorCode, KafkaError
from refbroker.log.directory import LogDirectory
from refbroker.log.disk import Disk
from refbroker.log.records import Record, build


def opened(path):
    logs = LogDirectory(Disk(), f"{path}/data", Config(), lambda: 0)
    logs.open(lambda metadata: lambda topic: LogConfig())
    return logs


@pytest.mark.parametrize("what", ["append", "roll"])
def test_the_partition_goes_offline(tmp_path, what):
    logs = opened(tmp_path)
    logs.create("t", 0, uuid.UUID(int=1), LogConfig()).append(build([Record(0, 0, None, b"v")]), 0)
    assert logs.close()
    logs = opened(tmp_path)
    log = logs.partitions["t", 0]
    path = tmp_path / "data" / "t-0" / f"{0:020d}.log"
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(KafkaError) as error:
        log.append(build([Record(0, 0, None, b"v")]), 0) if what == "append" else log.roll(0)
    assert error.value.code is ErrorCode.KAFKA_STORAGE_ERROR
    assert "no valid batch" in log.offline or "batch length" in log.offline
    assert logs.offline is None
