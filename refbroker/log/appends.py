"""How do batches that come together get into a log?

Each is accepted or refused for itself, as if it had come alone. Those that are accepted, and need not know each other,
are a *run*: they are written by one `writev`, so that 64 producers of one partition cost the disk's file system one call
instead of 64 (a quarter of a request's processor time). A run ends where a batch must see the one before it in the log
(it is of the same producer), where it begins a new segment, and where the system call takes no more.

If a run cannot be written, none of its batches is in the log, and each gets the error (C1.14).
"""

from collections.abc import Sequence
from typing import Any

from refbroker.errors import ErrorCode, KafkaError
from refbroker.log.batch import Batch, CorruptBatch, validate_produce
from refbroker.log.content import Appended

RUN_BATCHES_MAX = 1024  # as many buffers as one writev takes

Result = Appended | KafkaError


def append_one(partition: Any, records: bytearray | memoryview, now_ms: int) -> Appended:
    """Put one batch at the end of the log. It is stamped in place. Raises KafkaError; then nothing was appended."""
    batch = _accepted(partition, records, now_ms)
    if batch.producer_id >= 0 and partition.producers.check(batch) is not None:
        return _repeat(partition, batch)
    return partition.append_run((batch,), now_ms)[0]


def append_all(partition: Any, group: Sequence[bytearray | memoryview], now_ms: int) -> list[Result]:
    """Put one batch after the other at the end of the log; they are stamped in place. A KafkaError stands for a batch of
    which nothing is in the log."""
    results: list[Any] = [None] * len(group)
    run = Run(partition, results, now_ms)
    for number, records in enumerate(group):
        try:
            batch = _accepted(partition, records, now_ms)
            if not run.takes(batch):
                run.write()
            if batch.producer_id >= 0 and partition.producers.check(batch) is not None:
                results[number] = _repeat(partition, batch)
                continue
            run.add(number, batch)
        except KafkaError as error:
            results[number] = error.with_traceback(None)
    run.write()
    return results


def _accepted(partition: Any, records: bytearray | memoryview, now_ms: int) -> Batch:
    if partition.offline is not None:
        raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, partition.offline)
    config = partition.config
    batch = validate_produce(
        records, config.max_message_bytes, now_ms=now_ms, log_append_time=partition.log_append_time,
        before_max_ms=config.message_timestamp_before_max_ms, after_max_ms=config.message_timestamp_after_max_ms,
    )  # fmt: skip
    if batch.size > config.segment_bytes:
        raise KafkaError(
            ErrorCode.RECORD_LIST_TOO_LARGE, f"batch of {batch.size} bytes, segment.bytes is {config.segment_bytes}"
        )
    return batch


def _repeat(partition: Any, batch: Batch) -> Appended:
    """The answer to a retry is that of the original (C6.4), and waits for the same flush."""
    known = partition.producers.find_duplicate(batch)
    return Appended(
        known.base_offset, known.last_offset, known.timestamp if partition.log_append_time else -1,
        partition.log_start_offset, True, partition.flush_to(known.last_offset + 1),
    )  # fmt: skip


class Run:
    """Batches that are written together; what becomes of them goes to their numbers in `results`."""

    def __init__(self, partition: Any, results: list[Any], now_ms: int):
        self._partition = partition
        self._results = results
        self._now_ms = now_ms
        self._begin()

    def _begin(self) -> None:
        self._numbers: list[int] = []
        self._batches: list[Batch] = []
        self._producers: set[int] = set()
        self._bytes = 0
        self._end = self._partition.log_end_offset
        self._room: Any = None

    def takes(self, batch: Batch) -> bool:
        """Can it be written with those that are there?"""
        if not self._batches:
            return True
        if batch.producer_id in self._producers:
            return False
        partition = self._partition
        if self._room is None:
            try:
                self._room = partition.active.room(self._now_ms, partition.config, partition.roll_ms)
            except (OSError, CorruptBatch):  # the segment cannot be read: the append itself meets that, and has an answer
                return False
        timestamp = self._now_ms if partition.log_append_time else batch.max_timestamp
        size, last_offset, count = self._bytes + batch.size, self._end + batch.last_offset_delta, len(self._batches) + 1
        return count <= RUN_BATCHES_MAX and self._room.has(size, last_offset, timestamp, count)

    def add(self, number: int, batch: Batch) -> None:
        self._numbers.append(number)
        self._batches.append(batch)
        if batch.producer_id >= 0:
            self._producers.add(batch.producer_id)
        self._bytes += batch.size
        self._end += batch.last_offset_delta + 1

    def write(self) -> None:
        if not self._batches:
            return
        outcome: list[Any]
        try:
            outcome = self._partition.append_run(self._batches, self._now_ms)
        except KafkaError as error:
            outcome = [error.with_traceback(None)] * len(self._batches)
        for number, result in zip(self._numbers, outcome):
            self._results[number] = result
        self._begin()
