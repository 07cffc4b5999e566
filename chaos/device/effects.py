"""What had the broker done to its disk at one moment, and what of it did completed syncs cover? A real run's record, for the model.

The record of `chaos/process/recording.py` becomes the write list of `chaos/disk/model.py`: the same events, the same `Platters`, so that
what a real file system shows is held against the very model that the disk layer enumerates.

At time t (ns of CLOCK_MONOTONIC):

1. An effect whose call began by t may be on the disk, one that began later is not.
2. A sync covers what was recorded before it began, if it had returned by t; otherwise it covers nothing yet. It takes its place in the
   list where it began.
3. The data directory was empty, or held `image`, and that was durable, before the first entry.
"""

import os
from bisect import bisect_right
from collections.abc import Mapping

from chaos.disk.model import Event, SimDisk
from chaos.disk.profiles import Platters
from chaos.process.recording import entries

NEVER = 1 << 62
Place = tuple[int, int, int]  # where in the list: before or at an entry's number; a sync stands before the entry that it does not cover


class Effects:
    """A record, replayed into events. `root` is the data directory; paths are below it, it is "/"."""

    def __init__(self, record: str, root: str, image: Mapping[str, bytes | None] | None = None):
        self.start = SimDisk(image or {}, sites=False)
        self._root = os.path.abspath(root)
        self._names: dict[int, dict[str, int]] = {}
        for path, inode in self.start.paths.items():
            if path != "/":
                self._names.setdefault(self.start.paths[path.rpartition("/")[0] or "/"].number, {})[path.rpartition("/")[2]] = inode.number
        self._next = self.start.born
        self._handles: dict[int, int] = {}
        self._sizes: dict[int, int] = {number: len(inode.data or b"") for number, inode in enumerate(self.start.inodes)}
        self.list: list[tuple[Place, int, int, Event]] = []  # place, began, ended
        for number, (began, ended, kind, *args) in enumerate(entries(record)):
            event, covered = self._event(kind, args)
            if event is not None:
                place = (number, 1, number) if covered is None else (covered, 0, number)
                self.list.append((place, began, ended, event))
        self.list.sort(key=lambda item: item[0])
        self._settle()

    def _event(self, kind: str, args: list) -> tuple[Event | None, int | None]:
        """The event, and for a sync the number of entries that it covers."""
        if kind in ("write", "truncate"):
            return self._content(kind, *args), None
        if kind == "sync":
            return Event("sync", self._handles[args[0]], "sync"), args[1]
        path = self._path(args[0])
        if kind == "sync_dir":
            number = self._number(path)
            return (None if number is None else Event("sync_dir", number, path)), args[1]
        if path == "/":
            return None, None
        directory, name = self._number(path.rpartition("/")[0] or "/"), path.rpartition("/")[2]
        names = self._names.setdefault(directory, {})
        if kind == "open":
            return self._open(args[1], path, directory, names, name), None
        if kind == "mkdir":
            return self._make("mkdir", path, directory, names, name), None
        if kind == "unlink":
            return Event("unlink", names.pop(name), path, directory=directory, name=name), None
        assert kind == "rename", kind
        target = self._path(args[1])
        target_directory, target_name = self._number(target.rpartition("/")[0] or "/"), target.rpartition("/")[2]
        inode = names.pop(name)
        self._names.setdefault(target_directory, {})[target_name] = inode
        return Event("rename", inode, path, directory=directory, name=name, target_directory=target_directory, target_name=target_name), None

    def _content(self, kind: str, handle: int, amount: int, data: bytes = b"") -> Event | None:
        inode = self._handles[handle]
        if kind == "truncate":
            same, self._sizes[inode] = self._sizes[inode] == amount, amount
            return None if same else Event("truncate", inode, f"inode {inode}", size=amount)
        self._sizes[inode] = amount + len(data)
        return Event("append", inode, f"inode {inode}", position=amount, data=data, size=amount + len(data))

    def _open(self, handle: int, path: str, directory: int, names: dict[str, int], name: str) -> Event | None:
        event = None if name in names else self._make("create", path, directory, names, name)
        self._handles[handle] = names[name]
        self._sizes.setdefault(names[name], 0)
        return event

    def _make(self, kind: str, path: str, directory: int, names: dict[str, int], name: str) -> Event:
        names[name] = self._next
        self._next += 1
        return Event(kind, names[name], path, directory=directory, name=name)

    def _path(self, path: str) -> str:
        relative = os.path.relpath(os.path.abspath(path), self._root)
        assert relative.split("/")[0] != "..", f"{path} is outside of {self._root}"
        return "/" if relative == "." else f"/{relative}"

    def _number(self, path: str) -> int | None:
        number = 0
        for name in path.split("/")[1:] if path != "/" else ():
            number = self._names.get(number, {}).get(name)
            if number is None:
                return None
        return number

    def _settle(self) -> None:
        """For each time, the first place that a later moment may still change: an effect that has not begun, a sync that has not ended."""
        def first_place(times: list[tuple[int, Place]]) -> tuple[list[int], list[Place]]:
            times.sort()
            lowest, places = (NEVER, 0, 0), []
            for _, place in reversed(times):
                lowest = min(lowest, place)
                places.append(lowest)
            return [time for time, _ in times], [*places[::-1], (NEVER, 0, 0)]

        syncs = ("sync", "sync_dir")
        self._to_begin = first_place([(began, place) for place, began, _, event in self.list if event.kind not in syncs])
        self._to_end = first_place([(ended, place) for place, _, ended, event in self.list if event.kind in syncs])

    def settled(self, time: int) -> Place:
        """What stands before this place is the same at every later moment."""
        return min(places[bisect_right(times, time)] for times, places in (self._to_begin, self._to_end))


class Walk:
    """The platters at ascending moments, for each kind of `commit`."""

    def __init__(self, effects: Effects, commits: set[str]):
        self._effects = effects
        self._settled = {commit: Platters(effects.start, commit) for commit in commits}
        self._fed = 0

    def at(self, time: int) -> dict[str, Platters]:
        """Not to be fed; `time` must not fall from call to call."""
        steps, settled = self._effects.list, self._effects.settled(time)
        while self._fed < len(steps) and steps[self._fed][0] < settled:
            for platters in self._settled.values():
                platters.feed(steps[self._fed][3])
            self._fed += 1
        found = {commit: platters.copy() for commit, platters in self._settled.items()}
        for _, began, ended, event in steps[self._fed:]:
            if (ended if event.kind in ("sync", "sync_dir") else began) <= time:
                for platters in found.values():
                    platters.feed(event)
        return found
