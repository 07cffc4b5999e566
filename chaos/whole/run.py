"""Which crashes of a whole broker are tried, and what do its clients find afterwards? A part of the disk layer.

A word is a list of letters of `clients.py`. `explore` plays it once under one policy, and strikes everywhere in it:

1. F1: the page cache as it is at chosen events, and the last append cut short.
2. F2: just before each sync and at the end, the state in which nothing is lost, the one in which everything unsynced is, and chosen
   ones between them; of the weakest disk, and of another one that the seed chooses.
3. The broker that still runs is asked the same as those that start on what a crash left.

`SCENARIOS` come first, under every policy, whatever the time, those at the end of a broker with small constants (chaos/disk/small.py);
then words that the seed makes up, every second one of such a broker. A state costs a start of the broker and
some dozens of requests, so that they are chosen, not exhausted: `chaos/disk/run.py` does that, for the log below.
"""

import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from chaos.checks.history.case import Finding
from chaos.disk import small
from chaos.disk.driver import POLICIES, ROOT, quietly
from chaos.disk.judging import evidence_of
from chaos.disk.lab import cache_images
from chaos.disk.ledger import Policy
from chaos.disk.model import SYNCS
from chaos.disk.profiles import PROFILES, WEAKEST, Platters
from chaos.disk.spaces import Space, digest_of
from chaos.plan import save
from chaos.whole.clients import LETTERS, Session
from chaos.whole.judge import Judged, judge, judge_live
from chaos.whole.plan import plan_of

LAYER = "disk"
SUFFIX = " whole"  # of the fault in the verdict table
KILLS_MAX = 16  # F1 states of a word
STATES_BOUND = 40  # of which at each moment some are chosen
CHOSEN = {WEAKEST.name: 2}  # besides the first two
WORDS_MAX = 2_000
RANDOM_LENGTHS = (2, 3, 4, 6, 8)
SHRINK_MAX = 40

SCENARIOS = tuple(tuple(text.split()) for text in (
    "produce produce both produce produce",
    "crowd gzip late pending poll",
    "idempotent lost idempotent retry",
    "wrap wrap retry gap",
    "idempotent bump idempotent fence kill fence",
    "both poll commit produce poll commit",
    "zero unread produce poll",
    "create produce recreate delete",
    "gzip gzip poll delete-records produce",
    "produce checkpoint produce kill produce poll",
    "idempotent poll commit restart retry poll commit",
    "produce wait produce poll commit wait",
    "produce follow gzip gzip catch-up look poll",
    "create vanish create produce vanish empty produce empty poll",
    "produce strict look zero leave leave poll commit kill produce",
))
SMALL_SCENARIOS = tuple(tuple(text.split()) for text in (
    "create produce both poll commit recreate delete poll commit",
    "wrap idempotent kill wrap retry",
    "crowd crowd crowd crowd crowd crowd crowd idempotent restart retry",
))
BEGIN_WITH = (*((word, small.USUAL) for word in SCENARIOS), *((word, small.SMALL) for word in SMALL_SCENARIOS))


class WholeTask(NamedTuple):
    """One word under every policy: a scenario, or the number of one that the seed makes up. The number also says whether the broker's
    constants are small."""

    number: int
    seed: int

    @property
    def word(self) -> tuple[str, ...]:
        if self.number < len(BEGIN_WITH):
            return BEGIN_WITH[self.number][0]
        rng = random.Random(f"whole {self.seed} {self.number}")
        return tuple(rng.choice(LETTERS) for _ in range(rng.choice(RANDOM_LENGTHS)))

    @property
    def constants(self) -> small.Constants:
        if self.number < len(BEGIN_WITH):
            return BEGIN_WITH[self.number][1]
        return small.SMALL if self.number % 2 else small.USUAL


@dataclass
class WholeTally:
    """What has been seen; sums, so that those of several processes add up."""

    words: int = 0
    requests: int = 0  # of the clients before the crash
    questions: int = 0  # to brokers that started after one
    acks: int = 0
    points: int = 0
    tried: int = 0
    recoveries: int = 0
    unsynced: int = 0
    digests: set[int] = field(default_factory=set)
    losses: Counter = field(default_factory=Counter)  # acked records lost -> states after F2
    judgements: Counter = field(default_factory=Counter)  # (statement, acks, fault)
    allowed: Counter = field(default_factory=Counter)
    failures: list["WholeFailure"] = field(default_factory=list)

    def add(self, other: "WholeTally") -> None:
        for name, value in vars(other).items():
            mine = getattr(self, name)
            if isinstance(mine, int):
                setattr(self, name, mine + value)
            elif isinstance(mine, list):
                mine.extend(value)
            else:
                mine.update(value)


class WholeFailure(NamedTuple):
    finding: Finding
    policy: str
    fault: str
    disk: str
    word: tuple[str, ...]
    at: int
    deviations: tuple[str, ...]
    labels: dict[str, dict[str, str]]  # the same for a plan
    constants: small.Constants

    def text(self) -> str:
        where = f"crash after {self.at} events, disk {self.disk}" if self.fault != "F0" else "no crash"
        deviating = f": {', '.join(self.deviations)}" if self.deviations else ""
        return f"{self.finding.evidence}; clients: {' '.join(self.word)}{'' if self.constants == small.USUAL else ', small constants'}; {where}{deviating}"


def run(mapping: Callable, to, seed: int, until: float, progress: Callable[[str], None] = lambda text: None,
        out: Path | None = None) -> dict[str, WholeTally]:
    """The scenarios, then words of the seed until `until`; all into the report `to`, plans of what broke into `out`/plans. `mapping` is
    `Pool.map` of chaos/disk/run.py."""
    tallies = {name: WholeTally() for name in POLICIES}
    for numbers, limit in ((range(len(BEGIN_WITH)), None), (range(len(BEGIN_WITH), WORDS_MAX), until)):
        for by_policy in mapping([WholeTask(number, seed) for number in numbers], limit, perform):
            for name, tally in by_policy.items():
                tallies[name].add(tally)
            progress(f"whole broker: {sum(tally.words for tally in tallies.values())} words, "
                     f"{sum(tally.recoveries for tally in tallies.values())} states recovered and asked, "
                     f"{sum(len(tally.failures) for tally in tallies.values())} broken")
    report(to, tallies, seed, out)
    return tallies


def perform(task: WholeTask) -> dict[str, WholeTally]:
    """A tally for each policy. Letters that make no sense where they come are left out of words that were made up."""
    with quietly():
        return {name: explore(policy, task.word, task.seed, constants=task.constants) for name, policy in POLICIES.items()}


def explore(policy: Policy, word: tuple[str, ...], seed: int, chosen: int = 1, faults: tuple[str, ...] = ("F1", "F2"),
            constants: small.Constants = small.USUAL) -> WholeTally:
    """Every moment of a word, of a broker with these constants; `chosen`: a factor for the number of states at each."""
    with small.applied(constants):
        return _explore(policy, word, seed, chosen, faults, constants)


def _explore(policy: Policy, word: tuple[str, ...], seed: int, chosen: int, faults: tuple[str, ...], constants: small.Constants) -> WholeTally:
    tally = WholeTally(words=1)
    rng = random.Random(f"whole {seed} {policy.name} {word}")
    session = Session(policy)
    word = tuple(letter for letter in word if session.play((letter,)) is not None)
    explorer = _Explorer(session, word, tally, rng, chosen, constants)
    for statement, text in session.complaints:
        explorer.note(Finding(statement, "answered wrongly", "", -1, -1, text), "F0", "any", session.at)
    explorer.take(judge_live(session), "F0", "any", session.at)
    tally.requests, tally.acks = session.requests, session.acks
    session.close()
    if "F1" in faults:
        explorer.kills()
    if "F2" in faults:
        explorer.power_cuts()
    return tally


class _Explorer:
    """One session that has ended, and all that is tried of it."""

    def __init__(self, session: Session, word: tuple[str, ...], tally: WholeTally, rng: random.Random, chosen: int, constants: small.Constants):
        self.session, self.word, self.tally, self.rng, self.chosen, self.constants = session, word, tally, rng, chosen, constants
        self._seen: set[tuple[int, int, int]] = set()

    def kills(self) -> None:
        states = [state for state in cache_images(self.session.disk, 1) if f"{ROOT}/meta.properties" in state[1]]
        last = states[-1:]
        for at, image, torn in [*self.rng.sample(states[:-1], min(KILLS_MAX * self.chosen, len(states) - 1)), *last]:
            effects = {"torn": torn} if torn else {}
            self.strike(at - 1 if torn else at, "F1", "any", image, digest_of(image), None, effects)

    def power_cuts(self) -> None:
        disk = self.session.disk
        platters = {profile.name: Platters(disk, profile.commit) for profile in PROFILES}
        for at in range(len(disk.events) + 1):
            if at == len(disk.events) or disk.events[at].kind in SYNCS:
                self.tally.points += 1
                self.tally.unsynced += bool(platters[WEAKEST.name].sequence)
                for profile in (WEAKEST, self.rng.choice(PROFILES[1:])):
                    self._cut(at, Space(profile, platters[profile.name], self.rng), platters[WEAKEST.name])
            if at < len(disk.events):
                for each in platters.values():
                    each.feed(disk.events[at])

    def _cut(self, at: int, space: Space, weakest: Platters) -> None:
        states = list(space.states(STATES_BOUND))
        number = CHOSEN.get(space.profile.name, 1) * self.chosen
        durable = weakest.durable_image()
        between = states[2:]
        for state in (*states[:2], *self.rng.sample(between, min(number, len(between)))):
            image = state.image()
            if f"{ROOT}/meta.properties" in image:
                self.strike(at, "F2", space.profile.name, image, state.digest, durable, state)

    def strike(self, at: int, fault: str, disk: str, image, digest: int, durable, state) -> None:
        """One crash state (of a killed process: what is torn): recovered and judged, unless the same has been, at a moment when clients knew
        as much and as much was durable."""
        self.tally.tried += 1
        known = bisect_right(self.session.notes.clock, at, key=lambda entry: entry[0])
        moment = known, digest, digest_of(durable) if durable is not None else 0
        if moment in self._seen:
            return
        self._seen.add(moment)
        self.tally.digests.add(digest & 0xFFFFFFFFFFFFFFFF)
        self.tally.recoveries += 1
        judged = judge(self.session, at, fault, image, durable)
        self.tally.questions += judged.requests
        if fault == "F2":
            self.tally.losses[judged.lost] += 1
        self.take(judged, fault, disk, at, state)

    def take(self, judged: Judged, fault: str, disk: str, at: int, state=None) -> None:
        for statement in judged.statements:
            self.tally.judgements[*statement, fault] += 1
        for finding in judged.findings:
            if finding.allowed:
                self.tally.allowed[finding.statement, finding.acks, fault] += 1
            else:
                self.note(finding, fault, disk, at, state)

    def note(self, finding: Finding, fault: str, disk: str, at: int, state=None) -> None:
        """The first of its kind in this word; the others would say the same."""
        if not any((each.finding.statement, each.fault) == (finding.statement, fault) for each in self.tally.failures):
            labels, deviations = evidence_of(state)
            self.tally.failures.append(WholeFailure(finding, self.session.policy.name, fault, disk, self.word, at, deviations, labels, self.constants))


def shrink(failure: WholeFailure, seed: int) -> WholeFailure:
    """The same statement broken by the fewest letters, with the fewest deviating effects that were met."""
    best, shorter, attempts = failure, True, 0
    while shorter and attempts < SHRINK_MAX:
        shorter = False
        for place in range(len(best.word)):
            attempts += 1
            found = _same(failure, best.word[:place] + best.word[place + 1:], seed)
            if found is not None and len(found.word) < len(best.word):
                best, shorter = found, True
                break
    return best


def _same(failure: WholeFailure, word: tuple[str, ...], seed: int) -> WholeFailure | None:
    with quietly():
        found = explore(POLICIES[failure.policy], word, seed, 3, (failure.fault,), failure.constants).failures
    return next((each for each in found if (each.finding.statement, each.fault) == (failure.finding.statement, failure.fault)), None)


def missing(tallies: dict[str, WholeTally]) -> list[str]:
    """What the run did not show; empty where it means something (S1, S2)."""
    found = []
    for name, tally in tallies.items():
        lost = sum(states for records, states in tally.losses.items() if records)
        if not tally.acks or not tally.unsynced:
            found.append(f"whole broker, {name}: {tally.acks} acks, {tally.unsynced} crash points with unsynced effects")
        if POLICIES[name].messages != 1 and not lost:
            found.append(f"whole broker, {name}: power loss took no acked record, though the policy allows it")
    return found


def report(to, tallies: dict[str, WholeTally], seed: int, out: Path | None = None) -> None:
    """Rows in the verdict table of the disk layer, under faults of their own, and a line of figures. The first failure of each statement is
    shrunk, and its plan written."""
    total, shrunk = WholeTally(), set()
    for name, tally in tallies.items():
        total.add(tally)
        for (statement, acks, fault), times in tally.judgements.items():
            allowed = [Finding(statement, "lost", "", -1, -1, "", True, acks)] * tally.allowed[statement, acks, fault]
            to.judge(LAYER, name, fault + SUFFIX, [(statement, acks)], allowed, times)
        for failure in tally.failures:
            if failure.finding.statement not in shrunk:
                shrunk.add(failure.finding.statement)
                failure = shrink(failure, seed)
                if out is not None:
                    path = save(plan_of(failure), out / "plans")
                    to.figures.append({"plan": str(path), "replay": f"refbroker-chaos replay {path}"})
            finding = replace(failure.finding, evidence=failure.text())
            to.judge(LAYER, name, failure.fault + SUFFIX, [], [finding])
    to.not_enough += missing(tallies)
    to.figures.append({
        "whole broker": "", "words": f"{total.words // len(POLICIES)} x {len(POLICIES)} policies", "requests": total.requests,
        "acks": total.acks, "crash points": total.points, "states tried": total.tried, "distinct": len(total.digests),
        "recoveries": total.recoveries, "questions to them": total.questions})
