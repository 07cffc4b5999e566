"""Does a broker that is killed under load keep what it must?

For each flush policy: real clients write, read and commit without pause; the broker gets SIGKILL at moments drawn from the
seed and starts again on the same port, or is stopped for longer than a session and goes on; after the last kill everything is read back and judged (F1).
"""

import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from chaos.checks import history as checks
from chaos.checks.history.case import Case, Finding, Policy
from chaos.checks.indexes import check_offset_index, check_time_index
from chaos.logfile import valid_prefix
from chaos.process import evidence, observe
from chaos.process.clients import java
from chaos.process.load import GROUP, LIBRARIES, SERVICE_SECONDS_MAX, TOPICS, Clients, cast, wait_for_acks
from chaos.process.timeline import Strike, timeline
from chaos.report import Report
from chaos.targets import Process, make_target, policy_of

LAYER = "process"
POLICIES = {
    "none": Policy("none"), "messages=10": Policy("messages=10", messages=10), "ms=200": Policy("ms=200", ms=200),
    "messages=1": Policy("messages=1", messages=1),
}
# Small segments and short rolls, so that a kill meets rolls, index files and snapshots at every stage.
PROPERTIES = {"log.segment.bytes": str(1 << 20), "log.roll.ms": "700", "log.index.interval.bytes": "512",
              "offsets.topic.num.partitions": "1", "group.initial.rebalance.delay.ms": "0",
              "group.min.session.timeout.ms": "500", "auto.create.topics.enable": "false"}
# P2: flush.ms, the flusher's period (half of it), one fsync, and the time that a reply may take on a busy machine.
FLUSH_WINDOW_SLACK_MS = 800
PAUSE_SECONDS = (1.8, 2.4)  # sessions of the members last 1.5 s
PAUSES_FROM_SECONDS = 8.0


def libraries(report: Report, target_name: str) -> tuple[str, ...]:
    """Those that can take part; why the Java client cannot is said once."""
    missing = java.why_not(fetch=target_name == "kafka")
    if missing and missing not in report.not_run:
        report.not_run.append(missing)
    return LIBRARIES if missing else (*LIBRARIES, "java")


def kill_rounds(policy_name: str, seconds: float, seed: int, directory: Path, report: Report,
                progress: Callable[[str], None], target_name: str = "refbroker") -> None:
    """Kill and restart for `seconds`, then judge. The findings and figures go into `report`."""
    rng, policy = random.Random(f"{seed}/{policy_name}/kill"), POLICIES[policy_name]
    shutil.rmtree(directory, ignore_errors=True)
    target = make_target(target_name, str(directory / "broker"), policy=policy_of(policy_name), properties=PROPERTIES)
    players = cast(seed, list(POLICIES).index(policy_name), libraries(report, target_name))
    target.start()
    clients = None
    findings: list[Finding] = []
    strikes: list[Strike] = []
    try:
        observe.create_topics(target.bootstrap, TOPICS, {})
        clients = Clients(directory / "history", target.bootstrap, seed, specs=players)
        wait_for_acks(clients)
        if seconds >= PAUSES_FROM_SECONDS or list(POLICIES)[seed % len(POLICIES)] == policy_name:  # in a short run, once over all policies
            time.sleep(rng.uniform(0.15, 0.5))
            pause(target, rng.uniform(*PAUSE_SECONDS), strikes)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(rng.uniform(0.15, 2.4))
            kill_and_restart(target, findings, strikes)
            progress(f"{policy_name}: {len(strikes)} faults")
        clients.stop()
        struck = time.monotonic_ns()
        kill_and_restart(target, findings, strikes)
        case = Case(policy, "F1", struck, clients.history(), {}, {}, outages=[(s.since, s.until) for s in strikes],
                    load=(clients.begun, clients.ended), service_bound_ns=int(SERVICE_SECONDS_MAX * 1e9), read_on_ns=clients.read_on_ns)
        findings += checks.check_all(observe_case(target.bootstrap, case))
        findings += _times_and_files(target, directory)
    finally:
        if clients:
            clients.kill()
        if target.pid:
            target.kill()
    judged = checks.judged(case)
    if observe.read_files(Path(target.data_directory), TOPICS):
        judged |= {(each, "any") for each in ("C2.2", "C2.4", "C5.1", "C5.2", "C5.3", "C5.4", "C5.5", "C2.12")}
    else:
        report.not_run.append(f"{policy_name}: rules about files: {target.data_directory} is no Kafka data directory")
    report.judge(LAYER, policy_name, "F1", judged, findings, times=len(strikes))
    kills = [strike.until - strike.since for strike in strikes if strike.what == "SIGKILL"]
    gap = checks.CHECKERS["unavailable"].longest_gap([send.completed for send in case.history.acked], [], case.load)[2] / 1e9
    figures_of(report, policy_name, "F1", case, {
        "kills": len(kills), "pauses": len(strikes) - len(kills), "slowest_restart_s": round(max(kills) / 1e9, 2), "longest_gap_s": round(gap, 2), "clients": clients.libraries()})
    report.timelines.append(timeline(LAYER, policy_name, "F1", case.history, strikes))
    evidence.keep(report, directory, LAYER, target, case, findings)
    report.not_enough += [f"{policy_name}: {line}" for line in clients.deserters()]
    if not case.history.acked:
        report.not_enough.append(f"{policy_name}: nothing was acked")


def pause(target: Process, seconds: float, strikes: list[Strike]) -> None:
    """SIGSTOP, and SIGCONT after `seconds`: sessions have run out by then, and connections are still there."""
    since = time.monotonic_ns()
    target.signal(signal.SIGSTOP)
    time.sleep(seconds)
    target.signal(signal.SIGCONT)
    strikes.append(Strike("SIGSTOP", since, time.monotonic_ns()))


def kill_and_restart(target: Process, findings: list[Finding], strikes: list[Strike]) -> None:
    """SIGKILL, look at the files, start; what was the longest valid prefix must still be there. The files as the kill left them are
    kept beside the target's directory: those of the last kill, and of one after which something was dropped."""
    killed = time.monotonic_ns()
    target.kill()
    data_dir = Path(target.data_directory)
    crashed = evidence.crashed_copy(target)
    before = {where: valid_prefix(segments) for where, segments in observe.read_files(data_dir, TOPICS).items()}
    target.start()
    strikes.append(Strike("SIGKILL", killed, time.monotonic_ns()))
    after = observe.read_files(data_dir, TOPICS)
    dropped = []
    for where, batches in before.items():
        kept = valid_prefix(after.get(where, []))
        for number, batch in enumerate(batches):
            if number >= len(kept) or kept[number].data != batch.data:
                dropped.append(Finding("C2.4", "over-truncation", *where, batch.base_offset,
                                       f"whole in the file after kill {len(strikes)}; recovery kept {len(kept)} of {len(batches)} batches"))
                break
    if dropped:
        kept_as = crashed.rename(crashed.with_name(f"crashed-{len(strikes)}"))
        findings += [replace(each, evidence=f"{each.evidence}; the files before it: {kept_as}") for each in dropped]


def observe_case(bootstrap: str, case: Case) -> Case:
    case.log, case.log_end = observe.read_all(bootstrap, TOPICS)
    case.offsets = observe.committed_offsets(bootstrap, GROUP, TOPICS)
    return case


def _times_and_files(target: Process, directory: Path) -> list[Finding]:
    """The files against each other, and lookups by time against the log: with the indexes, and with all of them deleted. The target is
    dead afterwards."""
    findings = check_files(Path(target.data_directory), TOPICS, preallocated=target.name != "refbroker")
    segments = observe.read_files(Path(target.data_directory), TOPICS)
    records = {where: [r for s in parts for b in s.batches for r in b.records] for where, parts in segments.items()}
    wanted = {where: _some_times([timestamp for _, timestamp, _ in found]) for where, found in records.items() if found}
    answers = observe.offsets_for_times(target.bootstrap, wanted)
    for (topic, number, timestamp), answer in answers.items():
        expected = next((offset for offset, t, _ in records[topic, number] if t >= timestamp), -1)
        if answer not in (expected, records[topic, number][-1][0] + 1 if expected == -1 else expected):
            findings.append(Finding("C5.4", "lookup by time", topic, number, answer, f"time {timestamp}: expected {expected}"))
    target.kill()
    bare = directory / "bare"
    shutil.copytree(directory / "broker", bare)
    for path in (bare / "data").rglob("*"):
        if path.suffix in (".index", ".timeindex", ".txnindex", ".snapshot"):
            path.unlink()
    other = make_target(target.origin or target.name, str(bare), policy=target.policy, properties=PROPERTIES)
    other.start()
    try:
        if (again := observe.offsets_for_times(other.bootstrap, wanted)) != answers:
            changed = next(key for key in answers if again.get(key) != answers[key])
            findings.append(Finding("C5.5", "lookup by time", *changed[:2], answers[changed],
                                    f"time {changed[2]}: {again.get(changed)} with the indexes deleted"))
        log, ends = observe.read_all(other.bootstrap, TOPICS)
        for where, found in records.items():
            if [r.offset for r in log[where]] != [offset for offset, _, _ in found]:
                findings.append(Finding("C2.12", "derived files", *where, ends[where], "another log without its derived files"))
    finally:
        other.kill()
    return findings


def _some_times(timestamps: list[int]) -> list[int]:
    low, high = min(timestamps), max(timestamps)
    return [low - 1, low, high, high + 1, *(low + (high - low) * part // 12 for part in range(1, 12))]


def check_files(data_dir: Path, topics: dict[str, int], *, preallocated: bool = False) -> list[Finding]:
    """Holes, torn tails and indexes of every partition of these topics."""
    findings = []
    for (topic, number), segments in observe.read_files(data_dir, topics).items():
        end = None
        for segment in segments:
            if segment.problem:
                findings.append(Finding("C2.3", "torn tail kept", topic, number, segment.end_offset, segment.problem))
            if end is not None and segment.base_offset != end:
                findings.append(Finding("C2.2", "hole", topic, number, end, f"{segment.path.name} follows offset {end}"))
            if segment.first_offset != segment.base_offset:
                findings.append(Finding("C2.2", "hole", topic, number, segment.base_offset, f"{segment.path.name} begins with {segment.first_offset}"))
            end = segment.end_offset
            for suffix, check in ((".index", check_offset_index), (".timeindex", check_time_index)):
                path = segment.path.with_suffix(suffix)
                data = path.read_bytes() if path.exists() else b""
                findings += [Finding(statement, "index", topic, number, segment.base_offset, f"{path.name}: {text}")
                             for statement, text in check(data, segment, preallocated=preallocated)]
    return findings


def figures_of(report: Report, policy: str, fault: str, case: Case, more: dict) -> None:
    history = case.history
    survived = len(history.acked) - len(checks.lost.missing(case))
    report.figures.append({"layer": LAYER, "policy": policy, "fault": fault, "sent": len(history.sends),
                           "acked": len(history.acked), "survived": survived, "commits": len(history.commits),
                           "seen": len(history.seen), **more})
