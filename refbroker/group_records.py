"""What is in a record of __consumer_offsets?

The key begins with an int16, its version, which is also its kind; the value with an int16, its version. A null value is
a tombstone: the offset, or the group, is gone.

| Key version | Key | Value |
|---|---|---|
| 0, 1 | OffsetCommitKey: group, topic, partition | OffsetCommitValue 0-4 (4 is flexible) |
| 2 | GroupMetadataKey: group | GroupMetadataValue 0-4 (4 is flexible) |
| 3 and more | of the newer group types | kept in the log, not looked into |

Written are OffsetCommitValue 4, with the id of the topic, so that an offset does not outlive its topic and come back
with another one of that name; 1 where an old client (OffsetCommit 2 to 4) named its own retention time; and
GroupMetadataValue 3. Apache Kafka 4.4 writes the same.
"""

import struct
from typing import Any, NamedTuple
from uuid import UUID as UUIDValue

from refbroker.protocol import BYTES, INT32, INT64, STRING, UUID, ZERO_UUID, Array, Field, ProtocolError, Struct

OFFSET_KEY_VERSION = 1
GROUP_KEY_VERSION = 2
OFFSET_VALUE_VERSION = 4
OFFSET_VALUE_VERSION_EXPIRING = 1  # the only one with an expire timestamp
GROUP_VALUE_VERSION = 3
VALUE_VERSION_MAX = 4
FLEXIBLE_VALUE_VERSION = 4

OFFSET_KEY = Struct(Field("group", STRING), Field("topic", STRING), Field("partition", INT32))
OFFSET_VALUE = Struct(
    Field("offset", INT64),
    Field("leader_epoch", INT32, "3+", default=-1),
    Field("metadata", STRING),
    Field("commit_timestamp", INT64),
    Field("expire_timestamp", INT64, "1", default=-1),
    Field("topic_id", UUID, "4+", tag=0, default=ZERO_UUID),
)
GROUP_KEY = Struct(Field("group", STRING))
GROUP_VALUE = Struct(
    Field("protocol_type", STRING),
    Field("generation", INT32),
    Field("protocol", STRING, nullable="0+"),
    Field("leader", STRING, nullable="0+"),
    Field("current_state_timestamp", INT64, "2+", default=-1),
    Field("members", Array(Struct(
        Field("member_id", STRING),
        Field("group_instance_id", STRING, "3+", nullable="3+", default=None),
        Field("client_id", STRING),
        Field("client_host", STRING),
        Field("rebalance_timeout", INT32, "1+", default=-1),
        Field("session_timeout", INT32),
        Field("subscription", BYTES),
        Field("assignment", BYTES),
    ))),
)  # fmt: skip


class Committed(NamedTuple):
    """A committed offset. The leader epoch lets its consumer find out that the log was cut below it (C8.4)."""

    offset: int
    leader_epoch: int  # -1: the client did not say
    metadata: str
    commit_timestamp_ms: int
    expire_timestamp_ms: int = -1  # -1: as offsets.retention.minutes say
    topic_id: UUIDValue = ZERO_UUID  # zero: written by an older broker


class OffsetRecord(NamedTuple):
    group: str
    topic: str
    partition: int
    committed: Committed | None


class GroupRecord(NamedTuple):
    group: str
    value: dict[str, Any] | None


def offset_key(group: str, topic: str, partition: int) -> bytes:
    key = {"group": group, "topic": topic, "partition": partition}
    return struct.pack(">h", OFFSET_KEY_VERSION) + OFFSET_KEY.encode(0, key)


def offset_value(committed: Committed) -> bytes:
    version = OFFSET_VALUE_VERSION if committed.expire_timestamp_ms < 0 else OFFSET_VALUE_VERSION_EXPIRING
    value = {
        "offset": committed.offset, "leader_epoch": committed.leader_epoch, "metadata": committed.metadata,
        "commit_timestamp": committed.commit_timestamp_ms, "expire_timestamp": committed.expire_timestamp_ms,
        "topic_id": committed.topic_id,
    }  # fmt: skip
    return struct.pack(">h", version) + OFFSET_VALUE.encode(version, value, flexible=version >= FLEXIBLE_VALUE_VERSION)


def group_key(group: str) -> bytes:
    return struct.pack(">h", GROUP_KEY_VERSION) + GROUP_KEY.encode(0, {"group": group})


def group_value(value: dict[str, Any]) -> bytes:
    return struct.pack(">h", GROUP_VALUE_VERSION) + GROUP_VALUE.encode(GROUP_VALUE_VERSION, value)


def parse(key: Any, value: Any) -> OffsetRecord | GroupRecord | None:
    """What a record says; None for a kind that we do not serve. Raises ProtocolError where it is not what it says."""
    kind = _version(key)
    if kind < 0 or kind > GROUP_KEY_VERSION:
        return None
    if kind == GROUP_KEY_VERSION:
        group = GROUP_KEY.decode(0, key, 2)["group"]
        return GroupRecord(group, None if value is None else _decode_value(GROUP_VALUE, value))
    fields = OFFSET_KEY.decode(0, key, 2)
    if value is None:
        committed = None
    else:
        stored = _decode_value(OFFSET_VALUE, value)
        committed = Committed(
            stored["offset"], stored["leader_epoch"], stored["metadata"], stored["commit_timestamp"],
            stored["expire_timestamp"], stored["topic_id"],
        )  # fmt: skip
    return OffsetRecord(fields["group"], fields["topic"], fields["partition"], committed)


def _version(data: Any) -> int:
    if data is None or len(data) < 2:
        raise ProtocolError("no version")
    return struct.unpack_from(">h", data)[0]


def _decode_value(schema: Struct, value: Any) -> dict[str, Any]:
    version = _version(value)
    if not 0 <= version <= VALUE_VERSION_MAX:
        raise ProtocolError(f"value of version {version}")
    return schema.decode(version, value, 2, flexible=version >= FLEXIBLE_VALUE_VERSION)
