"""Do the index files of a segment agree with the log that they summarise?

Verified, by brute force over every batch of the segment (chaos/logfile.py): an offset index entry points at the start of a batch,
everything before it ends below the entry's offset, and the offset lies within that batch (C5.1); entries strictly increase,
the size is a multiple of 8, nothing lies beyond the log (C5.2); a time index entry's timestamp is the largest of all batches
up to its offset, timestamps strictly increase, offsets do not fall, the size is a multiple of 12 (C5.3). A tail of zeros is
what a running Apache Kafka preallocates; it is passed over only where `preallocated` says that this may be one.
Not verified: that there are enough entries (a sparse index may be empty), and the transaction index.
"""

import struct
from bisect import bisect_left

from chaos.logfile import StoredSegment

_OFFSET_ENTRY = struct.Struct(">iI")
_TIME_ENTRY = struct.Struct(">qi")


def check_offset_index(data: bytes, segment: StoredSegment, *, preallocated: bool = False) -> list[tuple[str, str]]:
    """(statement, what is wrong) for each deviation of an `.index` file."""
    if preallocated:
        data = _without_zero_tail(data, _OFFSET_ENTRY.size)
    found = [("C5.2", f"size {len(data)} is no multiple of 8")] if len(data) % 8 else []
    starts = [batch.position for batch in segment.batches]
    last = (-1, -1)
    for relative, position in _OFFSET_ENTRY.iter_unpack(data[:len(data) // 8 * 8]):
        offset = segment.base_offset + relative
        if (offset, position) <= last or offset <= last[0] or position <= last[1]:
            found.append(("C5.2", f"entry {offset} -> {position} behind {last[0]} -> {last[1]}"))
        last = (offset, position)
        at = bisect_left(starts, position)
        if at == len(starts) or starts[at] != position:
            found.append(("C5.1", f"entry {offset} -> {position}: no batch starts there"))
            continue
        if at and segment.batches[at - 1].last_offset >= offset:
            found.append(("C5.1", f"entry {offset} -> {position}: the batch before ends at {segment.batches[at - 1].last_offset}"))
        # An append of several batches is indexed as one: its largest offset, the position of its first byte.
        if not segment.batches[at].base_offset <= offset < segment.end_offset:
            found.append(("C5.1", f"entry {offset} -> {position}: offset outside of what starts there"))
    return found


def check_time_index(data: bytes, segment: StoredSegment, *, preallocated: bool = False) -> list[tuple[str, str]]:
    """(statement, what is wrong) for each deviation of a `.timeindex` file."""
    if preallocated:
        data = _without_zero_tail(data, _TIME_ENTRY.size)
    found = [("C5.3", f"size {len(data)} is no multiple of 12")] if len(data) % 12 else []
    last_timestamp, last_offset = -2, -1
    for timestamp, relative in _TIME_ENTRY.iter_unpack(data[:len(data) // 12 * 12]):
        offset = segment.base_offset + relative
        if not segment.batches:
            if (timestamp, relative) not in ((-1, 0), (0, 0)):  # what closes the index of an empty segment
                found.append(("C5.3", f"entry {timestamp} -> {offset} in an empty segment"))
            continue
        if timestamp <= last_timestamp or offset < last_offset:
            found.append(("C5.3", f"entry {timestamp} -> {offset} behind {last_timestamp} -> {last_offset}"))
        last_timestamp, last_offset = timestamp, offset
        if offset >= segment.end_offset:
            found.append(("C5.2", f"time entry {timestamp} -> {offset} beyond the log's end {segment.end_offset}"))
            continue
        upto = max((b.max_timestamp for b in segment.batches if b.base_offset <= offset), default=-1)
        if timestamp != upto:
            found.append(("C5.3", f"entry {timestamp} -> {offset}: the largest timestamp up to there is {upto}"))
    return found


def _without_zero_tail(data: bytes, entry_size: int) -> bytes:
    stripped = len(data.rstrip(b"\0"))
    return data[: -(-stripped // entry_size) * entry_size]
