"""What if the wall clock jumps while the broker runs (F7), by an hour or by days, forwards and backwards? By libfaketime (Debian's package
faketime), which tells only the broker; its monotonic clock goes on as it is.

Before each jump a batch is acked, and behind it another, on a topic whose records get the broker's time.

Verified: flush.ms goes on, so that what was acked before a jump is synced within the window of the policy (C1.5); a member of a group
whose heartbeats come stays a member and is handed the next record (C1.16); after a SIGKILL acked records are there (C1.2), files and
indexes agree (C5.1, C5.2, C5.3), and a lookup by time finds the earliest offset although timestamps went back (C5.4).
Not verified: retention. A jump forward makes records old, and they are deleted, as in Apache Kafka: age is told by the wall clock alone.
"""

import random
import shutil
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from confluent_kafka import Consumer

from chaos.checks import history as checks
from chaos.checks.history.case import Case, Finding
from chaos.process import observe, rounds, scenario
from chaos.process.intercept import Fault, Interceptor
from chaos.report import Report
from chaos.targets import NotAvailable, Refbroker, policy_of

FLUSH_MS = 200
FAULT, POLICY = "F7", f"ms={FLUSH_MS}"
TOPICS = {"clocked": 1}
WHERE = ("clocked", 0)
HOUR_S = 3600
JUMPS_S = (HOUR_S, -HOUR_S, 24 * HOUR_S, -48 * HOUR_S, 30 * 24 * HOUR_S, -30 * 24 * HOUR_S, 2, -2)
JUMPS = 6
SERVICE_SECONDS_MAX = 10.0
SYNC_SECONDS_MAX = (FLUSH_MS * 3 // 2 + rounds.FLUSH_WINDOW_SLACK_MS) / 1000
LIBRARIES = ("/usr/lib", "/usr/local/lib", "/usr/lib64")
STATEMENTS = {"C1.5", "C1.16", "C5.1", "C5.2", "C5.3", "C5.4"}


def library() -> str:
    """The path of libfaketime for programs with threads. Raises NotAvailable."""
    for place in LIBRARIES:
        for path in sorted(Path(place).glob("**/faketime/libfaketimeMT.so.1")):
            return str(path)
    raise NotAvailable("jumps of the wall clock: libfaketime missing (Debian package faketime)")


class Clocked(Refbroker):
    """refbroker with a wall clock that we move."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._library = library()
        self.offset_s = 0
        self._rc = Path(self.directory) / "faketime.rc"
        self.jump(0)

    def jump(self, seconds: int) -> None:
        """From now on the broker's wall clock is that much further on, or back."""
        self.offset_s += seconds
        fresh = self._rc.with_suffix(".new")
        fresh.write_text(f"{self.offset_s:+d}\n")
        fresh.rename(self._rc)

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "LD_PRELOAD": self._library, "FAKETIME_TIMESTAMP_FILE": str(self._rc), "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


class Member:
    """A consumer in a group, which notes when it loses its partitions."""

    def __init__(self, bootstrap: str):
        self.revoked = 0
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "clocked", "auto.offset.reset": "earliest", "log_level": 0,
                                   "session.timeout.ms": 6_000, "heartbeat.interval.ms": 300, "enable.auto.commit": False})
        self._consumer.subscribe(list(TOPICS), on_revoke=self._note)

    def _note(self, *_) -> None:
        self.revoked += 1

    def reads(self, offset: int) -> bool:
        """Whether the record at `offset` is handed to it within the bound."""
        deadline = time.monotonic() + SERVICE_SECONDS_MAX
        while time.monotonic() < deadline:
            message = self._consumer.poll(0.1)
            if message is not None and message.error() is None and message.offset() >= offset:
                return True
        return False

    def close(self) -> None:
        self._consumer.close()


def run(report: Report, seed: int, directory: Path, progress: Callable[[str], None]) -> None:
    """Raises NotAvailable."""
    library()
    shutil.rmtree(directory, ignore_errors=True)
    rng, story, findings, in_time = random.Random(f"{seed}/clocks"), scenario.Story(), [], 0
    synced = Fault("fdatasync", "EIO", nth=1 << 60, path="clocked-0/*.log")  # it never strikes: it counts
    with Interceptor(str(directory / "broker" / "data"), [synced], ("fdatasync",)) as interceptor:
        target = Clocked(str(directory / "broker"), policy=policy_of(POLICY), properties=rounds.PROPERTIES, wrap=interceptor.wrap)
        target.start()
        member = None
        try:
            observe.create_topics(target.bootstrap, TOPICS, {"message.timestamp.type": "LogAppendTime"})
            story.attach(target)
            member = Member(target.bootstrap)
            for number in range(JUMPS):
                found, looked = _one_jump(target, story, member, synced, rng.choice(JUMPS_S), number)
                findings += found
                in_time += looked
                progress(f"{number + 1} jumps of the wall clock, now {target.offset_s / HOUR_S:+.0f} h")
            struck = time.monotonic_ns()
            target.kill()
        finally:
            story.close()
            if member:
                member.close()
            if target.pid:
                target.kill()
    case = Case(rounds.POLICIES[POLICY], FAULT, struck, story.history, {}, {})
    went_back, found = _judge(target, case)
    findings += found
    if not went_back:
        report.not_enough.append("jumps of the wall clock: no timestamp went back, so the fault did not bite")
    if not in_time:
        report.not_enough.append("jumps of the wall clock: the machine was so busy that no flush could be looked for behind any of them")
    report.judge("process", POLICY, FAULT, STATEMENTS | checks.judged(case), findings, times=JUMPS)
    report.figures.append({"layer": "process", "policy": POLICY, "fault": FAULT, "jumps": JUMPS, "acked": len(story.history.acked),
                           "survived": len(story.history.acked) - len(checks.lost.missing(case))})


def _one_jump(target: Clocked, story: scenario.Story, member: Member, synced: Fault, seconds: int, number: int) -> tuple[list[Finding], bool]:
    """What is wrong, and whether the flush behind the jump could be looked for."""
    began = time.monotonic()
    story.produce(2 * number, WHERE)
    before = synced.matched
    target.jump(seconds)
    what, findings = f"after a jump by {seconds} s", []
    # On a machine so busy that flush.ms went by until now, the sync may have been before we looked, and none is due any more.
    due = time.monotonic() - began < FLUSH_MS / 1000
    deadline = time.monotonic() + SYNC_SECONDS_MAX
    while due and synced.matched == before:
        if time.monotonic() > deadline:
            findings.append(Finding("C1.5", "not flushed", *WHERE, 2 * number, f"{what}: no fdatasync within {SYNC_SECONDS_MAX:.1f} s"))
            break
        time.sleep(0.005)
    offset = story.produce(2 * number + 1, WHERE)
    if not member.reads(offset):
        findings.append(Finding("C1.16", "unavailable", *WHERE, offset, f"{what}: the member of a group was handed nothing"))
    if member.revoked:
        findings.append(Finding("C1.16", "expelled", *WHERE, offset, f"{what}: the member lost its partitions though its heartbeats came"))
        member.revoked = 0
    return findings, due


def _judge(target: Clocked, case: Case) -> tuple[int, list[Finding]]:
    """How often a timestamp is older than the one before it, and what is wrong."""
    plain = Refbroker(target.directory, policy=target.policy, properties=rounds.PROPERTIES)
    plain.start()
    try:
        case.log, case.log_end = observe.read_all(plain.bootstrap, TOPICS)
        segments = observe.read_files(Path(plain.data_directory), TOPICS)[WHERE]
        stamps = [(offset, timestamp) for segment in segments for batch in segment.batches for offset, timestamp, _ in batch.records]
        wanted = sorted({timestamp + delta for _, timestamp in stamps for delta in (-1, 0, 1)})
        answers = observe.offsets_for_times(plain.bootstrap, {WHERE: wanted})
    finally:
        plain.kill()
    findings = checks.check_all(case) + rounds.check_files(Path(plain.data_directory), TOPICS)
    for (topic, number, timestamp), answer in answers.items():
        expected = next((offset for offset, stamp in stamps if stamp >= timestamp), -1)
        if answer not in (expected, len(stamps) if expected == -1 else expected):
            findings.append(Finding("C5.4", "lookup by time", topic, number, answer, f"time {timestamp}: expected {expected}"))
    return sum(after < before for (_, before), (_, after) in pairwise(stamps)), findings
