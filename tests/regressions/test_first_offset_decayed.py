"""The base offset of a batch is under no checksum, and the first batch of a log may lie above its segment's base offset. One flipped bit
there, and recovery believed that the log began at offset 128: every batch behind it was out of order, the log "ended" at 129, which is
not below the recovery point, and all that had been durable was cut off and unlinked (C2.5). So did a flip in the last offset delta of the
last batch of a segment, behind which the next one overlapped. Found by the lab: a log that goes on behind a flip is used, too."""

import uuid

import pytest

from refbroker.config import Config, LogConfig
from refbroker.log.directory import LogDirectory
from refbroker.log.disk import Disk
from refbroker.log.records import Record, build

NOW_MS = 1_795_446_000_000
CONFIG = LogConfig(index_interval_bytes=100, segment_bytes=400)
LOW_BYTE_OF_OFFSET, LAST_OFFSET_DELTA = 7, 26


def opened(path, **settings):
    logs = LogDirectory(Disk(), str(path / "data"), Config(), lambda: NOW_MS, **settings)
    logs.open(lambda metadata: lambda topic: CONFIG)
    return logs


def stopped(path, batches, clean):
    """The end of a durable log, and its files, oldest first."""
    logs = opened(path)
    log = logs.create("t", 0, uuid.UUID(int=9), CONFIG)
    for _ in range(batches):
        log.append(build([Record(0, NOW_MS, None, b"v" * 50)]), NOW_MS)
    log.flush()
    logs.checkpoint()
    end = log.log_end_offset
    logs.close(clean=clean)
    return end, sorted((path / "data" / "t-0").glob("*.log"))


def flip(file, position, bit):
    data = bytearray(file.read_bytes())
    data[position] ^= bit
    file.write_bytes(data)


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("batches", [1, 2, 8])
def test_a_first_batch_that_claims_to_lie_far_behind(tmp_path, batches, clean):
    _, files = stopped(tmp_path, batches, clean)
    before = {file: file.stat().st_size for file in files}
    flip(files[0], LOW_BYTE_OF_OFFSET, 0x80)
    logs = opened(tmp_path)
    assert logs.partitions["t", 0].offline and ("t", 0) in logs.damaged
    assert {file: file.stat().st_size for file in files} == before  # nothing is cut


def test_a_segment_that_claims_to_reach_into_the_next(tmp_path):
    _, files = stopped(tmp_path, 8, False)
    assert len(files) > 2
    last_batch = files[0].stat().st_size // 3 * 2
    flip(files[0], last_batch + LAST_OFFSET_DELTA, 0x80)
    logs = opened(tmp_path)
    assert logs.partitions["t", 0].offline and ("t", 0) in logs.damaged
    assert all(file.exists() for file in files)


def test_the_loss_can_be_accepted(tmp_path):
    end, files = stopped(tmp_path, 8, False)
    flip(files[0], LOW_BYTE_OF_OFFSET, 0x80)
    logs = opened(tmp_path, accept_loss=True)
    assert logs.partitions["t", 0].offline is None and logs.reports["t", 0].lost
    assert logs.partitions["t", 0].recovery_point <= end
