"""What would power cuts at the end of one recorded life of the broker have left, and is it what the policy allows?

`Recorded` runs refbroker with every disk effect recorded (recording.py). After its end, `PowerCuts.judge` puts the directory back as a
power cut may have left it, starts a broker there, reads it and judges the history of the clients by it.
"""

import random
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from chaos.checks import history as checks
from chaos.checks import returned
from chaos.checks.history.case import Case, Finding, Policy
from chaos.history import History
from chaos.logfile import valid_prefix
from chaos.process import evidence, observe, rounds
from chaos.process.load import TOPICS, Clients, cast, wait_for_acks
from chaos.process.recording import Recording
from chaos.process.timeline import Strike, timeline
from chaos.report import Report
from chaos.targets import Refbroker, policy_of

KEEP = (0.0, 0.5, 0.9)  # the chance that an unsynced effect reached the disk, cut by cut


class Recorded(Refbroker):
    """refbroker with a recording disk."""

    def __init__(self, *args, record: Path, **kwargs):
        super().__init__(*args, **kwargs)
        self.record = record

    def command(self) -> list[str]:
        serve = super().command()[3:]
        return [sys.executable, "-m", "chaos.process.broker", str(self.record), *serve]


class PowerCuts:
    """The cuts of one recorded life; `case` is the last one that was judged."""

    def __init__(self, target: Recorded, policy: Policy, fault: str, history: History, struck: int, directory: Path):
        self.policy, self.fault, self.history, self.struck, self.directory = policy, fault, history, struck, directory
        self.findings: list[Finding] = []
        self.judged: set[tuple[str, str]] = set()
        self.lost = self.count = 0
        self.case: Case
        self.recording = Recording(str(target.record), target.data_directory)
        self.recording.cut(directory / "durable" / "data", random.Random(0), keep=0.0)
        files = observe.read_files(directory / "durable" / "data", TOPICS)
        ends = {where: (batches := valid_prefix(segments)) and batches[-1].last_offset + 1 or 0 for where, segments in files.items()}
        self._durable = {(topic, n): ends.get((topic, n), 0) for topic, count in TOPICS.items() for n in range(count)}

    def judge(self, report: Report, layer: str, rng: random.Random) -> None:
        """One more cut, drawn from `rng`."""
        place = self.directory / f"cut{self.count}"
        taken = self.recording.cut(place / "crashed", rng, KEEP[self.count % len(KEEP)])
        self.case = case = Case(
            self.policy, self.fault, self.struck, self.history, {}, {}, durable_end=dict(self._durable),
            offsets_durable=self.policy.kind == "P3",
            flush_window_ns=((self.policy.ms or 0) * 3 // 2 + rounds.FLUSH_WINDOW_SLACK_MS) * 1_000_000)
        target = Refbroker(str(place / "broker"), policy=policy_of(self.policy.name), properties=rounds.PROPERTIES)
        shutil.copytree(place / "crashed", target.data_directory)
        found = returned.check_small_files(Path(target.data_directory))
        whole, unread = returned.started_and_read(target, lambda: rounds.observe_case(target.bootstrap, case))
        found += unread + rounds.check_files(Path(target.data_directory), TOPICS) + (checks.check_all(case) if whole else [])
        found = [replace(finding, evidence=f"{finding.evidence} [{len(taken)} effects taken; {place}]") for finding in found]
        evidence.keep(report, place, layer, target, case, found, ["what the power cut took:", *taken])
        self.findings += found
        self.judged |= checks.judged(case) | {(each, "any") for each in ("C2.2", "C5.1", "C5.2", "C5.3", *returned.STATEMENTS)}
        self.lost += len(checks.lost.missing(case)) if whole else 0
        self.count += 1

    def figures(self) -> dict[str, Any]:
        return {"cuts": self.count, "effects": self.recording.effects, "unsynced_bytes": self.recording.unsynced_bytes,
                "unsynced_entries": self.recording.unsynced_entries, "lost_over_all_cuts": self.lost}


def power_rounds(policy_name: str, seconds: float, cuts: int, seed: int, directory: Path, report: Report,
                 progress: Callable[[str], None]) -> None:
    """One load of `seconds` under a recording disk, a kill, and `cuts` power cuts of what was recorded, each judged (F2)."""
    rng, policy = random.Random(f"{seed}/{policy_name}/power"), rounds.POLICIES[policy_name]
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    target = Recorded(str(directory / "broker"), policy=policy_of(policy_name), properties=rounds.PROPERTIES, record=directory / "record")
    players = cast(seed, list(rounds.POLICIES).index(policy_name) + 1, rounds.libraries(report, "refbroker"))
    target.start()
    clients = None
    try:
        observe.create_topics(target.bootstrap, TOPICS, {})
        clients = Clients(directory / "history", target.bootstrap, seed, specs=players)
        wait_for_acks(clients)
        time.sleep(seconds + rng.random())
        struck = time.monotonic_ns()
        target.kill()
    finally:
        if clients:
            clients.kill()
        if target.pid:
            target.kill()
    power = PowerCuts(target, policy, "F2", clients.history(), struck, directory)
    while power.count < cuts:
        power.judge(report, rounds.LAYER, rng)
        progress(f"{policy_name}: power cut {power.count} of {cuts}")
    report.judge(rounds.LAYER, policy_name, "F2", power.judged, power.findings, times=cuts)
    rounds.figures_of(report, policy_name, "F2", power.case, {**power.figures(), "clients": clients.libraries()})
    report.timelines.append(timeline(rounds.LAYER, policy_name, "F2", power.history, [Strike("power cut", struck)]))
    if not power.history.acked:
        report.not_enough.append(f"{policy_name}: nothing was acked before the power cut")
    if policy.kind == "P0" and not power.lost:
        report.not_enough.append("page cache only lost nothing in a power cut: the fault did not bite (S2)")
