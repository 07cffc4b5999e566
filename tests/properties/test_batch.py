"""The record batch: golden bytes of Apache Kafka 4.4.0, CRC against an independent one, each rule broken once.

The error codes of `REFUSED` were compared with a running Kafka 4.4.0 (each of them sent as a Produce request).
"""

import struct

import crcmod.predefined
import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from refbroker.errors import ErrorCode, KafkaError
from refbroker.log.batch import (
    HEADER_SIZE,
    CorruptBatch,
    IncompleteBatch,
    check,
    parse,
    parse_all,
    stamp,
    validate_produce,
)
from refbroker.log.records import Record, build

T = 1795446000000
KAFKA_BATCH = bytes.fromhex(
    "0000000000000000 0000005a 00000000 02 bd1015b7 0000 00000002 000001a208ebc980 000001a208ebc982"
    "ffffffffffffffff ffff ffffffff 00000003 1a000000046b310a68656c6c6f00"
    "22000202010e776f726c642121020268027810000404046b330100"
)


def three(**changes) -> bytearray:
    return build([Record(i, T + i, b"key", b"value") for i in range(3)], **changes)


def patched(form: str, position: int, value: int, batch: bytearray | None = None, crc: bool = True) -> bytearray:
    batch = three() if batch is None else batch
    struct.pack_into(form, batch, position, value)
    if crc:
        struct.pack_into(">I", batch, 17, crc32c(memoryview(batch)[21:]))
    return batch


def test_golden_batch_of_kafka():
    batch = parse(KAFKA_BATCH)
    check(batch)
    assert (batch.base_offset, batch.last_offset, batch.next_offset, batch.size) == (0, 2, 3, 102)
    assert (batch.leader_epoch, batch.magic, batch.crc, batch.attributes) == (0, 2, 3171947959, 0)
    assert (batch.base_timestamp, batch.max_timestamp, batch.record_count) == (T, T + 2, 3)
    assert (batch.producer_id, batch.producer_epoch, batch.base_sequence, batch.last_sequence) == (-1, -1, -1, -1)
    assert not (batch.has_producer or batch.is_control or batch.is_transactional or batch.is_log_append_time)


@given(st.binary(max_size=300))
def test_crc_agrees_with_an_independent_one(data):
    batch = build([Record(0, T, None, data)])
    independent = crcmod.predefined.mkCrcFun("crc-32c")
    assert parse(batch).crc == independent(bytes(batch[21:]))


@pytest.mark.parametrize("position", [*range(8, 12), *range(16, len(KAFKA_BATCH))])
def test_every_flipped_bit_that_the_crc_or_the_length_covers_is_found(position):
    """C2.6. Base offset (0-7) and leader epoch (12-15) are not covered: only their order vouches for them."""
    for bit in range(8):
        damaged = bytearray(KAFKA_BATCH)
        damaged[position] ^= 1 << bit
        with pytest.raises(CorruptBatch):
            batch = parse(damaged)
            check(batch)
            assert batch.size == len(damaged), "a shorter length passed the CRC"


@pytest.mark.parametrize("length", range(len(KAFKA_BATCH)))
def test_a_batch_cut_anywhere_is_incomplete(length):
    with pytest.raises(IncompleteBatch) as error:
        parse(KAFKA_BATCH[:length])
    assert length < error.value.needed <= len(KAFKA_BATCH)
    if length >= HEADER_SIZE:
        header = parse(KAFKA_BATCH[:length], header_only=True)
        assert header.size == 102
        with pytest.raises(IncompleteBatch):
            check(header)


def test_positions_in_errors_and_batches_one_behind_the_other():
    two = KAFKA_BATCH + three(base_offset=0)
    assert [batch.size for batch in parse_all(two)] == [102, len(two) - 102]
    broken = bytearray(two)
    broken[102 + 16] = 1
    with pytest.raises(CorruptBatch, match="at byte 102: magic 1"):
        list(parse_all(broken))


@pytest.mark.parametrize("length", [0, -1, 48, -(2**31)])
def test_a_length_below_the_header_is_corrupt_not_incomplete(length):
    with pytest.raises(CorruptBatch) as error:
        parse(patched(">i", 8, length, crc=False))
    assert not isinstance(error.value, IncompleteBatch)


@pytest.mark.parametrize(("form", "position"), [(">q", 0), (">i", 23), (">i", 57)])
def test_negative_numbers_under_a_right_crc(form, position):
    """C2.6: base offset, last offset delta, record count."""
    with pytest.raises(CorruptBatch, match="none may be negative"):
        check(parse(patched(form, position, -1)))


@given(base=st.integers(0, 2**31 - 1), count=st.integers(1, 5))
def test_sequences_wrap_behind_the_largest(base, count):
    """C6.5."""
    records = [Record(i, T, None, None) for i in range(count)]
    batch = parse(build(records, producer_id=1, producer_epoch=0, base_sequence=base))
    assert batch.last_sequence == (base + count - 1) % 2**31


REFUSED = {
    "nothing": (b"", ErrorCode.INVALID_RECORD),
    "16 bytes": (three()[:16], ErrorCode.INVALID_RECORD),
    "a header only": (three()[:61], ErrorCode.INVALID_RECORD),
    "last byte missing": (three()[:-1], ErrorCode.INVALID_RECORD),
    "length 0": (patched(">i", 8, 0, crc=False), ErrorCode.CORRUPT_MESSAGE),
    "length -1": (patched(">i", 8, -1, crc=False), ErrorCode.CORRUPT_MESSAGE),
    "length 48": (patched(">i", 8, 48, crc=False), ErrorCode.CORRUPT_MESSAGE),
    "length 2^31-1": (patched(">i", 8, 2**31 - 1, crc=False), ErrorCode.INVALID_RECORD),
    "magic 0": (patched(">b", 16, 0, crc=False), ErrorCode.INVALID_RECORD),
    "magic 1": (patched(">b", 16, 1, crc=False), ErrorCode.INVALID_RECORD),
    "magic 3": (patched(">b", 16, 3, crc=False), ErrorCode.CORRUPT_MESSAGE),
    "wrong CRC": (patched(">I", 17, 1, crc=False), ErrorCode.CORRUPT_MESSAGE),
    "base offset 5": (patched(">q", 0, 5), ErrorCode.INVALID_RECORD),
    "delta too small": (patched(">i", 23, 1), ErrorCode.INVALID_RECORD),
    "delta too large": (patched(">i", 23, 3), ErrorCode.INVALID_RECORD),
    "delta negative": (patched(">i", 23, -1), ErrorCode.INVALID_RECORD),
    "count 0": (patched(">i", 57, 0), ErrorCode.INVALID_RECORD),
    "count -1": (patched(">i", 57, -1), ErrorCode.INVALID_RECORD),
    "count 2^31-1": (patched(">i", 57, 2**31 - 1, patched(">i", 23, 2**31 - 2)), ErrorCode.INVALID_RECORD),
    "control": (three(control=True), ErrorCode.INVALID_RECORD),
    "transactional": (
        three(transactional=True, producer_id=1, producer_epoch=0, base_sequence=0),
        ErrorCode.INVALID_TXN_STATE,
    ),
    "producer without sequence": (three(producer_id=1, producer_epoch=0), ErrorCode.INVALID_RECORD),
    "codec 5": (patched(">h", 21, 5), ErrorCode.UNSUPPORTED_COMPRESSION_TYPE),
    "two batches": (three() + three(), ErrorCode.INVALID_RECORD),
    "garbage behind": (three() + b"12345", ErrorCode.CORRUPT_MESSAGE),
    "half a batch behind": (three() + three()[:70], ErrorCode.CORRUPT_MESSAGE),
    "too large": (build([Record(0, T, None, b"v" * 1000)]), ErrorCode.MESSAGE_TOO_LARGE),
    "two hours ahead": (build([Record(0, T + 7_200_000, None, None)]), ErrorCode.INVALID_TIMESTAMP),
    "two hours ago": (build([Record(0, T - 7_200_000, None, None)]), ErrorCode.INVALID_TIMESTAMP),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_client_is_refused_with_kafkas_code(name):
    records, code = REFUSED[name]
    with pytest.raises(KafkaError) as error:
        validate_produce(records, 1000, now_ms=T, before_max_ms=3_600_000, after_max_ms=3_600_000)
    assert error.value.code == code


def test_no_records_at_all_is_an_invalid_record():
    with pytest.raises(KafkaError) as error:
        validate_produce(None, 1000)
    assert error.value.code == ErrorCode.INVALID_RECORD


def test_the_smallest_and_the_largest_batch_are_accepted():
    smallest = build([Record(0, T, None, None)])
    assert len(smallest) == HEADER_SIZE + 7
    assert validate_produce(smallest, len(smallest), now_ms=T).record_count == 1
    with pytest.raises(KafkaError):
        validate_produce(smallest, len(smallest) - 1, now_ms=T)


@pytest.mark.parametrize("codec", range(5))
def test_compressed_batches_pass_unopened(codec):
    records = three(codec=codec)
    batch = validate_produce(memoryview(records), 1000, now_ms=T)
    assert batch.codec == codec and batch.view.obj is records


def test_timestamps_that_were_not_set_are_not_judged():
    validate_produce(build([Record(0, -1, None, None)]), 1000, now_ms=T, before_max_ms=0, after_max_ms=0)


def test_log_append_time_ignores_the_producers_timestamps_but_not_its_claim():
    validate_produce(build([Record(0, 5, None, None)]), 1000, now_ms=T, log_append_time=True, before_max_ms=0)
    with pytest.raises(KafkaError) as error:
        validate_produce(three(log_append_time=True), 1000, now_ms=T, log_append_time=True)
    assert error.value.code == ErrorCode.INVALID_TIMESTAMP


@given(base=st.integers(0, 2**63 - 10), epoch=st.integers(0, 2**31 - 1))
def test_stamping_leaves_the_crc_and_the_records_alone(base, epoch):
    data = three()
    batch = parse(data)
    before = batch.crc
    stamp(batch, base, epoch)
    again = parse(data)
    check(again)
    assert (again.base_offset, again.leader_epoch, again.crc) == (base, epoch, before)
    assert again.last_offset == batch.last_offset == base + 2


def test_stamping_log_append_time_and_taking_it_away():
    data = three()
    stamp(parse(data), 7, 1, log_append_time_ms=T + 500)
    batch = parse(data)
    check(batch)
    assert batch.is_log_append_time and batch.max_timestamp == T + 500 and batch.base_timestamp == T
    stamp(batch, 7, 1)
    again = parse(data)
    check(again)
    assert not again.is_log_append_time and again.max_timestamp == T + 500


@given(st.binary(max_size=200))
def test_hostile_bytes_get_a_code_and_nothing_else(data):
    with pytest.raises(KafkaError):
        validate_produce(data, 1000, now_ms=T)
    with pytest.raises(CorruptBatch):
        check(parse(data))


@given(position=st.integers(0, 60), value=st.integers(0, 255))
def test_a_hostile_header_with_a_right_crc_gets_a_code_or_is_sane(position, value):
    data = patched(">B", position, value)
    try:
        batch = validate_produce(data, 1000, now_ms=T)
    except KafkaError:
        return
    assert batch.base_offset == 0 and batch.record_count == batch.last_offset_delta + 1 == 3 and batch.size == len(data)
    assert not batch.is_control and not batch.is_transactional
