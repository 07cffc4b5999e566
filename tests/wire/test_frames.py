"""Frames come out as they were sent, however the network cuts them up, and whatever sizes follow each other."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refbroker.frames import POOLED_BUFFER_BYTES_MAX, SMALL_FRAME_BYTES, FramePool, FrameReader, Refused

SIZES = st.one_of(st.integers(0, 40), st.integers(0, 5000), st.integers(SMALL_FRAME_BYTES - 9, SMALL_FRAME_BYTES + 9))
FRAMES = st.lists(SIZES, min_size=1, max_size=12)
PIECES = st.lists(st.integers(1, 70_000), min_size=1, max_size=20)


@settings(deadline=None)
@given(FRAMES, PIECES)
def test_frames_come_out_as_they_were_sent(sizes, pieces):
    frames = [bytes([number + 1]) * size for number, size in enumerate(sizes)]
    stream = b"".join(struct.pack(">i", len(frame)) + frame for frame in frames)
    reader, found, position, turn = FrameReader(FramePool(), 1 << 20), [], 0, 0
    while len(found) < len(frames):
        frame = reader.next()
        if frame is not None:
            found.append(bytes(frame))
            reader.done()
            continue
        space = reader.space()
        count = min(len(space), pieces[turn % len(pieces)], len(stream) - position)
        assert count > 0
        space[:count] = stream[position : position + count]
        reader.received_bytes += count
        position, turn = position + count, turn + 1
    assert found == frames and position == len(stream)
    reader.end()


@given(st.integers(1, 5000))
def test_a_frame_like_the_last_one_takes_one_receive(size):
    reader = FrameReader(FramePool(), 1 << 20)
    data = struct.pack(">i", size) + bytes(size)
    for number in range(3):
        space = reader.space()
        assert len(space) > len(data) or number == 0  # so that a whole one leaves room: asking again is vain
        reader.received_bytes += _fill(space, data)
        while reader.next() is None:
            reader.received_bytes += _fill(reader.space(), data[reader.received_bytes :])
        reader.done()


def _fill(space, data):
    count = min(len(space), len(data))
    space[:count] = data[:count]
    return count


def test_large_frames_share_buffers_of_a_bounded_size():
    pool = FramePool()
    for size in (SMALL_FRAME_BYTES * 3, POOLED_BUFFER_BYTES_MAX + 1):
        reader = FrameReader(pool, 1 << 30)
        space = reader.space()
        space[:4] = struct.pack(">i", size)
        reader.received_bytes += 4
        assert reader.next() is None and reader.size > SMALL_FRAME_BYTES
        reader.received_bytes += len(reader.space()) - 4
        assert len(reader.next()) == size
        reader.done()
    assert [capacity for capacity, buffers in pool._free.items() if buffers] == [1 << 17]


@pytest.mark.parametrize("size", [-1, 1001])
def test_sizes_out_of_bounds_are_refused(size):
    reader = FrameReader(FramePool(), 1000)
    reader.space()[:4] = struct.pack(">i", size)
    reader.received_bytes += 4
    with pytest.raises(Refused, match=f"frame of {size} bytes"):
        reader.next()
