"""How do offsets and groups get into __consumer_offsets, and back after a start?

A group's records are all in one partition: abs(hash) % partitions, with the hash of Java's strings. They are ordinary
records: acknowledged, flushed, recovered, retained like any other (C8.1).

1. Records reach the log in the order of the calls of `write`, whatever each of them has to wait for.
2. They are applied after they are acknowledged under the topic's flush policy, never before, and in the order of the
   log: a commit that is durable waits for one before it that is not yet. One that failed is not applied.
3. Loading applies all records that are in the log, in its order. Until it is done the partition's groups are
   answered COORDINATOR_LOAD_IN_PROGRESS; a partition that cannot be read is not served.
4. Transactional offsets (in a log that Kafka wrote) count from their commit marker on.

The topic is made when it is first needed. Its number of partitions is looked at once: groups would be lost if it
changed.
"""

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from refbroker.errors import ErrorCode, KafkaError
from refbroker.group_records import GroupRecord, OffsetRecord, parse
from refbroker.log.records import CONTROL_COMMIT, Record, build, iterate
from refbroker.protocol import ProtocolError

logger = logging.getLogger(__name__)

TOPIC = "__consumer_offsets"
BATCH_BYTES_MAX = 64 << 20  # of a compressed batch that is loaded, opened
CHUNK_BYTES = 256 << 10  # of records that need not stay together, such as tombstones: well below any max.message.bytes
RECORD_OVERHEAD_BYTES = 40  # about, per record: varints
RECORDS_PER_TURN = 1_000  # loaded before the event loop may go on with something else

Parsed = OffsetRecord | GroupRecord
KeyValue = tuple[bytes, bytes | None]

# What a failed append means to a client of the group APIs; the rest stay as they are.
_ERRORS = {
    ErrorCode.UNKNOWN_TOPIC_OR_PARTITION: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_ENOUGH_REPLICAS: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.REQUEST_TIMED_OUT: ErrorCode.COORDINATOR_NOT_AVAILABLE,
    ErrorCode.NOT_LEADER_OR_FOLLOWER: ErrorCode.NOT_COORDINATOR,
    ErrorCode.KAFKA_STORAGE_ERROR: ErrorCode.NOT_COORDINATOR,
    ErrorCode.CORRUPT_MESSAGE: ErrorCode.UNKNOWN_SERVER_ERROR,
    ErrorCode.RECORD_LIST_TOO_LARGE: ErrorCode.MESSAGE_TOO_LARGE,
    ErrorCode.INVALID_FETCH_SIZE: ErrorCode.MESSAGE_TOO_LARGE,
}


@lru_cache(256)
def java_hash(text: str) -> int:
    """String.hashCode of Java: over UTF-16 code units, in 32 bits."""
    value = 0
    for (unit,) in struct.iter_unpack(">H", text.encode("utf-16-be")):
        value = (31 * value + unit) & 0xFFFFFFFF
    return value - (1 << 32) if value >= 1 << 31 else value


def partition_for(group_id: str, partitions: int) -> int:
    value = java_hash(group_id)
    return 0 if value == -(1 << 31) else abs(value) % partitions


def chunks(records: Sequence[KeyValue]) -> Iterator[list[KeyValue]]:
    """The records in batches that any log takes."""
    chunk: list[KeyValue] = []
    size = 0
    for record in records:
        size += len(record[0]) + len(record[1] or b"") + RECORD_OVERHEAD_BYTES
        if chunk and size > CHUNK_BYTES:
            yield chunk
            chunk, size = [], len(record[0]) + len(record[1] or b"") + RECORD_OVERHEAD_BYTES
        chunk.append(record)
    if chunk:
        yield chunk


class _Write:
    """Records on their way. `result` is None until the append has ended."""

    __slots__ = ("records", "result", "applied")

    def __init__(self, records: Sequence[KeyValue], applied: asyncio.Future):
        self.records = records
        self.result: ErrorCode | None = None
        self.applied = applied


class GroupLog:
    """The partitions of __consumer_offsets. `apply` gets each record that was written, `replay` each that is loaded
    (None: of a kind that we do not serve)."""

    def __init__(self, broker, apply: Callable[[Parsed], None], replay: Callable[[Parsed | None], None]):
        self._broker = broker
        self._apply = apply
        self._replay = replay
        self._writes: dict[int, deque[_Write]] = {}
        self._loading: set[int] = set()
        self._failed: set[int] = set()
        self._tasks: set[asyncio.Task] = set()
        self.topic_id = None
        self.partitions = 0

    # Which partition, and may it be asked?

    def partition_of(self, group_id: str) -> int:
        return partition_for(group_id, self.partitions or self._broker.config.offsets_topic_num_partitions)

    def check(self, group_id: str) -> None:
        """Raises KafkaError: COORDINATOR_LOAD_IN_PROGRESS, NOT_COORDINATOR, COORDINATOR_NOT_AVAILABLE."""
        if not self.partitions:
            return
        number = self.partition_of(group_id)
        if number in self._loading:
            raise KafkaError(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
        if number in self._failed:
            raise KafkaError(ErrorCode.COORDINATOR_NOT_AVAILABLE)
        try:
            self._broker.partition(TOPIC, number)
        except KafkaError as error:
            raise KafkaError(_ERRORS.get(error.code, error.code), error.message) from error

    @property
    def is_loading(self) -> bool:
        return bool(self._loading)

    def is_current(self) -> bool:
        """False where the topic was deleted under us, and perhaps made again."""
        topic = self._broker.metadata.topics.get(TOPIC)
        return self.topic_id == (topic.topic_id if topic else None)

    async def create(self) -> None:
        """Make the topic if it is not there. Raises KafkaError(COORDINATOR_NOT_AVAILABLE)."""
        if self._broker.metadata.topics.get(TOPIC) is None:
            try:
                await self._broker.metadata.auto_create(TOPIC)
            except KafkaError as error:
                raise KafkaError(ErrorCode.COORDINATOR_NOT_AVAILABLE, f"{TOPIC}: {error}") from error
        if not self.partitions:
            self.attach()

    def attach(self) -> None:
        """Take the topic as it is now."""
        topic = self._broker.metadata.topics.get(TOPIC)
        self.topic_id = topic.topic_id if topic else None
        self.partitions = topic.partitions if topic else 0
        self._failed.clear()

    # Writing

    def write(self, group_id: str, records: Sequence[KeyValue]) -> asyncio.Future:
        """Append one batch, which the log takes whole or not at all. The future gives NONE when the records are
        acknowledged and applied, else the error to answer with."""
        return self._write(self.partition_of(group_id), records)

    def write_all(self, group_id: str, records: Sequence[KeyValue]) -> asyncio.Future:
        """Append as many batches as it takes; the future gives what became of each."""
        number = self.partition_of(group_id)
        return asyncio.gather(*[self._write(number, chunk) for chunk in chunks(records)])

    def _write(self, number: int, records: Sequence[KeyValue]) -> asyncio.Future:
        loop = asyncio.get_running_loop()
        write = _Write(records, loop.create_future())
        self._writes.setdefault(number, deque()).append(write)
        # Tasks start in the order in which they are made, and append before they first wait: that keeps rule 1.
        task = loop.create_task(self._append(number, write))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return write.applied

    async def _append(self, number: int, write: _Write) -> None:
        now_ms = self._broker.clock()
        try:
            batch = build([Record(i, now_ms, key, value, []) for i, (key, value) in enumerate(write.records)])
            await self._broker.append(self._broker.partition(TOPIC, number), batch)
            write.result = ErrorCode.NONE
        except KafkaError as error:
            logger.warning("%s-%d: group records were not written: %s", TOPIC, number, error)
            write.result = _ERRORS.get(error.code, error.code)
        finally:
            if write.result is None:  # a bug, or the broker is stopping: those who wait must hear of it
                write.result = ErrorCode.COORDINATOR_NOT_AVAILABLE
            self._apply_written(number)

    def _apply_written(self, number: int) -> None:
        writes = self._writes[number]
        while writes and writes[0].result is not None:
            write = writes.popleft()
            if write.result is ErrorCode.NONE:
                for key, value in write.records:
                    self._apply(parse(key, value))
            if not write.applied.done():
                write.applied.set_result(write.result)

    def unapplied(self) -> Iterator[Parsed]:
        """Records that are on their way."""
        for writes in self._writes.values():
            for write in writes:
                for key, value in write.records:
                    yield parse(key, value)

    async def drain(self, group_id: str) -> None:
        """Wait until what was written so far is applied, or has failed."""
        writes = self._writes.get(self.partition_of(group_id))
        if writes:
            await asyncio.wait([writes[-1].applied])

    async def stop(self) -> None:
        await asyncio.sleep(0)  # a task that is cancelled before it has begun tells nobody
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Loading

    def begin_loading(self) -> None:
        self.attach()
        self._loading = set(range(self.partitions))

    async def load(self, loaded: Callable[[int], None]) -> None:
        """Replay the partitions one by one; `loaded` after each, when its groups may be asked."""
        for number in sorted(self._loading):
            try:
                await self._load(number)
                self._loading.discard(number)
                loaded(number)
            except Exception as error:  # whatever is in one partition, the others are to be served
                logger.exception("%s-%d cannot be loaded, its groups are not served: %s", TOPIC, number, error)
                self._failed.add(number)
            finally:
                self._loading.discard(number)

    async def _load(self, number: int) -> None:
        partition = self._broker.partition(TOPIC, number)
        transactions: dict[int, list[Parsed | None]] = {}
        count = 0
        for batch in partition.read_batches(partition.log_start_offset, partition.log_end_offset):
            for record in iterate(batch, bytes_max=BATCH_BYTES_MAX):
                try:
                    if batch.is_control:
                        self._end_transaction(transactions.pop(batch.producer_id, []), record)
                    elif batch.is_transactional:
                        transactions.setdefault(batch.producer_id, []).append(parse(record.key, record.value))
                    else:
                        self._replay(parse(record.key, record.value))
                except ProtocolError as error:
                    logger.warning("%s-%d offset %d is not a group record: %s", TOPIC, number, record.offset, error)
            count += batch.record_count
            if count >= RECORDS_PER_TURN:
                count = 0
                await asyncio.sleep(0)

    def _end_transaction(self, pending: list[Parsed | None], marker: Record) -> None:
        """A marker's key is an int16 version and an int16 that says which way the transaction ended."""
        if marker.key is None or len(marker.key) < 4:
            raise ProtocolError("marker without a type")
        if struct.unpack_from(">h", marker.key, 2)[0] == CONTROL_COMMIT:
            for parsed in pending:
                self._replay(parsed)
