"""What is in this segment file, and where does what is valid in it end?

Two looks, both change nothing and never raise for what they find:

1. `check_segment` (not known to be durable): every batch, and beyond `scan.checked` also what no CRC covers: the base
   offset must be the next one (in a compacted log: not before it), the leader epoch must not fall (C2.6). A batch
   without a leader epoch (-1: another program wrote it) says nothing about epochs.
2. `end_of_segment` (durable): from the last index entry on, only the headers; from the start where the index
   leads to nothing. It finds a cut, zeros, and where the segment really ends (C2.2).

The first batch of a log may lie above its segment's base offset.
"""

from dataclasses import dataclass, field

from refbroker.log.batch import Batch, CorruptBatch
from refbroker.log.checkpoints import EPOCH_MAX
from refbroker.log.disk import File
from refbroker.log.index import OFFSET_ENTRY, RELATIVE_OFFSET_MAX
from refbroker.log.scan import CHECK_CHUNK_BYTES, checked, headers
from refbroker.log.segment import INDEX, IndexEntries, Segment

HINT_BYTES = 4096  # of the end of an index: its last entry is there, unless there is much room behind it


@dataclass
class Finding:
    size: int  # bytes of valid batches
    end_offset: int  # the offset behind them
    reason: str | None = None  # why it ends before the file does
    statement: str = "C2.3"
    entries: IndexEntries | None = None  # only where all batches were looked at
    epochs: list[tuple[int, int]] = field(default_factory=list)  # (epoch, offset of its first batch here)
    epoch: int = -1  # the last one
    end_behind: int = -1  # offset behind the last whole batch that follows the invalid one, -1 for none
    epoch_behind: int = -1  # the largest epoch there


def check_segment(segment: Segment, expected: int | None, compacted: bool, epoch: int) -> Finding:
    """Look at every batch. `expected` is the next offset of the log, None for its first segment."""
    entries = IndexEntries(segment.interval_bytes, segment.base_offset)
    found = Finding(0, segment.base_offset, entries=entries, epoch=epoch)
    first = expected is None
    try:
        for position, batch in checked(segment.file, 0, segment.size):
            wrong = _out_of_order(batch, segment.base_offset, found, compacted or first)
            if wrong is not None:
                raise CorruptBatch(position, wrong)
            first = False
            if batch.leader_epoch > found.epoch:
                found.epoch = batch.leader_epoch
                found.epochs.append((batch.leader_epoch, batch.base_offset))
            entries.add(position, batch)
            found.size, found.end_offset = position + batch.size, batch.next_offset
    except CorruptBatch as error:
        found.reason = f"byte {error.position}: {error.reason}"
        if is_zero(segment.file, found.size, segment.size):
            found.reason, found.statement = "zeros to the end of the file", "C2.7"
        else:
            found.end_behind, found.epoch_behind = peek(segment, found.size)
    return found


def _out_of_order(batch: Batch, segment_base: int, found: Finding, gaps: bool) -> str | None:
    """What is wrong with the fields that no CRC covers."""
    expected = found.end_offset
    if batch.base_offset < expected or (batch.base_offset > expected and not gaps):
        return f"base offset {batch.base_offset}, {expected} expected"
    if batch.last_offset - segment_base > RELATIVE_OFFSET_MAX:
        return f"last offset {batch.last_offset} is too far from the segment's base offset"
    if batch.leader_epoch != -1 and not found.epoch <= batch.leader_epoch < EPOCH_MAX:
        return f"leader epoch {batch.leader_epoch} behind {found.epoch}"
    return None


def end_of_segment(segment: Segment) -> Finding:
    """Look at the last headers only."""
    hint = _last_indexed(segment)
    if hint is not None:
        found = _walk(segment, *hint)
        if found.reason is None:
            return found
    return _walk(segment, 0, None)


def _walk(segment: Segment, start: int, indexed: int | None) -> Finding:
    """Follow the headers from `start`, where an index entry says that a batch begins which ends at or before
    `indexed`."""
    found = Finding(start, segment.base_offset)
    try:
        for position, batch in headers(segment.file, start, segment.size):
            if position == start and start:
                if not segment.base_offset < batch.base_offset <= indexed:
                    raise CorruptBatch(position, f"base offset {batch.base_offset} is not what the index says")
            elif batch.base_offset < found.end_offset or batch.last_offset_delta < 0:
                raise CorruptBatch(position, f"base offset {batch.base_offset}, {found.end_offset} expected")
            found.size, found.end_offset, found.epoch = position + batch.size, batch.next_offset, batch.leader_epoch
    except CorruptBatch as error:
        found.reason = f"byte {error.position}: {error.reason}"
        if is_zero(segment.file, found.size, segment.size):
            found.reason, found.statement = "zeros to the end of the file", "C2.7"
    return found


def _last_indexed(segment: Segment) -> tuple[int, int] | None:
    """(position, offset) of the last entry of the offset index, where one can be had cheaply."""
    path = segment.path_of(INDEX)
    if segment.size <= HINT_BYTES or not segment.disk.exists(path):
        return None
    file = segment.disk.open(path, readonly=True)
    size = file.size - file.size % OFFSET_ENTRY.size
    data = file.pread(HINT_BYTES, max(0, size - HINT_BYTES))[: min(size, HINT_BYTES)]
    for at in range(len(data) - OFFSET_ENTRY.size, -1, -OFFSET_ENTRY.size):
        offset, position = OFFSET_ENTRY.unpack_from(data, at)
        if position:
            return (position, segment.base_offset + offset) if 0 < position < segment.size and offset >= 0 else None
    return None


def peek(segment: Segment, position: int) -> tuple[int, int]:
    """(end offset, largest epoch) of the batches that follow what is at `position`, as far as they are whole: for the
    report, and so that no epoch is used again. What is at `position` itself may be invalid: its length is tried."""
    end_offset, epoch = segment.base_offset if position == 0 else -1, -1
    try:
        for at, batch in headers(segment.file, position, segment.size):
            if at == position and position:
                continue
            for _, whole in checked(segment.file, at, at + batch.size):
                end_offset, epoch = max(end_offset, whole.next_offset), max(epoch, whole.leader_epoch)
    except CorruptBatch:
        pass
    return end_offset, epoch if epoch < EPOCH_MAX else -1


def is_zero(file: File, position: int, end: int) -> bool:
    """Nothing but zeros between two positions."""
    while position < end:
        data = file.pread(min(CHECK_CHUNK_BYTES, end - position), position)
        if data.count(0) != len(data) or not data:
            return False
        position += len(data)
    return True
