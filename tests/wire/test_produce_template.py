"""A request that is like the one before is not decoded again: what a template makes of any bytes is what decoding makes of them, or nothing."""

import asyncio
import struct
import uuid

import pytest
from fakes import Client, batch, running
from hypothesis import given
from hypothesis import strategies as st

from refbroker import protocol
from refbroker.apis.k00_produce import API
from refbroker.produce_template import SIZE_BYTES_MAX, TAIL, template_of
from refbroker.protocol import ProtocolError, read_request_header

SIZES = st.one_of(st.integers(2, 300), st.sampled_from([126, 127, 128, 16382, 16383, 16384, 40_000, (1 << 21) - 2, (1 << 21) - 1]))


def frame_of(version, records, *, correlation_id=1, client="producer", name="t", number=0, acks=-1, partitions=1):
    value = {"transactional_id": None, "acks": acks, "timeout_ms": 1000, "topic_data": [
        {"name": name, "topic_id": uuid.UUID(int=5), "partition_data": [{"index": number, "records": records}] * partitions}]}
    return memoryview(bytearray(API.request_frame(version, correlation_id, client, value)[4:]))


def decoded(frame):
    header = read_request_header(frame)
    return header, API.read_request(header, frame)


def template(frame):
    return template_of(*((found := decoded(frame))[0], frame, found[1]))


@given(st.integers(9, 13), SIZES, SIZES, st.integers(-(2**31), 2**31 - 1), st.sampled_from([None, "", "producer", "é" * 80]),
       st.sampled_from(["t", "n" * 249]))
def test_a_request_of_the_same_producer_fits(version, size, other_size, correlation_id, client, name):
    first = template(frame_of(version, bytes(size), client=client, name=name))
    if size + 1 >= 1 << 21:
        assert first is None
        return
    other = frame_of(version, b"\x7f" * other_size, correlation_id=correlation_id, client=client, name=name)
    found = first.message(other)
    if other_size + 1 >= 1 << 21:
        assert found is None
    else:
        assert first.fitted and found == decoded(other)[1]
        assert found["topic_data"][0]["partition_data"][0]["records"].obj is other.obj  # a view, no copy


@given(st.integers(9, 13), st.integers(2, 400), st.lists(st.tuples(
    st.sampled_from(["flip", "cut", "add"]), st.integers(0, 500), st.integers(0, 255)), min_size=1, max_size=4))
def test_whatever_comes_it_is_as_decoding_says(version, size, damages):
    frame = frame_of(version, bytes(size))
    first, bytes_now = template(frame), bytearray(frame)
    for kind, place, value in damages:
        at = place % max(1, len(bytes_now))
        if kind == "flip" and bytes_now:
            bytes_now[at] ^= value
        elif kind == "cut":
            del bytes_now[at : at + value % 9]
        else:
            bytes_now[at:at] = bytes([value])
    damaged = memoryview(bytes_now)
    found = first.message(damaged)
    if found is not None:
        assert decoded(damaged) == (first.header._replace(correlation_id=struct.unpack_from(">i", damaged, 4)[0]), found)


@given(st.lists(st.sampled_from([0, 1, 2, 0x7F, 0x80, 0x81, 0x85, 0xFF]), max_size=5), st.integers(0, 9))
def test_whatever_is_said_of_the_size_it_is_as_decoding_says(varint, records):
    frame = frame_of(9, b"r" * 4)
    first = template(frame)
    head = bytes(frame)[: len(frame) - 4 - 1 - len(TAIL)]
    for tail in (TAIL, b"\0\0", b"", b"\1\0\0\0\0"):
        odd = memoryview(head + bytes(varint) + b"r" * records + tail)
        if (found := first.message(odd)) is not None:
            assert decoded(odd)[1] == found
        try:
            of_odd = template(odd)
        except ProtocolError:
            continue
        for probe in (odd, frame):
            if of_odd is not None and (found := of_odd.message(probe)) is not None:
                assert decoded(probe)[1] == found


@pytest.mark.parametrize("frame", [
    frame_of(8, b"r" * 9), frame_of(9, b"r" * 9, client="c" * 1000), frame_of(9, b""), frame_of(9, None), frame_of(9, b"r" * 9, partitions=2), frame_of(9, b"r" * 9, partitions=0),
], ids=["older version", "a long client id", "no records", "null", "two partitions", "none"])  # fmt: skip
def test_what_is_not_usual_has_no_template(frame):
    assert template(frame) is None


def test_a_size_that_takes_more_bytes_than_it_needs_has_no_template():
    head = bytes(frame_of(9, b"r" * 4))[: -4 - 1 - len(TAIL)]
    for varint in (b"\x85\0", b"\x85\x80\0"):
        frame = memoryview(head + varint + b"r" * 4 + TAIL)
        assert decoded(frame)[1]["topic_data"][0]["partition_data"][0]["records"] == b"r" * 4
        assert template(frame) is None and len(varint) <= SIZE_BYTES_MAX


def counted(monkeypatch):
    """Requests that were decoded in full."""
    found = []
    real = protocol.Api.read_request
    monkeypatch.setattr(protocol.Api, "read_request", lambda self, header, view: found.append(header) or real(self, header, view))
    return found


def produced(broker, plan):
    """Batches of one record, of (partition, records), over one connection; and what is then in the logs."""

    async def story():
        client = await Client.connect(broker)
        for version, number, records in plan:
            value = {"acks": -1, "timeout_ms": 1000, "topic_data": [{"name": "t", "partition_data": [{"index": number, "records": batch(records)}]}]}
            answer = await client.call(API, version, value)
            assert answer["responses"][0]["partition_responses"][0]["error_code"] == 0
        client.close()
        return [broker.partitions["t", number].log_end_offset for number in (0, 1)]

    return story()


@pytest.mark.parametrize("plan, full, ends", [
    ([(9, 0, 1)] * 6, 1, [6, 0]),
    ([(9, 0, size) for size in (1, 30, 300, 2)], 1, [333, 0]),
    ([(9, number % 2, 1) for number in range(6)], 4, [3, 3]),  # one that has not fitted is not replaced
    ([(9, 0, 1)] * 3 + [(9, 1, 1)] * 3, 2, [3, 3]),
    ([(9, 0, 1)] * 2 + [(11, 0, 1)] * 2, 2, [4, 0]),
    ([(8, 0, 1)] * 3, 3, [3, 0]),
], ids=["the same", "other sizes", "in turn", "another partition", "another version", "older"])  # fmt: skip
def test_requests_that_are_alike_are_decoded_once(tmp_path, monkeypatch, plan, full, ends):
    async def story():
        async with running(tmp_path) as broker:
            found = counted(monkeypatch)
            assert await produced(broker, plan) == ends
            assert len(found) == full

    asyncio.run(story())
