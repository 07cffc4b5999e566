"""Which operations on a disk does a log need? These, and no others: the seam.

Every byte that refbroker reads from or writes to a disk, every rename and every fsync goes through a `Disk` and the
`File`s that it opens. This module is the real one, and is thin on purpose. The second implementation, with a page
cache that can be lost, torn and reordered, is `chaos/disk`; both are held against each other by tests.

What a caller may rely on, and what not:

1. `File.append` puts all buffers at the end of the file, in order, or raises and leaves the file as long as it was
   (a short write is completed or undone, C1.14). It reaches the page cache: it survives the process, not the power.
2. Only a `File.sync` that returned makes the file's bytes and size durable. After one that raised, nothing about the
   unsynced bytes is known any more, and a later success proves nothing (C1.13). So it is EIO whatever the system called
   it: on a full disk, too, nothing is as it was when there is space again. The same holds for `sync_dir`.
3. Only a `Disk.sync_dir` that returned makes the creations, renames and unlinks in that directory durable. A new
   directory's own entry is in its parent.
4. A `File` stays readable after `unlink` and `rename` until nobody holds it. The descriptor is closed when the last
   reference goes, so that a fetch in flight never meets a recycled descriptor.

Errors are `OSError` with the path in it. Apache Kafka differs: it writes its indexes through mmap; here every write
is an ordinary one, so that there is a single place where bytes can get lost.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Sequence

Buffer = bytes | bytearray | memoryview


class File:
    """An open file. `size` is its length in bytes as this process knows it: one writer per file, so it is exact."""

    __slots__ = ("path", "size", "_fd", "__weakref__")

    def __init__(self, path: str, fd: int):
        self.path = path
        self._fd = fd
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):  # one may be opened for reading, but there is nothing in it for us
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        self.size = status.st_size

    def append(self, buffers: Sequence[Buffer]) -> int:
        """Write all buffers at the end with one `writev`; returns the position of the first byte."""
        position = self.size
        total = sum(map(len, buffers))
        try:
            written = os.writev(self._fd, buffers)
            while written < total:
                written += os.writev(self._fd, _skip(buffers, written))
        except OSError as error:
            error.filename = error.filename or self.path
            self._undo(position, error)
            raise
        self.size = position + total
        return position

    def _undo(self, position: int, cause: OSError) -> None:
        try:
            os.ftruncate(self._fd, position)
        except OSError as error:  # the caller must take the directory offline: the tail is unknown
            cause.add_note(f"and undoing the partial write of {self.path} at {position} failed: {error}")
            raise TornAppend(cause.errno, f"partial write that could not be undone ({cause.strerror})", self.path) from cause

    def pread(self, count: int, position: int) -> bytes:
        """Up to `count` bytes from `position`; fewer only at the end of the file."""
        data = os.pread(self._fd, count, position)
        while 0 < len(data) < count:
            more = os.pread(self._fd, count - len(data), position + len(data))
            if not more:
                break
            data += more
        return data

    def truncate(self, size: int) -> None:
        """Cut (never extend) the file to `size` bytes. Durable only after `sync`."""
        assert size <= self.size, (self.path, size, self.size)
        os.ftruncate(self._fd, size)
        self.size = size

    def sync(self) -> None:
        """Make content and size durable. May be called from another thread than the appends."""
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            raise failed_sync(error, self.path) from error

    def fileno(self) -> int:
        """The descriptor, for `sendfile` only."""
        return self._fd

    def __del__(self) -> None:
        try:
            os.close(self._fd)
        except (AttributeError, OSError):  # never opened
            pass


class TornAppend(OSError):
    """An append failed half way and could not be undone: what the file ends with is unknown."""


class Lock:
    """An advisory lock on a file, held until `release` or the end of the process."""

    def __init__(self, path: str, fd: int):
        self.path = path
        self._fd = fd

    def release(self) -> None:
        os.close(self._fd)


class Disk:
    """The real file system."""

    def open(self, path: str, *, create: bool = False, readonly: bool = False) -> File:
        """Open for reading and appending. `create` makes an empty file where there is none; its entry is durable only
        after `sync_dir` of its directory. Raises FileNotFoundError, PermissionError, OSError (EMFILE)."""
        flags = os.O_RDONLY if readonly else os.O_RDWR | os.O_APPEND
        return File(path, os.open(path, flags | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o644))

    def list(self, path: str) -> list[str]:
        """Names in a directory, sorted. Raises FileNotFoundError, NotADirectoryError."""
        return sorted(os.listdir(path))

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def is_dir(self, path: str) -> bool:
        return os.path.isdir(path)

    def mkdir(self, path: str) -> None:
        """Make one directory; its parent must exist. Durable only after `sync_dir` of the parent."""
        os.mkdir(path, 0o755)

    def rmdir(self, path: str) -> None:
        os.rmdir(path)

    def rename(self, source: str, target: str) -> None:
        """Atomically give `source` the name `target`, replacing what had it. Durable only after `sync_dir`."""
        os.rename(source, target)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def sync_dir(self, path: str) -> None:
        """Make the creations, renames and unlinks in this directory durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        except OSError as error:
            raise failed_sync(error, path) from error
        finally:
            os.close(fd)

    def lock(self, path: str) -> Lock:
        """Take the lock file, creating it; raises BlockingIOError where another process holds it."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise BlockingIOError(error.errno, "held by another process", path) from error
            raise
        return Lock(path, fd)

    def space(self, path: str) -> tuple[int, int]:
        """(total bytes, bytes that we may still use) of the file system that holds `path`."""
        system = os.statvfs(path)
        return system.f_blocks * system.f_frsize, system.f_bavail * system.f_frsize


def failed_sync(error: OSError, path: str) -> OSError:
    """What an fsync that failed is to everybody else."""
    return OSError(errno.EIO, f"fsync: {error.strerror}", path)


def _skip(buffers: Sequence[Buffer], count: int) -> list[memoryview]:
    """The buffers without their first `count` bytes."""
    rest = []
    for buffer in buffers:
        view = memoryview(buffer)
        rest.append(view[count:])
        count = max(0, count - len(view))
    return [view for view in rest if len(view)]


def read_file(disk: Disk, path: str, *, bytes_max: int) -> bytes:
    """A whole small file. Raises ValueError where it is longer than `bytes_max`: it cannot be what we take it for."""
    file = disk.open(path, readonly=True)
    if file.size > bytes_max:
        raise ValueError(f"{path}: {file.size} bytes, at most {bytes_max} expected")
    return file.pread(file.size, 0)


def replace_file(disk: Disk, path: str, data: bytes) -> None:
    """Replace a small file so that a reader sees the old or the new, whole, whatever happens (C3.4): write a
    temporary file, sync it, rename it over, sync the directory."""
    temporary = path + ".tmp"
    file = disk.open(temporary, create=True)
    file.truncate(0)
    file.append([data])
    file.sync()
    disk.rename(temporary, path)
    disk.sync_dir(os.path.dirname(path) or ".")
