"""What do clients ask of a whole broker, and what are they told? A few of them, one letter at a time.

`Session` runs a broker (`node.py`) on a simulated disk and speaks to it by frames of bytes only: what it calls acked was in a response
that the broker had handed to the stream. Everything goes into a `History`, as that of real clients does, and so
is judged by the same checkers; what a history has no place for (topics, deletions, producers) is in `Notes`.

1. Time is the disk's write list: whatever happens to a client puts a mark there, and its moment is the length of the list
   behind it. A crash after k events comes after everything with a moment of at most k (C1.15: a reply that is handed over later
   is unknown). `stamp` makes the nanoseconds of a history of it, which also say how much wall time has passed.
2. A topic is called by its name and how often it was made, "b.2": one that was made again is another topic.
3. A letter that makes no sense here (`delete` of a topic that is not there) returns False.
4. What a running broker may never answer is a complaint at once: a retry with another offset (C6.4), a sequence with a gap that is
   taken (C6.5), an epoch of yesterday that is taken (C6.6), a record shown before it is durable (C4.2); and see `waiting.py`.
"""

from collections import Counter
from uuid import UUID

from chaos.disk import bytes as make
from chaos.disk.driver import ROOT
from chaos.disk.ledger import Policy
from chaos.disk.model import SimDisk
from chaos.history import Commit, History, Seen, Send, value_of
from chaos.whole.node import START_MS, Connection, Node
from chaos.whole.notes import (
    ACKS, BATCHES_KEPT, CONSUMER, GROUP, INVALID_PRODUCER_EPOCH, NONE, NS_PER_MS, OFFSET_OUT_OF_RANGE, OUT_OF_ORDER_SEQUENCE,
    SEGMENT_BYTES, SEQUENCE_MODULUS, STEP_S, VALUE_BYTES, VERSIONS, Notes, Producer, Sent, TopicNote, batches_of, config_of, identities,
)
from chaos.whole.waiting import Waiting
from refbroker.apis import (
    k00_produce, k01_fetch, k08_offset_commit, k19_create_topics, k20_delete_topics, k21_delete_records, k22_init_producer_id,
)


class Session(Waiting):
    """Some clients and one broker under one policy, from an empty disk on."""

    def __init__(self, policy: Policy):
        self.policy = policy
        self.disk = SimDisk({ROOT: None})
        self.config = config_of(policy)
        self.history = History()
        self.notes = Notes(clock=[(0, START_MS)])
        self.complaints: list[tuple[str, str]] = []
        self.requests = self.acks = self._polls = 0
        self.frames: list[tuple] = []
        self._ids = 0
        self._numbers: dict[str, int] = {}
        self._offsets: dict[tuple[str, int], tuple[int, int]] = {}  # the consumer's: next offset, epoch of the last record
        self._stretches: Counter[tuple[str, int]] = Counter()
        self._start(START_MS)
        self._create("a", 2)

    def new_uuid(self) -> UUID:
        self._ids += 1
        return UUID(int=(0x4000 << 64) | (0x8 << 60) | self._ids)

    def play(self, word: tuple[str, ...]) -> int | None:
        """All letters in order; the moment when the last one began, None where one makes no sense."""
        begin = 0
        for letter in word:
            begin = self.at
            if self.topic("a") is None or getattr(self, "do_" + letter.replace("-", "_"))() is False:
                return None
            self._tick()
            self._look_at_rest()
        return begin

    def close(self) -> None:
        self.node.kill()

    @property
    def at(self) -> int:
        return len(self.disk.events)

    def stamp(self, at: int) -> int:
        """A moment as nanoseconds of the history."""
        return self.notes.ms_at(at) * NS_PER_MS + at

    def topic(self, name: str) -> TopicNote | None:
        """The topic of that name that exists now."""
        return next((each for each in reversed(self.notes.topics)
                     if each.name == name and each.created[1] is not None and each.deleted[0] is None), None)

    # ------------------------------------------------------------ life

    def _start(self, start_ms: int) -> None:
        self.node = Node(self.disk, self.config, start_ms=start_ms, new_uuid=self.new_uuid)
        self._connections: dict[str, Connection] = {}
        self._tick()
        self._began = {key: log.log_end_offset for key, log in self.node.broker.logs.partitions.items()}

    def _tick(self, seconds: float = STEP_S) -> None:
        self.node.loop.settle(seconds)
        self._mark("time")

    def _mark(self, what: str) -> int:
        moment = self.disk.mark(what)
        self.notes.clock.append((moment, self.node.now_ms()))
        return moment

    def do_restart(self) -> None:
        self.node.stop()
        self.notes.clean_stops.append(self.at)
        self._start(self.node.now_ms())

    def do_kill(self) -> None:
        self.node.kill()
        self._start(self.node.now_ms())

    def do_wait(self) -> None:
        """Until flush.ms has been heeded."""
        self._tick((self.policy.window_ms or 1500) / 1000 + STEP_S)

    def do_checkpoint(self) -> None:
        """Until the broker has written its checkpoints, which it does every minute."""
        self._tick(61)

    def _ask(self, client: str, api, request: dict, then=lambda response: None) -> None:
        connection = self._connections.get(client)
        if connection is None or connection.closed:
            connection = self._connections[client] = self.node.connect(client)
            self.frames.append(connection.frames)
        self.requests += 1
        connection.send(api, VERSIONS[api.name], request, then)

    # ------------------------------------------------------------ topics

    def do_create(self) -> bool | None:
        return False if self.topic("b") else self._create("b", 1)

    def do_delete(self) -> bool | None:
        note = self.topic("b")
        if note is None:
            return False
        note.deleted[0] = self._mark("delete")

        def answered(response: dict) -> None:
            if response["responses"][0]["error_code"] == NONE:
                note.deleted[1] = self._mark("deleted")

        self._ask("admin", k20_delete_topics.API, {"topics": [{"name": "b"}], "timeout_ms": 1000}, answered)
        return None

    def do_recreate(self) -> bool | None:
        """Deleted, made again, and written to at once."""
        if self.do_delete() is False:
            return False
        self._tick()
        self._create("b", 1)
        self._produce("plain", [("b", 0)])
        return None

    def _create(self, name: str, count: int) -> None:
        made = sum(note.name == name for note in self.notes.topics) + 1
        note = TopicNote(name, f"{name}.{made}", count, [self._mark("create"), None])
        self.notes.topics.append(note)

        def answered(response: dict) -> None:
            (row,) = response["topics"]
            note.topic_id = row["topic_id"]
            if row["error_code"] == NONE:
                note.created[1] = self._mark("created")

        row = {"name": name, "num_partitions": count, "replication_factor": -1, "assignments": [],
               "configs": [{"name": "internal.segment.bytes", "value": str(SEGMENT_BYTES)}]}
        self._ask("admin", k19_create_topics.API, {"topics": [row], "timeout_ms": 1000}, answered)
        self._tick()
        if note.created[1] is None:
            self.complaints.append(("C9.6", f"topic {name} could not be created"))

    def do_delete_records(self) -> bool | None:
        """Everything but the last record that was acked."""
        label = self.topic("a").label
        end = max((send.offset for send in self.history.acked if (send.topic, send.partition) == (label, 0)), default=0)
        if end < 1 or any(end <= deletion[4] for deletion in self.notes.deletions):
            return False
        deletion = [self._mark("delete records"), None, label, 0, end]
        self.notes.deletions.append(deletion)

        def answered(response: dict) -> None:
            if response["topics"][0]["partitions"][0]["error_code"] == NONE:
                deletion[1] = self._mark("records deleted")

        entry = {"name": "a", "partitions": [{"partition_index": 0, "offset": end}]}
        self._ask("admin", k21_delete_records.API, {"topics": [entry], "timeout_ms": 1000}, answered)
        return None

    # ------------------------------------------------------------ plain producers

    def do_produce(self) -> None:
        self._produce("plain", [("a", 0)])

    def do_gzip(self) -> None:
        self._produce("packed", [("a", 0)], records=3, acks=1, gzip=True)

    def do_both(self) -> None:
        """Two partitions in one request."""
        self._produce("plain", [("a", 0), ("a", 1)], records=2)

    def do_crowd(self) -> None:
        """Several clients at once, who share a flush if they wait for one."""
        for name in ("plain", "second", "third"):
            self._produce(name, [("a", 0)])

    def do_zero(self) -> None:
        """acks=0: nobody is told anything (C1.7). The second comes while the flush of the first is under way."""
        for _ in range(2):
            self._produce("careless", [("a", 0)], acks=0)
            self.node.loop.settle(held=True)

    def do_unread(self) -> None:
        """The reply is handed over, and never read: what it said counts as unknown (C1.15)."""
        self._produce("deaf", [("a", 0)], heard=False)

    def do_pending(self) -> None:
        """A consumer reads all that it gets, of whichever isolation level, while an append waits for its flush."""
        self._produce("plain", [("a", 0)])
        self.node.loop.settle(held=True)
        for _ in range(4):
            self.do_poll()
            self.node.loop.settle(held=True)

    def do_late(self) -> None:
        """An append that comes between a flush and the news of it must wait for the next flush."""
        self._produce("plain", [("a", 0)])
        self.node.loop.settle(held=True)
        self.node.loop.run_job()
        self._produce("second", [("a", 0)])
        self.node.loop.settle(held=True)

    def _produce(self, client: str, places: list[tuple[str, int]], *, records: int = 1, acks: int = -1, gzip: bool = False,
                 heard: bool = True) -> None:
        by_place: dict[tuple[str, int], list[Send]] = {}
        entries: dict[str, list[dict]] = {}
        for name, number in places:
            sends = by_place[name, number] = self._sends(client, name, records, ACKS[acks], False)
            values = [value_of(client, send.number, VALUE_BYTES) for send in sends]
            entries.setdefault(name, []).append({"index": number, "records": make.batch(values, self.node.now_ms(), gzip=gzip)})

        def answered(response: dict) -> None:
            for topic in response["responses"] if heard else ():
                for row in topic["partition_responses"]:
                    self._told(by_place[topic["name"], row["index"]], row)

        request = {"acks": acks, "timeout_ms": 1000,
                   "topic_data": [{"name": name, "partition_data": parts} for name, parts in entries.items()]}
        self._ask(client, k00_produce.API, request, answered if acks else None)

    def _sends(self, client: str, name: str, records: int, acks: str, idempotent: bool) -> list[Send]:
        """New records of this client, noted down before they leave."""
        label, moment = self.topic(name).label, self.stamp(self._mark("send"))
        first = self._numbers.get(client, 0)
        self._numbers[client] = first + records
        made = [Send(client, number, label, acks, idempotent, moment) for number in range(first, first + records)]
        self.history.sends.update({(client, send.number): send for send in made})
        return made

    def _told(self, sends: list[Send], row: dict) -> None:
        moment = self.stamp(self._mark("answer"))
        self.acks += row["error_code"] == NONE
        for delta, send in enumerate(sends):
            send.completed = moment
            if row["error_code"] == NONE:
                send.outcome, send.partition, send.offset = "acked", row["index"], row["base_offset"] + delta
            else:
                send.error = str(row["error_code"])
        if row["error_code"] != NONE:  # nothing fails in these runs
            statement = "C6.5" if sends[0].idempotent else "C1.14"
            self.complaints.append((statement, f"{sends[0].client}:{sends[0].number} was refused: {row}"))

    # ------------------------------------------------------------ idempotent producers

    def do_idempotent(self) -> None:
        self._once("once", "a", 0)

    def do_wrap(self) -> None:
        """A producer whose sequences are about to begin anew behind 2^31 - 1 (C6.5)."""
        self._once("wrapping", "a", 1, records=2, first=SEQUENCE_MODULUS - 4)  # two batches, then 0
        self._once("crossing", "a", 1, records=2, first=SEQUENCE_MODULUS - 3)  # the second batch has both

    def do_lost(self) -> None:
        """The reply is lost; the client sends the same again, which counts once."""
        self._once("once", "a", 0, heard=False)
        self.node.loop.settle()
        self._again(self.notes.producers["once"].sent[-1:])

    def do_retry(self) -> bool | None:
        """The replies to the last batches were lost on the way: all are sent again, the oldest first."""
        return self._again([sent for producer in self.notes.producers.values() for sent in producer.sent[-BATCHES_KEPT:]]) or False

    def do_bump(self) -> bool | None:
        """The producer comes back under the next epoch."""
        producer = self.notes.producers.get("once")
        if producer is None:
            return False
        producer.epoch += 1
        producer.next_sequence.clear()
        return self._once("once", "a", 0)

    def do_fence(self) -> bool | None:
        """The producer of the epoch before sends something, in vain."""
        producer = self.notes.producers.get("once")
        if producer is None or producer.epoch == 0:
            return False
        self._refused(producer, producer.epoch - 1, 0, INVALID_PRODUCER_EPOCH, "C6.6")
        return None

    def do_gap(self) -> bool | None:
        """A batch of the producer is missing."""
        producer = self.notes.producers.get("once")
        if producer is None:
            return False
        sequence = producer.next_sequence[self.topic("a").label, 0] + 1
        self._refused(producer, producer.epoch, sequence, OUT_OF_ORDER_SEQUENCE, "C6.5")
        return None

    def _producer(self, name: str) -> Producer:
        producer = self.notes.producers.get(name)
        if producer is None:
            got: list[dict] = []
            self._ask(name, k22_init_producer_id.API, {"transactional_id": None, "transaction_timeout_ms": 0}, got.append)
            self.node.loop.settle()
            producer = self.notes.producers[name] = Producer(name, got[0]["producer_id"])
        return producer

    def _once(self, client: str, name: str, number: int, *, records: int = 1, first: int = 0, heard: bool = True) -> None:
        producer = self._producer(client)
        sends = self._sends(client, name, records, "all", True)
        label = sends[0].topic
        sequence = producer.next_sequence.get((label, number), first)
        producer.next_sequence[label, number] = (sequence + records) % SEQUENCE_MODULUS
        data = make.batch([value_of(client, send.number, VALUE_BYTES) for send in sends], self.node.now_ms(),
                          producer=(producer.producer_id, producer.epoch, sequence))
        sent = Sent(self.at, label, number, data, tuple(send.number for send in sends), sequence, producer.epoch)
        producer.sent.append(sent)

        def answered(row: dict) -> None:
            if heard:
                self._told(sends, row)
                sent.acked, sent.base_offset = self.at, row["base_offset"]

        self._send_batch(client, name, number, data, answered)

    def _send_batch(self, client: str, name: str, number: int, data: bytes, then) -> None:
        entry = {"name": name, "partition_data": [{"index": number, "records": data}]}
        self._ask(client, k00_produce.API, {"acks": -1, "timeout_ms": 1000, "topic_data": [entry]},
                  lambda response: then(response["responses"][0]["partition_responses"][0]))

    def _again(self, batches: list[Sent]) -> bool:
        """Send these once more; False where there are none. Only what the current epoch sent is known to the broker."""
        for sent in batches:
            producer = next(each for each in self.notes.producers.values() if sent in each.sent)
            if sent.epoch == producer.epoch:
                self._send_batch(producer.name, sent.label.partition(".")[0], sent.partition, sent.data,
                                 lambda row, sent=sent, name=producer.name: self._repeated(name, sent, row))
        return bool(batches)

    def _repeated(self, client: str, sent: Sent, row: dict) -> None:
        if row["error_code"] != NONE or sent.acked is not None and row["base_offset"] != sent.base_offset:
            self.complaints.append(("C6.4", f"a retry of sequence {sent.sequence} at offset {sent.base_offset} was answered {row}"))
        if sent.acked is None:
            self._told([self.history.sends[client, number] for number in sent.numbers], row)
            sent.acked, sent.base_offset = self.at, row["base_offset"]

    def _refused(self, producer: Producer, epoch: int, sequence: int, code: int, statement: str) -> None:
        data = make.batch([b"not to be taken"], self.node.now_ms(), producer=(producer.producer_id, epoch, sequence))

        def answered(row: dict) -> None:
            if row["error_code"] != code:
                self.complaints.append((statement, f"epoch {epoch}, sequence {sequence} was answered {row}, error {code} expected"))

        self._send_batch(producer.name, "a", 0, data, answered)

    # ------------------------------------------------------------ a consumer and its group

    def do_poll(self) -> None:
        """Everything that there is to read, once; every second time as read_committed."""
        self._polls += 1
        notes = [note for note in self.notes.topics if self.topic(note.name) is note]
        places = [(note.name, note.label, number) for note in notes for number in range(note.count)]
        labels = {name: label for name, label, _ in places}
        topics = [{"topic": note.name, "partitions": [
            {"partition": number, "fetch_offset": self._offsets.get((note.label, number), (0, -1))[0], "partition_max_bytes": 1 << 20}
            for number in range(note.count)]} for note in notes]

        def answered(response: dict) -> None:
            for topic in response["responses"]:
                for row in topic["partitions"]:
                    self._handed(labels[topic["topic"]], row)

        self._ask(CONSUMER, k01_fetch.API, {"max_wait_ms": 0, "min_bytes": 1, "isolation_level": self._polls % 2, "topics": topics}, answered)

    def _handed(self, label: str, row: dict) -> None:
        where = label, row["partition_index"]
        position, epoch = self._offsets.get(where, (0, -1))
        moment = self._mark("seen")
        if row["error_code"] == OFFSET_OUT_OF_RANGE:  # deleted records: begin behind them
            self._begin_anew(where, position)
            return
        for batch in batches_of(bytes(row["records"] or b"")):
            for offset, identity in identities(batch):
                if offset < position:
                    continue
                if offset >= row["high_watermark"]:
                    self.complaints.append(("C4.2", f"{label}-{where[1]}: offset {offset} was shown, the high watermark is "
                                                    f"{row['high_watermark']}"))
                self.history.seen.append(Seen(CONSUMER, *where, offset, self.stamp(moment), identity, batch.leader_epoch,
                                              self._stretches[where]))
                position, epoch = offset + 1, batch.leader_epoch
        self._offsets[where] = position, epoch
        self.notes.positions.append((moment, *where, position, epoch))

    def do_commit(self) -> bool | None:
        """The group commits what its only member was handed (C8.5)."""
        asked = [(note, number, *self._offsets[note.label, number]) for note in self.notes.topics for number in range(note.count)
                 if self.topic(note.name) is note and self._offsets.get((note.label, number), (0, -1))[0] > 0]
        if not asked:
            return False
        moment = self.stamp(self._mark("commit"))
        commits = {}
        topics: dict[str, list[dict]] = {}
        for note, number, offset, epoch in asked:
            commit = commits[note.name, number] = Commit(CONSUMER, GROUP, note.label, number, offset, moment)
            self.history.commits.append(commit)
            topics.setdefault(note.name, []).append({"partition_index": number, "committed_offset": offset,
                                                     "committed_leader_epoch": epoch, "committed_metadata": ""})

        def answered(response: dict) -> None:
            done = self.stamp(self._mark("committed"))
            for topic in response["topics"]:
                for row in topic["partitions"]:
                    commit = commits[topic["name"], row["partition_index"]]
                    commit.completed, commit.outcome = done, "acked" if row["error_code"] == NONE else "unknown"

        request = {"group_id": GROUP, "topics": [{"name": name, "partitions": parts} for name, parts in topics.items()]}
        self._ask(CONSUMER, k08_offset_commit.API, request, answered)
        return None


LETTERS = tuple(sorted(name.removeprefix("do_").replace("_", "-") for name in dir(Session) if name.startswith("do_")))
