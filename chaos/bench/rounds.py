"""How is measured so that the figures can be compared? The brokers in turn, in several rounds, each on a quiet machine.

1. A round is every broker once, in the same order: A B A B A B. A ratio is the median of the rounds' own ratios, so
   that what slows the machine for a while slows both sides of it.
2. Each figure gets a fresh topic. After it the topic is deleted and the file system's dirty pages are written, so that no
   figure pays for the write-back of the one before. Nor for its own: a round ends before it has appended so much that the
   kernel begins with it.
3. While one broker is measured the other ones run idle. What they, and all other processes of the machine, use of the
   processors meanwhile is measured.
4. A round is noisy where others used more than OUTSIDE_CORES_MAX. It is thrown away and done again. When all
   are there and the first figure's spread, (highest - lowest) / median, is above SPREAD_MAX at any broker, the round
   that is furthest from the median is done again. Both as often as REPEATS_MAX and, for a whole run,
   REPEATS_IN_ALL_MAX allow; then the figures stand as they
   are, and the table says that they are noisy.
"""

import itertools
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from chaos.bench import raw
from chaos.bench.brokers import Side
from chaos.bench.drive import Place
from chaos.bench.machine import Facts, Watch, memory_mib
from chaos.bench.null import null_server
from chaos.bench.workloads import FETCH_1M, ONE_RECORD, PRODUCE_1M, PRODUCE_16K, WORKLOADS, Workload, fill
from chaos.targets import NotAvailable

OUTSIDE_CORES_MAX = 0.25  # write-back and interrupts of our own work alone are up to half of it
SPREAD_MAX = 0.25
REPEATS_MAX = 2  # of one workload
REPEATS_IN_ALL_MAX = 24  # of a run: on a machine that is never quiet it still ends
SETTLE_SECONDS = 0.15  # until a deleted topic's files are gone: what is gone need not be written back
TOPIC_CONFIGS = {"file.delete.delay.ms": "0"}
_names = itertools.count()


@dataclass
class Row:
    """One line of the table: a figure of a workload for every broker, a value for each round."""

    workload: str
    figure: str
    higher: bool
    values: dict[str, list[float]] = field(default_factory=dict)
    raw: float | None = None  # the machine's limit
    limit: float | None = None  # the client's
    repeated: int = 0
    noisy: bool = False
    memory_mib: dict[str, float] = field(default_factory=dict)  # resident, of each broker after the last round

    def median(self, name: str) -> float:
        return statistics.median(self.values[name])

    def ratio(self, ours: str, peer: str) -> float | None:
        """The median of the rounds' ratios."""
        if peer not in self.values:
            return None
        return statistics.median(a / b for a, b in zip(self.values[ours], self.values[peer], strict=True))

    def of_raw(self, ours: str) -> float | None:
        if not self.raw:
            return None
        return self.median(ours) / self.raw if self.higher else self.raw / self.median(ours)


@dataclass(frozen=True)
class Round:
    """What each broker's turn gave, and the most that others used of the processors in any of the turns."""

    figures: dict[str, dict[str, float]]
    outside_cores: float


def spread(values: list[float]) -> float:
    return (max(values) - min(values)) / statistics.median(values) if len(values) > 1 else 0.0


def repeats_left(found: list[Row]) -> int:
    """How many repeats the next workload of a run may have, after these rows."""
    return max(0, min(REPEATS_MAX, REPEATS_IN_ALL_MAX - repeated(found)))


def repeated(found: list[Row]) -> int:
    return sum({row.workload: row.repeated for row in found}.values())


def in_rounds(
    once: Callable[[], Round], rounds: int, told: Callable[[str], None], repeats_max: int = REPEATS_MAX
) -> tuple[list[Round], int, bool]:
    """(as many rounds as asked for, how many were repeated, whether they are noisy all the same)."""
    kept: list[Round] = []
    repeats = 0
    while True:
        found = once()
        if found.outside_cores > OUTSIDE_CORES_MAX and repeats < repeats_max:
            repeats += 1
            told(f"noisy round repeated: others used {found.outside_cores:.2f} cores")
            continue
        kept.append(found)
        if len(kept) < rounds:
            continue
        name = max(found.figures, key=lambda name: spread(_first_figures(kept, name)))
        values = _first_figures(kept, name)
        if spread(values) <= SPREAD_MAX or repeats >= repeats_max:
            noisy = spread(values) > SPREAD_MAX or any(one.outside_cores > OUTSIDE_CORES_MAX for one in kept)
            return kept, repeats, noisy
        repeats += 1
        told(f"noisy round repeated: the figures of {name} spread over {spread(values):.0%} of their median")
        middle = statistics.median(values)
        del kept[max(range(len(values)), key=lambda number: abs(values[number] - middle))]


def _first_figures(rounds: list[Round], name: str) -> list[float]:
    return [next(iter(one.figures[name].values())) for one in rounds]


def rows(workload: str, higher: bool, kept: list[Round], repeats: int, noisy: bool) -> list[Row]:
    names, figures = kept[0].figures, next(iter(kept[0].figures.values()))
    return [Row(workload, figure, higher, {name: [one.figures[name][figure] for one in kept] for name in names},
                repeated=repeats, noisy=noisy) for figure in figures]


def client_limits(chosen: list[Workload], seconds: float, told: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Workload -> its figures against a server that does nothing. Before any broker runs."""
    found = {}
    for workload in chosen:
        if workload.answer:
            told(f"client limit: {workload.name}")
            with null_server(workload.answer("bench")) as address:
                found[workload.name] = workload.run(Place(address, "bench", counts=False), seconds)
    return found


def place_of(side: Side, workload: Workload) -> Place:
    """Makes the topic, with what must be in it. Raises NotAvailable where the broker has no such listener."""
    name = f"bench-{next(_names)}"
    plain = place = Place(side.bootstrap, name)
    if workload.tls:
        if not side.tls_bootstrap:
            raise NotAvailable(side.no_tls)
        place = place._replace(bootstrap=side.tls_bootstrap, context=side.context)
        try:
            place.connect().close()
        except OSError as error:
            raise NotAvailable(f"{side.name} does not serve its SSL listener: {error}") from None
    raw.create_topic(side.bootstrap, name, workload.partitions, {**TOPIC_CONFIGS, **workload.configs})
    if workload.filled:
        fill(plain)
    return place


def turn(side: Side, workload: Workload, seconds: float) -> tuple[dict[str, float], float]:
    """(figures, cores that others used meanwhile) of one broker."""
    place = place_of(side, workload)
    try:
        watch = Watch(side.pid)
        return workload.run(place, seconds), watch.outside()
    finally:
        raw.delete_topic(side.bootstrap, place.topic)
        settle(side.target.directory)


def settle(directory: str) -> None:
    """Write the dirty pages of the file system that has this directory; other ones may be anything, even hung."""
    time.sleep(SETTLE_SECONDS)
    subprocess.run(["sync", "--file-system", directory], check=True)


def measure(
    workload: Workload, sides: dict[str, Side], rounds: int, seconds: float, told: Callable[[str], None], repeats_max: int
) -> list[Row]:
    """The rows of one workload. Raises NotAvailable where it cannot be run on this machine."""
    number = itertools.count(1)

    def once() -> Round:
        this, found, outside = next(number), {}, 0.0
        for name, side in sides.items():
            told(f"{workload.name}: {name}, round {this} of {rounds}")
            found[name], used = turn(side, workload, seconds)
            outside = max(outside, used)
        return Round(found, outside)

    found = rows(workload.name, workload.higher, *in_rounds(once, rounds, told, repeats_max))
    memory = {name: memory_mib(side.pid) for name, side in sides.items()}
    return [replace(row, memory_mib=memory) for row in found]


def warm_up(sides: dict[str, Side], seconds: float, told: Callable[[str], None]) -> None:
    """So long for each of the main paths, so that a JVM has compiled what it will run."""
    for name, side in sides.items():
        for workload in WORKLOADS:
            if workload.name in (ONE_RECORD, PRODUCE_16K, PRODUCE_1M, FETCH_1M):
                told(f"warming up {name}: {workload.name}")
                turn(side, workload, seconds)


def add_limits(found: list[Row], facts: Facts, limits: dict[str, dict[str, float]]) -> None:
    """The machine's limit at each workload's first figure, the client's at each figure that it has one for."""
    known = {workload.name: workload for workload in WORKLOADS}
    seen = set()
    for row in found:
        workload = known.get(row.workload)
        if workload and workload.raw and row.workload not in seen:
            row.raw = workload.raw(facts)
        seen.add(row.workload)
        row.limit = limits.get(row.workload, {}).get(row.figure)
