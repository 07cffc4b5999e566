"""DescribeTopicPartitions (75), version 0: Metadata for topics only, page by page.

1. Topics come in alphabetical order; an empty list asks for all of them.
2. At most min(`response_partition_limit`, `max.request.partition.size.limit`), and at least one, partitions are
   answered. Where that is not everything, `next_cursor` names the topic and partition to go on with.
3. A `cursor` starts the answer at that topic and partition; it must be among the topics asked for, and its partition
   must not be negative: INVALID_REQUEST for every topic otherwise.
4. A topic that is not there is UNKNOWN_TOPIC_OR_PARTITION, or INVALID_TOPIC_EXCEPTION; it is never created.

Apache Kafka leaves `error_code` of a partition without a leader at 0 here, unlike in Metadata; so does this.
"""

from refbroker.errors import ErrorCode, KafkaError
from refbroker.protocol import BOOL, INT16, INT32, STRING, UUID, ZERO_UUID, Api, Array, Field, Struct
from refbroker.topic_rules import AUTHORIZED_TOPIC, NOT_ASKED, check_name, is_internal

CURSOR = Struct(
    Field("topic_name", STRING),
    Field("partition_index", INT32),
)  # fmt: skip

REQUEST = Struct(
    Field("topics", Array(Struct(
        Field("name", STRING),
    ))),
    Field("response_partition_limit", INT32, default=2000),
    Field("cursor", CURSOR, nullable="0+", default=None),
)  # fmt: skip

RESPONSE = Struct(
    Field("throttle_time_ms", INT32, default=0),
    Field("topics", Array(Struct(
        Field("error_code", INT16, default=ErrorCode.NONE),
        Field("name", STRING, nullable="0+"),
        Field("topic_id", UUID, default=ZERO_UUID),
        Field("is_internal", BOOL, default=False),
        Field("partitions", Array(Struct(
            Field("error_code", INT16),
            Field("partition_index", INT32),
            Field("leader_id", INT32),
            Field("leader_epoch", INT32, default=-1),
            Field("replica_nodes", Array(INT32)),
            Field("isr_nodes", Array(INT32)),
            Field("eligible_leader_replicas", Array(INT32), nullable="0+", default=()),
            Field("last_known_elr", Array(INT32), nullable="0+", default=()),
            Field("offline_replicas", Array(INT32)),
        )), default=()),
        Field("topic_authorized_operations", INT32, default=NOT_ASKED),
    ))),
    Field("next_cursor", CURSOR, nullable="0+", default=None),
)  # fmt: skip

API = Api(key=75, name="DescribeTopicPartitions", versions=(0, 0), flexible=0, request=REQUEST, response=RESPONSE)


async def handle(broker, request: dict, context) -> dict:
    asked = sorted({topic["name"] for topic in request["topics"]})
    names = asked or sorted(broker.metadata.topics)
    cursor = request["cursor"]
    if cursor is not None:
        if cursor["partition_index"] < 0 or (asked and cursor["topic_name"] not in asked):
            return {"topics": [{"name": name, "error_code": ErrorCode.INVALID_REQUEST} for name in asked]}
        names = [name for name in names if name >= cursor["topic_name"]]
    limit = max(1, min(request["response_partition_limit"], broker.config.max_request_partition_size_limit))
    topics: list[dict] = []
    for name in names:
        if limit == 0:
            return {"topics": topics, "next_cursor": {"topic_name": name, "partition_index": 0}}
        topic = broker.metadata.topics.get(name)
        if topic is None:
            topics.append(_missing(name))
            continue
        first = cursor["partition_index"] if cursor is not None and cursor["topic_name"] == name else 0
        end = min(topic.partitions, first + limit)
        topics.append({
            "name": name, "topic_id": topic.topic_id, "is_internal": topic.is_internal,
            "partitions": [
                broker.metadata.describe_partition(topic, number) | {"error_code": ErrorCode.NONE} for number in range(first, end)
            ],
            "topic_authorized_operations": AUTHORIZED_TOPIC,
        })  # fmt: skip
        if end < topic.partitions:
            return {"topics": topics, "next_cursor": {"topic_name": name, "partition_index": end}}
        limit -= max(0, end - first)
    return {"topics": topics}


def _missing(name: str) -> dict:
    try:
        check_name(name)
        code = ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    except KafkaError as error:
        code = error.code
    return {
        "name": name,
        "error_code": code,
        "is_internal": is_internal(name),
        "topic_authorized_operations": AUTHORIZED_TOPIC,
    }
