"""What if the process dies at exactly this system call? SIGKILL at the n-th write, fsync, rename ..., n = 1, 2, 3, until a run
ends without a kill.

strace injects the signal when the call is entered, so the call itself does not happen. The client is a plain socket and one
request at a time, so that every run makes the same calls; an idempotent producer retries its last batch after the restart.

Verified after every kill: acked records are there (C1.2), the retried one exactly once (C6.4), nothing invented (C2.1), no hole
and no torn tail (C2.2, C2.3), indexes agree (C5), acked commits are there (C8.2), a deleted topic stays deleted (C9.5), the
broker is back within a bound. Not verified: two threads killed in the middle of two calls at once.
"""

import itertools
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from confluent_kafka import KafkaException

from chaos.bench import raw
from chaos.checks import history as checks
from chaos.checks.history.case import Case, Finding, Policy
from chaos.history import Commit, History, Send, value_of
from chaos.process import observe, rounds
from chaos.report import Report
from chaos.targets import Refbroker, TargetError, policy_of
from refbroker.apis import k08_offset_commit, k20_delete_topics, k22_init_producer_id
from refbroker.log.records import Record, build

LAYER = "process"
CALLS = ("writev", "fsync", "fdatasync", "rename", "unlink", "ftruncate", "mkdir", "sendfile", "write")
TOPICS = {"swept": 2}
GROUP = "sweep-group"
PROPERTIES = {**rounds.PROPERTIES, "log.roll.ms": "40", "auto.create.topics.enable": "false"}
BATCHES = 14
RUNS_MAX = 400  # per call and scenario: a sweep that has not ended by then is reported as not ended


class Told:
    """What one run asked for and was told, as a history."""

    def __init__(self):
        self.history = History()
        self.under_way: tuple[int, bytes] | None = None  # (partition, frame) of the batch without an answer
        self.deleted = False

    def send(self, number: int, partition: int) -> Send:
        send = Send("sweep", number, "swept", "all", True, time.monotonic_ns())
        self.history.sends["sweep", number] = send
        return send

    def acked(self, send: Send, partition: int, offset: int) -> None:
        send.outcome, send.partition, send.offset, send.completed = "acked", partition, offset, time.monotonic_ns()


def _load(target: Refbroker, told: Told) -> None:
    """Topics, idempotent batches, commits, a deleted topic. Raises ConnectionError, OSError where the broker dies."""
    connection = raw.Connection(target.bootstrap)
    connection.socket.settimeout(10)
    observe.create_topics(target.bootstrap, {**TOPICS, "doomed": 1}, {})
    producer_id, epoch = _init_producer(connection)
    sequences = [0, 0]
    for number in range(BATCHES):
        partition = number % 2
        send = told.send(number, partition)
        records = build([Record(0, int(time.time() * 1000), None, value_of("sweep", number, 700))],
                        producer_id=producer_id, producer_epoch=epoch, base_sequence=sequences[partition])
        frame = _produce_frame(partition, records)
        told.under_way = (partition, frame)
        offset = raw.check_produced(connection.call(frame))
        told.acked(send, partition, offset)
        told.under_way = None
        sequences[partition] += 1
        if number % 4 == 3:
            _commit(connection, told, partition, offset + 1)
        if number == BATCHES // 2:
            _delete_topic(connection, told)
        raw.check_fetched(connection.call(raw.fetch_frame("swept", 0, 1 << 20)))
        time.sleep(0.01)
    connection.close()


def _produce_frame(partition: int, records: bytes) -> bytes:
    return raw.k00_produce.API.request_frame(raw.PRODUCE_VERSION, 1, "sweep", {
        "transactional_id": None, "acks": -1, "timeout_ms": 10_000,
        "topic_data": [{"name": "swept", "partition_data": [{"index": partition, "records": records}]}]})


def _init_producer(connection: raw.Connection) -> tuple[int, int]:
    frame = k22_init_producer_id.API.request_frame(4, 1, "sweep", {
        "transactional_id": None, "transaction_timeout_ms": 1000, "producer_id": -1, "producer_epoch": -1})
    _, answer = k22_init_producer_id.API.read_response(4, connection.call(frame))
    return answer["producer_id"], answer["producer_epoch"]


def _commit(connection: raw.Connection, told: Told, partition: int, offset: int) -> None:
    commit = Commit("sweep", GROUP, "swept", partition, offset, time.monotonic_ns())
    told.history.commits.append(commit)
    frame = k08_offset_commit.API.request_frame(8, 1, "sweep", {
        "group_id": GROUP, "generation_id_or_member_epoch": -1, "member_id": "", "group_instance_id": None, "topics": [
            {"name": "swept", "partitions": [{"partition_index": partition, "committed_offset": offset,
                                              "committed_leader_epoch": -1, "committed_metadata": ""}]}]})
    _, answer = k08_offset_commit.API.read_response(8, connection.call(frame))
    if answer["topics"][0]["partitions"][0]["error_code"] == 0:
        commit.outcome, commit.completed = "acked", time.monotonic_ns()


def _delete_topic(connection: raw.Connection, told: Told) -> None:
    frame = k20_delete_topics.API.request_frame(5, 1, "sweep", {"topic_names": ["doomed"], "timeout_ms": 10_000})
    _, answer = k20_delete_topics.API.read_response(5, connection.call(frame))
    told.deleted = answer["responses"][0]["error_code"] == 0


def _strace(call: str, number: int) -> tuple[str, ...]:
    return ("strace", "-f", "-qqq", "-o", "/dev/null", "-e", f"trace={call}",
            "-e", f"inject={call}:signal=SIGKILL:when={number}")


def sweep(report: Report, policy_name: str, directory: Path, progress: Callable[[str], None], *, deadline: float,
          calls: tuple[str, ...] = CALLS) -> bool:
    """Sweep every call over start, load and clean stop, and over a recovery; False where the deadline cut it short."""
    policy, findings, figures, ended = rounds.POLICIES[policy_name], [], {}, True
    dirty = _dirty_directory(directory / "dirty", policy_name)
    kills = 0
    for call, scenario in itertools.product(calls, ("load", "recovery")):
        for number in _until_no_kill(deadline):
            place = directory / f"{scenario}-{call}-{number}"
            killed, found = _one(place, policy, call, number, dirty if scenario == "recovery" else None)
            findings += found
            kills += killed
            progress(f"{policy_name}: {scenario}, {call} {number}, {kills} kills")
            if not found:
                shutil.rmtree(place)
            if not killed:
                figures[f"{scenario}.{call}"] = number - 1
                break
        else:
            ended = False
            figures[f"{scenario}.{call}"] = "not ended"
    judged = {"C1.2", "C2.1", "C2.2", "C2.3", "C2.10", "C5.1", "C5.2", "C5.3", "C6.4", "C8.2", "C9.5"}
    report.judge(LAYER, policy_name, "F1", judged if kills else (), findings, times=max(1, kills))
    report.figures.append({"layer": LAYER, "policy": policy_name, "fault": "F1 swept", "kills": kills, **figures})
    if not kills:
        report.not_enough.append(f"{policy_name}: the sweep over system calls killed nothing")
    return ended


def _until_no_kill(deadline: float) -> Iterator[int]:
    for number in range(1, RUNS_MAX + 1):
        if time.monotonic() > deadline:
            return
        yield number


def _dirty_directory(place: Path, policy_name: str) -> tuple[Path, Told]:
    """A directory that a killed broker left, and what its client was told."""
    shutil.rmtree(place, ignore_errors=True)
    target, told = Refbroker(str(place), policy=policy_of(policy_name), properties=PROPERTIES), Told()
    target.start()
    try:
        _load(target, told)
    finally:
        target.kill()
    return place, told


def _one(place: Path, policy: Policy, call: str, number: int, dirty: tuple[Path, Told] | None) -> tuple[bool, list[Finding]]:
    """One run with one kill, or none; then a plain restart and the judgement."""
    shutil.rmtree(place, ignore_errors=True)
    if dirty:
        shutil.copytree(dirty[0], place)
    told = dirty[1] if dirty else Told()
    swept = Refbroker(str(place), policy=policy_of(policy.name), properties=PROPERTIES, wrap=_strace(call, number))
    killed = _run(swept, None if dirty else told)
    plain = Refbroker(str(place), policy=policy_of(policy.name), properties=PROPERTIES)
    plain.start()
    try:
        return killed, _judge(plain, policy, told, bool(dirty))
    finally:
        plain.kill()


def _run(swept: Refbroker, told: Told | None) -> bool:
    """Start, load (where `told` is given) and stop; whether the process was killed on the way."""
    try:
        swept.start()
    except TargetError:
        return True  # start() has seen it end; a broker that cannot start shows itself in the plain restart
    process = swept.process
    try:
        if told:
            _load(swept, told)
    except (OSError, KafkaException):
        process.wait(5)  # the client may see the end of the connection first; a broker that lives on is a failure
    swept.stop()
    return process.returncode != 0


def _judge(target: Refbroker, policy: Policy, told: Told, reused: bool) -> list[Finding]:
    findings = []
    exists = observe.topic_exists(target.bootstrap, "swept")
    if told.under_way and exists and not reused:
        partition, frame = told.under_way
        connection = raw.Connection(target.bootstrap)
        number = max(number for _, number in told.history.sends)
        told.acked(told.history.sends["sweep", number], partition, raw.check_produced(connection.call(frame)))
        connection.close()
    if told.deleted and observe.topic_exists(target.bootstrap, "doomed"):
        findings.append(Finding("C9.5", "resurrected", "doomed", 0, -1, "the deletion was acked, and the topic is back"))
    if not exists:
        if told.history.acked:
            findings.append(Finding("C1.2", "lost acked record", "swept", 0, 0, "the whole topic is gone"))
        return findings
    case = Case(policy, "F1", time.monotonic_ns(), told.history, {}, {})
    case.log, case.log_end = observe.read_all(target.bootstrap, TOPICS)
    case.offsets = observe.committed_offsets(target.bootstrap, GROUP, TOPICS)
    skip = {"unseen"}  # the sweep's commits say nothing about what was read
    return findings + [f for f in checks.check_all(case) if f.anomaly not in skip] + rounds.check_files(Path(target.data_directory), TOPICS)
