"""How does a declared schema become a reader and a writer of bytes?

A schema is a `Struct` of `Field`s, each with the versions that have it. For each version it is compiled, when first
used, into two functions over a list of *stanzas*, each a run of fixed-size fields (one `struct` call) and then one
field of variable size. Values are plain dicts both ways; what a reader gives and a writer takes is said in `protocol.py`.

A message is valid where all of `primitives.py` holds, and

1. it ends where its frame ends: trailing bytes are an error;
2. tagged fields that the schema does not know are skipped, whatever is in them; a known one fills its size exactly.

Apache Kafka differs: it generates Java classes from its definitions, and takes a tagged field of a wrong size.
"""

import struct
from collections.abc import Callable, Mapping
from operator import itemgetter
from types import MappingProxyType
from typing import Any, NamedTuple

from refbroker.primitives import (
    ProtocolError, Read, Reader, Type, Write, Writer,
    array_length_reader, array_length_writer, read_uvarint, write_uvarint,
)  # fmt: skip

VERSION_MAX = 0x7FFF

_REQUIRED = object()
MALFORMED = (struct.error, IndexError, UnicodeDecodeError)  # what running off the end of a buffer raises


def _range(versions: str | None) -> tuple[int, int]:
    """"3+", "0-12" or "5" as first and last version; None is no version."""
    if versions is None:
        return 1, 0
    if versions.endswith("+"):
        return int(versions[:-1]), VERSION_MAX
    first, _, last = versions.partition("-")
    return int(first), int(last or first)


class Array(NamedTuple):
    """An array of a primitive type or of a Struct."""

    element: "Type | Struct"


class Field:
    """One field: its Kafka name, its type, the versions that have it, those in which it may be null, its default, and
    where it is a tagged field its tag and the versions in which it is tagged (all of its versions unless said)."""

    __slots__ = ("name", "type", "versions", "nullable", "default", "tag", "tagged")

    def __init__(
        self,
        name: str,
        type: "Type | Array | Struct",
        versions: str = "0+",
        *,
        nullable: str | None = None,
        default: Any = _REQUIRED,
        tag: int | None = None,
        tagged: str | None = None,
    ):
        self.name = name
        self.type = type
        self.versions = _range(versions)
        self.nullable = _range(nullable)
        self.default = default
        self.tag = tag
        self.tagged = _range((tagged or versions) if tag is not None else None)

    def in_version(self, version: int) -> bool:
        return self.versions[0] <= version <= self.versions[1]

    def is_nullable(self, version: int) -> bool:
        return self.nullable[0] <= version <= self.nullable[1]

    def is_tagged(self, version: int, flexible: bool) -> bool:
        return flexible and self.tagged[0] <= version <= self.tagged[1]

    def codec(self, version: int, flexible: bool) -> "Codec":
        return _type_codec(self.type, version, flexible, self.is_nullable(version))

    def fallback(self) -> Any:
        """What decoding gives where the field is absent."""
        if self.default is not _REQUIRED:
            return self.default
        if isinstance(self.type, Array):
            return ()
        return self.type.zero


class Stanza(NamedTuple):
    """A run of fixed-size fields (perhaps empty), then one of variable size (perhaps none)."""

    names: tuple[str, ...]
    fixed: struct.Struct
    values: Callable[[Mapping[str, Any]], tuple[Any, ...]]  # of the run, out of a dict
    name: str
    read: Read | None
    write: Write | None


class Tagged(NamedTuple):
    tag: int
    name: str
    fallback: Any
    read: Read
    write: Write


class Struct:
    """An ordered list of fields. `encode` and `decode` serve messages that stand alone, such as the records in
    __consumer_offsets and __cluster_metadata."""

    def __init__(self, *fields: Field):
        self.fields = fields
        self.names = frozenset(field.name for field in fields)
        assert len(self.names) == len(fields), [field.name for field in fields]
        self.zero: Mapping[str, Any] = MappingProxyType({field.name: field.fallback() for field in fields})
        self._codecs: dict[tuple[int, bool], tuple[Read, Write]] = {}

    def codec(self, version: int, flexible: bool) -> tuple[Read, Write]:
        """The compiled reader and writer of this version."""
        codec = self._codecs.get((version, flexible))
        if codec is None:
            codec = _struct_reader(self, version, flexible), _struct_writer(self, version, flexible)
            self._codecs[version, flexible] = codec
        return codec

    def decode(self, version: int, data: Any, position: int = 0, *, flexible: bool = False) -> dict[str, Any]:
        """The message that fills `data` from `position` to its end. Raises ProtocolError."""
        return decode_message(self, version, flexible, memoryview(data), position)

    def encode(self, version: int, value: Mapping[str, Any], *, flexible: bool = False) -> bytes:
        writer = Writer()
        self.codec(version, flexible)[1](writer, value)
        return b"".join(writer.parts())

    def size_min(self, version: int, flexible: bool) -> int:
        """No struct of this version takes fewer bytes."""
        size = 1 if flexible else 0
        for field in self.fields:
            if field.in_version(version) and not field.is_tagged(version, flexible):
                if isinstance(field.type, Struct) and not field.is_nullable(version):
                    size += field.type.size_min(version, flexible)
                else:
                    size += field.type.size_min if isinstance(field.type, Type) else 1
        return max(size, 1)


Codec = tuple[Read, Write]


def _type_codec(field_type: "Type | Array | Struct", version: int, flexible: bool, nullable: bool) -> Codec:
    if isinstance(field_type, Array):
        return _array_codec(field_type.element, version, flexible, nullable)
    if isinstance(field_type, Struct):
        codec = field_type.codec(version, flexible)
        return _nullable_struct_codec(*codec) if nullable else codec
    if field_type.code is None:
        return field_type.reader(flexible, nullable), field_type.writer(flexible, nullable)
    fixed = struct.Struct(">" + field_type.code)
    unpack, size, pack = fixed.unpack_from, fixed.size, fixed.pack

    def read(reader: Reader, position: int) -> tuple[Any, int]:
        return unpack(reader.buffer, position)[0], position + size

    def write(writer: Writer, value: Any) -> None:
        writer += pack(value)

    return read, write


def _array_codec(element: "Type | Struct", version: int, flexible: bool, nullable: bool) -> Codec:
    read_count, write_count = array_length_reader(flexible, nullable), array_length_writer(flexible, nullable)
    read_element, write_element = _type_codec(element, version, flexible, False)
    size_min = element.size_min(version, flexible) if isinstance(element, Struct) else element.size_min
    code = None if isinstance(element, Struct) else element.code

    def read(reader: Reader, position: int) -> tuple[Any, int]:
        count, position = read_count(reader, position)
        if count < 0:
            return None, position
        reader.take_elements(count, size_min, position)
        if code is not None:
            return list(struct.unpack_from(f">{count}{code}", reader.buffer, position)), position + count * size_min
        elements = []
        for _ in range(count):
            value, position = read_element(reader, position)
            elements.append(value)
        return elements, position

    def write(writer: Writer, values: Any) -> None:
        if values is None:
            write_count(writer, -1)
            return
        write_count(writer, len(values))
        for value in values:
            write_element(writer, value)

    return read, write


def _nullable_struct_codec(read_struct: Read, write_struct: Write) -> Codec:
    """An int8 goes before: negative for null (KIP-893)."""

    def read(reader: Reader, position: int) -> tuple[Any, int]:
        if reader.buffer[position] >= 0x80:
            return None, position + 1
        return read_struct(reader, position + 1)

    def write(writer: Writer, value: Any) -> None:
        writer.append(0xFF if value is None else 1)
        if value is not None:
            write_struct(writer, value)

    return read, write


def _tuple_getter(names: tuple[str, ...]) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
    if len(names) == 1:
        name = names[0]
        return lambda value: (value[name],)
    return itemgetter(*names) if names else lambda value: ()


def _stanzas(schema: Struct, version: int, flexible: bool) -> list[Stanza]:
    stanzas: list[Stanza] = []
    names: list[str] = []
    codes = ">"

    def close(name: str, read: Read | None, write: Write | None) -> None:
        nonlocal names, codes
        stanzas.append(Stanza(tuple(names), struct.Struct(codes), _tuple_getter(tuple(names)), name, read, write))
        names, codes = [], ">"

    for field in schema.fields:
        if not field.in_version(version) or field.is_tagged(version, flexible):
            continue
        code = field.type.code if isinstance(field.type, Type) else None
        if code is not None:
            names.append(field.name)
            codes += code
        else:
            close(field.name, *field.codec(version, flexible))
    if names:
        close("", None, None)
    return stanzas


def _tagged(schema: Struct, version: int, flexible: bool) -> list[Tagged]:
    fields = [field for field in schema.fields if field.in_version(version) and field.is_tagged(version, flexible)]
    return [
        Tagged(field.tag, field.name, field.fallback(), *field.codec(version, flexible))
        for field in sorted(fields, key=lambda field: field.tag)
    ]


def _struct_reader(schema: Struct, version: int, flexible: bool) -> Read:
    runs = _stanzas(schema, version, flexible)
    stanzas = [(run.names, run.fixed.unpack_from, run.fixed.size, run.name, run.read) for run in runs]
    tagged = {field.tag: field for field in _tagged(schema, version, flexible)}
    read_always = {name for names, _, _, variable, _ in stanzas for name in (*names, variable)}
    absent = {field.name: field.fallback() for field in schema.fields if field.name not in read_always}

    def read(reader: Reader, position: int) -> tuple[dict[str, Any], int]:
        value = absent.copy()
        buffer = reader.buffer
        for names, unpack, size, name, read_variable in stanzas:
            if size:
                value.update(zip(names, unpack(buffer, position)))
                position += size
            if read_variable is not None:
                value[name], position = read_variable(reader, position)
        if flexible:
            if buffer[position]:
                position = read_tagged(reader, position, tagged, value)
            else:
                position += 1
        return value, position

    return read


def read_tagged(reader: Reader, position: int, known: Mapping[int, Tagged], value: dict[str, Any]) -> int:
    count, position = read_uvarint(reader, position)
    reader.take_elements(count, 2, position)
    for _ in range(count):
        tag, position = read_uvarint(reader, position)
        size, position = read_uvarint(reader, position)
        end = position + size
        if end > reader.size:
            raise ProtocolError(f"tagged field {tag} of {size} bytes where {reader.size - position} remain")
        field = known.get(tag)
        if field is not None:
            value[field.name], read_to = field.read(reader, position)
            if read_to != end:
                raise ProtocolError(f"tagged field {tag} of {size} bytes has {read_to - position}")
        position = end
    return position


def _struct_writer(schema: Struct, version: int, flexible: bool) -> Write:
    runs = _stanzas(schema, version, flexible)
    stanzas = [(run.values, run.fixed.pack, run.fixed.size, run.name, run.write) for run in runs]
    tagged = _tagged(schema, version, flexible)
    names = schema.names
    defaults = {field.name: field.default for field in schema.fields if field.default is not _REQUIRED}
    defaults |= {field.name: field.fallback for field in tagged}

    def write(writer: Writer, value: Mapping[str, Any]) -> None:
        assert names.issuperset(value), value.keys() - names
        if len(value) != len(names):
            value = {**defaults, **value}
        for values, pack, size, name, write_variable in stanzas:
            if size:
                writer += pack(*values(value))
            if write_variable is not None:
                write_variable(writer, value[name])
        if flexible:
            if tagged:
                _write_tagged(writer, tagged, value)
            else:
                writer.append(0)

    return write


def _write_tagged(writer: Writer, tagged: list[Tagged], value: Mapping[str, Any]) -> None:
    """Tagged fields that are not at their default, in the order of their tags."""
    present = [field for field in tagged if not _is_default(value[field.name], field.fallback)]
    writer.append(len(present))
    for field in present:
        body = Writer()
        field.write(body, value[field.name])
        write_uvarint(writer, field.tag)
        write_uvarint(writer, len(body))
        writer += body


def _is_default(value: Any, fallback: Any) -> bool:
    return value == fallback or (not value and value is not None and fallback == ())


def decode_message(schema: Struct, version: int, flexible: bool, view: memoryview, position: int) -> dict[str, Any]:
    reader = Reader(view)
    try:
        value, position = schema.codec(version, flexible)[0](reader, position)
    except MALFORMED as error:
        raise ProtocolError(f"truncated or malformed: {error}") from error
    if position != reader.size:
        raise ProtocolError(f"{reader.size - position} bytes after the end")
    return value
