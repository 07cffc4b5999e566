"""How are all workloads tried in the time given, on all processors, with the same result on one?

A run is a list of tasks. A task is (starting point, prefix): every word that is the prefix and one letter more, under
every policy. Tasks do not
depend on each other and take their randomness from the seed and the word, so they may be spread over processes (`workers="4"`) or
over a Dask cluster (`workers="dask://host:port"`), and give the same findings anywhere.

1. First come, to be finished in any case: the starts themselves, those of a broker with small constants among them (chaos/disk/small.py),
   every word of length <= 2 from the `fresh` start, and every letter from the `fresh, small` one.
2. Then, if a depth was asked for, every word up to it from the `fresh` start.
3. Then, as long as there is time: words up to the depth (3, if none was asked for) from all starts, in an order that the seed shuffles: the
   short ones first, where a start counts as a letter.
4. Then whole brokers and their clients (chaos/whole/run.py), and calls to the disk that fail, for what is left of the time.
5. Then the anti-vacuity conditions are checked (chaos/checks/vacuity.py): not met means "not enough evidence".

Every word is tried under every profile. At a crash point under a profile all states are tried where they are at most `BOUND`; where
they are more, one representative of each class (call site x file kind x deviation) alone and with everything else lost, then states
that the seed draws, up to the bound.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from chaos.checks import vacuity
from chaos.checks.history.case import Finding
from chaos.disk import cluster, coverage, errors, workloads
from chaos.disk.driver import POLICIES, quietly
from chaos.disk.judging import ALWAYS_JUDGED, Failure, Tally
from chaos.disk.lab import Lab, Limits, explore
from chaos.disk.profiles import PROFILES
from chaos.disk.recovering import sharing_work
from chaos.plan import plan_of, save
from chaos.whole import run as whole

LAYER = "disk"
TASK_LETTERS = 4  # words of a task: some seconds of work
PLANS_MAX = 10  # failures that are shrunk and written out
BOUND = 200  # states tried at one crash point under one profile
NESTED_EVERY = 64  # of how many states one is crashed into while it recovers
DASK_TASKS_MIN = 64  # handed to a cluster at a time: workers may join while it runs
ALWAYS_LENGTHS = {"fresh": 2, "fresh, small": 1}  # of the words that are tried from a start whatever the time
USUAL_DEPTH = 3
WORDS_SHARE = 0.7  # of the time; half of the rest is for whole brokers, half for calls that fail
REST_SECONDS_MAX = 120  # which do not need more, where a depth was asked for
_ONE_AT_A_TIME = threading.Lock()  # a Dask worker has several threads, which share what its process remembers


class Task(NamedTuple):
    start: str
    prefix: tuple[str, ...]
    letters: tuple[str, ...]  # each behind the prefix makes a word; none: only the starting itself
    seed: int
    bound: int
    nested_every: int

    @property
    def length(self) -> int:
        return len(self.prefix) + bool(self.letters)

    @property
    def words(self) -> int:
        return len(self.letters) or 1


def run(report, seed: int, seconds: float, *, depth: int | None = None, workers: str = "2", out: Path | None = None,
        progress: Callable[[str], None] = lambda text: None) -> dict[str, Tally]:
    """Explore for about `seconds`, and put everything into `report`. Returns the tally of each policy."""
    began = time.monotonic()
    end = began + seconds
    rest = seconds * (1 - WORDS_SHARE)
    words_until = end - (rest if depth is None else min(rest, REST_SECONDS_MAX))
    seen = Seen()
    stages = plan_tasks(seed, depth)
    for stage in stages:
        seen.plan(stage)
    faults: list[errors.SweepOutcome] = []
    try:
        with Pool(workers) as pool:
            for number, stage in enumerate(stages):
                for task, by_policy in pool.map(stage, words_until if number else None, performed):
                    seen.add(task, by_policy)
                    progress(seen.line())
            whole.run(pool.map, report, seed, (words_until + end) / 2, progress, out)
        faults = errors.sweep(max(end, time.monotonic() + 10), progress)
    finally:  # also what an interrupted run has seen
        for tally in seen.tallies.values():
            tally.failures = first_of_each_kind(tally.failures)
        _report(report, seen, faults, time.monotonic() - began)
    _write_plans(report, [failure for tally in seen.tallies.values() for failure in tally.failures], seed, out)
    return seen.tallies


class Seen:
    """What has been planned and done so far. The digests of all policies are in one set, `distinct`."""

    def __init__(self):
        self.tallies = {name: Tally() for name in POLICIES}
        self.distinct: set[int] = set()
        self.planned: Counter = Counter()  # (start, length) -> words
        self.done: Counter = Counter()
        self.sensible: Counter = Counter()  # (start, length, policy) -> words that make sense

    def plan(self, tasks: list[Task]) -> None:
        for task in tasks:
            self.planned[task.start, task.length] += task.words

    def add(self, task: Task, by_policy: dict[str, Tally]) -> None:
        self.done[task.start, task.length] += task.words
        for policy, tally in by_policy.items():
            self.sensible[task.start, task.length, policy] += tally.words
            self.distinct |= tally.digests
            tally.digests.clear()
            self.tallies[policy].add(tally)

    def line(self) -> str:
        words = " + ".join(f"{self.done[key]}/{self.planned[key]}" for key in sorted(self.planned) if key[0] == "fresh" and key[1])
        others = sum(count for key, count in self.done.items() if key[0] != "fresh")
        broken = sum(len(tally.failures) for tally in self.tallies.values())
        return f"words {words}, {others} from other starts, {len(self.distinct)} distinct states, {broken} broken"

    def lengths(self, start: str) -> list[str]:
        """How far the words from one start have come, for each length."""
        lines = []
        for (_, length), planned in sorted(item for item in self.planned.items() if item[0][0] == start and item[0][1]):
            done = self.done[start, length]
            sensible = ", ".join(f"{policy} {self.sensible[start, length, policy]}" for policy in POLICIES)
            lines.append(f"length {length}: {'finished, ' if done == planned else f'{done} of '}{planned} words (make sense: {sensible})")
        return lines


def plan_tasks(seed: int, depth: int | None, bound: int = BOUND, nested_every: int = NESTED_EVERY) -> list[list[Task]]:
    """[tasks that are done in any case, tasks that come next because of the depth asked for, tasks for the time that is left]."""
    letters = tuple(workloads.ALPHABET)
    groups = [letters[place:place + TASK_LETTERS] for place in range(0, len(letters), TASK_LETTERS)]
    stages: list[list[Task]] = [[Task(start, (), (), seed, bound, nested_every) for start in workloads.STARTS], [], []]
    for start in workloads.STARTS:
        for length in range(depth or USUAL_DEPTH):
            always, asked = length < ALWAYS_LENGTHS.get(start, 0), start == "fresh" and depth is not None
            stages[0 if always else 1 if asked else 2] += [Task(start, prefix, group, seed, bound, nested_every)
                                                           for prefix in workloads.words(length) for group in groups]
    rng = random.Random(seed)
    order = {task: (task.length + (task.start != "fresh"), rng.random()) for task in stages[2]}
    return [*stages[:2], sorted(stages[2], key=order.__getitem__)]


def perform(task: Task) -> dict[str, Tally]:
    """One task, in whatever process; a tally for each policy. What recoveries made for one task serves the next (chaos/disk/lab.py)."""
    limits, constants = Limits(task.bound, task.nested_every), workloads.constants_of(task.start)
    labs = [Lab(policy, task.seed, limits, constants) for policy in POLICIES.values()]
    with _ONE_AT_A_TIME, quietly(), sharing_work():
        if not task.letters:
            explore(labs, (), task.start)
        else:  # a word with a prefix that makes no sense makes none
            sensible = [lab for lab in labs if not task.prefix or lab.play(task.prefix, task.start)[0] is not None]
            for letter in task.letters:
                explore(sensible, (*task.prefix, letter), task.start)
    return {lab.policy.name: lab.tally for lab in labs}


def performed(task: Task) -> tuple[Task, dict[str, Tally]]:
    return task, perform(task)


def first_of_each_kind(failures: list[Failure]) -> list[Failure]:
    """The first of each kind, in an order that does not depend on which task was done first."""
    ordered = sorted(failures, key=lambda each: (len(each.word), each.deviations, len(each.nested), str(each)))
    return list({each.signature: each for each in reversed(ordered)}.values())[::-1]


class Pool:
    """Where tasks are performed: in this process ("1"), in several, or on a Dask cluster."""

    def __init__(self, workers: str):
        self.workers = workers
        self._executor = self._client = None

    def __enter__(self) -> "Pool":
        if self.workers.startswith(cluster.PREFIX):
            self._client = cluster.connect(self.workers)
            self._executor = self._client.get_executor(pure=False)
            self._parallel = max(DASK_TASKS_MIN, 2 * sum(self._client.nthreads().values()))
        elif not self.workers.isdecimal():
            raise cluster.NoWorkers(f"{self.workers!r}: a number of processes, or dask://HOST:PORT")
        elif int(self.workers) > 1:
            self._executor = ProcessPoolExecutor(int(self.workers), mp_context=get_context("spawn"))
            self._parallel = int(self.workers) + 1
        return self

    def __exit__(self, *_) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True)
        if self._client is not None:
            self._client.close()

    def map(self, tasks: list, until: float | None, work: Callable = perform) -> Iterator:
        """Results as they come; no new task is begun after `until`."""
        if self._executor is None:
            for task in tasks:
                if until is not None and time.monotonic() > until:
                    return
                yield work(task)
            return
        waiting: set[Future] = set()
        left = iter(tasks)
        while True:
            while len(waiting) < self._parallel and (until is None or time.monotonic() < until):
                task = next(left, None)
                if task is None:
                    break
                waiting.add(self._executor.submit(work, task))
            if not waiting:
                return
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                waiting.remove(future)
                yield future.result()


def _report(report, seen: Seen, faults: list, seconds: float) -> None:
    for name, tally in seen.tallies.items():
        for (statement, fault), times in tally.judgements.items():
            for each in (statement,) if statement else ALWAYS_JUDGED:
                allowed = [finding_allowed(each)] * tally.allowed[each, fault] if each in ("C1.4", "C1.5", "C1.6") else []
                report.judge(LAYER, name, fault, [each], allowed, times)
        for failure in tally.failures:
            report.judge(LAYER, name, failure.fault, [failure.problem.statement], [finding_of(failure)])
        policy = POLICIES[name]
        report.not_enough += vacuity.missing(name, policy.messages, tally.unsynced, tally.differing, tally.losses)
        for statement, text in vacuity.broken(name, policy.messages, tally.losses):
            report.judge(LAYER, name, "F2", [statement], [Finding(statement, "more lost than allowed", "", -1, -1, text)])
    for outcome in faults:
        report.judge(LAYER, outcome.policy, outcome.fault, outcome.statements, outcome.findings, outcome.runs)
    total = Tally()
    for tally in seen.tallies.values():
        total.add(tally)
    report.figures += figures(seen, total, seconds)
    runs, struck = sum(outcome.runs for outcome in faults), sum(outcome.struck for outcome in faults)
    report.figures.append({"fault sweeps": runs, "faults struck": struck})
    report.coverage += coverage.account(total.coverage, total.facts)
    report.figures.append({"coverage of crash space (call site x file kind x deviation)": coverage.summary(report.coverage)})


def figures(seen: Seen, total: Tally, seconds: float) -> list[dict]:
    """The counts of a run. A distinct state is one content of the disk; it is judged by what each policy owes at each moment."""
    spaces = total.points * len(PROFILES)
    lines = [{
        "layer": LAYER, "states possible": f"{total.possible:.3g}", "tried": total.tried, "distinct": len(seen.distinct),
        "judged (content x debts)": total.judged + total.nested, "of these inside recovery": total.nested, "crash points": total.points,
        "effects": total.effects, "seconds": round(seconds)}]
    lines.append({
        "crash points x profiles": spaces, "all states tried in": spaces - total.not_exhaustive,
        f"more than {BOUND} states in": total.not_exhaustive, "tried there: representatives of each class": total.representatives,
        "drawn by the seed": total.drawn})
    for start in workloads.STARTS:
        lines.append({f"workloads from {start}": "; ".join(seen.lengths(start))})
    return lines


def finding_allowed(statement: str) -> Finding:
    return Finding(statement, "acked offsets lost", "", -1, -1, "", allowed=True)


def finding_of(failure: Failure) -> Finding:
    problem = failure.problem
    text = f"{failure.verdict().line()}; after {failure.start}: {' '.join(map(str, failure.word)) or 'start'}, crash at event {failure.at}"
    text += ", inside recovery" if failure.nested else ""
    return Finding(problem.statement, "broken", *problem.key, problem.offset, text)


def _write_plans(report, failures: list[Failure], seed: int, out: Path | None) -> None:
    """Shrink the first failure of each statement and write it out, as a plan and as a story."""
    if out is None:
        return
    from chaos.shrink import shrink

    seen: set[str] = set()
    for failure in sorted(failures, key=lambda each: (len(each.word), each.deviations)):
        if failure.problem.statement in seen or len(seen) >= PLANS_MAX or failure.nested:
            continue
        seen.add(failure.problem.statement)
        path = save(shrink(plan_of(failure, seed)), out / "plans")
        report.figures.append({"plan": str(path), "replay": f"refbroker-chaos replay {path}"})
