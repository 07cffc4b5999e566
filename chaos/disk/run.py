"""How are all workloads tried in the time given, on all processors, with the same result on one?

A run is a list of tasks. A task is (starting point, prefix): every word that is the prefix and one letter more, under
every policy. Tasks do not
depend on each other and take their randomness from the seed and the word, so they may be spread over processes (`workers="4"`) or
over a Dask cluster (`workers="dask://host:port"`), and give the same findings anywhere.

1. First come, to be finished in any case: every word of length <= 2 from the `fresh` start under every policy.
2. Then, as long as there is time: words up to `depth` from all starts, the short ones first, in an order that the seed shuffles.
3. Then, for `WHOLE_SHARE` of the time, whole brokers and their clients (chaos/whole/run.py), and calls to the disk that fail.
4. Then the anti-vacuity conditions are checked (chaos/checks/vacuity.py): not met means "not enough evidence".

`bench` measures how many distinct states one processor recovers and judges in a second.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from chaos.checks import vacuity
from chaos.checks.history.case import Finding
from chaos.contract import unjudged
from chaos.disk import cluster, errors, workloads
from chaos.disk.driver import POLICIES, quietly
from chaos.disk.lab import ALWAYS_JUDGED, Failure, Lab, Limits, Tally
from chaos.plan import plan_of, save
from chaos.whole import run as whole

LAYER = "disk"
TASK_LETTERS = 4  # words of a task: some seconds of work
WORDS_SHARE, WHOLE_SHARE = 0.7, 0.15  # of the time; the rest is for calls that fail
PLANS_MAX = 10  # failures that are shrunk and written out
DASK_TASKS_MIN = 64  # handed to a cluster at a time: workers may join while it runs
_ONE_AT_A_TIME = threading.Lock()  # a Dask worker has several threads, which share the labs of its process


class Task(NamedTuple):
    start: str
    prefix: tuple[str, ...]
    letters: tuple[str, ...]  # each behind the prefix makes a word; none: only the starting itself
    seed: int
    bound: int
    nested_every: int


def run(report, seed: int, seconds: float, *, depth: int = 3, workers: str = "2", out: Path | None = None,
        progress: Callable[[str], None] = lambda text: None) -> dict[str, Tally]:
    """Explore for about `seconds`, and put everything into `report`. Returns the tally of each policy."""
    began = time.monotonic()
    tallies = {name: Tally() for name in POLICIES}
    must, may = plan_tasks(seed, depth)
    done = {"must": 0, "may": 0}
    with Pool(workers) as pool:
        for kind, tasks, until in (("must", must, None), ("may", may, began + seconds * WORDS_SHARE)):
            for by_policy in pool.map(tasks, until):
                for policy, tally in by_policy.items():
                    tallies[policy].add(tally)
                done[kind] += 1
                distinct = sum(len(each.digests) for each in tallies.values())
                progress(f"{done['must']}/{len(must)} + {done['may']}/{len(may)} word groups, {distinct} distinct states, "
                         f"{sum(len(each.failures) for each in tallies.values())} broken")
        whole.run(pool.map, report, seed, began + seconds * (WORDS_SHARE + WHOLE_SHARE), progress)
    for tally in tallies.values():
        tally.failures = first_of_each_kind(tally.failures)
    faults = errors.sweep(max(began + seconds, time.monotonic() + 10), progress)
    _report(report, tallies, faults, done, (len(must), len(may)), depth, time.monotonic() - began)
    failures = [failure for tally in tallies.values() for failure in tally.failures]
    _write_plans(report, failures, seed, out)
    return tallies


def plan_tasks(seed: int, depth: int, bound: int = 200, nested_every: int = 64) -> tuple[list[Task], list[Task]]:
    """(tasks that must be finished, tasks for the time that is left)."""
    must, may = [], []
    letters = tuple(workloads.ALPHABET)
    groups = [letters[place:place + TASK_LETTERS] for place in range(0, len(letters), TASK_LETTERS)]
    for start in workloads.STARTS:
        must.append(Task(start, (), (), seed, bound, nested_every))
        for length in range(depth):
            tasks = [Task(start, prefix, group, seed, bound, nested_every) for prefix in workloads.words(length) for group in groups]
            (must if start == "fresh" and length < 2 else may).extend(tasks)
    rng = random.Random(seed)
    order = {task: (len(task.prefix), rng.random()) for task in may}
    return must, sorted(may, key=order.__getitem__)


_LABS: dict[tuple, Lab] = {}


def perform(task: Task) -> dict[str, Tally]:
    """One task, in whatever process; a tally for each policy. Labs stay, so that recoveries made for one task serve the next."""
    with _ONE_AT_A_TIME, quietly():
        return {policy: _perform(task, policy) for policy in POLICIES}


def _perform(task: Task, policy: str) -> Tally:
    key = policy, task.seed, task.bound, task.nested_every
    lab = _LABS.get(key)
    if lab is None:
        lab = _LABS[key] = Lab(POLICIES[policy], task.seed, Limits(task.bound, task.nested_every))
    lab.begin()
    before = lab.recoverer.recoveries
    if not task.letters:
        lab.explore((), task.start)
    elif not task.prefix or lab.play(task.prefix, task.start)[0] is not None:
        for letter in task.letters:
            lab.explore((*task.prefix, letter), task.start)
    lab.tally.recoveries = lab.recoverer.recoveries - before
    return lab.tally


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

    def map(self, tasks: list, until: float | None, work: Callable = perform) -> Iterator[dict]:
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


def _report(report, tallies: dict[str, Tally], faults: list, done: dict, planned: tuple, depth: int, seconds: float) -> None:
    for name, tally in tallies.items():
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
    for tally in tallies.values():
        total.add(tally)
    report.figures.append({
        "layer": LAYER, "words": total.words, "crash points": total.points, "effects": total.effects,
        "states possible": f"{total.possible:.3g}", "tried": total.tried, "distinct": len(total.digests), "judged": total.judged, "nested": total.nested,
        "points not exhausted": total.not_exhaustive, "word groups": f"{done['must'] + done['may']} of {sum(planned)} (depth {depth})",
        "seconds": round(seconds)})
    runs, struck = sum(outcome.runs for outcome in faults), sum(outcome.struck for outcome in faults)
    report.figures.append({"fault sweeps": runs, "faults struck": struck})
    report.coverage += [{"site": site, "kind": kind, "deviation": deviation, "states": states}
                        for (site, kind, deviation), states in sorted(total.coverage.items())]
    report.unchecked = unjudged()


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


def bench(seconds: float = 10.0, seed: int = 1) -> dict[str, float]:
    """Distinct crash states recovered and judged per second on one processor, on words of length 2."""
    lab = Lab(POLICIES["P0"], seed, Limits(200, 64))
    began, cpu, recoveries = time.monotonic(), time.process_time(), lab.recoverer.recoveries
    with quietly():
        for word in workloads.words(2):
            lab.explore(word)
            if time.monotonic() - began > seconds:
                break
    spent = time.process_time() - cpu
    distinct = len(lab.tally.digests)
    return {"distinct states": distinct, "CPU seconds": round(spent, 2), "distinct states per second and core": round(distinct / spent),
            "recoveries per second and core": round((lab.recoverer.recoveries - recoveries) / spent)}
