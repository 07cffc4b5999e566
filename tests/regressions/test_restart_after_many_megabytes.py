"""A broker whose clients are idempotent, as those of Apache Kafka are by default, did not start any more once a segment was
longer than REMEMBER_BYTES_MAX: the stretch of log in which to look for each producer's last five batches was sought by a
method that had been deleted (C6.4, C1.1). Nothing in the tests or in the lab had ever written so much."""

import uuid

import pytest

from refbroker.config import Config, LogConfig
from refbroker.errors import ErrorCode, KafkaError
from refbroker.log import replay
from refbroker.log.directory import LogDirectory
from refbroker.log.disk import Disk
from refbroker.log.records import Record, build

NOW_MS = 1_795_446_000_000
CONFIG = LogConfig(index_interval_bytes=100)


def opened(path):
    logs = LogDirectory(Disk(), str(path / "data"), Config(), lambda: NOW_MS)
    logs.open(lambda metadata: lambda topic: CONFIG)
    return logs


def batch(producer, sequence):
    return build([Record(0, NOW_MS, None, b"v" * 50)], producer_id=producer, producer_epoch=0, base_sequence=sequence)


@pytest.mark.parametrize("remembered", [1, 700, 1500, 1 << 20])
def test_a_partition_is_opened_and_knows_the_batches_of_the_last_stretch(tmp_path, monkeypatch, remembered):
    monkeypatch.setattr(replay, "REMEMBER_BYTES_MAX", remembered)
    logs = opened(tmp_path)
    log = logs.create("t", 0, uuid.UUID(int=9), CONFIG)
    for sequence in range(20):
        log.append(batch(1, sequence), NOW_MS)
        log.append(batch(2, sequence), NOW_MS)
    size = log.size_bytes // 40
    assert logs.close(clean=True)
    logs = opened(tmp_path)
    log = logs.partitions["t", 0]
    known = max(1, min(5, remembered // size // 2))
    for sequence in range(20 - known, 20):
        assert log.append(batch(1, sequence), NOW_MS).duplicate
    with pytest.raises(KafkaError) as refused:
        log.append(batch(1, 14), NOW_MS)
    assert refused.value.code is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert log.append(batch(1, 20), NOW_MS).base_offset == 40


def test_lying_indexes_do_not_keep_it_from_starting(tmp_path, monkeypatch):
    monkeypatch.setattr(replay, "REMEMBER_BYTES_MAX", 700)
    logs = opened(tmp_path)
    log = logs.create("t", 0, uuid.UUID(int=9), CONFIG)
    for sequence in range(20):
        log.append(batch(1, sequence), NOW_MS)
    index = log.active.offset_index
    assert logs.close(clean=True)
    lies = [(offset, position + 1) for offset, position in index.entries]
    index.rewrite(lies)
    index.close()
    log = opened(tmp_path).partitions["t", 0]
    assert log.append(batch(1, 19), NOW_MS).duplicate
    assert log.append(batch(1, 15), NOW_MS).duplicate
