"""What may a crash leave of this workload, and does the broker owe anybody more than that? One workload, all its crash states.

A `Lab` explores workloads under one policy, and keeps count. For a word it runs the operations once on a simulated disk, and then
strikes inside the last one:

1. F1: after every event, the page cache as it is there; besides, the last append cut short, since a process may die
   in the middle of a `writev`.
2. F2: just before each sync and at the end of the operation, every state that a profile allows, the strongest profile
   first. At other moments nothing else is possible: what an unsynced effect adds, it may also leave out, so their states are
   among those of the next such moment, where more is owed.
3. Nested: recovery of a crashed image is itself a run with a write list; a second crash strikes in it, and a third in the
   recovery after that. What was owed at the first is owed still (C2.10).

A state with equal content and equal debts is judged once. The first profile that shows it labels it: the strongest.
"""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from chaos.checks import deletion, survival
from chaos.checks.crash import ROOT, Image, Problem, Recovered, checkpoint_in, longest_run, segments_in
from chaos.contract import Verdict
from chaos.disk import live, workloads
from chaos.disk.driver import POLICIES, Driver, config_of
from chaos.disk.faults import kind_of
from chaos.disk.ledger import Append, Ledger, Owed, Policy
from chaos.disk.model import ENTRIES, SYNCS, SimDisk
from chaos.disk.profiles import STRONGEST_FIRST, WEAKEST, Platters, apply_to_dirs, tree_of
from chaos.disk.recovering import Recoverer
from chaos.disk.spaces import Space, State, digest_of

NESTED_STATES_MAX = 40  # crash states inside one recovery
NESTED_REMEMBERED_MAX = 2_000
LEVELS_MAX = 2


@dataclass
class Limits:
    """`bound`: states tried at one crash point under one profile. `nested_every`: of how many recovered images one is crashed into.
    `share`: which part of the states is judged, for a glimpse; the first two (all kept, all lost) always are."""

    bound: int = 300
    nested_every: int = 16
    profiles: tuple = STRONGEST_FIRST
    keep_all: bool = False  # every failure, not only the first of its kind
    share: float = 1.0


@dataclass
class Failure:
    """A statement that broke, with all that is needed to see it again (a plan is made of it by chaos/plan.py)."""

    problem: Problem
    fault: str
    policy: str
    disk: str
    start: str
    word: tuple[str, ...]
    at: int
    labels: dict[str, dict[str, str]]
    deviations: int
    nested: tuple = ()
    evidence: tuple[str, ...] = ()  # the unsynced bytes and entries that did not come out

    @property
    def signature(self) -> tuple:
        return _signature(self.problem, self.fault, self.word, self.nested)

    def verdict(self) -> Verdict:
        problem = self.problem
        return Verdict(problem.statement, self.fault, self.policy, self.disk, problem.allowed, *problem.key, problem.offset,
                       problem.text, evidence=self.evidence)


def _signature(problem: Problem, fault: str, word: tuple, nested: tuple) -> tuple:
    """What failures of one kind have in common."""
    return problem.statement, fault, problem.text[:25], str(word[-1:]), bool(nested)


@dataclass
class Tally:
    """What a run has seen. Sums, so that those of several processes add up."""

    words: int = 0
    points: int = 0
    effects: int = 0
    possible: int = 0
    tried: int = 0
    judged: int = 0
    nested: int = 0
    recoveries: int = 0
    unsynced: int = 0  # crash points at which bytes or entries were unsynced
    differing: int = 0  # states that were not as if nothing had been lost
    digests: set[int] = field(default_factory=set)
    losses: Counter = field(default_factory=Counter)  # acked offsets lost after F2 -> states
    coverage: Counter = field(default_factory=Counter)  # (call site, file kind, deviation) -> states
    judgements: Counter = field(default_factory=Counter)  # (statement, fault) -> times; ALWAYS_JUDGED under ("", fault)
    allowed: Counter = field(default_factory=Counter)
    not_exhaustive: int = 0  # crash points x profiles where the bound left states out
    failures: list[Failure] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        for name, value in vars(other).items():
            if isinstance(value, int):
                setattr(self, name, getattr(self, name) + value)
            elif isinstance(value, set):
                self.digests |= value
            elif isinstance(value, Counter):
                getattr(self, name).update(value)
            else:
                self.failures += value


_RECOVERERS: dict[bool, Recoverer] = {}


def recoverer_for(policy: Policy) -> Recoverer:
    """Of the policy, recovery only sees whether the high watermark follows the durable end (flush.messages=1): the other policies
    share what is remembered."""
    if policy.messages != 1:
        policy = POLICIES["P0"]
    return _RECOVERERS.setdefault(policy.messages == 1, Recoverer(config_of(policy)))


class Lab:
    """Explores workloads under one policy. `seed` decides what is tried beyond the bounds."""

    def __init__(self, policy: Policy, seed: int = 0, limits: Limits | None = None):
        self.policy = policy
        self.limits = limits or Limits()
        self.seed = seed
        self.rng = random.Random(seed)
        self.tally = Tally()
        self.recoverer = recoverer_for(policy)
        self._nested: dict[tuple[int, int], list[tuple[Recovered, tuple]]] = {}
        self._signatures: set[tuple] = set()

    def begin(self) -> None:
        """Count, and report, as if nothing had been seen before; what was recovered is remembered."""
        self.tally, self._signatures = Tally(), set()

    def explore(self, word: tuple, start: str | tuple = "fresh") -> bool:
        """Judge every crash inside the last operation of `word` (of starting, if it has none); False if the word makes no sense."""
        self.rng = random.Random(f"{self.seed} {self.policy.name} {start} {word}")  # the same whoever explores what before
        driver, begin = self.play(word, start)
        if driver is None:
            return False
        self.tally.words += 1
        self.tally.effects += sum(event.kind not in SYNCS for event in driver.disk.events[begin:])
        for statement, text in driver.complaints:
            self._report(Problem(statement, ("", -1), -1, text), "F0", "any", start, word, driver.at, None)
        self._process_kills(driver, begin, start, word)
        self._power_cuts(driver, begin, start, word)
        for problem in live.check(driver):  # last: it may write
            self._report(problem, "F0", "any", start, word, driver.at, None)
        return True

    def judge_now(self, driver: Driver, bound: int) -> list[Failure]:
        """What breaks if the process dies or the power goes at this moment; for histories that no word describes."""
        before = len(self.tally.failures)
        self._process_kills(driver, driver.at, "driven", ())
        platters = Platters(driver.disk, WEAKEST.commit)
        for event in driver.disk.events:
            platters.feed(event)
        space = Space(WEAKEST, platters, self.rng)
        durable = _durable_ends(driver, driver.at)[driver.at]
        owed = debts(driver.ledger, driver.at, "F2", durable)
        for state in space.states(bound):
            self._judge(state.image(), state.digest, owed, ("F2", WEAKEST.name, "driven", (), driver.at, state))
        return self.tally.failures[before:]

    def play(self, word: tuple, start: str | tuple) -> tuple[Driver | None, int]:
        """Run the operations; the driver, and when the last one began. None where the word makes no sense."""
        driver = Driver(self.policy)
        driver.start()
        before = workloads.STARTS[start] if isinstance(start, str) else start
        for operation in workloads.operations(before):  # what makes no sense under this policy is left out
            driver.do(operation)
        begin = driver.at if before or word else 0
        for operation in workloads.operations(word):
            begin = driver.at
            if not driver.do(operation):
                return None, 0
        return driver, begin

    # ------------------------------------------------------------ F1

    def _process_kills(self, driver: Driver, begin: int, start: str, word: tuple[str, ...]) -> None:
        durable = _durable_ends(driver, begin)
        for at, image, torn in cache_images(driver.disk, begin):
            if f"{ROOT}/meta.properties" not in image:
                continue
            owed = debts(driver.ledger, at - 1 if torn else at, "F1", durable[at])
            self._judge(image, digest_of(image), owed, ("F1", "any", start, word, at, {"torn": torn} if torn else {}))

    # ------------------------------------------------------------ F2

    def _power_cuts(self, driver: Driver, begin: int, start: str, word: tuple[str, ...]) -> None:
        events = driver.disk.events
        times = [at for at in driver.syncs(begin)] + [driver.at]
        durable = _durable_ends(driver, begin)
        seen: dict[int, set[int]] = {at: set() for at in times}
        self.tally.points += len(times)
        for profile in self.limits.profiles:
            platters = Platters(driver.disk, profile.commit)
            fed = 0
            for at in times:
                for event in events[fed:at]:
                    platters.feed(event)
                fed = at
                space = Space(profile, platters, self.rng)
                self._space(space, driver, durable[at], seen[at], start, word)

    def _space(self, space: Space, driver: Driver, durable: dict, seen: set[int], start: str, word: tuple[str, ...]) -> None:
        tally, at = self.tally, space.at
        tally.possible += space.possible
        tally.not_exhaustive += not space.exhaustive(self.limits.bound)
        tally.unsynced += bool(space.parts)
        owed = debts(driver.ledger, at, "F2", durable)
        undisturbed = None
        for number, state in enumerate(space.states(self.limits.bound)):
            if number > 1 and self.limits.share < 1 and self.rng.random() > self.limits.share:
                continue
            tally.tried += 1
            undisturbed = state.digest if undisturbed is None else undisturbed
            if state.digest in seen:
                continue
            seen.add(state.digest)
            tally.differing += state.digest != undisturbed
            self._cover(state)
            image = state.image()
            if f"{ROOT}/meta.properties" not in image:
                continue
            self._judge(image, state.digest, owed, ("F2", space.profile.name, start, word, at, state))

    def _cover(self, state: State) -> None:
        for _, _, choice in state.deviations():
            if choice.event is not None:
                self.tally.coverage[choice.event.site, kind_of(choice.event.path), choice.deviation] += 1

    # ------------------------------------------------------------ judging

    def _judge(self, image: Image, value: int, owed: list[Owed], where: tuple) -> None:
        tally = self.tally
        recovered = self.recoverer.recover(image)
        tally.judged += 1
        tally.digests.add(value & 0xFFFFFFFFFFFFFFFF)
        self._problems(recovered, owed, where)
        if where[0] == "F2":
            for lost in survival.loss(recovered, owed).values():
                tally.losses[lost] += 1
        if self.limits.nested_every and value % self.limits.nested_every == 0:
            for nested, path in self._inside(image, value, LEVELS_MAX):
                tally.nested += 1
                tally.digests.add(digest_of(nested.before) & 0xFFFFFFFFFFFFFFFF)
                self._problems(nested, owed, where, path)

    def _problems(self, recovered: Recovered, owed: list[Owed], where: tuple, nested: tuple = ()) -> None:
        tally, fault = self.tally, where[0]
        found = survival.check(recovered, owed) + deletion.check(recovered, owed)
        for debt in owed:
            if debt.must_exist:
                tally.judgements[debt.statement, fault] += 1
        tally.judgements["", fault] += 1
        for problem in (*recovered.problems, *found):
            if problem.allowed:
                tally.allowed[problem.statement, fault] += 1
            else:
                self._report(problem, *where[:5], where[5], nested)

    def _report(
        self, problem: Problem, fault: str, disk: str, start: str, word: tuple[str, ...], at: int, state, nested: tuple = ()
    ) -> None:  # fmt: skip
        """Keep the first of its kind; the others would say the same."""
        if not self.limits.keep_all:
            signature = _signature(problem, fault, word, nested)
            if signature in self._signatures:
                return
            self._signatures.add(signature)
        labels: dict[str, dict[str, str]] = {}
        evidence = ()
        if isinstance(state, State):
            evidence = tuple(f"{choice.label}: {choice.event}" for _, _, choice in state.deviations())
            for part, axis, choice in state.deviations():
                labels.setdefault(part, {})[axis] = choice.label
        elif state:
            labels = {"process": {key: str(value) for key, value in state.items()}}
        self.tally.failures.append(Failure(problem, fault, self.policy.name, disk, start, word, at, labels,
                                           sum(map(len, labels.values())), nested, evidence))

    # ------------------------------------------------------------ crashes inside recovery

    def _inside(self, image: Image, value: int, levels: int) -> list[tuple[Recovered, tuple]]:
        """(what recovery makes of it, where it was struck) for crashes inside the recovery of `image`, distinct ones."""
        known = self._nested.get((value, levels))
        if known is not None:
            return known
        rng = random.Random(f"{self.seed} {value}")
        disk = self.recoverer.attempt(image)
        found: dict[object, tuple[Recovered, tuple]] = {}
        platters = Platters(disk, WEAKEST.commit)
        for event in disk.events:
            if event.kind in SYNCS:
                self._strike(Space(WEAKEST, platters, rng), found, levels)
            platters.feed(event)
        self._strike(Space(WEAKEST, platters, rng), found, levels)
        if len(self._nested) >= NESTED_REMEMBERED_MAX:
            self._nested.clear()
        self._nested[value, levels] = list(found.values())
        return self._nested[value, levels]

    def _strike(self, space: Space, found: dict, levels: int) -> None:
        for state in space.states(NESTED_STATES_MAX):
            if state.digest in found or len(found) >= NESTED_STATES_MAX:
                continue
            inner = state.image()
            where = space.at, tuple((part, axis, choice.label) for part, axis, choice in state.deviations())
            found[state.digest] = self.recoverer.recover(inner), (where,)
            if levels > 1 and state.digest % self.limits.nested_every == 0:
                for number, (deeper, path) in enumerate(self._inside(inner, state.digest, levels - 1)[:NESTED_STATES_MAX // 4]):
                    found[state.digest, number] = deeper, (where, *path)


ALWAYS_JUDGED = ("C2.1", "C2.2", "C2.3", "C2.4", "C2.6", "C2.8", "C2.9", "C2.10", "C2.11", "C2.12", "C3.1", "C3.3", "C3.4", "C3.5",
                 "C4.1", "C4.2", "C4.4", "C5.1", "C5.2", "C5.3", "C5.4", "C5.5", "C6.1", "C6.4", "C9.5", "C9.6")


def debts(ledger: Ledger, at: int, fault: str, durable: dict) -> list[Owed]:
    """What every partition owes."""
    return [ledger.owed(partition, at, fault, durable.get((partition.key, partition.topic_id), 0))
            for partition in ledger.partitions if partition.created[0] <= at]


def _durable_ends(driver: Driver, begin: int) -> dict[int, dict]:
    """D of each partition at each moment from `begin` on: how far its history lies in what the weakest disk has for certain."""
    platters = Platters(driver.disk, WEAKEST.commit)
    ends: dict[int, dict] = {}
    current: dict = {}
    for at in range(driver.at + 1):
        if at >= begin:
            if not current or driver.disk.events[at - 1].kind in SYNCS or at == begin:
                image = platters.durable_image()
                current = {(entry.key, entry.topic_id): durable_end(image, entry) for entry in driver.ledger.partitions}
            ends[at] = current
        if at < driver.at:
            platters.feed(driver.disk.events[at])
    return ends


def durable_end(image: Image, partition) -> int:
    """The end of what the image holds of this partition's history."""
    directory = f"{ROOT}/{partition.topic}-{partition.number}"
    if not image.get(f"{directory}/partition.metadata"):
        return 0
    wanted = {step.base_offset: step.data for step in partition.steps if isinstance(step, Append)}
    start = checkpoint_in(image, "log-start-offset-checkpoint").get(partition.key, 0)  # a deletion that may be undone moves nothing
    end = 0
    for batch in longest_run(segments_in(image, directory), start).batches:
        if wanted.get(batch.base_offset) != batch.data:
            break
        end = batch.last_offset + 1
    return end


def cache_images(disk: SimDisk, begin: int) -> Iterator[tuple[int, Image, int]]:
    """(time, image, 0) of the page cache after every event from `begin` on; and (time, image, bytes) with the last append cut."""
    platters = Platters(disk, WEAKEST.commit)
    dirs, contents = platters.dirs, platters.base
    for at in range(len(disk.events) + 1):
        if at:
            event = disk.events[at - 1]
            if event.kind in ENTRIES:
                apply_to_dirs(dirs, event)
                if event.kind == "create":
                    contents[event.inode] = b""
            elif event.kind in ("append", "write", "truncate"):
                before = contents.get(event.inode, b"")
                contents[event.inode] = _cached(before, event)
                if at > begin and event.kind == "append" and len(event.data) > 1:
                    for cut in {1, len(event.data) // 2, len(event.data) - 1}:
                        yield at, _image(dirs, contents | {event.inode: before + event.data[:cut]}), cut
            elif at > begin and event.kind in SYNCS:
                continue
        if at >= begin:
            yield at, _image(dirs, contents), 0


def _cached(before: bytes, event) -> bytes:
    if event.kind == "truncate":
        return before[:event.size].ljust(event.size, b"\0")
    if event.kind == "write":  # the device's doing, which the page cache does not know
        return before
    return before + event.data


def _image(dirs, contents) -> Image:
    return {path: contents.get(number) for path, number in tree_of(dirs).items()}
