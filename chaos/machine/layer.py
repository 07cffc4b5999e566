"""Does the broker keep its contract when the whole machine loses power, under a kernel, a file system and a page cache that nobody of us wrote?

For each flush policy a machine is booted, real clients load the broker in it, and its power is cut at a moment that the seed draws. Its
disk is read the way the next boot would (journal first), a broker starts on what it holds, and the history is judged (F2).
In every other cut the guest's network loses and delays packets, too. Then, under fsync before ack:

- fsyncgate: for a moment the disk fails writes, so that an fsync fails and a later one would succeed; then the power goes (C1.13);
- teeth: the disk says yes to writes and forgets them. Nothing can keep a promise on it, so acked records must be missing: if the
  judges see no loss, the layer sees nothing, and the run has not enough evidence.

A boot takes about ten seconds, so this layer runs only when it is asked for.
"""

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from chaos.checks import history as checks
from chaos.checks.history.case import Case, Finding
from chaos.history import load
from chaos.machine.guest import Guest, extract, make_image, require
from chaos.process import observe
from chaos.process.rounds import FLUSH_WINDOW_SLACK_MS, GROUP, POLICIES, PROPERTIES, TOPICS, check_files
from chaos.process.timeline import Strike, timeline
from chaos.report import Report
from chaos.targets import make_target, policy_of

LAYER = "machine"
NETEM = "delay 3ms 2ms loss 1%"
CLIENTS = {
    "idem": {"kind": "librdkafka-producer", "acks": "all", "idempotent": True, "records_per_second": 120},
    "aio": {"kind": "aiokafka-producer", "acks": "all", "idempotent": False, "records_per_second": 60},
    "c1": {"kind": "librdkafka-consumer"},
}
ACK_SECONDS_MAX = 120  # a guest's processor is slow at system calls
LYING, FAILING = [[1.0, "drop_writes"]], [[1.0, "error_writes"], [1.6, "up"]]


def run(report: Report, seed: int, seconds: float, directory: Path, progress: Callable[[str], None], target: str = "refbroker") -> None:
    """Cuts for about `seconds`: at least one for each policy, and the two with a bad disk. Raises NotAvailable."""
    require()
    shutil.rmtree(directory, ignore_errors=True)
    rng, began, cuts = random.Random(f"{seed}/machine"), time.monotonic(), {name: 0 for name in POLICIES}
    lost: dict[str, int] = dict.fromkeys(POLICIES, 0)
    longest = 0.0
    while not all(cuts.values()) or time.monotonic() - began + 3 * longest < seconds:
        name = min(cuts, key=lambda each: (cuts[each], each))
        started = time.monotonic()
        netem = NETEM if sum(cuts.values()) % 2 else ""
        lost[name] += _cut(report, rng, name, directory / f"{name}-{cuts[name]}", target, progress, netem=netem)
        cuts[name] += 1
        longest = max(longest, time.monotonic() - started)
        progress(f"{sum(cuts.values())} power cuts of a whole machine, last under {name}")
    if not lost["none"]:
        report.not_enough.append("machine: page cache only lost nothing in a power cut: the fault did not bite (S2)")
    _cut(report, rng, "messages=1", directory / "fsyncgate", target, progress, disk=FAILING)
    _teeth(report, rng, directory / "lying", target, progress)


def _boot(rng: random.Random, policy: str, directory: Path, target: str, disk: list, netem: str, progress) -> Guest:
    directory.mkdir(parents=True)
    image = directory / "disk.img"
    make_image(image)
    spec = {"target": target, "policy": policy, "properties": PROPERTIES, "topics": TOPICS, "disk": disk, "netem": netem,
            "mount": "data=ordered",
            "clients": {name: {**client, "topics": list(TOPICS), "group": GROUP, "seed": rng.randrange(1 << 30), "value_bytes": 1500}
                        for name, client in CLIENTS.items()}}
    guest = Guest(image, directory, spec)
    guest.start()
    try:
        progress(f"{policy}: booting a machine with {target} in it")
        guest.wait_for(r"\bload\r?\n")
        deadline = time.monotonic() + ACK_SECONDS_MAX
        while not any(b'"acked"' in path.read_bytes() for path in guest.history.glob("*.jsonl")):
            if time.monotonic() > deadline:
                raise observe.NoAnswer(f"no client of the machine got a record acked within {ACK_SECONDS_MAX} s")
            time.sleep(0.05)
        if disk:
            guest.wait_for("waiting for the end")
    except BaseException:
        guest.cut_power()
        raise
    return guest


def _after_the_cut(guest: Guest, directory: Path, policy_name: str, target_name: str) -> tuple[Case, list[Finding]]:
    policy = POLICIES[policy_name]
    extract(guest.directory / "disk.img", directory / "files")
    target = make_target(target_name, str(directory / "files" / "broker"), policy=policy_of(policy_name), properties=PROPERTIES)
    history = load(str(guest.history))
    times = [send.completed or send.invoked for send in history.sends.values()] + [seen.time for seen in history.seen]
    case = Case(policy, "F2", max(times), history, {}, {}, offsets_durable=policy.kind == "P3",
                durable_end={(topic, number): 0 for topic, count in TOPICS.items() for number in range(count)},
                flush_window_ns=((policy.ms or 0) * 3 // 2 + FLUSH_WINDOW_SLACK_MS) * 1_000_000)
    target.start()
    try:
        case.log, case.log_end = observe.read_all(target.bootstrap, TOPICS)
        case.offsets = observe.committed_offsets(target.bootstrap, GROUP, TOPICS)
    finally:
        target.kill()
    findings = checks.check_all(case) + check_files(Path(target.data_directory), TOPICS, preallocated=target_name != "refbroker")
    return case, findings


def _cut(report: Report, rng: random.Random, policy: str, directory: Path, target: str, progress, *, disk=(), netem="") -> int:
    """One cut, judged. Returns how many acked records are gone."""
    guest = _boot(rng, policy, directory, target, list(disk), netem, progress)
    try:
        time.sleep(rng.uniform(0.3, 3.0))
    finally:
        guest.cut_power()
    case, findings = _after_the_cut(guest, directory, policy, target)
    lost = len(checks.lost.missing(case))
    fault = "F3" if disk else "F2"
    statements = checks.judged(case) | {"C2.2", "C2.3", "C5.1", "C5.2", "C5.3"} | ({"C1.13"} if disk else set())
    if disk:
        findings = [Finding(**{**vars(each), "statement": "C1.13"}) if each.statement == "C1.3" else each for each in findings]
    report.judge(LAYER, policy, fault, statements, findings)
    row = {"layer": LAYER, "policy": policy, "fault": fault, "sent": len(case.history.sends), "acked": len(case.history.acked),
           "lost": lost, "commits": len(case.history.commits), "seen": len(case.history.seen)}
    if netem:
        row["netem"] = netem
    if disk:
        said = (directory / "console.txt").read_text(errors="replace")
        row["broker"] = next((line.strip() for line in said.splitlines() if "broker ended" in line), "broker goes on").removeprefix("broker ")
    report.figures.append(row)
    report.timelines.append(timeline(LAYER, policy, fault, case.history, [Strike("power cut", case.struck)]))
    if not case.history.acked:
        report.not_enough.append(f"machine, {policy}: nothing was acked before the power cut")
    shutil.rmtree(directory / "files", ignore_errors=True)
    return lost


def _teeth(report: Report, rng: random.Random, directory: Path, target: str, progress) -> None:
    guest = _boot(rng, "messages=1", directory, target, LYING, "", progress)
    try:
        time.sleep(2.0)
    finally:
        guest.cut_power()
    case, findings = _after_the_cut(guest, directory, "messages=1", target)
    broken = sum(not finding.allowed for finding in findings)
    report.figures.append({"layer": LAYER, "teeth": "a disk that forgets writes", "acked": len(case.history.acked),
                           "lost": len(checks.lost.missing(case)), "violations seen": broken})
    if not broken:
        report.not_enough.append("machine: a disk that forgets writes broke nothing that the judges saw")
