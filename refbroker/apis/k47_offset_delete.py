"""OffsetDelete: forget what a group committed for these partitions.

A group with members keeps the offsets of the topics that they read (GROUP_SUBSCRIBED_TO_TOPIC); with members of another
protocol than consumers', which do not say what they read, all of them (NON_EMPTY_GROUP). Partitions without an offset
are fine; those that do not exist are UNKNOWN_TOPIC_OR_PARTITION.
"""

from typing import Any

from refbroker.errors import ErrorCode, KafkaError
from refbroker.protocol import INT16, INT32, STRING, Api, Array, Field, Struct

REQUEST = Struct(
    Field("group_id", STRING),
    Field("topics", Array(Struct(
        Field("name", STRING),
        Field("partitions", Array(Struct(Field("partition_index", INT32)))),
    ))),
)  # fmt: skip

RESPONSE = Struct(
    Field("error_code", INT16),
    Field("throttle_time_ms", INT32, default=0),
    Field("topics", Array(Struct(
        Field("name", STRING),
        Field("partitions", Array(Struct(
            Field("partition_index", INT32),
            Field("error_code", INT16),
        ))),
    ))),
)  # fmt: skip

API = Api(key=47, name="OffsetDelete", versions=(0, 0), flexible=None, request=REQUEST, response=RESPONSE)


async def handle(broker: Any, request: dict[str, Any], context: Any) -> dict[str, Any]:
    asked = [(topic["name"], entry["partition_index"]) for topic in request["topics"] for entry in topic["partitions"]]
    known = [(name, number) for name, number in asked if _exists(broker, name, number)]
    try:
        errors = await broker.groups.delete_offsets(request["group_id"], known)
    except KafkaError as error:
        return {"error_code": error.code, "topics": []}
    topics: dict[str, list] = {topic["name"]: [] for topic in request["topics"]}
    for name, number in dict.fromkeys(asked):
        error = errors.get((name, number), ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
        topics[name].append({"partition_index": number, "error_code": error})
    return {
        "error_code": ErrorCode.NONE,
        "topics": [{"name": name, "partitions": partitions} for name, partitions in topics.items()],
    }


def _exists(broker: Any, name: str, number: int) -> bool:
    topic = broker.metadata.topics.get(name)
    return topic is not None and 0 <= number < topic.partitions
