"""What a partition answers where a file has decayed or cannot be had for a moment, and where a question has no plain answer.

Verified: C2.5 (one partition's trouble, told at once), C1.13, C1.14, C4.2, C5.4, C5.5, C6.1, with the real files of a clean stop.
"""

import errno
import os
import uuid

import pytest
from hook_disk import HookDisk, failing

from refbroker.config import Config, LogConfig
from refbroker.errors import ErrorCode, KafkaError
from refbroker.log import segment as segments
from refbroker.log.batch import parse_all
from refbroker.log.directory import LogDirectory
from refbroker.log.disk import Disk
from refbroker.log.index import TIME_ENTRY
from refbroker.log.records import Record, build

NOW_MS = 1_795_446_000_000
KEY, TOPIC_ID = ("t", 0), uuid.UUID(int=7)
CONFIG = LogConfig(segment_bytes=1 << 20, index_interval_bytes=0, file_delete_delay_ms=0)


def batch(timestamp=NOW_MS, value=b"v" * 20, count=1, **settings):
    return build([Record(index, timestamp, b"k", value) for index in range(count)], **settings)


def opened(path, disk=None, config=CONFIG):
    logs = LogDirectory(disk or Disk(), f"{path}/data", Config(), lambda: NOW_MS)
    logs.open(lambda metadata: lambda topic: config)
    return logs


def made(path, batches=8, config=CONFIG, **how):
    """A log of batches a second apart; then a clean stop, and a start."""
    logs = opened(path, config=config)
    log = logs.create(*KEY, TOPIC_ID, config)
    for number in range(batches):
        log.append(batch(NOW_MS + 1000 * number, **how), NOW_MS)
    logs.create("other", 0, TOPIC_ID, config)
    assert logs.close()
    return path / "data" / "t-0"


def refuses(call, code=ErrorCode.KAFKA_STORAGE_ERROR):
    with pytest.raises(KafkaError) as error:
        call()
    assert error.value.code is code


ASKED = {
    "read": lambda log: log.read(5, 1000),
    "read_batches": lambda log: list(log.read_batches(5)),
    "offset_for_time": lambda log: log.offset_for_time(NOW_MS + 5000),
    "offset_of_max_timestamp": lambda log: log.offset_of_max_timestamp(),
    "truncate": lambda log: log.truncate(5),
    "retain": lambda log: log.retain(NOW_MS + 10**12),
    "append": lambda log: log.append(batch(), NOW_MS),
}


@pytest.mark.parametrize("asked", ASKED)
def test_a_header_that_decays_under_a_running_broker_is_this_partitions_end(tmp_path, asked):
    """Also where no index is left to go by: nothing of it is served, the rest is."""
    directory = made(tmp_path)
    logs = opened(tmp_path)
    log = logs.partitions[KEY]
    content = bytearray((directory / f"{0:020d}.log").read_bytes())
    content[16] = 9  # the magic of the first batch
    (directory / f"{0:020d}.log").write_bytes(content)
    for suffix in ("index", "timeindex"):
        (directory / f"{0:020d}.{suffix}").unlink()
    refuses(lambda: ASKED[asked](log))
    assert "magic 9, 2 expected" in log.offline and logs.offline is None
    for ask in ASKED.values():
        refuses(lambda ask=ask: ask(log))
    assert log.begin_flush() is None
    log.set_config(CONFIG)  # of a topic that is altered: without a flush of what is offline
    assert logs.partitions["other", 0].append(batch(), NOW_MS).base_offset == 0
    assert logs.close() is False and "no clean" not in (logs.offline or "")


def test_an_index_that_leads_into_the_middle_of_a_batch_is_made_anew(tmp_path):
    directory = made(tmp_path)
    path = directory / f"{0:020d}.index"
    entries = bytearray(path.read_bytes())
    entries[8 * 3 + 7] += 1  # the position of the fourth entry
    path.write_bytes(entries)
    log = opened(tmp_path).partitions[KEY]
    assert [next(log.read_batches(offset)).base_offset for offset in range(8)] == list(range(8))
    entries[8 * 3 + 7] -= 1
    assert path.read_bytes() == entries


def test_a_time_index_that_lies_in_its_middle_is_made_anew(tmp_path):
    """C5.4, C5.5: it looks well, and the last entry is right."""
    directory = made(tmp_path)
    path = directory / f"{0:020d}.timeindex"
    right = path.read_bytes()
    timestamp, offset = TIME_ENTRY.unpack_from(right, 12 * 3)
    path.write_bytes(right[:36] + TIME_ENTRY.pack(timestamp, offset + 1) + right[48:])
    log = opened(tmp_path).partitions[KEY]
    for number in range(8):
        assert log.offset_for_time(NOW_MS + 1000 * number)[:2] == (NOW_MS + 1000 * number, number)
    assert path.read_bytes() == right


def test_an_index_that_ends_too_early_is_made_anew(tmp_path, monkeypatch):
    """Not for the sake of the answers, which are right all the same, but of their speed."""
    monkeypatch.setattr(segments, "INDEX_GAP_BYTES_MAX", 300)
    directory = made(tmp_path)
    path = directory / f"{0:020d}.index"
    right = path.read_bytes()
    path.write_bytes(right[:16])
    log = opened(tmp_path).partitions[KEY]
    assert next(log.read_batches(6)).base_offset == 6 and path.read_bytes() == right


def test_the_first_append_after_a_clean_start_may_begin_a_segment(tmp_path):
    """The one before is finished first: its last time index entry included, though nothing of it had been read yet."""
    directory = made(tmp_path, config=LogConfig(index_interval_bytes=10_000))
    assert (directory / f"{0:020d}.timeindex").stat().st_size == 12
    (directory / f"{0:020d}.timeindex").write_bytes(b"")
    config = LogConfig(index_interval_bytes=10_000, segment_ms=1)
    logs = opened(tmp_path, config=config)
    log = logs.partitions[KEY]
    assert log.append(batch(NOW_MS + 9000), NOW_MS).base_offset == 8 and len(log.segments) == 2
    assert TIME_ENTRY.unpack((directory / f"{0:020d}.timeindex").read_bytes()) == (NOW_MS + 7000, 7)
    assert log.offset_for_time(NOW_MS + 6500)[:2] == (NOW_MS + 7000, 7)


def test_a_new_segment_takes_nothing_over_from_a_file_of_its_name(tmp_path):
    directory = made(tmp_path)
    log = opened(tmp_path).partitions[KEY]
    for suffix in ("log", "index", "timeindex", "txnindex"):
        (directory / f"{8:020d}.{suffix}").write_bytes(b"of another life")
    assert log.roll(NOW_MS)
    assert log.append(batch(), NOW_MS).base_offset == 8
    assert log.active.files() == [str(directory / f"{8:020d}.log")]
    assert [one.base_offset for one in parse_all((directory / f"{8:020d}.log").read_bytes())] == [8]


@pytest.mark.parametrize("codec, flip", [(0, 61), (1, 70)])
def test_a_batch_that_cannot_be_opened_is_found_by_its_header(tmp_path, codec, flip):
    """A producer's nonsense under a right CRC: its first offset, which is not too late (C5.4)."""
    logs = opened(tmp_path)
    log = logs.create(*KEY, TOPIC_ID, CONFIG)
    log.append(batch(), NOW_MS)
    data = batch(NOW_MS + 5, count=3, codec=codec)
    data[flip] ^= 0x55
    data[17:21] = next(parse_all(data)).computed_crc().to_bytes(4, "big")
    log.append(data, NOW_MS)
    assert log.offset_for_time(NOW_MS + 1) == (NOW_MS + 5, 1, 0) == log.offset_of_max_timestamp()
    log.delete_records(3)
    assert log.offset_for_time(0) == (NOW_MS + 5, 3, 0) == log.offset_of_max_timestamp()


def test_times_of_a_log_that_is_stamped_by_the_broker(tmp_path):
    config = LogConfig(message_timestamp_type="LogAppendTime")
    log = opened(tmp_path, config=config).create(*KEY, TOPIC_ID, config)
    for number in range(3):
        log.append(batch(5, count=2), NOW_MS + number)
    assert log.offset_for_time(NOW_MS + 1) == (NOW_MS + 1, 2, 0)
    assert log.offset_of_max_timestamp() == (NOW_MS + 2, 4, 0)
    log.delete_records(3)
    assert log.offset_for_time(0) == (NOW_MS + 1, 3, 0)


def test_times_do_not_look_beyond_the_high_watermark(tmp_path):
    """C4.2: and when everything is visible again, they do."""
    config = LogConfig(flush_messages=1)
    log = opened(tmp_path, config=config).create(*KEY, TOPIC_ID, config)
    log.append(batch(NOW_MS), NOW_MS)
    log.flush()
    log.append(batch(NOW_MS + 5), NOW_MS)
    assert log.offset_for_time(NOW_MS + 1) is None and log.offset_of_max_timestamp()[:2] == (NOW_MS, 0)
    log.set_config(LogConfig())
    assert log.high_watermark == 2 and log.recovery_point == 1
    assert log.offset_for_time(NOW_MS + 1)[:2] == log.offset_of_max_timestamp()[:2] == (NOW_MS + 5, 1)
    assert log.read(1, 1000).regions is not None


def test_what_is_refused_or_nothing(tmp_path):
    config = LogConfig(segment_bytes=100)
    log = opened(tmp_path, config=config).create(*KEY, TOPIC_ID, config)
    refuses(lambda: log.append(batch(value=b"v" * 100), NOW_MS), ErrorCode.RECORD_LIST_TOO_LARGE)
    for _ in range(3):
        log.append(batch(), NOW_MS)
    assert log.read(1, 10).regions is None and log.read(1, 10, min_one=True).regions.size > 10
    assert log.truncate(3) == log.truncate(9) == 3
    assert log.delete_records(-1) == log.log_start_offset == 3 == log.high_watermark
    refuses(lambda: log.truncate(2), ErrorCode.OFFSET_OUT_OF_RANGE)
    assert [one.base_offset for one in log.read_batches(0, upto=2)] == [0, 1]


def test_a_flush_that_cannot_open_a_file_just_now_is_only_late(tmp_path):
    """C1.14: what an earlier process had rolled and not flushed."""
    config = LogConfig(segment_bytes=200)
    logs = opened(tmp_path, config=config)
    log = logs.create(*KEY, TOPIC_ID, config)
    for _ in range(6):
        log.append(batch(), NOW_MS)
    logs.close(clean=False)
    disk = HookDisk()
    logs = opened(tmp_path, disk, config)
    log = logs.partitions[KEY]
    assert log.unfinished and log.recovery_point == 0
    disk.hook = failing("open", ".log", errno.EMFILE)
    refuses(log.flush)
    assert logs.offline is None and log.recovery_point == 0
    log.flush()
    assert log.recovery_point == 6 and not log.unfinished


def test_a_partition_is_made_once(tmp_path):
    logs = opened(tmp_path)
    log = logs.create(*KEY, TOPIC_ID, CONFIG)
    with pytest.raises(KafkaError) as error:
        logs.create_many([("new", 0, TOPIC_ID, CONFIG), (*KEY, TOPIC_ID, CONFIG)])
    assert error.value.code is ErrorCode.TOPIC_ALREADY_EXISTS
    assert list(logs.partitions.values()) == [log] and not (tmp_path / "data" / "new-0").exists()


@pytest.mark.parametrize("call, part", [("rename", "t-0"), ("sync_dir", "data")])
def test_a_deletion_that_fails_is_final(tmp_path, call, part):
    made(tmp_path)
    disk = HookDisk()
    logs = opened(tmp_path, disk)
    disk.hook = failing(call, part, errno.EIO)
    refuses(lambda: logs.delete(*KEY))
    assert "deletion failed" in logs.offline and logs.partitions["other", 0].offline
    reason = logs.offline
    logs.fail("once more")
    assert logs.offline == reason


def test_a_partition_that_can_neither_be_made_nor_removed(tmp_path):
    disk = HookDisk()
    logs = opened(tmp_path, disk)
    inner = failing("create", ".log", errno.ENOSPC)

    def hook(call, path):
        inner(call, path)
        if call == "unlink" and os.path.basename(path) == "partition.metadata":
            raise OSError(errno.EIO, "no", path)

    disk.hook = hook
    refuses(lambda: logs.create(*KEY, TOPIC_ID, CONFIG))
    assert "neither made nor removed" in logs.offline


def test_files_of_a_partition_that_went_meanwhile_are_no_more_to_be_unlinked(tmp_path):
    config = LogConfig(segment_bytes=200, retention_bytes=0, file_delete_delay_ms=10)
    logs = opened(tmp_path, config=config)
    log = logs.create(*KEY, TOPIC_ID, config)
    for _ in range(4):
        log.append(batch(), NOW_MS)
    assert log.retain(NOW_MS) > 0
    logs.delete(*KEY)
    assert logs.sweep(NOW_MS) == 0 and logs.sweep(NOW_MS + 10) > 1
    assert not [path for path in (tmp_path / "data").iterdir() if path.is_dir()]
