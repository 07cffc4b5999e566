"""How are the records of an offset range kept in files, and how is one of them found?

A segment is a `.log` file of batches, one behind the other, named by its base offset in 20 digits, with an `.index`
and a `.timeindex` beside it. The last segment of a partition is the active one: only it grows.

1. The files of the indexes are derived. A failure to write one never fails an append: an entry that is missing makes a
   lookup slower, not wrong. Entries are written some together, as a system call for each costs a tenth of an append of
   16 kB; a crash may take those of the last ENTRY_GROUP_BYTES. A torn file is written anew.
2. A lookup never believes an index: the batch at the position that it names must be one that can stand there, else
   both indexes are rebuilt from the log (C5.5). So whatever is in the files, the answers are those of rebuilt ones.
3. An entry is written before an append when more than index.interval.bytes lie behind the last one: (last offset of the
   batch, its position), and (largest timestamp so far, last offset of the batch that first had it) (C5.1, C5.3).
4. When a segment is rolled or closed its time index gets a last entry with the largest timestamp.
5. Files are opened when first needed and their state read when first needed, so that a partition that nobody touches
   costs little.

Apache Kafka differs: it believes an index whose last entry looks sane, and keeps all files of a segment open.
"""

import errno
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from refbroker.config import LogConfig
from refbroker.log.batch import UNLIMITED, Batch, CorruptBatch
from refbroker.log.disk import Disk, File, TornAppend
from refbroker.log.index import RELATIVE_OFFSET_MAX, CorruptIndex, OffsetIndex, TimeIndex
from refbroker.log.scan import WALK_CHUNK_BYTES, header_at, headers

LOG, INDEX, TIME_INDEX, TRANSACTION_INDEX = ".log", ".index", ".timeindex", ".txnindex"
SUFFIXES = (LOG, INDEX, TIME_INDEX, TRANSACTION_INDEX)
DELETED = ".deleted"
NO_TIMESTAMP = -1
POSITION_MAX = 2**31 - 1  # positions are int32 in the index; no .log grows beyond
ENTRY_GROUP_BYTES = 256 << 10  # of the log; its index entries are written together
INDEX_GAP_BYTES_MAX = 8 << 20  # an index with nothing for so long a stretch has lost entries: rebuild it


def file_name(base_offset: int, suffix: str = LOG) -> str:
    return f"{base_offset:020d}{suffix}"


class Damaged(OSError):
    """A batch that was valid once is not any more: bit rot, or another program's doing (C2.5). One partition's
    trouble."""

    def __init__(self, path: str, error: CorruptBatch):
        super().__init__(errno.EIO, f"no valid batch at position {error.position}: {error.reason}", path)
        self.position = error.position


class FileRegion(NamedTuple):
    """Bytes of a file, to be sent without being read (`sendfile`). Holding it keeps the file readable."""

    file: File
    position: int
    size: int


class IndexEntries:
    """The index entries of a segment as they arise batch by batch: the one rule for append, rebuild and recovery."""

    __slots__ = ("interval_bytes", "bytes_since_entry", "max_timestamp", "max_timestamp_offset", "offsets", "times")

    def __init__(self, interval_bytes: int, base_offset: int):
        self.interval_bytes = interval_bytes
        self.bytes_since_entry = 0
        self.max_timestamp = NO_TIMESTAMP
        self.max_timestamp_offset = base_offset
        self.offsets: list[tuple[int, int]] = []
        self.times: list[tuple[int, int]] = []

    def add(self, position: int, batch: Batch) -> None:
        last_offset = batch.last_offset
        if batch.max_timestamp > self.max_timestamp:
            self.max_timestamp, self.max_timestamp_offset = batch.max_timestamp, last_offset
        if self.bytes_since_entry > self.interval_bytes:
            self.offsets.append((last_offset, position))
            self._add_time()
            self.bytes_since_entry = 0
        self.bytes_since_entry += batch.size

    def _add_time(self) -> None:
        if self.max_timestamp > (self.times[-1][0] if self.times else NO_TIMESTAMP):
            self.times.append((self.max_timestamp, self.max_timestamp_offset))

    def finished_times(self) -> list[tuple[int, int]]:
        """The time index of a segment that is closed here."""
        self._add_time()
        return self.times


class Room(NamedTuple):
    """What still goes into a segment. With what does not, the next one begins."""

    size: int  # bytes
    last_offset: int
    max_timestamp: int
    batches: int

    def has(self, size: int, last_offset: int, max_timestamp: int, batches: int) -> bool:
        """For so many batches of that size together."""
        fits = size <= self.size and batches <= self.batches
        return fits and last_offset <= self.last_offset and max_timestamp <= self.max_timestamp


class Segment:
    """One `.log` with its indexes. `size` and `next_offset` say where the next batch goes."""

    def __init__(self, disk: Disk, directory: str, base_offset: int, *, interval_bytes: int, created_ms: int = 0):
        self.disk = disk
        self.directory = directory
        self.base_offset = base_offset
        self.interval_bytes = interval_bytes
        self.created_ms = created_ms
        self.path = self.path_of(LOG)
        self.size = 0
        self.next_offset = base_offset
        self.offset_index = OffsetIndex(disk, self.path_of(INDEX), base_offset)
        self.time_index = TimeIndex(disk, self.path_of(TIME_INDEX), base_offset)
        self.bytes_since_entry = 0
        self._file: File | None = None
        self._ready = False  # indexes are in memory, and enough is known to append
        self._exact = False  # and the largest timestamp does not rest on the time index alone
        self._max_timestamp = NO_TIMESTAMP
        self._max_timestamp_offset = base_offset
        self._first_timestamp: int | None = None

    @classmethod
    def create(cls, disk: Disk, directory: str, base_offset: int, *, interval_bytes: int, created_ms: int) -> "Segment":
        """A new, empty one. Its entry in the directory is durable only after `sync_dir`. What an earlier, dropped
        segment of that name left behind goes."""
        segment = cls(disk, directory, base_offset, interval_bytes=interval_bytes, created_ms=created_ms)
        for suffix in SUFFIXES[1:]:
            if disk.exists(segment.path_of(suffix)):
                disk.unlink(segment.path_of(suffix))
        segment._file = disk.open(segment.path, create=True)
        if segment._file.size:
            segment._file.truncate(0)
        segment._ready = segment._exact = True
        return segment

    def path_of(self, suffix: str) -> str:
        return f"{self.directory}/{file_name(self.base_offset, suffix)}"

    @property
    def file(self) -> File:
        if self._file is None:
            self._file = self.disk.open(self.path)
        return self._file

    # ------------------------------------------------------------ append

    def append(self, batches: Sequence[Batch]) -> int:
        """Write batches, which have their offsets; returns the position of the first. OSError: nothing changed, unless it
        is a TornAppend."""
        if not self._ready:
            self.make_ready()
        position = first = self.file.append([batch.view for batch in batches])
        for batch in batches:
            size, max_timestamp, last_offset = batch.size, batch.max_timestamp, batch.base_offset + batch.last_offset_delta
            if max_timestamp > self._max_timestamp:
                self._max_timestamp, self._max_timestamp_offset = max_timestamp, last_offset
            if self.bytes_since_entry > self.interval_bytes and position:
                self._add_entries(last_offset, position)
                self.bytes_since_entry = 0
            self.bytes_since_entry += size
            position += size
        self.size = position
        self.next_offset = last_offset + 1
        return first

    def _add_entries(self, last_offset: int, position: int) -> None:
        self.time_index.append(self._max_timestamp, self._max_timestamp_offset)
        self.offset_index.append(last_offset, position)
        if position - self.offset_index.written_position >= ENTRY_GROUP_BYTES:
            with suppress(OSError):  # rule 1: the log has the batch, and that is what counts; the next time tries again
                self._write_entries()

    def _write_entries(self) -> None:
        """Raises OSError."""
        try:  # in this order: where the offset index has an entry, the time index has been asked too
            self.time_index.write()
            self.offset_index.write()
        except TornAppend as error:  # of an index: it is written anew the next time
            raise OSError(error.errno, error.strerror, error.filename) from error

    def room(self, now_ms: int, config: LogConfig, roll_ms: int) -> Room:
        """By bytes, offset overflow, full index, and time: counted by the records' own timestamps where they have any."""
        if not self.size:  # the first batch is written alone: the age of the others counts from it
            return Room(UNLIMITED, self.base_offset + RELATIVE_OFFSET_MAX, UNLIMITED, 1)
        first = self._first_timestamp
        if first is None:
            first = self._first_timestamp = header_at(self.file, 0, self.size).max_timestamp
        if first >= 0:
            newest = first + roll_ms
        else:
            newest = UNLIMITED if now_ms - self.created_ms <= roll_ms else -UNLIMITED - 2  # below all: a client's may be negative
        index_bytes = config.segment_index_bytes
        return Room(
            min(config.segment_bytes, POSITION_MAX) - self.size, self.base_offset + RELATIVE_OFFSET_MAX, newest,
            min(self.offset_index.free(index_bytes), self.time_index.free(index_bytes)),
        )  # fmt: skip

    def seal(self) -> None:
        """The last entry of the time index, at a roll or a clean close (rule 4). Raises OSError."""
        if not self._ready:
            self.make_ready()
        self.time_index.append(self._max_timestamp, self._max_timestamp_offset)
        self._write_entries()

    # ------------------------------------------------------------ durability

    def heal_indexes(self) -> list[File]:
        """The index files, to be synced for good: they exist, and hold what is in memory. Raises OSError."""
        if not self._ready:
            self.make_ready()
        self._write_entries()
        return [self.disk.open(index.path, create=True) for index in (self.offset_index, self.time_index)]

    def close(self) -> None:
        """Give the descriptors back; they are opened again when needed."""
        self._file = None
        self.offset_index.close()
        self.time_index.close()

    # ------------------------------------------------------------ state

    def adopt(self, size: int, next_offset: int) -> None:
        """The file has been looked at: it holds `size` bytes of batches that end before `next_offset`."""
        self.size = size
        self.next_offset = next_offset

    def adopt_entries(self, entries: IndexEntries, active: bool) -> bool:
        """Recovery has seen every batch: the indexes become what these batches give. Whether a file was changed. The
        files of the active segment may lack the latest entries."""
        changed = self._adopt(self.offset_index, entries.offsets, entries.offsets, active)
        growing = list(entries.times)  # while it grows, its last entry may be there already, or not yet
        finished = entries.finished_times()
        changed |= self._adopt(self.time_index, growing if active else finished, finished, active)
        self._max_timestamp, self._max_timestamp_offset = entries.max_timestamp, entries.max_timestamp_offset
        self.bytes_since_entry = entries.bytes_since_entry
        self._ready = self._exact = True
        return changed

    def _adopt(self, index: OffsetIndex | TimeIndex, entries: list, also_right: list, active: bool) -> bool:
        if self.disk.exists(index.path):
            try:
                index.load()
            except CorruptIndex:
                index.rewrite(entries)
                index.close()
                return True
        index.close()
        if index.entries == entries or index.entries == also_right:
            return False
        if active and index.entries == entries[: len(index)]:
            for entry in entries[len(index) :]:
                index.append(*entry)
            return False
        index.rewrite(entries)
        index.close()
        return True

    def make_ready(self) -> None:
        """Read the indexes, or rebuild them where they cannot be used."""
        try:
            self._load(self.offset_index, log_bytes=self.size, log_end_offset=self.next_offset)
            self._load(self.time_index, log_end_offset=self.next_offset)
            if self.size - self.offset_index.last[1] > INDEX_GAP_BYTES_MAX + self.interval_bytes:
                raise CorruptIndex(f"{self.offset_index.path}: nothing beyond position {self.offset_index.last[1]}")
            if len(self.offset_index) and not len(self.time_index):
                raise CorruptIndex(f"{self.time_index.path}: no entry")
            self._load_timestamps(self.offset_index.last[1])
        except (CorruptIndex, CorruptBatch):
            self.rebuild_indexes()
        self._ready = True

    def _load(self, index: OffsetIndex | TimeIndex, **limits: int) -> None:
        if self.disk.exists(index.path):
            index.load(**limits)
            index.close()

    def _load_timestamps(self, position: int) -> None:
        """The largest timestamp: that of the last time index entry, or of a batch at or behind `position`. At the last
        entry of the offset index the time index was asked too: enough to append. Raises CorruptBatch."""
        self._max_timestamp, self._max_timestamp_offset = self.time_index.last
        self.bytes_since_entry = self.size - self.offset_index.last[1]
        for _, batch in headers(self.file, position, self.size):
            if batch.max_timestamp > self._max_timestamp:
                self._max_timestamp, self._max_timestamp_offset = batch.max_timestamp, batch.last_offset

    def _verified_position(self, timestamp: int, offset: int) -> int:
        """The position of the batch that a time index entry means. Raises CorruptIndex if it cannot have made it."""
        if timestamp < 0 or not self.size:
            return 0
        found = self._find(offset)
        if found is None or found[1].last_offset != offset or found[1].max_timestamp != timestamp:
            raise CorruptIndex(f"{self.time_index.path}: entry ({timestamp}, {offset}) fits no batch")
        return found[0]

    def rebuild_indexes(self) -> None:
        """From the log's headers. Not synced: should a crash tear them, they are rebuilt once more."""
        entries = IndexEntries(self.interval_bytes, self.base_offset)
        try:
            for position, batch in headers(self.file, 0, self.size, WALK_CHUNK_BYTES):
                if not self.base_offset <= batch.base_offset <= batch.last_offset < self.next_offset:
                    raise CorruptBatch(position, f"offsets {batch.base_offset} to {batch.last_offset}")
                entries.add(position, batch)
        except CorruptBatch as error:
            raise Damaged(self.path, error) from None
        self._max_timestamp, self._max_timestamp_offset = entries.max_timestamp, entries.max_timestamp_offset
        self.bytes_since_entry = entries.bytes_since_entry
        self.offset_index.rewrite(entries.offsets)
        self.time_index.rewrite(entries.times)
        self._ready = self._exact = True

    @property
    def max_timestamp(self) -> int:
        """The largest timestamp in the segment, -1 where there is none."""
        if not self._ready:
            self.make_ready()
        if not self._exact:  # an answer needs more than an append: whatever the index lacks is read from the log (C5.5)
            try:
                self._load_timestamps(self._verified_position(*self.time_index.last))
            except (CorruptIndex, CorruptBatch):
                self.rebuild_indexes()
            self._exact = True
        return self._max_timestamp

    # ------------------------------------------------------------ lookup

    def find(self, offset: int) -> tuple[int, Batch] | None:
        """(position, header) of the first batch whose last offset is at least `offset`; None beyond the end."""
        if offset >= self.next_offset:
            return None
        if not self._ready:
            self.make_ready()
        try:
            return self._find(offset)
        except CorruptIndex:
            self.rebuild_indexes()
            return self._find(offset)

    def _find(self, offset: int) -> tuple[int, Batch] | None:
        start = self.offset_index.lookup(offset)
        try:
            for position, batch in headers(self.file, start, self.size):
                if position == start and start and not self.base_offset < batch.base_offset <= offset:
                    raise CorruptIndex(f"{self.offset_index.path}: no batch of offset {offset} or before at {start}")
                if batch.last_offset >= offset:
                    return position, batch
        except CorruptBatch as error:
            if not start:
                raise Damaged(self.path, error) from None
            raise CorruptIndex(f"{self.offset_index.path}: no batch at {start}: {error}") from None
        return None

    def headers_since(self, timestamp: int) -> Iterator[tuple[int, Batch]]:
        """(position, header) of all batches from one at or before the first that has a record of this time or later
        (C5.4); none where no record is as young."""
        if self.max_timestamp < timestamp:
            return iter(())
        try:
            start = self._verified_position(*self.time_index.lookup(timestamp))
        except CorruptIndex:
            self.rebuild_indexes()
            start = self._verified_position(*self.time_index.lookup(timestamp))
        return headers(self.file, start, self.size)

    def headers_from(self, offset: int) -> Iterator[tuple[int, Batch]]:
        """(position, header) of all batches from the one that holds `offset`."""
        found = self.find(offset)
        return headers(self.file, found[0], self.size, WALK_CHUNK_BYTES) if found else iter(())

    def headers_of_last(self, count_bytes: int, offset: int) -> Iterator[tuple[int, Batch]]:
        """(position, header) of the batches before `offset`, from about `count_bytes` before its position on."""
        if not self._ready:
            self.make_ready()
        found = self.find(offset)
        end = found[0] if found else self.size
        first = self.find(self.offset_index.offset_before(end - count_bytes))
        return headers(self.file, first[0] if first else 0, end, WALK_CHUNK_BYTES)

    # ------------------------------------------------------------ truncate, delete

    def truncate(self, position: int, next_offset: int) -> None:
        """Cut at the start of a batch, which will get `next_offset`; indexes first, so that no entry points beyond the
        end (C5.7). Durable on return (C5.8)."""
        if not self._ready:
            self.make_ready()
        for index in (self.offset_index, self.time_index):
            index.truncate_to(next_offset)
            index.sync()
        self.file.truncate(position)
        self.file.sync()
        self.size, self.next_offset = position, next_offset
        self._first_timestamp = None
        self._exact = False
        self._load_timestamps(self.offset_index.last[1])

    def files(self) -> list[str]:
        """Paths of the files that the segment has."""
        return [path for path in map(self.path_of, SUFFIXES) if self.disk.exists(path)]

    def rename_deleted(self) -> list[str]:
        """Give all files the suffix `.deleted`; they are unlinked later. The `.log` goes first: without it the others
        are nothing. Returns the new names."""
        renamed = []
        for path in self.files():
            self.disk.rename(path, path + DELETED)
            renamed.append(path + DELETED)
        self.path += DELETED
        return renamed
