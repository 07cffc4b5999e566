"""DeleteRecords: raise the log start offset of partitions; records before it are gone for every reader.

- Offset -1 means the high watermark. An offset above it, or negative otherwise, is OFFSET_OUT_OF_RANGE; one below the
  log start changes nothing. The answer is the new log start ("low watermark"); a crash before the next checkpoint may
  undo it (C3.5).
- Internal topics, and topics that are only compacted, are refused.
"""

from typing import Any

from refbroker.apis import partition_for_client
from refbroker.errors import ErrorCode, KafkaError
from refbroker.protocol import INT16, INT32, INT64, STRING, Api, Array, Field, Struct

REQUEST = Struct(
    Field("topics", Array(Struct(
        Field("name", STRING),
        Field("partitions", Array(Struct(
            Field("partition_index", INT32),
            Field("offset", INT64),
        ))),
    ))),
    Field("timeout_ms", INT32),
)  # fmt: skip

RESPONSE = Struct(
    Field("throttle_time_ms", INT32, default=0),
    Field("topics", Array(Struct(
        Field("name", STRING),
        Field("partitions", Array(Struct(
            Field("partition_index", INT32),
            Field("low_watermark", INT64),
            Field("error_code", INT16),
        ))),
    ))),
)  # fmt: skip

API = Api(key=21, name="DeleteRecords", versions=(0, 2), flexible=2, request=REQUEST, response=RESPONSE)


async def handle(broker: Any, request: dict[str, Any], context: Any) -> dict[str, Any]:
    topics = []
    for topic in request["topics"]:
        partitions = []
        for entry in topic["partitions"]:
            number = entry["partition_index"]
            try:
                low_watermark, code = _delete(broker, topic["name"], number, entry["offset"]), ErrorCode.NONE
            except KafkaError as error:
                low_watermark, code = -1, error.code
            partitions.append({"partition_index": number, "low_watermark": low_watermark, "error_code": code})
        topics.append({"name": topic["name"], "partitions": partitions})
    return {"topics": topics}


def _delete(broker: Any, name: str, number: int, offset: int) -> int:
    partition = partition_for_client(broker, name, number)
    if broker.metadata.topics[name].is_internal:
        raise KafkaError(ErrorCode.INVALID_TOPIC_EXCEPTION)
    if "delete" not in partition.config.cleanup_policy:
        raise KafkaError(ErrorCode.POLICY_VIOLATION)
    return partition.delete_records(offset)
