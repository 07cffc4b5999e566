"""Checkpoint files that never run ahead of the partitions, in whatever order things are collected and written."""

from types import SimpleNamespace

from chaos.disk.model import SimDisk
from refbroker.log import checkpoints
from refbroker.log.checkpoint_job import Checkpoints

KEY = ("a", 0)
DIRECTORY = "/data"


def partition(recovery_point, *, log_start=0, base=0, offline=None):
    return SimpleNamespace(
        offline=offline, checkpoint_offset=recovery_point, high_watermark=recovery_point, log_start_offset=log_start,
        segments=[SimpleNamespace(base_offset=base)],
    )  # fmt: skip


def on_disk(disk, name):
    return checkpoints.read_offsets(disk, f"{DIRECTORY}/{name}")


def start():
    disk = SimDisk({DIRECTORY: None})
    return disk, Checkpoints(disk, DIRECTORY)


def test_what_was_collected_before_a_truncation_is_not_written_after_it():
    """C3.1, C3.7: the writer of a checkpoint may be on another thread."""
    disk, files = start()
    files.begin({KEY: partition(7)})()
    late = files.begin({KEY: partition(9)})
    files.set_recovery_point(KEY, 3)
    assert on_disk(disk, checkpoints.RECOVERY_POINT) == {KEY: 3}
    late()
    assert on_disk(disk, checkpoints.RECOVERY_POINT) == {KEY: 3}


def test_what_was_collected_before_a_deletion_is_not_written_after_it():
    """C9.6: a new partition of the name would inherit it."""
    disk, files = start()
    files.begin({KEY: partition(7, log_start=5)})()
    late = files.begin({KEY: partition(9, log_start=5)})
    files.forget(KEY)
    late()
    for name in (checkpoints.RECOVERY_POINT, checkpoints.LOG_START, checkpoints.HIGH_WATERMARK):
        assert on_disk(disk, name) == {}


def test_a_partition_that_is_offline_keeps_what_is_on_disk():
    """C3.5: else deleted records were back once it is repaired."""
    disk, files = start()
    files.begin({KEY: partition(7, log_start=5)})()
    files.begin({KEY: partition(0, offline="damaged"), ("b", 0): partition(4)})()
    assert on_disk(disk, checkpoints.LOG_START) == {KEY: 5}
    assert on_disk(disk, checkpoints.RECOVERY_POINT) == {KEY: 7, ("b", 0): 4}


def test_a_recovery_point_is_lowered_at_once_and_raised_with_the_others():
    disk, files = start()
    files.begin({KEY: partition(7)})()
    files.set_recovery_point(KEY, 9)
    assert on_disk(disk, checkpoints.RECOVERY_POINT) == {KEY: 7}
    files.set_recovery_point(KEY, 2)
    assert on_disk(disk, checkpoints.RECOVERY_POINT) == {KEY: 2}


def test_a_log_start_is_named_where_no_file_name_says_it():
    disk, files = start()
    files.begin({KEY: partition(9, log_start=5, base=5), ("b", 0): partition(9, log_start=6, base=5)})()
    assert on_disk(disk, checkpoints.LOG_START) == {("b", 0): 6}
