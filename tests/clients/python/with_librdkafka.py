"""librdkafka, through confluent-kafka."""

import time

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka import admin as rd_admin
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewPartitions,
    NewTopic,
)
from suite import SECONDS_MAX, Client, KafkaCode, Member, Message, Sender, Suite


def refusal(error: KafkaError) -> KafkaCode:
    # Below zero are librdkafka's own codes; these two are its words for a broker's refusal that it saw in the metadata or a fetch.
    own = {KafkaError._UNKNOWN_TOPIC: 3, KafkaError._AUTO_OFFSET_RESET: 1}
    return KafkaCode(own.get(error.code(), error.code()), error.str())


def results(futures: dict) -> list:
    try:
        return [future.result(SECONDS_MAX) for future in futures.values()]
    except KafkaException as problem:
        raise refusal(problem.args[0]) from problem


def message_of(raw) -> Message:
    if raw.error():
        raise refusal(raw.error())
    return Message(raw.value(), raw.key(), list(raw.headers() or []), raw.timestamp()[1], raw.partition(), raw.offset())


class GroupMember(Member):
    def __init__(self, bootstrap: str, group: str, topic: str):
        self.consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": group,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "heartbeat.interval.ms": 200,
                "session.timeout.ms": 10000,
                "partition.assignment.strategy": "range",
            }
        )
        self.consumer.subscribe([topic])

    def poll(self) -> list[Message]:
        return [message_of(raw) for raw in self.consumer.consume(100, 0.05)]

    def assigned(self) -> int:
        return len(self.consumer.assignment())

    def commit(self, topic: str, offsets: dict[int, int]) -> None:
        self.consumer.commit(
            offsets=[TopicPartition(topic, partition, offset) for partition, offset in offsets.items()],
            asynchronous=False,
        )

    def close(self) -> None:
        self.consumer.close()


class IdempotentSender(Sender):
    def __init__(self, bootstrap: str):
        self.producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "linger.ms": 1,
                "batch.num.messages": 20,
                "message.timeout.ms": 120000,
                "retry.backoff.ms": 50,
            }
        )
        self.offsets: list[int] = []
        self.errors: list[KafkaError] = []

    def send(self, topic: str, value: bytes) -> None:
        self.producer.produce(topic, value, partition=0, on_delivery=self._delivered)
        self.producer.poll(0)

    def _delivered(self, error, raw) -> None:
        if error:
            self.errors.append(error)
        else:
            self.offsets.append(raw.offset())

    def flush(self) -> list[int]:
        self.producer.flush(120)
        if self.errors:
            raise refusal(self.errors[0])
        return self.offsets

    def close(self) -> None:
        self.producer = None


class Librdkafka(Client):
    name = "librdkafka"

    def __init__(self, bootstrap: str):
        super().__init__(bootstrap)
        self.admin = AdminClient({"bootstrap.servers": bootstrap})

    def create_topic(self, name, partitions, replicas=1, configs=None):
        results(self.admin.create_topics([NewTopic(name, partitions, replicas, config=configs or {})]))

    def delete_topic(self, name):
        results(self.admin.delete_topics([name]))

    def topics(self):
        return set(self.admin.list_topics(timeout=SECONDS_MAX).topics)

    def partition_count(self, name):
        return len(self.admin.list_topics(name, timeout=SECONDS_MAX).topics[name].partitions)

    def create_partitions(self, name, total):
        results(self.admin.create_partitions([NewPartitions(name, total)]))

    def topic_config(self, name, key):
        described = results(self.admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, name)]))[0]
        return described[key].value, described[key].source == ConfigSource.DYNAMIC_TOPIC_CONFIG.value

    def set_topic_config(self, name, key, value):
        how = AlterConfigOpType.DELETE if value is None else AlterConfigOpType.SET
        entry = ConfigEntry(key, value or "", incremental_operation=how)
        results(
            self.admin.incremental_alter_configs(
                [ConfigResource(ConfigResource.Type.TOPIC, name, incremental_configs=[entry])]
            )
        )

    def delete_records(self, name, before):
        return results(self.admin.delete_records([TopicPartition(name, 0, before)]))[0].low_watermark

    def _offset(self, name, spec):
        return results(self.admin.list_offsets({TopicPartition(name, 0): spec}))[0].offset

    def earliest(self, name):
        return self._offset(name, rd_admin.OffsetSpec.earliest())

    def latest(self, name):
        return self._offset(name, rd_admin.OffsetSpec.latest())

    def offset_at(self, name, timestamp_ms):
        found = self._offset(name, rd_admin.OffsetSpec.for_timestamp(timestamp_ms))
        return None if found == -1 else found

    def produce(self, name, messages, codec="none", large=False):
        options = {
            "bootstrap.servers": self.bootstrap,
            "compression.type": codec,
            "linger.ms": 20,
            "topic.metadata.propagation.max.ms": 500,
        }
        producer = Producer(options | ({"message.max.bytes": 5_000_000} if large else {}))
        offsets, errors = [], []
        for message in messages:
            producer.produce(
                name,
                message.value,
                message.key,
                partition=message.partition,
                headers=message.headers,
                timestamp=message.timestamp_ms or 0,
                on_delivery=lambda error, raw: errors.append(error) if error else offsets.append(raw.offset()),
            )
        producer.flush(SECONDS_MAX)
        if errors:
            raise refusal(errors[0])
        return offsets

    def read(self, name, count, start=None):
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": "unused",
                "enable.auto.commit": False,
                "check.crcs": True,
                "auto.offset.reset": "earliest" if start is None else "error",
            }
        )
        consumer.assign([TopicPartition(name, 0, -2 if start is None else start)])
        messages: list[Message] = []
        deadline = time.monotonic() + SECONDS_MAX
        try:
            while len(messages) < count and time.monotonic() < deadline:
                messages += [message_of(raw) for raw in consumer.consume(count - len(messages), 0.5)]
        finally:
            consumer.close()
        return messages

    def member(self, group, name):
        return GroupMember(self.bootstrap, group, name)

    def sender(self):
        return IdempotentSender(self.bootstrap)

    def groups(self):
        return {one.group_id for one in self.admin.list_consumer_groups().result(SECONDS_MAX).valid}

    def describe_group(self, group):
        described = results(self.admin.describe_consumer_groups([group]))[0]
        return described.state.name.capitalize(), len(described.members)

    def delete_group(self, group):
        results(self.admin.delete_consumer_groups([group]))

    def committed(self, group, name, partition=0):
        wanted = ConsumerGroupTopicPartitions(group, [TopicPartition(name, partition)])
        return results(self.admin.list_consumer_group_offsets([wanted]))[0].topic_partitions[0].offset

    def commit(self, group, name, offset):
        results(
            self.admin.alter_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(group, [TopicPartition(name, 0, offset)])]
            )
        )


def make(bootstrap: str, ask) -> Suite:
    return Suite(Librdkafka(bootstrap), ask)
