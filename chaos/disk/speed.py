"""How many crash states does one processor recover and judge in a second?

Words of each length are drawn by the seed and explored under all policies and profiles; those of length 2 under each profile alone, too. Each
row begins with nothing remembered, and its time is the processor's, so that other processes on the machine disturb it less. A distinct state
is one content of the disk, whatever led there; a judgement is one content held against what one policy owed at one moment.
"""

import random
import time
from collections.abc import Iterator
from typing import NamedTuple

from chaos.disk import lab, workloads
from chaos.disk.driver import POLICIES, quietly
from chaos.disk.profiles import STRONGEST_FIRST
from chaos.disk.recovering import sharing_work
from chaos.disk.run import BOUND, NESTED_EVERY

LENGTHS = (1, 2, 3)
LENGTH_OF_PROFILES = 2  # of the words that each profile is measured with


class Speed(NamedTuple):
    """One row: what was explored, and how fast."""

    length: int
    profiles: str
    words: int
    tried: int
    distinct: int
    judged: int
    recoveries: int
    cpu_seconds: float

    def per_second(self, count: int) -> int:
        return round(count / self.cpu_seconds) if self.cpu_seconds else 0

    def to_json(self) -> dict:
        rates = {f"{name} per second and core": self.per_second(getattr(self, name)) for name in ("distinct", "judged", "recoveries")}
        return self._asdict() | {"cpu_seconds": round(self.cpu_seconds, 2)} | rates


def measure(seconds: float, seed: int) -> Iterator[Speed]:
    """All rows, `seconds` of processor time each (less where there are no more words)."""
    rows = [(length, STRONGEST_FIRST) for length in LENGTHS] + [(LENGTH_OF_PROFILES, (profile,)) for profile in STRONGEST_FIRST[::-1]]
    for length, profiles in rows:
        yield _row(seconds, seed, length, profiles)


def _row(seconds: float, seed: int, length: int, profiles: tuple) -> Speed:
    lab.forget()
    labs = [lab.Lab(policy, seed, lab.Limits(BOUND, NESTED_EVERY, profiles)) for policy in POLICIES.values()]
    words = list(workloads.words(length))
    random.Random(seed).shuffle(words)
    began = time.process_time()
    explored = 0
    with quietly(), sharing_work():
        for word in words:
            explored += bool(lab.explore(labs, word))
            if time.process_time() - began > seconds:
                break
    spent = time.process_time() - began
    tallies = [each.tally for each in labs]
    recoveries = sum(recoverer.recoveries for recoverer in {each.recoverer for each in labs})
    return Speed(length, "all" if len(profiles) > 1 else profiles[0].name, explored, sum(tally.tried for tally in tallies),
                 len(set().union(*(tally.digests for tally in tallies))), sum(tally.judged + tally.nested for tally in tallies), recoveries, spent)
