"""From whatever is in the directory to a valid log.

Verified: C2.2 to C2.12, C3.5, C4.4, C5.5, C6.1, C6.2, C9.1, C9.5 on directories made by hand, and C2.10 by a kill at each of recovery's
own steps. Power cuts at each step belong to the crash lab.
"""

import errno
import shutil
import uuid

import pytest
from hook_disk import HookDisk, failing
from hypothesis import given, settings
from hypothesis import strategies as st

from refbroker.config import Config, LogConfig
from refbroker.errors import KafkaError
from refbroker.log.checkpoints import CLEAN_SHUTDOWN, LOG_START, RECOVERY_POINT, read_offsets, write_offsets
from refbroker.log.directory import LogDirectory
from refbroker.log.disk import Disk
from refbroker.log.epochs import EpochCache
from refbroker.log.records import Record, build

NOW_MS = 1_795_446_000_000
KEY = ("t", 0)
CONFIG = LogConfig(segment_bytes=300, index_interval_bytes=0, file_delete_delay_ms=0)
DISK = Disk()


def batch(count=2, value=b"v" * 20, **fields):
    base = fields.get("base_offset", 0)
    return build([Record(base + index, NOW_MS, b"k", value) for index in range(count)], **fields)


def opened(path, disk=DISK, config=CONFIG, **settings):
    logs = LogDirectory(disk, str(path), Config(), lambda: NOW_MS, **settings)
    logs.open(lambda metadata: lambda topic: config)
    return logs, logs.partitions.get(KEY)


def made(path, batches=12, *, flush_at=None, clean=False, producer=None):
    """A log of several segments; the partition's directory."""
    logs, _ = opened(path)
    log = logs.create(*KEY, uuid.UUID(int=1), CONFIG)
    for number in range(batches):
        fields = {} if producer is None else {"producer_id": producer, "producer_epoch": 0, "base_sequence": 2 * number}
        log.append(batch(**fields), NOW_MS)
        if number + 1 == flush_at:
            log.flush()
            logs.checkpoint()
    logs.checkpoint()
    assert logs.close(clean=clean) == clean
    return path / "t-0"


def log_file(base, suffix=".log"):
    return f"{base:020d}{suffix}"


def bases(directory):
    return sorted(int(path.name[:20]) for path in directory.glob("*.log"))


def contents(log):
    return [bytes(each.view) for each in log.read_batches(log.segments[0].base_offset)]


def snapshot_of(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


# ---------------------------------------------------------------- holes


def test_a_hole_at_a_batch_boundary_above_the_recovery_point_ends_the_log(tmp_path):
    """C2.2, R1: the tail of one segment is gone, the next one is there: nothing may be served from behind the hole."""
    directory = made(tmp_path / "data")
    first, second, *later = bases(directory)
    size = (directory / log_file(first)).stat().st_size
    one = len(batch())
    with open(directory / log_file(first), "r+b") as file:
        file.truncate(size - one)
    logs, log = opened(tmp_path / "data")
    assert log.log_end_offset == second - 2 and bases(directory) == [first]
    dropped = [action for action in logs.reports[KEY].actions if action.what == "dropped"]
    assert {action.file for action in dropped} >= {log_file(base) for base in (second, *later)}
    assert log.append(batch(), NOW_MS).base_offset == second - 2
    assert log.leader_epoch == 1


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("harm", ["missing segment", "lost tail", "torn tail", "overlap"])
def test_damage_below_the_recovery_point_is_refused(tmp_path, harm, clean):
    """C2.5: durable records are gone. Never served as if complete, never cut silently."""
    directory = made(tmp_path / "data", clean=clean, flush_at=12)
    first, second, third, *_ = bases(directory)
    path = directory / log_file(second)
    if harm == "missing segment":
        path.unlink()
    else:
        with open(path, "r+b") as file:
            file.truncate(path.stat().st_size - {"lost tail": len(batch()), "torn tail": 5, "overlap": 0}[harm])
            if harm == "overlap":
                file.seek(0, 2)
                file.write(batch(base_offset=third, leader_epoch=0))
    before = snapshot_of(directory)
    logs, log = opened(tmp_path / "data")
    assert log.offline and KEY in logs.damaged and snapshot_of(directory) == before
    for attempt in (lambda: log.read(0, 100), lambda: log.append(batch(), NOW_MS), lambda: log.offset_for_time(0)):
        with pytest.raises(KafkaError):
            attempt()
    logs.close()
    logs, log = opened(tmp_path / "data", accept_loss=True)
    assert log.offline is None and logs.reports[KEY].lost
    assert [each.base_offset for each in log.read_batches(0)] == list(range(0, log.log_end_offset, 2))
    assert log.log_end_offset == {"missing segment": second, "lost tail": third - 2, "torn tail": third - 2, "overlap": third + 2}[harm]
    assert read_offsets(DISK, str(tmp_path / "data" / RECOVERY_POINT))[KEY] <= log.log_end_offset  # C3.1


def test_a_gap_is_no_hole_in_a_compacted_log(tmp_path):
    directory = made(tmp_path / "data", batches=2)
    with open(directory / log_file(0), "ab") as file:
        file.write(batch(base_offset=100, leader_epoch=0))
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path / "data", copy)
    _, log = opened(tmp_path / "data")
    assert log.log_end_offset == 4
    _, log = opened(copy, config=LogConfig(cleanup_policy="compact"))
    assert log.log_end_offset == 102
    assert next(log.read_batches(50)).base_offset == 100


def test_a_leader_epoch_that_falls_ends_the_log(tmp_path):
    """C2.6: no CRC covers it."""
    directory = made(tmp_path / "data", batches=0)
    with open(directory / log_file(0), "ab") as file:
        for offset, epoch in ((0, 3), (2, -1), (4, 3), (6, 2), (8, 3)):
            file.write(batch(base_offset=offset, leader_epoch=epoch))
    logs, log = opened(tmp_path / "data")
    assert log.log_end_offset == 6 and "leader epoch 2 behind 3" in str(logs.reports[KEY])
    assert log.leader_epoch == 4 and log.epochs.entries == [(3, 0), (4, 6)]


def test_the_first_batch_of_a_copied_log_may_be_anywhere(tmp_path):
    directory = made(tmp_path / "data", batches=0)
    (directory / log_file(0)).write_bytes(batch(base_offset=40))
    _, log = opened(tmp_path / "data")
    assert (log.log_start_offset, log.log_end_offset) == (0, 42)
    assert next(log.read_batches(0)).base_offset == 40


# ---------------------------------------------------------------- log start, leftovers


def test_a_log_that_ends_below_its_start_restarts_there(tmp_path):
    """C2.9."""
    directory = made(tmp_path / "data", producer=7)
    write_offsets(DISK, str(tmp_path / "data" / LOG_START), {KEY: 500})
    logs, log = opened(tmp_path / "data")
    assert (log.log_start_offset, log.log_end_offset, log.recovery_point) == (500, 500, 500)
    assert not log.producers.active and not list(directory.glob("*.snapshot"))
    assert log.append(batch(), NOW_MS).base_offset == 500
    assert log.epochs.entries == [(1, 500)]
    logs.close(clean=False)
    _, log = opened(tmp_path / "data")
    assert (log.log_start_offset, log.log_end_offset) == (500, 502)


def test_segments_below_the_log_start_are_dropped(tmp_path):
    """C9.5: a power cut undid their deletion, here of one in the middle."""
    directory = made(tmp_path / "data")
    first, second, third, *_ = bases(directory)
    (directory / log_file(first)).unlink()
    write_offsets(DISK, str(tmp_path / "data" / LOG_START), {KEY: third + 2})
    logs, log = opened(tmp_path / "data")
    assert log.log_start_offset == third + 2 and bases(directory)[0] == third
    assert not (directory / log_file(second, ".index")).exists()
    assert log.log_end_offset == 24


def test_leftovers_go(tmp_path):
    """C2.11, C9.5; what is not ours stays."""
    directory = made(tmp_path / "data", clean=True)
    good = snapshot_of(directory)
    for name in (
        log_file(0, ".log.deleted"), log_file(5, ".index.deleted"), log_file(0, ".log.cleaned"), log_file(7, ".timeindex.swap"),
        log_file(999, ".index"), log_file(999, ".timeindex"), "leader-epoch-checkpoint.tmp", log_file(9999, ".snapshot"),
    ):  # fmt: skip
        (directory / name).write_bytes(b"x" * 24)
    (directory / "quorum-state").write_bytes(b"{}")
    logs, log = opened(tmp_path / "data")
    assert logs.reports[KEY].clean and log.log_end_offset == 24
    after = snapshot_of(directory)
    assert after.pop("quorum-state") == b"{}" and set(after) == set(good)


@pytest.mark.parametrize("cleaned", [False, True])
def test_a_finished_compaction_takes_its_place(tmp_path, cleaned):
    """C9.1: wholly old or wholly new; whether its turn had come is told by a `.cleaned` that is left."""
    directory = made(tmp_path / "data", clean=True)
    first, second, third, *_ = bases(directory)
    compacted = batch(1, base_offset=third - 1, leader_epoch=0)
    (directory / log_file(first, ".log.swap")).write_bytes(compacted)
    (directory / log_file(first, ".index.swap")).write_bytes(b"")
    if cleaned:
        (directory / log_file(first, ".log.cleaned")).write_bytes(b"")
    _, log = opened(tmp_path / "data", config=LogConfig(cleanup_policy="compact"))
    assert bases(directory)[:2] == ([first, second] if cleaned else [first, third])
    assert contents(log)[0] == (batch(base_offset=0, leader_epoch=0) if cleaned else compacted)
    assert log.log_end_offset == 24 and not [name for name in snapshot_of(directory) if "swap" in name or "cleaned" in name]


# ---------------------------------------------------------------- derived files


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("harm", ["missing", "empty", "room", "garbage", "swapped", "shifted", "other log's"])
def test_indexes_are_never_believed(tmp_path, clean, harm):
    """C2.12, C5.5: whatever is in them, lookups are those of right ones."""
    logs, _ = opened(tmp_path / "data")
    log = logs.create(*KEY, uuid.UUID(int=1), LogConfig(segment_bytes=2000, index_interval_bytes=100))
    stamps = [NOW_MS + (number * 37) % 101 for number in range(60)]
    for number, stamp in enumerate(stamps):
        log.append(build([Record(0, stamp, None, b"x" * (number % 50))]), NOW_MS)
    assert logs.close(clean=clean) == clean
    directory = tmp_path / "data/t-0"
    for path in [*directory.glob("*.index"), *directory.glob("*.timeindex")]:
        data = path.read_bytes()
        entry = 8 if path.suffix == ".index" else 12
        if harm == "missing":
            path.unlink()
            continue
        path.write_bytes({
            "empty": b"",
            "room": data + bytes(10485760 // entry * entry - len(data)),
            "garbage": bytes(range(1, 1 + len(data) % 250)),
            "swapped": data[entry:2 * entry] + data[:entry] + data[2 * entry:],
            "shifted": b"".join(
                (int.from_bytes(data[at:at + entry], "big") + 1).to_bytes(entry, "big") for at in range(0, len(data), entry)
            ),
            "other log's": b"".join(
                (number * 3 + 1).to_bytes(entry - 4, "big") + (number * 50 + 7).to_bytes(4, "big") for number in range(20)
            ),
        }[harm])  # fmt: skip
    _, log = opened(tmp_path / "data", config=log.config)
    assert log.log_end_offset == 60
    for offset in range(60):
        region = log.read(offset, 61 + 100).regions
        assert region.file.pread(8, region.position) == offset.to_bytes(8, "big")
    for stamp in range(NOW_MS - 1, NOW_MS + 103):
        expected = next(((each, offset, 0) for offset, each in enumerate(stamps) if each >= stamp), None)
        assert log.offset_for_time(stamp) == expected
    assert log.offset_of_max_timestamp() == (max(stamps), stamps.index(max(stamps)), 0)
    assert log.append(batch(), NOW_MS).base_offset == 60


@pytest.mark.parametrize("clean", [False, True])
def test_producers_without_snapshots(tmp_path, clean):
    """C6.1, C6.2, R13: a clean marker and no snapshot do not mean that nobody ever wrote."""
    directory = made(tmp_path / "data", clean=clean, producer=7)
    kept = {path.name for path in directory.glob("*.snapshot")}
    for number, path in enumerate(sorted(directory.glob("*.snapshot"))):
        path.write_bytes(b"" if number % 2 else path.read_bytes()[:-1])
    logs, log = opened(tmp_path / "data")
    again = log.append(batch(producer_id=7, producer_epoch=0, base_sequence=2 * 9), NOW_MS)
    assert (again.duplicate, again.base_offset, log.log_end_offset) == (True, 18, 24)
    assert kept and log.append(batch(producer_id=7, producer_epoch=0, base_sequence=24), NOW_MS).base_offset == 24


def test_snapshots_of_a_lost_branch_are_durably_gone(tmp_path):
    """C6.2."""
    directory = made(tmp_path / "data", producer=7)
    first, second, *_ = bases(directory)
    (directory / log_file(first)).write_bytes((directory / log_file(first)).read_bytes()[:-1])
    disk = HookDisk()
    logs, log = opened(tmp_path / "data", disk)
    assert not list(directory.glob("*.snapshot")) and log.log_end_offset == second - 2
    last_unlink = max(place for place, (call, path) in enumerate(disk.calls) if call == "unlink" and path.endswith(".snapshot"))
    assert ("sync_dir", str(directory)) in disk.calls[last_unlink:]
    assert log.append(batch(producer_id=7, producer_epoch=0, base_sequence=second - 2), NOW_MS).base_offset == second - 2


@pytest.mark.parametrize("content", [None, b"", b"0\n9\n", b"0\n1\n0 5\n", b"0\n2\n0 0\n9 24\n"])
@pytest.mark.parametrize("clean", [False, True])
def test_leader_epochs_are_rebuilt(tmp_path, clean, content):
    """C4.4."""
    directory = made(tmp_path / "data", batches=3)
    logs, log = opened(tmp_path / "data")
    log.append(batch(), NOW_MS)
    assert log.leader_epoch == 1
    logs.close(clean=clean)
    path = directory / "leader-epoch-checkpoint"
    path.unlink() if content is None else path.write_bytes(content)
    logs, log = opened(tmp_path / "data")
    entries = log.epochs.entries
    known = 9 if content and b"9 24" in content else 1
    assert log.leader_epoch == (known if clean else known + 1)
    if content is None or not content.startswith(b"0\n1") and known == 1:
        assert [entry for entry in entries if entry[1] < 8] == [(0, 0), (1, 6)]
    assert all(start <= 8 for _, start in entries)
    log.append(batch(), NOW_MS)
    assert EpochCache.load(DISK, str(path)).latest == log.leader_epoch


# ---------------------------------------------------------------- epochs, crashes


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.booleans()), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_an_offset_never_means_two_records_under_one_epoch(tmp_path_factory, crashes):
    """C2.8: at each crash some batches are lost; whatever is appended then has a higher epoch, crash upon crash."""
    path = tmp_path_factory.mktemp("epochs") / "data"
    logs, _ = opened(path)
    log = logs.create(*KEY, uuid.UUID(int=1), LogConfig())
    named = {}
    number = 0
    for appended, lost, clean in crashes:
        for _ in range(appended):
            number += 1
            value = b"%d" % number
            offset = log.append(batch(1, value=value), NOW_MS).base_offset
            assert named.setdefault((log.leader_epoch, offset), value) == value
        size = [each.size for each in log.read_batches(0)]
        logs.close(clean=clean)
        if not clean:
            file = DISK.open(log.active.path)
            file.truncate(sum(size[: max(0, len(size) - lost)]))
            (path / RECOVERY_POINT).unlink(missing_ok=True)
        logs, log = opened(path, config=LogConfig())
    logs.close(clean=False)


def damaged_directories(path):
    """Directories in which recovery has much to do."""
    directory = made(path, batches=14, flush_at=4, producer=7)
    first, second, third, *_ = bases(directory)
    torn = directory / log_file(third)
    torn.write_bytes(torn.read_bytes()[:-7])
    (directory / log_file(first, ".index.deleted")).write_bytes(b"x")
    (directory / log_file(third, ".timeindex")).write_bytes(b"\1" * 12)
    write_offsets(DISK, str(path / LOG_START), {KEY: second + 2})
    return directory


CHANGES = ("append", "truncate", "sync", "create", "rename", "unlink", "sync_dir")


class Killed(BaseException):
    """The process dies here."""


def test_killed_at_each_of_its_own_steps_recovery_comes_to_the_same_end(tmp_path):
    """C2.10."""
    damaged_directories(tmp_path / "made")
    whole = tmp_path / "whole"
    shutil.copytree(tmp_path / "made", whole)
    logs, log = opened(whole)
    expected, told = snapshot_of(whole / "t-0"), (log.log_start_offset, log.log_end_offset, log.leader_epoch, contents(log))
    logs.close(clean=False)
    logs, log = opened(whole)
    assert snapshot_of(whole / "t-0") == expected and not logs.reports[KEY].actions
    logs.close(clean=False)
    step, struck = 0, True
    while struck:
        path = tmp_path / f"step{step}"
        shutil.copytree(tmp_path / "made", path)
        disk = HookDisk()
        left = [step]

        def hook(call, name):
            if call in CHANGES:
                left[0] -= 1
                if left[0] == -1:
                    raise Killed

        disk.hook = hook
        try:
            logs, log = opened(path, disk)
            logs.close(clean=False)
        except Killed:
            pass
        struck = left[0] < 0
        logs, log = opened(path)
        assert (log.log_start_offset, log.log_end_offset, log.leader_epoch, contents(log)) == told
        files = snapshot_of(path / "t-0")
        assert files == expected, step
        logs.close(clean=False)
        shutil.rmtree(path)
        step += 1
    assert step > 12


@given(st.integers(0, 400), st.binary(max_size=80), st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_tail_is_recovered_from(tmp_path_factory, cut, garbage, zeros):
    """C2.3, C2.4, C2.7: the longest valid prefix stays, and what is appended then can be read."""
    path = tmp_path_factory.mktemp("tail") / "data"
    logs, _ = opened(path)
    log = logs.create(*KEY, uuid.UUID(int=1), LogConfig())
    for _ in range(4):
        log.append(batch(), NOW_MS)
    logs.close(clean=False)
    file = path / "t-0" / log_file(0)
    data = file.read_bytes()
    file.write_bytes(data[:cut] + (bytes(len(garbage)) if zeros else garbage))
    size = len(batch())
    whole = max(each for each in range(5) if file.read_bytes().startswith(data[: each * size]))
    logs, log = opened(path)
    assert log.log_end_offset == 2 * whole and log.active.size == whole * size == file.stat().st_size
    assert log.append(batch(value=b"after"), NOW_MS).base_offset == 2 * whole
    assert [each.base_offset for each in log.read_batches(0)] == list(range(0, 2 * whole + 2, 2))
    assert logs.close()
    logs, log = opened(path)
    assert logs.reports[KEY].clean and log.log_end_offset == 2 * whole + 2


def test_a_marker_over_a_log_that_was_put_there_checks_it(tmp_path):
    """Only the `.log` was copied, the marker kept: Kafka serves it unchecked."""
    directory = made(tmp_path / "data", batches=0, clean=True)
    data = bytes(batch(leader_epoch=0)) + bytes(batch(base_offset=2, leader_epoch=0))
    (directory / log_file(0)).write_bytes(data[:-1] + b"\xff")
    logs, log = opened(tmp_path / "data")
    assert logs.clean_start and not logs.reports[KEY].clean and log.log_end_offset == 2
    assert not (tmp_path / "data" / CLEAN_SHUTDOWN).exists()


def test_after_a_failed_flush_nothing_unsynced_is_believed(tmp_path):
    """C1.13: the kernel may show pages that never reached the disk. All files that are not known to be durable are new."""
    disk = HookDisk()
    logs, _ = opened(tmp_path / "data", disk)
    log = logs.create(*KEY, uuid.UUID(int=1), CONFIG)
    for number in range(4):
        log.append(batch(producer_id=7, producer_epoch=0, base_sequence=2 * number), NOW_MS)
    log.flush()
    logs.checkpoint()
    for number in range(4, 9):
        log.append(batch(producer_id=7, producer_epoch=0, base_sequence=2 * number), NOW_MS)
    directory = tmp_path / "data/t-0"
    was = {path.name: path.stat().st_ino for path in directory.iterdir()}
    was_read = contents(log)
    disk.hook = failing("sync", ".log", errno.EIO)
    with pytest.raises(KafkaError):
        log.flush()
    assert logs.offline and logs.close() is False
    logs, log = opened(tmp_path / "data", disk)
    assert contents(log) == was_read and log.log_end_offset == 18 and log.leader_epoch == 1
    checked = [base for base in bases(directory) if base >= 8]
    now = {path.name: path.stat().st_ino for path in directory.iterdir()}
    for name in now:
        if name.endswith(".log"):
            assert (now[name] != was[name]) == (int(name[:20]) in checked), name
    assert [entry for entry in disk.calls if entry[0] == "sync" and entry[1].endswith(".log.tmp")]
    assert log.append(batch(producer_id=7, producer_epoch=0, base_sequence=10), NOW_MS).duplicate
    logs.close()
    logs, log = opened(tmp_path / "data", disk)
    assert logs.clean_start and contents(log) == was_read
