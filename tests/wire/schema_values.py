"""Values for messages, made from the schemas; and the two codecs that ours is held against.

An oracle turns one of our dicts into bytes and bytes into one of our dicts, through its own classes and its own schemas.
Fields are matched by their order and their name: a schema of ours that names, orders or types a field differently from
Kafka's fails here.
"""

import datetime
import pkgutil
import random
import re
import struct
import uuid
from dataclasses import fields as dataclass_fields
from functools import cache
from importlib import import_module

import kafka.protocol
from kafka.protocol.api_message import ApiMessage
from kio.index import load_request_schema, load_response_schema
from kio.schema.errors import ErrorCode as KioErrorCode
from kio.serial import entity_reader, entity_writer
from kio.serial._introspect import EntityField, EntityTupleField, classify_field, get_schema_field_type

from refbroker.protocol import ZERO_UUID, Array, Struct

INTEGER_BITS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64}
ELEMENTS_MAX = 3
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
MILLISECOND = datetime.timedelta(milliseconds=1)
DATETIME_S_MAX = 253_402_300_799  # the end of the year 9999, where Python's calendar ends
TIMEDELTA_S_MAX = 2**40
NO_OPERATIONS = -(2**31)  # of "authorized operations", what kafka-python has a None for
LETTERS = "aZ09-._ \x00\u00e9\u20ac\U0001f600"  # one to four bytes in UTF-8
KIO_ERROR_CODES = [int(code) for code in KioErrorCode]


class Values:
    """Random values for the fields of a schema, with a taste for the edges. `seed` is all that Hypothesis draws: to let it
    draw each field of nested messages takes a hundred times as long."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def message(self, schema, version, kio_class=None):
        """A dict of all fields of this version. `kio_class`: of values that kio's types can express."""
        ours = in_version(schema, version)
        theirs = dataclass_fields(kio_class) if kio_class else [None] * len(ours)
        assert len(ours) == len(theirs), ([field.name for field in ours], [field.name for field in theirs])
        return {field.name: self._field(field, version, their) for field, their in zip(ours, theirs)}

    def _field(self, field, version, kio_field):
        if field.is_nullable(version) and self.random.random() < 0.25:
            return None
        inner = classify_field(kio_field) if kio_field is not None else None
        if isinstance(field.type, Array):
            count = self.random.randrange(ELEMENTS_MAX + 1)
            return [self._value(field.type.element, version, inner, kio_field) for _ in range(count)]
        return self._value(field.type, version, inner, kio_field)

    def _value(self, our_type, version, inner, kio_field):
        if isinstance(our_type, Struct):
            return self.message(our_type, version, inner and inner.type_)
        return self._primitive(our_type.name, kio_field and get_schema_field_type(kio_field))

    def _primitive(self, name, kio_type):
        chance = self.random
        if kio_type == "error_code":
            return chance.choice(KIO_ERROR_CODES)
        if kio_type == "datetime_i64":
            return 1000 * chance.choice((0, DATETIME_S_MAX, chance.randint(0, DATETIME_S_MAX)))  # kio rounds through float
        if kio_type == "timedelta_i64":
            return 1000 * chance.randint(-TIMEDELTA_S_MAX, TIMEDELTA_S_MAX)
        if name in INTEGER_BITS:
            last = 2 ** (INTEGER_BITS[name] - 1) - 1
            return chance.choice((0, -1, 1, last, -last - 1, chance.randint(-last - 1, last)))
        if name in ("bytes", "records"):
            return chance.randbytes(self._length())
        if name == "string":
            return "".join(chance.choices(LETTERS, k=self._length()))
        if name == "uuid":
            return chance.choice((ZERO_UUID, uuid.UUID(int=chance.getrandbits(128))))
        return {
            "bool": lambda: chance.random() < 0.5,
            "uint16": lambda: chance.choice((0, 2**16 - 1, chance.getrandbits(16))),
            "uint32": lambda: chance.choice((0, 2**32 - 1, chance.getrandbits(32))),
            "float64": lambda: chance.choice((0.0, -0.0, float("inf"), chance.uniform(-1e300, 1e300))),
        }[name]()

    def _length(self):
        """Around the borders of the length's encoding: one varint byte ends at 126, two at 16382."""
        return self.random.choice((0, 1, 5, 126, 127, 128, 300))


def in_version(schema, version):
    return [field for field in schema.fields if field.in_version(version)]


def plain(schema, version, value):
    """What was decoded, with only the fields of this version and only plain types."""
    if value is None:
        return None
    return {field.name: _plain(field.type, version, value[field.name]) for field in in_version(schema, version)}


def _plain(field_type, version, value):
    if value is None:
        return None
    if isinstance(field_type, Array):
        return [_plain(field_type.element, version, item) for item in value]
    if isinstance(field_type, Struct):
        return plain(field_type, version, value)
    return bytes(value) if field_type.name in ("bytes", "records") else value


class Kio:
    """kio: dataclasses generated from Kafka's schemas, one for each version."""

    name = "kio"

    @staticmethod
    def find(api, version, side):
        try:
            return (load_request_schema if side == "request" else load_response_schema)(api.key, version)
        except RuntimeError:
            return None

    def values(self, seed, schema, version, theirs):
        return Values(seed).message(schema, version, theirs)

    def encode(self, schema, version, value, theirs):
        out = bytearray()
        writable = type("Writable", (), {"write": lambda _, data: out.extend(data)})()
        entity_writer(theirs)(writable, self._to(schema, version, value, theirs))
        return bytes(out)

    def decode(self, schema, version, data, theirs):
        entity, size = entity_reader(theirs)(data, 0)
        assert size == len(data)
        return self._from(schema, version, entity)

    def _to(self, schema, version, value, kio_class):
        entity = {}
        for field, their in zip(in_version(schema, version), dataclass_fields(kio_class), strict=True):
            assert their.name in (field.name, field.name.removesuffix("_ms")), (field.name, their.name)
            inner = classify_field(their)
            item = value[field.name]
            if isinstance(inner, EntityTupleField):
                element = field.type.element
                item = None if item is None else tuple(self._to(element, version, one, inner.type_) for one in item)
            elif isinstance(inner, EntityField):
                item = None if item is None else self._to(field.type, version, item, inner.type_)
            elif isinstance(field.type, Array):
                kio_type = get_schema_field_type(their)
                item = None if item is None else tuple(self._to_primitive(kio_type, one) for one in item)
            else:
                item = self._to_primitive(get_schema_field_type(their), item)
            entity[their.name] = item
        return kio_class(**entity)

    @staticmethod
    def _to_primitive(kio_type, value):
        if value is None:
            return None
        if kio_type == "error_code":
            return KioErrorCode(value)
        if kio_type.startswith("timedelta"):
            return value * MILLISECOND
        if kio_type == "datetime_i64":
            return EPOCH + value * MILLISECOND
        if kio_type == "uuid":
            return None if value == ZERO_UUID else value
        return value

    def _from(self, schema, version, entity):
        if entity is None:
            return None
        value = {}
        for field, their in zip(in_version(schema, version), dataclass_fields(entity), strict=True):
            item = getattr(entity, their.name)
            if isinstance(field.type, Array):
                item = None if item is None else [self._from_any(field.type.element, version, one) for one in item]
            else:
                item = self._from_any(field.type, version, item)
            value[field.name] = item
        return value

    def _from_any(self, our_type, version, value):
        if isinstance(our_type, Struct):
            return self._from(our_type, version, value)
        if our_type.name == "uuid" and value is None:
            return ZERO_UUID
        if isinstance(value, KioErrorCode):
            return int(value)
        if isinstance(value, datetime.timedelta):
            return value // MILLISECOND
        if isinstance(value, datetime.datetime):
            return (value - EPOCH) // MILLISECOND
        return value


@cache
def _kafka_python_classes():
    for module in pkgutil.walk_packages(kafka.protocol.__path__, "kafka.protocol."):
        if not any(part in module.name for part in (".old", ".schemas", "generate_stubs")):
            import_module(module.name)
    return {(cls.API_KEY, cls.type): cls for cls in type.__subclasses__(ApiMessage)}


class KafkaPython:
    """kafka-python: classes made from Kafka's schemas at run time."""

    name = "kafka-python"

    @staticmethod
    def find(api, version, side):
        cls = _kafka_python_classes().get((api.key, side))
        if cls is None or not cls._valid_versions[0] <= version <= cls._valid_versions[1]:
            return None
        return cls[None]

    def values(self, seed, schema, version, theirs):
        return Values(seed).message(schema, version)

    def encode(self, schema, version, value, theirs):
        message = theirs(version=version, **self._to(schema, version, value, theirs._struct))
        return bytes(message.encode(version=version))

    def decode(self, schema, version, data, theirs):
        # the base class's: ApiVersionsResponse's own takes any response with an error for one of v0, which Kafka sends
        # only for a version that it does not know
        decode = ApiMessage.__dict__["decode"].__func__
        return self._from(schema, version, decode(theirs, data, version=version), theirs._struct)

    @staticmethod
    def _fields(schema, version, their_struct):
        ours = in_version(schema, version)
        theirs = [field for field in their_struct._fields if field.for_version_q(version)]
        renamed = re.compile("(cluster|topic)_(?=authorized_operations)")  # by kafka-python, in responses
        assert [renamed.sub("", field.name) for field in ours] == [renamed.sub("", field.name) for field in theirs]
        return zip(ours, theirs)

    def _to(self, schema, version, value, their_struct):
        converted = {}
        for field, their in self._fields(schema, version, their_struct):
            item = value[field.name]
            if item is None:
                pass
            elif isinstance(field.type, Array) and isinstance(field.type.element, Struct):
                make, element = their.array_of.data_class, field.type.element
                item = [make(version=version, **self._to(element, version, one, their.array_of)) for one in item]
            elif isinstance(field.type, Struct):
                item = their.data_class(version=version, **self._to(field.type, version, item, their))
            elif their._type_str == "bitfield":
                item = their._type.from_32_bit_field(item)
            converted[their.name] = item
        return converted

    def _from(self, schema, version, message, their_struct):
        if message is None:
            return None
        value = {}
        for field, their in self._fields(schema, version, their_struct):
            item = getattr(message, their.name)
            if item is None and their._type_str == "bitfield":
                item = NO_OPERATIONS
            elif item is None:
                if not field.is_nullable(version):  # it was absent: at its default, or for an id zero
                    item = _plain(field.type, version, field.fallback())
            elif isinstance(field.type, Array):
                element = field.type.element
                if isinstance(element, Struct):
                    item = [self._from(element, version, one, their.array_of) for one in item]
                else:
                    item = [ZERO_UUID if one is None else one for one in item]
            elif isinstance(field.type, Struct):
                item = self._from(field.type, version, item, their)
            elif their._type_str == "bitfield":
                item = struct.unpack(">i", struct.pack(">I", their._type.to_32_bit_field(item)))[0]
            elif field.type.name in ("bytes", "records"):
                item = bytes(item)
            value[field.name] = item
        return value


ORACLES = (Kio(), KafkaPython())
