"""OffsetFetch: which offsets has this group committed?

- An offset that was never committed is -1 with empty metadata, and no error; so are those of an unknown group.
- Topics null: all that the group has. v8: several groups in one request.
- v7 "require stable": an answer that waits for commits which are on their way to the disk. There are no transactional
  ones whose end would have to be waited for.
- An offset that was committed for a deleted topic of the same name is not given out (C8.4).
- v9: member id and epoch, of the newer group protocol only; ignored for classic groups. v10: topic ids, no names;
  UNKNOWN_TOPIC_ID.
- v1 has no error code for the whole: it is put on each partition.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from refbroker.errors import ErrorCode, KafkaError
from refbroker.group_records import Committed
from refbroker.offsets import lookup
from refbroker.protocol import BOOL, INT16, INT32, INT64, STRING, UUID, ZERO_UUID, Api, Array, Field, Struct

REQUEST = Struct(
    Field("group_id", STRING, "0-7", default=""),
    Field("topics", Array(Struct(
        Field("name", STRING, "0-7"),
        Field("partition_indexes", Array(INT32), "0-7"),
    )), "0-7", nullable="2-7", default=None),
    Field("groups", Array(Struct(
        Field("group_id", STRING, "8+"),
        Field("member_id", STRING, "9+", nullable="9+", default=None),
        Field("member_epoch", INT32, "9+", default=-1),
        Field("topics", Array(Struct(
            Field("name", STRING, "8-9", default=""),
            Field("topic_id", UUID, "10+", default=ZERO_UUID),
            Field("partition_indexes", Array(INT32), "8+"),
        )), "8+", nullable="8+"),
    )), "8+", default=()),
    Field("require_stable", BOOL, "7+", default=False),
)  # fmt: skip

RESPONSE = Struct(
    Field("throttle_time_ms", INT32, "3+", default=0),
    Field("topics", Array(Struct(
        Field("name", STRING, "0-7"),
        Field("partitions", Array(Struct(
            Field("partition_index", INT32, "0-7"),
            Field("committed_offset", INT64, "0-7"),
            Field("committed_leader_epoch", INT32, "5-7", default=-1),
            Field("metadata", STRING, "0-7", nullable="0-7"),
            Field("error_code", INT16, "0-7"),
        )), "0-7"),
    )), "0-7", default=()),
    Field("error_code", INT16, "2-7", default=0),
    Field("groups", Array(Struct(
        Field("group_id", STRING, "8+"),
        Field("topics", Array(Struct(
            Field("name", STRING, "8-9", default=""),
            Field("topic_id", UUID, "10+", default=ZERO_UUID),
            Field("partitions", Array(Struct(
                Field("partition_index", INT32, "8+"),
                Field("committed_offset", INT64, "8+"),
                Field("committed_leader_epoch", INT32, "8+", default=-1),
                Field("metadata", STRING, "8+", nullable="8+"),
                Field("error_code", INT16, "8+"),
            )), "8+"),
        )), "8+"),
        Field("error_code", INT16, "8+", default=0),
    )), "8+", default=()),
)  # fmt: skip

API = Api(key=9, name="OffsetFetch", versions=(1, 10), flexible=6, request=REQUEST, response=RESPONSE)

TOP_LEVEL_ERROR_VERSION = 2
GROUPS_VERSION = 8
TOPIC_ID_VERSION = 10


async def handle(broker: Any, request: dict[str, Any], context: Any) -> dict[str, Any]:
    stable = request["require_stable"]
    if context.version >= GROUPS_VERSION:
        asked = [(group["group_id"], group["topics"]) for group in request["groups"]]
        return {"groups": [await _group(broker, group_id, topics, stable, context) for group_id, topics in asked]}
    answer = await _group(broker, request["group_id"], request["topics"], stable, context)
    if answer["error_code"] and context.version < TOP_LEVEL_ERROR_VERSION:
        for topic in request["topics"]:
            numbers = topic["partition_indexes"]
            partitions = [_partition(number, None, answer["error_code"]) for number in numbers]
            answer["topics"].append({"name": topic["name"], "partitions": partitions})
    topics = [{"name": topic["name"], "partitions": topic["partitions"]} for topic in answer["topics"]]
    return {"topics": topics, "error_code": answer["error_code"]}


async def _group(broker: Any, group_id: str, topics: Sequence | None, stable: bool, context: Any) -> dict[str, Any]:
    try:
        offsets = await broker.groups.committed(group_id, stable=stable)
    except KafkaError as error:
        return {"group_id": group_id, "error_code": error.code, "topics": []}
    by_id = context.version >= TOPIC_ID_VERSION
    answers = _all(broker, offsets) if topics is None else [_topic(broker, topic, offsets, by_id) for topic in topics]
    return {"group_id": group_id, "error_code": ErrorCode.NONE, "topics": answers}


def _all(broker: Any, offsets: Mapping[tuple[str, int], Committed]) -> list[dict[str, Any]]:
    by_topic: dict[str, dict[str, Any]] = {}
    for name, number in offsets:
        topic = broker.metadata.topics.get(name)
        committed = lookup(offsets, name, number, topic.topic_id) if topic else None
        if committed is not None:
            answer = by_topic.setdefault(name, {"name": name, "topic_id": topic.topic_id, "partitions": []})
            answer["partitions"].append(_partition(number, committed))
    return list(by_topic.values())


def _topic(broker: Any, asked: Mapping[str, Any], offsets: Mapping, by_id: bool) -> dict[str, Any]:
    numbers = asked["partition_indexes"]
    if not by_id:
        known = broker.metadata.topics.get(asked["name"])
        topic_id = known.topic_id if known else ZERO_UUID
        partitions = [_partition(number, lookup(offsets, asked["name"], number, topic_id)) for number in numbers]
        return {"name": asked["name"], "partitions": partitions}
    topic_id = asked["topic_id"]
    known = broker.metadata.by_id.get(topic_id)
    if known is None:
        partitions = [_partition(number, None, ErrorCode.UNKNOWN_TOPIC_ID) for number in numbers]
    else:
        partitions = [_partition(number, lookup(offsets, known.name, number, topic_id)) for number in numbers]
    return {"topic_id": topic_id, "partitions": partitions}


def _partition(number: int, committed: Committed | None, error: ErrorCode = ErrorCode.NONE) -> dict[str, Any]:
    if committed is None:
        committed = Committed(-1, -1, "", -1)
    return {
        "partition_index": number, "committed_offset": committed.offset,
        "committed_leader_epoch": committed.leader_epoch, "metadata": committed.metadata, "error_code": error,
    }  # fmt: skip
