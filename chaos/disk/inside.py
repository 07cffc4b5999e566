"""What if the power goes again while the broker recovers? Crashes inside recovery, to depth 2.

A recovery is itself a run with a write list, of which a crash leaves any state that the weakest disk allows: just before each of its
syncs, and at its end. The recovery after that can be struck once more. What was owed at the first crash is owed still (C2.10).
"""

import random
from typing import NamedTuple

from chaos.checks.crash import Image, Recovered
from chaos.disk.model import SYNCS
from chaos.disk.profiles import WEAKEST, Platters
from chaos.disk.recovering import Recoverer
from chaos.disk.spaces import Space

STATES_MAX = 40  # crash states inside one recovery
REMEMBERED_MAX = 2_000
LEVELS_MAX = 2


class Nested(NamedTuple):
    """`path`: for each level (time in events, deviations); `digest`: of the image that was left at last."""

    recovered: Recovered
    path: tuple
    digest: int


class Inside:
    """Strikes inside recoveries, and remembers. `every`: of how many images one is struck again, on the second level."""

    def __init__(self, recoverer: Recoverer, seed: int, every: int):
        self._recoverer = recoverer
        self._seed = seed
        self._every = every
        self._known: dict[tuple[int, int], list[Nested]] = {}

    def strike(self, image: Image, value: int, levels: int = LEVELS_MAX) -> list[Nested]:
        """What is recovered after a crash inside the recovery of `image` (whose digest is `value`), distinct ones."""
        known = self._known.get((value, levels))
        if known is not None:
            return known
        rng = random.Random(f"{self._seed} {value}")
        disk = self._recoverer.attempt(image)
        found: dict[object, Nested] = {}
        platters = Platters(disk, WEAKEST.commit)
        for event in disk.events:
            if event.kind in SYNCS:
                self._at(Space(WEAKEST, platters, rng), found, levels)
            platters.feed(event)
        self._at(Space(WEAKEST, platters, rng), found, levels)
        if len(self._known) >= REMEMBERED_MAX:
            self._known.clear()
        self._known[value, levels] = list(found.values())
        return self._known[value, levels]

    def _at(self, space: Space, found: dict, levels: int) -> None:
        for state in space.states(STATES_MAX):
            if state.digest in found or len(found) >= STATES_MAX:
                continue
            where = space.at, tuple((part, axis, choice.label) for part, axis, choice in state.deviations())
            found[state.digest] = Nested(self._recoverer.recover_state(state), (where,), state.digest)
            if levels > 1 and state.digest % self._every == 0:
                for number, deeper in enumerate(self.strike(state.image(), state.digest, levels - 1)[:STATES_MAX // 4]):
                    found[state.digest, number] = deeper._replace(path=(where, *deeper.path))
