"""Does the recorded disk record, do cuts leave what they say, and does a small run of the layer come to a verdict? Most of it needs root."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chaos.device import cuts, kernel
from chaos.device.cuts import PAGE, Cut, Entry, Platter
from chaos.device.disk import FILE_SYSTEMS, PACKED, RecordedDisk, check_available, missing_mkfs, mounted
from chaos.report import Report
from chaos.targets import NotAvailable


def available() -> str | None:
    try:
        check_available()
    except NotAvailable as error:
        return str(error)
    return missing_mkfs(FILE_SYSTEMS["ext4"])


needs_device = pytest.mark.skipif("available() is not None", reason=f"device: {available()}")


def write(at: int, data: bytes, time: int = 0) -> Entry:
    return Entry(b"W", time, at, len(data), data)


FLUSH, SIZE = Entry(b"F", 0, 0, 0, b""), 64 * PAGE


def held(entries: list[Entry], cut: Cut) -> bytes:
    """The whole disk after this cut."""
    descriptor = os.memfd_create("disk")
    Platter(entries, SIZE).image(cut).write(descriptor)
    data = os.pread(descriptor, SIZE, 0)
    os.close(descriptor)
    return data


def test_what_was_flushed_is_there_and_what_was_not_is_as_the_cut_says():
    entries = [write(0, b"a" * PAGE), FLUSH, write(PAGE, b"b" * PAGE), write(0, b"c" * 512)]
    old, new = b"a" * PAGE, b"c" * 512 + b"a" * (PAGE - 512)
    assert held(entries, Cut(4, 0, "none"))[:2 * PAGE] == old + bytes(PAGE)
    assert held(entries, Cut(4, 0, "all"))[:2 * PAGE] == new + b"b" * PAGE
    assert held(entries, Cut(1, 0, "none")) == bytes(SIZE)
    subsets = {held(entries, Cut(4, 0, "subset", seed))[:2 * PAGE] for seed in range(40)}
    assert subsets == {first + second for first in (old, new) for second in (bytes(PAGE), b"b" * PAGE)}
    torn = {held(entries, Cut(3, 0, "torn512", seed))[PAGE:2 * PAGE] for seed in range(40)}
    assert len(torn) > 20 and all(piece in (bytes(512), b"b" * 512) for page in torn for piece in (page[at:at + 512] for at in range(0, PAGE, 512)))
    tails = {held(entries, Cut(3, 0, "tail512", seed))[PAGE:2 * PAGE] for seed in range(60)}
    assert tails == {b"b" * (512 * kept) + bytes(PAGE - 512 * kept) for kept in range(8)}


def test_a_platter_that_moves_on_is_the_same_as_a_fresh_one_and_equal_disks_have_equal_digests():
    rng = random.Random(5)
    entries = []
    for number in range(300):
        kind = rng.random()
        at, length = rng.randrange(120) * 512, rng.randrange(1, 9) * 512
        entries.append(FLUSH if kind < 0.2 else Entry(b"Z", 0, at, length, b"") if kind < 0.3 else write(at, bytes([number % 7]) * length))
    moving, seen = Platter(entries, SIZE), {}
    for at in range(0, 300, 3):
        for how in ("none", "all", "subset", "torn512", "torn4096", "tail512"):
            cut = Cut(at, 0, how, at)
            image, whole = moving.image(cut), held(entries, cut)
            descriptor = os.memfd_create("disk")
            image.write(descriptor)
            assert os.pread(descriptor, SIZE, 0) == whole
            os.close(descriptor)
            assert seen.setdefault(image.digest, whole) == whole
    assert len(set(seen.values())) == len(seen) > 100


def test_intervals_are_what_lies_between_flushes_that_have_something_to_flush():
    entries = [write(0, b"a" * 512, 1), FLUSH._replace(time=2), FLUSH._replace(time=3), write(0, b"b" * 512, 4), FLUSH._replace(time=5)]
    assert cuts.intervals(entries, 0, 9) == [(0, 1), (3, 4)]
    assert cuts.intervals(entries, 3, 9) == [(3, 4)]
    times = [cut.time for cut in cuts.cuts_in(entries, (3, 4), 512, random.Random(1))]
    assert times and set(times) == {5}  # a cut lasts until the next request


@needs_device
def test_a_file_that_was_synced_survives_every_cut_and_one_that_was_not_is_lost_in_some(tmp_path):
    system = FILE_SYSTEMS["ext4"]
    with RecordedDisk(system, tmp_path) as disk:
        (disk.mountpoint / "synced").write_bytes(b"s" * 5000)
        kernel.sync_file_system(str(disk.mountpoint))
        synced = len(cuts.entries_of(disk.log_bytes()))
        for number in range(4):
            with (disk.mountpoint / f"file{number}").open("wb") as file:
                file.write(bytes([number]) * 3000)
                file.flush()
                os.fsync(file.fileno())
        (disk.mountpoint / "unsynced").write_bytes(b"u")
        entries = cuts.entries_of(disk.log_bytes())
    assert [entry.time for entry in entries] == sorted(entry.time for entry in entries)
    look, image, names = tmp_path / "look", os.memfd_create("crashed"), set()
    look.mkdir()
    platter = Platter(entries, system.size)
    for at in range(synced, len(entries), 3):
        for how in ("none", "subset", "torn512"):
            platter.image(Cut(at, 0, how, at)).write(image)
            with mounted(system, image, look) as place:
                assert (place / "synced").read_bytes() == b"s" * 5000
                names.add(frozenset(path.name for path in place.iterdir()))
    os.close(image)
    assert len(names) > 2 and not any("unsynced" in each for each in names)


@needs_device
def test_refused_writes_are_an_error_of_fsync_and_of_nothing_else(tmp_path):
    with RecordedDisk(PACKED, tmp_path) as disk:
        begin, end = disk.metadata()
        assert begin == 0 < end < disk.system.size
        descriptor = os.open(disk.mountpoint / "f", os.O_RDWR | os.O_CREAT)
        os.pwrite(descriptor, b"old", 0)
        os.fsync(descriptor)
        disk.refuse_writes(errno.EIO, (begin, end))
        os.pwrite(descriptor, b"new", 0)
        with pytest.raises(OSError, match="Input/output"):
            os.fsync(descriptor)
        disk.let_write()
        os.fsync(descriptor)
        assert os.pread(descriptor, 3, 0) == b"new"
        os.close(descriptor)
        assert any(entry.kind == b"E" for entry in cuts.entries_of(disk.log_bytes()))


@needs_device
def test_nothing_is_left_of_a_harness_that_is_killed(tmp_path):
    code = ("import sys, time; from pathlib import Path; from chaos.device.disk import *; check_available()\n"
            "with RecordedDisk(FILE_SYSTEMS['ext4'], Path(sys.argv[1])) as disk:\n"
            "    file = (disk.mountpoint / 'f').open('w'); print(disk._process.pid, flush=True); time.sleep(60)")
    harness = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    recorder = int(harness.stdout.readline())
    assert loops_of(tmp_path)
    harness.send_signal(signal.SIGKILL)
    harness.wait()
    harness.stdout.close()
    deadline = time.monotonic() + 60
    while (loops_of(tmp_path) or Path(f"/proc/{recorder}").exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not loops_of(tmp_path) and not Path(f"/proc/{recorder}").exists()
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def loops_of(directory: Path) -> list[str]:
    """Loop devices over files of the recorder."""
    found = []
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            found += [path.parts[3]] if path.read_text().strip() in (f"{directory}/fuse/disk", "/disk") else []
        except OSError:
            pass
    return found


@needs_device
@pytest.mark.slow
def test_a_small_run_answers_both_questions(tmp_path):
    from chaos.device import layer

    report = Report(7)
    layer.cut_all(report, 7, FILE_SYSTEMS["ext4"], tmp_path, time.monotonic(), lambda text: None)
    assert report.exit_code == 0, (report.not_enough, [row.broken[:2] for row in report.rows.values() if row.broken])
    assert {"C1.3", "C1.4", "C1.5", "C1.6", "C2.10", "S4"} <= {place.statement for place in report.rows}
    figures = report.figures[0]
    assert figures["cuts"] >= 5 and figures["served"] == 1 and figures["lost_none"] > 0


@needs_device
@pytest.mark.slow
def test_a_broker_that_takes_a_later_fsync_for_an_answer_is_found(tmp_path, monkeypatch):
    """The teeth of fsyncgate: an fsync that fails once and is asked again, with whatever comes then taken for the truth."""
    from chaos.device import gate

    monkeypatch.setattr("chaos.device.gate.LEAVES_SECONDS_MAX", 1.0)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "def stubborn(real):\n"
        "    def sync(fd):\n        try:\n            real(fd)\n        except OSError:\n            real(fd)\n"
        "    return sync\n"
        "os.fsync, os.fdatasync = stubborn(os.fsync), stubborn(os.fdatasync)\n")
    found = []
    for seed in range(3):  # a page that was refused may be written again with the next record in it
        report = Report(seed)
        gate.run(report, "device", seed, tmp_path / str(seed))
        found += [place for place, row in report.rows.items() if place.statement == "C1.13" and row.broken]
        if found:
            break
    assert found and not report.not_enough, report.figures
