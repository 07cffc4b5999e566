"""What do the files of a partition hold? An independent reader: none of the broker's code is used here.

Framing and header by `struct`, the records inside by kafka-python's reader, so that a mistake in `refbroker/log` cannot
hide itself. It stops at the first byte of a segment that is not a whole valid batch, and says why.

Verified: length, magic 2, CRC-32C, last offset delta against the record count, offsets that go on from batch to batch.
Not verified: what the indexes and snapshots say (chaos/checks/indexes.py does), which topic the directory belongs to.
"""

import struct
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import crc32c
from kafka.record.default_records import DefaultRecordBatch

# base offset, length, epoch, magic, crc, attributes, last delta, base time, max time, producer id, epoch, sequence, count
_HEADER = struct.Struct(">qiibIhiqqqhii")
_CRC_FROM = 21


@dataclass(frozen=True)
class StoredBatch:
    """One batch as it lies in a file; positions in bytes, offsets in records, times in ms."""

    position: int
    data: bytes
    base_offset: int
    leader_epoch: int
    attributes: int
    last_offset: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    count: int

    @property
    def end(self) -> int:
        return self.position + len(self.data)

    @cached_property
    def records(self) -> list[tuple[int, int, bytes | None]]:
        """(offset, timestamp, value) of each record, decompressed by kafka-python."""
        return [(r.offset, r.timestamp, r.value) for r in DefaultRecordBatch(self.data)]


@dataclass
class StoredSegment:
    """One `.log` file: its valid batches, and what stands behind them if anything does."""

    path: Path
    base_offset: int
    size: int
    batches: list[StoredBatch] = field(default_factory=list)
    problem: str | None = None

    @property
    def first_offset(self) -> int:
        return self.batches[0].base_offset if self.batches else self.base_offset

    @property
    def end_offset(self) -> int:
        return self.batches[-1].last_offset + 1 if self.batches else self.base_offset

    @property
    def valid_size(self) -> int:
        return self.batches[-1].end if self.batches else 0


def parse_log(data: bytes, base_offset: int, path: Path = Path("?")) -> StoredSegment:
    """The longest valid run of batches from the start of a segment's bytes."""
    segment, position, expected = StoredSegment(path, base_offset, len(data)), 0, None
    while position < len(data):
        problem, batch = _batch_at(data, position)
        if batch is not None and expected is not None and batch.base_offset != expected:
            problem = f"base offset {batch.base_offset}, expected {expected}"
        if batch is not None and batch.base_offset < base_offset:
            problem = f"base offset {batch.base_offset} below the segment's {base_offset}"
        if problem:
            segment.problem = f"{path.name} at {position}: {problem}"
            break
        segment.batches.append(batch)
        position, expected = batch.end, batch.last_offset + 1
    return segment


def _batch_at(data: bytes, position: int) -> tuple[str | None, StoredBatch | None]:
    if len(data) - position < _HEADER.size:
        return f"{len(data) - position} bytes left, too few for a header", None
    (base, length, epoch, magic, crc, attributes, last_delta, _, max_time, producer, producer_epoch, sequence,
     count) = _HEADER.unpack_from(data, position)
    size = length + 12
    if size < _HEADER.size or position + size > len(data):
        return f"batch of {size} bytes in {len(data) - position} left", None
    if magic != 2:
        return f"magic {magic}", None
    whole = data[position:position + size]
    if crc32c.crc32c(whole[_CRC_FROM:]) != crc:
        return "CRC does not match", None
    if count < 1 or last_delta != count - 1:
        return f"{count} records, last offset delta {last_delta}", None
    return None, StoredBatch(position, whole, base, epoch, attributes, base + last_delta, max_time, producer,
                             producer_epoch, sequence, count)


def read_partition(directory: Path) -> list[StoredSegment]:
    """All segments of a partition directory, in the order of their base offsets."""
    paths = sorted(path for path in directory.glob("*.log") if path.stem.isdigit())
    return [parse_log(path.read_bytes(), int(path.stem), path) for path in paths]


def valid_prefix(segments: list[StoredSegment]) -> list[StoredBatch]:
    """The batches of the log's longest valid prefix: up to the first damage, or the first hole between segments or at the start of
    one."""
    batches: list[StoredBatch] = []
    for segment in segments:
        if batches and not segment.base_offset == segment.first_offset == batches[-1].last_offset + 1:
            break
        batches += segment.batches
        if segment.problem:
            break
    return batches


def partition_directories(data_dir: Path) -> dict[tuple[str, int], Path]:
    """(topic, partition) -> directory, for every partition that is in use (not deleted, not stray)."""
    found = {}
    for path in sorted(data_dir.iterdir()):
        topic, _, number = path.name.rpartition("-")
        if path.is_dir() and topic and number.isdigit():
            found[topic, int(number)] = path
    return found
