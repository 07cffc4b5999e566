"""What can be done with a partition's log: append, read, flush, roll?

A partition is a directory of segments. It has one owner, the event loop's thread: nothing in here waits, so nothing in
here needs a lock. Four offsets describe it, all of the next record: log start offset <= last stable offset <= high
watermark <= log end offset (C4.1). The fifth, the recovery point, is the durable end: everything below it has been
synced, with its directory entry.

An append, in this order:
1. everything is validated; nothing has been changed if it is refused;
2. the segment is rolled if it must be; a leader epoch that is new since an unclean start is made durable (C2.8);
3. offsets and epoch are stamped into the batch, in place, and one `writev` puts it at the end of the log;
4. only now do indexes, producer state and log end offset change (C6.3). If 3 fails, the file is as long as it was
   (C1.14).

The high watermark follows the log end offset; under flush.messages=1 it follows the durable end, so what a consumer
sees is on the disk.

An error that goes away by itself (no space, no descriptor) fails the request. Any other error of the disk takes the
whole log directory offline; so does a failed fsync (C1.13), and an append that could not be undone. A batch that can
no longer be read takes this partition offline.

Apache Kafka differs: with replication and flush.messages=1 a consumer may see what the leader's disk does not have yet;
the finished segment's index is not synced before the recovery point passes it.
"""

import errno
import uuid
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from refbroker.config import LogConfig
from refbroker.errors import ErrorCode, KafkaError
from refbroker.log import appends, cuts, times
from refbroker.log.batch import Batch, CorruptBatch, stamp
from refbroker.log.content import Appended, Content, FetchSlice, Owner
from refbroker.log.disk import Disk, TornAppend
from refbroker.log.flush import FlushJob
from refbroker.log.scan import batches, header_at
from refbroker.log.segment import Damaged, FileRegion, Segment

TRANSIENT_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
TAIL_ENTRIES_MAX = 256  # positions of the latest batches, so that consumers at the end need no lookup
HIDDEN_MS_MAX = 10_000  # under flush.messages=1 nothing waits longer than a flush, where one could begin
LONG_MAX = 2**63 - 1


class Partition:
    def __init__(
        self, disk: Disk, directory: str, topic: str, number: int, topic_id: uuid.UUID | None, config: LogConfig,
        owner: Owner, content: Content,
    ):  # fmt: skip
        self.disk = disk
        self.directory = directory
        self.topic = topic
        self.number = number
        self.topic_id = topic_id
        self.owner = owner
        self.offline: str | None = None
        self.deleted = False
        self.waiters: set = set()
        self.segments = content.segments
        self.active = content.segments[-1]
        self.epochs = content.epochs
        self.producers = content.producers
        self.leader_epoch = content.leader_epoch
        self.epoch_unsaved = content.epoch_unsaved
        self.log_start_offset = content.log_start_offset
        self.log_end_offset = self.active.next_offset
        self.recovery_point = content.recovery_point
        self.high_watermark = self.log_end_offset
        self._high_base, self._high_position = self.active.base_offset, self.active.size
        self.unfinished = list(content.unfinished)
        self.unsynced_snapshots = list(content.snapshots)
        self.sealed = content.sealed
        self.generation = 0  # rises with each truncation: flushes from before it prove nothing (C3.6)
        self._entries_synced = 0  # so many changes of the directory are durable,
        self._entries_made = 0 if content.entries_synced else 1  # of so many
        self._tail: dict[int, int] = {}  # base offset -> position of batches in the active segment
        # What an earlier process has not flushed is due at once: nobody knows how old it is.
        self._unflushed_since: int | None = 0 if self.recovery_point < self.log_end_offset else None
        self._flushing_since: int | None = None
        self.set_config(config)

    def __repr__(self) -> str:
        return f"Partition({self.topic}-{self.number}, {self.log_start_offset}..{self.log_end_offset})"

    def set_config(self, config: LogConfig) -> None:
        self.config = config
        self.log_append_time = config.message_timestamp_type == "LogAppendTime"
        jitter_ms = config.segment_jitter_ms  # the same at every start, different from partition to partition
        spread = zlib.crc32(f"{self.topic}-{self.number}".encode()) % (jitter_ms + 1) if jitter_ms else 0
        self.roll_ms = config.segment_ms - min(spread, config.segment_ms)
        self._visible_when_durable = config.flush_messages == 1
        for segment in self.segments:
            segment.interval_bytes = config.index_interval_bytes
        if self.offline is not None:
            return
        if self._visible_when_durable and self.recovery_point < self.high_watermark:
            self.flush()
        elif not self._visible_when_durable and self.high_watermark < self.log_end_offset:
            self._raise_high_watermark(self.log_end_offset, self.active.base_offset, self.active.size)

    @property
    def last_stable_offset(self) -> int:
        return self.high_watermark

    @property
    def size_bytes(self) -> int:
        return sum(segment.size for segment in self.segments)

    # ------------------------------------------------------------ append

    def append(self, records: bytearray | memoryview, now_ms: int) -> Appended:
        """Put one batch at the end of the log. Raises KafkaError; then nothing was appended."""
        return appends.append_one(self, records, now_ms)

    def append_all(self, group: Sequence[bytearray | memoryview], now_ms: int) -> list[appends.Result]:
        """Put one batch after the other there, with as few writes as can be; each has its result."""
        return appends.append_all(self, group, now_ms)

    def append_run(self, batches: Sequence[Batch], now_ms: int) -> list[Appended]:
        """Put accepted batches at the end of the log by one write. Raises KafkaError; then none of them was appended."""
        if self.offline is not None:
            raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, self.offline)
        end = self.log_end_offset
        try:
            timestamp = now_ms if self.log_append_time else batches[0].max_timestamp
            room = self.active.room(now_ms, self.config, self.roll_ms)
            if not room.has(batches[0].size, end + batches[0].last_offset_delta, timestamp, 1):
                self._roll(now_ms)
            if self.epoch_unsaved:
                self.epochs.save(self.disk)
                self.epoch_unsaved = False
            for batch in batches:
                stamp(batch, end, self.leader_epoch, now_ms if self.log_append_time else None)
                end += batch.last_offset_delta + 1
            position = self.active.append(batches)
        except (OSError, CorruptBatch) as error:
            raise self._failed(error) from error
        return self._appended(batches, end, position, now_ms)

    def _appended(self, batches: Sequence[Batch], end: int, position: int, now_ms: int) -> list[Appended]:
        """The batches are in the log: everything that follows from it."""
        tail, time_ms, start = self._tail, now_ms if self.log_append_time else -1, self.log_start_offset
        appended = []
        for batch in batches:
            self.producers.update(batch)
            if len(tail) >= TAIL_ENTRIES_MAX:
                tail.clear()
            first, last = batch.base_offset, batch.base_offset + batch.last_offset_delta
            tail[first] = position
            position += batch.size
            appended.append(Appended(first, last, time_ms, start, False, self.flush_to(last + 1)))
        self.log_end_offset, self.sealed = end, False
        if self._unflushed_since is None:
            self._unflushed_since = now_ms
        if not self._visible_when_durable:
            self.high_watermark = end
            self._high_base, self._high_position = self.active.base_offset, self.active.size
            if self.waiters:
                self.wake()
        return appended

    def flush_to(self, end: int) -> int | None:
        """What a batch that ends there must wait for before it is answered."""
        return end if end - self.recovery_point >= self.config.flush_messages else None

    def roll(self, now_ms: int) -> bool:
        """Begin a new segment now; False where the active one is empty. Raises KafkaError."""
        if self.offline is None and not self.active.size:
            return False
        self._guard(Partition._roll, now_ms, half_done=False)
        return True

    def _roll(self, now_ms: int) -> None:
        """Finish the active segment, begin the next. Recovery takes a segment that another one follows, and that the
        recovery point has reached, for durable with its indexes and snapshot. If it has been reached already, they
        are synced before the new file is made; else by the flush that lets the recovery point pass (C3.2, C5.8)."""
        old, end = self.active, self.log_end_offset
        self.sealed = False
        old.seal()
        snapshot = self.producers.write_snapshot(self.disk, self.directory, sync=False)
        self._entries_made += 1
        others = [file for file in self.unsynced_snapshots if file.path != snapshot.path]  # not that of a roll that failed here
        self.unsynced_snapshots = [*others, snapshot]
        if self.recovery_point >= end:
            for file in (*old.heal_indexes(), snapshot):
                file.sync()
            self.disk.sync_dir(self.directory)
            self.unsynced_snapshots.remove(snapshot)
            old.close()
        new = Segment.create(
            self.disk, self.directory, end, interval_bytes=self.config.index_interval_bytes, created_ms=now_ms
        )
        if self.recovery_point < end:
            self.unfinished.append(old)
        self._entries_made += 1
        self.segments.append(new)
        self.active = new
        self._tail.clear()
        self.owner.rolled(self)

    # ------------------------------------------------------------ read

    def read(self, offset: int, max_bytes: int, *, min_one: bool = False) -> FetchSlice:
        """What a fetch from `offset` gets: nothing at or above the high watermark (C4.2), which is the last stable offset,
        too. `min_one`: the first batch in any case. Raises KafkaError."""
        if self.offline is not None:
            raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, self.offline)
        high, region = self.high_watermark, None
        if not self.log_start_offset <= offset <= self.log_end_offset:
            raise KafkaError(
                ErrorCode.OFFSET_OUT_OF_RANGE,
                f"offset {offset}, {self.topic}-{self.number} has {self.log_start_offset} to {self.log_end_offset}",
            )
        if offset < high:
            region = self._region(offset, max_bytes, min_one)
        return FetchSlice(region, high, high, self.log_start_offset, self.log_end_offset)

    def is_behind(self, offset: int) -> bool:
        """Does what can be read go on in another segment? A read ends with its own."""
        return offset < self._high_base

    def _region(self, offset: int, max_bytes: int, min_one: bool) -> FileRegion | None:
        segment, position, first_bytes = self.active, self._tail.get(offset), 0
        try:
            if position is None:
                segment, position, first_bytes = self._locate(offset)
            size = (self._high_position if segment.base_offset == self._high_base else segment.size) - position
            if size > max_bytes:
                first_bytes = first_bytes or header_at(segment.file, position, segment.size).size
                if first_bytes > max_bytes and not min_one:
                    return None
                size = max(first_bytes, max_bytes)
            return FileRegion(segment.file, position, size) if size > 0 else None
        except (OSError, CorruptBatch) as error:
            raise self._failed(error) from error

    def _locate(self, offset: int) -> tuple[Segment, int, int]:
        """(segment, position, size) of the first batch that ends at `offset` or later."""
        for segment in self.segments[self.segment_index(offset) :]:
            found = segment.find(offset)
            if found is not None:
                return segment, found[0], found[1].size
        raise AssertionError(f"{self}: offset {offset} is below the log end offset and in no segment")

    def segment_index(self, offset: int) -> int:
        """Index of the last segment that begins at or before `offset`."""
        return max(0, bisect_right(self.segments, offset, key=lambda segment: segment.base_offset) - 1)

    def read_batches(self, offset: int, upto: int | None = None) -> Iterator[Batch]:
        """Whole, checked batches from the one that holds `offset` up to `upto` (the log end). Raises KafkaError."""
        upto = self.log_end_offset if upto is None else upto
        try:
            for segment in self.segments[self.segment_index(offset) :]:
                found = segment.find(offset)
                if found is None:
                    continue
                for _, batch in batches(segment.file, found[0], segment.size):
                    if batch.base_offset >= upto:
                        return
                    yield batch
                offset = segment.next_offset
        except (OSError, CorruptBatch) as error:
            raise self._failed(error) from error

    def offset_for_time(self, timestamp: int) -> tuple[int, int, int] | None:
        """(timestamp, offset, leader epoch) of the earliest visible record that is not older. Raises KafkaError."""
        return self._guard(times.offset_for_time, timestamp, half_done=False)

    def offset_of_max_timestamp(self) -> tuple[int, int, int] | None:
        """(timestamp, offset, leader epoch) of the first visible record with the largest timestamp."""
        return self._guard(times.offset_of_max_timestamp, half_done=False)

    def epoch_end(self, leader_epoch: int) -> tuple[int, int]:
        """(epoch, end offset), or (-1, -1)."""
        if leader_epoch == self.leader_epoch:
            return leader_epoch, self.log_end_offset
        return self.epochs.end_offset_for(leader_epoch, self.log_end_offset)

    # ------------------------------------------------------------ flush

    def begin_flush(self, upto: int | None = None) -> FlushJob | None:
        """What to sync so that everything below `upto` (the log end) is durable; None where nothing is to do. With
        `upto` only segments that were rolled before it are looked at. Raises KafkaError."""
        if self.offline is not None:
            return None
        try:
            return self._begin_flush(upto)
        except OSError as error:  # a file of a rolled segment could not be opened
            raise self._failed(error) from error

    def _begin_flush(self, upto: int | None) -> FlushJob | None:
        if upto is None:
            end, active = self.log_end_offset, self.active
            if end <= self.recovery_point and not self.unfinished:
                return None
            rolled = list(self.unfinished)
            job = FlushJob(self.disk, [], None, end, active.base_offset, active.size)
            if self._flushing_since is None:
                self._flushing_since, self._unflushed_since = self._unflushed_since, None
        else:
            rolled = [segment for segment in self.unfinished if segment.next_offset <= upto]
            if not rolled:
                return None
            job = FlushJob(self.disk, [], None, rolled[-1].next_offset, rolled[-1].next_offset, 0)
        for segment in rolled:
            job.add_rolled(segment)
        job.files += self.unsynced_snapshots
        if upto is None and self.active.size:
            job.files.append(self.active.file)
        if rolled or self._entries_synced < self._entries_made:
            job.directory = self.directory
        job.generation, job.entries = self.generation, self._entries_made
        return job

    def finish_flush(self, job: FlushJob, error: OSError | None = None) -> None:
        """The job ran, or failed. Nothing is believed of a flush that a truncation overtook (C3.6), or that found no descriptor:
        the next one does it all again."""
        if self.deleted:  # its files are gone, and nobody waits for them
            return
        if error is not None and error.errno not in TRANSIENT_ERRORS:
            self.owner.fail(f"flush of {self.topic}-{self.number} failed: {error}")
            return
        if error is not None or self.offline is not None or job.generation != self.generation:
            if self._flushing_since is not None:
                self._unflushed_since, self._flushing_since = self._flushing_since, None
            return
        for segment in job.segments:
            if segment in self.unfinished:
                self.unfinished.remove(segment)
                segment.close()
        self.unsynced_snapshots = [file for file in self.unsynced_snapshots if file not in job.files]
        if job.directory is not None:
            self._entries_synced = max(self._entries_synced, job.entries)
        self._flushing_since = None
        if job.end > self.recovery_point:
            self.recovery_point = job.end
            if self._visible_when_durable and job.end > self.high_watermark:
                self._raise_high_watermark(job.end, job.base_offset, job.position)

    def flush(self, upto: int | None = None) -> None:
        """All three steps at once. Raises KafkaError."""
        job = self.begin_flush(upto)
        if job is None:
            return
        try:
            job.run()
        except OSError as error:
            self.finish_flush(job, error)
            raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, str(error)) from error
        self.finish_flush(job)

    def flush_due_ms(self) -> int | None:
        """When flush.ms wants a flush; None for never. Under flush.messages=1 what waits is hidden: had a flush been impossible
        for the moment, and nobody waited for it, it is due."""
        since = self._unflushed_since if self._flushing_since is None else self._flushing_since
        flush_ms = min(self.config.flush_ms, HIDDEN_MS_MAX) if self._visible_when_durable else self.config.flush_ms
        if since is None or flush_ms == LONG_MAX or self.recovery_point >= self.log_end_offset:
            return None
        return since + flush_ms

    @property
    def checkpoint_offset(self) -> int:
        """What may be written as recovery point (C3.1): no further than the first rolled segment that is not
        finished, so that recovery looks at it again."""
        if not self.unfinished:
            return self.recovery_point
        return min(self.recovery_point, self.unfinished[0].next_offset - 1)

    # ------------------------------------------------------------ shorter logs: see cuts.py

    def delete_records(self, before_offset: int) -> int:
        """Raise the log start offset to `before_offset` (-1: the high watermark); returns it. Raises KafkaError."""
        return self._guard(cuts.delete_records, before_offset)

    def truncate(self, offset: int) -> int:
        """Drop everything from `offset` on, durably; returns the new log end offset. Raises KafkaError."""
        return self._guard(cuts.truncate, offset)

    def retain(self, now_ms: int) -> int:
        """Delete the segments that retention no longer wants; returns their bytes. Raises KafkaError."""
        count = self._guard(cuts.begin_retain, now_ms, half_done=False)
        return self._guard(cuts.retain, count, now_ms) if count else 0

    def _guard(self, operation: Callable, *arguments: int, half_done: bool = True) -> Any:
        if self.offline is not None:
            raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, self.offline)
        try:
            return operation(self, *arguments)
        except (OSError, CorruptBatch) as error:
            raise self._failed(error, half_done) from error

    # ------------------------------------------------------------ inside

    def reset_end(self) -> None:
        """After a truncation: the log ends with what is now the last segment."""
        self.sealed = False
        self.active = self.segments[-1]
        self.log_end_offset = self.active.next_offset
        self._tail.clear()
        if self.high_watermark >= self.log_end_offset or not self._visible_when_durable:
            self.high_watermark = self.log_end_offset
            self._high_base, self._high_position = self.active.base_offset, self.active.size

    def _raise_high_watermark(self, offset: int, base_offset: int, position: int) -> None:
        self.high_watermark, self._high_base, self._high_position = offset, base_offset, position
        self.wake()

    def wake(self) -> None:
        """Whoever waits looks again."""
        for waiter in tuple(self.waiters):
            waiter.wake()

    def go_offline(self, reason: str) -> None:
        """From now on everything answers KAFKA_STORAGE_ERROR."""
        if self.offline is None:
            self.offline = reason
            self.wake()

    def _failed(self, error: Exception, half_done: bool = False) -> KafkaError:
        """Draw the conclusion from a disk error, and give the answer to the request."""
        reason = f"{self.topic}-{self.number}: {error}"
        if isinstance(error, (Damaged, CorruptBatch)):
            self.go_offline(reason)
        elif half_done or isinstance(error, TornAppend) or error.errno not in TRANSIENT_ERRORS:
            self.owner.fail(reason)
        return KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, reason)
