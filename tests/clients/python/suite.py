"""The scenarios (tests/clients/scenarios.py) once, for all clients that Python can drive.

Each client is a class with the methods of `Client`, written with that client's own calls: the class is where to read how
a client is used. What a client cannot do at all is in its `lacks`, and that scenario is skipped with the reason.
"""

import itertools
import random
import threading
import time
import traceback
from dataclasses import dataclass, field

SECONDS_MAX = 30
UNKNOWN_TOPIC_OR_PARTITION, MESSAGE_TOO_LARGE, INVALID_TOPIC, TOPIC_ALREADY_EXISTS = 3, 10, 17, 36
INVALID_PARTITIONS, INVALID_REPLICATION_FACTOR, INVALID_CONFIG, OFFSET_OUT_OF_RANGE, GROUP_ID_NOT_FOUND = (
    37,
    38,
    40,
    1,
    69,
)


class KafkaCode(Exception):
    """The broker refused with this error code; what every client's own exception is turned into."""

    def __init__(self, code: int, message: object = ""):
        super().__init__(f"error code {code} {message}")
        self.code = code


@dataclass
class Message:
    value: bytes | None
    key: bytes | None = None
    headers: list[tuple[str, bytes | None]] = field(default_factory=list)
    timestamp_ms: int | None = None
    partition: int = 0
    offset: int = -1


class Client:
    """What a client must offer. Topics and groups by name; errors as KafkaCode."""

    name = "client"
    can_delete_groups = True
    # Headers and (key, value) pairs that it must carry; a client names fewer where it cannot express one.
    headers = [
        ("a", b"1"),
        ("a", b"2"),
        ("empty", b""),
        ("", b"no name"),
        ("\u00fc\u20ac", b"\x00\xff\x80"),
        ("null", None),
    ]
    pairs = [(None, b"v"), (b"k", None), (None, None), (b"", b""), (b"k", b"v")]
    lacks: dict[str, str] = {}  # scenario: why the client cannot do it

    def __init__(self, bootstrap: str):
        self.bootstrap = bootstrap

    # topics: create_topic(name, partitions, replicas=1, configs={}), delete_topic(name), topics() -> set of names,
    #   partition_count(name), create_partitions(name, total), topic_config(name, key) -> (value, set by the topic?),
    #   set_topic_config(name, key, value or None to unset), delete_records(name, before) -> low watermark
    # offsets: earliest(name), latest(name), offset_at(name, timestamp_ms) -> offset or None; all of partition 0
    # records: produce(name, messages, codec="none", large=False) -> offsets;
    #   read(name, count, start=None) -> messages of partition 0, from the beginning or an offset, OFFSET_OUT_OF_RANGE told
    # groups: member(group, name) -> Member, groups() -> set of ids, describe_group(group) -> (state, member count),
    #   delete_group(group), committed(group, name, partition=0) -> offset or None, commit(group, name, offset)
    # idempotent producer: sender() -> Sender


class Member:
    """A group member: poll() -> messages, assigned() -> number of partitions, commit(name, {partition: offset}), close()."""


class Sender:
    """An idempotent producer with acks=all: send(name, value), flush() -> the acknowledged offsets in order, close()."""


def check(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)


def equal(expected, actual, what: str) -> None:
    check(expected == actual, f"{what}: expected {str(expected)[:80]}, got {str(actual)[:80]}")


def eventually(what: str, holds):
    deadline = time.monotonic() + SECONDS_MAX
    while not (value := holds()):
        check(time.monotonic() < deadline, f"not within {SECONDS_MAX} s: {what}")
        time.sleep(0.02)
    return value


def fails(code: int, call, *arguments, **options) -> None:
    try:
        call(*arguments, **options)
    except KafkaCode as error:
        equal(code, error.code, f"error code of {call.__name__} ({error})")
    else:
        raise AssertionError(f"{call.__name__} succeeded, expected error code {code}")


def numbered(count: int) -> list[Message]:
    return [Message(b"v%d" % i, b"k%d" % i) for i in range(count)]


class Suite:
    def __init__(self, client: Client, ask):
        self.client = client
        self.ask = ask
        self.run = format(int(time.time() * 1000), "x")

    def scenarios(self) -> dict:
        codecs = {
            f"codec-{codec}": (lambda codec=codec: self.codec(codec))
            for codec in ("none", "gzip", "snappy", "lz4", "zstd")
        }
        return codecs | {
            "headers": self.headers,
            "nulls": self.nulls,
            "rebalance": self.rebalance,
            "commit-resume": self.commit_resume,
            "seek-by-time": self.seek_by_time,
            "admin-topics": self.admin_topics,
            "admin-configs": self.admin_configs,
            "admin-groups": self.admin_groups,
            "delete-records": self.delete_records,
            "idempotent-across-kill": self.idempotent_across_kill,
            "error-unknown-topic": self.unknown_topic,
            "error-too-large": self.too_large,
            "error-offset-out-of-range": self.offset_out_of_range,
            "error-bad-config": self.bad_config,
        }

    def perform(self, names: list[str]) -> None:
        scenarios = self.scenarios()
        for name in names or scenarios:
            if name in self.client.lacks:
                print(f"SKIP {name}: {self.client.lacks[name]}", flush=True)
                continue
            try:
                scenarios[name]()
                print(f"PASS {name}", flush=True)
            except Exception as problem:  # whatever went wrong is this scenario's failure, and the next one is tried
                traceback.print_exc()
                print(f"FAIL {name}: {type(problem).__name__} {problem}".replace("\n", " "), flush=True)

    def name(self, scenario: str) -> str:
        return f"{self.client.name}-{scenario}-{self.run}"

    def topic(self, scenario: str, partitions: int = 1) -> str:
        name = self.name(scenario)
        self.client.create_topic(name, partitions)
        eventually(f"{name} in the metadata", lambda: name in self.client.topics())
        return name

    def codec(self, codec: str) -> None:
        topic = self.topic(f"codec-{codec}")
        source = random.Random(7)
        messages = [
            Message(b"".join(b"aa" + source.randbytes(1) for _ in range(i * 7 // 3)), b"key-%d" % i) for i in range(500)
        ]
        self.client.produce(topic, messages, codec)
        got = self.client.read(topic, len(messages))
        for i, (sent, read) in enumerate(zip(messages, got, strict=True)):
            equal((i, sent.key), (read.offset, read.key), "offset and key")
            equal(sent.value, read.value, f"value at {i}")

    def headers(self) -> None:
        topic = self.topic("headers")
        headers = self.client.headers
        self.client.produce(topic, [Message(b"v", b"k", headers)])
        equal(headers, self.client.read(topic, 1)[0].headers, "headers")

    def nulls(self) -> None:
        topic = self.topic("nulls")
        pairs = self.client.pairs
        self.client.produce(topic, [Message(value, key) for key, value in pairs])
        equal(pairs, [(read.key, read.value) for read in self.client.read(topic, len(pairs))], "keys and values")

    def rebalance(self) -> None:
        topic, group = self.topic("rebalance", 4), self.name("rebalance")
        seen: set = set()
        ends: dict = {}
        first = self.client.member(group, topic)
        self.settle(seen, ends, [first], [4])
        second = self.client.member(group, topic)
        self.settle(seen, ends, [first, second], [2, 2])
        self.everywhere(topic, b"both")
        eventually("80 records at two members", lambda: self.drain(seen, ends, [first, second]) or len(seen) == 80)
        first.commit(topic, {partition: ends[0, partition] for member, partition in ends if member == 0})
        second.commit(topic, {partition: ends[1, partition] for member, partition in ends if member == 1})
        second.close()
        self.settle(seen, ends, [first], [4])
        self.everywhere(topic, b"one")
        eventually("160 records in all", lambda: self.drain(seen, ends, [first]) or len(seen) == 160)
        first.close()

    def everywhere(self, topic: str, tag: bytes) -> None:
        self.client.produce(topic, [Message(tag, partition=i % 4) for i in range(80)])

    def drain(self, seen: set, ends: dict, members: list) -> None:
        for index, member in enumerate(members):
            for message in member.poll():
                place = message.partition, message.offset
                check(place not in seen, f"record {place} came twice")
                seen.add(place)
                ends[index, message.partition] = message.offset + 1

    def settle(self, seen: set, ends: dict, members: list, sizes: list[int]) -> None:
        eventually(
            f"assignment {sizes}",
            lambda: self.drain(seen, ends, members) or [member.assigned() for member in members] == sizes,
        )

    def commit_resume(self) -> None:
        topic, group = self.topic("commit"), self.name("commit")
        self.client.produce(topic, numbered(20))
        first = self.client.member(group, topic)
        got: list[Message] = []
        eventually("10 records", lambda: got.extend(first.poll()) or len(got) >= 10)
        first.commit(topic, {0: 10})
        first.close()
        equal(10, self.client.committed(group, topic), "committed offset")
        second = self.client.member(group, topic)
        got = []
        eventually("10 records", lambda: got.extend(second.poll()) or len(got) >= 10)
        second.close()
        equal(list(range(10, 20)), [message.offset for message in got], "offsets after the resume")

    def seek_by_time(self) -> None:
        topic = self.topic("time")
        start_ms = int(time.time() * 1000) - 3_600_000
        messages = numbered(10)
        for i, message in enumerate(messages):
            message.timestamp_ms = start_ms + i * 1000
        self.client.produce(topic, messages)
        equal(5, self.client.offset_at(topic, start_ms + 4500), "offset by time")
        equal(None, self.client.offset_at(topic, start_ms + 9001), "offset after the last")
        first = self.client.read(topic, 5, start=5)[0]
        equal((5, start_ms + 5000), (first.offset, first.timestamp_ms), "first record read")

    def admin_topics(self) -> None:
        client, topic = self.client, self.name("admin")
        client.create_topic(topic, 3, configs={"segment.bytes": "2000000"})
        fails(TOPIC_ALREADY_EXISTS, client.create_topic, topic, 3)
        eventually("listed", lambda: topic in client.topics())
        equal(3, client.partition_count(topic), "partitions")
        client.create_partitions(topic, 5)
        eventually("5 partitions", lambda: client.partition_count(topic) == 5)
        fails(INVALID_PARTITIONS, client.create_partitions, topic, 2)
        client.delete_topic(topic)
        eventually("not listed any more", lambda: topic not in client.topics())
        fails(UNKNOWN_TOPIC_OR_PARTITION, client.delete_topic, topic)

    def admin_configs(self) -> None:
        client, topic = self.client, self.topic("configs")
        equal(("604800000", False), client.topic_config(topic, "retention.ms"), "retention.ms")
        client.set_topic_config(topic, "retention.ms", "123456")
        eventually("retention.ms of the topic", lambda: client.topic_config(topic, "retention.ms") == ("123456", True))
        client.set_topic_config(topic, "retention.ms", None)
        eventually("retention.ms unset", lambda: client.topic_config(topic, "retention.ms") == ("604800000", False))

    def admin_groups(self) -> None:
        client, topic, group = self.client, self.topic("groups", 2), self.name("groups")
        member = client.member(group, topic)
        self.settle(set(), {}, [member], [2])
        equal(("Stable", 1), client.describe_group(group), "state and members")
        member.commit(topic, {0: 0})
        member.close()
        eventually("group empty", lambda: client.describe_group(group) == ("Empty", 0))
        check(group in client.groups(), "not listed")
        client.commit(group, topic, 7)
        equal(7, client.committed(group, topic), "altered offset")
        if client.can_delete_groups:
            client.delete_group(group)
            fails(GROUP_ID_NOT_FOUND, client.delete_group, group)

    def delete_records(self) -> None:
        topic = self.topic("delete")
        self.client.produce(topic, numbered(10))
        equal(4, self.client.delete_records(topic, 4), "low watermark")
        equal((4, 10), (self.client.earliest(topic), self.client.latest(topic)), "earliest and latest")
        equal(4, self.client.read(topic, 6)[0].offset, "first offset read")
        fails(OFFSET_OUT_OF_RANGE, self.client.delete_records, topic, 11)

    def idempotent_across_kill(self) -> None:
        topic, count = self.topic("kill"), 4000
        sender = self.client.sender()
        quarter = threading.Event()

        def send_all() -> None:
            for i in range(count):
                sender.send(topic, b"v%d" % i)
                if i == count // 4:
                    quarter.set()
                if i % 10 == 0:
                    time.sleep(0.001)

        sending = threading.Thread(target=send_all)
        sending.start()
        check(quarter.wait(SECONDS_MAX), "sending did not get to a quarter")
        self.ask("kill-restart")
        sending.join()
        offsets = sender.flush()
        sender.close()
        for i, offset in enumerate(offsets or []):
            # -1: a duplicate, of which the broker no longer knew the offset
            check(offset in (i, -1), f"record {i} was acknowledged at {offset}")
        got = self.client.read(topic, count)
        for i, message in zip(itertools.count(), got, strict=False):
            equal((i, b"v%d" % i), (message.offset, message.value), "record")

    def unknown_topic(self) -> None:
        topic = self.name("nowhere")
        fails(UNKNOWN_TOPIC_OR_PARTITION, self.client.produce, topic, [Message(b"v")])
        check(topic not in self.client.topics(), "the topic was created")

    def too_large(self) -> None:
        topic = self.topic("large")
        fails(MESSAGE_TOO_LARGE, self.client.produce, topic, [Message(bytes(2_000_000))], large=True)
        self.client.produce(topic, [Message(b"small")])
        equal((0, b"small"), (lambda read: (read.offset, read.value))(self.client.read(topic, 1)[0]), "the next record")

    def offset_out_of_range(self) -> None:
        topic = self.topic("range")
        self.client.produce(topic, numbered(3))
        fails(OFFSET_OUT_OF_RANGE, self.client.read, topic, 1, start=1000)
        equal(1, self.client.read(topic, 2, start=1)[0].offset, "offset after a good seek")

    def bad_config(self) -> None:
        client, topic, refused = self.client, self.topic("bad"), self.name("bad2")
        fails(INVALID_CONFIG, client.create_topic, refused, 1, configs={"no.such.key": "1"})
        fails(INVALID_CONFIG, client.create_topic, refused, 1, configs={"retention.ms": "soon"})
        fails(INVALID_REPLICATION_FACTOR, client.create_topic, refused, 1, replicas=3)
        fails(INVALID_PARTITIONS, client.create_topic, refused, 0)
        fails(INVALID_TOPIC, client.create_topic, "no spaces please", 1)
        fails(INVALID_CONFIG, client.set_topic_config, topic, "segment.bytes", "many")
        fails(INVALID_CONFIG, client.set_topic_config, topic, "no.such.key", "1")
        check(refused not in client.topics(), "a refused topic was created")
