"""What was owed at one moment, and does a recovered state hold it? The verdicts of an exploration, and what is counted.

A `Judge` knows the debts of one moment under one policy. A log that recovery gave appears in many crash states, beside other logs;
so what the debts say of it is worked out once, and then only counted. (Judging was a tenth of the time of an exploration, and is now
a hundredth of it.)
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from chaos.checks import deletion, survival
from chaos.checks.crash import Key, Problem, Recovered, RecoveredPartition
from chaos.contract import Verdict
from chaos.disk.ledger import Ledger, Owed
from chaos.disk.small import USUAL, Constants
from chaos.disk.spaces import State

ALWAYS_JUDGED = ("C2.1", "C2.2", "C2.3", "C2.4", "C2.6", "C2.8", "C2.9", "C2.10", "C2.11", "C2.12", "C3.1", "C3.3", "C3.4", "C3.5",
                 "C4.1", "C4.2", "C4.4", "C5.1", "C5.2", "C5.3", "C5.4", "C5.5", "C6.1", "C6.4", "C9.5", "C9.6")


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
    constants: Constants = field(default_factory=lambda: USUAL)  # of the broker

    @property
    def signature(self) -> tuple:
        """What failures of one kind have in common."""
        return signature(self.problem, self.fault, self.word, self.nested)

    def verdict(self) -> Verdict:
        problem = self.problem
        return Verdict(problem.statement, self.fault, self.policy, self.disk, problem.allowed, *problem.key, problem.offset,
                       problem.text, evidence=self.evidence)


def signature(problem: Problem, fault: str, word: tuple, nested: tuple) -> tuple:
    return problem.statement, fault, problem.text[:25], str(word[-1:]), bool(nested)


@dataclass
class Tally:
    """What a run has seen. Sums, so that those of several processes add up."""

    words: int = 0
    points: int = 0
    effects: int = 0
    possible: int = 0
    tried: int = 0
    judged: int = 0  # states held against the debts of a moment; `nested`: of those that a crash inside recovery left
    nested: int = 0
    unsynced: int = 0  # crash points at which bytes or entries were unsynced
    differing: int = 0  # states that were not as if nothing had been lost
    digests: set[int] = field(default_factory=set)  # of contents; under the first of the policies that have a write list in common
    losses: Counter = field(default_factory=Counter)  # acked offsets lost after F2 -> states
    coverage: Counter = field(default_factory=Counter)  # (call site, file kind, deviation) -> states
    facts: Counter = field(default_factory=Counter)  # what the effects were, see chaos/disk/coverage.py; counted as digests are
    judgements: Counter = field(default_factory=Counter)  # (statement, fault) -> times; ALWAYS_JUDGED under ("", fault)
    allowed: Counter = field(default_factory=Counter)
    not_exhaustive: int = 0  # crash points x profiles where the bound left states out
    representatives: int = 0  # states that were tried there because they stand for a class
    drawn: int = 0  # and those that the seed drew
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


class _Answer:
    """What the debts say of one log (or of its absence), and how often it was met."""

    __slots__ = ("log", "lost", "allowed", "broken", "times", "times_nested")

    def __init__(self, log: RecoveredPartition | None, lost: list[int], problems: list[Problem]):
        self.log = log  # kept, so that its id stays its own
        self.lost = lost
        self.allowed = [problem.statement for problem in problems if problem.allowed]
        self.broken = [problem for problem in problems if not problem.allowed]
        self.times = self.times_nested = 0


class Judge:
    """The debts of one moment of a word under one policy, held against states. `tell(problem, disk, state, nested)` is called for
    each statement that breaks. `close` puts the counts into the tally."""

    def __init__(self, tally: Tally, fault: str, owed: list[Owed], tell):
        self.fault = fault
        self._tally = tally
        self._owed = owed
        self._tell = tell
        self._by_key: dict[Key, list[Owed]] = {}
        for debt in owed:
            self._by_key.setdefault(debt.ledger.key, []).append(debt)
        self._answers: dict[int | Key, _Answer] = {}
        self.states = self.nested = 0

    def judge(self, recovered: Recovered, disk: str, state, nested: tuple = ()) -> None:
        """`state` says how it came about, `nested` where a second crash struck inside its recovery."""
        if nested:
            self.nested += 1
        else:
            self.states += 1
        for problem in recovered.problems:
            self._tell(problem, disk, state, nested)
        if recovered.refused is not None:
            for problem in survival.check(recovered, self._owed):
                self._tell(problem, disk, state, nested)
            return
        for answer in self._answers_to(recovered):
            if nested:
                answer.times_nested += 1
            else:
                answer.times += 1
            for problem in answer.broken:
                self._tell(problem, disk, state, nested)

    def _answers_to(self, recovered: Recovered) -> Iterator[_Answer]:
        logs, answers = recovered.partitions, self._answers
        for key, log in logs.items():
            yield answers.get(id(log)) or self._answer(key, log, recovered.clean)
        for key in self._by_key:
            if key not in logs:
                yield answers.get(key) or self._answer(key, None, recovered.clean)

    def _answer(self, key: Key, log: RecoveredPartition | None, clean: bool) -> _Answer:
        owed = self._by_key.get(key, [])
        problems = [problem for debt in owed for problem in survival.check_debt(debt, log, clean)]
        lost = []
        if log is not None:
            problems += deletion.check_log(log, owed)
            lost = [count for debt in owed if (count := survival.lost(debt, log)) is not None]
        answer = self._answers[key if log is None else id(log)] = _Answer(log, lost, problems)
        return answer

    def close(self) -> None:
        tally, fault = self._tally, self.fault
        times = self.states + self.nested
        tally.judged += self.states
        tally.nested += self.nested
        tally.judgements["", fault] += times
        for debt in self._owed:
            if debt.must_exist:
                tally.judgements[debt.statement, fault] += times
        for answer in self._answers.values():
            for statement in answer.allowed:
                tally.allowed[statement, fault] += answer.times + answer.times_nested
            for lost in answer.lost if fault == "F2" else ():
                tally.losses[lost] += answer.times


def debts(ledger: Ledger, at: int, fault: str, durable: dict) -> list[Owed]:
    """What every partition owes."""
    return [ledger.owed(partition, at, fault, durable.get((partition.key, partition.topic_id), 0))
            for partition in ledger.partitions if partition.created[0] <= at]


def evidence_of(state) -> tuple[dict[str, dict[str, str]], tuple[str, ...]]:
    """(labels for a plan, the effects that did not come out) of a crash state."""
    if not isinstance(state, State):
        labels = {key: str(value) for key, value in state.items()} if state else {}
        return ({"process": labels} if labels else {}), tuple(f"{key} at {value}" for key, value in labels.items())
    labels: dict[str, dict[str, str]] = {}
    for part, axis, choice in state.deviations():
        labels.setdefault(part, {})[axis] = choice.label
    return labels, tuple(f"{choice.label}: {choice.event}" for _, _, choice in state.deviations() if choice.event is not None)
