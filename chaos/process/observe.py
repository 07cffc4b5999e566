"""What does the broker hold after its restart? Asked through a real client, and read from its files.

The client is librdkafka with CRC checks on. All calls are bounded in time: a broker that does not answer within the bound has
failed to recover, which is a finding, not a reason to wait. An error is no answer (right after a start Kafka says
UNKNOWN_LEADER_EPOCH, or that a coordinator is loading): the question is asked again.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from chaos.checks.history.case import Kept
from chaos.history import identify, resembles
from chaos.logfile import StoredSegment, partition_directories, read_partition

ANSWER_SECONDS_MAX = 20.0
T = TypeVar("T")


class NoAnswer(Exception):
    """The broker did not answer within the bound."""


class Unreadable(NoAnswer):
    """It answered with something that the client refuses: a batch whose CRC is not its own, say."""

    def __init__(self, topic: str, partition: int, text: str):
        super().__init__(f"{topic}-{partition}: {text}")
        self.topic, self.partition = topic, partition


def _answered(what: str, ask: Callable[[], T]) -> T:
    """Ask until there is an answer without an error. Raises NoAnswer."""
    deadline = time.monotonic() + ANSWER_SECONDS_MAX
    while True:
        try:
            return ask()
        except KafkaException as error:
            if time.monotonic() > deadline:
                raise NoAnswer(f"{what}: {error}") from None
        time.sleep(0.1)


def _good(partition: TopicPartition) -> TopicPartition:
    """An answer about one partition; its error, if it is one, is raised."""
    if partition.error is not None:
        raise KafkaException(partition.error)
    return partition


def create_topics(bootstrap: str, topics: dict[str, int], configs: dict[str, str]) -> None:
    """Create topics and return when the broker has said that they exist. Raises NoAnswer, KafkaException."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    futures = admin.create_topics([NewTopic(name, count, 1, config=configs) for name, count in topics.items()],
                                  request_timeout=ANSWER_SECONDS_MAX)
    for name, future in futures.items():
        try:
            future.result(ANSWER_SECONDS_MAX)
        except (TimeoutError, KafkaException) as error:
            if isinstance(error, KafkaException) and error.args[0].code() not in (KafkaError._TIMED_OUT, KafkaError._TRANSPORT):
                raise
            raise NoAnswer(f"whether topic {name} was made: {error}") from None


def delete_topics(bootstrap: str, topics: Iterable[str]) -> None:
    """Ask for the deletion of topics; what is not there, cannot be deleted, or whose broker is gone, stays."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    for future in admin.delete_topics(list(topics), request_timeout=ANSWER_SECONDS_MAX).values():
        with suppress(TimeoutError):
            future.exception(ANSWER_SECONDS_MAX)


def topics(bootstrap: str) -> set[str]:
    """The names of all topics."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    return set(admin.list_topics(timeout=ANSWER_SECONDS_MAX).topics)


def read_all(bootstrap: str, topics: dict[str, int]) -> tuple[dict, dict]:
    """({(topic, partition): [Kept]}, {(topic, partition): log end offset}) as a consumer from the beginning gets it; a partition that is
    not there holds nothing. Raises NoAnswer, Unreadable."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "chaos-reader", "enable.auto.commit": False,
                         "auto.offset.reset": "error", "check.crcs": True, "enable.partition.eof": True,
                         "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200, "fetch.wait.max.ms": 20, "log_level": 0})
    log, ends, open_partitions = {}, {}, set()
    try:
        for where in ((topic, number) for topic, count in topics.items() for number in range(count)):
            low, high = _watermarks(consumer, where)
            log[where], ends[where] = [], high
            if high > low:
                open_partitions.add(where)
        consumer.assign([TopicPartition(*where, 0) for where in open_partitions])
        while open_partitions:
            message = consumer.poll(ANSWER_SECONDS_MAX)
            if message is None:
                places = "; ".join(_place(consumer, where) for where in sorted(open_partitions))
                raise NoAnswer(f"no more records, and no end, within {ANSWER_SECONDS_MAX:.0f} s: {places}")
            where = (message.topic(), message.partition())
            if message.error() is None:
                log[where].append(_kept(message))
            elif message.error().code() == KafkaError._PARTITION_EOF:
                open_partitions.discard(where)
            else:
                raise Unreadable(*where, str(message.error()))
    finally:
        consumer.close()
    return log, ends


def _place(consumer: Consumer, where: tuple[str, int]) -> str:
    """Where a consumer is, and where it was last told that the end is."""
    (position,), (_, end) = consumer.position([TopicPartition(*where)]), consumer.get_watermark_offsets(TopicPartition(*where), cached=True)
    return f"{where[0]}-{where[1]} read below {position.offset}, the high watermark of the last Fetch was {end}"


def _watermarks(consumer: Consumer, where: tuple[str, int]) -> tuple[int, int]:
    """Log start and log end; (0, 0) of a partition that is not there."""
    def ask() -> tuple[int, int]:
        try:
            return consumer.get_watermark_offsets(TopicPartition(*where), timeout=ANSWER_SECONDS_MAX)
        except KafkaException as error:
            if error.args[0].code() in (KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART):
                return 0, 0
            raise

    try:
        return _answered("its ends", ask)
    except NoAnswer as error:
        raise Unreadable(*where, str(error)) from None


def _kept(message) -> Kept:
    value, epoch = message.value() or b"", message.leader_epoch()
    identity = identify(value)
    return Kept(message.offset(), identity, -1 if epoch is None else epoch, message.timestamp()[1], None if identity else resembles(value))


def committed_offsets(bootstrap: str, group: str, topics: dict[str, int]) -> dict[tuple[str, str, int], int]:
    """{(group, topic, partition): offset} of what the coordinator answers."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    asked = [TopicPartition(topic, number) for topic, count in topics.items() for number in range(count)]

    def ask() -> dict[tuple[str, str, int], int]:
        future = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group, asked)], request_timeout=ANSWER_SECONDS_MAX)[group]
        answer = map(_good, future.result(ANSWER_SECONDS_MAX + 5).topic_partitions)
        return {(group, each.topic, each.partition): each.offset for each in answer if each.offset >= 0}

    return _answered(f"the offsets of {group}", ask)


def offsets_for_times(bootstrap: str, wanted: dict[tuple[str, int], list[int]]) -> dict[tuple[str, int, int], int]:
    """{(topic, partition, timestamp): offset}; -1 where every record is older."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "chaos-reader", "log_level": 0})
    answers = {}
    try:
        for (topic, number), timestamps in wanted.items():
            for timestamp in timestamps:
                asked = TopicPartition(topic, number, timestamp)
                answers[topic, number, timestamp] = _answered(f"{topic}-{number} at time {timestamp}", lambda asked=asked: _good(
                    consumer.offsets_for_times([asked], timeout=ANSWER_SECONDS_MAX)[0])).offset
    finally:
        consumer.close()
    return answers


def read_files(data_dir: Path, topics: dict[str, int]) -> dict[tuple[str, int], list[StoredSegment]]:
    """The segments of every partition of these topics, from its files."""
    return {where: read_partition(path) for where, path in partition_directories(data_dir).items() if where[0] in topics}
