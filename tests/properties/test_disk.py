"""The real disk: an append is whole or not at all, whatever the kernel takes at a time (C1.14)."""

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refbroker.log.disk import Disk, TornAppend


def kernel_that_takes(pieces, then=None):
    """A writev that takes so many bytes at each call, then everything, or raises `then`."""
    real, left = os.writev, list(pieces)

    def writev(fd, buffers):
        if left:
            data = b"".join(bytes(buffer) for buffer in buffers)[: left.pop(0)]
            return os.write(fd, data)
        if then is not None:
            raise OSError(then, os.strerror(then))
        return real(fd, buffers)

    return writev


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=4), st.lists(st.integers(1, 15), max_size=4))
def test_a_short_write_is_completed(tmp_path_factory, buffers, pieces):
    disk, path = Disk(), str(tmp_path_factory.mktemp("disk") / "log")
    file = disk.open(path, create=True)
    file.append([b"before"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "writev", kernel_that_takes(pieces))
        assert file.append(buffers) == 6
    whole = b"before" + b"".join(buffers)
    assert file.size == len(whole) == os.path.getsize(path)
    assert file.pread(100, 0) == whole


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("pieces", [(), (1,), (3, 4)])
def test_a_failed_write_is_undone(tmp_path, monkeypatch, number, pieces):
    disk, path = Disk(), str(tmp_path / "log")
    file = disk.open(path, create=True)
    file.append([b"before"])
    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", kernel_that_takes(pieces, then=number))
        with pytest.raises(OSError) as caught:
            file.append([b"lost", b"and gone"])
    assert caught.value.errno == number and caught.value.filename == path and not isinstance(caught.value, TornAppend)
    assert file.size == os.path.getsize(path) == 6
    assert file.append([b"after"]) == 6  # at the same position
    assert file.pread(100, 0) == b"beforeafter"


def test_a_failed_write_that_cannot_be_undone_says_so(tmp_path, monkeypatch):
    def no_truncate(fd, size):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    file = Disk().open(str(tmp_path / "log"), create=True)
    monkeypatch.setattr(os, "writev", kernel_that_takes((3,), then=errno.ENOSPC))
    monkeypatch.setattr(os, "ftruncate", no_truncate)
    with pytest.raises(TornAppend):
        file.append([b"torn"])


def test_a_sync_is_a_sync(tmp_path, monkeypatch):
    """What a program cannot see: that the kernel was really asked (C1.3)."""
    asked = []
    monkeypatch.setattr(os, "fdatasync", lambda fd: asked.append(fd))
    monkeypatch.setattr(os, "fsync", lambda fd: asked.append(os.readlink(f"/proc/self/fd/{fd}")))
    disk = Disk()
    file = disk.open(str(tmp_path / "log"), create=True)
    file.sync()
    disk.sync_dir(str(tmp_path))
    assert asked == [file.fileno(), str(tmp_path)]
