"""Does a broker that is killed under load keep what it must?

For each flush policy: real clients write, read and commit without pause; the broker gets SIGKILL at moments drawn from the
seed and starts again on the same port; after the last kill everything is read back and judged (F1). Then, with every disk
effect recorded, the broker is killed once more under load, and the directory is put back as power cuts may have left it (F2):
each cut is started, read and judged.
"""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from chaos.checks import history as checks
from chaos.checks.history.case import Case, Finding, Policy
from chaos.checks.indexes import check_offset_index, check_time_index
from chaos.history import History, load
from chaos.logfile import valid_prefix
from chaos.process import observe
from chaos.process.recording import Recording
from chaos.process.timeline import Strike, timeline
from chaos.report import Report
from chaos.targets import Process, Refbroker, make_target, policy_of

LAYER = "process"
TOPICS = {"orders": 2, "events": 1}
GROUP = "chaos-group"
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
CLIENT_STOP_SECONDS_MAX = 40
CLIENTS = (
    {"kind": "librdkafka-producer", "name": "idem", "acks": "all", "idempotent": True, "records_per_second": 220},
    {"kind": "librdkafka-producer", "name": "gzip", "acks": "1", "idempotent": False, "records_per_second": 80, "codec": "gzip"},
    {"kind": "aiokafka-producer", "name": "aio", "acks": "all", "idempotent": True, "records_per_second": 90},
    {"kind": "aiokafka-producer", "name": "zero", "acks": "0", "idempotent": False, "records_per_second": 20},
    {"kind": "librdkafka-consumer", "name": "c1"},
    {"kind": "aiokafka-consumer", "name": "c2"},
)


class Recorded(Refbroker):
    """refbroker with a recording disk."""

    def __init__(self, *args, record: Path, **kwargs):
        super().__init__(*args, **kwargs)
        self.record = record

    def command(self) -> list[str]:
        serve = super().command()[3:]
        return [sys.executable, "-m", "chaos.process.broker", str(self.record), *serve]


class Clients:
    """The client processes of one run, and their histories."""

    def __init__(self, directory: Path, bootstrap: str, seed: int, *, topics: Iterable[str] = TOPICS, specs: Iterable[dict] = CLIENTS):
        self.directory = directory
        directory.mkdir(parents=True)
        self.processes = []
        for number, spec in enumerate(specs):
            spec = {"bootstrap": bootstrap, "history": str(directory), "topics": list(topics), "group": GROUP,
                    "seed": seed + number, "value_bytes": 1500, **spec}
            errors = (directory / f"{spec['name']}.err").open("wb")
            self.processes.append(subprocess.Popen(
                [sys.executable, "-m", "chaos.process.client", json.dumps(spec)], stdin=subprocess.DEVNULL,
                stdout=errors, stderr=errors))
            errors.close()

    def stop(self) -> None:
        """Ask all to finish what is under way and leave."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + CLIENT_STOP_SECONDS_MAX
        for process in self.processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()

    def history(self) -> History:
        return load(str(self.directory))

    def acked_any(self) -> bool:
        return any(b'"acked"' in path.read_bytes() for path in self.directory.glob("*.jsonl"))


def wait_for_acks(clients: Clients, seconds_max: float = 30) -> None:
    deadline = time.monotonic() + seconds_max
    while not clients.acked_any():
        if time.monotonic() > deadline:
            raise observe.NoAnswer(f"no client got a single record acked within {seconds_max:.0f} s")
        time.sleep(0.05)


def kill_rounds(policy_name: str, seconds: float, seed: int, directory: Path, report: Report,
                progress: Callable[[str], None], target_name: str = "refbroker") -> None:
    """Kill and restart for `seconds`, then judge. The findings and figures go into `report`."""
    rng, policy = random.Random(f"{seed}/{policy_name}/kill"), POLICIES[policy_name]
    shutil.rmtree(directory, ignore_errors=True)
    target = make_target(target_name, str(directory / "broker"), policy=policy_of(policy_name), properties=PROPERTIES)
    target.start()
    clients = None
    findings: list[Finding] = []
    strikes: list[Strike] = []
    kills, slowest = 0, 0.0
    try:
        observe.create_topics(target.bootstrap, TOPICS, {})
        clients = Clients(directory / "history", target.bootstrap, seed)
        wait_for_acks(clients)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(rng.uniform(0.15, 2.4))
            slowest = max(slowest, _kill_and_restart(target, findings, strikes))
            kills += 1
            progress(f"{policy_name}: {kills} kills")
        clients.stop()
        struck = time.monotonic_ns()
        slowest = max(slowest, _kill_and_restart(target, findings, strikes))
        kills += 1
        case = _observe(target.bootstrap, Case(policy, "F1", struck, clients.history(), {}, {}))
        findings += checks.check_all(case)
        findings += _times_and_files(target, directory)
        target.stop()
    finally:
        if clients:
            clients.kill()
        if target.pid:
            target.kill()
    judged = checks.judged(case) | {"C2.2", "C2.4", "C5.1", "C5.2", "C5.3", "C5.4", "C5.5", "C2.12"}
    report.judge(LAYER, policy_name, "F1", judged, findings, times=kills)
    _figures(report, policy_name, "F1", case, {"kills": kills, "slowest_restart_s": round(slowest, 2)})
    report.timelines.append(timeline(LAYER, policy_name, "F1", case.history, strikes))
    if not case.history.acked:
        report.not_enough.append(f"{policy_name}: nothing was acked")


def _kill_and_restart(target: Process, findings: list[Finding], strikes: list[Strike]) -> float:
    """SIGKILL, look at the files, start; what was the longest valid prefix must still be there. Seconds to the restart."""
    killed = time.monotonic_ns()
    target.kill()
    data_dir = Path(target.data_directory)
    before = {where: valid_prefix(segments) for where, segments in observe.read_files(data_dir, TOPICS).items()}
    began = time.monotonic()
    target.start()
    took = time.monotonic() - began
    strikes.append(Strike("SIGKILL", killed, time.monotonic_ns()))
    after = observe.read_files(data_dir, TOPICS)
    for where, batches in before.items():
        kept = valid_prefix(after.get(where, []))
        for number, batch in enumerate(batches):
            if number >= len(kept) or kept[number].data != batch.data:
                findings.append(Finding("C2.4", "over-truncation", *where, batch.base_offset,
                                        f"the batch was whole in the file after the kill; recovery kept {len(kept)} of {len(batches)}"))
                break
    return took


def _observe(bootstrap: str, case: Case) -> Case:
    case.log, case.log_end = observe.read_all(bootstrap, TOPICS)
    case.offsets = observe.committed_offsets(bootstrap, GROUP, TOPICS)
    return case


def _times_and_files(target: Process, directory: Path) -> list[Finding]:
    """The files against each other, and lookups by time against the log: with the indexes, and with all of them deleted."""
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
    other = make_target(target.name, str(bare), policy=target.policy, properties=PROPERTIES)
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
    target.start()
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
            end = segment.end_offset
            for suffix, check in ((".index", check_offset_index), (".timeindex", check_time_index)):
                path = segment.path.with_suffix(suffix)
                data = path.read_bytes() if path.exists() else b""
                findings += [Finding(statement, "index", topic, number, segment.base_offset, f"{path.name}: {text}")
                             for statement, text in check(data, segment, preallocated=preallocated)]
    return findings


def power_rounds(policy_name: str, seconds: float, cuts: int, seed: int, directory: Path, report: Report,
                 progress: Callable[[str], None]) -> None:
    """One load of `seconds` under a recording disk, a kill, and `cuts` power cuts of what was recorded, each judged."""
    rng, policy = random.Random(f"{seed}/{policy_name}/power"), POLICIES[policy_name]
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    target = Recorded(str(directory / "broker"), policy=policy_of(policy_name), properties=PROPERTIES, record=directory / "record")
    target.start()
    clients = None
    try:
        observe.create_topics(target.bootstrap, TOPICS, {})
        clients = Clients(directory / "history", target.bootstrap, seed)
        wait_for_acks(clients)
        time.sleep(seconds + rng.random())
        struck = time.monotonic_ns()
        target.kill()
    finally:
        if clients:
            clients.kill()
        if target.pid:
            target.kill()
    recording, history = Recording(str(target.record), target.data_directory), clients.history()
    lost_total, findings, judged = 0, [], set()
    recording.cut(directory / "durable" / "data", rng, keep=0.0)
    durable = {where: (batches := valid_prefix(segments)) and batches[-1].last_offset + 1 or 0
               for where, segments in observe.read_files(directory / "durable" / "data", TOPICS).items()}
    for number in range(cuts):
        keep = (0.0, 0.5, 0.9)[number % 3]
        place = directory / f"cut{number}"
        taken = recording.cut(place / "data", rng, keep)
        case = Case(policy, "F2", struck, history, {}, {}, durable_end={w: durable.get(w, 0) for w in _partitions()},
                    offsets_durable=policy.kind == "P3",
                    flush_window_ns=((policy.ms or 0) * 3 // 2 + FLUSH_WINDOW_SLACK_MS) * 1_000_000)
        lost_total += _judge_cut(place, case, findings, taken)
        judged |= checks.judged(case) | {"C2.2", "C5.1", "C5.2", "C5.3"}
        progress(f"{policy_name}: power cut {number + 1} of {cuts}")
    report.judge(LAYER, policy_name, "F2", judged, findings, times=cuts)
    _figures(report, policy_name, "F2", case, {
        "cuts": cuts, "effects": recording.effects, "unsynced_bytes": recording.unsynced_bytes,
        "unsynced_entries": recording.unsynced_entries, "lost_over_all_cuts": lost_total})
    report.timelines.append(timeline(LAYER, policy_name, "F2", history, [Strike("power cut", struck)]))
    if not history.acked:
        report.not_enough.append(f"{policy_name}: nothing was acked before the power cut")
    if policy.kind == "P0" and not lost_total:
        report.not_enough.append("page cache only lost nothing in a power cut: the fault did not bite (S2)")


def _partitions() -> list[tuple[str, int]]:
    return [(topic, number) for topic, count in TOPICS.items() for number in range(count)]


def _judge_cut(place: Path, case: Case, findings: list[Finding], taken: list[str]) -> int:
    """Start a broker on what the power cut left, read and judge it; returns how many acked records are gone."""
    target = Refbroker(str(place), policy=policy_of(case.policy.name), properties=PROPERTIES)
    target.start()
    try:
        _observe(target.bootstrap, case)
    finally:
        target.kill()
    evidence = f" [{len(taken)} effects taken; {place}]"
    for finding in [*checks.check_all(case), *check_files(Path(target.data_directory), TOPICS)]:
        findings.append(Finding(**{**vars(finding), "evidence": finding.evidence + evidence}))
    return len(checks.lost.missing(case))


def _figures(report: Report, policy: str, fault: str, case: Case, more: dict) -> None:
    history = case.history
    survived = len(history.acked) - len(checks.lost.missing(case))
    report.figures.append({"layer": LAYER, "policy": policy, "fault": fault, "sent": len(history.sends),
                           "acked": len(history.acked), "survived": survived, "commits": len(history.commits),
                           "seen": len(history.seen), **more})
