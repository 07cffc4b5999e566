"""A short story that touches every kind of file: what one client asks of a broker, one request at a time, so that every run of it
makes nearly the same system calls. And the judge of what is left of it.

Topics; idempotent batches into two partitions whose segments roll every second batch; plain batches and a DeleteRecords on a third;
fetches; commits; a topic that is deleted. A request that is refused, or whose connection breaks, is asked again, as a client does,
while the broker lives: an idempotent batch as it was.

Verified: acked records are there (C1.2), the one under way is appended once (C6.4), nothing invented (C2.1), each batch gets the next
offset whatever was refused before it (C1.14), no hole and no torn tail (C2.2, C2.3), what was whole in the files stays (C2.4), indexes
agree (C5), acked commits are there (C8.2), a deleted topic stays deleted (C9.5), a log start is never ahead of the log (C3.5).
Not verified: what clients do that have several requests in flight (chaos/process/rounds.py has those).
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chaos.checks import history as checks
from chaos.checks.history.case import Case, Finding, Kept, Policy, Where
from chaos.history import Commit, History, Seen, Send, identify, value_of
from chaos.logfile import parse_log, valid_prefix
from chaos.process import observe, rounds
from chaos.targets import Process
from refbroker import client as admin
from refbroker.apis import (
    k00_produce, k01_fetch, k02_list_offsets, k08_offset_commit, k09_offset_fetch, k10_find_coordinator, k19_create_topics,
    k21_delete_records, k22_init_producer_id,
)
from refbroker.client import Client, ClientError
from refbroker.errors import ErrorCode
from refbroker.log.records import Record, build

TOPICS = {"swept": 2, "trimmed": 1}
DOOMED = "doomed"
GROUP = "story-group"
CLIENT = "story"
BATCHES, TRIMMED_BATCHES, TRIM_TO = 8, 4, 2
SEGMENT_MS, STEP_MS = 200, 60  # by the records' own timestamps: a segment rolls when they are more than that apart
VALUE_BYTES = 700
TOPIC_CONFIGS = {"segment.ms": str(SEGMENT_MS), "file.delete.delay.ms": "0"}
PROPERTIES = {"log.index.interval.bytes": "512", "offsets.topic.num.partitions": "1", "auto.create.topics.enable": "false",
              "group.initial.rebalance.delay.ms": "0"}
STATEMENTS = {"C2.2", "C2.3", "C2.4", "C2.10", "C3.5", "C5.1", "C5.2", "C5.3", "C9.5"}  # besides those of the history's checkers
ANSWER_MS_MAX = 15_000
FETCH_BYTES_MAX = 1 << 20
EARLIEST, LATEST = -2, -1


class Refused(Exception):
    """The broker answered with an error code."""


class Story:
    """What was asked and told. `patience_s`: how long one request is repeated while the broker lives."""

    def __init__(self, patience_s: float = 15.0):
        self.history = History()
        self.complaints: list[Finding] = []
        self.judged: set[str | tuple[str, str]] = set()  # what `judge` had evidence about
        self.asked = 0  # requests, those that were repeated too
        self.refused = 0
        self.created = self.deleted = self.trim_asked = False
        self.under_way: tuple[Send, Where, dict] | None = None  # the batch without an answer
        self._patience_s = patience_s
        self._ends: dict[Where, int] = {}
        self._client: Client | None = None

    def tell(self, target: Process) -> None:
        """The whole story. Raises ClientError where the broker is gone, Refused where it keeps refusing."""
        self.attach(target)
        self._ask(self._create)
        producer = self._ask(self._init_producer)
        self._ask(lambda client: _checked(client.request(k10_find_coordinator.API, {"key": GROUP}, version=3)))
        for number in range(BATCHES):
            self.produce(number, ("swept", number % 2), producer, number // 2)
            if number % 3 == 2:
                self._ask(lambda client, where=("swept", number % 2): self._commit(client, where))
            if number == BATCHES // 2:
                self.produce(1000, (DOOMED, 0))
                self._ask(self._delete)
            self._ask(lambda client, where=("swept", number % 2): self._read(client, where))
        for number in range(TRIMMED_BATCHES):
            self.produce(2000 + number, ("trimmed", 0))
        self.trim_asked = True
        self._ask(self._trim)
        self.close()

    def attach(self, target: Process) -> None:
        """Whom to talk to from now on."""
        self._target = target
        self._began_ms = int(time.time() * 1000) - 60_000

    def close(self) -> None:
        if self._client:
            self._client.__exit__()
        self._client = None

    def _ask(self, request: Callable[[Client], Any]) -> Any:
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                if self._client is None:
                    self._client = Client(_address(self._target), CLIENT, ANSWER_MS_MAX)
                self.asked += 1
                return request(self._client)
            except (ClientError, Refused) as error:
                self.refused += 1
                if isinstance(error, ClientError):
                    self.close()
                if self._target.process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _create(self, client: Client) -> None:
        configs = [{"name": key, "value": value} for key, value in TOPIC_CONFIGS.items()]
        answer = client.request(k19_create_topics.API, {"timeout_ms": ANSWER_MS_MAX, "topics": [
            {"name": name, "num_partitions": count, "replication_factor": 1, "assignments": [], "configs": configs}
            for name, count in {**TOPICS, DOOMED: 1}.items()]})
        for row in answer["topics"]:
            if row["error_code"] != ErrorCode.TOPIC_ALREADY_EXISTS:
                _checked(row)
        self.created = True

    def _init_producer(self, client: Client) -> dict:
        return _checked(client.request(k22_init_producer_id.API, {
            "transactional_id": None, "transaction_timeout_ms": 1000, "producer_id": -1, "producer_epoch": -1}, version=4))

    def produce(self, number: int, where: Where, producer: dict | None = None, sequence: int = -1) -> int:
        """One batch of one record; with a `producer` it is an idempotent one. Its offset."""
        send = Send(CLIENT, number, where[0], "all", producer is not None, time.monotonic_ns())
        self.history.sends[CLIENT, number] = send
        ids = {"producer_id": producer["producer_id"], "producer_epoch": producer["producer_epoch"],
               "base_sequence": sequence} if producer else {}
        stamp = self._began_ms + number % 1000 * STEP_MS * (2 if producer is None else 1)
        message = {"transactional_id": None, "acks": -1, "timeout_ms": ANSWER_MS_MAX, "topic_data": [{"name": where[0], "partition_data": [
            {"index": where[1], "records": bytes(build([Record(0, stamp, None, value_of(CLIENT, number, VALUE_BYTES))], **ids))}]}]}
        self.under_way = (send, where, message)
        before = self.refused
        self._ask(lambda client: self.finish_under_way(client))
        end = self._ends.get(where, 0)
        if send.offset != end and (producer or self.refused == before):
            self.complaints.append(Finding("C1.14", "offsets go on", *where, send.offset, f"batch {number} after the log's end {end}"))
        self._ends[where] = send.offset + 1
        return send.offset

    def finish_under_way(self, client: Client) -> None:
        """Ask for the batch under way, as it was. Raises ClientError, Refused."""
        if self.under_way is None:
            return
        send, (_, partition), message = self.under_way
        row = client.request(k00_produce.API, message, version=9)["responses"][0]["partition_responses"][0]
        _checked(row)
        send.outcome, send.partition, send.offset, send.completed = "acked", partition, row["base_offset"], time.monotonic_ns()
        self.under_way = None

    def _commit(self, client: Client, where: Where) -> None:
        commit = Commit(CLIENT, GROUP, *where, self._ends[where], time.monotonic_ns())
        self.history.commits.append(commit)
        answer = client.request(k08_offset_commit.API, {"group_id": GROUP, "topics": [{"name": where[0], "partitions": [
            {"partition_index": where[1], "committed_offset": commit.offset, "committed_metadata": ""}]}]}, version=8)
        _checked(answer["topics"][0]["partitions"][0])
        commit.outcome, commit.completed = "acked", time.monotonic_ns()

    def _delete(self, client: Client) -> None:
        try:
            admin.delete_topic(client, DOOMED, if_exists=True)
        except ClientError as error:
            if "deleting topic" in str(error):  # an error code; the connection is well
                raise Refused(str(error)) from error
            raise
        self.deleted = True

    def _trim(self, client: Client) -> None:
        answer = client.request(k21_delete_records.API, {"timeout_ms": ANSWER_MS_MAX, "topics": [
            {"name": "trimmed", "partitions": [{"partition_index": 0, "offset": TRIM_TO}]}]})
        _checked(answer["topics"][0]["partitions"][0])

    def _read(self, client: Client, where: Where) -> None:
        stretch = len(self.history.seeks)
        self.history.seeks["reader", *where, stretch] = 0
        self.history.seen += [Seen("reader", *where, record.offset, time.monotonic_ns(), record.identity, record.leader_epoch, stretch)
                              for record in _fetch(client, where, 0)]


def judge(target: Process, story: Story, policy: Policy, before: dict, *, retry: bool, fault: str = "F1") -> list[Finding]:
    """The broker runs again: what does it hold? `before`: the longest valid prefix that the files held after the fault."""
    findings = list(story.complaints)
    for where, batches in before.items():
        kept = valid_prefix(observe.read_files(Path(target.data_directory), {where[0]: 0}).get(where, []))
        start = kept[0].base_offset if kept else 0
        wanted = [batch.data for batch in batches if batch.base_offset >= start]
        if [batch.data for batch in kept[:len(wanted)]] != wanted:
            findings.append(Finding("C2.4", "over-truncation", *where, len(kept), "recovery dropped what was whole in the files"))
    deadline = time.monotonic() + ANSWER_MS_MAX / 1000
    while True:
        try:
            with Client(_address(target), CLIENT, ANSWER_MS_MAX) as client:
                return findings + _judge(client, target, story, policy, fault, retry)
        except Refused as refused:  # a coordinator that loads, a leader that is not there yet
            if time.monotonic() > deadline:
                return [*findings, Finding("C2.10", "does not serve again", "", -1, -1, str(refused))]
            time.sleep(0.05)


def whole_batches(data_directory: str) -> dict:
    """{(topic, partition): batches of the longest valid prefix}, from the files alone."""
    return {where: valid_prefix(segments) for where, segments in observe.read_files(Path(data_directory), TOPICS).items()}


def _judge(client: Client, target: Process, story: Story, policy: Policy, fault: str, retry: bool) -> list[Finding]:
    there = {row["name"] for row in admin.describe_topics(client, None, if_exists=False)}
    findings = []
    if story.deleted and DOOMED in there:
        findings.append(Finding("C9.5", "resurrected", DOOMED, 0, -1, "the deletion was acked, and the topic is back"))
    if missing := [name for name in TOPICS if name not in there]:
        if story.created:
            findings.append(Finding("C1.2", "lost topic", missing[0], -1, -1, "its creation was acked"))
        return findings
    if retry and story.under_way and story.under_way[1][0] != DOOMED:
        story.finish_under_way(client)
    if retry and story.trim_asked:
        story._trim(client)  # the second time must be as good as the first
    history = History({key: send for key, send in story.history.sends.items() if send.topic in TOPICS}, story.history.commits,
                      story.history.seen)
    case = Case(policy, fault, time.monotonic_ns(), history, {}, {})
    for where in ((topic, number) for topic, count in TOPICS.items() for number in range(count)):
        low, end = _offset(client, where, EARLIEST), _offset(client, where, LATEST)
        if low > end or (low > 0 and not story.trim_asked):
            findings.append(Finding("C3.5", "log start", *where, low, f"the log ends at {end}"))
        case.log[where], case.log_end[where] = _fetch(client, where, low), end
        if [record.offset for record in case.log[where]] != list(range(low, end)):
            findings.append(Finding("C2.2", "hole", *where, low, f"offsets {[r.offset for r in case.log[where]]} up to {end}"))
        for key, send in list(history.sends.items()):
            if where[0] == "trimmed" == send.topic and story.trim_asked and send.offset is not None and send.offset < TRIM_TO:
                del history.sends[key]  # its deletion was asked for
                case.log[where] = [record for record in case.log[where] if record.identity != key]
    case.offsets = _committed(client)
    checkers = [checker for name, checker in checks.CHECKERS.items() if name != "unseen"]  # nobody reads by these commits
    story.judged |= STATEMENTS.union(*(checker.statements(case) for checker in checkers))
    findings += [finding for checker in checkers for finding in checker.check(case)]
    return findings + rounds.check_files(Path(target.data_directory), TOPICS, preallocated=target.name != "refbroker")


def _fetch(client: Client, where: Where, offset: int) -> list[Kept]:
    """All records from `offset` on, read by another parser than the broker's."""
    found: list[Kept] = []
    while True:
        answer = _checked(client.request(k01_fetch.API, {"max_wait_ms": 0, "min_bytes": 0, "max_bytes": FETCH_BYTES_MAX, "topics": [
            {"topic": where[0], "partitions": [{"partition": where[1], "fetch_offset": offset,
                                                "partition_max_bytes": FETCH_BYTES_MAX}]}]}, version=11))
        row = _checked(answer["responses"][0]["partitions"][0])
        segment = parse_log(bytes(row["records"] or b""), 0)
        if not segment.batches:
            return found
        found += [Kept(at, identify(value or b""), batch.leader_epoch) for batch in segment.batches for at, _, value in batch.records
                  if at >= offset]
        offset = segment.end_offset


def _offset(client: Client, where: Where, timestamp: int) -> int:
    answer = client.request(k02_list_offsets.API, {"replica_id": -1, "isolation_level": 0, "topics": [
        {"name": where[0], "partitions": [{"partition_index": where[1], "timestamp": timestamp}]}]}, version=4)
    return _checked(answer["topics"][0]["partitions"][0])["offset"]


def _committed(client: Client) -> dict[tuple[str, str, int], int]:
    _checked(client.request(k10_find_coordinator.API, {"key": GROUP}, version=3))
    answer = _checked(client.request(k09_offset_fetch.API, {"group_id": GROUP, "topics": [
        {"name": name, "partition_indexes": list(range(count))} for name, count in TOPICS.items()]}, version=7))
    return {(GROUP, topic["name"], row["partition_index"]): _checked(row)["committed_offset"]
            for topic in answer["topics"] for row in topic["partitions"] if row["committed_offset"] >= 0}


def _checked(row: dict) -> dict:
    if row["error_code"]:
        code = row["error_code"]
        raise Refused(f"{ErrorCode(code).name if code in ErrorCode._value2member_map_ else code}: {row.get('error_message')}")
    return row


def _address(target: Process) -> tuple[str, int]:
    host, _, port = target.bootstrap.rpartition(":")
    return host, int(port)
