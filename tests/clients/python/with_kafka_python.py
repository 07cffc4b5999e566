"""kafka-python."""

import time

import kafka.errors
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.structs import OffsetAndMetadata
from suite import SECONDS_MAX, UNKNOWN_TOPIC_OR_PARTITION, Client, KafkaCode, Member, Message, Sender, Suite


def told(call, *arguments, **options):
    """Call, with kafka-python's exceptions turned into the code that the broker sent."""
    try:
        return call(*arguments, **options)
    except KafkaError as problem:
        raise KafkaCode(problem.errno, problem) from problem


def message_of(raw) -> Message:
    return Message(raw.value, raw.key, list(raw.headers), raw.timestamp, raw.partition, raw.offset)


class GroupMember(Member):
    def __init__(self, bootstrap: str, group: str, topic: str):
        self.consumer = KafkaConsumer(
            topic,
            bootstrap_servers=bootstrap,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            heartbeat_interval_ms=200,
            session_timeout_ms=10000,
        )
        # A leader that learns of the topic after it has joined joins again, and forgets that where a poll is too short for it.
        self.consumer.partitions_for_topic(topic)

    def poll(self) -> list[Message]:
        return [message_of(raw) for batch in self.consumer.poll(300).values() for raw in batch]

    def assigned(self) -> int:
        return len(self.consumer.assignment())

    def commit(self, topic: str, offsets: dict[int, int]) -> None:
        self.consumer.commit(
            {
                TopicPartition(topic, partition): OffsetAndMetadata(offset, "", -1)
                for partition, offset in offsets.items()
            }
        )

    def close(self) -> None:
        self.consumer.close()


class IdempotentSender(Sender):
    def __init__(self, bootstrap: str):
        self.producer = KafkaProducer(
            bootstrap_servers=bootstrap,
            enable_idempotence=True,
            acks="all",
            batch_size=1000,
            linger_ms=1,
            request_timeout_ms=10000,
            reconnect_backoff_max_ms=500,
        )
        self.futures: list = []

    def send(self, topic: str, value: bytes) -> None:
        self.futures.append(self.producer.send(topic, value, partition=0))

    def flush(self) -> list[int]:
        return [told(future.get, 120).offset for future in self.futures]

    def close(self) -> None:
        self.producer.close()


class KafkaPython(Client):
    name = "kafka-python"
    headers = [header for header in Client.headers if header[1] is not None]
    pairs = [pair for pair in Client.pairs if pair != (None, None)]

    def __init__(self, bootstrap: str):
        super().__init__(bootstrap)
        self.admin = KafkaAdminClient(bootstrap_servers=bootstrap, reconnect_backoff_max_ms=500)

    def create_topic(self, name, partitions, replicas=1, configs=None):
        told(
            self.admin.create_topics,
            {name: {"num_partitions": partitions, "replication_factor": replicas, "configs": configs or {}}},
        )

    def delete_topic(self, name):
        told(self.admin.delete_topics, [name])

    def topics(self):
        return set(told(self.admin.list_topics))

    def partition_count(self, name):
        return len(told(self.admin.describe_topics, [name])[0]["partitions"])

    def create_partitions(self, name, total):
        told(self.admin.create_partitions, {name: total})

    def topic_config(self, name, key):
        described = told(
            self.admin.describe_configs, [ConfigResource(ConfigResourceType.TOPIC, name, [key])], config_filter="all"
        )
        entry = described["topic"][name][key]
        return entry["value"], entry["config_source"] == "DYNAMIC_TOPIC_CONFIG"

    def set_topic_config(self, name, key, value):
        change = ConfigResource(
            ConfigResourceType.TOPIC, name, {key: ("DELETE", None) if value is None else ("SET", value)}
        )
        answer = told(self.admin.alter_configs, [change], raise_on_unknown=False)["topic"][name]
        if "error" in str(answer).lower():
            raise KafkaCode(int(str(answer).partition("[Error ")[2].partition("]")[0]), answer)

    def delete_records(self, name, before):
        return told(self.admin.delete_records, {TopicPartition(name, 0): before})[TopicPartition(name, 0)][
            "low_watermark"
        ]

    def _with_consumer(self, call):
        consumer = KafkaConsumer(bootstrap_servers=self.bootstrap)
        try:
            return told(call, consumer)
        finally:
            consumer.close()

    def earliest(self, name):
        return self._with_consumer(
            lambda consumer: consumer.beginning_offsets([TopicPartition(name, 0)])[TopicPartition(name, 0)]
        )

    def latest(self, name):
        return self._with_consumer(
            lambda consumer: consumer.end_offsets([TopicPartition(name, 0)])[TopicPartition(name, 0)]
        )

    def offset_at(self, name, timestamp_ms):
        partition = TopicPartition(name, 0)
        found = self._with_consumer(lambda consumer: consumer.offsets_for_times({partition: timestamp_ms})[partition])
        return found and found.offset

    def produce(self, name, messages, codec="none", large=False):
        options = {"compression_type": None if codec == "none" else codec, "linger_ms": 20}
        options["max_block_ms"] = 1000 * SECONDS_MAX if name in self.topics() else 2000
        producer = KafkaProducer(
            bootstrap_servers=self.bootstrap, **options, **({"max_request_size": 5_000_000} if large else {})
        )
        try:
            futures = [
                producer.send(
                    name, message.value, message.key, message.headers, message.partition, message.timestamp_ms
                )
                for message in messages
            ]
            return [told(future.get, SECONDS_MAX).offset for future in futures]
        except KafkaTimeoutError as problem:  # no metadata within max_block_ms: its word for an unknown topic
            raise KafkaCode(UNKNOWN_TOPIC_OR_PARTITION, problem) from problem
        finally:
            producer.close()

    def read(self, name, count, start=None):
        partition = TopicPartition(name, 0)
        consumer = KafkaConsumer(bootstrap_servers=self.bootstrap, auto_offset_reset="none", check_crcs=True)
        messages: list[Message] = []
        deadline = time.monotonic() + SECONDS_MAX
        try:
            consumer.assign([partition])
            consumer.seek_to_beginning(partition) if start is None else consumer.seek(partition, start)
            while len(messages) < count and time.monotonic() < deadline:
                messages += [message_of(raw) for raw in told(consumer.poll, 500).get(partition, [])]
        finally:
            consumer.close()
        return messages

    def member(self, group, name):
        return GroupMember(self.bootstrap, group, name)

    def sender(self):
        return IdempotentSender(self.bootstrap)

    def groups(self):
        return {one["group_id"] for one in told(self.admin.list_groups)}

    def describe_group(self, group):
        described = told(self.admin.describe_groups, [group])[group]
        return described["group_state"], len(described["members"])

    def delete_group(self, group):
        outcome = told(self.admin.delete_groups, [group])[group]
        if outcome != "OK":  # the name of an exception
            raise KafkaCode(getattr(kafka.errors, outcome).errno, outcome)

    def committed(self, group, name, partition=0):
        return told(self.admin.list_group_offsets, {group: None})[group][TopicPartition(name, partition)].offset

    def commit(self, group, name, offset):
        answers = told(
            self.admin.alter_group_offsets, group, {TopicPartition(name, 0): OffsetAndMetadata(offset, "", -1)}
        )
        for error in answers.values():
            if error.errno:
                raise KafkaCode(error.errno, error)


def make(bootstrap: str, ask) -> Suite:
    return Suite(KafkaPython(bootstrap), ask)
