"""What do clients ask while others wait, and is everybody who waits answered?

Letters of `clients.py`'s `Session` that put requests on top of each other: a consumer that waits at the end of the log, questions about
a log that is not flushed yet, a topic that goes or a policy that changes under whoever waits, a stop with requests in hand.

After each letter nothing is under way any more (`_look_at_rest`): whoever asked has been answered (C1.16), fewer than
flush.messages offsets are unflushed (C1.4), and all that is in the log can be read (C4.2 hides only what is not durable yet).
"""

from chaos.whole.notes import CONSUMER, NONE, batches_of
from refbroker.apis import k01_fetch, k02_list_offsets, k20_delete_topics, k21_delete_records, k23_offset_for_leader_epoch, k44_incremental_alter_configs

LATEST, EARLIEST, MAX_TIMESTAMP, EARLIEST_LOCAL = -1, -2, -3, -4
PATIENCE_MS = 3_600_000  # nobody's time moves so far by itself
TOPIC, SET, DELETE = 2, 0, 1
FOLLOWER = "follower"


class Waiting:
    """A part of `Session`."""

    def _look_at_rest(self) -> None:
        """Nothing is under way any more."""
        for name, connection in self._connections.items():
            if connection.unanswered:
                self.complaints.append(("C1.16", f"{name} waits for {', '.join(connection.unanswered)}, and nobody is about to answer"))
        for key, log in self.node.broker.logs.partitions.items():
            waiting = log.log_end_offset - max(log.recovery_point, self._began.get(key, 0))
            if self.policy.messages and waiting >= self.policy.messages:
                self.complaints.append(("C1.4", f"{log}: {waiting} offsets are not flushed, and nobody is about to"))
            if log.high_watermark != log.log_end_offset:
                self.complaints.append(("C1.16", f"{log} can be read up to {log.high_watermark} only, and nobody is about to flush the rest"))

    # ------------------------------------------------------------ a consumer that waits

    def do_follow(self) -> None:
        """A consumer waits at the end, and is served when something comes, from whomever."""
        end = self.node.broker.logs.partitions["a", 0].high_watermark
        got = self._fetch(end, 1)
        self.node.loop.settle(held=True)
        if got:
            self.complaints.append(("C4.2", f"a Fetch at the high watermark {end} was not made to wait: {got}"))
        self._produce("plain", [("a", 0)], acks=0)
        self.node.loop.settle(held=True)
        self._produce("second", [("a", 0)])
        self.node.loop.settle()
        if not got:
            self.complaints.append(("C1.16", f"a Fetch that waited at {end} was not answered when something came"))

    def do_catch_up(self) -> None:
        """A consumer that wants all at once reads from the beginning: what is there it must not wait for, though a read ends with its
        segment."""
        log = self.node.broker.logs.partitions["a", 0]
        offset = log.log_start_offset
        while offset < log.high_watermark:
            behind = sum(segment.size for segment in log.segments if segment.base_offset >= offset)
            got = self._fetch(offset, max(behind, 1))
            self.node.loop.settle()
            batches = [batch for row in got for batch in batches_of(row["records"])]
            if not batches:
                self.complaints.append(("C1.16", f"a Fetch from {offset} for {behind} bytes waits, though {log} has them"))
                return
            offset = max(batch.base_offset + len(batch.records) for batch in batches)

    def _fetch(self, offset: int, min_bytes: int) -> list[dict]:
        """The answer is put into the list that is returned."""
        got: list[dict] = []

        def answered(response: dict) -> None:
            rows = response["responses"][0]["partitions"]
            got.extend(row | {"records": bytes(row["records"] or b"")} for row in rows)
            if offset not in range(rows[0]["log_start_offset"], rows[0]["high_watermark"]) or rows[0]["error_code"] != NONE:
                self.complaints.append(("C1.16", f"a Fetch from {offset} was answered {rows}"))

        entry = {"partition": 0, "fetch_offset": offset, "partition_max_bytes": 1 << 20}
        self._ask(FOLLOWER, k01_fetch.API, {"max_wait_ms": PATIENCE_MS, "min_bytes": min_bytes, "isolation_level": len(self.frames) % 2,
                                            "topics": [{"topic": "a", "partitions": [entry]}]}, answered)
        return got

    def _begin_anew(self, where: tuple[str, int], position: int) -> None:
        """The consumer is told where the log begins, and under which epoch: should that be lost, it can tell (C8.4)."""
        def answered(response: dict) -> None:
            row = response["topics"][0]["partitions"][0]
            self._offsets[where] = max(position, row["offset"]), row["leader_epoch"]
            self._stretches[where] += 1
            self.history.seeks[CONSUMER, *where, self._stretches[where]] = self._offsets[where][0]

        entry = {"partition_index": where[1], "timestamp": EARLIEST}
        topic = {"name": where[0].partition(".")[0], "partitions": [entry]}
        self._ask(CONSUMER, k02_list_offsets.API, {"replica_id": -1, "topics": [topic]}, answered)

    # ------------------------------------------------------------ questions about what is not flushed

    def do_look(self) -> None:
        """Where does the log begin and end, and what is the latest? Nobody hears of what is not durable."""
        self._produce("plain", [("a", 0)])
        self.node.loop.settle(held=True)
        log = self.node.broker.logs.partitions["a", 0]
        start, high, end = log.log_start_offset, log.high_watermark, log.log_end_offset
        allowed = {LATEST: {high}, EARLIEST: {start}, EARLIEST_LOCAL: {start}, MAX_TIMESTAMP: {-1, *range(start, high)},
                   0: {start if start < high else -1}, self.node.now_ms(): {-1, *range(start, high)}}
        for level in (0, 1):
            for timestamp, offsets in allowed.items():
                entry = {"partition_index": 0, "timestamp": timestamp}
                self._ask("curious", k02_list_offsets.API, {"replica_id": -1, "isolation_level": level, "topics": [
                    {"name": "a", "partitions": [entry]}]}, lambda response, wanted=timestamp, offsets=offsets: self._is_within(
                    "C4.2", f"ListOffsets {wanted} (high watermark {high})", response["topics"][0]["partitions"][0], "offset", offsets))
        entry = {"partition": 0, "current_leader_epoch": log.leader_epoch, "leader_epoch": log.leader_epoch}
        self._ask("curious", k23_offset_for_leader_epoch.API, {"replica_id": -1, "topics": [{"topic": "a", "partitions": [entry]}]},
                  lambda response: self._is_within("C4.4", "OffsetForLeaderEpoch", response["topics"][0]["partitions"][0], "end_offset", {end}))
        self.node.loop.settle(held=True)

    def do_empty(self) -> None:
        """DeleteRecords of all that can be seen, while an append waits for its flush."""
        self._produce("plain", [("a", 1)])
        self.node.loop.settle(held=True)
        log = self.node.broker.logs.partitions["a", 1]
        high = log.high_watermark
        self.notes.deletions.append([self._mark("delete records"), None, self.topic("a").label, 1, high])
        entry = {"name": "a", "partitions": [{"partition_index": 1, "offset": -1}]}
        self._ask("admin", k21_delete_records.API, {"topics": [entry], "timeout_ms": 1000}, lambda response: self._is_within(
            "C4.1", f"DeleteRecords (high watermark {high})", response["topics"][0]["partitions"][0], "low_watermark", {high}))
        self.node.loop.settle(held=True)

    def _is_within(self, statement: str, what: str, row: dict, key: str, allowed: set[int]) -> None:
        if row["error_code"] != NONE or row[key] not in allowed:
            self.complaints.append((statement, f"{what} was answered {row}, {sorted(allowed)} expected"))

    # ------------------------------------------------------------ what changes under those who wait

    def do_vanish(self) -> bool | None:
        """A topic is deleted while a producer waits for its flush and a consumer for its end: both hear of it."""
        note = self.topic("b")
        if note is None:
            return False
        self._produce("hasty", [("b", 0)], heard=False)
        entry = {"partition": 0, "fetch_offset": self.node.broker.logs.partitions["b", 0].high_watermark, "partition_max_bytes": 1 << 20}
        self._ask(FOLLOWER, k01_fetch.API, {"max_wait_ms": PATIENCE_MS, "min_bytes": 1 << 20, "topics": [
            {"topic": "b", "partitions": [entry]}]}, lambda response: None)
        self.node.loop.settle(held=True)
        return self.do_delete()

    def do_strict(self) -> None:
        """Another flush.messages comes, and goes, under those who wait; nothing is less durable for it than the policy says."""
        for number, value in enumerate(("1", None)):
            self._produce("plain", [("a", number)])
            self.node.loop.settle(held=True)
            self._produce("careless", [("a", 1)], acks=0)
            self._configure(value)
            self.node.loop.settle(held=True)
            self._produce("second", [("a", 1)])
            self._look_at_strict(value)

    def _look_at_strict(self, value: str | None) -> None:
        self.node.loop.settle()
        for number in range(2 if value else 0):
            log = self.node.broker.logs.partitions["a", number]
            if log.recovery_point != log.log_end_offset:
                self.complaints.append(("C1.3", f"{log} under flush.messages=1: durable up to {log.recovery_point}"))

    def _configure(self, value: str | None) -> None:
        config = {"name": "flush.messages", "config_operation": SET if value else DELETE, "value": value}
        resource = {"resource_type": TOPIC, "resource_name": "a", "configs": [config]}
        self._ask("admin", k44_incremental_alter_configs.API, {"resources": [resource], "validate_only": False}, lambda response: None)

    def do_leave(self) -> None:
        """A clean stop with requests in hand: whatever is in a log then is there afterwards, and nothing is to be recovered (C1.1)."""
        self._produce("plain", [("a", 0), ("a", 1)])
        self._produce("careless", [("a", 0)], acks=0)
        self.node.loop.settle(held=True)
        ends = {key: log.log_end_offset for key, log in self.node.broker.logs.partitions.items()}
        self.do_restart()
        logs = self.node.broker.logs
        shorter = [f"{logs.partitions[key]}, before {end}" for key, end in ends.items() if logs.partitions[key].log_end_offset < end]
        if shorter or not logs.clean_start:
            self.complaints.append(("C1.1", f"a clean stop was none, or took something: {shorter}"))
