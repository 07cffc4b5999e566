"""What if the process dies at exactly this system call? SIGKILL at the n-th write, fsync, rename ... on the data directory, n = 1, 2,
3, until a run ends without a kill.

The signal comes when the call is entered, so the call itself does not happen (chaos/process/intercept.py). Three scenarios, each for
every kind of call, under the weakest and the strongest policy:

- `load`: start, a story of one client (chaos/process/scenario.py: topics, batches, rolls, flushes, commits, deletions), clean stop.
- `recovery`: the directory of a broker that was killed after that story; start and clean stop.
- `again`: the same directory; killed at the first call of its recovery, then at the second of the next, then at the third ... until a
  recovery lives to its end: every recovery has to cope with what the killed ones before left.

After each kill (in `again` after the last) the broker starts from the real files, and client history and files are judged. A broker
that takes seconds to start (any but ours) is killed at a few kinds of calls, at n = 1, 2, 4, 8 ... within the time given, and that is said.

Verified: what scenario.py verifies, after each kill, and that the broker starts again (C2.10). Not verified: kills within one call.
"""

import itertools
import shutil
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from chaos.checks.history.case import Finding
from chaos.process import rounds, scenario
from chaos.process.intercept import Fault, Interceptor
from chaos.report import Report
from chaos.targets import Process, TargetError, make_target, policy_of
from refbroker.client import ClientError

LAYER = "process"
FAULT = "F1 swept"
# From the longest sweep to the shortest, so that two workers end together.
CALLS = ("open", "writev", "fdatasync", "fsync", "sendfile", "rename", "ftruncate", "mkdir", "unlink", "write", "pwrite")
SLOW_CALLS = ("rename", "fsync", "write", "ftruncate")  # where a start takes seconds
POLICIES = ("none", "messages=1")
WORKERS = 2
KILLED_EXIT_SECONDS_MAX = 5.0


@dataclass
class Sweep:
    """What all its workers need and count."""

    target: str
    directory: Path
    progress: Callable[[str], None]
    deadline: float | None
    kills: Counter = field(default_factory=Counter)  # (policy, scenario, call)
    recoveries: Counter = field(default_factory=Counter)  # (policy, scenario)
    cut_short: set[tuple[str, str, str]] = field(default_factory=set)
    judged: dict[str, set] = field(default_factory=lambda: {policy: set() for policy in POLICIES})
    findings: dict[str, list[Finding]] = field(default_factory=lambda: {policy: [] for policy in POLICIES})
    lock: threading.Lock = field(default_factory=threading.Lock)
    stopping: bool = False

    def numbers(self, key: tuple[str, str, str]) -> Iterator[int]:
        """n = 1, 2, 3 ... until the caller leaves; with a deadline 1, 2, 4 ..."""
        number = 1
        while True:
            if self.stopping or (self.deadline is not None and time.monotonic() > self.deadline):
                self.cut_short.add(key)
                return
            yield number
            number = number + 1 if self.deadline is None else number * 2

    def count(self, key: tuple[str, str, str], killed: bool, recovered: bool, found: list[Finding]) -> None:
        policy, kind, call = key
        with self.lock:
            self.kills[key] += killed
            self.recoveries[policy, kind] += recovered
            self.findings[policy] += found
            self.progress(f"{policy}, {kind}: {call} {self.kills[key]}; {self.kills.total()} kills, {self.recoveries.total()} recoveries")

    def excuses(self) -> list[str]:
        """What was not swept, and why, in a line."""
        if not self.cut_short:
            return []
        left = "; ".join(f"{' '.join(where)}: " + ", ".join(f"{call} after {self.kills[*where, call]}" for *its, call in sorted(self.cut_short)
                                                            if tuple(its) == where)
                         for where in sorted({key[:2] for key in self.cut_short}))
        why = f"only n = 1, 2, 4, 8 ..., for {self.target} starts slowly" if self.deadline is not None else "interrupted"
        return [f"sweep over system calls: {why}; not ended: {left}"]

    def make(self, place: Path, policy: str, wrap: tuple[str, ...] = ()) -> Process:
        return make_target(self.target, str(place), policy=policy_of(policy), properties=scenario.PROPERTIES, wrap=wrap)


def run(report: Report, seconds: float | None, directory: Path, progress: Callable[[str], None], target: str = "refbroker",
        calls: tuple[str, ...] | None = None, kinds: tuple[str, ...] = ("load", "recovery", "again")) -> None:
    """Sweep to the end, or, where `seconds` are given, for so long with n doubled each time."""
    shutil.rmtree(directory, ignore_errors=True)
    sweep = Sweep(target, directory, progress, time.monotonic() + seconds if seconds else None)
    began = time.monotonic()
    dirty = {policy: _dirty_directory(sweep, policy) for policy in POLICIES}
    calls = calls or (SLOW_CALLS if seconds else CALLS)
    jobs = [(policy, kind, call) for call, kind, policy in itertools.product(calls, kinds, POLICIES) if kind != "again"]
    jobs = [(policy, "again", "any") for policy in POLICIES if "again" in kinds] + jobs
    try:
        in_turn(sweep, [_sweep_one(sweep, key, dirty[key[0]]) for key in jobs])
    finally:
        _report(report, sweep, time.monotonic() - began)


def in_turn(sweep: Sweep, jobs: list[Iterator[None]]) -> None:
    """Take the jobs to their ends, one step of each in turn, so that a sweep that is cut short has got somewhere everywhere."""
    todo = deque(jobs)

    def work() -> None:
        while todo:
            try:
                job = todo.popleft()
            except IndexError:  # another worker has the last ones
                return
            if next(job, "ended") != "ended":
                todo.append(job)

    pool = ThreadPoolExecutor(WORKERS)
    try:
        for future in [pool.submit(work) for _ in range(WORKERS)]:
            future.result()
    finally:
        sweep.stopping = True
        pool.shutdown(cancel_futures=True)


def _report(report: Report, sweep: Sweep, took_s: float) -> None:
    for policy in POLICIES:
        kills = sum(count for key, count in sweep.kills.items() if key[0] == policy)
        report.judge(LAYER, policy, FAULT, sweep.judged[policy], sweep.findings[policy], times=max(1, kills))
        for kind in dict.fromkeys(key[1] for key in sweep.kills if key[0] == policy):
            calls = {key[2]: count for key, count in sorted(sweep.kills.items()) if key[:2] == (policy, kind)}
            report.figures.append({"layer": LAYER, "policy": policy, "fault": FAULT, "scenario": kind, "kills": sum(calls.values()),
                                   "recoveries": sweep.recoveries[policy, kind], **calls})
        if not kills:
            report.not_enough.append(f"{policy}: the sweep over system calls killed nothing")
    report.figures.append({"layer": LAYER, "fault": FAULT, "kills": sweep.kills.total(), "recoveries": sweep.recoveries.total(),
                           "seconds": round(took_s)})
    report.not_run += sweep.excuses()


def _dirty_directory(sweep: Sweep, policy: str) -> tuple[Path, scenario.Story]:
    """A directory that a killed broker left, and what its client was told."""
    place, story = sweep.directory / f"{policy}-dirty", scenario.Story()
    target = sweep.make(place, policy)
    target.start()
    try:
        story.tell(target)
    finally:
        story.close()
        target.kill()
    return place, story


def _sweep_one(sweep: Sweep, key: tuple[str, str, str], dirty: tuple[Path, scenario.Story]) -> Iterator[None]:
    """One step for each kill."""
    policy, kind, call = key
    place = sweep.directory / "-".join(key)
    sweep.kills[key] += 0  # a call that never comes is a row of the result, too
    if kind == "again":
        yield from _again(sweep, key, place, dirty)
        return
    for number in sweep.numbers(key):
        shutil.rmtree(place, ignore_errors=True)
        if kind == "recovery":
            shutil.copytree(dirty[0], place)
        story = dirty[1] if kind == "recovery" else scenario.Story()
        killed, found = _killed_at(sweep, place, policy, Fault(call, "kill", number), story if kind == "load" else None)
        found += judged(sweep, place, policy, story, retry=kind == "load") if killed or kind == "load" else []
        found = [replace(finding, evidence=f"{finding.evidence}; killed at {call} {number} in {kind}, see {place}") for finding in found]
        sweep.count(key, killed, killed, found)
        if found:  # the evidence stays
            place = place.with_name(f"{place.name}-next")
        if not killed:
            break
        yield
    shutil.rmtree(place, ignore_errors=True)


def _again(sweep: Sweep, key: tuple[str, str, str], place: Path, dirty: tuple[Path, scenario.Story]) -> Iterator[None]:
    policy, kind, call = key
    shutil.copytree(dirty[0], place)
    for number in sweep.numbers(key):
        killed, found = _killed_at(sweep, place, policy, Fault(call, "kill", number), None)
        sweep.count(key, killed, killed, found)
        if not killed or found:
            break
        yield
    found = judged(sweep, place, policy, dirty[1], retry=False)
    what = f"; killed in recovery {sweep.kills[key]} times, see {place}"
    sweep.count(key, False, False, [replace(finding, evidence=finding.evidence + what) for finding in found])


def _killed_at(sweep: Sweep, place: Path, policy: str, fault: Fault, story: scenario.Story | None) -> tuple[bool, list[Finding]]:
    """Start, tell the story (if there is one), stop; whether the fault struck on the way, and what went wrong without it."""
    calls = CALLS if fault.call == "any" else (fault.call,)  # what nobody asks for goes at full speed
    with Interceptor(str(place / "data"), [fault], calls) as interceptor:
        target = sweep.make(place, policy, interceptor.wrap)
        problem = ""
        try:
            target.start()
            if story:
                story.tell(target)
        except (TargetError, ClientError, scenario.Refused) as error:
            problem = str(error)
        process = target.process
        if process is not None:
            if fault.struck:
                process.wait(KILLED_EXIT_SECONDS_MAX)
            target.stop()
            if process.returncode not in target.clean_exits:
                problem = problem or f"a clean stop ended with {process.returncode}: {target.tail(3)}"
        if story:
            story.close()
    if fault.struck:
        return True, []
    return False, [Finding("C1.1", "failed without a fault", "", -1, -1, problem)] if problem else []


def judged(sweep: Sweep, place: Path, policy: str, story: scenario.Story, *, retry: bool, fault: str = "F1") -> list[Finding]:
    """Start a broker on what the fault left in `place`, without faults, and judge it."""
    plain = sweep.make(place, policy)
    before = scenario.whole_batches(plain.data_directory) if Path(plain.data_directory).exists() else {}
    try:
        plain.start()
    except TargetError as error:
        return [Finding("C2.10", "does not start again", "", -1, -1, str(error))]
    try:
        found = scenario.judge(plain, story, rounds.POLICIES[policy], before, retry=retry, fault=fault)
        sweep.judged[policy] |= story.judged
        return found
    except ClientError as error:
        return [Finding("C2.10", "does not serve again", "", -1, -1, str(error))]
    finally:
        plain.kill()
