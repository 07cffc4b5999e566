"""Which bytes and names would a power cut at this moment have taken from a real process?

`RecordingDisk` is the broker's real disk plus a write list: every effect is appended to a record file right after the real
call returned, so the record outlives a SIGKILL. `Recording` replays that file into inodes and directory entries with what
each completed fsync covered, and `cut` writes out a directory as it may look after the power came back.

1. An effect that the process made but did not live to record counts as unsynced and lost: nobody was told of it.
2. A sync covers the effects that were recorded before it *began*; it counts only if it returned.
3. Each entry has the times, in ns of CLOCK_MONOTONIC, between which its call was made: what began later was not on any disk before.
4. Unsynced effects are independent of each other (POSIX minimum): each range of each write is kept, lost, zero or garbage by
   512-byte sector, sizes and data separately; each create, rename and unlink is done or undone.
"""

import itertools
import os
import pickle
import random
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from refbroker.log.disk import Buffer, Disk, File, Lock

SECTOR = 512
_LENGTH = struct.Struct("<I")


class Journal:
    """The record file: length-prefixed pickles (began, ended, kind, ...), one write each, in the order in which the calls returned."""

    def __init__(self, path: str):
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._lock = threading.Lock()
        self.count = 0

    def write(self, began: int, *entry) -> None:
        data = pickle.dumps((began, time.monotonic_ns(), *entry), protocol=5)
        with self._lock:  # syncs report from worker threads
            os.write(self._fd, _LENGTH.pack(len(data)) + data)
            self.count += 1


class RecordingFile(File):
    """A real file whose effects are recorded under `handle`, which stays the same through renames."""

    __slots__ = ("_journal", "_handle")

    def __init__(self, file: File, journal: Journal, handle: int):
        super().__init__(file.path, os.dup(file.fileno()))
        self._journal, self._handle = journal, handle

    def append(self, buffers: list[Buffer]) -> int:
        began = time.monotonic_ns()
        position = super().append(buffers)
        self._journal.write(began, "write", self._handle, position, b"".join(bytes(buffer) for buffer in buffers))
        return position

    def truncate(self, size: int) -> None:
        began = time.monotonic_ns()
        super().truncate(size)
        self._journal.write(began, "truncate", self._handle, size)

    def sync(self) -> None:
        began, covered = time.monotonic_ns(), self._journal.count
        super().sync()
        self._journal.write(began, "sync", self._handle, covered)


class RecordingDisk(Disk):
    """The real disk, every effect on it recorded."""

    def __init__(self, record: str):
        self._journal = Journal(record)
        self._handles = itertools.count(1)  # files are opened by several threads at once

    def open(self, path: str, *, create: bool = False, readonly: bool = False) -> File:
        began = time.monotonic_ns()
        file = super().open(path, create=create, readonly=readonly)
        if readonly:
            return file
        handle = next(self._handles)
        self._journal.write(began, "open", path, handle)
        return RecordingFile(file, self._journal, handle)

    def mkdir(self, path: str) -> None:
        began = time.monotonic_ns()
        super().mkdir(path)
        self._journal.write(began, "mkdir", path)

    def rmdir(self, path: str) -> None:
        began = time.monotonic_ns()
        super().rmdir(path)
        self._journal.write(began, "unlink", path)

    def rename(self, source: str, target: str) -> None:
        began = time.monotonic_ns()
        super().rename(source, target)
        self._journal.write(began, "rename", source, target)

    def unlink(self, path: str) -> None:
        began = time.monotonic_ns()
        super().unlink(path)
        self._journal.write(began, "unlink", path)

    def sync_dir(self, path: str) -> None:
        began, covered = time.monotonic_ns(), self._journal.count
        super().sync_dir(path)
        self._journal.write(began, "sync_dir", path, covered)

    def lock(self, path: str) -> Lock:
        began = time.monotonic_ns()
        lock = super().lock(path)
        self._journal.write(began, "open", path, next(self._handles))
        return lock


@dataclass
class Node:
    """An inode: what is durable of it, and the effects (number, kind, ...) that no completed sync covers."""

    is_dir: bool
    durable: bytearray = field(default_factory=bytearray)
    entries: dict[str, "Node"] = field(default_factory=dict)          # as the process sees the directory
    durable_entries: dict[str, "Node"] = field(default_factory=dict)  # as a power cut cannot take it away
    pending: list[tuple] = field(default_factory=list)

    def settle(self, began: int) -> None:
        """A sync that began after `began` effects has returned."""
        covered = [effect for effect in self.pending if effect[0] < began]
        self.pending = [effect for effect in self.pending if effect[0] >= began]
        for effect in covered:
            if self.is_dir:
                _apply_entry(self.durable_entries, effect)
            else:
                _apply_bytes(self.durable, effect)


def _apply_entry(entries: dict[str, Node], effect: tuple) -> None:
    _, kind, *names = effect
    if kind == "link":
        entries[names[0]] = names[1]
    elif kind == "unlink":
        entries.pop(names[0], None)
    else:  # rename within one directory
        source, target, node = names
        entries.pop(source, None)
        entries[target] = node


def _apply_bytes(content: bytearray, effect: tuple) -> None:
    _, kind, *args = effect
    if kind == "truncate":
        del content[args[0]:]
        return
    position, data = args
    content.extend(bytes(max(0, position - len(content))))
    content[position:position + len(data)] = data


class Recording:
    """A record file, replayed. `root` is the data directory; what it held at the start counts as durable."""

    def __init__(self, record: str, root: str):
        self.root_path = os.path.abspath(root)
        self.root = Node(is_dir=True)
        self.effects = self.unsynced_bytes = self.unsynced_entries = 0
        self._handles: dict[int, Node] = {}
        for number, (_, _, kind, *args) in enumerate(entries(record)):
            self.effects += 1
            self._replay(number, kind, *args)
        for node in self._nodes():
            self.unsynced_entries += len(node.pending) if node.is_dir else 0
            self.unsynced_bytes += sum(len(e[3]) for e in node.pending if e[1] == "write")

    def _nodes(self):
        found, todo = {}, [self.root, *self._handles.values()]
        while todo:
            node = todo.pop()
            if id(node) not in found:
                found[id(node)] = node
                todo += node.entries.values()
        return found.values()

    def _parent(self, path: str) -> tuple[Node, str]:
        names = os.path.relpath(os.path.abspath(path), self.root_path).split(os.sep)
        assert names[0] != "..", f"{path} is outside of {self.root_path}"
        node = self.root
        for name in names[:-1]:
            node = node.entries[name]
        return node, names[-1]

    def _replay(self, number: int, kind: str, *args) -> None:
        if kind == "open":
            parent, name = self._parent(args[0])
            if name not in parent.entries:
                parent.entries[name] = Node(is_dir=False)
                parent.pending.append((number, "link", name, parent.entries[name]))
            self._handles[args[1]] = parent.entries[name]
        elif kind == "mkdir":
            if os.path.abspath(args[0]) == self.root_path:
                return
            parent, name = self._parent(args[0])
            parent.entries[name] = Node(is_dir=True)
            parent.pending.append((number, "link", name, parent.entries[name]))
        elif kind == "unlink":
            parent, name = self._parent(args[0])
            del parent.entries[name]
            parent.pending.append((number, "unlink", name))
        elif kind == "rename":
            (parent, source), (other, target) = self._parent(args[0]), self._parent(args[1])
            assert parent is other, "the broker renames within a directory only"
            parent.entries[target] = parent.entries.pop(source)
            parent.pending.append((number, "rename", source, target, parent.entries[target]))
        elif kind in ("write", "truncate"):
            self._handles[args[0]].pending.append((number, kind, *args[1:]))
        elif kind == "sync":
            self._handles[args[0]].settle(args[1])
        elif kind == "sync_dir":
            path = os.path.abspath(args[0])
            if path == self.root_path:
                self.root.settle(args[1])
            elif path.startswith(self.root_path + os.sep):
                parent, name = self._parent(path)
                parent.entries[name].settle(args[1])

    def cut(self, target: Path, rng: random.Random, keep: float = 0.5) -> list[str]:
        """Write the directory that a power cut may leave into `target` (made anew). `keep` is the chance that an unsynced
        effect reached the disk: 0 gives the durable state alone. Returns what was taken, one line each."""
        target.mkdir(parents=True)
        taken: list[str] = []
        self._cut_directory(self.root, target, rng, keep, taken, "")
        return taken

    def _cut_directory(self, node: Node, target: Path, rng, keep, taken: list[str], shown: str) -> None:
        entries = dict(node.durable_entries)
        for effect in node.pending:
            if rng.random() < keep:
                _apply_entry(entries, effect)
            else:
                taken.append(f"{shown or '.'}: {effect[1]} of {' -> '.join(map(str, effect[2:-1] or effect[2:]))} undone")
        placed: set[int] = set()
        for name, child in sorted(entries.items()):
            path = target / name
            if child.is_dir:
                if id(child) in placed:
                    continue  # a rename of a directory cannot leave it under both names
                placed.add(id(child))
                path.mkdir()
                self._cut_directory(child, path, rng, keep, taken, f"{shown}{name}/")
            else:
                path.write_bytes(_cut_file(child, rng, keep, taken, shown + name))


def _cut_file(node: Node, rng: random.Random, keep: float, taken: list[str], shown: str) -> bytes:
    content = bytearray(node.durable)
    for effect in node.pending:
        if effect[1] == "truncate":
            if rng.random() < keep:
                _apply_bytes(content, effect)
            else:
                taken.append(f"{shown}: truncation to {effect[2]} undone")
            continue
        _, _, position, data = effect
        fate = rng.choices(["kept", "lost", "torn"], [keep, 1 - keep, min(keep, 1 - keep) / 2])[0]
        if fate == "kept":
            _apply_bytes(content, effect)
        elif fate == "torn":
            _tear(content, position, data, rng)
        if fate != "kept":
            taken.append(f"{shown}: {len(data)} bytes at {position} {fate}")
    return bytes(content)


def _tear(content: bytearray, position: int, data: bytes, rng: random.Random) -> None:
    """Some sectors of one write arrived, others are missing, zero or garbage; the size may have grown without them."""
    start = position
    while start < position + len(data):
        end = min((start // SECTOR + 1) * SECTOR, position + len(data))
        piece = data[start - position:end - position]
        fate = rng.choice(["kept", "kept", "lost", "zeros", "garbage"])
        if fate != "lost":
            piece = piece if fate == "kept" else bytes(len(piece)) if fate == "zeros" else rng.randbytes(len(piece))
            _apply_bytes(content, (0, "write", start, piece))
        start = end


def entries(record: str) -> Iterator[tuple]:
    """(began, ended, kind, ...) of each call, as `RecordingDisk` wrote it."""
    with open(record, "rb") as file:
        while len(head := file.read(_LENGTH.size)) == _LENGTH.size:
            data = file.read(_LENGTH.unpack(head)[0])
            if len(data) < _LENGTH.unpack(head)[0]:
                return  # killed while writing it
            yield pickle.loads(data)
