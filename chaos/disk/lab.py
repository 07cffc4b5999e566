"""What may a crash leave of this workload, and does the broker owe anybody more than that? One workload, all its crash states.

A `Lab` explores workloads under one policy, and keeps count. For a word it runs the operations once on a simulated disk, and then
strikes inside the last one:

1. F1: after every event, the page cache as it is there; besides, the last append cut short, since a process may die
   in the middle of a `writev`.
2. F2: just before each sync and at the end of the operation, every state that a profile allows, the strongest profile
   first. At other moments nothing else is possible: what an unsynced effect adds, it may also leave out, so their states are
   among those of the next such moment, where more is owed.
3. Nested: crashes inside the recovery of some of these (chaos/disk/inside.py).

A state with equal content and equal debts is judged once. The first profile that shows it labels it: the strongest.

`explore` takes several labs at once: policies under which a word leaves the same write list have the same crash states, which are made
and recovered once, and held against the debts of each policy. (Of 8,917 words of length 3 under four policies 5,408 are left.)
"""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from chaos.checks.crash import ROOT, Image, Problem, checkpoint_in, longest_run, segments_in
from chaos.disk import live, small, workloads
from chaos.disk.coverage import facts
from chaos.disk.driver import POLICIES, Driver, config_of
from chaos.disk.faults import kind_of
from chaos.disk.inside import Inside
from chaos.disk.judging import Failure, Judge, Tally, debts, evidence_of, signature
from chaos.disk.ledger import Append, Policy
from chaos.disk.model import ENTRIES, SYNCS, SimDisk
from chaos.disk.profiles import STRONGEST_FIRST, WEAKEST, Platters, apply_to_dirs, tree_of
from chaos.disk.recovering import Recoverer
from chaos.disk.spaces import Space, digest_of

META = f"{ROOT}/meta.properties"  # without it there is no data directory yet, and nothing was promised
DIGEST_BITS = (1 << 64) - 1  # of a state's digest, which are kept to count by


@dataclass
class Limits:
    """`bound`: states tried at one crash point under one profile. `nested_every`: of how many recovered images one is crashed into.
    `share`: which part of the states is judged, for a glimpse; the first two (all kept, all lost) always are."""

    bound: int = 300
    nested_every: int = 16
    profiles: tuple = STRONGEST_FIRST
    keep_all: bool = False  # every failure, not only the first of its kind
    share: float = 1.0


_RECOVERERS: dict[tuple, Recoverer] = {}
_INSIDE: dict[tuple, Inside] = {}


def recoverer_for(policy: Policy, constants: small.Constants = small.USUAL) -> Recoverer:
    """Of the policy, recovery only sees whether the high watermark follows the durable end (flush.messages=1): the other policies
    share what is remembered."""
    if policy.messages != 1:
        policy = POLICIES["P0"]
    return _RECOVERERS.setdefault((policy.messages == 1, *sorted(constants.items())), Recoverer(config_of(policy)))


def forget() -> None:
    """Begin as a new process would, with nothing remembered."""
    _RECOVERERS.clear()
    _INSIDE.clear()


class Lab:
    """Explores workloads under one policy, of a broker with these `constants` (chaos/disk/small.py). `seed` decides what is tried beyond
    the bounds."""

    def __init__(self, policy: Policy, seed: int = 0, limits: Limits | None = None, constants: small.Constants = small.USUAL):
        self.policy = policy
        self.constants = constants
        self.limits = limits or Limits()
        self.seed = seed
        self.tally = Tally()
        self.recoverer = recoverer_for(policy, constants)
        self.inside = _INSIDE.setdefault((self.recoverer, seed, self.limits.nested_every), Inside(self.recoverer, seed, self.limits.nested_every))
        self._signatures: set[tuple] = set()

    def explore(self, word: tuple, start: str | tuple = "fresh") -> bool:
        """Judge every crash inside the last operation of `word` (of starting, if it has none); False if the word makes no sense."""
        return bool(explore([self], word, start))

    def play(self, word: tuple, start: str | tuple) -> tuple[Driver | None, int]:
        """Run the operations; the driver, and when the last one began. None where the word makes no sense."""
        with small.applied(self.constants):
            return self._play(word, start)

    def _play(self, word: tuple, start: str | tuple) -> tuple[Driver | None, int]:
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

    def report(self, problem: Problem, fault: str, disk: str, start: str | tuple, word: tuple, at: int, state=None, nested: tuple = ()) -> None:
        """Keep the first failure of its kind; the others would say the same."""
        kind = signature(problem, fault, word, nested)
        if problem.allowed or (kind in self._signatures and not self.limits.keep_all):
            return
        self._signatures.add(kind)
        labels, evidence = evidence_of(state)
        self.tally.failures.append(Failure(problem, fault, self.policy.name, disk, start, word, at, labels,
                                           sum(map(len, labels.values())), nested, evidence, self.constants))


@dataclass
class _Play:
    """A word as it went under one lab's policy; `begin`: when its last operation began."""

    lab: Lab
    driver: Driver
    begin: int


def explore(labs: list[Lab], word: tuple, start: str | tuple = "fresh") -> list[Lab]:
    """`Lab.explore` of the same word for several labs with the same seed, limits and constants; those under whose policies it makes sense."""
    if not labs:
        return []
    with small.applied(labs[0].constants):
        return _explore(labs, word, start)


def _explore(labs: list[Lab], word: tuple, start: str | tuple) -> list[Lab]:
    plays = [_Play(lab, driver, begin) for lab in labs for driver, begin in [lab.play(word, start)] if driver is not None]
    alike: dict[tuple, list[_Play]] = {}
    for play in plays:
        lab, driver = play.lab, play.driver
        lab.tally.words += 1
        lab.tally.effects += sum(event.kind not in SYNCS for event in driver.disk.events[play.begin:])
        for statement, text in driver.complaints:
            lab.report(Problem(statement, ("", -1), -1, text), "F0", "any", start, word, driver.at)
        trace = tuple(event.identity() for event in driver.disk.events)
        alike.setdefault((lab.recoverer, play.begin, trace), []).append(play)
    for group in alike.values():
        scene = _Scene(group, word, start)
        scene.tallies[0].facts.update(facts(scene.driver.disk))
        scene.process_kills()
        scene.power_cuts([*scene.driver.syncs(scene.begin), scene.driver.at], scene.limits.profiles, scene.limits.bound)
    for play in plays:  # last: it may write
        for problem in live.check(play.driver):
            play.lab.report(problem, "F0", "any", start, word, play.driver.at)
    return [play.lab for play in plays]


class _Scene:
    """One write list, under all policies that have it in common: every crash from `begin` on."""

    def __init__(self, plays: list[_Play], word: tuple, start: str | tuple):
        first = plays[0]
        self.plays = plays
        self.word = word
        self.start = start
        self.driver = first.driver
        self.begin = first.begin
        self.limits = first.lab.limits
        self.tallies = [play.lab.tally for play in plays]
        self.digests = first.lab.tally.digests
        self.recoverer = first.lab.recoverer
        self.inside = first.lab.inside
        self.durable = _durable_ends(first.driver, first.begin)
        self.rng = random.Random(f"{first.lab.seed} {start} {word}")  # the same whoever explores what before

    def process_kills(self) -> None:
        """F1."""
        for at, image, torn in cache_images(self.driver.disk, self.begin):
            if META in image:
                judges = self._judges(at, "F1", at - 1 if torn else at)
                self._judge(self.recoverer.recover(image), digest_of(image), lambda image=image: image, judges, "any", {"torn": torn} if torn else {})
                _close(judges)

    def power_cuts(self, times: list[int], profiles: tuple, bound: int) -> None:
        """F2."""
        events = self.driver.disk.events
        seen: dict[int, set[int]] = {at: set() for at in times}
        judges = {at: self._judges(at, "F2", at) for at in times}
        for tally in self.tallies:
            tally.points += len(times)
        for profile in profiles:
            platters = Platters(self.driver.disk, profile.commit)
            fed = 0
            for at in times:
                for event in events[fed:at]:
                    platters.feed(event)
                fed = at
                self._space(Space(profile, platters, self.rng), judges[at], seen[at], bound)
        for at in judges:
            _close(judges[at])

    def _judges(self, at: int, fault: str, owed_at: int) -> list[Judge]:
        judges = []
        for play in self.plays:
            def tell(problem, disk, state, nested, lab=play.lab):
                lab.report(problem, fault, disk, self.start, self.word, at, state, nested)

            judges.append(Judge(play.lab.tally, fault, debts(play.driver.ledger, owed_at, fault, self.durable[at]), tell))
        return judges

    def _space(self, space: Space, judges: list[Judge], seen: set[int], bound: int) -> None:
        undisturbed = None
        tried = differing = 0
        met = [[0] * len(part.options) for part in space.parts]
        for number, state in enumerate(space.states(bound)):
            if number > 1 and self.limits.share < 1 and self.rng.random() > self.limits.share:
                continue
            tried += 1
            undisturbed = state.digest if undisturbed is None else undisturbed
            if state.digest in seen:
                continue
            seen.add(state.digest)
            differing += state.digest != undisturbed
            for place, option in enumerate(state.pick):
                met[place][option] += 1
            if state.holds(META):
                self._judge(self.recoverer.recover_state(state), state.digest, state.image, judges, space.profile.name, state)
        coverage = _coverage(space, met)
        exhaustive = space.exhaustive(bound)
        for tally in self.tallies:
            tally.possible += space.possible
            if not exhaustive:
                tally.not_exhaustive += 1
                tally.representatives += min(tried, space.representatives)
                tally.drawn += max(0, tried - space.representatives)
            tally.unsynced += bool(space.parts)
            tally.tried += tried
            tally.differing += differing
            tally.coverage.update(coverage)

    def _judge(self, recovered, value: int, make_image, judges: list[Judge], disk: str, state) -> None:
        self.digests.add(value & DIGEST_BITS)
        for judge in judges:
            judge.judge(recovered, disk, state)
        if self.limits.nested_every and value % self.limits.nested_every == 0:
            for nested in self.inside.strike(make_image(), value):
                self.digests.add(nested.digest & DIGEST_BITS)
                for judge in judges:
                    judge.judge(nested.recovered, disk, state, nested.path)


def _close(judges: list[Judge]) -> None:
    for judge in judges:
        judge.close()


def _coverage(space: Space, met: list[list[int]]) -> Counter:
    """(call site, file kind, deviation) -> states, from how often each option was met."""
    coverage: Counter = Counter()
    for part, counts in zip(space.parts, met, strict=True):
        for option, states in zip(part.options, counts, strict=True):
            for _, choice in part.deviations(option.picks) if states else ():
                if choice.event is not None:
                    coverage[choice.event.site, kind_of(choice.event.path), choice.deviation] += states
    return coverage


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
