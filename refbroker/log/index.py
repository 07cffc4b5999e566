"""Where in a segment is this offset, and which offset has this timestamp?

Two sparse files beside each segment's `.log`, derived from it and rebuilt from it when in doubt (C2.12). A third one,
`.txnindex`, exists only where a transaction was aborted; it is read here for the dump.

    .index      8 bytes an entry:   relative offset int32 | position int32
                the last offset of a batch, relative to the segment's base offset, and the position of its first byte
    .timeindex  12 bytes an entry:  timestamp int64 | relative offset int32
                the largest timestamp so far, and the last offset of the batch that first had it
    .txnindex   34 bytes an entry:  version int16 = 0 | then int64: producer id, first, last and last stable offset

A file is valid (`load`), and then gives the same answers as a rebuilt one (C5.5), if
1. its size is a multiple of the entry size;
2. offset index: offsets and positions strictly increase (C5.2), and no position is 0, as the first batch of a segment
   gets no entry;
3. time index: timestamps strictly increase, and are not negative; offsets do not decrease (C5.3);
4. no relative offset is negative, none reaches the log end offset, no position the log's end, where these are given;
5. zeros to the end of the file are not entries but room: a Kafka that was killed leaves them. They are cut off.

Entries are kept in memory, 8 and 12 bytes each as on disk; an append writes one entry at the end of the file.

How Apache Kafka differs: it maps a file of 10 MiB into memory, trims it when the segment is closed, and believes any
content whose last entry lies above the base offset.
"""

import struct
from array import array
from bisect import bisect_left, bisect_right
from typing import NamedTuple

from refbroker.log.disk import Disk, File

OFFSET_ENTRY = struct.Struct(">ii")
TIME_ENTRY = struct.Struct(">qi")
ABORTED_TRANSACTION = struct.Struct(">hqqqq")
INDEX_BYTES_MAX = 256 * 1024 * 1024  # read from a file at once; segment.index.bytes is 10 MiB in practice
RELATIVE_OFFSET_MAX = 2**31 - 1  # a segment is rolled before it is exceeded
NO_TIMESTAMP = -1


class CorruptIndex(Exception):
    """The file is no valid index; rebuild it from the log."""


class _Index:
    """What both indexes share: the file, opened when first needed, and its entries in two arrays."""

    ENTRY: struct.Struct

    def __init__(self, disk: Disk, path: str, base_offset: int):
        self.path = path
        self.base_offset = base_offset
        self._disk = disk
        self._file: File | None = None

    def _open(self) -> File:
        if self._file is None:
            self._file = self._disk.open(self.path, create=True)
        return self._file

    def _read(self) -> bytes:
        """All entries, without the room behind them."""
        file = self._open()
        if file.size > INDEX_BYTES_MAX:
            raise CorruptIndex(f"{self.path}: {file.size} bytes, at most {INDEX_BYTES_MAX} expected")
        data, room = strip_room(file.pread(file.size, 0), self.ENTRY.size)
        if room:
            file.truncate(len(data))
        return data

    def _cut(self, count: int) -> None:
        file = self._open()
        if count * self.ENTRY.size < file.size:
            file.truncate(count * self.ENTRY.size)

    def _replace(self, data: bytes) -> None:
        file = self._open()
        file.truncate(0)
        if data:
            file.append([data])

    def _relative(self, offset: int) -> int:
        relative = offset - self.base_offset
        assert 0 <= relative <= RELATIVE_OFFSET_MAX, (self.path, offset)
        return relative

    def sync(self) -> None:
        self._open().sync()

    def close(self) -> None:
        """Let go of the file; it is opened again when needed."""
        self._file = None


class OffsetIndex(_Index):
    """Offset -> position. `entries` as (offset, position), offsets absolute."""

    ENTRY = OFFSET_ENTRY

    def __init__(self, disk: Disk, path: str, base_offset: int):
        super().__init__(disk, path, base_offset)
        self._offsets = array("i")  # relative
        self._positions = array("i")

    def __len__(self) -> int:
        return len(self._offsets)

    @property
    def entries(self) -> list[tuple[int, int]]:
        return [(self.base_offset + offset, position) for offset, position in zip(self._offsets, self._positions)]

    @property
    def last(self) -> tuple[int, int]:
        """The last entry; the segment's start where there is none."""
        return (self.base_offset + self._offsets[-1], self._positions[-1]) if self._offsets else (self.base_offset, 0)

    def load(self, *, log_bytes: int | None = None, log_end_offset: int | None = None) -> None:
        """Read the file. Raises CorruptIndex, and then has no entries: `rewrite` them."""
        self._offsets, self._positions = array("i"), array("i")
        entries = parse_offset_index(self._read(), self.path)
        if entries and log_bytes is not None and entries[-1][1] >= log_bytes:
            raise CorruptIndex(f"{self.path}: last position {entries[-1][1]} in a log of {log_bytes} bytes")
        if entries and log_end_offset is not None and self.base_offset + entries[-1][0] >= log_end_offset:
            raise CorruptIndex(
                f"{self.path}: last offset {self.base_offset + entries[-1][0]}, log end {log_end_offset}"
            )
        self._offsets.extend(entry[0] for entry in entries)
        self._positions.extend(entry[1] for entry in entries)

    def append(self, offset: int, position: int) -> None:
        relative = self._relative(offset)
        assert not self._offsets or (relative > self._offsets[-1] and position > self._positions[-1]), (
            offset,
            position,
        )
        assert position > 0, "the first batch of a segment gets no entry"
        self._open().append([OFFSET_ENTRY.pack(relative, position)])
        self._offsets.append(relative)
        self._positions.append(position)

    def lookup(self, offset: int) -> int:
        """A position at or before the first batch whose last offset is at least `offset` (C5.1)."""
        slot = bisect_right(self._offsets, offset - self.base_offset) - 1
        return self._positions[slot] if slot >= 0 else 0

    def truncate_to(self, offset: int) -> None:
        """Drop all entries at or above `offset` (C5.7)."""
        count = bisect_left(self._offsets, offset - self.base_offset)
        self._cut(count)
        del self._offsets[count:], self._positions[count:]

    def rewrite(self, entries: list[tuple[int, int]]) -> None:
        """Replace the file's content. Not atomic: an index is derived, and rebuilt after a crash."""
        relative = [(self._relative(offset), position) for offset, position in entries]
        self._replace(b"".join(OFFSET_ENTRY.pack(*entry) for entry in relative))
        self._offsets = array("i", (entry[0] for entry in relative))
        self._positions = array("i", (entry[1] for entry in relative))

    def is_full(self, bytes_max: int) -> bool:
        return len(self._offsets) >= bytes_max // OFFSET_ENTRY.size


class TimeIndex(_Index):
    """Timestamp -> offset. `entries` as (timestamp, offset), offsets absolute."""

    ENTRY = TIME_ENTRY

    def __init__(self, disk: Disk, path: str, base_offset: int):
        super().__init__(disk, path, base_offset)
        self._timestamps = array("q")
        self._offsets = array("i")  # relative

    def __len__(self) -> int:
        return len(self._offsets)

    @property
    def entries(self) -> list[tuple[int, int]]:
        return [(timestamp, self.base_offset + offset) for timestamp, offset in zip(self._timestamps, self._offsets)]

    @property
    def last(self) -> tuple[int, int]:
        """The last entry; (-1, base offset) where there is none."""
        if not self._offsets:
            return NO_TIMESTAMP, self.base_offset
        return self._timestamps[-1], self.base_offset + self._offsets[-1]

    def load(self, *, log_end_offset: int | None = None) -> None:
        """Read the file. Raises CorruptIndex, and then has no entries: `rewrite` them."""
        self._timestamps, self._offsets = array("q"), array("i")
        entries = parse_time_index(self._read(), self.path)
        if entries and log_end_offset is not None and self.base_offset + entries[-1][1] >= log_end_offset:
            raise CorruptIndex(
                f"{self.path}: last offset {self.base_offset + entries[-1][1]}, log end {log_end_offset}"
            )
        self._timestamps.extend(entry[0] for entry in entries)
        self._offsets.extend(entry[1] for entry in entries)

    def append(self, timestamp: int, offset: int) -> None:
        """Note the largest timestamp so far. One that is not larger than the last entry's is left out: the entry that
        is there answers for it."""
        if timestamp <= self.last[0]:
            return
        relative = self._relative(offset)
        assert not self._offsets or relative >= self._offsets[-1], (timestamp, offset, self.last)
        self._open().append([TIME_ENTRY.pack(timestamp, relative)])
        self._timestamps.append(timestamp)
        self._offsets.append(relative)

    def lookup(self, timestamp: int) -> tuple[int, int]:
        """The last entry at or before `timestamp`: all records up to its offset have at most its timestamp, so the
        first one with a timestamp of at least `timestamp` (C5.4) is not before that offset's batch."""
        slot = bisect_right(self._timestamps, timestamp) - 1
        if slot < 0:
            return NO_TIMESTAMP, self.base_offset
        return self._timestamps[slot], self.base_offset + self._offsets[slot]

    def truncate_to(self, offset: int) -> None:
        """Drop all entries at or above `offset` (C5.7)."""
        count = bisect_left(self._offsets, offset - self.base_offset)
        self._cut(count)
        del self._timestamps[count:], self._offsets[count:]

    def rewrite(self, entries: list[tuple[int, int]]) -> None:
        """Replace the file's content. Not atomic: an index is derived, and rebuilt after a crash."""
        relative = [(timestamp, self._relative(offset)) for timestamp, offset in entries]
        self._replace(b"".join(TIME_ENTRY.pack(*entry) for entry in relative))
        self._timestamps = array("q", (entry[0] for entry in relative))
        self._offsets = array("i", (entry[1] for entry in relative))

    def is_full(self, bytes_max: int) -> bool:
        """One slot is kept free for the entry that a segment gets when it is rolled or closed."""
        return len(self._offsets) >= bytes_max // TIME_ENTRY.size - 1


# ---------------------------------------------------------------- parsers, pure


def strip_room(data: bytes, entry_bytes: int) -> tuple[bytes, int]:
    """(the entries, the number of zero bytes cut off behind them). An entry that ends in zeros keeps them, and a time
    index of one entry has no room: its segment's only timestamp may be 0."""
    if len(data) == entry_bytes == TIME_ENTRY.size:
        return data, 0
    used = len(data.rstrip(b"\0"))
    used = min(len(data), -(-used // entry_bytes) * entry_bytes)
    return data[:used], len(data) - used


def _whole_entries(data: bytes, entry: struct.Struct, path: str) -> list[tuple]:
    if len(data) % entry.size:
        raise CorruptIndex(f"{path}: {len(data)} bytes, a multiple of {entry.size} expected")
    return list(entry.iter_unpack(data))


def parse_offset_index(data: bytes, path: str = "") -> list[tuple[int, int]]:
    """(relative offset, position) of each entry; rules 1, 2 and 4."""
    entries = _whole_entries(data, OFFSET_ENTRY, path)
    last_offset, last_position = -1, 0
    for slot, (offset, position) in enumerate(entries):
        if offset <= last_offset or position <= last_position:
            raise CorruptIndex(
                f"{path}: entry {slot} is ({offset}, {position}) behind ({last_offset}, {last_position})"
            )
        last_offset, last_position = offset, position
    return entries


def parse_time_index(data: bytes, path: str = "") -> list[tuple[int, int]]:
    """(timestamp, relative offset) of each entry; rules 1, 3 and 4."""
    entries = _whole_entries(data, TIME_ENTRY, path)
    last_timestamp, last_offset = -1, 0
    for slot, (timestamp, offset) in enumerate(entries):
        if timestamp <= last_timestamp or offset < last_offset:
            raise CorruptIndex(
                f"{path}: entry {slot} is ({timestamp}, {offset}) behind ({last_timestamp}, {last_offset})"
            )
        last_timestamp, last_offset = timestamp, offset
    return entries


class AbortedTransaction(NamedTuple):
    version: int
    producer_id: int
    first_offset: int
    last_offset: int
    last_stable_offset: int


def parse_transaction_index(data: bytes, path: str = "") -> list[AbortedTransaction]:
    entries = [AbortedTransaction(*entry) for entry in _whole_entries(data, ABORTED_TRANSACTION, path)]
    for slot, entry in enumerate(entries):
        if entry.version != 0:
            raise CorruptIndex(f"{path}: entry {slot} has version {entry.version}, 0 expected")
        if slot and entry.last_offset <= entries[slot - 1].last_offset:
            raise CorruptIndex(f"{path}: entry {slot} ends at {entry.last_offset}, the one before it is not earlier")
    return entries
