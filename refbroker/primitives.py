"""How does Kafka write an integer, a string, an array length, a block of records?

Kafka's primitive types, big-endian, each with its reader and its writer. Messages come in two encodings. The older
one writes lengths as fixed-size integers; the *flexible* one (KIP-482) writes them as unsigned varints of length + 1,
0 for null, and ends each struct with tagged fields.

| Type | Older | Flexible |
|---|---|---|
| bool int8 int16 uint16 int32 uint32 int64 float64 | fixed size | the same |
| uuid | 16 bytes | the same |
| string | int16 length (-1 null), UTF-8 | uvarint length + 1 (0 null), UTF-8 |
| bytes, records | int32 length (-1 null) | uvarint length + 1 (0 null) |
| array | int32 count (-1 null) | uvarint count + 1 (0 null) |

What is read is valid only where

1. every length and count lies within the bytes that remain, which is checked before anything is allocated;
2. null stands only where the field may be null in that version, and no other negative length stands anywhere;
3. a string is UTF-8 of at most `STRING_BYTES_MAX` bytes;
4. a varint has at most five bytes;
5. the arrays of one message, those of one element aside, hold at most `ELEMENTS_MAX` elements altogether.

Apache Kafka differs in 3 (it replaces malformed UTF-8) and 5 (it has no such limit: a request of a hundred megabytes
of three-byte elements becomes gigabytes of objects).
"""

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID as UUIDValue

ELEMENTS_MAX = 100_000  # an element of three bytes becomes a dict of hundreds: this bounds the factor
INT32_MAX = 2**31 - 1
STRING_BYTES_MAX = 0x7FFF  # what the older encoding can express; Kafka holds the flexible one to it too
VARINT_SHIFT_MAX = 28  # 5 bytes of 7 bits hold 32 bits
UUIDS_CACHED = 4096  # making a UUID object costs more than decoding the rest of a fetch request

ZERO_UUID = UUIDValue(int=0)

_INT16 = struct.Struct(">h")
_INT32 = struct.Struct(">i")


class ProtocolError(Exception):
    """Bytes from a peer that are not what the protocol allows. There is no code for it: the connection is closed."""


class Reader:
    """The bytes of one message, and how many array elements it may still hold."""

    __slots__ = ("buffer", "size", "elements")

    def __init__(self, buffer: memoryview):
        self.buffer = buffer
        self.size = len(buffer)
        self.elements = ELEMENTS_MAX

    def take_elements(self, count: int, size_min: int, position: int) -> None:
        """Allow an array of `count` elements of at least `size_min` bytes each from `position`, or raise."""
        if count * size_min > self.size - position:
            raise ProtocolError(f"array of {count} elements in the {self.size - position} bytes that remain")
        self.elements -= count
        if self.elements < 0:
            raise ProtocolError(f"more than {ELEMENTS_MAX} array elements in one message")


class Writer(bytearray):
    """The bytes of one message. Records are not copied into it: `inserts` has (position, records) for each block, and
    `parts` gives all of it in order."""

    __slots__ = ("inserts", "inserted_bytes")

    def __init__(self) -> None:
        self.inserts: list[tuple[int, Any]] = []
        self.inserted_bytes = 0

    def insert(self, records: Any, size: int) -> None:
        self.inserts.append((len(self), records))
        self.inserted_bytes += size

    def parts(self) -> list[Any]:
        """Bytes-likes and file regions, in the order in which they go onto the wire."""
        if not self.inserts:
            return [self]
        parts: list[Any] = []
        view, start = memoryview(self), 0
        for position, records in self.inserts:
            if position > start:
                parts.append(view[start:position])
            parts.append(records)
            start = position
        if start < len(self):
            parts.append(view[start:])
        return parts


Read = Callable[[Reader, int], tuple[Any, int]]
Write = Callable[[Writer, Any], None]


class Type(NamedTuple):
    """A primitive type. Fixed-size ones have a `struct` code, the others make readers and writers for
    (flexible, nullable). `zero` is what Kafka takes for a field that is absent."""

    name: str
    zero: Any
    size_min: int
    code: str | None = None
    reader: Callable[[bool, bool], Read] | None = None
    writer: Callable[[bool, bool], Write] | None = None


def read_uvarint(reader: Reader, position: int) -> tuple[int, int]:
    buffer = reader.buffer
    value, shift = buffer[position], 7
    position += 1
    if value >= 0x80 and (second := buffer[position]) >= 0x80 and (third := buffer[position + 1]) < 0x80:
        return value + (second << 7) + (third << 14) - 0x4080, position + 2  # three bytes: the size of most batches
    while value >> shift:  # the last byte's high bit: another one follows, in its place
        if shift > VARINT_SHIFT_MAX:
            raise ProtocolError("varint of more than five bytes")
        value += (buffer[position] - 1) << shift
        position += 1
        shift += 7
    return value, position


def write_uvarint(writer: bytearray, value: int) -> None:
    assert value >= 0, value
    while value >= 0x80:
        writer.append(value & 0x7F | 0x80)
        value >>= 7
    writer.append(value)


def length_reader(fixed: struct.Struct, flexible: bool, nullable: bool, what: str) -> Read:
    """Reads a length or a count; gives -1 for null, where null may stand."""
    floor = -1 if nullable else 0
    unpack, size = fixed.unpack_from, fixed.size

    def read_compact(reader: Reader, position: int) -> tuple[int, int]:
        length = reader.buffer[position] - 1
        position += 1
        if length >= 0x7F:
            length, position = read_uvarint(reader, position - 1)
            length -= 1
        if length < floor:
            raise ProtocolError(f"{what} is null")
        return length, position

    def read_fixed(reader: Reader, position: int) -> tuple[int, int]:
        (length,) = unpack(reader.buffer, position)
        if length < floor:
            raise ProtocolError(f"{what} of length {length}")
        return length, position + size

    return read_compact if flexible else read_fixed


def length_writer(fixed: struct.Struct, flexible: bool, nullable: bool, what: str) -> Write:
    """Writes a length or a count, -1 for null."""
    floor = -1 if nullable else 0
    pack = fixed.pack

    def write(writer: Writer, length: int) -> None:
        assert length >= floor, f"{what} is null, which this version cannot express"
        if not flexible:
            writer += pack(length)
        elif length < 0x7F:
            writer.append(length + 1)
        else:
            write_uvarint(writer, length + 1)

    return write


def array_length_reader(flexible: bool, nullable: bool) -> Read:
    return length_reader(_INT32, flexible, nullable, "array")


def array_length_writer(flexible: bool, nullable: bool) -> Write:
    return length_writer(_INT32, flexible, nullable, "array")


def _text(view: memoryview) -> str:
    return str(view, "utf-8")


def _sized_reader(
    fixed: struct.Struct, what: str, take: Callable[[memoryview], Any] | None, bytes_max: int = INT32_MAX
) -> Callable[[bool, bool], Read]:
    """Of what is a length and so many bytes; `take` makes the value of them, or the value is a view of them."""

    def make(flexible: bool, nullable: bool) -> Read:
        read_length = length_reader(fixed, flexible, nullable, what)

        def read(reader: Reader, position: int) -> tuple[Any, int]:
            length, position = read_length(reader, position)
            if length < 0:
                return None, position
            end = position + length
            if end > reader.size or length > bytes_max:
                raise ProtocolError(f"{what} of {length} bytes where {reader.size - position} remain")
            view = reader.buffer[position:end]
            return view if take is None else take(view), end

        return read

    return make


def _sized_writer(
    fixed: struct.Struct, what: str, data_of: Callable[[Any], Any], bytes_max: int = INT32_MAX
) -> Callable[[bool, bool], Write]:
    def make(flexible: bool, nullable: bool) -> Write:
        write_length = length_writer(fixed, flexible, nullable, what)

        def write(writer: Writer, value: Any) -> None:
            if value is None:
                write_length(writer, -1)
                return
            data = data_of(value)
            assert len(data) <= bytes_max, f"{what} of {len(data)} bytes"
            write_length(writer, len(data))
            writer += data

        return write

    return make


def _records_writer(flexible: bool, nullable: bool) -> Write:
    write_length = length_writer(_INT32, flexible, nullable, "records")

    def write(writer: Writer, value: Any) -> None:
        if value is None:
            write_length(writer, -1)
            return
        size = value.size if hasattr(value, "file") else len(value)
        write_length(writer, size)
        if size:
            writer.insert(value, size)

    return write


@lru_cache(UUIDS_CACHED)
def _uuid(data: bytes) -> UUIDValue:
    return UUIDValue(bytes=data)


def _uuid_reader(flexible: bool, nullable: bool) -> Read:
    def read(reader: Reader, position: int) -> tuple[UUIDValue, int]:
        end = position + 16
        if end > reader.size:
            raise ProtocolError("uuid cut short")
        return _uuid(reader.buffer[position:end].tobytes()), end

    return read


def _uuid_writer(flexible: bool, nullable: bool) -> Write:
    def write(writer: Writer, value: UUIDValue) -> None:
        writer += value.bytes

    return write


BOOL = Type("bool", False, 1, "?")
INT8 = Type("int8", 0, 1, "b")
INT16 = Type("int16", 0, 2, "h")
UINT16 = Type("uint16", 0, 2, "H")
INT32 = Type("int32", 0, 4, "i")
UINT32 = Type("uint32", 0, 4, "I")
INT64 = Type("int64", 0, 8, "q")
FLOAT64 = Type("float64", 0.0, 8, "d")
UUID = Type("uuid", ZERO_UUID, 16, None, _uuid_reader, _uuid_writer)
STRING = Type("string", "", 1, None, _sized_reader(_INT16, "string", _text, STRING_BYTES_MAX),
              _sized_writer(_INT16, "string", str.encode, STRING_BYTES_MAX))  # fmt: skip
BYTES = Type("bytes", b"", 1, None, _sized_reader(_INT32, "bytes", bytes), _sized_writer(_INT32, "bytes", memoryview))  # copied
RECORDS = Type("records", None, 1, None, _sized_reader(_INT32, "bytes", None), _records_writer)
