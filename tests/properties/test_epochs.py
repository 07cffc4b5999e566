"""Leader epochs against the plainest model there is: the epoch of every single offset."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refbroker.log.checkpoints import InvalidFile, NewerVersion
from refbroker.log.disk import Disk, replace_file
from refbroker.log.epochs import UNDEFINED, EpochCache, format_epochs, parse_epochs

# (how much the epoch rises, how many offsets are written under it)
histories = st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5)), min_size=1, max_size=8)


def follow(history) -> tuple[EpochCache, list[int]]:
    """The cache, and the epoch of each offset."""
    cache, log, epoch = EpochCache("unused"), [], 0
    for rise, count in history:
        epoch += rise
        cache.assign(epoch, len(log))
        log += [epoch] * count
    return cache, log


def from_scan(log: list[int], start: int = 0) -> list[tuple[int, int]]:
    """What a scan of the batch headers gives (C4.4)."""
    return [
        (epoch, offset)
        for offset, epoch in enumerate(log)
        if offset >= start and (offset == start or epoch != log[offset - 1])
    ]


def test_golden_file_of_kafka():
    assert parse_epochs(b"0\n2\n0 0\n2 3\n") == [(0, 0), (2, 3)]
    assert format_epochs([(0, 0), (2, 3)]) == b"0\n2\n0 0\n2 3\n"
    assert parse_epochs(b"0\n0\n") == []


@given(histories)
def test_the_cache_equals_a_scan(history):
    """C4.4."""
    cache, log = follow(history)
    assert cache.entries == from_scan(log) and cache.latest == log[-1]
    assert [cache.epoch_for(offset) for offset in range(len(log))] == log
    assert parse_epochs(format_epochs(cache.entries)) == cache.entries


@given(histories, st.integers(-1, 30))
def test_where_an_epoch_ended(history, asked):
    """C2.8, C4.3: the largest epoch up to the one asked for, and the first offset that is of a higher one."""
    cache, log = follow(history)
    if asked < 0 or asked > log[-1]:
        assert cache.end_offset_for(asked, len(log)) == UNDEFINED
        return
    up_to = [epoch for epoch in log if epoch <= asked]
    end = next((offset for offset, epoch in enumerate(log) if epoch > asked), len(log))
    assert cache.end_offset_for(asked, len(log)) == (max(up_to, default=asked), end)


@given(histories, st.integers(0, 45), st.integers(0, 45))
def test_cut_at_both_ends(history, start, end):
    """C4.4: no entry at or beyond the log end after truncation; what is left answers as before."""
    cache, log = follow(history)
    end = min(end, len(log))
    start = min(start, end)
    before = list(cache.entries)
    changed = cache.truncate_from_end(end)
    assert cache.entries == from_scan(log[:end]) and changed == (cache.entries != before)
    before = list(cache.entries)
    changed = cache.truncate_from_start(start)
    if start < end:
        assert cache.entries == from_scan(log[:end], start)
    assert changed == (cache.entries != before)
    for offset in range(start, end):
        assert cache.epoch_for(offset) == log[offset]
    assert start == 0 or start == end or cache.epoch_for(start - 1) is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_any_assignments_leave_both_rising_and_the_last_one_standing(assignments):
    cache = EpochCache("unused")
    for epoch, start in assignments:
        before = list(cache.entries)
        changed = cache.assign(epoch, start)
        assert changed == (cache.entries != before)
        assert cache.latest == epoch and cache.entries[-1][1] <= start
        epochs, starts = [e[0] for e in cache.entries], [e[1] for e in cache.entries]
        assert epochs == sorted(set(epochs)) and starts == sorted(set(starts))


def test_epoch_zero_counts():
    """C4.4 (KAFKA-10432)."""
    cache = EpochCache("unused")
    assert cache.assign(0, 0) and cache.latest == 0 and cache.end_offset_for(0, 7) == (0, 7)


@pytest.mark.parametrize(
    "text", ["0\n1\n0\n", "0\n1\n0 0 0\n", "0\n2\n0 0\n0 5\n", "0\n2\n0 5\n1 5\n", "0\n1\n-1 0\n", "0\n2\n0 0\n", "?"]
)
def test_broken_files(text, tmp_path):
    with pytest.raises(InvalidFile):
        parse_epochs(text.encode())
    path = f"{tmp_path}/leader-epoch-checkpoint"
    replace_file(Disk(), path, text.encode())
    with pytest.raises(InvalidFile, match="leader-epoch-checkpoint"):
        EpochCache.load(Disk(), path)


def test_a_newer_version_is_told_from_damage():
    with pytest.raises(NewerVersion):
        parse_epochs(b"1\n0\n")


def test_saved_and_loaded(tmp_path):
    """C3.4."""
    path = f"{tmp_path}/leader-epoch-checkpoint"
    assert EpochCache.load(Disk(), path).entries == []
    cache = EpochCache(path)
    cache.assign(3, 0)
    cache.assign(5, 10)
    cache.save(Disk())
    assert EpochCache.load(Disk(), path).entries == [(3, 0), (5, 10)]
    cache.clear()
    cache.save(Disk())
    assert EpochCache.load(Disk(), path).entries == [] and Disk().list(str(tmp_path)) == ["leader-epoch-checkpoint"]
