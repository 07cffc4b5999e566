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

Entries are kept in memory, 8 and 12 bytes each as on disk. An append adds one there; the segment decides when they are
written to the end of the file (`write`). Those that a crash takes are missing: that makes a lookup slower, not wrong.

How Apache Kafka differs: it maps a file of 10 MiB into memory, trims it when the segment is closed, and believes any
content whose last entry lies above the base offset.
"""

import struct
from array import array
from bisect import bisect_left, bisect_right
from typing import NamedTuple

from refbroker.log.disk import Disk, File, TornAppend

OFFSET_ENTRY = struct.Struct(">ii")
TIME_ENTRY = struct.Struct(">qi")
ABORTED_TRANSACTION = struct.Struct(">hqqqq")
INDEX_BYTES_MAX = 256 * 1024 * 1024  # read from a file at once; segment.index.bytes is 10 MiB in practice
RELATIVE_OFFSET_MAX = 2**31 - 1  # a segment is rolled before it is exceeded
NO_TIMESTAMP = -1


class CorruptIndex(Exception):
    """The file is no valid index; rebuild it from the log."""


class _Index:
    """What both indexes share: the entries as two columns in memory, and a file that has those that were written."""

    ENTRY: struct.Struct

    def __init__(self, disk: Disk, path: str, base_offset: int):
        self.path = path
        self.base_offset = base_offset
        self._disk = disk
        self._file: File | None = None
        self._first, self._second = (array(code) for code in self.ENTRY.format[1:])  # strictly rising; rising
        self._written: int | None = 0  # so many entries are in the file; None: it has lost track of its end

    def __len__(self) -> int:
        return len(self._first)

    def write(self) -> None:
        """Put into the file what is only in memory. Raises OSError; then it is still to be done."""
        written, self._written = self._written, None
        if written is None:
            written = 0
            self._open().truncate(0)
        try:
            if written < len(self):
                self._open().append([b"".join(map(self.ENTRY.pack, self._first[written:], self._second[written:]))])
        except TornAppend:
            raise
        except OSError:
            self._written = written
            raise
        self._written = len(self)

    def sync(self) -> None:
        self._open().sync()

    def close(self) -> None:
        """Let go of the file; it is opened again when needed."""
        self._file = None

    def _open(self) -> File:
        if self._file is None:
            self._file = self._disk.open(self.path, create=True)
        return self._file

    def _read(self) -> bytes:
        """All entries of the file, without the room behind them. In memory there are none then."""
        self._set([])
        self._written = None
        file = self._open()
        if file.size > INDEX_BYTES_MAX:
            raise CorruptIndex(f"{self.path}: {file.size} bytes, at most {INDEX_BYTES_MAX} expected")
        data, room = strip_room(file.pread(file.size, 0), self.ENTRY.size)
        if room:
            file.truncate(len(data))
        return data

    def _set(self, entries: list[tuple[int, int]]) -> None:
        del self._first[:], self._second[:]
        self._first.extend(entry[0] for entry in entries)
        self._second.extend(entry[1] for entry in entries)

    def _rewrite(self, entries: list[tuple[int, int]]) -> None:
        self._set(entries)
        self._written = None
        self.write()

    def _cut(self, count: int) -> None:
        """Keep so many entries, in the file too."""
        del self._first[count:], self._second[count:]
        if self._written is None:
            self.write()
        elif self._written > count:
            self._open().truncate(count * self.ENTRY.size)
            self._written = count

    def _relative(self, offset: int) -> int:
        relative = offset - self.base_offset
        assert 0 <= relative <= RELATIVE_OFFSET_MAX, (self.path, offset)
        return relative

    def _check_end(self, relative: int, log_end_offset: int | None) -> None:
        if log_end_offset is not None and self.base_offset + relative >= log_end_offset:
            raise CorruptIndex(f"{self.path}: last offset {self.base_offset + relative}, log end {log_end_offset}")


class OffsetIndex(_Index):
    """Offset -> position. `entries` as (offset, position), offsets absolute."""

    ENTRY = OFFSET_ENTRY

    @property
    def entries(self) -> list[tuple[int, int]]:
        return [(self.base_offset + offset, position) for offset, position in zip(self._first, self._second)]

    @property
    def last(self) -> tuple[int, int]:
        """The last entry; the segment's start where there is none."""
        return (self.base_offset + self._first[-1], self._second[-1]) if self._first else (self.base_offset, 0)

    def load(self, *, log_bytes: int | None = None, log_end_offset: int | None = None) -> None:
        """Read the file. Raises CorruptIndex, and then has no entries: `rewrite` them."""
        entries = parse_offset_index(self._read(), self.path)
        if entries:
            offset, position = entries[-1]
            if log_bytes is not None and position >= log_bytes:
                raise CorruptIndex(f"{self.path}: last position {position} in a log of {log_bytes} bytes")
            self._check_end(offset, log_end_offset)
        self._set(entries)
        self._written = len(entries)

    def append(self, offset: int, position: int) -> None:
        """In memory; `write` puts it into the file."""
        relative = self._relative(offset)
        assert not self._first or (relative > self._first[-1] and position > self._second[-1]), (offset, position)
        assert position > 0, "the first batch of a segment gets no entry"
        self._first.append(relative)
        self._second.append(position)

    def lookup(self, offset: int) -> int:
        """A position at or before the first batch whose last offset is at least `offset` (C5.1)."""
        slot = bisect_right(self._first, offset - self.base_offset) - 1
        return self._second[slot] if slot >= 0 else 0

    @property
    def written_position(self) -> int:
        """The position of the last entry in the file; the segment's start where there is none."""
        return self._second[self._written - 1] if self._written else 0

    def offset_before(self, position: int) -> int:
        """The offset of the last entry whose position is at or before this one; the first where there is none."""
        slot = bisect_right(self._second, position) - 1
        return self.base_offset + self._first[slot] if slot >= 0 else self.base_offset

    def truncate_to(self, offset: int) -> None:
        """Drop all entries at or above `offset` (C5.7)."""
        self._cut(bisect_left(self._first, offset - self.base_offset))

    def rewrite(self, entries: list[tuple[int, int]]) -> None:
        """Replace the file's content. Not atomic: an index is derived, and rebuilt after a crash."""
        self._rewrite([(self._relative(offset), position) for offset, position in entries])

    def free(self, bytes_max: int) -> int:
        """Room for so many more entries in so many bytes."""
        return bytes_max // self.ENTRY.size - len(self._first)


class TimeIndex(_Index):
    """Timestamp -> offset. `entries` as (timestamp, offset), offsets absolute."""

    ENTRY = TIME_ENTRY

    @property
    def entries(self) -> list[tuple[int, int]]:
        return [(timestamp, self.base_offset + offset) for timestamp, offset in zip(self._first, self._second)]

    @property
    def last(self) -> tuple[int, int]:
        """The last entry; (-1, base offset) where there is none."""
        return (self._first[-1], self.base_offset + self._second[-1]) if self._first else (NO_TIMESTAMP, self.base_offset)

    def load(self, *, log_end_offset: int | None = None) -> None:
        """Read the file. Raises CorruptIndex, and then has no entries: `rewrite` them."""
        entries = parse_time_index(self._read(), self.path)
        if entries:
            self._check_end(entries[-1][1], log_end_offset)
        self._set(entries)
        self._written = len(entries)

    def append(self, timestamp: int, offset: int) -> None:
        """Note the largest timestamp so far, in memory; `write` puts it into the file. One that is not larger than the
        last entry's is left out: the entry that is there answers for it."""
        if timestamp <= (self._first[-1] if self._first else NO_TIMESTAMP):
            return
        relative = self._relative(offset)
        assert not self._second or relative >= self._second[-1], (timestamp, offset, self.last)
        self._first.append(timestamp)
        self._second.append(relative)

    def lookup(self, timestamp: int) -> tuple[int, int]:
        """The last entry at or before `timestamp`: all records up to its offset have at most its timestamp, so the
        first one with a timestamp of at least `timestamp` (C5.4) is not before that offset's batch."""
        slot = bisect_right(self._first, timestamp) - 1
        if slot < 0:
            return NO_TIMESTAMP, self.base_offset
        return self._first[slot], self.base_offset + self._second[slot]

    def truncate_to(self, offset: int) -> None:
        """Drop all entries at or above `offset` (C5.7)."""
        self._cut(bisect_left(self._second, offset - self.base_offset))

    def rewrite(self, entries: list[tuple[int, int]]) -> None:
        """Replace the file's content. Not atomic: an index is derived, and rebuilt after a crash."""
        self._rewrite([(timestamp, self._relative(offset)) for timestamp, offset in entries])

    def free(self, bytes_max: int) -> int:
        """One slot is kept for the entry that a segment gets when it is rolled or closed."""
        return bytes_max // self.ENTRY.size - len(self._first) - 1


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
