"""What are the records inside a batch?

The broker's hot paths never ask. Those who do: the dump, the lookup by timestamp, the group and metadata logs, control
batches of a log that Kafka wrote. From byte 61 of a batch on (compressed as one piece where the codec says so), for
each record, all lengths and deltas as zigzag varints:

    length of what follows | attributes int8 = 0 | timestamp delta | offset delta |
    key length (-1 null) key | value length (-1 null) value |
    header count, then for each: key length key, value length (-1 null) value

A record's timestamp is the batch's base timestamp plus its delta; under log-append time it is the batch's max
timestamp.

Records are valid if
1. each varint ends within 5 bytes (10 for a timestamp delta) and its value fits 32 (64) bits;
2. each record ends exactly where its length says, and within the data;
3. header keys are not null and are UTF-8, and no count or length exceeds what is left (checked before it is used);
4. there are as many as the batch's header says, with nothing behind them;
5. decompressed, they are not longer than the bound that the caller gives: output is made into buffers that grow
   towards that bound and never past it, whatever a hostile batch promises.

Codecs: gzip from the standard library; snappy, lz4 and zstd through `cramjam` (the extra `codecs`); without it, opening
such a batch raises CodecMissing, and only that. Snappy is written in the framing of xerial's library, as all Kafka
clients do; read with and without it. LZ4 is written as a frame of independent blocks of 64 KiB: Kafka's Java reader
takes no dependent ones.

How Apache Kafka differs: it bounds the decompressed size nowhere.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from crc32c import crc32c

from refbroker.log.batch import CODECS, CONTROL, CRC_START, HEADER, HEADER_SIZE, LOG_APPEND_TIME, LOG_OVERHEAD, MAGIC
from refbroker.log.batch import TRANSACTIONAL, Batch

try:
    import cramjam
except ImportError:  # the extra `codecs` is not installed: say so when a batch needs it
    cramjam = None

VARINT_BYTES_MAX = 5
VARLONG_BYTES_MAX = 10
OUTPUT_BYTES_FIRST = 64 * 1024  # the first guess at a decompressed size; each further one is four times larger
XERIAL_MAGIC = b"\x82SNAPPY\x00"
XERIAL_HEADER = XERIAL_MAGIC + struct.pack(">ii", 1, 1)  # version, lowest compatible version
XERIAL_BLOCK_BYTES = 32 * 1024
ZSTD_LEVEL = 3  # Kafka's default

CONTROL_ABORT = 0
CONTROL_COMMIT = 1


class InvalidRecords(Exception):
    """The batch's inside breaks one of the rules above."""


class CodecMissing(Exception):
    """The batch is compressed with a codec that needs `cramjam`, which is not installed."""


class Record(NamedTuple):
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]] = []
    attributes: int = 0


def build(
    records: Iterable[Record], *, base_offset: int = 0, leader_epoch: int = -1, producer_id: int = -1, producer_epoch: int = -1,
    base_sequence: int = -1, codec: int = 0, log_append_time: bool = False, transactional: bool = False, control: bool = False,
) -> bytearray:  # fmt: skip
    """One batch of these records, whose offsets start at `base_offset` and rise. Under log-append time the largest
    timestamp is that of all."""
    records = list(records)
    assert records, "a batch has records"
    assert records[0].offset >= base_offset, (records[0].offset, base_offset)
    base_timestamp = records[0].timestamp
    body = bytearray()
    for record in records:
        _write_record(body, record, base_offset, base_timestamp)
    body = _compress(codec, body)
    attributes = codec | LOG_APPEND_TIME * log_append_time | TRANSACTIONAL * transactional | CONTROL * control
    batch = bytearray(HEADER_SIZE)
    batch += body
    HEADER.pack_into(
        batch, 0, base_offset, len(batch) - LOG_OVERHEAD, leader_epoch, MAGIC, 0, attributes,
        records[-1].offset - base_offset, base_timestamp, max(record.timestamp for record in records),
        producer_id, producer_epoch, base_sequence, len(records),
    )  # fmt: skip
    struct.pack_into(">I", batch, 17, crc32c(memoryview(batch)[CRC_START:]))
    return batch


def iterate(batch: Batch, *, bytes_max: int) -> Iterator[Record]:
    """The batch's records. Raises InvalidRecords, also where they decompress to more than `bytes_max`; CodecMissing."""
    data = _decompress(batch.codec, batch.view[HEADER_SIZE:], bytes_max)
    position = 0
    for index in range(batch.record_count):
        try:
            record, position = _read_record(data, position, batch)
        except InvalidRecords as error:
            raise InvalidRecords(f"record {index} of {batch.record_count}: {error}") from None
        yield record
    if position != len(data):
        raise InvalidRecords(f"{len(data) - position} bytes behind the last of {batch.record_count} records")


# ---------------------------------------------------------------- one record


def _write_record(out: bytearray, record: Record, base_offset: int, base_timestamp: int) -> None:
    body = bytearray((record.attributes,))
    write_varint(body, record.timestamp - base_timestamp)
    write_varint(body, record.offset - base_offset)
    _write_bytes(body, record.key)
    _write_bytes(body, record.value)
    write_varint(body, len(record.headers))
    for name, value in record.headers:
        _write_bytes(body, name.encode())
        _write_bytes(body, value)
    write_varint(out, len(body))
    out += body


def _write_bytes(out: bytearray, data: bytes | None) -> None:
    if data is None:
        out.append(1)  # zigzag of -1
    else:
        write_varint(out, len(data))
        out += data


def _read_record(data: memoryview, position: int, batch: Batch) -> tuple[Record, int]:
    length, position = read_varint(data, position, len(data))
    end = position + length
    if length < 1 or end > len(data):
        raise InvalidRecords(f"length {length}, {len(data) - position} bytes left")
    attributes = data[position]
    timestamp_delta, position = read_varint(data, position + 1, end, VARLONG_BYTES_MAX)
    offset_delta, position = read_varint(data, position, end)
    key, position = _read_bytes(data, position, end)
    value, position = _read_bytes(data, position, end)
    count, position = read_varint(data, position, end)
    if not 0 <= count <= (end - position) // 2:  # a header takes two bytes at least
        raise InvalidRecords(f"{count} headers in {end - position} bytes")
    headers = []
    for _ in range(count):
        name, position = _read_bytes(data, position, end)
        header, position = _read_bytes(data, position, end)
        if name is None:
            raise InvalidRecords("null header key")
        try:
            headers.append((name.decode(), header))
        except UnicodeDecodeError:
            raise InvalidRecords(f"header key {name[:40]!r} is not UTF-8") from None
    if position != end:
        raise InvalidRecords(f"length {length}, but {end - position} bytes of it are left over")
    timestamp = batch.max_timestamp if batch.is_log_append_time else batch.base_timestamp + timestamp_delta
    return Record(batch.base_offset + offset_delta, timestamp, key, value, headers, attributes), end


def _read_bytes(data: memoryview, position: int, end: int) -> tuple[bytes | None, int]:
    length, position = read_varint(data, position, end)
    if length < 0:
        return None, position
    if length > end - position:
        raise InvalidRecords(f"length {length}, {end - position} bytes left")
    return bytes(data[position : position + length]), position + length


def write_varint(out: bytearray, value: int) -> None:
    """Zigzag varint of up to 64 bits."""
    value = (value << 1) ^ (value >> 63)
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def read_varint(data: memoryview, position: int, end: int, bytes_max: int = VARINT_BYTES_MAX) -> tuple[int, int]:
    """(value, position behind it). Never looks at or past `end`."""
    value = shift = 0
    limit = min(end, position + bytes_max)
    while position < limit:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> (64 if bytes_max == VARLONG_BYTES_MAX else 32):
                raise InvalidRecords(f"varint is longer than {64 if bytes_max == VARLONG_BYTES_MAX else 32} bits")
            return (value >> 1) ^ -(value & 1), position
        shift += 7
    raise InvalidRecords("varint does not end" if position < end else "varint is cut off")


# ---------------------------------------------------------------- codecs


def _need_cramjam(codec: int) -> None:
    if cramjam is None:
        raise CodecMissing(f"codec {CODECS[codec]} needs the package cramjam: pip install 'refbroker[codecs]'")


def _compress(codec: int, data: bytearray) -> bytes | bytearray:
    assert 0 <= codec < len(CODECS), codec
    name = CODECS[codec]
    if name == "none":
        return data
    if name == "gzip":
        gzip = zlib.compressobj(wbits=31)
        return gzip.compress(data) + gzip.flush()
    _need_cramjam(codec)
    if name == "zstd":
        return bytes(cramjam.zstd.compress(data, level=ZSTD_LEVEL))
    if name == "lz4":
        lz4 = cramjam.lz4.Compressor(content_checksum=False, block_linked=False)
        lz4.compress(bytes(data))
        return bytes(lz4.finish())
    out = bytearray(XERIAL_HEADER)
    for start in range(0, len(data), XERIAL_BLOCK_BYTES):
        block = bytes(cramjam.snappy.compress_raw(data[start : start + XERIAL_BLOCK_BYTES]))
        out += struct.pack(">i", len(block)) + block
    return out


def _decompress(codec: int, data: memoryview, bytes_max: int) -> memoryview:
    if codec >= len(CODECS):
        raise InvalidRecords(f"unknown codec {codec}")
    name = CODECS[codec]
    if name == "none":
        return data
    if name == "gzip":
        return memoryview(_gunzip(data, bytes_max))
    _need_cramjam(codec)
    if name == "snappy":
        return memoryview(_unsnappy(data, bytes_max))
    return _into_growing(getattr(cramjam, name).decompress_into, name, data, bytes_max)


def _too_long(bytes_max: int) -> InvalidRecords:
    return InvalidRecords(f"the records decompress to more than {bytes_max} bytes")


def _into_growing(decompress_into, name: str, data: memoryview, bytes_max: int) -> memoryview:
    size = min(bytes_max, max(OUTPUT_BYTES_FIRST, 4 * len(data)))
    while True:
        out = bytearray(size)
        try:
            return memoryview(out)[: decompress_into(data, out)]
        except cramjam.DecompressionError as error:
            if "whole buffer" not in str(error):
                raise InvalidRecords(f"{name}: {error}") from None
        if size >= bytes_max:
            raise _too_long(bytes_max)
        size = min(bytes_max, 4 * size)


def _gunzip(data: memoryview, bytes_max: int) -> bytearray:
    """All members of a gzip file, one behind the other."""
    out = bytearray()
    rest = bytes(data)
    while True:
        member = zlib.decompressobj(wbits=31)
        try:
            out += member.decompress(rest, bytes_max - len(out) + 1)
        except zlib.error as error:
            raise InvalidRecords(f"gzip: {error}") from None
        if len(out) > bytes_max:
            raise _too_long(bytes_max)
        if not member.eof:
            raise InvalidRecords("gzip: cut off")
        rest = member.unused_data
        if not rest:
            return out


def _unsnappy(data: memoryview, bytes_max: int) -> bytearray:
    out = bytearray()
    if data[: len(XERIAL_MAGIC)] != XERIAL_MAGIC:
        _unsnappy_block(data, out, bytes_max)
        return out
    position = len(XERIAL_HEADER)
    while position < len(data):
        if len(data) - position < 4:
            raise InvalidRecords("snappy: block length is cut off")
        (length,) = struct.unpack_from(">i", data, position)
        position += 4
        if not 0 < length <= len(data) - position:
            raise InvalidRecords(f"snappy: block of {length} bytes, {len(data) - position} left")
        _unsnappy_block(data[position : position + length], out, bytes_max)
        position += length
    return out


def _unsnappy_block(block: memoryview, out: bytearray, bytes_max: int) -> None:
    try:
        size = cramjam.snappy.decompress_raw_len(block)
        if size > bytes_max - len(out):
            raise _too_long(bytes_max)
        plain = bytearray(size)
        if cramjam.snappy.decompress_raw_into(block, plain) != size:
            raise InvalidRecords("snappy: fewer bytes than announced")
    except cramjam.DecompressionError as error:
        raise InvalidRecords(f"snappy: {error}") from None
    out += plain
