"""Has this producer sent that batch before, and is it the next one?

A producer that wants its retries to be harmless gets an id and an epoch, and numbers its records per partition. The
partition keeps, for each producer id, the epoch and the last five batches, and with them decides on the next batch:

1. exactly one of the last five batches (same epoch, same first and last sequence): a retry. Answered with its offsets,
   nothing is appended (C6.4);
2. an epoch lower than the known one: INVALID_PRODUCER_EPOCH, a zombie (C6.6);
3. a higher epoch must begin at sequence 0, the same epoch must go on where it stopped, 2^31-1 being followed by 0: else
   OUT_OF_ORDER_SEQUENCE_NUMBER (C6.5), also for a retry of a batch older than the last five;
4. a producer of which nothing is known may begin anywhere: its state may have expired, or gone with deleted records;
5. no plain batch while its transaction is open: INVALID_TXN_STATE.

State changes only after the append succeeded (C6.3). It is a function of the log (C6.1): a snapshot beside the log,
named by the offset up to which it holds, shortens the replay.

    .snapshot   version int16 = 1 | CRC-32C of byte 6..end | count int32 | per producer, 46 bytes:
                producer id int64 | epoch int16 | last sequence int32 | last offset int64 | offset delta int32 |
                timestamp int64 | coordinator epoch int32 | first offset of the open transaction int64 (-1 none)

A snapshot is valid if its version is 1, its length is that of its count, and the CRC is right (C6.2). It holds only
the last batch of each producer. To know a retry of the four before it, too (C6.4), begin the replay some way before the
snapshot's offset: going again over batches that the snapshot knows ends in the same state, with more of the last five.

How Apache Kafka differs: it drops a snapshot at exactly the log start offset, and with it what it knew.
"""

import struct
from collections import deque
from typing import NamedTuple

from crc32c import crc32c

from refbroker.errors import ErrorCode, KafkaError
from refbroker.log.batch import NO_PRODUCER_ID, NO_SEQUENCE, NO_TIMESTAMP, SEQUENCE_MAX, Batch
from refbroker.log.disk import Disk, File, read_file, replace_file
from refbroker.log.records import InvalidRecords, iterate

BATCHES_KEPT = 5  # as many as a producer may have in flight
NO_EPOCH = -1
EXPIRATION_MS = 86_400_000  # producer.id.expiration.ms
SNAPSHOT_VERSION = 1
SNAPSHOT_HEADER = struct.Struct(">hIi")
SNAPSHOT_CRC_START = 6
PRODUCER_ENTRY = struct.Struct(">qhiqiqiq")
SNAPSHOT_BYTES_MAX = 256 * 1024 * 1024  # five million producers
SNAPSHOT_SUFFIX = ".snapshot"
MARKER_BYTES_MAX = 1024  # the records of a control batch: one, of 17 bytes


class CorruptSnapshot(Exception):
    """The bytes are no snapshot that we can use."""


class BatchRange(NamedTuple):
    """One of a producer's last batches, as the log has it."""

    last_sequence: int
    last_offset: int
    offset_delta: int
    timestamp: int

    @property
    def base_sequence(self) -> int:
        return (self.last_sequence - self.offset_delta) & SEQUENCE_MAX

    @property
    def base_offset(self) -> int:
        return self.last_offset - self.offset_delta


class Producer:
    """What a partition knows of one producer id."""

    __slots__ = ("producer_id", "epoch", "coordinator_epoch", "last_timestamp", "txn_start_offset", "batches")

    def __init__(self, producer_id: int, epoch: int = NO_EPOCH):
        self.producer_id = producer_id
        self.epoch = epoch
        self.coordinator_epoch = -1
        self.last_timestamp = NO_TIMESTAMP
        self.txn_start_offset: int | None = None
        self.batches: deque[BatchRange] = deque(maxlen=BATCHES_KEPT)

    @property
    def last_sequence(self) -> int:
        return self.batches[-1].last_sequence if self.batches else NO_SEQUENCE

    @property
    def last_offset(self) -> int:
        return self.batches[-1].last_offset if self.batches else -1

    def set_epoch(self, epoch: int) -> None:
        if epoch != self.epoch:
            self.batches.clear()
            self.epoch = epoch


class Loaded(NamedTuple):
    """What `ProducerStates.load` found: replay the log from `offset`."""

    offset: int
    used: str | None  # the snapshot's file name
    removed: list[tuple[str, str]]  # (file name, reason)


class ProducerStates:
    """`end_offset`: the state is that of the log up to here, exclusive."""

    def __init__(self, expiration_ms: int = EXPIRATION_MS):
        self.expiration_ms = expiration_ms
        self.end_offset = 0
        self._producers: dict[int, Producer] = {}

    @property
    def active(self) -> list[Producer]:
        return list(self._producers.values())

    def get(self, producer_id: int) -> Producer | None:
        return self._producers.get(producer_id)

    # ------------------------------------------------------------ deciding

    def find_duplicate(self, batch: Batch) -> BatchRange | None:
        """The batch in the log that this one repeats, if it is one of the last five."""
        producer = self._producers.get(batch.producer_id)
        if producer is None or producer.epoch != batch.producer_epoch:
            return None
        last_sequence = batch.last_sequence
        for known in producer.batches:
            if known.last_sequence == last_sequence and known.offset_delta == batch.last_offset_delta:
                return known
        return None

    def check(self, batch: Batch) -> int | None:
        """The base offset of the batch that this one repeats (append nothing), None where it may be appended; raises
        KafkaError where it may not. Changes nothing."""
        if not batch.has_producer:
            return None
        duplicate = self.find_duplicate(batch)
        if duplicate is not None:
            return duplicate.base_offset
        producer = self._producers.get(batch.producer_id)
        if producer is not None:
            self._check_order(producer, batch)
        return None

    def _check_order(self, producer: Producer, batch: Batch) -> None:
        who = f"producer {producer.producer_id}"
        if batch.producer_epoch < producer.epoch:
            raise KafkaError(
                ErrorCode.INVALID_PRODUCER_EPOCH, f"{who}: epoch {batch.producer_epoch}, last seen {producer.epoch}"
            )
        if producer.epoch == NO_EPOCH:
            return
        if batch.producer_epoch != producer.epoch:
            if batch.base_sequence != 0:
                raise KafkaError(
                    ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
                    f"{who}: sequence {batch.base_sequence} begins the new epoch {batch.producer_epoch}, 0 expected",
                )
        elif not _follows(producer.last_sequence, batch.base_sequence):
            raise KafkaError(
                ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER,
                f"{who}: sequence {batch.base_sequence} behind {producer.last_sequence}",
            )
        if producer.txn_start_offset is not None and not batch.is_transactional:
            raise KafkaError(ErrorCode.INVALID_TXN_STATE, f"{who}: a transaction is open, plain batch refused")

    # ------------------------------------------------------------ following the log

    def update(self, batch: Batch) -> None:
        """The batch is in the log now, with its final offsets. Also how a replay builds the state: without any check
        (C6.5), as what is in the log has been checked."""
        self.end_offset = batch.base_offset + batch.last_offset_delta + 1
        if batch.producer_id <= NO_PRODUCER_ID:
            return
        producer = self._producers.get(batch.producer_id)
        if producer is None:
            producer = self._producers[batch.producer_id] = Producer(batch.producer_id)
        if batch.is_control:
            self._end_transaction(producer, batch)
            return
        producer.set_epoch(batch.producer_epoch)
        producer.batches.append(
            BatchRange(batch.last_sequence, batch.last_offset, batch.last_offset_delta, batch.max_timestamp)
        )
        producer.last_timestamp = batch.max_timestamp
        if batch.is_transactional and producer.txn_start_offset is None:
            producer.txn_start_offset = batch.base_offset

    replay = update

    def _end_transaction(self, producer: Producer, batch: Batch) -> None:
        """A transaction marker, in a log that Kafka wrote. A compacted one may be empty, and then says nothing."""
        try:
            marker = next(iterate(batch, bytes_max=MARKER_BYTES_MAX), None)
        except InvalidRecords:
            marker = None
        if marker is None or marker.value is None or len(marker.value) < 6:
            return
        producer.set_epoch(batch.producer_epoch)
        producer.coordinator_epoch = int.from_bytes(marker.value[2:6], "big", signed=True)
        producer.last_timestamp = marker.timestamp
        producer.txn_start_offset = None

    def expire(self, now_ms: int) -> int:
        """Forget who has long been silent, by the time of its last batch; never with an open transaction (C6.7)."""
        expired = [producer.producer_id for producer in self.active if self._is_expired(producer, now_ms)]
        for producer_id in expired:
            del self._producers[producer_id]
        return len(expired)

    def _is_expired(self, producer: Producer, now_ms: int) -> bool:
        return producer.txn_start_offset is None and now_ms - producer.last_timestamp >= self.expiration_ms

    def clear(self, offset: int) -> None:
        """Nothing is known, and the log begins at `offset`."""
        self._producers.clear()
        self.end_offset = offset

    # ------------------------------------------------------------ snapshots

    def encode_snapshot(self) -> bytes:
        return encode_snapshot(self.active)

    def write_snapshot(self, disk: Disk, directory: str, *, sync: bool = True) -> File | None:
        """Write the state as `<end_offset>.snapshot`. With `sync` it is durable on return. Without, the file is handed
        back, to be synced before the recovery point passes its offset (C3.2); a torn one fails its CRC."""
        path = f"{directory}/{snapshot_name(self.end_offset)}"
        data = self.encode_snapshot()
        if sync:
            replace_file(disk, path, data)
            return None
        if disk.exists(path):  # the recovery point may have passed it: it is never torn
            file = disk.open(path)
            if file.pread(file.size, 0) != data:
                replace_file(disk, path, data)
            return disk.open(path)
        file = disk.open(path, create=True)
        file.append([data])
        return file

    def load(self, disk: Disk, directory: str, log_start_offset: int, log_end_offset: int, now_ms: int) -> Loaded:
        """Take the newest valid snapshot within the log, or start with nothing at the log start. Snapshots outside of
        the log, and those that are corrupt, are removed (C6.2): call it after a truncation, too."""
        self.clear(log_start_offset)
        removed = []
        candidates = []
        for offset, name in list_snapshots(disk, directory):
            if log_start_offset <= offset <= log_end_offset:
                candidates.append((offset, name))
            else:
                removed.append((name, f"outside of the log, {log_start_offset} to {log_end_offset}"))
        used = None
        for offset, name in reversed(candidates):
            try:
                producers = decode_snapshot(read_file(disk, f"{directory}/{name}", bytes_max=SNAPSHOT_BYTES_MAX))
            except (CorruptSnapshot, ValueError) as error:
                removed.append((name, str(error)))
                continue
            self._producers = {each.producer_id: each for each in producers if not self._is_expired(each, now_ms)}
            self.end_offset = offset
            used = name
            break
        for name, _ in removed:
            disk.unlink(f"{directory}/{name}")
        return Loaded(self.end_offset, used, removed)


def _follows(last_sequence: int, sequence: int) -> bool:
    return sequence == last_sequence + 1 or (sequence == 0 and last_sequence == SEQUENCE_MAX)


def snapshot_name(offset: int) -> str:
    return f"{offset:020d}{SNAPSHOT_SUFFIX}"


def list_snapshots(disk: Disk, directory: str) -> list[tuple[int, str]]:
    """(offset, file name) of the snapshots in a partition's directory, oldest first."""
    found = []
    for name in disk.list(directory):
        stem = name.removesuffix(SNAPSHOT_SUFFIX)
        if stem != name and len(stem) == 20 and stem.isascii() and stem.isdigit():
            found.append((int(stem), name))
    return found


def encode_snapshot(producers: list[Producer]) -> bytes:
    entries = b"".join(
        PRODUCER_ENTRY.pack(
            producer.producer_id, producer.epoch, producer.last_sequence, producer.last_offset,
            producer.batches[-1].offset_delta if producer.batches else 0, producer.last_timestamp,
            producer.coordinator_epoch, -1 if producer.txn_start_offset is None else producer.txn_start_offset,
        )
        for producer in sorted(producers, key=lambda producer: producer.producer_id)
    )  # fmt: skip
    body = struct.pack(">i", len(producers)) + entries
    return struct.pack(">hI", SNAPSHOT_VERSION, crc32c(body)) + body


def decode_snapshot(data: bytes) -> list[Producer]:
    """Raises CorruptSnapshot."""
    if len(data) < SNAPSHOT_HEADER.size:
        raise CorruptSnapshot(f"{len(data)} bytes, at least {SNAPSHOT_HEADER.size} expected")
    version, crc, count = SNAPSHOT_HEADER.unpack_from(data)
    if version != SNAPSHOT_VERSION:
        raise CorruptSnapshot(f"version {version}, {SNAPSHOT_VERSION} expected")
    computed = crc32c(memoryview(data)[SNAPSHOT_CRC_START:])
    if computed != crc:
        raise CorruptSnapshot(f"stored CRC {crc}, computed {computed}")
    if len(data) != SNAPSHOT_HEADER.size + count * PRODUCER_ENTRY.size:
        raise CorruptSnapshot(f"{len(data)} bytes for {count} producers")
    producers = []
    for entry in PRODUCER_ENTRY.iter_unpack(memoryview(data)[SNAPSHOT_HEADER.size :]):
        producer_id, epoch, last_sequence, last_offset, offset_delta, timestamp, coordinator_epoch, txn_start = entry
        producer = Producer(producer_id, epoch)
        producer.coordinator_epoch = coordinator_epoch
        producer.last_timestamp = timestamp
        producer.txn_start_offset = txn_start if txn_start >= 0 else None
        if last_offset >= 0:
            producer.batches.append(BatchRange(last_sequence, last_offset, offset_delta, timestamp))
        producers.append(producer)
    return producers
