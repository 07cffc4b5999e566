"""The codec's own rules: what is valid, what is refused, and what a schema may rely on."""

import math
import struct
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refbroker.primitives import ELEMENTS_MAX, STRING_BYTES_MAX, Reader, Writer, read_uvarint, write_uvarint
from refbroker.protocol import (
    BOOL, BYTES, FLOAT64, INT8, INT16, INT32, INT64, RECORDS, STRING, UINT16, UINT32, UUID,
    Api, Array, Field, ProtocolError, Struct, read_request_header,
)  # fmt: skip

POINT = Struct(Field("x", INT32), Field("y", INT32, "1+", default=7))
MESSAGE = Struct(
    Field("name", STRING, nullable="1+"),
    Field("points", Array(POINT), default=()),
    Field("note", STRING, "2+", default="none", tag=0),
    Field("centre", POINT, "2+", tag=3),
)


def test_versions_choose_fields_and_defaults_fill_the_rest():
    value = {"name": "n", "points": [{"x": 1, "y": 2}]}
    assert MESSAGE.encode(0, value) == b"\x00\x01n" b"\x00\x00\x00\x01" b"\x00\x00\x00\x01"
    assert MESSAGE.decode(0, MESSAGE.encode(0, value)) == {
        "name": "n", "points": [{"x": 1, "y": 7}], "note": "none", "centre": {"x": 0, "y": 7},
    }  # fmt: skip
    assert MESSAGE.decode(1, MESSAGE.encode(1, value))["points"] == [{"x": 1, "y": 2}]
    assert MESSAGE.encode(1, {"name": None}) == b"\xff\xff" b"\x00\x00\x00\x00"


def test_what_is_missing_or_unknown_is_our_bug():
    with pytest.raises(KeyError):
        MESSAGE.encode(0, {"points": [{"y": 2}], "name": "n"})
    with pytest.raises(AssertionError):
        MESSAGE.encode(0, {"name": "n", "nmae": "n"})
    with pytest.raises(AssertionError):
        MESSAGE.encode(0, {"name": None})


def test_tagged_fields():
    plain = MESSAGE.encode(2, {"name": "", "points": []}, flexible=True)
    assert plain == b"\x01\x01\x00"
    set_ = {"name": "", "points": [], "note": "hi", "centre": {"x": 1, "y": 2}}
    data = MESSAGE.encode(2, set_, flexible=True)
    assert data == b"\x01\x01" b"\x02" b"\x00\x03\x03hi" b"\x03\x09\x00\x00\x00\x01\x00\x00\x00\x02\x00"
    assert MESSAGE.decode(2, data, flexible=True) == set_
    unknown = b"\x01\x01" b"\x03" b"\x00\x03\x03hi" b"\x07\x02\xff\xff" b"\xff\x7f\x00"
    assert MESSAGE.decode(2, unknown, flexible=True)["note"] == "hi"
    assert MESSAGE.decode(2, b"\x01\x01\x00", flexible=True) == {
        "name": "", "points": [], "note": "none", "centre": {"x": 0, "y": 7},
    }  # fmt: skip


@pytest.mark.parametrize(
    "data",
    [
        b"\x01\x01\x01\x00\x09\x03hi",  # a known field announced longer than the message
        b"\x01\x01\x01\x00\x04\x03hi\x00",  # and longer than it is
        b"\x01\x01\x01\x07\x7f\x00",  # an unknown one longer than the message
        b"\x01\x01\xff\xff\xff\xff\x0f",  # four billion of them
        b"\x01\x01\x80\x80\x80\x80\x80\x01",  # a varint of six bytes
        b"\x01\x00\x00",  # a null array that may not be null
        b"\x01\x01",  # no tagged fields at all
        b"\x02\xff\x01\x00",  # no UTF-8
    ],
)
def test_hostile_flexible_messages_are_refused(data):
    with pytest.raises(ProtocolError):
        MESSAGE.decode(2, data, flexible=True)


@pytest.mark.parametrize("count", [-2, -1, 2, 2**31 - 1])
def test_counts_are_held_against_the_bytes_that_remain(count):
    """Before anything is allocated: 2^31-1 elements would be gigabytes."""
    with pytest.raises(ProtocolError):
        MESSAGE.decode(0, struct.pack(">h", 0) + struct.pack(">ii", count, 5))
    numbers = Struct(Field("numbers", Array(INT32)))
    with pytest.raises(ProtocolError):
        numbers.decode(0, struct.pack(">ii", count, 5))


def test_elements_are_bounded_for_the_whole_message():
    nested = Struct(Field("outer", Array(Struct(Field("inner", Array(INT8))))))
    half = {"inner": [0] * (ELEMENTS_MAX // 2)}
    assert nested.decode(0, nested.encode(0, {"outer": [half]}))["outer"][0] == half
    with pytest.raises(ProtocolError, match="elements"):
        nested.decode(0, nested.encode(0, {"outer": [half, half]}))


def test_strings_are_bounded_in_both_encodings():
    text = Struct(Field("text", STRING))
    longest = "x" * STRING_BYTES_MAX
    for flexible in (False, True):
        assert text.decode(0, text.encode(0, {"text": longest}, flexible=flexible), flexible=flexible)["text"] == longest
    with pytest.raises(AssertionError):
        text.encode(0, {"text": longest + "x"})
    too_long = bytearray()
    write_uvarint(too_long, STRING_BYTES_MAX + 2)
    with pytest.raises(ProtocolError):
        text.decode(0, too_long + b"x" * (STRING_BYTES_MAX + 1) + b"\x00", flexible=True)


@given(st.integers(0, 2**32 - 1))
def test_uvarint_round_trip(value):
    out = Writer()
    write_uvarint(out, value)
    assert read_uvarint(Reader(memoryview(out)), 0) == (value, len(out))
    assert len(out) == max(1, math.ceil(value.bit_length() / 7))


@pytest.mark.parametrize("flexible", [False, True])
def test_every_type_round_trips(flexible):
    schema = Struct(
        Field("a", BOOL), Field("b", INT8), Field("c", UINT16), Field("d", UINT32), Field("e", INT64), Field("f", FLOAT64),
        Field("g", UUID), Field("h", STRING, nullable="0+"), Field("i", BYTES, nullable="0+"), Field("j", RECORDS, nullable="0+"),
        Field("k", Array(STRING), nullable="0+"), Field("l", POINT, nullable="0+"), Field("m", Array(UUID)),
    )  # fmt: skip
    some = uuid.uuid4()
    value = {
        "a": True, "b": -128, "c": 65535, "d": 2**32 - 1, "e": -(2**63), "f": -0.5, "g": some, "h": "ü", "i": b"\x00\x01",
        "j": b"rec", "k": ["a", ""], "l": {"x": 1, "y": 7}, "m": [some, uuid.UUID(int=0)],
    }  # fmt: skip
    for nulls in ({}, {"h": None, "i": None, "j": None, "k": None, "l": None}):
        assert schema.decode(0, schema.encode(0, value | nulls, flexible=flexible), flexible=flexible) == value | nulls
    nan = schema.decode(0, schema.encode(0, value | {"f": math.nan}, flexible=flexible), flexible=flexible)["f"]
    assert math.isnan(nan)


class Region:
    def __init__(self, size):
        self.file, self.position, self.size = object(), 0, size


API = Api(
    key=3, name="Try", versions=(0, 3), flexible=2,
    request=Struct(Field("records", RECORDS, nullable="0+"), Field("after", INT16)),
    response=Struct(Field("records", RECORDS, nullable="0+"), Field("after", INT16)),
)  # fmt: skip


@pytest.mark.parametrize("version", [1, 2])
def test_records_are_not_copied(version):
    frame = API.request_frame(version, 9, "me", {"records": b"0123456789", "after": 1})
    view = memoryview(frame)[4:]
    header = read_request_header(view)
    assert header[:4] == (3, version, 9, "me")
    records = API.read_request(header, view)["records"]
    assert records.obj is frame and bytes(records) == b"0123456789"
    region = Region(1000)
    parts = API.response_frame(version, 5, {"records": region, "after": 2})
    assert parts[1] is region
    sizes = [part.size if part is region else len(part) for part in parts]
    assert struct.unpack_from(">ii", parts[0]) == (sum(sizes) - 4, 5)
    assert API.response_frame(version, 5, {"records": Region(0), "after": 2})[1:] == []


def test_headers():
    frame = API.request_frame(2, 1, None, {"records": None, "after": 1})
    view = memoryview(frame)[4:]
    assert read_request_header(view).client_id is None
    tagged = bytes(view[:10]) + b"\x01\x05\x02zz" + bytes(view[11:])  # a tagged field in the header is skipped
    header = read_request_header(memoryview(tagged))
    assert API.read_request(header, memoryview(tagged)) == {"records": None, "after": 1}
    for size in range(10):
        with pytest.raises(ProtocolError):
            read_request_header(view[:size])
    with pytest.raises(ProtocolError):
        API.read_request(read_request_header(view[:10]), view[:10])
    with pytest.raises(ProtocolError):
        read_request_header(memoryview(struct.pack(">hhih", 3, 1, 1, 50) + b"short"))
