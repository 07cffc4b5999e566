"""DescribeLogDirs (35), versions 1-5: how much is stored where?

1. `topics` null: every partition, internal topics included, the metadata log not. Else those named; a partition that
   is not here is left out without an error.
2. An offline directory is answered with KAFKA_STORAGE_ERROR and no topics.
3. `total_bytes` and `usable_bytes` (4+) are those of the file system that holds the directory.
"""

from refbroker.errors import ErrorCode
from refbroker.protocol import BOOL, INT16, INT32, INT64, STRING, Api, Array, Field, Struct
from refbroker.topic_rules import CLUSTER_METADATA

REQUEST = Struct(
    Field("topics", Array(Struct(
        Field("topic", STRING),
        Field("partitions", Array(INT32)),
    )), nullable="0+"),
)  # fmt: skip

RESPONSE = Struct(
    Field("throttle_time_ms", INT32, default=0),
    Field("error_code", INT16, "3+", default=ErrorCode.NONE),
    Field("results", Array(Struct(
        Field("error_code", INT16),
        Field("log_dir", STRING),
        Field("topics", Array(Struct(
            Field("name", STRING),
            Field("partitions", Array(Struct(
                Field("partition_index", INT32),
                Field("partition_size", INT64),
                Field("offset_lag", INT64),
                Field("is_future_key", BOOL, default=False),
            ))),
        ))),
        Field("total_bytes", INT64, "4+", default=-1),
        Field("usable_bytes", INT64, "4+", default=-1),
        Field("is_cordoned", BOOL, "5+", default=False),
    ))),
)  # fmt: skip

API = Api(key=35, name="DescribeLogDirs", versions=(1, 5), flexible=2, request=REQUEST, response=RESPONSE)


async def handle(broker, request: dict, context) -> dict:
    logs = broker.logs
    result = {"error_code": ErrorCode.NONE, "log_dir": logs.path, "topics": []}
    if logs.offline:
        result["error_code"] = ErrorCode.KAFKA_STORAGE_ERROR
        return {"results": [result]}
    asked = None
    if request["topics"] is not None:
        asked = {(topic["topic"], number) for topic in request["topics"] for number in topic["partitions"]}
    topics: dict[str, list[dict]] = {}
    for (name, number), partition in sorted(logs.partitions.items()):
        if name != CLUSTER_METADATA and (asked is None or (name, number) in asked):
            lag = max(0, partition.log_end_offset - partition.high_watermark)
            described = {"partition_index": number, "partition_size": partition.size_bytes, "offset_lag": lag}
            topics.setdefault(name, []).append(described)
    result["topics"] = [{"name": name, "partitions": partitions} for name, partitions in topics.items()]
    try:
        result["total_bytes"], result["usable_bytes"] = broker.disk.space(logs.path)
    except OSError:
        result = {"error_code": ErrorCode.KAFKA_STORAGE_ERROR, "log_dir": logs.path, "topics": []}
    return {"results": [result]}
