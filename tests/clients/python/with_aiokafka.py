"""aiokafka. Its event loop runs on a thread of its own, since the scenarios are plain calls."""

import asyncio
import threading
import time

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError
from aiokafka.structs import OffsetAndMetadata
from suite import SECONDS_MAX, Client, KafkaCode, Member, Message, Sender, Suite

LOOP = asyncio.new_event_loop()
threading.Thread(target=LOOP.run_forever, daemon=True).start()


def wait(coroutine):
    """The coroutine's result, with aiokafka's exceptions turned into the code that the broker sent."""
    try:
        return asyncio.run_coroutine_threadsafe(coroutine, LOOP).result(130)
    except KafkaError as problem:
        raise KafkaCode(getattr(problem, "errno", -1), problem) from problem


async def make_on_loop(kind, *arguments, **options):
    return kind(*arguments, **options)  # aiokafka's objects look for the running loop when they are made


def started(kind, *arguments, **options):
    made = wait(make_on_loop(kind, *arguments, **options))
    wait(made.start())
    return made


def refuse(code: int, message: object = "") -> None:
    if code:
        raise KafkaCode(code, message)


def message_of(raw) -> Message:
    return Message(raw.value, raw.key, list(raw.headers), raw.timestamp, raw.partition, raw.offset)


class GroupMember(Member):
    def __init__(self, bootstrap: str, group: str, topic: str):
        self.consumer = started(
            AIOKafkaConsumer,
            topic,
            bootstrap_servers=bootstrap,
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            heartbeat_interval_ms=200,
            session_timeout_ms=10000,
        )

    def poll(self) -> list[Message]:
        return [message_of(raw) for batch in wait(self.consumer.getmany(timeout_ms=50)).values() for raw in batch]

    def assigned(self) -> int:
        return len(self.consumer.assignment())

    def commit(self, topic: str, offsets: dict[int, int]) -> None:
        wait(
            self.consumer.commit(
                {
                    TopicPartition(topic, partition): OffsetAndMetadata(offset, "")
                    for partition, offset in offsets.items()
                }
            )
        )

    def close(self) -> None:
        wait(self.consumer.stop())


class IdempotentSender(Sender):
    def __init__(self, bootstrap: str):
        self.producer = started(
            AIOKafkaProducer,
            bootstrap_servers=bootstrap,
            enable_idempotence=True,
            acks="all",
            max_batch_size=1000,
            linger_ms=1,
            request_timeout_ms=10000,
            metadata_max_age_ms=5000,
        )
        self.waits: list = []

    def send(self, topic: str, value: bytes) -> None:
        self.waits.append(
            asyncio.run_coroutine_threadsafe(self.producer.send(topic, value, partition=0), LOOP).result(60)
        )

    def flush(self) -> list[int]:
        async def all_of() -> list:
            return await asyncio.gather(*self.waits)

        return [answer.offset for answer in wait(all_of())]

    def close(self) -> None:
        wait(self.producer.stop())


class Aiokafka(Client):
    name = "aiokafka"
    pairs = [pair for pair in Client.pairs if pair != (None, None)]
    can_delete_groups = False

    def __init__(self, bootstrap: str):
        super().__init__(bootstrap)
        self.admin = started(AIOKafkaAdminClient, bootstrap_servers=bootstrap)

    def create_topic(self, name, partitions, replicas=1, configs=None):
        answer = wait(self.admin.create_topics([NewTopic(name, partitions, replicas, topic_configs=configs or {})]))
        refuse(*answer.topic_errors[0][1:3])

    def delete_topic(self, name):
        refuse(wait(self.admin.delete_topics([name])).topic_error_codes[0][1])

    def topics(self):
        return set(wait(self.admin.list_topics()))

    def partition_count(self, name):
        return len(wait(self.admin.describe_topics([name]))[0]["partitions"])

    def create_partitions(self, name, total):
        wait(self.admin.create_partitions({name: NewPartitions(total)}))

    def topic_config(self, name, key):
        answer = wait(self.admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name, {key: None})]))[0]
        code, message, _, _, entries = answer.resources[0]
        refuse(code, message)
        (entry,) = [entry for entry in entries if entry[0] == key]
        return entry[1], entry[3] == 1  # (name, value, read only, source, ...); source 1: set on the topic

    def set_topic_config(self, name, key, value):
        answer = wait(
            self.admin.alter_configs(
                [ConfigResource(ConfigResourceType.TOPIC, name, {} if value is None else {key: value})]
            )
        )[0]
        refuse(*answer.resources[0][:2])

    def delete_records(self, name, before):
        return wait(self.admin.delete_records({TopicPartition(name, 0): RecordsToDelete(before)}))[
            TopicPartition(name, 0)
        ]

    def _with_consumer(self, call):
        consumer = started(AIOKafkaConsumer, bootstrap_servers=self.bootstrap)
        try:
            return wait(call(consumer))
        finally:
            wait(consumer.stop())

    def earliest(self, name):
        return self._with_consumer(lambda consumer: consumer.beginning_offsets([TopicPartition(name, 0)]))[
            TopicPartition(name, 0)
        ]

    def latest(self, name):
        return self._with_consumer(lambda consumer: consumer.end_offsets([TopicPartition(name, 0)]))[
            TopicPartition(name, 0)
        ]

    def offset_at(self, name, timestamp_ms):
        partition = TopicPartition(name, 0)
        found = self._with_consumer(lambda consumer: consumer.offsets_for_times({partition: timestamp_ms}))[partition]
        return found and found.offset

    def produce(self, name, messages, codec="none", large=False):
        producer = wait(
            make_on_loop(
                AIOKafkaProducer,
                bootstrap_servers=self.bootstrap,
                compression_type=None if codec == "none" else codec,
                linger_ms=20,
                max_request_size=5_000_000 if large else 1_048_576,
                request_timeout_ms=5000,
            )
        )

        async def send_all() -> list[int]:
            await producer.start()
            try:
                waits = [
                    await producer.send(
                        name, message.value, message.key, message.partition, message.timestamp_ms, message.headers
                    )
                    for message in messages
                ]
                return [(await one).offset for one in waits]
            finally:
                await producer.stop()

        return wait(send_all())

    def read(self, name, count, start=None):
        partition = TopicPartition(name, 0)
        consumer = started(
            AIOKafkaConsumer, bootstrap_servers=self.bootstrap, auto_offset_reset="none", check_crcs=True
        )

        async def read_all() -> list[Message]:
            consumer.assign([partition])
            await consumer.seek_to_beginning(partition) if start is None else consumer.seek(partition, start)
            messages: list[Message] = []
            deadline = time.monotonic() + SECONDS_MAX
            while len(messages) < count and time.monotonic() < deadline:
                messages += [message_of(raw) for raw in (await consumer.getmany(timeout_ms=500)).get(partition, [])]
            return messages

        try:
            return wait(read_all())
        finally:
            wait(consumer.stop())

    def member(self, group, name):
        return GroupMember(self.bootstrap, group, name)

    def sender(self):
        return IdempotentSender(self.bootstrap)

    def groups(self):
        return {group for group, *_ in wait(self.admin.list_consumer_groups())}

    def describe_group(self, group):
        code, _, state, _, _, members, *_ = wait(self.admin.describe_consumer_groups([group]))[0].groups[0]
        refuse(code)
        return state, len(members)

    def committed(self, group, name, partition=0):
        return wait(self.admin.list_consumer_group_offsets(group))[TopicPartition(name, partition)].offset

    def commit(self, group, name, offset):
        consumer = started(AIOKafkaConsumer, bootstrap_servers=self.bootstrap, group_id=group, enable_auto_commit=False)
        partition = TopicPartition(name, 0)

        async def commit() -> None:
            consumer.assign([partition])
            await consumer.commit({partition: OffsetAndMetadata(offset, "")})

        try:
            wait(commit())
        finally:
            wait(consumer.stop())


def make(bootstrap: str, ask) -> Suite:
    return Suite(Aiokafka(bootstrap), ask)
