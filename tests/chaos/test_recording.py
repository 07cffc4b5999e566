"""Does a recorded power cut take what no sync covered, and nothing else?"""

import random
import sys
import tempfile
import threading
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.process.recording import Recording, RecordingDisk
from refbroker.log.disk import replace_file


def tree(root: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(root)): p.read_bytes() if p.is_file() else None for p in root.rglob("*")}


def recorded(tmp_path: Path):
    (tmp_path / "data").mkdir()
    return RecordingDisk(str(tmp_path / "record")), str(tmp_path / "data")


def cut(tmp_path: Path, keep: float, seed: int = 0) -> dict[str, bytes | None]:
    place = Path(tempfile.mkdtemp(dir=tmp_path)) / "cut"
    Recording(str(tmp_path / "record"), str(tmp_path / "data")).cut(place, random.Random(seed), keep)
    return tree(place)


def test_only_what_a_sync_covered_is_there_after_the_worst_cut(tmp_path):
    disk, root = recorded(tmp_path)
    disk.mkdir(f"{root}/t-0")
    file = disk.open(f"{root}/t-0/0.log", create=True)
    file.append([b"synced"])
    file.sync()
    file.append([b"not synced"])
    assert cut(tmp_path, 0.0) == {}  # neither name is durable yet
    disk.sync_dir(f"{root}/t-0")
    assert cut(tmp_path, 0.0) == {}  # the directory's own entry is in its parent
    disk.sync_dir(root)
    assert cut(tmp_path, 0.0) == {"t-0": None, "t-0/0.log": b"synced"}


def test_a_rename_that_was_not_synced_is_undone(tmp_path):
    disk, root = recorded(tmp_path)
    replace_file(disk, f"{root}/checkpoint", b"old")
    file = disk.open(f"{root}/checkpoint.tmp", create=True)
    file.append([b"new"])
    file.sync()
    disk.rename(f"{root}/checkpoint.tmp", f"{root}/checkpoint")
    assert cut(tmp_path, 0.0) == {"checkpoint": b"old"}
    disk.sync_dir(root)
    assert cut(tmp_path, 0.0) == {"checkpoint": b"new"}


def test_a_torn_write_shows_sectors_of_every_fate(tmp_path):
    disk, root = recorded(tmp_path)
    file = disk.open(f"{root}/0.log", create=True)
    disk.sync_dir(root)
    file.append([b"x" * 4096])
    seen = {content for seed in range(60) for content in cut(tmp_path, 0.5, seed).values()}
    assert b"" in seen and b"x" * 4096 in seen
    assert any(b"\0" in content and b"x" in content for content in seen)
    assert len(seen) > 10


OPERATIONS = st.lists(st.tuples(
    st.sampled_from(["append", "truncate", "sync", "rename", "unlink", "sync_dir", "mkdir"]),
    st.integers(0, 3), st.binary(min_size=1, max_size=40)), max_size=25)


@settings(max_examples=60, deadline=None)
@given(OPERATIONS, st.integers(0, 3))
def test_a_cut_that_keeps_everything_is_the_directory_itself(tmp_path_factory, operations, seed):
    tmp_path = tmp_path_factory.mktemp("recording")
    disk, root = recorded(tmp_path)
    open_files = {}
    for kind, number, data in operations:
        path = f"{root}/{number}"
        if kind == "mkdir":
            if not disk.exists(f"{root}/d{number}"):
                disk.mkdir(f"{root}/d{number}")
        elif kind == "sync_dir":
            disk.sync_dir(root)
        elif kind == "append":
            open_files[number] = disk.open(path, create=True)
            open_files[number].append([data])
        elif disk.exists(path):
            if kind == "truncate":
                open_files[number] = disk.open(path)
                open_files[number].truncate(min(open_files[number].size, len(data)))
            elif kind == "sync":
                disk.open(path).sync()
            elif kind == "rename":
                disk.rename(path, f"{root}/{(number + 1) % 4}")
            else:
                disk.unlink(path)
    assert cut(tmp_path, 1.0, seed) == tree(Path(root))


def test_files_that_threads_open_at_once_do_not_get_each_others_bytes(tmp_path):
    """The broker's loop and its sync threads open files at the same time: each must be told apart in the record."""
    disk, root = recorded(tmp_path)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def work(name: str) -> None:
        for number in range(150):
            file = disk.open(f"{root}/{name}{number}", create=True)
            file.append([f"{name}{number}".encode()])
            file.sync()

    threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    disk.sync_dir(root)
    assert cut(tmp_path, 0.0) == {f"{name}{number}": f"{name}{number}".encode() for name in "abc" for number in range(150)}
