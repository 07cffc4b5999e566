"""OffsetCommit: "I have read up to here."

- The answer comes when the records are in __consumer_offsets, durable as far as that topic's flush policy says (C8.1);
  not before can anybody fetch the new offset.
- All offsets of one request are one record batch: all of them survive a crash, or none.
- An unknown topic or partition is refused (UNKNOWN_TOPIC_OR_PARTITION, UNKNOWN_TOPIC_ID from v10 on), metadata longer
  than offset.metadata.max.bytes too (OFFSET_METADATA_TOO_LARGE); the others of the request are committed all the same.
- Without generation and member (-1, "") it is a commit from outside, which only a group without members takes.
- v2-4: the client may name a retention time. v6: the leader epoch of the record before the offset, kept (C8.4).
  v7: static members. v9: GROUP_ID_NOT_FOUND instead of ILLEGAL_GENERATION for a group that is not there. v10: topic
  ids, no names.
"""

from typing import Any

from refbroker.errors import ErrorCode
from refbroker.group_records import Committed
from refbroker.groups import Commit
from refbroker.protocol import INT16, INT32, INT64, STRING, UUID, ZERO_UUID, Api, Array, Field, Struct

REQUEST = Struct(
    Field("group_id", STRING),
    Field("generation_id_or_member_epoch", INT32, "1+", default=-1),
    Field("member_id", STRING, "1+", default=""),
    Field("group_instance_id", STRING, "7+", nullable="7+", default=None),
    Field("retention_time_ms", INT64, "2-4", default=-1),
    Field("topics", Array(Struct(
        Field("name", STRING, "0-9", default=""),
        Field("topic_id", UUID, "10+", default=ZERO_UUID),
        Field("partitions", Array(Struct(
            Field("partition_index", INT32),
            Field("committed_offset", INT64),
            Field("committed_leader_epoch", INT32, "6+", default=-1),
            Field("committed_metadata", STRING, nullable="0+"),
        ))),
    ))),
)  # fmt: skip

RESPONSE = Struct(
    Field("throttle_time_ms", INT32, "3+", default=0),
    Field("topics", Array(Struct(
        Field("name", STRING, "0-9", default=""),
        Field("topic_id", UUID, "10+", default=ZERO_UUID),
        Field("partitions", Array(Struct(
            Field("partition_index", INT32),
            Field("error_code", INT16),
        ))),
    ))),
)  # fmt: skip

API = Api(key=8, name="OffsetCommit", versions=(2, 10), flexible=8, request=REQUEST, response=RESPONSE)

FOR_EVER = 2**63 - 1  # ms since 1970, also as a retention time


async def handle(broker: Any, request: dict[str, Any], context: Any) -> dict[str, Any]:
    now_ms, retention_ms = broker.clock(), request["retention_time_ms"]
    expire_timestamp_ms = -1 if retention_ms < 0 else min(now_ms + retention_ms, FOR_EVER)
    metadata_chars_max = broker.config.offset_metadata_max_bytes
    commits: list[Commit] = []
    accepted: list[dict[str, Any]] = []
    topics = []
    for asked in request["topics"]:
        if context.version >= 10:
            topic, unknown = broker.metadata.by_id.get(asked["topic_id"]), ErrorCode.UNKNOWN_TOPIC_ID
        else:
            topic, unknown = broker.metadata.topics.get(asked["name"]), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
        partitions = []
        for wanted in asked["partitions"]:
            number, metadata = wanted["partition_index"], wanted["committed_metadata"] or ""
            answer = {"partition_index": number, "error_code": ErrorCode.NONE}
            partitions.append(answer)
            if topic is None:
                answer["error_code"] = unknown
            elif not 0 <= number < topic.partitions:
                answer["error_code"] = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
            elif len(metadata) > metadata_chars_max:
                answer["error_code"] = ErrorCode.OFFSET_METADATA_TOO_LARGE
            else:
                accepted.append(answer)
                commits.append(Commit(topic.name, number, Committed(
                    wanted["committed_offset"], wanted["committed_leader_epoch"], metadata, now_ms, expire_timestamp_ms,
                    topic.topic_id,
                )))  # fmt: skip
        topics.append({"name": asked["name"], "topic_id": asked["topic_id"], "partitions": partitions})
    if commits:
        error = await broker.groups.commit(
            request["group_id"], request["member_id"], request["group_instance_id"],
            request["generation_id_or_member_epoch"], commits, version=context.version,
        )  # fmt: skip
        for answer in accepted:
            answer["error_code"] = error
    return {"topics": topics}
