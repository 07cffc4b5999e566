"""Walks over a file give the batches that are in it, whatever the size of the reads, and find the first one that is not valid.

Verified: C2.6, also for batches that are larger than one read; and that an index leads a look at a segment's end to nothing else than
a walk over the whole of it, whatever is in the index file (C2.2).
"""

import tempfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refbroker.log import survey
from refbroker.log.batch import HEADER, HEADER_SIZE, CorruptBatch, parse_all
from refbroker.log.disk import Disk
from refbroker.log.records import Record, build
from refbroker.log.scan import batches, checked, header_at, headers
from refbroker.log.segment import Segment

DISK = Disk()
CRC_COVERS = 21  # from here on a batch's bytes are under its checksum


@st.composite
def logs(draw) -> list[bytes]:
    """Batches, one behind the other; some are markers of transactions."""
    made, offset = [], 0
    for count, size, control in draw(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 300), st.booleans()), max_size=8)):
        records = [Record(offset + index, 7, None, b"v" * size) for index in range(count)]
        made.append(bytes(build(records, base_offset=offset, leader_epoch=0, control=control)))
        offset += count
    return made


def in_file(data: bytes, name: str = "0.log"):
    directory = tempfile.TemporaryDirectory()
    file = DISK.open(f"{directory.name}/{name}", create=True)
    if data:
        file.append([data])
    return directory, file


@given(logs(), st.integers(HEADER_SIZE, 700))
def test_all_walks_see_the_same(made, chunk_bytes):
    _keep, file = in_file(b"".join(made))
    positions = [sum(map(len, made[:index])) for index in range(len(made))]
    seen = list(headers(file, 0, file.size, chunk_bytes))
    assert [position for position, _ in seen] == positions
    for (position, batch), data in zip(seen, made):
        assert bytes(batch.view) == data[: len(batch.view)] and batch.size == len(data)
        assert len(batch.view) == len(data) or not batch.is_control
        assert header_at(file, position, file.size).size == len(data)
    assert [(position, batch.size) for position, batch in checked(file, 0, file.size, chunk_bytes)] == list(zip(positions, map(len, made)))
    assert [(position, bytes(batch.view)) for position, batch in batches(file, 0, file.size, chunk_bytes)] == list(zip(positions, made))


@given(logs().filter(bool), st.integers(HEADER_SIZE, 700), st.data())
def test_the_first_batch_that_is_not_valid_is_found(made, chunk_bytes, data):
    index = data.draw(st.integers(0, len(made) - 1))
    at = data.draw(st.integers(CRC_COVERS, len(made[index]) - 1))
    broken = bytearray(b"".join(made))
    start = sum(map(len, made[:index]))
    broken[start + at] ^= data.draw(st.integers(1, 255))
    _keep, file = in_file(broken)
    whole = []
    with pytest.raises(CorruptBatch) as found:
        for position, _ in checked(file, 0, file.size, chunk_bytes):
            whole.append(position)
    assert found.value.position == start and len(whole) == index


@pytest.mark.parametrize("chunk_bytes", [64, 4096])
@pytest.mark.parametrize("field", [0, 6, 12])
def test_negative_numbers_are_not_valid(chunk_bytes, field):
    """Not even under a CRC that fits, and in a batch of any size."""
    records = build([Record(0, 0, None, b"v" * 100)])
    numbers = list(HEADER.unpack_from(records))
    numbers[field] = -1
    HEADER.pack_into(records, 0, *numbers)
    HEADER.pack_into(records, 0, *numbers[:4], next(parse_all(records)).computed_crc(), *numbers[5:])
    _keep, file = in_file(records)
    with pytest.raises(CorruptBatch, match="negative"):
        list(checked(file, 0, file.size, chunk_bytes))


@pytest.mark.parametrize("chunk_bytes", [64, 4096])
def test_a_file_that_got_shorter_is_not_valid(chunk_bytes):
    records = build([Record(0, 0, None, b"v" * 100)])
    _keep, file = in_file(records[:-1])
    with pytest.raises(CorruptBatch):
        list(checked(file, 0, len(records), chunk_bytes))


@st.composite
def index_files(draw, made: list[bytes]) -> bytes:
    """Of these batches, of others, with room behind, cut, or nonsense."""
    entries, offset, position = [], 0, 0
    for batch in made:
        count = next(parse_all(batch)).record_count
        if position and draw(st.booleans()):
            entries.append((offset + count - 1, position))
        offset, position = offset + count, position + len(batch)
    other = draw(st.lists(st.tuples(st.integers(-5, 50), st.integers(-5, 3000)), max_size=3))
    data = b"".join(survey.OFFSET_ENTRY.pack(*entry) for entry in entries + other * draw(st.booleans()))
    return data + draw(st.sampled_from([b"", bytes(8), bytes(80), b"\0\0\0", b"\1\2\3"]))


@given(logs(), st.sampled_from([b"", bytes(70), b"\1" * 90]), st.sampled_from([8, 16, 4096]), st.data())
def test_the_end_is_found_through_any_index(made, behind, hint_bytes, data):
    """C2.2, C5.5: where a clean stop leaves the reading of whole files out."""
    cut = data.draw(st.integers(0, 60)) if made else 0
    content = b"".join(made)
    directory, file = in_file(content[: len(content) - cut] + behind, f"{0:020d}.log")
    index = DISK.open(f"{directory.name}/{0:020d}.index", create=True)
    lines = data.draw(index_files(made))
    if lines:
        index.append([lines])
    segment = Segment(DISK, directory.name, 0, interval_bytes=0, created_ms=0)
    segment.size = file.size
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(survey, "HINT_BYTES", hint_bytes)
        assert survey.end_of_segment(segment) == survey._walk(segment, 0, None)
