"""Which states may the disk be in after a power cut here? All of them within a bound, each with its digest.

A `Space` is made for one crash point under one profile: the product of the parts of `parts.py`.

1. `possible` is the product over all axes of the numbers of choices: what the profile allows, with representatives for torn writes.
2. All combinations of options are tried where they are at most `bound`; beyond it every option of every part alone,
   with all else kept and with all else lost (so each class of call site x file kind x deviation is there), then seeded random ones.
3. A state's digest is the sum of the digests of (path, content): two states of equal content have equal digests, whatever led there,
   and the digest of the next state differs from the last one by an addition.
"""

import hashlib
import math
import random
from collections.abc import Iterable, Iterator
from itertools import product

from chaos.checks.crash import ROOT
from chaos.disk.parts import PART_STATES_MAX, Choice, Option, parts_of
from chaos.disk.profiles import Platters, Profile

DIGEST_MASK = (1 << 128) - 1
_DIGESTS: dict[tuple[str, bytes | None], int] = {}
_DIGESTS_MAX = 200_000


class State:
    """One crash state: its digest, how to make its image, and what deviates from "nothing was lost". `pick`: the number of the
    option of each part, where the state comes from an enumeration."""

    __slots__ = ("digest", "space", "pick", "_layout", "_options")

    def __init__(self, value: int, space: "Space", pick: tuple[int, ...], layout: "_Layout | None", options: tuple[Option, ...] | None = None):
        self.digest = value
        self.space = space
        self.pick = pick
        self._layout = layout
        self._options = options

    @property
    def options(self) -> tuple[Option, ...]:
        if self._options is None:
            self._options = tuple(part.options[option] for part, option in zip(self.space.parts, self.pick, strict=True))
        return self._options

    def image(self) -> dict[str, bytes | None]:
        return self.space.image(self.options)

    def holds(self, path: str) -> bool:
        return path in self._layout.tree

    def pieces(self) -> list[tuple[int, object]]:
        """(digest, which) of each piece (see `piece_name`): without making an image, since most pieces are known already."""
        return self._layout.pieces(self.pick)

    def piece(self, which: object) -> dict[str, bytes | None]:
        """The image of one piece."""
        return self.space.contents_of(self.options, self._layout.members(which))

    def deviations(self) -> list[tuple[str, str, Choice]]:
        """(part, axis, choice) of everything that did not come out as the page cache had it."""
        return [(part.name, key, choice) for part, option in zip(self.space.parts, self.options, strict=True)
                for key, choice in part.deviations(option.picks)]


class Space:
    """All states that `profile` allows where the power goes after the events that `platters` was fed."""

    def __init__(self, profile: Profile, platters: Platters, rng: random.Random):
        self.profile = profile
        self.base = dict(platters.base)
        self.at = platters.fed
        self.parts = parts_of(profile, platters)
        self.possible = math.prod(len(axis.choices) for part in self.parts for axis in part.axes)
        self.known: dict[tuple[str, int], tuple[int, int | None]] = {}  # (path, inode number) -> (piece, digest); see `know`
        self._tree = platters.tree()
        self._rng = rng
        for part in self.parts:
            part.enumerate(rng)
        self._decided = {number for part in self.parts for number in part.options[0].contents}
        self._slots = {"": 0}  # number of each piece; 0 for the files of the root, which are in all

    def states(self, bound: int) -> Iterator[State]:
        """The states, at most about `bound` of them: exhaustive if they are no more, else by the rules above."""
        treeful = next((place for place, part in enumerate(self.parts) if part.options[0].tree is not None), None)
        layouts: dict[int, _Layout] = {}
        for pick in self._tuples(bound):
            which = pick[treeful] if treeful is not None else -1
            layout = layouts.get(which)
            if layout is None:
                tree = self._tree if treeful is None else self.parts[treeful].options[which].tree
                layout = layouts[which] = _Layout(self, tree)
            yield State(layout.digest(pick), self, pick, layout)

    def state_of(self, labels: dict[str, dict[str, str]]) -> State:
        """The state that deviates as a plan says: part -> axis -> label. Raises ValueError."""
        unknown = labels.keys() - {part.name for part in self.parts}
        if unknown:
            raise ValueError(f"nothing is pending in {sorted(unknown)}; pending: {[part.name for part in self.parts]}")
        options = tuple(part.build(part.picks_of(labels.get(part.name, {}))) for part in self.parts)
        return State(digest_of(self.image(options)), self, (), None, options)

    def image(self, options: tuple[Option, ...]) -> dict[str, bytes | None]:
        tree = next((option.tree for option in options if option.tree is not None), self._tree)
        return self.contents_of(options, tree.items())

    def contents_of(self, options: tuple[Option, ...], entries: Iterable[tuple[str, int]]) -> dict[str, bytes | None]:
        """What is at these paths (with their inode numbers) where the parts came out so."""
        contents: dict[int, bytes] = {}
        for option in options:
            contents.update(option.contents)
        base = self.base
        return {path: contents.get(number, base.get(number)) for path, number in entries}

    def know(self, path: str, number: int) -> tuple[int, int | None]:
        """(number of the piece, digest) of what is at `path`; None for the digest of what a part decides. Trees of a space are many
        and much alike, so this is remembered in `known`."""
        slot = self._slots.setdefault(piece_name(path, number not in self.base), len(self._slots))
        value = None if number in self._decided else digest(path, self.base.get(number))
        self.known[path, number] = slot, value
        return slot, value

    def exhaustive(self, bound: int) -> bool:
        """Whether `states(bound)` leaves out nothing of what is `possible`."""
        whole = len(self.parts) == 1 or math.prod(len(part.options) for part in self.parts) <= bound
        return (whole and all(math.prod(len(axis.choices) for axis in part.axes) <= PART_STATES_MAX for part in self.parts))

    @property
    def representatives(self) -> int:
        """How many states stand for the classes where not all can be tried."""
        return 2 + 2 * sum(len(part.options) for part in self.parts)

    def _tuples(self, bound: int) -> Iterator[tuple[int, ...]]:
        counts = [len(part.options) for part in self.parts]
        if math.prod(counts) <= bound:
            yield from product(*map(range, counts))
            return
        kept = [0] * len(counts)
        lost = [count - 1 for count in counts]
        yield tuple(kept)
        yield tuple(lost)
        for rest in (kept, lost):
            for place, count in enumerate(counts):
                for option in range(count):
                    yield (*rest[:place], option, *rest[place + 1:])
        for _ in range(bound - 2 * sum(counts)):
            yield tuple(self._rng.randrange(count) for count in counts)


class _Layout:
    """One directory tree of a space: which digests the options of its parts add, to the whole and to which piece."""

    def __init__(self, space: Space, tree: dict[str, int]):
        self.tree = tree
        self._space = space
        self._added: list[dict[int, tuple[int, list[tuple[int, int]]]]] = [{} for _ in space.parts]
        self._places: dict[int, list[tuple[int, str]]] = {}  # number of each inode that a part decides -> (piece, path)
        self._fixed: dict[int, int] = {0: 0}  # the digests of what no part decides, by piece
        known, fixed = space.known, self._fixed
        for item in tree.items():
            slot, value = known.get(item) or space.know(*item)
            if value is None:
                self._places.setdefault(item[1], []).append((slot, item[0]))
                value = 0
            fixed[slot] = fixed.get(slot, 0) + value
        self._total = sum(fixed.values())

    def digest(self, pick: tuple[int, ...]) -> int:
        value = self._total
        for option, added in zip(pick, self._added, strict=True):
            if option not in added:
                self._add(pick)
            value += added[option][0]
        return value & DIGEST_MASK

    def pieces(self, pick: tuple[int, ...]) -> list[tuple[int, int]]:
        sums = self._fixed.copy()
        for option, added in zip(pick, self._added, strict=True):
            for slot, value in added[option][1]:
                sums[slot] += value
        root = sums.pop(0)
        return [((root + value) & DIGEST_MASK, slot) for slot, value in sums.items()] or [(root & DIGEST_MASK, 0)]

    def members(self, slot: int) -> list[tuple[str, int]]:
        known = self._space.known
        return [item for item in self.tree.items() if known[item][0] in (0, slot)]

    def _add(self, pick: tuple[int, ...]) -> None:
        """What these options add, each by itself: (in all, [(piece, there)])."""
        for part, option, added in zip(self._space.parts, pick, self._added, strict=True):
            if option not in added:
                there = [(slot, digest(path, content)) for number, content in part.options[option].contents.items()
                         for slot, path in self._places.get(number, ())]
                added[option] = sum(value for _, value in there), there


def piece_name(path: str, is_directory: bool) -> str:
    """Which piece of a data directory a path belongs to, since partitions are recovered apart: the name of the directory below the
    root; "" for files of the root itself, which belong to every piece."""
    name, below, _ = path[len(ROOT) + 1:].partition("/")
    return name if below or is_directory else ""


def digest(path: str, content: bytes | None) -> int:
    """128 bits that name this content at this path; contents are shared, so most are computed once."""
    key = (path, content)
    value = _DIGESTS.get(key)
    if value is None:
        if len(_DIGESTS) >= _DIGESTS_MAX:
            _DIGESTS.clear()
        body = b"/" if content is None else b"\0" + content
        value = _DIGESTS[key] = int.from_bytes(hashlib.blake2b(path.encode() + body, digest_size=16).digest(), "big")
    return value


def digest_of(image: dict[str, bytes | None]) -> int:
    """The digest of a whole image."""
    return sum(digest(path, content) for path, content in image.items()) & DIGEST_MASK
