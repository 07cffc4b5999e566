"""Whose is the data directory, and are partitions in it made, deleted and closed so that a crash cannot undo it?

Verified: C1.3 (entries), C1.14, C2.10 (marker), C3.1, C3.3, C3.4, C3.5, C3.7, C6.3, C9.5, C9.6, and every refusal at start-up: one line,
nothing changed. The order of calls is read from a disk that writes them down.
"""

import dataclasses
import errno
import os
import uuid

import pytest
from hook_disk import HookDisk, failing

from refbroker.config import Config, LogConfig
from refbroker.errors import ErrorCode, KafkaError
from refbroker.log import checkpoints, segment
from refbroker.log.checkpoints import CLEAN_SHUTDOWN, META_PROPERTIES, RECOVERY_POINT
from refbroker.log.directory import LogDirectory, StartupError
from refbroker.log.disk import Disk
from refbroker.log.index import parse_offset_index
from refbroker.log.records import Record, build

NOW_MS = 1_795_446_000_000
KEY = ("t", 0)
TOPIC_ID = uuid.UUID(int=77)


def batch(count=1, **settings):
    return build([Record(index, NOW_MS, b"k", b"v" * 20) for index in range(count)], **settings)


def opened(path, disk=None, config=None, **settings):
    logs = LogDirectory(disk or Disk(), str(path), config or Config(), lambda: NOW_MS, **settings)
    logs.open(lambda metadata: lambda topic: LogConfig(file_delete_delay_ms=10))
    return logs


def tree(path):
    return {str(file.relative_to(path)): file.read_bytes() if file.is_file() else None for file in sorted(path.rglob("*"))}


# ---------------------------------------------------------------- refusals


def refused(path, **settings):
    before = tree(path) if path.exists() else None
    with pytest.raises(StartupError) as error:
        opened(path, **settings)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    assert (tree(path) if path.exists() else None) == before
    return str(error.value)


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "data"
    logs = opened(path)
    logs.create(*KEY, TOPIC_ID, LogConfig()).append(batch(3), NOW_MS)
    assert logs.close()
    return path


def test_a_new_directory_becomes_ours(tmp_path):
    logs = opened(tmp_path / "data")
    meta = checkpoints.read_meta_properties(Disk(), str(tmp_path / "data" / META_PROPERTIES))
    assert (meta.node_id, meta.cluster_id, meta.directory_id) == (1, logs.cluster_id, logs.directory_id)
    assert len(logs.cluster_id) == len(logs.directory_id) == 22
    logs.close()
    again = opened(tmp_path / "data")
    assert (again.cluster_id, again.directory_id) == (logs.cluster_id, logs.directory_id)


def test_refuses_what_is_not_ours(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"meow")
    assert "not a data directory" in refused(tmp_path / "photos")
    (tmp_path / "file").write_bytes(b"")
    assert "not a directory" in refused(tmp_path / "file")


def test_refuses_another_nodes(data):
    assert "node.id=1, this broker has 2" in refused(data, config=Config({"node.id": 2}))


def test_refuses_what_another_process_has_open(data):
    logs = opened(data)
    assert "in use by another process" in refused(data)
    logs.close()


def test_refuses_newer_formats_and_damaged_files(data):
    for name, content, told in (
        (META_PROPERTIES, b"version=2\ncluster.id=x\nnode.id=1\n", "newer version"),
        (META_PROPERTIES, b"version=1\n", "damaged"),
        (RECOVERY_POINT, b"1\n0\n", "newer version"),
        (RECOVERY_POINT, b"0\n7\n", "damaged"),
        (CLEAN_SHUTDOWN, b'{"version":9,"brokerEpoch":1}', "newer version"),
    ):
        was = (data / name).read_bytes()
        (data / name).write_bytes(content)
        assert told in refused(data), name
        (data / name).write_bytes(was)
    assert opened(data).clean_start


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_refuses_the_unreadable(data):
    data.chmod(0)
    try:
        with pytest.raises(StartupError, match="Permission denied"):
            opened(data)
    finally:
        data.chmod(0o755)


def test_a_disk_that_cannot_be_read_is_one_line(data):
    disk = HookDisk()
    disk.hook = failing("open", META_PROPERTIES, errno.EACCES)
    assert "Permission denied" in refused(data, disk=disk)
    assert opened(data).clean_start


# ---------------------------------------------------------------- the marker


def test_the_marker_is_durably_gone_before_anything_is_loaded(data):
    disk = HookDisk()
    logs = opened(data, disk)
    unlinked = disk.calls.index(("unlink", str(data / CLEAN_SHUTDOWN)))
    assert disk.calls[unlinked + 1] == ("sync_dir", str(data))
    assert not any("/t-0" in path for _, path in disk.calls[:unlinked])
    assert logs.clean_start and logs.reports[KEY].clean and not logs.reports[KEY].actions


@pytest.mark.parametrize("content", [b"", b"\0" * 30, b"yes", b'{"version":0}', b"\xff", b"[" * 60000], ids=repr)
def test_only_a_right_marker_counts(data, content):
    (data / CLEAN_SHUTDOWN).write_bytes(content)
    logs = opened(data)
    assert not logs.clean_start and not (data / CLEAN_SHUTDOWN).exists()
    assert logs.partitions[KEY].log_end_offset == 3


def test_a_clean_stop_ends_with_the_marker_and_an_idle_one_writes_nothing_else(data):
    disk = HookDisk()
    logs = opened(data, disk)
    logs.partitions[KEY].append(batch(), NOW_MS)
    disk.calls.clear()
    assert logs.close(broker_epoch=17)
    assert (data / CLEAN_SHUTDOWN).read_bytes() == b'{"version":0,"brokerEpoch":17}'
    assert disk.calls[-1] == ("sync_dir", str(data)) and disk.calls[-2] == ("rename", str(data / f"{CLEAN_SHUTDOWN}.tmp"))
    log_synced = disk.calls.index(("sync", str(data / "t-0" / f"{0:020d}.log")))
    point_synced = disk.calls.index(("sync", str(data / f"{RECOVERY_POINT}.tmp")))
    entries_synced = disk.calls.index(("sync_dir", str(data / "t-0")))
    assert log_synced < entries_synced < point_synced < len(disk.calls) - 2
    assert disk.count("sync", ".snapshot") == disk.count("sync", ".index") == disk.count("sync", ".timeindex") == 1
    disk.calls.clear()
    logs = opened(data, disk)
    assert logs.broker_epoch == 17
    disk.calls.clear()
    assert logs.close()
    assert {path for call, path in disk.calls if call == "sync"} == {str(data / f"{CLEAN_SHUTDOWN}.tmp")}


@pytest.mark.parametrize("call", ["sync", "sync_dir", "create", "append", "rename"])
def test_no_marker_after_a_stop_that_failed(data, call):
    """C3.3: whichever call fails."""
    number = 0
    while True:
        disk = HookDisk()
        logs = opened(data, disk)
        logs.partitions[KEY].append(batch(), NOW_MS)
        end = logs.partitions[KEY].log_end_offset
        countdown = [number]

        def hook(each, path):
            if each == call:
                countdown[0] -= 1
                if countdown[0] == -1:
                    raise OSError(errno.EIO, "Input/output error", path)

        disk.hook = hook
        clean = logs.close()
        disk.hook = None
        struck = countdown[0] < 0
        assert clean == (data / CLEAN_SHUTDOWN).exists()
        assert clean != struck
        logs = opened(data)
        assert logs.clean_start == clean and logs.partitions[KEY].log_end_offset == end
        logs.close()
        if not struck:
            break
        number += 1
    assert number > 0


# ---------------------------------------------------------------- making and deleting


def test_order_of_making_a_partition(tmp_path):
    """C1.3: both files are synced, then the partition's directory, then its entry; many share the last."""
    disk = HookDisk()
    logs = opened(tmp_path / "data", disk)
    disk.calls.clear()
    logs.create_many([("t", number, TOPIC_ID, LogConfig()) for number in range(3)])
    root = str(tmp_path / "data")
    assert disk.count("sync_dir", "data") == 4 and disk.calls[-1] == ("sync_dir", root)
    for number in range(3):
        directory = f"{root}/t-{number}"
        mine = [(call, path.removeprefix(directory)) for call, path in disk.calls if path.startswith(directory)]
        assert mine[0] == ("mkdir", "") and mine[-1] == ("sync_dir", "")
        assert ("sync", "/partition.metadata") in mine and ("sync", "/leader-epoch-checkpoint") in mine
        assert mine[-2] == ("create", f"/{0:020d}.log")
    assert (tmp_path / "data/t-1/partition.metadata").read_bytes() == b"version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAATQ"
    assert (tmp_path / "data/t-1/leader-epoch-checkpoint").read_bytes() == b"0\n1\n0 0\n"


@pytest.mark.parametrize("call", ["mkdir", "create", "append", "sync", "sync_dir"])
def test_making_partitions_is_all_or_nothing(tmp_path, call):
    for number in range(3):
        disk = HookDisk()
        logs = opened(tmp_path / f"data{number}", disk)
        countdown = [number]

        def hook(each, path):
            if each == call:
                countdown[0] -= 1
                if countdown[0] == -1:
                    raise OSError(errno.ENOSPC, "No space left on device", path)

        disk.hook = hook
        with pytest.raises(KafkaError) as error:
            logs.create_many([("t", each, TOPIC_ID, LogConfig()) for each in range(3)])
        assert error.value.code is ErrorCode.KAFKA_STORAGE_ERROR
        assert not logs.partitions and not list((tmp_path / f"data{number}").glob("t-*"))
        disk.hook = None
        assert len(logs.create_many([("t", each, TOPIC_ID, LogConfig()) for each in range(3)])) == 3


def test_a_partition_that_was_not_made_is_removed_at_start(tmp_path):
    logs = opened(tmp_path / "data")
    logs.create(*KEY, TOPIC_ID, LogConfig())
    logs.close(clean=False)
    for name in ("a-0", "b-0", "c-0", "d-0"):
        (tmp_path / "data" / name).mkdir()
    (tmp_path / "data/b-0/partition.metadata").write_bytes(b"vers")
    (tmp_path / "data/c-0/partition.metadata").write_bytes(checkpoints.format_partition_metadata(TOPIC_ID))
    (tmp_path / f"data/d-0/{0:020d}.log").write_bytes(b"")
    logs = opened(tmp_path / "data")
    assert set(logs.partitions) == {KEY, ("c", 0)}  # c had got far enough to be somebody's
    assert {path.name for path in (tmp_path / "data").glob("?-0")} == {"t-0", "c-0"}
    logs.partitions["c", 0].append(batch(), NOW_MS)


def test_deleted_and_made_again(tmp_path):
    """C9.5, C9.6: the new one inherits nothing, whenever the process dies."""
    disk = HookDisk()
    logs = opened(tmp_path / "data", disk)
    log = logs.create(*KEY, TOPIC_ID, LogConfig(file_delete_delay_ms=10))
    log.append(batch(5), NOW_MS)
    log.flush()
    log.delete_records(4)
    logs.checkpoint()
    waiter = type("Waiter", (), {"woken": False, "wake": lambda self: setattr(self, "woken", True)})()
    log.waiters.add(waiter)
    disk.calls.clear()
    job = log.begin_flush()
    logs.delete(*KEY)
    renamed = disk.calls.index(("rename", log.directory))
    assert disk.calls[renamed + 1] == ("sync_dir", str(tmp_path / "data"))
    assert waiter.woken and KEY not in logs.partitions and job is None
    assert "t 0" not in (tmp_path / "data" / RECOVERY_POINT).read_text()
    with pytest.raises(KafkaError):
        log.append(batch(), NOW_MS)
    new = logs.create(*KEY, uuid.UUID(int=78), LogConfig())
    assert (new.log_start_offset, new.log_end_offset, new.recovery_point) == (0, 0, 0)
    new.append(batch(2), NOW_MS)
    assert logs.sweep(NOW_MS) == 0 and len(list((tmp_path / "data").glob("*-delete"))) == 1
    assert logs.sweep(NOW_MS + 10) == 1 and not list((tmp_path / "data").glob("*-delete"))
    logs.close(clean=False)
    logs = opened(tmp_path / "data")
    assert logs.partitions[KEY].topic_id == uuid.UUID(int=78) and logs.partitions[KEY].log_end_offset == 2


def test_a_flush_in_flight_does_not_hurt_a_deletion(tmp_path):
    logs = opened(tmp_path / "data")
    log = logs.create(*KEY, TOPIC_ID, LogConfig())
    log.append(batch(), NOW_MS)
    log.roll(NOW_MS)
    job = log.begin_flush()
    logs.delete(*KEY)
    with pytest.raises(OSError) as error:
        job.run()
    log.finish_flush(job, error.value)
    assert logs.offline is None


def test_stray_and_waiting_directories(tmp_path):
    logs = opened(tmp_path / "data")
    logs.create(*KEY, TOPIC_ID, LogConfig()).append(batch(), NOW_MS)
    long = logs.create("n" * 249, 0, TOPIC_ID, LogConfig())
    assert long.append(batch(), NOW_MS).base_offset == 0
    logs.delete("n" * 249, 0)
    logs.stray(*KEY)
    logs.close(clean=False)
    logs = opened(tmp_path / "data")
    assert not logs.partitions
    names = [path.name for path in (tmp_path / "data").glob("*-0.*")]
    assert len(names) == 1 and names[0].startswith("t-0.") and names[0].endswith("-stray")


# ---------------------------------------------------------------- checkpoints


def test_the_recovery_point_is_lowered_before_a_truncation(tmp_path):
    """C3.7, C3.1: and what was collected before is not written after it."""
    disk = HookDisk()
    logs = opened(tmp_path / "data", disk)
    log = logs.create(*KEY, TOPIC_ID, LogConfig())
    for _ in range(4):
        log.append(batch(), NOW_MS)
    log.flush()
    late = logs.begin_checkpoint()
    logs.checkpoint()
    assert "t 0 4" in (tmp_path / "data" / RECOVERY_POINT).read_text()
    disk.calls.clear()
    assert log.truncate(2) == 2
    lowered = disk.calls.index(("rename", str(tmp_path / "data" / f"{RECOVERY_POINT}.tmp")))
    assert disk.calls[lowered + 1] == ("sync_dir", str(tmp_path / "data"))
    assert lowered < disk.calls.index(("truncate", log.active.path)) < disk.calls.index(("sync", log.active.path))
    late()
    assert "t 0 2" in (tmp_path / "data" / RECOVERY_POINT).read_text()


def test_an_idle_checkpoint_writes_nothing(tmp_path):
    disk = HookDisk()
    logs = opened(tmp_path / "data", disk)
    logs.create(*KEY, TOPIC_ID, LogConfig()).append(batch(), NOW_MS)
    logs.checkpoint()
    disk.calls.clear()
    logs.checkpoint()
    assert disk.calls == []


def test_retention_makes_the_log_start_durable_first(tmp_path):
    """C3.5: deletions that a power cut undoes lie below it. The files go later."""
    disk = HookDisk()
    logs = opened(tmp_path / "data", disk)
    log = logs.create(*KEY, TOPIC_ID, LogConfig(segment_bytes=200, file_delete_delay_ms=10))
    for _ in range(5):
        log.append(batch(), NOW_MS)
    old = log.read(0, 1000).regions
    log.set_config(dataclasses.replace(log.config, retention_bytes=250))
    disk.calls.clear()
    assert log.retain(NOW_MS) > 0
    start = log.log_start_offset
    assert start == log.segments[0].base_offset > 0
    written = disk.calls.index(("rename", str(tmp_path / "data" / f"{checkpoints.LOG_START}.tmp")))
    deleted = disk.calls.index(("rename", str(tmp_path / "data/t-0" / f"{0:020d}.log")))
    assert disk.calls[written + 1][0] == "sync_dir" and written < deleted and disk.calls[-1] == ("sync_dir", log.directory)
    assert len(old.file.pread(old.size, old.position)) == old.size  # a fetch in flight is not disturbed
    logs.sweep(NOW_MS + 10)
    assert not list((tmp_path / "data/t-0").glob("*.deleted"))


def test_retention_never_takes_what_is_not_visible(tmp_path):
    """C4.7."""
    logs = opened(tmp_path / "data")
    log = logs.create(*KEY, TOPIC_ID, LogConfig(segment_bytes=100, flush_messages=1, retention_ms=1, file_delete_delay_ms=10))
    for _ in range(4):
        log.append(batch(), NOW_MS)
    assert log.retain(NOW_MS + 1000) == 0
    log.flush()
    log.append(batch(), NOW_MS)
    log.retain(NOW_MS + 1000)
    assert (log.log_start_offset, log.log_end_offset) == (4, 5)
    log.flush()
    log.retain(NOW_MS + 1000)  # the active one too, by a new one
    assert (log.log_start_offset, log.log_end_offset, log.size_bytes) == (5, 5, 0)
    assert log.append(batch(), NOW_MS).base_offset == 5


# ---------------------------------------------------------------- errors while appending


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.EDQUOT])
def test_an_append_that_fails_for_want_of_space_leaves_no_trace(tmp_path, number):
    """C1.14, C6.3: the request fails; the next one gets the same offset and sequence."""
    disk = HookDisk()
    logs = opened(tmp_path / "data", disk)
    log = logs.create(*KEY, TOPIC_ID, LogConfig(segment_bytes=200, index_interval_bytes=0))
    for sequence in range(6):
        settings = {"producer_id": 1, "producer_epoch": 0, "base_sequence": sequence}
        for call, part in (("append", ".log"), ("create", ".log"), ("create", ".snapshot"), ("append", ".snapshot")):
            end, size = log.log_end_offset, log.size_bytes
            disk.hook = failing(call, part, number)
            try:
                log.append(batch(**settings), NOW_MS)
                disk.hook = None
                assert call != "append" or part != ".log"
                break
            except KafkaError as error:
                assert error.code is ErrorCode.KAFKA_STORAGE_ERROR
            assert (log.log_end_offset, log.high_watermark, log.size_bytes) == (end, end, size)
            assert logs.offline is None
        else:
            disk.hook = None
            assert log.append(batch(**settings), NOW_MS)[:2] == (sequence, sequence)
    assert [each.base_offset for each in log.read_batches(0)] == list(range(log.log_end_offset))
    logs.close(clean=False)
    assert opened(tmp_path / "data").partitions[KEY].log_end_offset == 6


def test_an_index_that_cannot_be_written_fails_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(segment, "ENTRY_GROUP_BYTES", 0)
    disk = HookDisk()
    logs = opened(tmp_path / "data", disk)
    log = logs.create(*KEY, TOPIC_ID, LogConfig(index_interval_bytes=0))
    disk.hook = failing("append", "index", errno.ENOSPC, times=10)
    for offset in range(20):
        assert log.append(batch(), NOW_MS + offset).base_offset == offset
    assert [log.read(offset, 200).regions.position for offset in range(20)] == [
        position for position, _ in log.active.headers_from(0)
    ]
    assert logs.offline is None and logs.close()
    log = opened(tmp_path / "data").partitions[KEY]
    assert [next(log.read_batches(offset)).base_offset for offset in range(20)] == list(range(20))


def test_index_entries_that_a_kill_took_are_found_again_in_the_log(tmp_path):
    """C5.5. They are in memory, and reach the files when the segment is closed."""
    logs = opened(tmp_path / "data")
    log = logs.create(*KEY, TOPIC_ID, LogConfig(index_interval_bytes=0))
    for offset in range(20):
        log.append(batch(), NOW_MS + offset)
    entries = log.active.offset_index.entries, log.active.time_index.entries
    assert len(entries[0]) == 19 and not os.path.exists(log.active.offset_index.path)
    logs.close(clean=False)
    logs = LogDirectory(Disk(), str(tmp_path / "data"), Config(), lambda: NOW_MS)
    logs.open(lambda metadata: lambda topic: LogConfig(index_interval_bytes=0))
    log = logs.partitions[KEY]
    assert (log.active.offset_index.entries, log.active.time_index.entries[:19]) == entries
    log.append(batch(), NOW_MS + 20)
    last = log.active.offset_index.entries
    assert len(last) == 20 and logs.close()
    with open(log.active.offset_index.path, "rb") as file:
        assert parse_offset_index(file.read()) == last


def test_a_disk_error_takes_the_directory_offline(tmp_path):
    disk = HookDisk()
    logs = opened(tmp_path / "data", disk)
    log = logs.create(*KEY, TOPIC_ID, LogConfig())
    log.append(batch(), NOW_MS)
    disk.hook = failing("append", ".log", errno.EIO)
    with pytest.raises(KafkaError):
        log.append(batch(), NOW_MS)
    assert logs.offline and "Input/output error" in log.offline
    with pytest.raises(KafkaError):
        logs.create("u", 0, TOPIC_ID, LogConfig())


def test_idle_partitions_hold_one_descriptor_each(tmp_path):
    logs = opened(tmp_path / "data")
    before = len(os.listdir("/proc/self/fd"))
    made = logs.create_many([("many", number, TOPIC_ID, LogConfig()) for number in range(50)])
    assert len(os.listdir("/proc/self/fd")) <= before + 50
    for log in made:
        log.append(batch(), NOW_MS)
    logs.close()
    logs = opened(tmp_path / "data")
    assert len(logs.partitions) == 50 and len(os.listdir("/proc/self/fd")) <= before + 102
