"""What if a system call of the running broker fails? An error at the n-th fsync, write, open ... on the data directory, once, for a
moment, or for good, n = 1, 2, 3, until no call was met any more; half of a write; and a disk that is really full (fulldisk.py).

The story is that of chaos/process/scenario.py: its client asks again what was refused. Then the broker is stopped, if it still lives,
starts again on the real files, and is judged.

Verified:
1. After an fsync that failed nothing is acked that was asked for later and needs it, and the broker ends by itself (C1.13).
2. After a write that failed, for want of space or otherwise, and after a short one, the next batch gets the offset that was due, and the
   story comes to its end; or the directory is offline (C1.14). So it is for descriptors that run out, and for interrupted calls.
3. What scenario.py verifies, after the restart: a record that was refused is there once or not at all.
Not verified: errors below the system call (the device layer has those); errors in the middle of a recovery are met by the first calls.
"""

import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from chaos.checks.history.case import Finding
from chaos.process import fulldisk, scenario
from chaos.process.intercept import Fault, Interceptor
from chaos.process.sweep import POLICIES, Sweep, in_turn, judged
from chaos.report import Report
from chaos.targets import Process, TargetError
from refbroker.client import ClientError

LAYER = "process"
PATIENCE_S = 8.0  # longer than any fault that passes; one request at a time
NO_PATIENCE_S = 0.5  # with one that does not
FULL_DISKS = 6  # stories on a disk that is really full, under each policy
END_SECONDS_MAX = 10.0  # for a broker whose directory is offline to end by itself
SYNCS, WRITES = "fsync|fdatasync", "write|writev|pwrite"


class Kind(NamedTuple):
    """One kind of error: which calls, what they answer, how many of them in a row (None: all from then on)."""

    call: str
    action: str
    times: int | None = 1

    @property
    def fault(self) -> str:
        return "F3" if self.action == "EIO" else "F4"

    def __str__(self) -> str:
        return f"{self.action} at {self.call}" + ("" if self.times == 1 else f" x{self.times}" if self.times else " for good")


KINDS = (
    Kind("fsync", "EIO"), Kind("fsync", "EIO", None), Kind("fdatasync", "EIO"), Kind("fdatasync", "EIO", None),
    Kind(WRITES, "EIO"), Kind(WRITES, "ENOSPC"), Kind(WRITES, "ENOSPC", 6), Kind(WRITES, "ENOSPC", None), Kind(WRITES, "short"),
    Kind("open", "EMFILE"), Kind("open", "EMFILE", 5), Kind("accept", "EMFILE", 3), Kind("mkdir|rename|ftruncate|unlink", "ENOSPC"),
    Kind("rename", "EIO"), Kind("fsync|fdatasync|write|writev|open|accept", "EINTR"),
)


def run(report: Report, directory: Path, progress: Callable[[str], None], target: str = "refbroker", *, seconds: float | None = None,
        sample: int | None = None, seed: int = 0) -> None:
    """Every kind at every n; or `sample` of them, drawn by the seed. With `seconds`, every n = 1, 2, 4 ... for so long."""
    shutil.rmtree(directory, ignore_errors=True)
    sweep = Sweep(target, directory, progress, time.monotonic() + seconds if seconds else None)
    began, rng = time.monotonic(), random.Random(f"{seed}/errors")
    jobs = [(policy, kind) for kind in KINDS for policy in POLICIES]
    if sample is not None:
        counts = _calls_of_the_story(sweep)
        drawn = [(policy, kind, rng.randrange(1, 1 + sum(counts[call] for call in kind.call.split("|"))))
                 for policy, kind in rng.sample(jobs, min(sample, len(jobs)))]
        works = [_once(_one, sweep, *each) for each in drawn] + [_once(fulldisk.one, sweep, rng.choice(POLICIES), 0, seed)]
    else:
        works = [_sweep_one(sweep, *job) for job in jobs]
        works += [_once(fulldisk.one, sweep, policy, number, seed) for policy in POLICIES for number in range(FULL_DISKS)]
    try:
        in_turn(sweep, works)
    finally:
        _report(report, sweep, time.monotonic() - began)


def _once(work: Callable[..., Any], *arguments: Any) -> Iterator[None]:
    """A job of one step."""
    work(*arguments)
    yield


def _report(report: Report, sweep: Sweep, took_s: float) -> None:
    for policy in POLICIES:
        for fault in ("F3", "F4"):
            struck = {key[2]: count for key, count in sweep.kills.items() if key[:2] == (policy, fault)}
            if sum(struck.values()):
                findings = [each for each in sweep.findings[policy] if f"[{fault}]" in each.evidence]
                statements = sweep.judged[policy] | ({"C1.13"} if fault == "F3" else set()) | {"C1.14"}
                report.judge(LAYER, policy, fault, statements, findings, times=sum(struck.values()))
                report.figures.append({"layer": LAYER, "policy": policy, "fault": fault, "errors": sum(struck.values()), **struck})
    report.figures.append({"layer": LAYER, "fault": "F3 F4", "errors": sweep.kills.total(), "recoveries": sweep.recoveries.total(),
                           "seconds": round(took_s)})
    if not sweep.kills.total():
        report.not_enough.append("errors at system calls: none struck")
    report.not_run += sweep.excuses()


def _calls_of_the_story(sweep: Sweep) -> dict[str, int]:
    """How many calls of each name the story makes under the weakest policy: what a sample is drawn from."""
    place = sweep.directory / "counted"
    with Interceptor(str(place / "data"), []) as interceptor:
        target = sweep.make(place, POLICIES[0], interceptor.wrap)
        target.start()
        try:
            story = scenario.Story()
            story.tell(target)
            target.stop()
        finally:
            story.close()
            if target.pid:
                target.kill()
    shutil.rmtree(place, ignore_errors=True)
    return interceptor.counts


def _sweep_one(sweep: Sweep, policy: str, kind: Kind) -> Iterator[None]:
    sweep.kills[policy, kind.fault, str(kind)] += 0
    for number in sweep.numbers((policy, kind.fault, str(kind))):
        if not _one(sweep, policy, kind, number):
            return
        yield


def _one(sweep: Sweep, policy: str, kind: Kind, number: int) -> bool:
    """One story with one error in it; whether it struck."""
    place = sweep.directory / f"{policy}-{kind}-{number}".replace("|", "+").replace(" ", "-")
    story, fault = scenario.Story(PATIENCE_S if kind.times else NO_PATIENCE_S), Fault(kind.call, kind.action, number, kind.times)
    with Interceptor(str(place / "data"), [fault]) as interceptor:
        target = sweep.make(place, policy, interceptor.wrap)
        found = _lived_through(target, story, fault, kind)
    found += judged(sweep, place, policy, story, retry=True, fault=kind.fault)
    struck = bool(fault.struck)
    what = f"; {kind} number {number}: {', '.join(f'{s.call} {s.path}' for s in fault.struck[:3])} [{kind.fault}], see {place}"
    sweep.count((policy, kind.fault, str(kind)), struck, struck,
                [replace(finding, evidence=finding.evidence + what) for finding in found])
    if not found:
        shutil.rmtree(place, ignore_errors=True)
    return struck


def _lived_through(target: Process, story: scenario.Story, fault: Fault, kind: Kind) -> list[Finding]:
    """Start, tell, stop; what was wrong with how the broker took the error, before anybody looks at what is on the disk."""
    problem, process = None, None
    try:
        target.start()
        process = target.process
        story.tell(target)
    except (TargetError, ClientError, scenario.Refused) as error:
        problem = str(error)
    finally:
        story.close()
    if process is None:  # refused to start, which it may where its disk fails
        return [] if fault.struck else [Finding("C2.10", "does not start", "", -1, -1, problem)]
    told_of_failure = _ends(process) if problem is not None else process.poll() is not None
    found = []
    if kind.call in SYNCS.split("|") and kind.action == "EIO" and fault.struck:
        failed = fault.struck[0].time
        if target.policy.name == "messages=1":
            found += [Finding("C1.13", "acked after a failed fsync", send.topic, send.partition, send.offset, f"batch {send.number}",
                              acks=send.acks) for send in story.history.acked if send.invoked > failed]
        if not _ends(process):
            found.append(Finding("C1.13", "not offline", "", -1, -1, "an fsync failed, and the broker serves on"))
    if problem is not None and not told_of_failure and kind.times is not None:
        found.append(Finding("C1.14", "no service after the error has passed", "", -1, -1, problem))
    if problem is not None and not fault.struck:
        found.append(Finding("C2.10", "failed without a fault", "", -1, -1, problem))
    try:
        target.stop()
    except TargetError as error:
        found.append(Finding("C2.10", "does not stop", "", -1, -1, str(error)))
    return found


def _ends(process: subprocess.Popen) -> bool:
    """Whether it ends by itself: that is how a broker says that its only directory is offline."""
    try:
        process.wait(END_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        return False
    return True
