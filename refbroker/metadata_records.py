"""What do the records of the metadata log say?

Topics, partitions, configs and producer id blocks are records in `__cluster_metadata-0`, in Apache Kafka's own format:

| Part | Type | |
|---|---|---|
| frame version | uvarint | 1 |
| record type | uvarint | the `apiKey` of Kafka's metadata record schemas |
| version | uvarint | of that schema |
| body | flexible encoding | its fields, and tagged fields |

A value is valid only where

1. the frame version is 1;
2. a type that is known here has a version that is known here, and its fields fill the value exactly;
3. a partition belongs to a topic that was introduced before it, a removed topic existed, and no two topics have the
   same name at a time.

Types that are not known here (brokers, features, quotas, ACLs, leadership changes) are skipped: nothing that they say
changes what a cluster of one serves. So a metadata log that Kafka wrote can be replayed, its snapshots too.

`Image` is the state after a sequence of records, and a function of them alone. Kafka's metadata transactions are
honoured: what stands between a begin and an abort record never happened.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from uuid import UUID as TopicId

from refbroker.protocol import INT8, INT32, INT64, STRING, UUID, Array, Field, ProtocolError, Struct

FRAME_VERSION = 1
INTERNAL_TOPICS = frozenset(("__consumer_offsets", "__transaction_state", "__share_group_state"))


class Resource:
    """Kafka's `ConfigResource.Type`, as far as it is served."""

    TOPIC = 2
    BROKER = 4


class Kind(NamedTuple):
    """One type of record: its number, the version that we write, the last that we read, its fields."""

    key: int
    name: str
    version: int
    version_max: int
    schema: Struct


TOPIC = Kind(2, "TopicRecord", 0, 0, Struct(
    Field("name", STRING),
    Field("topic_id", UUID),
))  # fmt: skip
PARTITION = Kind(3, "PartitionRecord", 2, 2, Struct(
    Field("partition_id", INT32, default=-1),
    Field("topic_id", UUID),
    Field("replicas", Array(INT32)),
    Field("isr", Array(INT32)),
    Field("removing_replicas", Array(INT32), default=()),
    Field("adding_replicas", Array(INT32), default=()),
    Field("leader", INT32, default=-1),
    Field("leader_recovery_state", INT8, tag=0, default=0),
    Field("leader_epoch", INT32, default=-1),
    Field("partition_epoch", INT32, default=-1),
    Field("directories", Array(UUID), "1+", default=()),
    Field("eligible_leader_replicas", Array(INT32), "2+", nullable="2+", tag=1, default=None),
    Field("last_known_elr", Array(INT32), "2+", nullable="2+", tag=2, default=None),
))  # fmt: skip
CONFIG = Kind(4, "ConfigRecord", 0, 0, Struct(
    Field("resource_type", INT8),
    Field("resource_name", STRING),
    Field("name", STRING),
    Field("value", STRING, nullable="0+"),
))  # fmt: skip
REMOVE_TOPIC = Kind(9, "RemoveTopicRecord", 0, 0, Struct(
    Field("topic_id", UUID),
))  # fmt: skip
PRODUCER_IDS = Kind(15, "ProducerIdsRecord", 0, 0, Struct(
    Field("broker_id", INT32),
    Field("broker_epoch", INT64, default=-1),
    Field("next_producer_id", INT64),
))  # fmt: skip
BEGIN_TRANSACTION = Kind(23, "BeginTransactionRecord", 0, 0, Struct(
    Field("name", STRING, nullable="0+", tag=0, default=None),
))  # fmt: skip
END_TRANSACTION = Kind(24, "EndTransactionRecord", 0, 0, Struct())
ABORT_TRANSACTION = Kind(25, "AbortTransactionRecord", 0, 0, Struct(
    Field("reason", STRING, nullable="0+", tag=0, default=None),
))  # fmt: skip

KINDS = {kind.key: kind for kind in (
    TOPIC, PARTITION, CONFIG, REMOVE_TOPIC, PRODUCER_IDS, BEGIN_TRANSACTION, END_TRANSACTION, ABORT_TRANSACTION,
)}  # fmt: skip

Entry = tuple[Kind, Mapping[str, Any]]  # one record


class MetadataError(Exception):
    """A record that makes no sense: the metadata log was written by something newer, or is damaged."""


def encode(kind: Kind, fields: Mapping[str, Any]) -> bytes:
    assert kind.key < 0x80, kind  # each of the three numbers is one byte
    return bytes((FRAME_VERSION, kind.key, kind.version)) + kind.schema.encode(kind.version, fields, flexible=True)


def decode(value: bytes | memoryview | None) -> Entry | None:
    """One record's value; None for a type that is not known here. Raises MetadataError."""
    frame_version, position = _uvarint(value or b"", 0)
    if frame_version != FRAME_VERSION:
        raise MetadataError(f"metadata record of frame version {frame_version}, only {FRAME_VERSION} is known")
    key, position = _uvarint(value, position)
    version, position = _uvarint(value, position)
    kind = KINDS.get(key)
    if kind is None:
        return None
    if version > kind.version_max:
        raise MetadataError(f"{kind.name} of version {version}, at most {kind.version_max} is known")
    try:
        return kind, kind.schema.decode(version, value, position, flexible=True)
    except ProtocolError as error:
        raise MetadataError(f"{kind.name}: {error}") from error


def _uvarint(value: bytes | memoryview, position: int) -> tuple[int, int]:
    result = 0
    for shift in (0, 7, 14):  # Kafka holds each of these numbers to 15 bits
        if position >= len(value):
            break
        byte = value[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
    raise MetadataError("metadata record whose frame is cut short or has a number of more than three bytes")


@dataclass(eq=False)
class Topic:
    """A topic as clients may see it."""

    name: str
    topic_id: TopicId
    partitions: int = 0
    configs: dict[str, str] = field(default_factory=dict)

    @property
    def is_internal(self) -> bool:
        return self.name in INTERNAL_TOPICS


class Image:
    """What holds after the records applied so far."""

    def __init__(self) -> None:
        self.topics: dict[str, Topic] = {}
        self.by_id: dict[TopicId, Topic] = {}
        self.removed: set[TopicId] = set()  # ids of topics that the records remove
        self.broker_configs: dict[str, dict[str, str]] = {}  # by broker id as text; "" is the default of all brokers
        self.next_producer_id = 0
        self._transaction: list[Entry] | None = None  # held back until it ends

    def replay(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            kind = entry[0]
            if kind is BEGIN_TRANSACTION:
                self._transaction = []
            elif kind is ABORT_TRANSACTION:
                self._transaction = None
            elif kind is END_TRANSACTION:
                held, self._transaction = self._transaction, None
                for held_entry in held or ():
                    self.apply(*held_entry)
            elif self._transaction is not None:
                self._transaction.append(entry)
            else:
                self.apply(*entry)

    def apply(self, kind: Kind, fields: Mapping[str, Any]) -> None:
        if kind is TOPIC:
            if fields["name"] in self.topics:
                raise MetadataError(f"{kind.name} for {fields['name']}, which is there already")
            topic = Topic(fields["name"], fields["topic_id"])
            self.topics[topic.name] = self.by_id[topic.topic_id] = topic
        elif kind is PARTITION:
            topic = self._topic(kind, fields)
            topic.partitions = max(topic.partitions, fields["partition_id"] + 1)
        elif kind is CONFIG:
            self._apply_config(fields)
        elif kind is REMOVE_TOPIC:
            topic = self._topic(kind, fields)
            del self.by_id[topic.topic_id], self.topics[topic.name]
            self.removed.add(topic.topic_id)
        elif kind is PRODUCER_IDS:
            self.next_producer_id = max(self.next_producer_id, fields["next_producer_id"])

    def _topic(self, kind: Kind, fields: Mapping[str, Any]) -> Topic:
        topic = self.by_id.get(fields["topic_id"])
        if topic is None:
            raise MetadataError(f"{kind.name} for topic id {fields['topic_id']}, which was not introduced")
        return topic

    def _apply_config(self, fields: Mapping[str, Any]) -> None:
        if fields["resource_type"] == Resource.TOPIC:
            topic = self.topics.get(fields["resource_name"])
            if topic is None:
                return  # Kafka takes configs of a topic that it does not know yet; nothing comes of them
            configs = topic.configs
        elif fields["resource_type"] == Resource.BROKER:
            configs = self.broker_configs.setdefault(fields["resource_name"], {})
        else:
            return  # client metrics, groups: not served
        if fields["value"] is None:
            configs.pop(fields["name"], None)
        else:
            configs[fields["name"]] = fields["value"]


def topic_entries(topic: Topic, node_id: int, directory_id: TopicId) -> list[Entry]:
    """What introduces a topic, in Kafka's order. The replicas are all on one broker, in one directory."""
    entries: list[Entry] = [(TOPIC, {"name": topic.name, "topic_id": topic.topic_id})]
    entries += config_entries(Resource.TOPIC, topic.name, {}, topic.configs)
    return entries + partition_entries(topic.topic_id, range(topic.partitions), node_id, directory_id)


def partition_entries(topic_id: TopicId, numbers: Iterable[int], node_id: int, directory_id: TopicId) -> list[Entry]:
    fields = {
        "topic_id": topic_id,
        "replicas": (node_id,),
        "isr": (node_id,),
        "leader": node_id,
        "leader_epoch": 0,
        "partition_epoch": 0,
        "directories": (directory_id,),
    }
    return [(PARTITION, {"partition_id": number, **fields}) for number in numbers]


def config_entries(kind: int, name: str, current: Mapping[str, str], new: Mapping[str, str]) -> list[Entry]:
    """What turns one set of configs into another; null removes."""
    changed = [key for key in sorted({*current, *new}) if current.get(key) != new.get(key)]
    return [
        (CONFIG, {"resource_type": kind, "resource_name": name, "name": key, "value": new.get(key)}) for key in changed
    ]
