"""How may one file, or the directory entries, come out of a power cut? The choices for each group of pending effects.

A part is a group of pending effects that come out together, independently of all other parts: the effects of one file, the
directory entries, or (under `strict`) everything. It has axes, each with choices, of which the first is "kept": nothing deviates.

1. A torn write is cut at representative places: after the first byte, after the 12 bytes of a batch's offset and length,
   in the middle, before the last byte, at a sector boundary; or its second half is there without its first.
2. All combinations of choices are built where they are at most `PART_STATES_MAX`; beyond it every single deviation, every
   single survivor of a total loss, everything up to one point, and seeded random combinations.
3. Combinations that leave the same bytes are one option, the one with the fewest deviations.
"""

import hashlib
import math
import random
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

from chaos.disk.model import ENTRIES, Event
from chaos.disk.profiles import Platters, Profile, apply_to_content, apply_to_dirs, tree_of

PART_STATES_MAX = 512  # combinations built for one part: four pending writes with all their torn forms are more already
PAGE_BYTES = 4096
SECTOR_BYTES = 512  # where a torn write may be cut besides its own landmarks


class Choice(NamedTuple):
    """One way for one effect (or sector, or size) to come out. `event`: the first effect that deviates."""

    label: str
    event: Event | None = None
    deviation: str = ""


class Axis(NamedTuple):
    key: str
    choices: list[Choice]


class Option(NamedTuple):
    """One outcome of a part: contents by inode number, the tree if the part decides it, and how it deviates."""

    contents: dict[int, bytes]
    tree: dict[str, int] | None
    picks: tuple[int, ...]


class Part:
    """An independent group of pending effects. `build(picks)` makes the contents (and tree) of one combination."""

    def __init__(self, name: str, axes: list[Axis]):
        self.name = name
        self.axes = axes
        self.options: list[Option] = []

    def build(self, picks: tuple[int, ...]) -> Option:
        raise AssertionError("each part builds its own")

    def enumerate(self, rng: random.Random) -> None:
        """Fill `options`, the undisturbed one first, in order of ever more deviations."""
        seen = set()
        for picks in sorted(_combinations(self.axes, rng), key=lambda picks: (sum(map(bool, picks)), picks)):
            option = self.build(picks)
            identity = (tuple(sorted(option.contents.items())), option.tree and tuple(option.tree.items()))
            if identity not in seen:
                seen.add(identity)
                self.options.append(option)

    def deviations(self, picks: tuple[int, ...]) -> list[tuple[str, Choice]]:
        return [(axis.key, axis.choices[pick]) for axis, pick in zip(self.axes, picks, strict=True) if pick]

    def picks_of(self, labels: dict[str, str]) -> tuple[int, ...]:
        """The inverse of `deviations`, for plans. Raises ValueError naming what does not fit."""
        unknown = labels.keys() - {axis.key for axis in self.axes}
        if unknown:
            raise ValueError(f"{self.name}: nothing pending under {sorted(unknown)}")
        picks = []
        for axis in self.axes:
            known = [choice.label for choice in axis.choices]
            label = labels.get(axis.key, known[0])
            if label not in known:
                raise ValueError(f"{self.name} {axis.key}: {label!r} is none of {known}")
            picks.append(known.index(label))
        return tuple(picks)


class RangesPart(Part):
    """A file of which each pending write comes out on its own, and so does the size (posix)."""

    def __init__(self, inode: int, base: bytes, pending: list[tuple[int, Event]]):
        self.inode = inode
        self.base = base
        self.writes = [(index, event) for index, event in pending if event.kind != "truncate" and not event.lost]
        axes = [Axis(f"#{index}", _write_choices(event, base)) for index, event in self.writes]
        self.sizes, size_axis = _size_axis(base, pending)
        if self.writes:  # the last write may have been cut short together with its size
            index, event = self.writes[-1]
            cuts = [cut for cut in _tears(event) if event.position + cut not in self.sizes]
            self.sizes[1:1] = [event.position + cut for cut in cuts]
            size_axis.choices[1:1] = [Choice(f"{cut} bytes of #{index}", event, "size lost") for cut in cuts]
        super().__init__(_name(pending), [*axes, size_axis])

    def build(self, picks: tuple[int, ...]) -> Option:
        size = self.sizes[picks[-1]]
        content = bytearray(self.base)
        for (_, event), axis, pick in zip(self.writes, self.axes, picks, strict=False):
            _put_range(content, event, axis.choices[pick].label)
        return Option({self.inode: bytes(content[:size]).ljust(size, b"\0")}, None, picks)


class SectorsPart(Part):
    """A file of which each sector is as it was after one of the pending effects, and so is the size."""

    def __init__(self, inode: int, base: bytes, pending: list[tuple[int, Event]], sector_bytes: int):
        self.inode = inode
        self.sector_bytes = sector_bytes
        self.latest, versions = _versions(base, pending)
        self.sizes, size_axis = _size_axis(base, pending)
        self.sectors: list[int] = []
        self.alternatives: list[list[bytes]] = []
        axes = []
        for sector in range(-(-max(len(content) for _, content in versions) // sector_bytes)):
            start = sector * sector_bytes
            pieces: list[bytes] = []
            choices: list[Choice] = []
            for event, content in reversed(versions):
                piece = content[start:start + sector_bytes].ljust(sector_bytes, b"\0")
                if piece not in pieces:
                    pieces.append(piece)
                    choices.append(Choice(f"before {_ref(event, pending)}" if choices else "latest", event, "stale sector"))
            if len(pieces) > 1:
                axes.append(Axis(f"sector {sector}", choices))
                self.sectors.append(sector)
                self.alternatives.append(pieces)
        super().__init__(_name(pending), [*axes, size_axis])

    def build(self, picks: tuple[int, ...]) -> Option:
        content = bytearray(self.latest)
        for sector, pieces, pick in zip(self.sectors, self.alternatives, picks, strict=False):
            start = sector * self.sector_bytes
            content.extend(bytes(max(0, start + self.sector_bytes - len(content))))
            content[start:start + self.sector_bytes] = pieces[pick]
        size = self.sizes[picks[-1]]
        return Option({self.inode: bytes(content[:size]).ljust(size, b"\0")}, None, picks)


class PrefixPart(Part):
    """A file that holds what it held at some byte of its history since the sync."""

    def __init__(self, inode: int, base: bytes, pending: list[tuple[int, Event]]):
        self.inode = inode
        latest, versions = _versions(base, pending)
        self.contents = [latest]
        choices = [Choice("all")]
        for (index, event), (_, content) in reversed(list(zip(pending, versions, strict=False))):
            if event.lost:
                continue
            for cut in reversed(_tears(event)):
                self.contents.append(apply_to_content(content, _head(event, cut)))
                choices.append(Choice(f"{cut} bytes of #{index}", event, "torn"))
            self.contents.append(content)
            choices.append(Choice(f"before #{index}", event, "lost"))
        super().__init__(_name(pending), [Axis("end", choices)])

    def build(self, picks: tuple[int, ...]) -> Option:
        return Option({self.inode: self.contents[picks[0]]}, None, picks)


class EntriesPart(Part):
    """The pending entries, each done or not (independent) or done up to one of them (ordered)."""

    def __init__(self, dirs: dict[int, dict[str, int]], pending: list[tuple[int, Event]], ordered: bool):
        self.dirs = dirs
        self.pending = pending
        self.ordered = ordered
        if ordered:
            undone = [Choice(f"before #{index}", event, f"{event.kind} undone") for index, event in reversed(pending)]
            axes = [Axis("journal", [Choice("all"), *undone])]
        else:
            axes = [Axis(f"#{index}", [Choice("done"), Choice("undone", event, f"{event.kind} undone")]) for index, event in pending]
        super().__init__("entries", axes)

    def build(self, picks: tuple[int, ...]) -> Option:
        if self.ordered:
            done = self.pending[:len(self.pending) - picks[0]]
        else:
            done = [pair for pair, pick in zip(self.pending, picks, strict=True) if not pick]
        dirs = {number: dict(names) for number, names in self.dirs.items()}
        for _, event in done:
            apply_to_dirs(dirs, event)
        return Option({}, tree_of(dirs), picks)


class StrictPart(Part):
    """Everything pending, done up to one byte of one effect."""

    def __init__(self, platters: Platters):
        self.platters = platters
        choices = [Choice("all")]
        self.cuts: list[tuple[int, int | None]] = [(len(platters.sequence), None)]
        for place in range(len(platters.sequence) - 1, -1, -1):
            index, event = platters.sequence[place]
            entry = event.kind in ENTRIES
            for cut in () if entry or event.lost else reversed(_tears(event)):
                choices.append(Choice(f"{cut} bytes of #{index}", event, "torn"))
                self.cuts.append((place, cut))
            choices.append(Choice(f"before #{index}", event, f"{event.kind} undone" if entry else "lost"))
            self.cuts.append((place, None))
        super().__init__("everything", [Axis("end", choices)])

    def build(self, picks: tuple[int, ...]) -> Option:
        place, cut = self.cuts[picks[0]]
        dirs = {number: dict(names) for number, names in self.platters.dirs.items()}
        contents = {event.inode: self.platters.base.get(event.inode, b"") for _, event in self.platters.sequence
                    if event.kind not in ENTRIES}
        done = [event for _, event in self.platters.sequence[:place]]
        if cut is not None:
            done.append(_head(self.platters.sequence[place][1], cut))
        for event in done:
            if event.kind in ENTRIES:
                apply_to_dirs(dirs, event)
            else:
                contents[event.inode] = apply_to_content(contents[event.inode], event)
        return Option(contents, tree_of(dirs), picks)


def parts_of(profile: Profile, platters: Platters) -> list[Part]:
    if profile.files == "strict":
        return [StrictPart(platters)] if platters.sequence else []
    parts: list[Part] = []
    if platters.entries:
        parts.append(EntriesPart(platters.dirs, platters.entries, profile.entries == "ordered"))
    for inode, pending in sorted(platters.pending.items()):
        base = platters.base.get(inode, b"")
        if all(event.lost for _, event in pending):
            continue
        if profile.files == "ranges":
            parts.append(RangesPart(inode, base, pending))
        elif profile.files == "sectors":
            parts.append(SectorsPart(inode, base, pending, profile.sector_bytes))
        else:
            parts.append(PrefixPart(inode, base, pending))
    return parts


def _name(pending: list[tuple[int, Event]]) -> str:
    """A file is called by its number and the name under which the first pending effect knew it."""
    return f"{pending[0][1].inode}:{pending[0][1].path}"


def _ref(event: Event, pending: list[tuple[int, Event]]) -> str:
    return next(f"#{index}" for index, other in pending if other is event)


def _versions(base: bytes, pending: list[tuple[int, Event]]) -> tuple[bytes, list[tuple[Event, bytes]]]:
    """The latest content, and for each effect the content before it (plus the latest at the end, before nothing)."""
    versions = []
    content = base
    for _, event in pending:
        versions.append((event, content))
        content = apply_to_content(content, event)
    return content, [*versions, (pending[-1][1], content)]


def _size_axis(base: bytes, pending: list[tuple[int, Event]]) -> tuple[list[int], Axis]:
    """The sizes that the file has had, the latest first, the durable one last."""
    sizes = [len(base)]
    before: list[tuple[int, Event]] = []
    content = base
    for index, event in pending:
        content = apply_to_content(content, event)
        sizes.append(len(content))
        before.append((index, event))
    found = [sizes[-1]]
    choices = [Choice("latest")]
    for place in range(len(before) - 1, -1, -1):
        if sizes[place] not in found:
            found.append(sizes[place])
            choices.append(Choice(f"before #{before[place][0]}", before[place][1], "size lost"))
    for index, event in pending:  # a size may go from page to page, as writeback does
        cut = (event.position + len(event.data) - 1) // PAGE_BYTES * PAGE_BYTES - event.position
        if event.kind != "truncate" and cut > 0 and event.position + cut not in found:
            found.insert(1, event.position + cut)
            choices.insert(1, Choice(f"{cut} bytes of #{index}", event, "size lost"))
    return found, Axis("size", choices)


def _tears(event: Event) -> list[int]:
    """Where a torn write may be cut: representatives, in bytes from its start."""
    count = len(event.data)
    if event.kind == "truncate" or count < 2:
        return []
    cuts = {1, 12, count // 2, count - 1} if count > 16 else {count // 2}
    boundary = -event.position % SECTOR_BYTES
    cuts |= {boundary, boundary + SECTOR_BYTES}
    return sorted(cut for cut in cuts if 0 < cut < count)


def _write_choices(event: Event, base: bytes) -> list[Choice]:
    choices = [Choice("kept"), Choice("lost", event, "lost")]
    if len(base) > event.position:
        choices.append(Choice("zeros", event, "zeros"))
    choices.append(Choice("garbage", event, "garbage"))
    choices += [Choice(f"torn at {cut}", event, "torn") for cut in _tears(event)]
    if len(event.data) > 16:
        choices.append(Choice("second half only", event, "tail only"))
    return choices


def _put_range(content: bytearray, event: Event, label: str) -> None:
    """Write into `content` what the disk made of one write."""
    position, data = event.position, event.data
    if label == "lost":
        return
    if label == "zeros":
        data = bytes(len(data))
    elif label == "garbage":
        data = garbage(len(data), position)
    elif label.startswith("torn at "):
        data = data[:int(label[8:])]
    elif label == "second half only":
        half = len(data) // 2
        position, data = position + half, data[half:]
    if len(content) < position:
        content.extend(bytes(position - len(content)))
    content[position:position + len(data)] = data


def garbage(count: int, position: int) -> bytes:
    """Bytes that nobody wrote: the same ones on every machine."""
    block = hashlib.blake2b(position.to_bytes(8, "big"), digest_size=64).digest()
    return (block * (count // 64 + 1))[:count]


def _head(event: Event, cut: int) -> Event:
    return Event(event.kind, event.inode, event.path, event.site, position=event.position, data=event.data[:cut], size=event.position + cut)


def _combinations(axes: list[Axis], rng: random.Random) -> Iterator[tuple[int, ...]]:
    counts = [len(axis.choices) for axis in axes]
    if math.prod(counts) <= PART_STATES_MAX:
        return product(*map(range, counts))
    return iter(sorted(_sampled(counts, rng)))


def _sampled(counts: list[int], rng: random.Random) -> set[tuple[int, ...]]:
    """Every single deviation, every single survivor of a total loss, everything before one point, then random ones."""
    chosen = {tuple([0] * len(counts))}
    lost = [min(1, count - 1) for count in counts]
    lost[-1] = counts[-1] - 1  # the last axis is the size: its last choice is the synced one
    chosen.add(tuple(lost))
    for rest in ([0] * len(counts), lost):
        for place, count in enumerate(counts):
            chosen.update((*rest[:place], pick, *rest[place + 1:]) for pick in range(count))
    for place in range(len(counts)):
        chosen.add((*([0] * place), *lost[place:]))
    for _ in range(8 * PART_STATES_MAX):
        if len(chosen) >= PART_STATES_MAX:
            break
        chosen.add(tuple(rng.randrange(count) for count in counts))
    return chosen
