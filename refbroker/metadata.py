"""Which topics are there, and how does a change become true?

Topics, ids, configs and producer id blocks live in a log like any other, `__cluster_metadata-0` (`metadata_records`
has its format). `MetadataStore` is its only writer. The rules:

1. A change is one record batch: a torn write takes all of it or nothing. It is acknowledged, and visible to anybody,
   only when that batch is durable; this log flushes before it acknowledges whatever the flush policy of the topics is.
2. One change at a time, each checked against the state that the one before left. A client that hangs up does not
   interrupt a change half way.
3. Create: the batch first, then the directories, then the answer. A crash in between leaves a topic without
   directories, which start-up makes; nobody was told, and nothing could be produced to it. Directories first would let
   a record be acknowledged in a partition whose topic is not durable yet.
4. Delete: the batch first, then the directories are renamed to `-delete`, durably, then the answer. A crash in between
   leaves directories of a topic id that the log says is removed: start-up deletes them (C9.5).
5. A directory belongs to a topic only if the topic id in its `partition.metadata` is the topic's. A topic created again
   under an old name never adopts an old directory (C9.6).
6. At start the log is flushed before it is acted upon: what made it through a killed process may still be in the page
   cache only, and directories made for a record that a power cut then takes would be strays with data in them.
7. A block of producer ids is durable before its first id is given out, and a started block is never resumed: no
   id is given out twice.

At start the newest snapshot (if Kafka left one) and the log are replayed, and the directories reconciled with it:
missing ones are made, empty; one of a removed topic is deleted; one of an unknown topic or another topic id is set
aside as `-stray`, kept, never served. Each is reported.

Apache Kafka's controller does the same with a quorum; its broker leaves directories of removed topics as strays. It
also writes snapshots: this log is short (a record per change, one for each 1,000 producers) and is kept whole.
"""

import asyncio
import logging
import uuid
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from refbroker.config import LogConfig, validate_topic_configs
from refbroker.config_keys import BROKER_KEYS
from refbroker.errors import ErrorCode, KafkaError
from refbroker.log.checkpoints import parse_uuid
from refbroker.log.directory import StartupError
from refbroker.log.partition import Partition
from refbroker.log.records import Record, build
from refbroker.metadata_configs import Configs, check_broker_configs
from refbroker.metadata_records import (
    PRODUCER_IDS, REMOVE_TOPIC, Entry, Image, MetadataError, Resource, Topic, config_entries, encode, partition_entries,
    topic_entries,
)  # fmt: skip
from refbroker.metadata_replay import replay
from refbroker.topic_rules import (
    CLUSTER_METADATA, NewTopic, check_change_size, check_growth, check_name, check_new_name, partitions_of,
)  # fmt: skip

log = logging.getLogger(__name__)

CLUSTER_METADATA_ID = uuid.UUID(int=1)  # Kafka's reserved id
UNASSIGNED_DIRECTORY = uuid.UUID(int=0)  # a data directory of before Kafka 3.7 has no id
METADATA_CONFIGS = {
    "flush.messages": "1",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "max.message.bytes": str(8 << 20),
}
PRODUCER_ID_BLOCK = 1_000
DIRECTORIES_AT_ONCE = 4  # made or renamed between two looks at the clients: each takes three fsyncs


class MetadataStore:
    """The topics of this broker. `topics` is by name, `by_id` by topic id; both are to be read only."""

    def __init__(self, broker, new_uuid: Callable[[], uuid.UUID] = uuid.uuid4):
        self._broker = broker
        self._image = Image()
        self._incomplete: set[str] = set()  # topics without all of their directories
        self._changing = asyncio.Lock()
        self._changes: set[asyncio.Task] = set()
        self._next_id = self._ids_end = 0
        self._loaded = False
        self._new_uuid = new_uuid
        config = broker.config
        self.static_config = {name: (config.values[name], config.sources[name]) for name in BROKER_KEYS}

    @property
    def topics(self) -> dict[str, Topic]:
        return self._image.topics

    @property
    def by_id(self) -> dict[uuid.UUID, Topic]:
        return self._image.by_id

    @property
    def broker_configs(self) -> dict[str, dict[str, str]]:
        """Dynamic broker configs: by broker id as text, and "" for the default of all brokers."""
        return self._image.broker_configs

    # Start and stop

    def load(self, partition: Partition | None) -> Callable[[str], LogConfig | None]:
        """Replay the metadata log; returns the configs of each topic by name, which recovery of the others wants to
        know. Raises StartupError: the log cannot be understood."""
        if partition is not None:
            if partition.offline:
                raise StartupError(f"the metadata log cannot be read: {partition.offline}")
            try:
                partition.set_config(self._broker.config.log_config(METADATA_CONFIGS))
                partition.flush()
                self._image = replay(self._broker.disk, partition)
            except (KafkaError, MetadataError) as error:
                raise StartupError(f"the metadata log in {partition.directory} cannot be replayed: {error}") from error
            self._next_id = self._ids_end = self._image.next_producer_id
            self._set_broker_configs()
        self._loaded = True
        return lambda name: self._log_config(self.topics[name]) if name in self.topics else None

    async def start(self) -> None:
        """Reconcile the directories with the metadata. Nothing may be served before. Raises StartupError."""
        logs = self._broker.logs
        partition = logs.partitions.get((CLUSTER_METADATA, 0))
        if not self._loaded:
            self.load(partition)
        try:
            if partition is None:
                if logs.partitions:  # not ours to judge: without it every one of them would be set aside
                    raise StartupError(f"{logs.path} has {len(logs.partitions)} partitions, but no metadata log")
                logs.create(CLUSTER_METADATA, 0, CLUSTER_METADATA_ID, self._broker.config.log_config(METADATA_CONFIGS))
            for line in self._reconcile():
                log.warning("%s", line)
        except KafkaError as error:
            raise StartupError(error.message) from error

    def _reconcile(self) -> list[str]:
        """Make the partition directories those of the metadata (rules 3 to 5)."""
        logs, report = self._broker.logs, []
        for (name, number), partition in list(logs.partitions.items()):
            topic = self.topics.get(name)
            if name == CLUSTER_METADATA:
                continue
            unread = partition.offline and partition.topic_id is None  # it stays where it is, unserved
            if topic and (topic.topic_id == partition.topic_id or unread) and number < topic.partitions:
                partition.set_config(self._log_config(topic))
            elif partition.topic_id in self._image.removed:
                logs.delete(name, number)
                report.append(f"{name}-{number}: deleted, its topic was removed before the last stop (C9.5)")
            else:
                logs.stray(name, number)
                report.append(
                    f"{name}-{number}: set aside as -stray, topic id {partition.topic_id} is not that of a topic (C9.6)"
                )
        missing = [
            (topic.name, number, topic.topic_id, self._log_config(topic))
            for topic in self.topics.values()
            for number in range(topic.partitions)
            if (topic.name, number) not in logs.partitions
        ]
        logs.create_many(missing)
        return report + [f"{name}-{number}: had no directory, an empty one was made" for name, number, *_ in missing]

    async def close(self) -> None:
        """Wait for the changes under way."""
        while self._changes:
            await asyncio.wait(self._changes)

    # Reading

    def describe_partition(self, topic: Topic, number: int) -> dict[str, Any]:
        """Leader, replicas and error of one partition, as Metadata and DescribeTopicPartitions answer them."""
        node_id = self._broker.node_id
        partition = self._broker.logs.partitions.get((topic.name, number))
        online = partition is not None and not partition.offline
        return {
            "error_code": ErrorCode.NONE if online else ErrorCode.LEADER_NOT_AVAILABLE,
            "partition_index": number,
            "leader_id": node_id if online else -1,
            "leader_epoch": partition.leader_epoch if partition else -1,
            "replica_nodes": [node_id],
            "isr_nodes": [node_id],
            "offline_replicas": [] if online else [node_id],
        }

    # Changes

    async def create_topic(
        self, name: str, partitions: int = -1, configs: Mapping[str, str] = {}, replication_factor: int = -1  # noqa: B006
    ) -> Topic:
        """Raises KafkaError: TOPIC_ALREADY_EXISTS, INVALID_TOPIC_EXCEPTION, INVALID_CONFIG, KAFKA_STORAGE_ERROR, ..."""
        outcome = (await self.create_topics([NewTopic(name, partitions, configs, replication_factor)]))[name]
        if isinstance(outcome, KafkaError):
            raise outcome
        return outcome

    async def create_topics(
        self, wanted: Sequence[NewTopic], *, validate_only: bool = False
    ) -> dict[str, Topic | KafkaError]:
        """All that pass the checks, in one change; for each name the topic or why not."""
        return await self._to_its_end(self._create_topics(wanted, validate_only)) if wanted else {}

    async def auto_create(self, name: str) -> Topic:
        """The topic, made with the broker's defaults if it is not there."""
        try:
            return await self.create_topic(name, *self._internal_shape(name))
        except KafkaError as error:
            if error.code is ErrorCode.TOPIC_ALREADY_EXISTS and name in self.topics:
                return self.topics[name]
            raise

    async def delete_topic(self, name: str) -> None:
        topic = self.topics.get(name)
        if topic is None:
            raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
        error = (await self.delete_topics([topic]))[topic.topic_id]
        if error:
            raise error

    async def delete_topics(self, topics: Sequence[Topic]) -> dict[uuid.UUID, KafkaError | None]:
        """All that are still there, in one change; for each id None or why not."""
        return await self._to_its_end(self._delete_topics(topics)) if topics else {}

    async def create_partitions(
        self, name: str, total: int, *, assignments: Sequence[Sequence[int]] | None = None, validate_only: bool = False
    ) -> None:
        await self._to_its_end(self._create_partitions(name, total, assignments, validate_only))

    async def alter_configs(
        self, resource_type: int, name: str, change: Callable[[Configs], Configs], *, validate_only: bool = False
    ) -> None:
        """Replace the configs of a topic or of the broker by `change(those it has)`. Raises KafkaError."""
        await self._to_its_end(self._alter(resource_type, name, change, validate_only))

    async def next_producer_id(self) -> int:
        while self._next_id == self._ids_end:
            await self._to_its_end(self._reserve_producer_ids())
        producer_id = self._next_id
        self._next_id += 1
        return producer_id

    # How a change is made

    async def _to_its_end(self, change: Coroutine) -> Any:
        """Run a change to its end, whatever becomes of the one who asked for it (rule 2)."""
        waits = [asyncio.get_running_loop().create_task(change)]
        self._changes.update(waits)
        waits[0].add_done_callback(self._changes.discard)
        return await asyncio.shield(waits.pop())  # it has no name here: an error of it knows this call, and would be known by it

    async def _write(self, entries: Iterable[Entry]) -> None:
        """One batch, durable on return (rule 1). Raises KafkaError."""
        now_ms = self._broker.clock()
        values = [Record(offset, now_ms, None, encode(*entry), []) for offset, entry in enumerate(entries)]
        partition = self._broker.logs.partitions[CLUSTER_METADATA, 0]
        try:
            appended = await self._broker.append(partition, build(values))
        except KafkaError as error:
            if partition.recovery_point < partition.log_end_offset:  # who goes on without what is in the log would contradict it
                self._broker.logs.fail(f"a change of the metadata is not durable: {error.message}")
            raise
        assert partition.recovery_point > appended.last_offset, "acknowledged before it was durable"

    async def _create_topics(self, wanted: Sequence[NewTopic], validate_only: bool) -> dict[str, Topic | KafkaError]:
        async with self._changing:
            outcomes: dict[str, Topic | KafkaError] = {}
            total = 0
            for new in wanted:
                try:
                    topic = self._checked(new)
                    check_change_size(total + topic.partitions)
                    total += topic.partitions
                    outcomes[new.name] = topic
                except KafkaError as error:
                    outcomes[new.name] = error.with_traceback(None)
            topics = [topic for topic in outcomes.values() if isinstance(topic, Topic)]
            if topics and not validate_only:
                entries = [entry for topic in topics for entry in topic_entries(topic, *self._replica)]
                try:
                    await self._create(
                        entries, [(topic, number) for topic in topics for number in range(topic.partitions)]
                    )
                except KafkaError as error:
                    outcomes |= {topic.name: error.with_traceback(None) for topic in topics}
                    await self._remove([topic for topic in topics if topic.topic_id in self.by_id])
            return outcomes

    def _checked(self, new: NewTopic) -> Topic:
        check_new_name(new.name, self.topics)
        self._broker.config.log_config(new.configs)
        return Topic(new.name, self._new_uuid(), partitions_of(new, self._broker.config), dict(new.configs))

    @property
    def _replica(self) -> tuple[int, uuid.UUID]:
        """Where every partition's only replica is: node id and directory id."""
        directory_id = self._broker.logs.directory_id
        return self._broker.node_id, parse_uuid(directory_id) if directory_id else UNASSIGNED_DIRECTORY

    def _internal_shape(self, name: str) -> tuple[int, dict[str, str]]:
        """Partitions and configs of a topic that is created on demand."""
        config = self._broker.config
        if name != "__consumer_offsets":
            return -1, {}
        return config.offsets_topic_num_partitions, {
            "cleanup.policy": "compact",
            "compression.type": "producer",
            "segment.bytes": str(config.offsets_topic_segment_bytes),
        }

    async def _create(self, entries: Sequence[Entry], places: Sequence[tuple[Topic, int]]) -> None:
        """The records, then the directories, then everybody may see it (rule 3). Where a directory cannot be made,
        the state is still that of the log: the topic is there, and that partition has no leader."""
        await self._write(entries)
        try:
            wanted = [(topic.name, number, topic.topic_id, self._log_config(topic)) for topic, number in places]
            for first in range(0, len(wanted), DIRECTORIES_AT_ONCE):
                self._broker.logs.create_many(wanted[first : first + DIRECTORIES_AT_ONCE])
                await asyncio.sleep(0)
        except KafkaError:
            self._incomplete |= {topic.name for topic, _ in places}
            raise
        finally:
            self._image.replay(entries)
            self._broker.flusher.look_again()

    async def make_missing(self) -> None:
        """Directories of topics that are there, which could not be made when their topic was, for want of space (C1.14).
        Raises KafkaError."""
        if not self._incomplete or self._broker.logs.offline is not None:
            return
        async with self._changing:
            for topic in [self.topics[name] for name in self._incomplete if name in self.topics]:
                for number in range(topic.partitions):
                    if (topic.name, number) not in self._broker.logs.partitions:
                        self._broker.logs.create(topic.name, number, topic.topic_id, self._log_config(topic))
                        self._broker.flusher.look_again()
                        log.warning("%s-%d: its directory could not be made before, an empty one was made", topic.name, number)
            self._incomplete.clear()

    async def _create_partitions(
        self, name: str, total: int, assignments: Sequence[Sequence[int]] | None, validate_only: bool
    ) -> None:
        async with self._changing:
            topic = self.topics.get(name)
            if topic is None:
                raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
            check_growth(name, topic.partitions, total, assignments, self._broker.node_id)
            if not validate_only:
                added = range(topic.partitions, total)
                entries = partition_entries(topic.topic_id, added, *self._replica)
                await self._create(entries, [(topic, number) for number in added])

    async def _delete_topics(self, topics: Sequence[Topic]) -> dict[uuid.UUID, KafkaError | None]:
        async with self._changing:
            gone = [topic for topic in topics if topic.topic_id not in self.by_id]
            error = await self._remove([topic for topic in topics if topic not in gone])
            outcomes = {topic.topic_id: error for topic in topics}
            return outcomes | {topic.topic_id: KafkaError(ErrorCode.UNKNOWN_TOPIC_ID) for topic in gone}

    async def _remove(self, topics: Sequence[Topic]) -> KafkaError | None:
        """The records, then the directories, then the offsets that groups have committed (rule 4)."""
        if not topics:
            return None
        entries: list[Entry] = [(REMOVE_TOPIC, {"topic_id": topic.topic_id}) for topic in topics]
        try:
            await self._write(entries)
            self._image.replay(entries)
            places = [(topic.name, number) for topic in topics for number in range(topic.partitions)]
            for index, place in enumerate(places):
                if place in self._broker.logs.partitions:
                    self._broker.logs.delete(*place)
                if index % DIRECTORIES_AT_ONCE == DIRECTORIES_AT_ONCE - 1:
                    await asyncio.sleep(0)
        except KafkaError as error:
            return error
        for topic in topics:
            await self._broker.groups.topic_deleted(topic.name)
        return None

    async def _alter(
        self, resource_type: int, name: str, change: Callable[[Configs], Configs], validate_only: bool
    ) -> None:
        async with self._changing:
            is_topic = resource_type == Resource.TOPIC
            topic = self.topics.get(name) if is_topic else None
            current = topic.configs if topic else self.broker_configs.get(name, {})
            new = change(dict(current))
            if is_topic:
                check_name(name)
                self._broker.config.log_config(new)
                if topic is None:
                    raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"The topic '{name}' does not exist.")
            else:
                check_broker_configs(new)
            entries = config_entries(resource_type, name, current, new)
            if entries and not validate_only:
                await self._write(entries)
                self._image.replay(entries)
                self._configs_changed(topic)

    def _configs_changed(self, changed: Topic | None) -> None:
        """Make the configs of one topic, or after a change of the broker's those of all topics, take effect."""
        if changed is None:
            self._set_broker_configs()
        for topic in [changed] if changed else self.topics.values():
            log_config = self._log_config(topic)
            for number in range(topic.partitions):
                partition = self._broker.logs.partitions.get((topic.name, number))
                if partition is not None:
                    stricter = log_config.flush_messages < partition.config.flush_messages
                    with suppress(KafkaError):  # of a flush at once, for want of descriptors: the other partitions' turn comes
                        partition.set_config(log_config)
                    if stricter:  # the new policy speaks of what was acknowledged under the old one, too
                        self._broker.flusher.ensure(partition)
        self._broker.flusher.look_again()

    def _set_broker_configs(self) -> None:
        own = self.broker_configs.get(str(self._broker.node_id), {})
        configs = self.broker_configs.get("", {}) | own
        self._broker.config.set_dynamic(_valid(configs, check_broker_configs, "broker config"))

    def _log_config(self, topic: Topic) -> LogConfig:
        return self._broker.config.log_config(
            _valid(topic.configs, validate_topic_configs, f"config of topic {topic.name}")
        )

    async def _reserve_producer_ids(self) -> None:
        async with self._changing:
            if self._next_id < self._ids_end:
                return  # another one who waited did it
            start = self._image.next_producer_id
            end = start + PRODUCER_ID_BLOCK
            entries: list[Entry] = [(PRODUCER_IDS, {"broker_id": self._broker.node_id, "next_producer_id": end})]
            await self._write(entries)
            self._image.replay(entries)
            self._next_id, self._ids_end = start, end


def _valid(configs: Mapping[str, str], validate, what: str) -> dict[str, str]:
    """Without those that we would not accept today: a metadata log of Kafka's may have more than we serve."""
    valid = {}
    for key, value in configs.items():
        try:
            validate({key: value})
            valid[key] = value
        except KafkaError as error:
            log.warning("%s is ignored: %s", what, error.message)
    return valid
