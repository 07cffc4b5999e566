"""What does a disk promise about effects that no fsync has covered? The profiles, from weakest to strongest.

A profile decides three things: what a completed sync covers (`commit`), what may have become of the data and the size of
a file since (`files`), and which of the unsynced creations, renames and unlinks have happened (`entries`). Under every
profile (a) bytes covered by a completed fsync of their file are there if the file's entry is, and (b) entries covered by
a completed fsync of their directory are there. Everything else is up to the profile:

| Profile | A sync covers | Unsynced data | Unsynced size | Unsynced entries |
|---|---|---|---|---|
| posix | its file or directory | each write kept, lost, zeros, garbage or torn, on its own | any size the file had | each on its own |
| sector512 | same | each sector of 512 as after any write to it | any | each on its own |
| sector4096 | same | each page of 4096 as after any write to it | any | each on its own |
| size-first | all entries and truncations too, up to the last change of what is synced | each sector of 512 as after any write to it | any, ahead of the data too | a prefix of all |
| append-prefix | its file or directory | the writes of a file up to some byte | with the data | each on its own |
| ordered | a directory: all entries before it too | same | with the data | a prefix of all, in order |
| journal | all entries and truncations too, up to the last change of what is synced | same | with the data | a prefix of all |
| strict | everything before it | a prefix of all effects of all files | with the data | in the same prefix |

A state that a stronger profile allows is, up to the choice of representatives, allowed by each weaker one. The lab tries
the strong ones first, so that a state is labelled with the strongest disk on which it can happen.

`Platters` is fed the write list event by event and knows, at each point, what is durable for certain (`base`, `dirs`)
and what is pending; `spaces.py` turns the pending effects into choices.
"""

from copy import copy
from typing import NamedTuple

from chaos.disk.model import ENTRIES, Event, SimDisk

FILE_EFFECTS = ("append", "write", "truncate")


class Profile(NamedTuple):
    """One set of promises. `stands_for`: the real file system and mount option that keeps these and no stronger ones."""

    name: str
    commit: str  # file | ordered | journal | all
    files: str  # ranges | sectors | prefix | strict
    entries: str  # independent | ordered
    sector_bytes: int
    stands_for: str


PROFILES = (
    Profile("posix", "file", "ranges", "independent", 0,
            "The POSIX minimum: an fsync covers its own file, a directory's entries need an fsync of the directory, and nothing "
            "else is said. Bytes may be torn anywhere, a file may be longer than its data. ext2, or ext4 -o data=writeback,nobarrier "
            "on a disk with a volatile cache, come closest; a log that is right here is right everywhere."),
    Profile("sector512", "file", "sectors", "independent", 512,
            "A sector of 512 bytes is written whole or not at all, and holds what the file held there at some moment since the "
            "sync. ext2 or FAT on a disk with 512-byte sectors that finishes the sector it is writing when the power goes."),
    Profile("sector4096", "file", "sectors", "independent", 4096,
            "The same with pages of 4096: ext4 -o data=writeback or XFS with size updates lost, on an advanced-format disk or an SSD "
            "with power-loss protection for the page in flight."),
    Profile("size-first", "journal", "sectors", "ordered", 512,
            "The journal commits the size of a file before its data are written: ext4 -o data=ordered, the default on most Linux systems. "
            "Its fsync commits every entry that was made before the file last changed, later ones not, for there may be nothing to commit; and "
            "with them the new sizes of other files, which end with zeros after a power cut. The device layer has seen each of these "
            "things on a real ext4."),
    Profile("append-prefix", "file", "prefix", "independent", 0,
            "The size of a file grows only when its data are there (SQLite calls it SAFE_APPEND), so that what is left of a file is "
            "what it was at some byte of its history, as where sizes are updated at write completion. Entries have no order: btrfs, whose fsync "
            "writes the file and its name to a log of their own, past earlier entries."),
    Profile("ordered", "ordered", "prefix", "ordered", 0,
            "Creations, renames and unlinks reach the disk in the order in which they were made: a metadata journal (XFS). An fsync of "
            "a directory takes all earlier ones with it; an fsync of a file does not help the entry of another."),
    Profile("journal", "journal", "prefix", "ordered", 0,
            "An fsync commits the whole transaction in which the file last changed, with every entry and truncation before that change, and "
            "sizes wait for data: ext4 -o data=ordered as it is mostly imagined. Forgotten directory syncs hide here, as under size-first."),
    Profile("strict", "all", "strict", "ordered", 0,
            "One order for everything, an fsync is a barrier for all: ext4 -o data=journal, -o sync mounts, ZFS with sync=always. What "
            "is lost here is lost for lack of any fsync at all, or by an order that the program itself got wrong."),
)
BY_NAME = {profile.name: profile for profile in PROFILES}
WEAKEST = PROFILES[0]
STRONGEST_FIRST = PROFILES[::-1]


def apply_to_content(content: bytes, event: Event) -> bytes:
    """What a file holds after this effect, if it held `content`. Effects that the device dropped change nothing."""
    if event.lost:
        return content
    if event.kind == "truncate":
        return content[:event.size].ljust(event.size, b"\0")
    position, data = event.position, event.data
    if position == len(content):
        return content + data
    return content[:position].ljust(position, b"\0") + data + content[position + len(data):]


def apply_to_dirs(dirs: dict[int, dict[str, int]], event: Event) -> None:
    """Do an entry's effect on a directory tree of inode numbers; tolerant, since earlier effects may be undone."""
    if event.kind in ("create", "mkdir"):
        dirs.setdefault(event.directory, {})[event.name] = event.inode
        return
    names = dirs.setdefault(event.directory, {})
    if names.get(event.name) == event.inode:
        del names[event.name]
    if event.kind == "rename":
        dirs.setdefault(event.target_directory, {})[event.target_name] = event.inode


class Platters:
    """What is on the platters for certain after the events fed so far, and what is pending, under one profile's `commit`."""

    def __init__(self, disk: SimDisk, commit: str):
        self.commit = commit
        self.fed = 0
        self.base: dict[int, bytes] = {}
        self.dirs: dict[int, dict[str, int]] = {}
        self.pending: dict[int, list[tuple[int, Event]]] = {}
        self.entries: list[tuple[int, Event]] = []
        self.sequence: list[tuple[int, Event]] = []
        self._switch_on(disk)

    def _switch_on(self, disk: SimDisk) -> None:
        """The image that the disk was switched on with is all durable."""
        numbers = {"/": 0}
        for number, path in enumerate(sorted(path for path in disk.image if path != "/"), 1):
            numbers[path] = number
            data = disk.image[path]
            if data is not None:
                self.base[number] = data
            head, _, name = path.rpartition("/")
            self.dirs.setdefault(numbers[head or "/"], {})[name] = number
        assert len(numbers) == disk.born

    def copy(self) -> "Platters":
        """One that can be fed on its own; contents are shared, being immutable."""
        other = copy(self)
        other.base, other.entries, other.sequence = dict(self.base), list(self.entries), list(self.sequence)
        other.dirs = {number: dict(names) for number, names in self.dirs.items()}
        other.pending = {inode: list(pending) for inode, pending in self.pending.items()}
        return other

    def feed(self, event: Event) -> None:
        index = self.fed
        self.fed += 1
        kind = event.kind
        if kind in FILE_EFFECTS:
            self.pending.setdefault(event.inode, []).append((index, event))
            self.sequence.append((index, event))
        elif kind in ENTRIES:
            if kind == "create":
                self.base.setdefault(event.inode, b"")
            self.entries.append((index, event))
            self.sequence.append((index, event))
        elif kind == "sync":
            self._sync_file(event.inode)
        elif kind == "sync_dir":
            self._sync_dir(event.inode)

    def _sync_file(self, inode: int) -> None:
        if self.commit == "all":
            self._commit_all()
            return
        pending = self.pending.pop(inode, ())
        for _, event in pending:
            self.base[inode] = apply_to_content(self.base.get(inode, b""), event)
        if self.commit == "journal":
            created = (index for index, event in self.entries if event.kind == "create" and event.inode == inode)
            self._commit_journal(max((*(index for index, _ in pending), *created), default=-1))

    def _sync_dir(self, directory: int) -> None:
        if self.commit == "all":
            self._commit_all()
            return
        touching = [index for index, event in self.entries
                    if event.directory == directory or (event.kind == "rename" and event.target_directory == directory)]
        if self.commit == "journal":
            self._commit_journal(max(touching, default=-1))
        elif self.commit == "ordered":
            self._commit_entries({index for index, _ in self.entries if index <= max(touching, default=-1)})
        else:
            self._commit_entries(set(touching))

    def _commit_entries(self, chosen: set[int]) -> None:
        for index, event in self.entries:
            if index in chosen:
                apply_to_dirs(self.dirs, event)
        self.entries = [entry for entry in self.entries if entry[0] not in chosen]

    def _commit_journal(self, last: int) -> None:
        """Every entry and every truncation up to the effect `last`: what was written before a truncation stays unsynced below the cut."""
        self._commit_entries({index for index, _ in self.entries if index <= last})
        for inode, pending in self.pending.items():
            cuts = [place for place, (index, event) in enumerate(pending) if event.kind == "truncate" and not event.lost and index <= last]
            if not cuts:
                continue
            size = min(pending[place][1].size for place in cuts)
            self.base[inode] = self.base.get(inode, b"")[:size]
            before = [(index, _clip(event, size)) for index, event in pending[:cuts[-1]] if event.kind != "truncate"]
            self.pending[inode] = [pair for pair in before if pair[1].data] + pending[cuts[-1] + 1:]

    def _commit_all(self) -> None:
        for _, event in self.sequence:
            if event.kind in ENTRIES:
                apply_to_dirs(self.dirs, event)
            else:
                self.base[event.inode] = apply_to_content(self.base.get(event.inode, b""), event)
        self.sequence.clear()
        self.pending.clear()
        self.entries.clear()

    def tree(self) -> dict[str, int]:
        """path -> inode number of all that is durable and reachable."""
        return tree_of(self.dirs)

    def durable_image(self) -> dict[str, bytes | None]:
        """Nothing but what is durable for certain: all pending effects lost."""
        return {path: self.base.get(number) for path, number in self.tree().items()}


def tree_of(dirs: dict[int, dict[str, int]]) -> dict[str, int]:
    """path -> inode number of all that can be reached from the root. A directory that undone and done renames put in two
    places is seen once, at the first."""
    found: dict[str, int] = {}
    stack = [("", 0)]
    seen = set()
    while stack:
        prefix, number = stack.pop()
        if number in seen:
            continue
        seen.add(number)
        for name in sorted(dirs.get(number, ())):
            child = dirs[number][name]
            path = f"{prefix}/{name}"
            found[path] = child
            stack.append((path, child))
    return found


def _clip(event: Event, size: int) -> Event:
    """The same write without what a committed truncation has cut off."""
    if event.position + len(event.data) <= size:
        return event
    clipped = Event(event.kind, event.inode, event.path, event.site, position=event.position,
                    data=event.data[:max(0, size - event.position)], size=size)
    clipped.lost = event.lost
    return clipped
