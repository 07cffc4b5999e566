"""Indexes against a model that is a plain list, Kafka's bytes, and files that lie."""

import errno
import tempfile

import pytest
from hook_disk import HookDisk, failing
from hypothesis import given
from hypothesis import strategies as st

from refbroker.log.disk import Disk, TornAppend
from refbroker.log.index import AbortedTransaction, CorruptIndex, OffsetIndex, TimeIndex, parse_transaction_index

BASE = 1000
DISK = Disk()


def bytes_of(path: str) -> bytes:
    file = DISK.open(path, readonly=True)
    return file.pread(file.size, 0)


def write(path: str, data: bytes) -> None:
    file = DISK.open(path, create=True)
    file.truncate(0)
    file.append([data])


def reopened(index):
    again = type(index)(DISK, index.path, index.base_offset)
    again.load()
    return again


def rising(low: int, high: int):
    return st.lists(st.integers(low, high), max_size=20, unique=True).map(sorted)


@st.composite
def offset_entries(draw) -> list[tuple[int, int]]:
    offsets, positions = draw(rising(0, 500)), draw(rising(1, 5000))
    return [(BASE + offset, position) for offset, position in zip(offsets, positions)]


@st.composite
def time_entries(draw) -> list[tuple[int, int]]:
    timestamps = draw(rising(0, 500))
    offsets = sorted(draw(st.lists(st.integers(0, 500), min_size=len(timestamps), max_size=len(timestamps))))
    return [(timestamp, BASE + offset) for timestamp, offset in zip(timestamps, offsets)]


def test_golden_offset_index_of_kafka(tmp_path):
    path = f"{tmp_path}/00000000000000000000.index"
    index = OffsetIndex(DISK, path, 0)
    index.append(5, 102)
    index.append(8, 204)
    index.write()
    assert bytes_of(path) == bytes.fromhex("00000005 00000066 00000008 000000cc")
    assert [index.lookup(offset) for offset in (0, 4, 5, 7, 8, 99)] == [0, 0, 102, 102, 204, 204]


def test_golden_time_index_of_kafka(tmp_path):
    path = f"{tmp_path}/00000000000000000000.timeindex"
    index = TimeIndex(DISK, path, 0)
    assert index.last == (-1, 0)
    index.append(1795446000002, 2)
    index.append(1795446000002, 5)  # later equal ones do not count
    index.write()
    assert bytes_of(path) == bytes.fromhex("000001a208ebc982 00000002")


def test_golden_transaction_index_of_kafka():
    data = bytes.fromhex("0000 0000000000000001 0000000000000004 0000000000000007 0000000000000008")
    assert parse_transaction_index(data) == [AbortedTransaction(0, 1, 4, 7, 8)]
    for wrong in (data[:-1], b"\0\1" + data[2:], data + data):
        with pytest.raises(CorruptIndex):
            parse_transaction_index(wrong)


@given(offset_entries(), st.integers(BASE, BASE + 600))
def test_offset_index_is_a_list(entries, target):
    """C5.1, C5.7; what is read back from the file gives the same answers (C5.5)."""
    with tempfile.TemporaryDirectory() as directory:
        index = OffsetIndex(DISK, f"{directory}/i", BASE)
        for entry in entries:
            index.append(*entry)
        index.write()
        for each in (index, reopened(index)):
            assert each.entries == entries and len(each) == len(entries)
            assert each.last == (entries[-1] if entries else (BASE, 0))
            assert each.lookup(target) == max([p for o, p in entries if o <= target], default=0)
        index.truncate_to(target)
        kept = [entry for entry in entries if entry[0] < target]
        assert index.entries == reopened(index).entries == kept
        index.rewrite(entries)
        assert index.entries == reopened(index).entries == entries


@given(time_entries(), st.integers(-5, 600), st.integers(BASE, BASE + 600))
def test_time_index_is_a_list(entries, target, offset):
    """C5.3, C5.7; what is read back from the file gives the same answers (C5.5)."""
    with tempfile.TemporaryDirectory() as directory:
        index = TimeIndex(DISK, f"{directory}/i", BASE)
        for entry in entries:
            index.append(*entry)
        index.write()
        for each in (index, reopened(index)):
            assert each.entries == entries and len(each) == len(entries)
            assert each.last == (entries[-1] if entries else (-1, BASE))
            assert each.lookup(target) == max([e for e in entries if e[0] <= target], default=(-1, BASE))
        index.truncate_to(offset)
        kept = [entry for entry in entries if entry[1] < offset]
        assert index.entries == reopened(index).entries == kept
        index.rewrite(entries)
        assert index.entries == reopened(index).entries == entries


@given(st.lists(st.tuples(st.integers(-1, 30), st.integers(0, 3)), max_size=20))
def test_time_index_keeps_only_larger_timestamps(appends):
    with tempfile.TemporaryDirectory() as directory:
        index = TimeIndex(DISK, f"{directory}/i", BASE)
        offset, expected = BASE, []
        for timestamp, step in appends:
            offset += step
            index.append(timestamp, offset)
            if timestamp > (expected[-1][0] if expected else -1):
                expected.append((timestamp, offset))
        assert index.entries == expected


@given(offset_entries(), st.integers(1, 400))
def test_room_that_a_killed_kafka_leaves_is_cut_off(entries, room):
    """C5.5: a zero-padded tail is no entry, and the next append goes where the entries end."""
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/i"
        index = OffsetIndex(DISK, path, BASE)
        index.rewrite(entries)
        write(path, bytes_of(path) + bytes(8 * room))
        again = OffsetIndex(DISK, path, BASE)
        again.load()
        assert again.entries == entries
        again.append(BASE + 1000, 9000)
        again.write()
        index = OffsetIndex(DISK, path, BASE)
        index.load()
        assert index.entries == entries + [(BASE + 1000, 9000)]


@given(st.binary(max_size=64))
def test_any_bytes_are_refused_or_obey_the_laws(data):
    """C5.2, C5.3."""
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/i"
        for kind in (OffsetIndex, TimeIndex):
            write(path, data)
            index = kind(DISK, path, BASE)
            try:
                index.load()
            except CorruptIndex:
                assert index.entries == []
                continue
            keys, values = [e[0] for e in index.entries], [e[1] for e in index.entries]
            assert keys == sorted(set(keys)) and values == sorted(values)
            assert min(values, default=BASE) >= (1 if kind is OffsetIndex else BASE)


@pytest.mark.parametrize(
    "words",
    [
        [5, 0],
        [5, 102, 5, 204],
        [5, 102, 8, 102],
        [8, 102, 5, 204],
        [2**32 - 1, 102],
        [5, 102, 0, 0, 8, 204],
        [5, 102, 8],
    ],
)
def test_offset_index_rules(tmp_path, words):
    write(f"{tmp_path}/i", b"".join(word.to_bytes(4, "big") for word in words))
    with pytest.raises(CorruptIndex):
        OffsetIndex(DISK, f"{tmp_path}/i", 0).load()


def test_an_index_must_not_reach_beyond_its_log(tmp_path):
    """C5.2."""
    offsets, times = OffsetIndex(DISK, f"{tmp_path}/o", BASE), TimeIndex(DISK, f"{tmp_path}/t", BASE)
    offsets.append(BASE + 5, 102)
    times.append(77, BASE + 5)
    offsets.write()
    times.write()
    offsets.load(log_bytes=103, log_end_offset=BASE + 6)
    times.load(log_end_offset=BASE + 6)
    for beyond in (lambda: offsets.load(log_bytes=102), lambda: offsets.load(log_end_offset=BASE + 5)):
        with pytest.raises(CorruptIndex):
            beyond()
    with pytest.raises(CorruptIndex):
        times.load(log_end_offset=BASE + 5)


def test_full_the_time_index_keeps_one_slot_for_the_close(tmp_path):
    offsets, times = OffsetIndex(DISK, f"{tmp_path}/o", 0), TimeIndex(DISK, f"{tmp_path}/t", 0)
    for number in range(1, 4):
        assert offsets.free(24) == 4 - number and times.free(36) == 3 - number
        offsets.append(number, number)
        times.append(number, number)
    assert offsets.free(24) == 0 and times.free(36) == -1


def test_a_closed_index_goes_on(tmp_path):
    index = OffsetIndex(DISK, f"{tmp_path}/a", 0)
    index.append(1, 10)
    index.write()
    index.sync()
    index.close()
    index.append(2, 20)
    index.write()
    assert len(bytes_of(f"{tmp_path}/a")) == 16


def tear(call, path):
    """Half an entry more, and nobody could take it away."""
    if call == "append":
        with open(path, "ab") as file:
            file.write(b"\0\0\0\1")
        raise TornAppend(errno.ENOSPC, "no space", path)


STEPS = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 20)), st.tuples(st.just("truncate"), st.integers(0, 300)),
    st.sampled_from([("write",), ("write", None), ("write", "ENOSPC"), ("write", "torn"), ("reopen",)]),
)


@given(st.lists(STEPS, max_size=30))
def test_the_file_is_a_prefix_of_what_is_in_memory_and_all_of_it_after_a_write(steps):
    """However writes fail: nothing is lost, nothing stands twice, and after a truncation no entry reaches beyond it (C5.7)."""
    with tempfile.TemporaryDirectory() as directory:
        disk = HookDisk()
        index, model, torn = OffsetIndex(disk, f"{directory}/i", BASE), [], False
        for name, *arguments in steps:
            if name == "append":
                offset = (model[-1][0] if model else BASE) + arguments[0]
                model.append((offset, offset - BASE))
                index.append(*model[-1])
            elif name == "truncate":
                model = [entry for entry in model if entry[0] < BASE + arguments[0]]
                index.truncate_to(BASE + arguments[0])
                torn = False
            elif name == "reopen":
                index.close()
            elif arguments and arguments[0] and index.written_position < index.last[1]:
                torn = torn or arguments[0] == "torn"
                disk.hook = tear if torn else failing("append", "i", errno.ENOSPC)
                with pytest.raises(OSError):
                    index.write()
                disk.hook = None
            else:
                index.write()
                torn = False
                assert reopened(index).entries == model
            assert index.entries == model
            if not torn and DISK.exists(index.path):
                found = reopened(index).entries
                assert found == model[: len(found)]
