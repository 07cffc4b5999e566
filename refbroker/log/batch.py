"""Is this a record batch, whole and untouched, and may a client append it?

A batch is the unit of everything: what a producer sends, what one append writes, what a fetch returns, what a CRC
covers and what recovery keeps or drops. The broker never looks inside: 61 bytes of header say all that it needs.

    at  size  field                    at  size  field
     0   8    base offset              27   8    base timestamp (ms)
     8   4    batch length (size - 12) 35   8    max timestamp (ms)
    12   4    partition leader epoch   43   8    producer id (-1 none)
    16   1    magic = 2                51   2    producer epoch (-1 none)
    17   4    CRC-32C of bytes 21..end 53   4    base sequence (-1 none)
    21   2    attributes               57   4    record count
    23   4    last offset delta        61        records, compressed together where a codec is set

All integers are big-endian. Attributes: bits 0-2 codec, 3 log-append time, 4 transactional, 5 control, 6 delete
horizon. Base offset and leader epoch are the broker's to set and lie outside the CRC: they are patched in place, and
nothing but their order vouches for them.

A batch in a log is valid (`parse`, `check`) if
1. at least 12 bytes are there and the batch length is at least 49 (61 - 12);
2. the magic is 2;
3. all bytes that the length announces are there;
4. the CRC is right;
5. base offset, last offset delta and record count are not negative (a compacted batch may be empty).

A client's batch is accepted (`validate_produce`) if beyond that, in this order, with the code of the first that fails:
1. it is there, alone, with nothing behind it (INVALID_RECORD; CORRUPT_MESSAGE where the bytes are no batch);
2. its magic is 2 (INVALID_RECORD for 0 and 1) and its codec known (UNSUPPORTED_COMPRESSION_TYPE);
3. its base offset is 0 (INVALID_RECORD);
4. it is at most max.message.bytes long (MESSAGE_TOO_LARGE);
5. its CRC is right (CORRUPT_MESSAGE);
6. it has records, as many as its offsets say (INVALID_RECORD), and bytes enough for them where uncompressed;
7. it is no control batch (INVALID_RECORD), nor part of a transaction, as none can be open here (INVALID_TXN_STATE);
8. a producer id comes with a base sequence (INVALID_RECORD);
9. its timestamps are within message.timestamp.before/after.max.ms, where the producer set any, and it does not claim
   log-append time on a topic that has it (INVALID_TIMESTAMP).

How Apache Kafka differs: it opens every batch, so it also refuses with INVALID_RECORD a batch whose records do not
decode, corrects a max timestamp that is not the largest of the records, and judges each timestamp on its own; we judge
the two in the header. It drops an incomplete batch behind the first without a word and acknowledges the rest: we refuse
the whole. An unknown codec makes it answer UNKNOWN_SERVER_ERROR.
"""

import struct
from collections.abc import Iterator

from crc32c import crc32c

from refbroker.errors import ErrorCode, KafkaError

HEADER = struct.Struct(">qiibIhiqqqhii")
HEADER_SIZE = 61
LOG_OVERHEAD = 12  # base offset and batch length, which the batch length does not count
CRC_START = 21  # the CRC covers everything from the attributes on
MAGIC = 2
NO_TIMESTAMP = -1
NO_PRODUCER_ID = -1
NO_SEQUENCE = -1
SEQUENCE_MAX = 2**31 - 1  # the next one is 0
UNLIMITED = 2**63 - 1

CODEC_MASK = 0x07
LOG_APPEND_TIME = 0x08
TRANSACTIONAL = 0x10
CONTROL = 0x20
DELETE_HORIZON = 0x40
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")  # the position is the number

RECORD_BYTES_MIN = 7  # length, attributes, two deltas, null key, null value, no headers: a byte each
_LEGACY_LENGTH_MIN = 14  # the smallest length that any magic allows: below it, the bytes are no batch at all

_OFFSET_AND_LENGTH = struct.Struct(">qi")
_OFFSET = struct.Struct(">q")
_EPOCH = struct.Struct(">i")
_CRC = struct.Struct(">I")
_ATTRIBUTES = struct.Struct(">h")
_MAX_TIMESTAMP = struct.Struct(">q")
assert HEADER.size == HEADER_SIZE


class CorruptBatch(Exception):
    """The bytes at `position` of the buffer are no valid batch."""

    def __init__(self, position: int, reason: str):
        super().__init__(f"at byte {position}: {reason}")
        self.position = position
        self.reason = reason


class IncompleteBatch(CorruptBatch):
    """What is there may be the beginning of a batch of `needed` bytes (a lower bound). A reader that has more bytes
    tries again with them, bounded by the file's size; at the end of a file this is a torn tail."""

    def __init__(self, position: int, needed: int, reason: str):
        super().__init__(position, reason)
        self.needed = needed


class Batch:
    """A parsed header over `view`, the memoryview of exactly this batch (or its beginning: `parse(header_only=)`)."""

    __slots__ = (
        "view", "base_offset", "size", "leader_epoch", "magic", "crc", "attributes", "last_offset_delta",
        "base_timestamp", "max_timestamp", "producer_id", "producer_epoch", "base_sequence", "record_count",
    )  # fmt: skip

    def __init__(self, buffer: memoryview, position: int):
        (
            self.base_offset, length, self.leader_epoch, self.magic, self.crc, self.attributes, self.last_offset_delta,
            self.base_timestamp, self.max_timestamp, self.producer_id, self.producer_epoch, self.base_sequence,
            self.record_count,
        ) = HEADER.unpack_from(buffer, position)  # fmt: skip
        self.size = length + LOG_OVERHEAD
        self.view = buffer[position : position + self.size]

    @property
    def last_offset(self) -> int:
        return self.base_offset + self.last_offset_delta

    @property
    def next_offset(self) -> int:
        return self.base_offset + self.last_offset_delta + 1

    @property
    def codec(self) -> int:
        return self.attributes & CODEC_MASK

    @property
    def is_log_append_time(self) -> bool:
        return bool(self.attributes & LOG_APPEND_TIME)

    @property
    def is_transactional(self) -> bool:
        return bool(self.attributes & TRANSACTIONAL)

    @property
    def is_control(self) -> bool:
        return bool(self.attributes & CONTROL)

    @property
    def delete_horizon_ms(self) -> int | None:
        """Until when a compacted log keeps this batch's tombstones: then the base timestamp's place says so."""
        return self.base_timestamp if self.attributes & DELETE_HORIZON else None

    @property
    def has_producer(self) -> bool:
        return self.producer_id > NO_PRODUCER_ID

    @property
    def last_sequence(self) -> int:
        """Sequences wrap from 2^31-1 to 0 (C6.5)."""
        if self.base_sequence == NO_SEQUENCE:
            return NO_SEQUENCE
        return (self.base_sequence + self.last_offset_delta) & SEQUENCE_MAX

    def computed_crc(self) -> int:
        return crc32c(self.view[CRC_START:])

    def __repr__(self) -> str:
        return f"Batch(offsets {self.base_offset}..{self.last_offset}, epoch {self.leader_epoch}, {self.size} bytes)"


def parse(buffer: bytes | bytearray | memoryview, position: int = 0, *, header_only: bool = False) -> Batch:
    """The batch at `position`. Raises IncompleteBatch where bytes are missing, else CorruptBatch.

    With `header_only` the 61 bytes of the header are enough, and `view` may be shorter than `size`.
    """
    view = buffer if type(buffer) is memoryview else memoryview(buffer)
    there = len(view) - position
    if there < LOG_OVERHEAD:
        raise IncompleteBatch(position, HEADER_SIZE, f"{there} bytes, a batch has at least {HEADER_SIZE}")
    _, length = _OFFSET_AND_LENGTH.unpack_from(view, position)
    if length < HEADER_SIZE - LOG_OVERHEAD:
        raise CorruptBatch(position, f"batch length {length}, at least {HEADER_SIZE - LOG_OVERHEAD} expected")
    if there < HEADER_SIZE:
        raise IncompleteBatch(position, length + LOG_OVERHEAD, f"{there} bytes of a header of {HEADER_SIZE}")
    batch = Batch(view, position)
    if batch.magic != MAGIC:
        raise CorruptBatch(position, f"magic {batch.magic}, {MAGIC} expected")
    if there < batch.size and not header_only:
        raise IncompleteBatch(position, batch.size, f"{there} bytes of a batch of {batch.size}")
    return batch


def parse_all(buffer: bytes | bytearray | memoryview) -> Iterator[Batch]:
    """The batches that fill the buffer to its last byte."""
    view = memoryview(buffer)
    position = 0
    while position < len(view):
        batch = parse(view, position)
        yield batch
        position += batch.size


def check(batch: Batch, position: int = 0) -> None:
    """Rules 3 to 5 of a valid batch (C2.6). `position` only tells the error where the batch is."""
    if len(batch.view) != batch.size:
        raise IncompleteBatch(position, batch.size, f"{len(batch.view)} bytes of a batch of {batch.size}")
    computed = batch.computed_crc()
    if computed != batch.crc:
        raise CorruptBatch(position, f"stored CRC {batch.crc}, computed {computed}")
    if batch.base_offset < 0 or batch.last_offset_delta < 0 or batch.record_count < 0:
        raise CorruptBatch(
            position,
            f"base offset {batch.base_offset}, last offset delta {batch.last_offset_delta}, "
            f"{batch.record_count} records: none may be negative",
        )


def validate_produce(
    records: bytes | bytearray | memoryview | None, max_message_bytes: int, *, now_ms: int = 0, log_append_time: bool = False,
    before_max_ms: int = UNLIMITED, after_max_ms: int = UNLIMITED,
) -> Batch:  # fmt: skip
    """The one batch that a client may append to a partition; raises KafkaError with the code of the first broken rule.

    `log_append_time` is the topic's message.timestamp.type.
    """
    batch = _only_batch(records)
    if batch.base_offset != 0:
        raise KafkaError(ErrorCode.INVALID_RECORD, f"base offset of the batch is {batch.base_offset}, 0 expected")
    if batch.size > max_message_bytes:
        raise KafkaError(
            ErrorCode.MESSAGE_TOO_LARGE, f"batch of {batch.size} bytes, max.message.bytes is {max_message_bytes}"
        )
    computed = batch.computed_crc()
    if computed != batch.crc:
        raise KafkaError(ErrorCode.CORRUPT_MESSAGE, f"stored CRC {batch.crc}, computed {computed}")
    count, attributes = batch.record_count, batch.attributes
    if count <= 0 or count != batch.last_offset_delta + 1:
        raise KafkaError(
            ErrorCode.INVALID_RECORD, f"{count} records, but the last offset delta is {batch.last_offset_delta}"
        )
    if not attributes & CODEC_MASK and count * RECORD_BYTES_MIN > batch.size - HEADER_SIZE:
        raise KafkaError(ErrorCode.INVALID_RECORD, f"{count} records in {batch.size - HEADER_SIZE} bytes")
    if attributes & CONTROL:
        raise KafkaError(ErrorCode.INVALID_RECORD, "clients are not allowed to write control records")
    if attributes & TRANSACTIONAL:
        raise KafkaError(ErrorCode.INVALID_TXN_STATE, "record was not part of an ongoing transaction")
    if batch.base_sequence < 0 and batch.has_producer:
        raise KafkaError(
            ErrorCode.INVALID_RECORD, f"sequence number {batch.base_sequence} with producer id {batch.producer_id}"
        )
    if not log_append_time:
        _check_timestamps(batch, now_ms, before_max_ms, after_max_ms)
    elif batch.is_log_append_time:
        raise KafkaError(ErrorCode.INVALID_TIMESTAMP, "a producer must not set the timestamp type to LogAppendTime")
    return batch


def _only_batch(records: bytes | bytearray | memoryview | None) -> Batch:
    view = records if type(records) is memoryview else memoryview(records or b"")
    if len(view) >= HEADER_SIZE:
        batch = Batch(view, 0)
        if batch.size == len(view) and batch.magic == MAGIC and batch.attributes & CODEC_MASK < len(CODECS):
            return batch
    raise _no_batch(view)


def _no_batch(view: memoryview) -> KafkaError:
    """Why the bytes are not exactly one batch that a client may send."""
    if len(view) <= 16:
        return KafkaError(ErrorCode.INVALID_RECORD, f"{len(view)} bytes: at least one whole record batch expected")
    length, magic = _OFFSET_AND_LENGTH.unpack_from(view)[1], view[16]
    if length < _LEGACY_LENGTH_MIN or magic > MAGIC:
        return KafkaError(ErrorCode.CORRUPT_MESSAGE, f"no record batch: length {length}, magic {magic}")
    size = length + LOG_OVERHEAD
    if size > len(view):
        return KafkaError(ErrorCode.INVALID_RECORD, f"{len(view)} bytes of a batch of {size}: whole batches expected")
    if magic != MAGIC:
        return KafkaError(ErrorCode.INVALID_RECORD, f"magic {magic}: only magic {MAGIC} is accepted")
    if size < HEADER_SIZE:
        return KafkaError(ErrorCode.CORRUPT_MESSAGE, f"batch of {size} bytes, at least {HEADER_SIZE} expected")
    if size == len(view):
        return KafkaError(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, f"codec {Batch(view, 0).codec}")
    try:
        parse(view, size)
    except CorruptBatch as error:
        return KafkaError(ErrorCode.CORRUPT_MESSAGE, f"behind the batch: {error}")
    return KafkaError(ErrorCode.INVALID_RECORD, "exactly one record batch per partition expected")


def _check_timestamps(batch: Batch, now_ms: int, before_max_ms: int, after_max_ms: int) -> None:
    """The first record's timestamp and the largest one, as the header gives them; -1 is "none set"."""
    largest = batch.max_timestamp
    first = largest if batch.attributes & LOG_APPEND_TIME else batch.base_timestamp
    if 0 <= now_ms - first <= before_max_ms and 0 <= now_ms - largest <= before_max_ms and first >= 0 and largest >= 0:
        return  # nearly all
    for timestamp in (first, largest):
        if timestamp == NO_TIMESTAMP:
            if batch.is_log_append_time:
                raise KafkaError(ErrorCode.INVALID_TIMESTAMP, "LogAppendTime without a timestamp")
        elif now_ms - timestamp > before_max_ms or timestamp - now_ms > after_max_ms:
            raise KafkaError(
                ErrorCode.INVALID_TIMESTAMP,
                f"timestamp {timestamp} is not within [{now_ms - before_max_ms}, {now_ms + after_max_ms}]",
            )


def stamp(batch: Batch, base_offset: int, leader_epoch: int, log_append_time_ms: int | None = None) -> None:
    """Give the batch its place in the log, in place. The CRC is computed anew only for log-append time, or where a
    producer claimed log-append time on a topic with create time: the header then gives the timestamps' true kind."""
    view = batch.view
    _OFFSET.pack_into(view, 0, base_offset)
    _EPOCH.pack_into(view, 12, leader_epoch)
    batch.base_offset = base_offset
    batch.leader_epoch = leader_epoch
    if log_append_time_ms is not None:
        batch.attributes |= LOG_APPEND_TIME
        batch.max_timestamp = log_append_time_ms
    elif batch.attributes & LOG_APPEND_TIME:
        batch.attributes &= ~LOG_APPEND_TIME
    else:
        return
    _ATTRIBUTES.pack_into(view, 21, batch.attributes)
    _MAX_TIMESTAMP.pack_into(view, 35, batch.max_timestamp)
    batch.crc = batch.computed_crc()
    _CRC.pack_into(view, 17, batch.crc)
