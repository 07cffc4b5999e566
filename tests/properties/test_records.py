"""The records inside a batch: round trips with every codec, against kafka-python both ways, and hostile insides."""

import struct
import tracemalloc

import cramjam
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder

from refbroker.log import records
from refbroker.log.batch import CODECS, HEADER_SIZE, LOG_OVERHEAD, check, parse
from refbroker.log.records import CodecMissing, InvalidRecords, Record, build, iterate, read_varint, write_varint

T = 1795446000000
CODEC_NUMBERS = range(len(CODECS))
data_or_none = st.none() | st.binary(max_size=60)
headers = st.lists(st.tuples(st.text(max_size=8), data_or_none), max_size=3)


@st.composite
def record_lists(draw) -> list[Record]:
    offset = draw(st.integers(0, 2**40))
    found = []
    for _ in range(draw(st.integers(1, 12))):
        timestamp = draw(st.integers(0, 2**45))
        found.append(Record(offset, timestamp, draw(data_or_none), draw(data_or_none), draw(headers)))
        offset += draw(st.integers(1, 3))
    return found


def with_body(body: bytes, codec: int, count: int = 1):
    """A batch around any inside."""
    data = build([Record(0, T, None, None)])[:HEADER_SIZE] + body
    struct.pack_into(">i", data, 8, len(data) - LOG_OVERHEAD)
    struct.pack_into(">h", data, 21, codec)
    struct.pack_into(">i", data, 57, count)
    return parse(data)


def test_golden_records_of_kafka():
    expected = [
        Record(0, T, b"k1", b"hello"),
        Record(1, T + 1, None, b"world!!", [("h", b"x")]),
        Record(2, T + 2, b"k3", None),
    ]
    written = bytes.fromhex(
        "0000000000000000 0000005a 00000000 02 bd1015b7 0000 00000002 000001a208ebc980 000001a208ebc982"
        "ffffffffffffffff ffff ffffffff 00000003 1a000000046b310a68656c6c6f00"
        "22000202010e776f726c642121020268027810000404046b330100"
    )
    assert list(iterate(parse(written), bytes_max=100)) == expected
    assert build(expected, leader_epoch=0) == written


@given(record_lists(), st.sampled_from(CODEC_NUMBERS))
def test_round_trip(expected, codec):
    data = build(
        expected, base_offset=expected[0].offset, codec=codec, producer_id=3, producer_epoch=1, base_sequence=9
    )
    batch = parse(data)
    check(batch)
    assert batch.codec == codec and batch.last_offset == expected[-1].offset
    assert batch.max_timestamp == max(record.timestamp for record in expected)
    assert list(iterate(batch, bytes_max=1 << 20)) == expected


def test_log_append_time_is_that_of_all_records():
    batch = parse(build([Record(0, T, None, b"a"), Record(1, T + 9, None, b"b")], log_append_time=True))
    assert [record.timestamp for record in iterate(batch, bytes_max=100)] == [T + 9, T + 9]


@settings(max_examples=40)
@given(record_lists(), st.sampled_from([0, 1]))
def test_kafka_python_reads_what_we_write(expected, codec):
    """The codecs that kafka-python has without further packages."""
    data = build(expected, base_offset=expected[0].offset, codec=codec)
    theirs = DefaultRecordBatch(bytes(data))
    assert theirs.validate_crc()
    assert [(r.offset, r.timestamp, r.key, r.value, r.headers) for r in theirs] == [
        (r.offset, r.timestamp, r.key, r.value, r.headers) for r in expected
    ]


@settings(max_examples=40)
@given(record_lists(), st.sampled_from([0, 1]))
def test_we_read_what_kafka_python_writes(expected, codec):
    expected = [record._replace(offset=index) for index, record in enumerate(expected)]
    builder = DefaultRecordBatchBuilder(2, codec, 0, -1, -1, -1, 1 << 20)
    for record in expected:
        assert builder.append(record.offset, record.timestamp, record.key, record.value, record.headers)
    batch = parse(bytes(builder.build()))
    check(batch)
    assert list(iterate(batch, bytes_max=1 << 20)) == expected


def test_lz4_is_written_as_independent_blocks_of_64_kib():
    data = build([Record(0, T, None, bytes(200_000))], codec=3)
    magic, flags, block_size = struct.unpack_from("<IBB", data, HEADER_SIZE)
    assert magic == 0x184D2204 and flags & 0x20 and not flags & 0x0C and block_size == 0x40


def test_snappy_is_written_in_xerial_framing_and_read_raw_too():
    record = Record(0, T, b"k", bytes(100_000))
    framed = build([record], codec=2)
    assert framed[HEADER_SIZE : HEADER_SIZE + 16] == b"\x82SNAPPY\0\0\0\0\1\0\0\0\1"
    raw = with_body(bytes(cramjam.snappy.compress_raw(bytes(build([record])[HEADER_SIZE:]))), 2)
    assert list(iterate(raw, bytes_max=200_000)) == [record]


def test_gzip_members_one_behind_the_other():
    inside = bytes(build([Record(0, T, b"k", b"v" * 50)])[HEADER_SIZE:])
    body = b"".join(bytes(records._compress(1, bytearray(part))) for part in (inside[:20], inside[20:]))
    assert list(iterate(with_body(body, 1), bytes_max=1000)) == [Record(0, T, b"k", b"v" * 50)]


# ---------------------------------------------------------------- hostile insides


def bomb(codec: int) -> bytes:
    """A few kilobytes to a megabyte that decompress to a gigabyte or more."""
    chunk = bytes(16 << 20)
    if CODECS[codec] == "snappy":
        return records.XERIAL_HEADER + struct.pack(">i", 6) + b"\xff\xff\xff\xff\x07\x00"  # "2 GiB follow"
    if CODECS[codec] == "lz4":
        frame = bytes(records._compress(codec, bytearray(chunk)))
        return frame[:7] + frame[7:-4] * 64 + frame[-4:]
    return bytes(records._compress(codec, bytearray(chunk))) * 64


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_a_decompression_bomb_is_refused_without_its_memory(codec):
    batch = with_body(bomb(codec), codec)
    bound = 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRecords, match="decompress to more than 1048576 bytes"):
            list(iterate(batch, bytes_max=bound))
        assert tracemalloc.get_traced_memory()[1] < 3 * bound + 2 * batch.size
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_the_bound_is_exact(codec):
    record = Record(0, T, None, b"v" * 100_000)
    inside = len(build([record])) - HEADER_SIZE
    batch = parse(build([record], codec=codec))
    assert list(iterate(batch, bytes_max=inside)) == [record]
    with pytest.raises(InvalidRecords, match=f"more than {inside - 1} bytes"):
        list(iterate(batch, bytes_max=inside - 1))


@given(st.binary(max_size=120), st.sampled_from(range(8)), st.integers(0, 4))
def test_any_inside_gives_records_or_one_kind_of_error(body, codec, count):
    try:
        found = list(iterate(with_body(body, codec, count), bytes_max=1 << 16))
    except InvalidRecords:
        return
    assert len(found) == count


@given(st.sampled_from([1, 2, 3, 4]), st.integers(0, 10_000), st.integers(0, 255))
def test_a_damaged_compressed_inside_gives_one_kind_of_error(codec, position, value):
    data = build([Record(i, T, b"k", b"value %d" % i) for i in range(20)], codec=codec)
    position = HEADER_SIZE + position % (len(data) - HEADER_SIZE)
    data[position] = value
    try:
        list(iterate(parse(data), bytes_max=1 << 16))
    except InvalidRecords:
        pass


@pytest.mark.parametrize(
    ("inside", "reason"),
    [
        ("", "varint is cut off"),
        ("80808080808000", "varint does not end"),
        ("ffffffff7f", "longer than 32 bits"),
        ("0e 00 00 00 01 01", "length 7, 5 bytes left"),
        ("0c 00 00 00 01 01 02", "1 headers in 0 bytes"),
        ("0c 00 00 00 01 01 01", "-1 headers in 0 bytes"),
        ("0e 00 00 00 01 01 00 00", "1 bytes of it are left over"),
        ("0a 00 00 00 06 61 62 63", "length 3, 1 bytes left"),
        ("10 00 00 00 01 01 02 01 01", "null header key"),
        ("12 00 00 00 01 01 02 02 ff 01", "is not UTF-8"),
        ("0c 00 00 00 01 01 00 00", "1 bytes behind the last"),
        ("00", "length 0, 0 bytes left"),
        ("01", "length -1, 0 bytes left"),
    ],
)
def test_each_rule_of_a_record(inside, reason):
    with pytest.raises(InvalidRecords, match=reason):
        list(iterate(with_body(bytes.fromhex(inside), 0), bytes_max=100))


@pytest.mark.parametrize("codec", [2, 3, 4])
def test_without_cramjam_only_its_codecs_are_refused(codec, monkeypatch):
    batch = parse(build([Record(0, T, None, b"v")], codec=codec))
    monkeypatch.setattr(records, "cramjam", None)
    with pytest.raises(CodecMissing, match=f"codec {CODECS[codec]} needs the package cramjam"):
        list(iterate(batch, bytes_max=100))
    for known in (0, 1):
        assert list(iterate(parse(build([Record(0, T, None, b"v")], codec=known)), bytes_max=100))


@given(st.integers(-(2**63), 2**63 - 1))
def test_varints(value):
    out = bytearray()
    write_varint(out, value)
    assert read_varint(memoryview(out), 0, len(out), records.VARLONG_BYTES_MAX) == (value, len(out))
    if -(2**31) <= value < 2**31:
        assert len(out) <= 5 and read_varint(memoryview(out), 0, len(out)) == (value, len(out))
    else:
        with pytest.raises(InvalidRecords):
            read_varint(memoryview(out), 0, len(out))
