"""How does a device or a kernel fail short of a power cut? Errors of calls, and decay at rest, as values.

A `Fault` strikes the n-th call of its kind, once (`lasting=False`) or from there on until `heal`. A sweep runs the same workload with
n = 1, 2, 3 ... until a run ends in which nothing was struck: then every such call of the workload has failed once.

| Kind | The call | What the kernel does |
|---|---|---|
| sync-eio-kept | File.sync, Disk.sync_dir | EIO; dirty pages are marked clean and keep their bytes, which no later fsync writes (ext4, XFS) |
| sync-eio-reverted | the same | EIO; besides, the page cache shows the old content again (btrfs) |
| sync-enospc | the same | ENOSPC, otherwise as sync-eio-kept (delayed allocation, NFS) |
| write-eio | File.append | EIO before a byte went in |
| write-enospc, write-edquot | File.append, create, mkdir | the first half goes in, then no more, until space comes back |
| torn-append | File.append | as write-enospc, and the truncation that should undo it fails too |
| open-emfile | Disk.open, Disk.sync_dir | EMFILE |
| short-write | File.append | the first half goes in and no error is given |
| eintr | File.append | interrupted before a byte went in: Python's own retry hides it from every program (PEP 475) |
| truncate-eio, rename-eio, unlink-eio | those | EIO, nothing done |
| rename-enospc | Disk.rename | ENOSPC, nothing done: the directory has no room for the name |
| misdirected | File.append | the page cache is right, the device writes the bytes over the start of the same file |

Decay at rest (`rot`) flips one bit of a file of a stopped broker. Not modelled: errors on read other than by sweeping `pread`
("read-eio"), errors that report success (a lying disk): those are crash states of a weaker profile.
"""

import errno
import os
from typing import NamedTuple

from chaos.disk.model import Inode, SimDisk
from refbroker.log.disk import failed_sync

CALLS = {
    "sync-eio-kept": ("sync",), "sync-eio-reverted": ("sync",), "sync-enospc": ("sync",), "write-eio": ("append",),
    "write-enospc": ("append", "create", "mkdir"), "write-edquot": ("append", "create", "mkdir"), "open-emfile": ("open",), "short-write": ("append",), "eintr": ("append",),
    "truncate-eio": ("truncate",), "rename-eio": ("rename",), "rename-enospc": ("rename",), "unlink-eio": ("unlink",), "misdirected": ("append",),
    "read-eio": ("pread",), "torn-append": ("append",),
}
ERRNO = {
    "sync-enospc": errno.ENOSPC, "rename-enospc": errno.ENOSPC, "write-enospc": errno.ENOSPC, "torn-append": errno.ENOSPC, "write-edquot": errno.EDQUOT, "open-emfile": errno.EMFILE,
}  # fmt: skip
LOW_BYTES = {"index": (8, (3, 7)), "timeindex": (12, (7, 11))}  # size of an entry, last bytes of its fields
SILENT = ("short-write", "eintr", "misdirected")  # the program is told nothing


class Fault(NamedTuple):
    """The `nth` call (from 1) of `kind` fails; with `lasting` all later ones too. `file_kind` narrows it ("log", ...)."""

    kind: str
    nth: int
    lasting: bool = False
    file_kind: str | None = None

    def to_json(self) -> dict:
        return {key: value for key, value in self._asdict().items() if value not in (None, False)}


class Injector:
    """Strikes with one fault. `struck` counts how often it did, `log` says where."""

    def __init__(self, fault: Fault):
        self.fault = fault
        self.seen = 0
        self.struck = 0
        self.healed = False
        self.tearing = False  # the append that failed cannot be undone
        self.log: list[str] = []

    def heal(self) -> None:
        """Space is back, the device answers again: a lasting fault ends."""
        self.healed = True

    def call(self, disk: SimDisk, call: str, path: str) -> None:
        if call == "truncate" and self.tearing:
            self.tearing = False
            self._raise(path)
        if call == "open" and "create" in CALLS[self.fault.kind] and not disk.exists(path):
            call = "create"
        if self._strikes(call, path):
            self._raise(path)

    def write(self, disk: SimDisk, path: str, count: int) -> tuple[int, str | None]:
        """How many of `count` bytes go in, and where the device puts them if not where they belong."""
        kind = self.fault.kind
        if not self._strikes("append", path):
            return count, None
        if kind == "misdirected":
            return count, path
        if kind == "eintr":
            return count, None
        if kind == "short-write":
            return max(1, count // 2), None
        if kind in ("write-enospc", "write-edquot", "torn-append") and count > 1 and self.seen == self.fault.nth:
            self.seen -= 1  # the rest of this write is the call that fails
            self.fault = self.fault._replace(nth=self.fault.nth)
            return self._half(count), None
        self.tearing = kind == "torn-append"
        self._raise(path)
        return 0, None

    def sync(self, disk: SimDisk, inode: Inode, path: str) -> None:
        if not self._strikes("sync", path):
            return
        if inode.data is not None:
            drop_unsynced(disk, inode, revert=self.fault.kind == "sync-eio-reverted")
        try:
            self._raise(path)
        except OSError as error:  # as the real one tells it
            raise failed_sync(error, path) from error

    def _half(self, count: int) -> int:
        return count // 2

    def _strikes(self, call: str, path: str) -> bool:
        fault = self.fault
        if self.healed or call not in CALLS[fault.kind] or (fault.file_kind and kind_of(path) != fault.file_kind):
            return False
        self.seen += 1
        if self.seen < fault.nth or (self.seen > fault.nth and not fault.lasting):
            return False
        self.struck += 1
        self.log.append(f"{fault.kind} at {call} {path}")
        return True

    def _raise(self, path: str) -> None:
        number = ERRNO.get(self.fault.kind, errno.EIO)
        raise OSError(number, os.strerror(number), path)


def drop_unsynced(disk: SimDisk, inode: Inode, *, revert: bool) -> None:
    """An fsync of this file failed: what was written since the last good one will never be on the disk."""
    for event in reversed(disk.events):
        if event.inode != inode.number:
            continue
        if event.kind == "sync":
            break
        if event.kind in ("append", "write") and not event.lost:
            event.lost = True
            if revert:
                end = min(event.position + len(event.data), len(inode.data))
                if event.position < end:
                    inode.data = inode.data[:event.position] + bytes(end - event.position) + inode.data[end:]


def kind_of(path: str) -> str:
    """Which kind of file this is, as the tables name it: log, index, timeindex, snapshot, checkpoint, marker, ..."""
    name = path.rpartition("/")[2]
    if name.endswith(".tmp"):
        return kind_of(name[:-4]) + ".tmp"
    if name.endswith(".deleted"):
        return kind_of(name[:-8]) + ".deleted"
    stem, dot, suffix = name.rpartition(".")
    if dot and stem[:20].isdigit():
        return suffix
    if name.endswith("-checkpoint"):
        return name
    if name in ("partition.metadata", "meta.properties", ".kafka_cleanshutdown", ".lock"):
        return name
    return "deleted directory" if name.endswith("-delete") else "directory"


def rot(content: bytes, position: int, bit: int) -> bytes:
    """`content` with one bit flipped."""
    return content[:position] + bytes([content[position] ^ (1 << bit)]) + content[position + 1:]


def rot_places(content: bytes, kind: str) -> list[tuple[int, int]]:
    """(position, bit) of one flip in each field that matters: representatives for the kind of file."""
    size = len(content)
    if kind == "log":
        fields = [0, 7, 8, 11, 12, 15, 16, 17, 21, 22, 26, 27, 42, 50, 52, 56, 60, 61]
        places = fields + [size // 2, size - 1]
    else:
        places = [0, 1, size // 3, size // 2, size - 2, size - 1]
    flips = {(place, place % 8) for place in places if 0 <= place < size}
    if kind in LOW_BYTES:  # so little that the entry still looks like one
        width, ends = LOW_BYTES[kind]
        flips |= {(entry + end, bit) for entry in range(0, size, width) for end in ends for bit in (0, 1) if entry + end < size}
    return sorted(flips)
