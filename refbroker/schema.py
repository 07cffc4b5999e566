"""How does a declared schema become a reader and a writer of bytes?

A schema is a `Struct` of `Field`s, each with the versions that have it. For each version it is compiled, when first
used: the source of one function is written and executed, as `namedtuple` and `dataclass` do it. Its structs and arrays
are plain statements and loops, a run of fixed-size fields is one `struct` call, and every other field is a call of its
type's reader or writer in `primitives.py`; strings and counts whose length takes one byte are read in place, which spares a
small request a tenth of all that is done for it. Produce v9 is read by (`_function_source` gives it for any of them):

    def read(reader, position):
        buffer, size = reader.buffer, reader.size
        ...                                             # v1, the transactional id
        v2, v3, = fixed_3(buffer, position)
        position += 6
        v4 = buffer[position] - 1                       # the number of elements
        position += 1
        if not 0 <= v4 < 0x7F:
            v4, position = read_4(reader, position - 1)
        if v4 > 1: reader.take_elements(v4, 3, position)
        v5 = []
        for _ in range(v4):
            ...
        v13 = {'transactional_id': v1, 'acks': v2, 'timeout_ms': v3, 'topic_data': v5}
        ...

That is three fifths of the processor time of walking over the schema for each message (a Produce request 5.2 / 3.3 us, its response
3.5 / 2.3 us). Values are plain dicts both ways; what a reader gives and a writer takes is said in `protocol.py`.

A message is valid where all of `primitives.py` holds, and

1. it ends where its frame ends: trailing bytes are an error;
2. tagged fields that the schema does not know are skipped, whatever is in them; a known one fills its size exactly.

Apache Kafka differs: it generates Java classes from its definitions, and takes a tagged field of a wrong size.
"""

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

from refbroker.primitives import (
    STRING, ProtocolError, Read, Reader, Type, Write, Writer,
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

    def fallback(self) -> Any:
        """What decoding gives where the field is absent."""
        if self.default is not _REQUIRED:
            return self.default
        if isinstance(self.type, Array):
            return ()
        return self.type.zero


class Struct:
    """An ordered list of fields. `encode` and `decode` serve messages that stand alone, such as the records in
    __consumer_offsets and __cluster_metadata."""

    def __init__(self, *fields: Field):
        self.fields = fields
        self.names = frozenset(field.name for field in fields)
        assert len(self.names) == len(fields), [field.name for field in fields]
        self.zero: Mapping[str, Any] = MappingProxyType({field.name: field.fallback() for field in fields})

    def decode(self, version: int, data: Any, position: int = 0, *, flexible: bool = False) -> dict[str, Any]:
        """The message that fills `data` from `position` to its end. Raises ProtocolError."""
        return decode_message(self, version, flexible, memoryview(data), position)

    def encode(self, version: int, value: Mapping[str, Any], *, flexible: bool = False) -> bytes:
        writer = Writer()
        compiled("write", self, version, flexible)(writer, value)
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


# ---------------------------------------------------------------- the compiler


class _Source:
    """Lines of a function that is being written, and the objects that they name."""

    def __init__(self, version: int, flexible: bool):
        self.version = version
        self.flexible = flexible
        self.lines: list[str] = []
        self.names: dict[str, Any] = {"read_tagged": read_tagged, "write_tagged": _write_tagged}
        self._indent = 1
        self._variables = 0

    def line(self, text: str) -> None:
        self.lines.append("    " * self._indent + text)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """What is written meanwhile belongs to the statement that this line begins."""
        self.line(head)
        self._indent += 1
        yield
        self._indent -= 1

    def variable(self) -> str:
        self._variables += 1
        return f"v{self._variables}"

    def name(self, prefix: str, value: Any) -> str:
        name = f"{prefix}_{len(self.names)}"
        self.names[name] = value
        return name


@cache
def compiled(kind: str, type: "Type | Array | Struct", version: int, flexible: bool, nullable: bool = False) -> Any:
    """The reader ("read") or writer ("write") of one type in one version."""
    text, names = _function_source(kind, type, version, flexible, nullable)
    exec(compile(text, f"<{kind} version {version}>", "exec"), names)
    return names[kind]


def _function_source(
    kind: str, type: "Type | Array | Struct", version: int, flexible: bool, nullable: bool = False
) -> tuple[str, dict[str, Any]]:
    source = _Source(version, flexible)
    if kind == "read":
        source.line("buffer, size = reader.buffer, reader.size")
        source.line(f"return {_read(source, type, nullable)}, position")
        head = "def read(reader, position):"
    else:
        _write(source, type, nullable, "value")
        head = "def write(writer, value):"
    return "\n".join([head, *source.lines]), source.names


def _runs(schema: Struct, source: _Source) -> Iterator[tuple[list[Field], Field | None]]:
    """Fixed-size fields that follow each other (perhaps none), and the field of variable size behind them (perhaps
    none): as the version has them, without the tagged ones."""
    run: list[Field] = []
    for field in schema.fields:
        if not field.in_version(source.version) or field.is_tagged(source.version, source.flexible):
            continue
        if isinstance(field.type, Type) and field.type.code is not None:
            run.append(field)
        else:
            yield run, field
            run = []
    if run:
        yield run, None


def _tagged(schema: Struct, source: _Source) -> list[Field]:
    version, flexible = source.version, source.flexible
    fields = [field for field in schema.fields if field.in_version(version) and field.is_tagged(version, flexible)]
    return sorted(fields, key=lambda field: field.tag)


def _compile_tagged(kind: str, field: Field, source: _Source) -> Any:
    return compiled(kind, field.type, source.version, True, field.is_nullable(source.version))


def _fixed(run: list[Field]) -> struct.Struct:
    return struct.Struct(">" + "".join(field.type.code for field in run))


# reading: each gives the name of the variable that then has the value


def _read(source: _Source, type: "Type | Array | Struct", nullable: bool) -> str:
    if isinstance(type, Array):
        return _read_array(source, type.element, nullable)
    if isinstance(type, Struct):
        return _read_nullable_struct(source, type) if nullable else _read_struct(source, type)
    value = source.variable()
    if type.code is None:
        reader = source.name("read", type.reader(source.flexible, nullable))
        general = f"{value}, position = {reader}(reader, position)"
        if source.flexible and type is STRING:
            source.line(f"{value} = buffer[position]")
            with source.block(f"if 0 < {value} < 0x80 and position + {value} <= size:"):
                source.line(f"position += {value}")
                source.line(f"{value} = str(buffer[position - {value} + 1:position], 'utf-8')")
            if nullable:
                with source.block(f"elif {value} == 0:"):
                    source.line(f"{value} = None")
                    source.line("position += 1")
            with source.block("else:"):
                source.line(general)
        else:
            source.line(general)
    else:
        fixed = struct.Struct(">" + type.code)
        source.line(f"{value}, = {source.name('fixed', fixed.unpack_from)}(buffer, position)")
        source.line(f"position += {fixed.size}")
    return value


def _read_struct(source: _Source, schema: Struct) -> str:
    values: dict[str, str] = {}
    for run, field in _runs(schema, source):
        if run:
            fixed = _fixed(run)
            values |= {each.name: source.variable() for each in run}
            targets = ", ".join(values[each.name] for each in run)
            source.line(f"{targets}, = {source.name('fixed', fixed.unpack_from)}(buffer, position)")
            source.line(f"position += {fixed.size}")
        if field is not None:
            values[field.name] = _read(source, field.type, field.is_nullable(source.version))
    for field in schema.fields:
        if field.name not in values:
            values[field.name] = source.name("default", field.fallback())
    result = source.variable()
    source.line(f"{result} = {{" + ", ".join(f"{name!r}: {value}" for name, value in values.items()) + "}")
    if source.flexible:
        known = {field.tag: (field.name, _compile_tagged("read", field, source)) for field in _tagged(schema, source)}
        with source.block("if buffer[position]:"):
            source.line(f"position = read_tagged(reader, position, {source.name('tagged', known)}, {result})")
        with source.block("else:"):
            source.line("position += 1")
    return result


def _read_nullable_struct(source: _Source, schema: Struct) -> str:
    """An int8 goes before: negative for null (KIP-893)."""
    result = source.variable()
    source.line(f"{result} = None")
    source.line("position += 1")
    with source.block("if buffer[position - 1] < 0x80:"):
        source.line(f"{result} = {_read_struct(source, schema)}")
    return result


def _read_array(source: _Source, element: "Type | Struct", nullable: bool) -> str:
    size_min = element.size_min(source.version, source.flexible) if isinstance(element, Struct) else element.size_min
    count, elements = source.variable(), source.variable()
    read_count = source.name("read", array_length_reader(source.flexible, nullable))
    if source.flexible:
        source.line(f"{count} = buffer[position] - 1")
        source.line("position += 1")
        with source.block(f"if not 0 <= {count} < 0x7F:"):
            source.line(f"{count}, position = {read_count}(reader, position - 1)")
    else:
        source.line(f"{count}, position = {read_count}(reader, position)")
    if nullable:
        source.line(f"{elements} = None")
    with source.block(f"if {count} >= 0:") if nullable else nullcontext():
        source.line(f"if {count} > 1: reader.take_elements({count}, {size_min}, position)")  # most have one: met where it is read
        if isinstance(element, Type) and element.code is not None:
            unpack = source.name("fixed", struct.unpack_from)
            source.line(f"{elements} = list({unpack}(f'>{{{count}}}{element.code}', buffer, position))")
            source.line(f"position += {count} * {size_min}")
        else:
            source.line(f"{elements} = []")
            with source.block(f"for _ in range({count}):"):
                source.line(f"{elements}.append({_read(source, element, False)})")
    return elements


# writing: `value` is an expression


def _write(source: _Source, type: "Type | Array | Struct", nullable: bool, value: str) -> None:
    if isinstance(type, Array):
        _write_array(source, type.element, nullable, value)
    elif isinstance(type, Struct):
        if nullable:
            with source.block(f"if {value} is None:"):
                source.line("writer.append(0xFF)")
            with source.block("else:"):
                source.line("writer.append(1)")
                _write_struct(source, type, value)
        else:
            _write_struct(source, type, value)
    elif type.code is None:
        write = source.name("write", type.writer(source.flexible, nullable))
        if source.flexible and nullable:
            source.line(f"writer.append(0) if {value} is None else {write}(writer, {value})")
        elif source.flexible and type is STRING:
            data = source.variable()
            source.line(f"{data} = {value}.encode()")
            with source.block(f"if len({data}) < 0x7F:"):
                source.line(f"writer.append(len({data}) + 1)")
                source.line(f"writer += {data}")
            with source.block("else:"):
                source.line(f"{write}(writer, {value})")
        else:
            source.line(f"{write}(writer, {value})")
    else:
        source.line(f"writer += {source.name('fixed', struct.Struct('>' + type.code).pack)}({value})")


def _write_struct(source: _Source, schema: Struct, value: str) -> None:
    names = source.name("names", schema.names)
    source.line(f"assert {names}.issuperset({value}), {value}.keys() - {names}")
    for run, field in _runs(schema, source):
        if run:
            values = ", ".join(_field_of(source, each, value) for each in run)
            source.line(f"writer += {source.name('fixed', _fixed(run).pack)}({values})")
        if field is not None:
            inner = source.variable()
            source.line(f"{inner} = {_field_of(source, field, value)}")
            _write(source, field.type, field.is_nullable(source.version), inner)
    if not source.flexible:
        return
    tagged = _tagged(schema, source)
    if tagged:
        known = [(f.tag, f.name, f.fallback(), _compile_tagged("write", f, source)) for f in tagged]
        tags = source.name("tags", frozenset(field.name for field in tagged))
        with source.block(f"if not {tags}.isdisjoint({value}):"):
            source.line(f"write_tagged(writer, {source.name('tagged', known)}, {value})")
        with source.block("else:"):
            source.line("writer.append(0)")
    else:
        source.line("writer.append(0)")


def _field_of(source: _Source, field: Field, value: str) -> str:
    if field.default is _REQUIRED:
        return f"{value}[{field.name!r}]"
    return f"{value}.get({field.name!r}, {source.name('default', field.default)})"


def _write_array(source: _Source, element: "Type | Struct", nullable: bool, value: str) -> None:
    write_count = source.name("write", array_length_writer(source.flexible, nullable))
    if nullable:
        with source.block(f"if {value} is None:"):
            source.line(f"{write_count}(writer, -1)")
    with source.block("else:") if nullable else nullcontext():
        if source.flexible:
            source.line(f"writer.append(len({value}) + 1) if len({value}) < 0x7F else {write_count}(writer, len({value}))")
        else:
            source.line(f"{write_count}(writer, len({value}))")
        each = source.variable()
        with source.block(f"for {each} in {value}:"):
            _write(source, element, False, each)


# tagged fields: rare, so that a function for all of them is good enough


def read_tagged(reader: Reader, position: int, known: Mapping[int, tuple[str, Read]], value: dict[str, Any]) -> int:
    """All tagged fields of a struct, into its `value`; `known` by tag. Gives the position behind them."""
    count, position = read_uvarint(reader, position)
    reader.take_elements(count, 2, position)
    for _ in range(count):
        tag, position = read_uvarint(reader, position)
        size, position = read_uvarint(reader, position)
        end = position + size
        if end > reader.size:
            raise ProtocolError(f"tagged field {tag} of {size} bytes where {reader.size - position} remain")
        if tag in known:
            name, read = known[tag]
            value[name], read_to = read(reader, position)
            if read_to != end:
                raise ProtocolError(f"tagged field {tag} of {size} bytes has {read_to - position}")
        position = end
    return position


def _write_tagged(writer: Writer, tagged: list[tuple[int, str, Any, Write]], value: Mapping[str, Any]) -> None:
    """Tagged fields that are not at their default, in the order of their tags."""
    present = [field for field in tagged if not _is_default(value.get(field[1], field[2]), field[2])]
    writer.append(len(present))
    for tag, name, _, write in present:
        body = Writer()
        write(body, value[name])
        write_uvarint(writer, tag)
        write_uvarint(writer, len(body))
        writer += body


def _is_default(value: Any, fallback: Any) -> bool:
    return value == fallback or (not value and value is not None and fallback == ())


def decode_message(schema: Struct, version: int, flexible: bool, view: memoryview, position: int) -> dict[str, Any]:
    reader = Reader(view)
    try:
        value, position = compiled("read", schema, version, flexible)(reader, position)
    except MALFORMED as error:
        raise ProtocolError(f"truncated or malformed: {error}") from error
    if position != reader.size:
        raise ProtocolError(f"{reader.size - position} bytes after the end")
    return value
