"""Do batches that come together end up as if they had come one behind the other?"""

import errno
import uuid
from types import SimpleNamespace

import pytest
from hook_disk import HookDisk, failing
from hypothesis import given, settings
from hypothesis import strategies as st

from refbroker.config import Config, LogConfig
from refbroker.errors import ErrorCode, KafkaError
from refbroker.log import appends
from refbroker.log.directory import LogDirectory
from refbroker.log.disk import File
from refbroker.log.records import Record, build

NOW_MS = 1_795_446_000_000

CONFIGS = st.builds(
    LogConfig, segment_bytes=st.sampled_from([300, 700, 1 << 20]), segment_ms=st.sampled_from([50, 10**9]),
    segment_index_bytes=st.sampled_from([36, 10 << 20]), index_interval_bytes=st.sampled_from([0, 150]),
    flush_messages=st.sampled_from([1, 3, 10**9]), message_timestamp_type=st.sampled_from(["CreateTime", "LogAppendTime"]),
)  # fmt: skip


@st.composite
def batches(draw):
    """A batch as a client sends it, good or bad: (records, age, value, producer and sequence or None, damage)."""
    count, age, value = draw(st.integers(1, 3)), draw(st.integers(0, 120)), draw(st.binary(max_size=90))
    records = [Record(index, NOW_MS - age, None, value) for index in range(count)]
    who = {}
    if draw(st.booleans()):
        who = {"producer_id": draw(st.integers(1, 2)), "producer_epoch": 0, "base_sequence": draw(st.integers(0, 4))}
    data = bytearray(build(records, **who))
    if draw(st.integers(0, 9)) == 0:
        data[-1] ^= 1
    return bytes(data)


def opened(path, disk, config):
    logs = LogDirectory(disk, str(path), Config(), lambda: NOW_MS)
    logs.open(lambda metadata: lambda topic: config)
    return logs


def files(path):
    return {file.name: file.read_bytes() for file in sorted((path / "t-0").iterdir()) if file.name != "partition.metadata"}


def told(result):
    return (result.code, result.message) if isinstance(result, KafkaError) else result


@settings(deadline=None)
@given(CONFIGS, st.lists(st.lists(batches(), max_size=6), max_size=5))
def test_the_log_is_the_same_and_so_are_the_answers(tmp_path_factory, config, groups):
    root = tmp_path_factory.mktemp("appends")
    logs = {way: opened(root / way, HookDisk(), config) for way in ("together", "alone")}
    made = {way: each.create("t", 0, uuid.UUID(int=9), config) for way, each in logs.items()}
    for group in groups:
        together = made["together"].append_all([bytearray(data) for data in group], NOW_MS)
        alone = []
        for data in group:
            try:
                alone.append(made["alone"].append(bytearray(data), NOW_MS))
            except KafkaError as error:
                alone.append(error)
        assert [told(each) for each in together] == [told(each) for each in alone]
        assert made["together"].log_end_offset == made["alone"].log_end_offset
        assert made["together"].high_watermark == made["alone"].high_watermark
    assert all(each.close() for each in logs.values())
    assert files(root / "together") == files(root / "alone")


@pytest.fixture
def lab(tmp_path):
    disk, config = HookDisk(), LogConfig()
    logs = opened(tmp_path / "data", disk, config)
    log = logs.create("t", 0, uuid.UUID(int=9), config)
    log.append(batch(), NOW_MS)  # the first one of a segment is written alone
    disk.calls.clear()
    return SimpleNamespace(disk=disk, logs=logs, log=log)


def batch(**who):
    return bytearray(build([Record(0, NOW_MS, None, b"v")], **who))


def writes(lab):
    return lab.disk.count("append", ".log")


def test_what_comes_together_is_written_at_once(lab):
    results = lab.log.append_all([batch() for _ in range(64)], NOW_MS)
    assert [result.base_offset for result in results] == list(range(1, 65))
    assert writes(lab) == 1


def test_what_is_refused_keeps_nothing_from_the_others(lab):
    bad = batch()
    bad[-1] ^= 1
    one, two, three = lab.log.append_all([batch(), bad, batch()], NOW_MS)
    assert (one.base_offset, two.code, three.base_offset) == (1, ErrorCode.CORRUPT_MESSAGE, 2)
    assert writes(lab) == 1


def test_a_producer_sees_its_own_batch_before(lab):
    group = [batch(producer_id=1, producer_epoch=0, base_sequence=number) for number in (0, 1, 1, 3)]
    first, second, again, gap = lab.log.append_all(group, NOW_MS)
    assert (first.base_offset, second.base_offset, again.base_offset, again.duplicate) == (1, 2, 2, True)
    assert gap.code is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert writes(lab) == 2


def test_no_more_than_one_writev_takes(lab, monkeypatch):
    monkeypatch.setattr(appends, "RUN_BATCHES_MAX", 4)
    lab.log.append_all([batch() for _ in range(10)], NOW_MS)
    assert writes(lab) == 3
    monkeypatch.undo()
    assert all(not isinstance(each, KafkaError) for each in lab.log.append_all([batch() for _ in range(3000)], NOW_MS))
    assert lab.log.log_end_offset == 3011


def test_without_space_none_of_them_is_in_the_log_and_all_are_told(lab):
    """C1.14."""
    before, size = lab.log.log_end_offset, lab.log.size_bytes
    lab.disk.hook = failing("append", ".log", errno.ENOSPC)
    results = lab.log.append_all([batch() for _ in range(3)], NOW_MS)
    assert [result.code for result in results] == [ErrorCode.KAFKA_STORAGE_ERROR] * 3
    assert (lab.log.log_end_offset, lab.log.size_bytes, lab.logs.offline) == (before, size, None)
    assert [result.base_offset for result in lab.log.append_all([batch(), batch()], NOW_MS)] == [before, before + 1]


def test_after_an_error_of_the_disk_nothing_more_is_tried(lab):
    lab.disk.hook = failing("append", ".log", errno.EIO)
    group = [batch(producer_id=1, producer_epoch=0, base_sequence=number) for number in range(3)]
    results = lab.log.append_all(group, NOW_MS)
    assert [result.code for result in results] == [ErrorCode.KAFKA_STORAGE_ERROR] * 3
    assert writes(lab) == 1 and lab.logs.offline


def test_the_batches_are_not_copied(lab, monkeypatch):
    seen = []
    straight = File.append
    monkeypatch.setattr(File, "append", lambda self, buffers: (seen.extend(buffers), straight(self, buffers))[1])
    group = [batch() for _ in range(3)]
    lab.log.append_all(group, NOW_MS)
    assert [view.obj for view in seen] == group and all(view.obj is data for view, data in zip(seen, group))
