"""When is a write durable, and who waits for it?

An append ends in the page cache. A `FlushJob` is the list of what must be synced so that everything below its `end`
survives a power cut: the active `.log`; for each segment that was rolled since, its `.log`, `.index`, `.timeindex`
and the producer snapshot at its end (C3.2, C5.8); the partition's directory where files were created.
`Partition.begin_flush` makes the list, `run` works it off (fsyncs only, so it may run on another thread),
`Partition.finish_flush` draws the conclusion, unless a truncation has come in between (C3.6).

The `Flusher` decides when:

1. `durable` (flush.messages=N, before an acknowledgement): **group commit**. One flush per partition is in flight;
   whoever comes meanwhile waits for the next one, which serves all of them together. It begins when the one before it
   has landed, before those whom that one served are woken: the disk works while they are answered. Different partitions
   flush in parallel.
2. flush.ms: a loop looks at all partitions every `period_ms`, and flushes those whose oldest unflushed append is older.
   An acked record is durable after flush.ms + the period + one fsync (C1.5).
3. A segment that was rolled is flushed in the background, whatever the policy (C1.6).

A flush that fails takes the log directory offline, and whoever waits gets KAFKA_STORAGE_ERROR: a later fsync that
succeeds would prove nothing (C1.13). One that could not be made for want of a descriptor is made later.

Apache Kafka differs: flush.messages is synced by the request's own thread, each append for itself; flush.ms does
nothing unless log.flush.scheduler.interval.ms is set; a flush is believed whatever a truncation did meanwhile.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Protocol

from refbroker.config import LogConfig
from refbroker.errors import ErrorCode, KafkaError
from refbroker.log.disk import Disk, File
from refbroker.log.segment import Segment
from refbroker.log.threads import Threads

PERIOD_MS_MAX = 60_000  # without any flush.ms, look so often
STEP_MS_MIN = 10  # by so much the wall clock may fall behind between two looks: it counts whole milliseconds, and is slewed


class FlushJob:
    """What to sync, and what is then durable: everything below `end`, which lies at `position` of segment
    `base_offset`."""

    __slots__ = ("disk", "files", "directory", "end", "base_offset", "position", "segments", "generation", "entries")

    def __init__(
        self, disk: Disk, files: list[File], directory: str | None, end: int, base_offset: int, position: int
    ):
        self.disk = disk
        self.files = files
        self.directory = directory
        self.end = end
        self.base_offset = base_offset
        self.position = position
        self.segments: list[Segment] = []  # rolled ones that are finished with it
        self.generation = 0
        self.entries = 0

    def add_rolled(self, segment: Segment) -> None:
        """A rolled segment's data, and what else must be durable before the recovery point on disk may pass it."""
        self.files.append(segment.file)
        try:
            self.files += segment.heal_indexes()
        except OSError:  # no space for an index: the segment's turn comes with a later flush
            return
        self.segments.append(segment)

    def run(self) -> None:
        """Raises OSError. Reads nothing of the partition: safe on another thread."""
        for file in self.files:
            file.sync()
        if self.directory is not None:
            self.disk.sync_dir(self.directory)


class FlushTarget(Protocol):
    """What the flusher needs of a partition."""

    offline: str | None
    recovery_point: int
    log_end_offset: int
    config: LogConfig
    unfinished: list  # rolled segments that no flush has covered

    def begin_flush(self, upto: int | None = None) -> FlushJob | None: ...
    def finish_flush(self, job: FlushJob, error: OSError | None = None) -> None: ...
    def flush_due_ms(self) -> int | None: ...


class Flusher:
    """Runs flushes on a few threads; itself it lives on the event loop.

    `partitions` gives all partitions, for flush.ms; `clock` wall milliseconds; `period_ms` how often to look for due
    ones.
    """

    def __init__(
        self,
        partitions: Callable[[], Iterable[FlushTarget]] = tuple,
        clock: Callable[[], int] | None = None,
        period_ms: Callable[[], int] | None = None,
        threads: Threads | None = None,
    ):
        self._partitions = partitions
        self._clock = clock
        self._period_ms = period_ms
        self._threads = threads or Threads()
        self._in_flight: dict[FlushTarget, list[int | None]] = {}  # and what was asked for meanwhile: `upto`s of `request`, or all
        self._waiting: dict[FlushTarget, list[tuple[int, asyncio.Future[None]]]] = {}  # by offset
        self._landed = asyncio.Event()  # set when a flush has come to its end
        self._timer: asyncio.Task | None = None
        self._configs_changed = asyncio.Event()
        self.flushes = 0  # for metrics: how many fsync rounds, and how many waiters they served together
        self.waits = 0
        self.flush_seconds = 0.0

    def durable(self, partition: FlushTarget, offset: int, waiters: int = 1) -> asyncio.Future[None]:
        """Done when everything below `offset` is durable, for which so many appends wait; has a KafkaError when it will
        not be."""
        self.waits += waiters
        landed = asyncio.get_running_loop().create_future()
        if not _decide(partition, offset, landed):
            self._waiting.setdefault(partition, []).append((offset, landed))
            self.request(partition)
        return landed

    def request(self, partition: FlushTarget, upto: int | None = None) -> None:
        """Flush in the background; an error shows in the partition going offline."""
        asked_meanwhile = self._in_flight.get(partition)
        if asked_meanwhile is None:
            self._begin(partition, upto)
        elif upto is not None:  # else: whoever waits gets the next flush, flush.ms will find it due again
            asked_meanwhile.append(upto)

    def ensure(self, partition: FlushTarget) -> None:
        """Flush all that is there now, for nobody who waits; if another flush is under way, behind it."""
        if partition not in self._in_flight:
            self._begin(partition, None)
        else:
            self._in_flight[partition] = [None]  # all of it, whatever else was asked for

    def start(self) -> None:
        """Begin to look for flush.ms, and flush what an earlier process had rolled and not flushed."""
        for partition in self._partitions():
            if partition.unfinished:
                self.request(partition)
        if self._timer is None and self._clock is not None and self._period_ms is not None:
            self._timer = asyncio.get_running_loop().create_task(self._watch())

    def look_again(self) -> None:
        """Some topic's flush.ms may be shorter than those of before: ask for the period again."""
        self._configs_changed.set()

    async def stop(self) -> None:
        """Wait for what is in flight; start nothing new."""
        if self._timer is not None:
            self._timer.cancel()
            await asyncio.gather(self._timer, return_exceptions=True)
            self._timer = None
        while self._in_flight:
            self._landed.clear()
            await self._landed.wait()

    # ------------------------------------------------------------ inside

    def _begin(self, partition: FlushTarget, upto: int | None) -> None:
        """A flush that covers all that is there now (or `upto`). Neither it nor who waits for it has a task or a chain of
        futures: with 64 producers, and the server's like part, 127 us of processor time per request instead of 150."""
        try:
            job = partition.begin_flush(upto)
        except KafkaError as error:
            self._wake(partition, error)
            return
        loop = asyncio.get_running_loop()
        if job is None:
            loop.call_soon(self._wake, partition)
            return
        self.flushes += 1
        self._in_flight[partition] = []
        self._threads.run(job.run).add_done_callback(partial(self._end, partition, job, loop.time()))

    def _end(self, partition: FlushTarget, job: FlushJob, started: float, ran: asyncio.Future[None]) -> None:
        asked_meanwhile = self._in_flight.pop(partition)
        self.flush_seconds += asyncio.get_running_loop().time() - started
        self._landed.set()
        error = ran.exception()
        if error is None or isinstance(error, OSError):
            partition.finish_flush(job, error)
            error = error and KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, partition.offline or str(error))
        for upto in asked_meanwhile:
            self.request(partition, upto)
        self._wake(partition, error)

    def _wake(self, partition: FlushTarget, error: BaseException | None = None) -> None:
        """Whose offset is durable now, or never will be; the others wait for the next flush."""
        undecided = []
        for offset, landed in self._waiting.pop(partition, ()):
            if error is not None and not landed.done():
                landed.set_exception(error)
            elif not _decide(partition, offset, landed):
                undecided.append((offset, landed))
        if undecided:
            self._waiting[partition] = undecided
            self.request(partition)

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        seen_ms, seen = self._clock(), loop.time()
        while True:
            self._configs_changed.clear()
            with suppress(TimeoutError):  # not `wait_for`: that of Python 3.11 forgets a cancellation that comes with the event
                async with asyncio.timeout(min(self._period_ms(), PERIOD_MS_MAX) / 1000):
                    await self._configs_changed.wait()
            now_ms, now = self._clock(), loop.time()
            # Went the wall clock back, by however little, nobody knows how old anything is: flush it (C1.5 under F7). So if
            # it was ahead for a while between two looks, and something was appended just then.
            went_back = now_ms - seen_ms < (now - seen) * 1000 - STEP_MS_MIN
            seen_ms, seen = now_ms, now
            for partition in tuple(self._partitions()):
                due_ms = partition.flush_due_ms()
                if due_ms is not None and (due_ms <= now_ms or went_back or due_ms - partition.config.flush_ms > now_ms):
                    self.request(partition)
                elif partition.unfinished:  # their flush lacked a descriptor, or space for an index
                    self.request(partition, partition.unfinished[-1].next_offset)


def _decide(partition: FlushTarget, offset: int, landed: asyncio.Future[None]) -> bool:
    """Tell whoever waits for `offset`, where its fate is known."""
    if landed.done():  # who waited has gone
        return True
    if partition.recovery_point >= offset:
        landed.set_result(None)
    elif partition.offline is not None:
        landed.set_exception(KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, partition.offline))
    elif partition.log_end_offset < offset:  # truncated away while waiting
        landed.set_exception(KafkaError(ErrorCode.NOT_LEADER_OR_FOLLOWER, f"the log now ends at {partition.log_end_offset}"))
    else:
        return False
    return True
