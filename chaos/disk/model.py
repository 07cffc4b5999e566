"""What does a disk with a page cache look like to a program, and what has it really written? The simulated disk.

`SimDisk` has the methods of `refbroker.log.disk.Disk`, `SimFile` those of its `File`, and nothing else that a log could
see. What a program sees is the page cache: every write and every rename at once. Beside it the disk keeps the *write
list*: every effect in order, every sync in its place. What survives a power cut is no property of this module: it is
computed from the write list by `profiles.py`, for the promises of a chosen file system.

1. An effect is one thing that a call did: `append` (bytes at a position, and a new size), `write` (bytes elsewhere,
   made by faults only), `truncate`, `create`, `mkdir`, `rename`, `unlink`, `rmdir`. It carries its call site (the
   function in refbroker that made it) and the kind of the file, which together name its class.
2. `sync` and `sync_dir` are in the list too; what they cover is for the profile to say.
3. `mark` puts a remark of the test between them: an acknowledgement handed out, an operation that began.
4. A process that dies (`kill`) takes its locks and descriptors with it, and nothing else: the page cache stays.
5. Contents are immutable `bytes`, shared between all disks made from one image, so that a new disk costs microseconds.

Errors are raised where a `faults.Injector` says so, as the kernel would: a short write is completed or undone, an fsync
that failed leaves its pages marked clean. Not modelled: mmap, hard links, file times, permissions, more than one process.
"""

import errno
import io
import os
import sys
from collections.abc import Mapping, Sequence

from refbroker.log.disk import TornAppend

Buffer = bytes | bytearray | memoryview
Image = Mapping[str, bytes | None]  # path -> content, None for a directory

SYNCS = ("sync", "sync_dir")
ENTRIES = ("create", "mkdir", "rename", "unlink", "rmdir")
ROOT = "/"


class Inode:
    """A file (`data` is its content in the page cache) or a directory (`children` names its entries)."""

    __slots__ = ("number", "data", "children", "path")

    def __init__(self, number: int, path: str, data: bytes | None):
        self.number = number
        self.path = path
        self.data = data
        self.children: dict[str, Inode] | None = {} if data is None else None


class Event:
    """One line of the write list. Which fields mean something depends on `kind`; `lost` is set by faults on effects
    that the device dropped for good (an fsync that failed marked their pages clean)."""

    __slots__ = ("kind", "inode", "path", "site", "position", "data", "size", "directory", "name",
                 "target_directory", "target_name", "note", "lost")

    def __init__(self, kind: str, inode: int, path: str, site: str = "", *, position: int = 0, data: bytes = b"",
                 size: int = 0, directory: int = 0, name: str = "", target_directory: int = 0, target_name: str = "",
                 note: object = None):
        self.kind = kind
        self.inode = inode
        self.path = path
        self.site = site
        self.position = position
        self.data = data
        self.size = size
        self.directory = directory
        self.name = name
        self.target_directory = target_directory
        self.target_name = target_name
        self.note = note
        self.lost = False

    def identity(self) -> tuple:
        """Equal for events that say the same."""
        return (self.kind, self.inode, self.path, self.site, self.position, self.data, self.size, self.directory, self.name,
                self.target_directory, self.target_name, self.lost)

    def __repr__(self) -> str:
        what = {"append": f" {len(self.data)} B at {self.position}", "write": f" {len(self.data)} B at {self.position}",
                "truncate": f" to {self.size} B", "rename": f" to {self.target_name}", "mark": f" {self.note!r}"}
        return f"{self.kind} {self.path}{what.get(self.kind, '')}{f' by {self.site}' if self.site else ''}"


class SimFile:
    """An open file of a `SimDisk`. `size` is what this descriptor's owner knows, as in the real `File`."""

    __slots__ = ("path", "size", "_inode", "_disk", "_readonly", "_opened", "__weakref__")

    def __init__(self, disk: "SimDisk", path: str, inode: Inode, readonly: bool):
        self.path = path
        self.size = len(inode.data)
        self._inode = inode
        self._disk = disk
        self._readonly = readonly
        self._opened = disk.generation

    def append(self, buffers: Sequence[Buffer]) -> int:
        """As `File.append`: everything or nothing, unless undoing fails too (TornAppend)."""
        position = self.size
        data = b"".join(buffers)
        self._alive()
        if self._readonly:  # nor can the kernel cut it back
            raise TornAppend(errno.EBADF, os.strerror(errno.EBADF), self.path)
        try:
            written = self._write(data)
            while written < len(data):
                written += self._write(data[written:])
        except OSError as error:
            error.filename = error.filename or self.path
            self._undo(position, error)
            raise
        self.size = position + len(data)
        return position

    def _write(self, data: bytes) -> int:
        """One `writev`: how many bytes went in; raises before anything went in."""
        disk, inode = self._disk, self._inode
        count = len(data)
        where = None
        if disk.injector is not None:
            count, where = disk.injector.write(disk, self.path, count)
        if disk.capacity is not None:
            room = disk.capacity - disk.used
            if room <= 0 and count:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
            count = min(count, room)
        if count < len(data):
            data = data[:count]
        if where is not None:
            disk.misdirect(inode, where, data)
            return count
        disk.used += count
        event = Event("append", inode.number, self.path, disk.site(), position=len(inode.data), data=data)
        inode.data += data
        event.size = len(inode.data)
        disk.events.append(event)
        return count

    def _undo(self, position: int, cause: OSError) -> None:
        try:
            if self._disk.injector is not None:
                self._disk.injector.call(self._disk, "truncate", self.path)
            if len(self._inode.data) != position:
                self._cut(position)
        except OSError:
            raise TornAppend(cause.errno, f"partial write that could not be undone ({cause.strerror})", self.path) from cause

    def pread(self, count: int, position: int) -> bytes:
        self._alive()
        if self._disk.injector is not None:
            self._disk.injector.call(self._disk, "pread", self.path)
        return self._inode.data[position:position + count]

    def truncate(self, size: int) -> None:
        assert size <= self.size, (self.path, size, self.size)
        self._writable()
        if self._disk.injector is not None:
            self._disk.injector.call(self._disk, "truncate", self.path)
        if size != len(self._inode.data):
            self._cut(size)
        self.size = size

    def _cut(self, size: int) -> None:
        disk, inode = self._disk, self._inode
        disk.used += size - len(inode.data)
        inode.data = inode.data[:size].ljust(size, b"\0")
        disk.events.append(Event("truncate", inode.number, self.path, disk.site(), size=size))

    def sync(self) -> None:
        disk = self._disk
        self._alive()
        if disk.injector is not None:
            disk.injector.sync(disk, self._inode, self.path)
        disk.events.append(Event("sync", self._inode.number, self.path, disk.site()))

    def fileno(self) -> int:
        raise io.UnsupportedOperation("a simulated file has no descriptor")

    def _alive(self) -> None:
        assert self._opened == self._disk.generation, f"{self.path} was opened by a process that is dead"

    def _writable(self) -> None:
        self._alive()
        if self._readonly:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), self.path)


class SimLock:
    """The lock on a file of a `SimDisk`."""

    def __init__(self, disk: "SimDisk", path: str):
        self.path = path
        self._disk = disk

    def release(self) -> None:
        self._disk.locks.discard(self.path)


class SimDisk:
    """A file system in memory, with its write list. `image` is what the platters hold when it is switched on."""

    def __init__(self, image: Image | None = None, *, sites: bool = True):
        self.root = Inode(0, ROOT, None)
        self.paths: dict[str, Inode] = {ROOT: self.root}
        self.inodes = [self.root]
        self.events: list[Event] = []
        self.locks: set[str] = set()
        self.injector = None
        self.capacity: int | None = None
        self.used = 0
        self.generation = 0
        self.image: Image = image or {}
        self._sites = sites
        for path in sorted(self.image):  # a directory before what is in it
            if path != ROOT:
                head, _, name = path.rpartition("/")
                data = self.image[path]
                inode = self.paths[path] = self.paths[head or ROOT].children[name] = Inode(len(self.inodes), path, data)
                self.inodes.append(inode)
                if data is not None:
                    self.used += len(data)
        self.born = len(self.inodes)  # inodes below this number were there at the start

    # ---- what the log calls: the methods of refbroker.log.disk.Disk

    def open(self, path: str, *, create: bool = False, readonly: bool = False) -> SimFile:
        if self.injector is not None:
            self.injector.call(self, "open", path)
        inode = self.paths.get(path)
        if inode is None:
            if not create:
                self._there(path)
            parent, name = self._parent(path)
            inode = self._put(path, b"")
            self.events.append(Event("create", inode.number, path, self.site(), directory=parent.number, name=name))
        elif inode.data is None:
            raise _error(errno.EISDIR, path)
        return SimFile(self, path, inode, readonly)

    def list(self, path: str) -> list[str]:
        if self.injector is not None:
            self.injector.call(self, "list", path)
        return sorted(self._directory(path).children)

    def exists(self, path: str) -> bool:
        return path in self.paths

    def is_dir(self, path: str) -> bool:
        inode = self.paths.get(path)
        return inode is not None and inode.data is None

    def mkdir(self, path: str) -> None:
        self._inject("mkdir", path)
        if path in self.paths:
            raise _error(errno.EEXIST, path)
        parent, name = self._parent(path)
        inode = self._put(path, None)
        self.events.append(Event("mkdir", inode.number, path, self.site(), directory=parent.number, name=name))

    def rmdir(self, path: str) -> None:
        self._inject("rmdir", path)
        inode = self._directory(path)
        if inode.children:
            raise _error(errno.ENOTEMPTY, path)
        self._remove("rmdir", path, inode)

    def rename(self, source: str, target: str) -> None:
        self._inject("rename", source)
        old_parent, old_name = self._parent(source)
        parent, name = self._parent(target)
        inode = self._there(source)
        self._refuse_rename(inode, source, target)
        replaced = self.paths.get(target)
        if replaced is inode:
            return
        if replaced is not None and replaced.data is not None:
            self.used -= len(replaced.data)
        del old_parent.children[old_name]
        parent.children[name] = inode
        if inode.data is None:
            moved = [path for path in self.paths if path == source or path.startswith(source + "/")]
            for path in moved:
                self._move(path, target + path[len(source):])
        else:
            self._move(source, target)
        self.events.append(Event("rename", inode.number, source, self.site(), directory=old_parent.number, name=old_name,
                                 target_directory=parent.number, target_name=name))

    def unlink(self, path: str) -> None:
        self._inject("unlink", path)
        inode = self._there(path)
        if inode.data is None:
            raise _error(errno.EISDIR, path)
        self._remove("unlink", path, inode)
        self.used -= len(inode.data)

    def sync_dir(self, path: str) -> None:
        inode = self._directory(path)
        if self.injector is not None:
            self.injector.call(self, "open", path)
            self.injector.sync(self, inode, path)
        self.events.append(Event("sync_dir", inode.number, path, self.site()))

    def lock(self, path: str) -> SimLock:
        self.open(path, create=True)
        if path in self.locks:
            raise BlockingIOError(errno.EWOULDBLOCK, "held by another process", path)
        self.locks.add(path)
        return SimLock(self, path)

    def space(self, path: str) -> tuple[int, int]:
        self._there(path)
        total = self.capacity if self.capacity is not None else 1 << 40
        return total, max(0, total - self.used)

    # ---- what the lab calls

    def view(self) -> dict[str, bytes | None]:
        """What a program sees now: the image that a process kill leaves (F1)."""
        return {path: inode.data for path, inode in self.paths.items() if path != ROOT}

    def mark(self, note: object) -> int:
        """Put a remark into the write list; returns its place."""
        self.events.append(Event("mark", -1, "", note=note))
        return len(self.events)

    def kill(self) -> None:
        """The process dies: locks and descriptors go, the page cache stays."""
        self.locks.clear()
        self.generation += 1

    def misdirect(self, meant: Inode, where: str, data: bytes) -> None:
        """The device puts `data`, meant for the end of one file, over the start of another (`where` is its path), or at
        the start of the same file. The page cache of the right file has the bytes; no platter ever will."""
        victim = self.paths.get(where, meant)
        site = self.site()
        good = Event("append", meant.number, meant.path, site, position=len(meant.data), data=data)
        meant.data += data
        self.used += len(data)
        good.size = len(meant.data)
        good.lost = True
        bad = Event("write", victim.number, victim.path, site, position=0, data=data[:len(victim.data)])
        self.events += [good, bad]

    def site(self) -> str:
        """The function in refbroker that called us, below all helpers in disk.py: "segment.Segment.append"."""
        if not self._sites:
            return ""
        frame = sys._getframe(1)
        while frame is not None:
            name = _SITES.get(frame.f_code)
            if name is None:
                name = _SITES[frame.f_code] = _site_name(frame.f_code)
            if name:
                return name
            frame = frame.f_back
        return "test"

    # ---- inside

    def _inject(self, call: str, path: str) -> None:
        if self.injector is not None:
            self.injector.call(self, call, path)

    def _put(self, path: str, data: bytes | None) -> Inode:
        parent, name = self._parent(path)
        inode = Inode(len(self.inodes), path, data)
        self.inodes.append(inode)
        self.paths[path] = inode
        parent.children[name] = inode
        if data is not None:
            self.used += len(data)
        return inode

    def _move(self, path: str, target: str) -> None:
        inode = self.paths.pop(path)
        inode.path = target
        self.paths[target] = inode

    def _remove(self, kind: str, path: str, inode: Inode) -> None:
        parent, name = self._parent(path)
        del parent.children[name]
        del self.paths[path]
        self.events.append(Event(kind, inode.number, path, self.site(), directory=parent.number, name=name))

    def _parent(self, path: str) -> tuple[Inode, str]:
        head, _, name = path.rpartition("/")
        return self._directory(head or ROOT), name

    def _there(self, path: str) -> Inode:
        inode = self.paths.get(path)
        if inode is None:
            head = path.rpartition("/")[0]
            while head and head not in self.paths:
                head = head.rpartition("/")[0]
            below_file = bool(head) and self.paths[head].data is not None
            raise _error(errno.ENOTDIR if below_file else errno.ENOENT, path)
        return inode

    def _directory(self, path: str) -> Inode:
        inode = self.paths.get(path) or self._there(path)
        if inode.data is not None:
            raise _error(errno.ENOTDIR, path)
        return inode

    def _refuse_rename(self, inode: Inode, source: str, target: str) -> None:
        """The cases in which the kernel refuses a rename."""
        there = self.paths.get(target)
        if target.startswith(source + "/"):
            raise _error(errno.EINVAL, source)
        if there is None or there is inode:
            return
        if inode.data is None and there.data is not None:
            raise _error(errno.ENOTDIR, source)
        if inode.data is not None and there.data is None:
            raise _error(errno.EISDIR, source)
        if there.data is None and there.children:
            raise _error(errno.ENOTEMPTY, source)


_SITES: dict[object, str] = {}


def _site_name(code) -> str:
    """"segment.Segment.append" for a function of refbroker, "" for anything else and for the helpers of disk.py."""
    path = code.co_filename.replace("\\", "/")
    _, found, inside = path.rpartition("/refbroker/")
    if not found or inside == "log/disk.py":
        return ""
    return f"{inside.removesuffix('.py').rpartition('/')[2]}.{code.co_qualname}"


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)
