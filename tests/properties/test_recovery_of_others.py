"""Files that another program left behind, and that are not what their name says: dropped with a line in the report, and the log is whole.

Verified: C2.10, C6.1, C6.2, C6.5, C9.1, C9.2.
"""

import struct
import uuid

import pytest
from crc32c import crc32c

from refbroker.config import Config, LogConfig
from refbroker.errors import ErrorCode, KafkaError
from refbroker.log.batch import parse
from refbroker.log.directory import LogDirectory
from refbroker.log.disk import Disk
from refbroker.log.producers import CorruptSnapshot, ProducerStates, decode_snapshot
from refbroker.log.records import Record, build

KEY, CONFIG = ("t", 0), LogConfig(cleanup_policy="compact")


def opened(path):
    logs = LogDirectory(Disk(), f"{path}/data", Config(), lambda: 0)
    logs.open(lambda metadata: lambda topic: CONFIG)
    return logs


@pytest.mark.parametrize("content", [b"no batch at all", bytes(80), bytes(build([Record(0, 0, b"k", b"v")]))[:40]])
def test_a_compaction_that_is_damaged_is_dropped(tmp_path, content):
    """Kafka had renamed it to be swapped in; what it was to take the place of is still there."""
    logs = opened(tmp_path)
    log = logs.create(*KEY, uuid.UUID(int=1), CONFIG)
    for _ in range(3):
        log.append(build([Record(0, 0, b"k", b"v")]), 0)
    logs.checkpoint()
    logs.close(clean=False)
    swap = tmp_path / "data" / "t-0" / f"{0:020d}.log.swap"
    swap.write_bytes(content)
    logs = opened(tmp_path)
    assert logs.partitions[KEY].log_end_offset == 3 and not swap.exists()
    assert any("a compaction that is damaged" in str(action) for action in logs.reports[KEY].actions)


@pytest.mark.parametrize("count", [0, 2])
def test_a_snapshot_that_counts_wrongly_is_corrupt(count):
    body = struct.pack(">i", count) + bytes(46)
    with pytest.raises(CorruptSnapshot):
        decode_snapshot(struct.pack(">hI", 1, crc32c(body)) + body)


def marker(value, producer_id=7, epoch=3, count=1):
    data = build([Record(0, 9, b"\0\0\0\1", value)], producer_id=producer_id, producer_epoch=epoch, control=True, transactional=True)
    struct.pack_into(">i", data, 57, count)
    return parse(data)


@pytest.mark.parametrize("odd", [marker(None), marker(b"\0\0"), marker(b"\0\0\0\0\0\1", count=0), marker(b"\0\0\0\0\0\1", count=2)])
def test_a_marker_that_says_nothing_ends_nothing(odd):
    """C6.5: what is in the log has been checked by whoever wrote it; what cannot be read is no reason to fall over."""
    states = ProducerStates()
    states.update(parse(build([Record(0, 0, None, b"v")], producer_id=7, producer_epoch=2, base_sequence=0, transactional=True)))
    states.update(odd)
    known = states.get(7)
    reads = odd.record_count == 2  # the record is whole; the second one is looked for by nobody
    assert (known.txn_start_offset, known.epoch) == ((None, 3) if reads else (0, 2))


def test_a_producer_that_is_known_by_such_a_marker_only_may_begin_anywhere():
    states = ProducerStates()
    states.update(marker(None))
    batch = parse(build([Record(0, 0, None, b"v")], producer_id=7, producer_epoch=0, base_sequence=40))
    assert states.check(batch) is None
    states.update(batch)
    with pytest.raises(KafkaError) as error:
        states.check(parse(build([Record(0, 0, None, b"v")], producer_id=7, producer_epoch=0, base_sequence=42)))
    assert error.value.code is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    again = decode_snapshot(states.encode_snapshot())
    assert [(one.producer_id, one.epoch, one.last_sequence) for one in again] == [(7, 0, 40)]
    states.update(marker(b"\0\0\0\0\0\1", producer_id=8))
    assert [(one.producer_id, one.last_sequence) for one in decode_snapshot(states.encode_snapshot())] == [(7, 40), (8, -1)]
