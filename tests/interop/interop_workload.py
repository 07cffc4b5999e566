"""What is written into the directories that are then exchanged, and how it is read back.

Topics with small indexes, so that a few hundred small batches fill many segments: one for each codec with an idempotent
producer, one with plain producers on two partitions, one with log-append time, one whose first records are deleted; and
a group's commits, so that `__consumer_offsets` has content."""

import random
import time

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
SMALL = {"index.interval.bytes": "300", "segment.index.bytes": "96"}  # a segment is full after 12 offset index entries
TOPICS = {
    **{f"interop-{codec}": (1, SMALL) for codec in CODECS},
    "interop-plain": (2, SMALL),
    "interop-append-time": (1, {**SMALL, "message.timestamp.type": "LogAppendTime"}),
    "interop-deleted": (1, SMALL),
}
PROPERTIES = {
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    "offsets.topic.num.partitions": "1",
    "log.flush.offset.checkpoint.interval.ms": "1000",
    "log.flush.start.offset.checkpoint.interval.ms": "1000",
    "log.retention.ms": "-1",
}
RECORDS = 400
DELETED_BEFORE = 150
READ_SECONDS_MAX = 60
START_MS = 1_795_446_000_000


def create_topics(bootstrap: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    wanted = [NewTopic(name, partitions, 1, config=configs) for name, (partitions, configs) in TOPICS.items()]
    for future in admin.create_topics(wanted).values():
        future.result(60)
    deadline = time.monotonic() + READ_SECONDS_MAX
    while not set(TOPICS) <= set(admin.list_topics(timeout=30).topics):
        assert time.monotonic() < deadline, "the topics did not appear"
        time.sleep(0.05)


def write(bootstrap: str) -> None:
    """All topics' records, the deletion, the commits."""
    for name, (partitions, _) in TOPICS.items():
        codec = name.removeprefix("interop-")
        options = {
            "compression.type": codec if codec in CODECS else "none",
            "enable.idempotence": name != "interop-plain",
        }
        for source in (random.Random(name), random.Random(name + "'")):  # two producers, one after the other
            _produce(bootstrap, name, partitions, options, source)
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.delete_records([TopicPartition("interop-deleted", 0, DELETED_BEFORE)]).values():
        future.result(30)
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "interop-group", "enable.auto.commit": False})
    for offset in range(1, 20):
        consumer.commit(
            offsets=[TopicPartition("interop-plain", 0, offset), TopicPartition("interop-none", 0, offset * 3)],
            asynchronous=False,
        )
    consumer.close()


def append(bootstrap: str) -> None:
    """More records, by plain producers: a directory from another cluster knows producer ids that this one hands out again."""
    for name, (partitions, _) in TOPICS.items():
        _produce(bootstrap, name, partitions, {"enable.idempotence": False}, random.Random(name))


def _produce(bootstrap: str, topic: str, partitions: int, options: dict, source: random.Random) -> None:
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "batch.num.messages": 7, **options})
    refused = []
    for i in range(RECORDS // 2):
        value = None if i % 11 == 0 else b"value-%d " % i * source.randrange(1, 12)
        producer.produce(
            topic,
            value,
            None if i % 7 == 0 else b"key-%d" % source.randrange(50),
            partition=i % partitions,
            timestamp=START_MS + i * 10,
            headers=[("h", b"x"), ("n", None)] if i % 5 == 0 else None,
            on_delivery=lambda error, _: refused.append(error) if error else None,
        )
        producer.poll(0)
    producer.flush(60)
    assert not refused, refused[0]


def committed(bootstrap: str) -> int:
    """What the group committed last for interop-plain-0."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "interop-group"})
    (found,) = consumer.committed([TopicPartition("interop-plain", 0)], timeout=READ_SECONDS_MAX)
    consumer.close()
    return found.offset


def read(bootstrap: str) -> dict[tuple[str, int], list[tuple]]:
    """(topic, partition) -> (offset, timestamp, key, value, headers) of all records, as a consumer gets them."""
    found = {}
    for name, (partitions, _) in TOPICS.items():
        for number in range(partitions):
            found[name, number] = _read_partition(bootstrap, name, number)
    return found


def _read_partition(bootstrap: str, topic: str, number: int) -> list[tuple]:
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "reader",
            "enable.auto.commit": False,
            "check.crcs": True,
            "auto.offset.reset": "error",
        }
    )
    deadline = time.monotonic() + READ_SECONDS_MAX
    while True:  # a broker that has just started may not lead the partition yet
        try:
            first, end = consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=10)
            break
        except Exception:
            assert time.monotonic() < deadline, f"no offsets of {topic}-{number}"
            time.sleep(0.1)
    consumer.assign([TopicPartition(topic, number, first)])
    records = []
    while first + len(records) < end:
        for message in consumer.consume(500, 1.0):
            assert message.error() is None, f"{topic}-{number}: {message.error()}"
            records.append((message.offset(), message.timestamp(), message.key(), message.value(), message.headers()))
        assert time.monotonic() < deadline, (
            f"{topic}-{number}: {len(records)} records of {end - first} in {READ_SECONDS_MAX} s"
        )
    consumer.close()
    assert [record[0] for record in records] == list(range(first, end))
    return records


def check_served(served: dict, records: dict) -> None:
    """Everything is there. Only what a deletion hid may be seen again: it is in a checkpoint of the whole data directory,
    which a kill and a copied partition come without."""
    for place, expected in records.items():
        first = expected[0][0]
        assert [record for record in served[place] if record[0] >= first] == expected, place
        if place[0] != "interop-deleted":
            assert len(served[place]) == len(expected), place
