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
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

from chaos.disk.parts import PART_STATES_MAX, Choice, Option, parts_of
from chaos.disk.profiles import Platters, Profile

DIGEST_MASK = (1 << 128) - 1
_DIGESTS: dict[tuple[str, bytes | None], int] = {}
_DIGESTS_MAX = 200_000


class State(NamedTuple):
    """One crash state: its digest, how to make its image, and what deviates from "nothing was lost"."""

    digest: int
    space: "Space"
    options: tuple[Option, ...]

    def image(self) -> dict[str, bytes | None]:
        return self.space.image(self.options)

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
        self._tree = platters.tree()
        self._rng = rng
        for part in self.parts:
            part.enumerate(rng)

    def states(self, bound: int) -> Iterator[State]:
        """The states, at most about `bound` of them: exhaustive if they are no more, else by the rules above."""
        parts = self.parts
        treeful = next((place for place, part in enumerate(parts) if part.options[0].tree is not None), None)
        sums: dict[int, tuple[int, dict[int, str], list[dict[int, int]]]] = {}
        for pick in self._tuples(bound):
            which = pick[treeful] if treeful is not None else -1
            if which not in sums:
                sums[which] = self._digests(parts[treeful].options[which].tree if treeful is not None else self._tree)
            value, paths, by_part = sums[which]
            for place, option in enumerate(pick):
                more = by_part[place].get(option)
                if more is None:
                    more = by_part[place][option] = sum(digest(paths[number], content) for number, content
                                                        in parts[place].options[option].contents.items() if number in paths)
                value += more
            yield State(value & DIGEST_MASK, self, tuple(part.options[option] for part, option in zip(parts, pick, strict=True)))

    def state_of(self, labels: dict[str, dict[str, str]]) -> State:
        """The state that deviates as a plan says: part -> axis -> label. Raises ValueError."""
        unknown = labels.keys() - {part.name for part in self.parts}
        if unknown:
            raise ValueError(f"nothing is pending in {sorted(unknown)}; pending: {[part.name for part in self.parts]}")
        options = tuple(part.build(part.picks_of(labels.get(part.name, {}))) for part in self.parts)
        return State(digest_of(self.image(options)), self, options)

    def image(self, options: tuple[Option, ...]) -> dict[str, bytes | None]:
        tree = self._tree
        contents: dict[int, bytes] = {}
        for option in options:
            contents.update(option.contents)
            if option.tree is not None:
                tree = option.tree
        base = self.base
        return {path: contents.get(number, base.get(number)) for path, number in tree.items()}

    def exhaustive(self, bound: int) -> bool:
        """Whether `states(bound)` leaves out nothing of what is `possible`."""
        return (math.prod(len(part.options) for part in self.parts) <= bound
                and all(math.prod(len(axis.choices) for axis in part.axes) <= PART_STATES_MAX for part in self.parts))

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

    def _digests(self, tree: dict[str, int]) -> tuple[int, dict[int, str], list[dict[int, int]]]:
        """For one tree: the digest of what no part decides, the paths by inode, and a place for those of each part's options."""
        decided = {number for part in self.parts for number in part.options[0].contents}
        fixed = sum(digest(path, self.base.get(number)) for path, number in tree.items() if number not in decided)
        return fixed, {number: path for path, number in tree.items()}, [{} for _ in self.parts]


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
