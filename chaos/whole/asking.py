"""What does a broker that starts on a crashed image say to its clients? Asked by frames of bytes, like any client would.

`start_on` starts a broker on the image. `Asker.ask_all` asks it what changes nothing: Metadata, ListOffsets, Fetch from the beginning,
OffsetFetch; what it was told is `Answers`. More may be asked then (chaos/checks/resumed.py). A broker that still runs is asked in
the same way.

The records of __consumer_offsets are fetched like others and read by hand here, so that the answers of the coordinator can be
held against the log that they must come from (C8.3).
"""

import struct
from dataclasses import dataclass, field
from itertools import count
from uuid import UUID

from kafka.record.default_records import DefaultRecordBatch

from chaos.disk import bytes as make
from chaos.disk.model import Image, SimDisk
from chaos.logfile import StoredBatch
from chaos.whole.node import Node
from chaos.whole.notes import GROUP, NONE, VERSIONS, batches_of
from refbroker.apis import (
    k00_produce, k01_fetch, k02_list_offsets, k03_metadata, k09_offset_fetch, k23_offset_for_leader_epoch,
)
from refbroker.config import Config

EARLIEST, LATEST = -2, -1
OFFSETS_TOPIC = "__consumer_offsets"
FETCH_BYTES = 1 << 20
FETCHES_MAX = 10_000
ZERO_ID = UUID(int=0)

Where = tuple[str, int]


@dataclass
class Answers:
    """What was told. `topics`: name -> id; `epochs`, `starts`, `ends`, `log` by partition; `errors` what was refused; `committed` the
    group's offsets with their epochs; `replayed` the same by hand from the offsets log."""

    topics: dict[str, UUID] = field(default_factory=dict)
    epochs: dict[Where, int] = field(default_factory=dict)
    starts: dict[Where, int] = field(default_factory=dict)
    ends: dict[Where, int] = field(default_factory=dict)
    log: dict[Where, list[StoredBatch]] = field(default_factory=dict)
    committed: dict[Where, tuple[int, int]] = field(default_factory=dict)
    replayed: dict[Where, tuple[int, int]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


class Asker:
    """One client of a running broker, who wants to know everything."""

    def __init__(self, node: Node):
        self.node = node
        self.requests = 0
        self.answers = Answers()
        self._connection = node.connect("asker")

    @property
    def frames(self) -> list[tuple]:
        return self._connection.frames

    def request(self, api, message: dict) -> dict:
        """The response to one request."""
        got: list[dict] = []
        self.requests += 1
        self._connection.send(api, VERSIONS[api.name], message, got.append)
        self.node.loop.settle()
        if not got:  # the broker hung up, or waits for what will not come
            raise NoAnswer(f"{api.name} was not answered")
        return got[0]

    # ------------------------------------------------------------ single questions

    def fetch(self, where: Where, offset: int, last_epoch: int = -1) -> dict:
        """The row of one partition; its records as bytes."""
        entry = {"partition": where[1], "fetch_offset": offset, "last_fetched_epoch": last_epoch, "partition_max_bytes": FETCH_BYTES}
        message = {"max_wait_ms": 0, "min_bytes": 1, "topics": [{"topic": where[0], "partitions": [entry]}]}
        return self.request(k01_fetch.API, message)["responses"][0]["partitions"][0]

    def read(self, where: Where) -> list[StoredBatch]:
        """Every batch from the log start to the end."""
        offset, end = self.offset(where, EARLIEST), self.offset(where, LATEST)
        batches: list[StoredBatch] = []
        for _ in range(FETCHES_MAX):
            if offset >= end:
                break
            row = self.fetch(where, offset)
            found = batches_of(bytes(row["records"] or b""))
            if row["error_code"] != NONE or not found:
                self.answers.errors.append(f"{where}: a fetch at {offset} of {end} got error {row['error_code']}, {len(found)} batches")
                break
            batches += found
            offset = found[-1].last_offset + 1
        return batches

    def offset(self, where: Where, timestamp: int) -> int:
        entry = {"partition_index": where[1], "timestamp": timestamp}
        message = {"replica_id": -1, "topics": [{"name": where[0], "partitions": [entry]}]}
        row = self.request(k02_list_offsets.API, message)["topics"][0]["partitions"][0]
        if row["error_code"] != NONE:
            self.answers.errors.append(f"{where}: ListOffsets {timestamp} got error {row['error_code']}")
        return row["offset"]

    def produce(self, where: Where, data: bytes) -> tuple[int, int]:
        """(error code, base offset)."""
        entry = {"name": where[0], "partition_data": [{"index": where[1], "records": data}]}
        row = self.request(k00_produce.API, {"acks": -1, "timeout_ms": 1000, "topic_data": [entry]})["responses"][0]["partition_responses"][0]
        return row["error_code"], row["base_offset"]

    def epoch_end(self, where: Where, epoch: int) -> tuple[int, int]:
        """(epoch, end offset) of the last epoch up to this one."""
        message = {"topics": [{"topic": where[0], "partitions": [{"partition": where[1], "leader_epoch": epoch}]}]}
        row = self.request(k23_offset_for_leader_epoch.API, message)["topics"][0]["partitions"][0]
        return row["leader_epoch"], row["end_offset"]

    def fill(self, where: Where, records: int) -> tuple[int, int]:
        """Append so many records that nobody minds."""
        return self.produce(where, make.batch([b"filler"] * records, self.node.now_ms()))

    # ------------------------------------------------------------ everything

    def ask_all(self) -> Answers:
        answers = self.answers
        for row in self.request(k03_metadata.API, {"topics": None})["topics"]:
            answers.topics[row["name"]] = row["topic_id"]
            for partition in row["partitions"]:
                where = row["name"], partition["partition_index"]
                answers.epochs[where] = partition["leader_epoch"]
                if partition["error_code"] != NONE:
                    answers.errors.append(f"{where}: Metadata got error {partition['error_code']}")
        for where in answers.epochs:
            answers.starts[where], answers.ends[where] = self.offset(where, EARLIEST), self.offset(where, LATEST)
            answers.log[where] = self.read(where)
        group = self.request(k09_offset_fetch.API, {"groups": [{"group_id": GROUP, "topics": None}]})["groups"][0]
        if group["error_code"] != NONE:
            answers.errors.append(f"OffsetFetch got error {group['error_code']}")
        answers.committed = {(topic["name"], row["partition_index"]): (row["committed_offset"], row["committed_leader_epoch"])
                             for topic in group["topics"] for row in topic["partitions"]}
        batches = [batch for (topic, _), found in answers.log.items() if topic == OFFSETS_TOPIC for batch in found]
        answers.replayed = {(topic, number): (offset, epoch) for (group, topic, number), (offset, epoch, topic_id)
                            in replay_offsets(batches).items() if group == GROUP and answers.topics.get(topic) in (topic_id, ZERO_ID)}
        return answers


def start_on(image: Image, config: Config, now_ms: int) -> Node:
    """A broker on this image. Raises StartupError. Its ids begin where no other's did."""
    ids = count(1 << 32)
    return Node(SimDisk(image, sites=False), config, start_ms=now_ms, new_uuid=lambda: UUID(int=(0x4000 << 64) | (0x8 << 60) | next(ids)))


class NoAnswer(Exception):
    """A request that a broker must answer at once was not answered."""


def replay_offsets(batches: list[StoredBatch]) -> dict[tuple[str, str, int], tuple[int, int, UUID]]:
    """(group, topic, partition) -> (offset, leader epoch, topic id): the last record for each key, by hand. Of the value
    versions that are written, 4 is flexible and has the topic id as its only tagged field."""
    found: dict[tuple[str, str, int], tuple[int, int, UUID]] = {}
    for batch in batches:
        for record in DefaultRecordBatch(batch.data):
            (kind,) = struct.unpack_from(">h", record.key)
            if kind not in (0, 1):
                continue
            group, place = _text(record.key, 2)
            topic, place = _text(record.key, place)
            key = group, topic, struct.unpack_from(">i", record.key, place)[0]
            if record.value is None:
                found.pop(key, None)
            else:
                found[key] = _value(record.value)
    return found


def _value(data: bytes) -> tuple[int, int, UUID]:
    version, offset = struct.unpack_from(">hq", data)
    epoch = struct.unpack_from(">i", data, 10)[0] if version >= 3 else -1
    topic_id = ZERO_ID
    if version >= 4 and data[-17] == 16:  # one tagged field of 16 bytes is the last thing in it
        topic_id = UUID(bytes=bytes(data[-16:]))
    return offset, epoch, topic_id


def _text(data: bytes, place: int) -> tuple[str, int]:
    (length,) = struct.unpack_from(">h", data, place)
    return data[place + 2:place + 2 + length].decode(), place + 2 + length
