"""How does the lab drive a log? One broker's data directory on a simulated disk, operation by operation, with a ledger.

The driver does what the broker does around the log: it answers an append when `flush_to` is durable, runs the flushes that
flush.ms and rolled segments ask for, writes checkpoints, stops and starts. Everything that a client would see goes into
the `Ledger`. An operation is a value (a dict with "op"), a workload a list of them, both are JSON.

1. Time stands still but for the operations: each takes 10 ms, some skip ahead. Ids come from a counter. So a workload makes
   the same write list on every machine.
2. An operation that makes no sense here (delete a topic that is not there) returns False: the enumeration leaves out such
   workloads, since a shorter one is the same.
3. Invariants of the live log are checked after each operation (C4.1, C6.3, C1.14): `complaints`.
"""

import logging
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from chaos.checks import visible
from chaos.disk import bytes as make
from chaos.disk.ledger import Append, Cut, Ledger, PartitionLedger, Policy
from chaos.disk.model import SimDisk
from refbroker.config import Config
from refbroker.errors import ErrorCode, KafkaError
from refbroker.log.directory import LogDirectory

ROOT = "/data"
START_MS = 1_700_000_000_000
STEP_MS = 10
DAY_MS = 86_400_000
SEGMENT_BYTES = 400  # five small batches
FLUSH_MS = 1000
PRODUCER_ID = 7
RETRIED_MAX = 5  # as many as a producer may have in flight
OLDER_MS = 500  # so far back are the clocks of some clients

POLICIES = {policy.name: policy for policy in (
    Policy("P0"), Policy("P1", messages=3), Policy("P2", ms=FLUSH_MS, window_ms=FLUSH_MS + FLUSH_MS // 2), Policy("P3", messages=1))}



@contextmanager
def quietly() -> Iterator[None]:
    """What recovery warns of is the lab's daily bread."""
    logger = logging.getLogger("refbroker")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def config_of(policy: Policy) -> Config:
    """The broker's configuration: small segments, dense indexes, the policy."""
    values: dict[str, object] = {
        "log.segment.bytes": SEGMENT_BYTES, "log.index.interval.bytes": 100, "log.retention.ms": 3 * DAY_MS,
        "log.segment.delete.delay.ms": 60_000, "producer.id.expiration.ms": 2**31 - 1,
    }
    if policy.messages:
        values["log.flush.interval.messages"] = policy.messages
    if policy.ms:
        values["log.flush.interval.ms"] = policy.ms
    return Config(values)


class Driver:
    """A log directory under one policy. `disk` may hold an earlier image; a new one gets topic a with two partitions."""

    def __init__(self, policy: Policy, disk: SimDisk | None = None, ledger: Ledger | None = None):
        self.policy = policy
        self.config = config_of(policy)
        self.disk = disk or SimDisk({ROOT: None})
        self.ledger = ledger or Ledger(policy)
        self.now_ms = START_MS
        self.counter = 0
        self.op_ends: list[int] = []  # time in events at the end of each operation
        self.complaints: list[tuple[str, str]] = []
        self.refused: list[str] = []  # answers other than success
        self.sequences: dict[tuple[str, int], int] = {}
        self.unanswered: dict[tuple[str, int], tuple[bytes, Append | None]] = {}
        self.sent: list[tuple[tuple[str, int], bytes, Append]] = []  # the last idempotent batches that were acked
        self.starts: list[int] = []  # when processes began
        self.to_flush: list = []  # partitions that rolled, with the offset
        self.logs: LogDirectory | None = None

    def restarted_since(self, at: int) -> bool:
        """Whether another process took over after `at` events: it knows nothing of this one's errors."""
        return any(start >= at for start in self.starts)

    @property
    def at(self) -> int:
        return len(self.disk.events)

    # ------------------------------------------------------------ life

    def start(self) -> None:
        """Open the directory; on an empty disk also make the topic that all workloads use."""
        self.starts.append(self.at)
        fresh = not self.disk.exists(f"{ROOT}/meta.properties")
        self.logs = LogDirectory(self.disk, ROOT, self.config, lambda: self.now_ms, new_uuid=self.new_uuid)
        self.logs.on_roll = lambda partition: self.to_flush.append((partition, partition.log_end_offset))
        self.logs.open()
        self.to_flush.clear()
        if fresh:
            self._create("a", (0, 1))
        self._resolve()
        self._tick()

    def _resolve(self) -> None:
        """Truncations that failed half way: the log that came up says what became of them."""
        for entry in self.ledger.partitions:
            log = self.logs.partitions.get(entry.key)
            for step in entry.steps if log is not None and log.topic_id == entry.topic_id else ():
                if isinstance(step, Cut) and step.kind == "truncate" and step.done is None and step.undone is None:
                    if log.log_end_offset > step.offset:
                        step.undone = self.at
                    else:
                        step.done = self.at

    def new_uuid(self) -> uuid.UUID:
        self.counter += 1
        return uuid.UUID(int=(0x4000 << 64) | (0x8 << 60) | self.counter)

    def run(self, workload: list[dict]) -> bool:
        """All operations in order; False if one of them makes no sense."""
        return all(self.do(operation) for operation in workload)

    def do(self, operation: dict) -> bool:
        """One operation; False if it makes no sense here."""
        arguments = {key: value for key, value in operation.items() if key != "op"}
        perform: Callable = getattr(self, f"op_{operation['op']}")
        try:
            sensible = perform(**arguments)
        except KafkaError as error:
            self.refused.append(f"{operation['op']}: {error}")
            sensible = True
        self._tick()
        self._check_live()
        return sensible is not False

    def _tick(self) -> None:
        self.now_ms += STEP_MS
        self.op_ends.append(self.at)
        self.ledger.clock.append((self.at, self.now_ms))

    def partition_ledger(self, topic: str, number: int) -> PartitionLedger | None:
        """The ledger of the partition of that name that exists now."""
        log = self.logs.partitions.get((topic, number))
        return next((entry for entry in reversed(self.ledger.partitions)
                     if log is not None and entry.key == (topic, number) and entry.topic_id == log.topic_id), None)

    # ------------------------------------------------------------ appends

    def op_append(self, topic: str = "a", partition: int = 0, records: int = 1, gzip: bool = False, bytes: int = 0) -> bool | None:
        return self._produce(topic, partition, self._batch(records, gzip, bytes))

    def op_fill(self, topic: str = "a", partition: int = 0) -> bool | None:
        """A batch that fills the active segment to the last byte."""
        log = self.logs.partitions.get((topic, partition))
        if log is None or log.offline:
            return False
        room = SEGMENT_BYTES - log.active.size
        return self._produce(topic, partition, self._batch(1, False, room if room >= 100 else 0))

    def op_both(self) -> bool | None:
        """Two partitions in one request, and another request for the first of them: all are appended, then the flushes are
        waited for, one of which serves two appends, then all are acked."""
        answers = [self._append("a", number, self._batch(1)) for number in (0, 1, 0)]
        for answer in answers:
            self._acknowledge(*answer)
        return None

    def op_idempotent(self, topic: str = "a", partition: int = 0, records: int = 1) -> bool | None:
        key = topic, partition
        if key not in self.logs.partitions:
            return False
        sequence = self.sequences.get(key, 0)
        if key not in self.unanswered:  # else the same batch once more: a producer never gives a sequence to other records
            self.unanswered[key] = self._batch(records, producer=(PRODUCER_ID, 0, sequence)), None
        data, before = self.unanswered[key]
        log, step, answer = self._append(topic, partition, data, before)
        self.unanswered[key] = data, step
        self._acknowledge(log, step, answer)
        del self.unanswered[key]
        self.sequences[key] = sequence + int.from_bytes(data[57:61], "big")
        self.sent = [*self.sent, (key, data, step)][-RETRIED_MAX:]
        return None

    def op_retry(self) -> bool | None:
        """The replies to the last idempotent batches were lost; the client sends them again, the oldest first."""
        return any([self._retry(*sent) for sent in self.sent]) or False

    def _retry(self, key: tuple[str, int], data: bytes, step: Append) -> bool:
        log, ledger = self.logs.partitions.get(key), self.partition_ledger(*key)
        if ledger is None or step not in ledger.steps or any(isinstance(cut, Cut) for cut in ledger.steps[ledger.steps.index(step):]):
            return False
        end = log.log_end_offset
        try:
            answer = log.append(bytearray(data), self.now_ms)
        except KafkaError as error:
            if error.code != ErrorCode.KAFKA_STORAGE_ERROR:
                self.complaints.append(("C6.4", f"retry of {key} at {step.base_offset} was refused: {error}"))
            raise
        if not answer.duplicate or (answer.base_offset, log.log_end_offset) != (step.base_offset, end):
            self.complaints.append(("C6.4", f"retry of {key} at {step.base_offset}: {answer}, log end {end} -> {log.log_end_offset}"))
        self._wait(log, answer)
        return True

    def _batch(self, records: int = 1, gzip: bool = False, size: int = 0, producer: tuple[int, int, int] | None = None) -> bytes:
        self.counter += 1
        if size:
            return make.sized(size, self.now_ms)
        timestamp = self.now_ms - (OLDER_MS if gzip else 0)
        return make.batch([b"value-%04d-%d" % (self.counter, record) for record in range(records)], timestamp,
                          producer=producer, gzip=gzip)

    def _produce(self, topic: str, partition: int, data: bytes) -> bool | None:
        if (topic, partition) not in self.logs.partitions:
            return False
        self._acknowledge(*self._append(topic, partition, data))
        return None

    def _append(self, topic: str, number: int, data: bytes, before: Append | None = None):
        """Send a batch; `before` is what the ledger says of an earlier attempt to send the same one."""
        log = self.logs.partitions[topic, number]
        ledger = self.partition_ledger(topic, number)
        base, count = log.log_end_offset, int.from_bytes(data[57:61], "big")
        step = Append(self.at, base, base + count - 1, make.placed(data, base, log.leader_epoch))
        ledger.steps.append(step)
        try:
            answer = log.append(bytearray(data), self.now_ms)
        except KafkaError:
            step.failed = True
            if log.log_end_offset != base:
                self.complaints.append(("C1.14", f"a failed append moved the log end from {base} to {log.log_end_offset}"))
            if self.at == step.began:
                ledger.steps.remove(step)  # it did not get as far as the disk
            raise
        if answer.duplicate and before is not None and answer.base_offset == before.base_offset:
            ledger.steps.remove(step)  # the first attempt was not in vain
            before.failed = False
            return log, before, answer
        if answer.base_offset != base or answer.duplicate:
            self.complaints.append(("C2.8", f"append at {base} of {topic}-{number} was told {answer}"))
        return log, step, answer

    def _acknowledge(self, log, step: Append, answer) -> Append:
        if answer.flush_to is not None and log.recovery_point <= step.base_offset and self.policy.messages == 1:
            self.complaints += [(problem.statement, problem.text) for problem in visible.check(log, step.base_offset)]
        self._wait(log, answer)
        step.acked, step.acked_ms = self.at, self.now_ms
        return step

    def _wait(self, log, answer) -> None:
        """What `Flusher.durable` does."""
        if answer.flush_to is not None and log.recovery_point < answer.flush_to:
            log.flush()
            if log.offline is not None:
                raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, log.offline)
            assert log.recovery_point >= answer.flush_to, (log.recovery_point, answer)

    # ------------------------------------------------------------ flushes

    def op_roll(self, topic: str = "a", partition: int = 0) -> bool | None:
        return self.logs.partitions[topic, partition].roll(self.now_ms)

    def op_flush(self, topic: str = "a", partition: int = 0) -> bool | None:
        before = self.at
        self.logs.partitions[topic, partition].flush()
        return None if self.at > before else False

    def op_background(self) -> bool | None:
        """The flush of rolled segments that the broker does by itself (C1.6)."""
        if not self.to_flush:
            return False
        pending, self.to_flush = self.to_flush, []
        for partition, offset in pending:
            if partition.offline is None:
                partition.flush(offset)
        return None

    def op_wait(self) -> bool | None:
        """Time passes until flush.ms and the flusher's period are over."""
        if not self.policy.ms:
            return False
        self._pass(self.policy.window_ms + 1)
        return None

    def _pass(self, ms: int) -> None:
        """Time passes, and flush.ms is heeded meanwhile."""
        later = self.now_ms + ms
        for partition in list(self.logs.partitions.values()):
            due = partition.flush_due_ms()
            if due is not None and due <= later:
                partition.flush()
        self.now_ms = later

    def op_overlap(self, then: str = "append", topic: str = "a", partition: int = 0) -> bool | None:
        """A flush and a checkpoint run on other threads while the log is appended to, or cut and appended to (C3.6, C3.1): the
        fsyncs are over before the append, their results come after it."""
        log = self.logs.partitions[topic, partition]
        job = log.begin_flush()
        if job is None:
            return False
        write_checkpoint = self.logs.begin_checkpoint()
        if then == "truncate" and self.op_truncate(batches=2) is False and self.op_truncate() is False:
            return False
        job.run()
        answer = self._append(topic, partition, self._batch(1))
        log.finish_flush(job)
        write_checkpoint()
        self._acknowledge(*answer)
        return None

    # ------------------------------------------------------------ shorter logs

    def op_truncate(self, topic: str = "a", partition: int = 0, batches: int = 1) -> bool | None:
        """Drop the last batches."""
        log = self.logs.partitions[topic, partition]
        ledger = self.partition_ledger(topic, partition)
        last, end = None, log.log_end_offset
        for _ in range(batches):
            last = next((step for step in reversed(ledger.steps) if isinstance(step, Append) and not step.failed
                         and step.last_offset == end - 1), None)
            if last is None or last.base_offset < log.log_start_offset:
                return False
            end = last.base_offset
        cut = Cut(self.at, "truncate", last.base_offset)
        ledger.steps.append(cut)
        log.truncate(last.base_offset)
        cut.done = self.at
        return None

    def op_delete_records(self, topic: str = "a", partition: int = 0) -> bool | None:
        log = self.logs.partitions[topic, partition]
        if log.high_watermark <= log.log_start_offset:
            return False
        cut = Cut(self.at, "delete", max(log.log_start_offset + 1, log.high_watermark - 1))
        self.partition_ledger(topic, partition).steps.append(cut)
        log.delete_records(cut.offset)
        cut.done = self.at
        return None

    def op_retention(self, later_ms: int = 4 * DAY_MS) -> bool | None:
        """Days pass; what is too old goes, and what went before is unlinked."""
        self._pass(later_ms)
        deleted = 0
        for key, log in list(self.logs.partitions.items()):
            cut = Cut(self.at, "delete", log.high_watermark, explicit=False)
            ledger = self.partition_ledger(*key)
            ledger.steps.append(cut)
            freed = log.retain(self.now_ms)
            deleted += freed
            cut.done, cut.offset = self.at, log.log_start_offset
            if freed:
                cut.kept = self.at
        return None if self.logs.sweep(self.now_ms) or deleted else False

    def op_sweep(self) -> bool | None:
        self._pass(DAY_MS)
        return bool(self.logs.sweep(self.now_ms)) or False

    # ------------------------------------------------------------ directory

    def op_checkpoint(self) -> bool | None:
        before = self.at
        self.logs.checkpoint()
        self._keep_deletions()
        return None if self.at > before else False

    def _keep_deletions(self) -> None:
        """What was deleted before a checkpoint stays deleted (C3.5)."""
        for entry in self.ledger.partitions:
            log = self.logs.partitions.get(entry.key)
            for step in entry.steps if log is not None and log.offline is None and log.topic_id == entry.topic_id else ():
                if isinstance(step, Cut) and step.kind == "delete" and step.done is not None and step.kept is None:
                    if log.log_start_offset >= step.offset:  # a crash may have undone it (C3.5)
                        step.kept = self.at

    def op_restart(self) -> bool | None:
        """A clean stop and a start."""
        if self.logs.close(clean=True):
            self.ledger.clean_stops.append((self.at, self.at))
            self._keep_deletions()
        self.disk.kill()
        stopped = self.at
        self.start()
        if self.ledger.clean_stops and self.ledger.clean_stops[-1][0] == stopped and self.logs.reports:
            for key, report in self.logs.reports.items():
                named = {action.statement for action in report.actions}
                if not report.clean or named - ({"C9.5", "C6.2"} if "C9.5" in named else set()):  # not what was deleted
                    self.complaints.append(("C1.1", f"recovery after a clean stop of {key}: {report}"))
        return None

    def op_kill(self) -> bool | None:
        """The process dies, and the broker is started again on what the page cache has."""
        self.disk.kill()
        self.start()
        return None

    def op_create(self, topic: str = "b") -> bool | None:
        if (topic, 0) in self.logs.partitions:
            return False
        self._create(topic, (0,))
        return None

    def op_delete(self, topic: str = "b") -> bool | None:
        ledger = self.partition_ledger(topic, 0)
        if ledger is None:
            return False
        ledger.deleted[0] = ledger.deleted[0] if ledger.deleted[0] is not None else self.at
        self.logs.delete(topic, 0)
        ledger.deleted[1] = self.at
        return None

    def op_recreate(self, topic: str = "b") -> bool | None:
        """Delete, make again under another id, append."""
        if self.op_delete(topic) is False:
            return False
        self._create(topic, (0,))
        return self._produce(topic, 0, self._batch(1))

    def _create(self, topic: str, numbers: tuple[int, ...]) -> None:
        topic_id = self.new_uuid()
        for number in numbers:
            self.ledger.partitions.append(PartitionLedger(topic, number, topic_id, [self.at, None]))
        made = self.ledger.partitions[-len(numbers):]
        self.logs.create_many([(topic, number, topic_id, self.config.log_config()) for number in numbers])
        for entry in made:
            entry.created[1] = self.at

    # ------------------------------------------------------------ checks

    def _check_live(self) -> None:
        for log in self.logs.partitions.values():
            order = (log.log_start_offset, log.last_stable_offset, log.high_watermark, log.log_end_offset)
            if sorted(order) != list(order) and log.offline is None:
                self.complaints.append(("C4.1", f"{log.topic}-{log.number}: log start, last stable, high watermark, end {order}"))

    def syncs(self, begin: int) -> Iterator[int]:
        """Times in events just before each sync from `begin` on."""
        for place in range(begin, self.at):
            if self.disk.events[place].kind in ("sync", "sync_dir"):
                yield place
