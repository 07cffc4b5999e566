"""CreatePartitions (37), versions 0-3: give these topics more partitions.

1. `count` is the new total. Not more than now is INVALID_PARTITIONS: partitions are never taken away.
2. `assignments`, where given, has one entry for each added partition, and each entry must be this broker alone.
3. A name given twice is INVALID_REQUEST. `validate_only` runs every check and changes nothing.
4. Each topic's change is one durable batch of the metadata log, and its directories exist before the answer leaves.
"""

from collections import Counter

from refbroker.errors import ErrorCode, KafkaError
from refbroker.protocol import BOOL, INT16, INT32, STRING, Api, Array, Field, Struct

REQUEST = Struct(
    Field("topics", Array(Struct(
        Field("name", STRING),
        Field("count", INT32),
        Field("assignments", Array(Struct(
            Field("broker_ids", Array(INT32)),
        )), nullable="0+"),
    ))),
    Field("timeout_ms", INT32),
    Field("validate_only", BOOL),
)  # fmt: skip

RESPONSE = Struct(
    Field("throttle_time_ms", INT32, default=0),
    Field("results", Array(Struct(
        Field("name", STRING),
        Field("error_code", INT16),
        Field("error_message", STRING, nullable="0+", default=None),
    ))),
)  # fmt: skip

API = Api(key=37, name="CreatePartitions", versions=(0, 3), flexible=2, request=REQUEST, response=RESPONSE)


async def handle(broker, request: dict, context) -> dict:
    names = Counter(topic["name"] for topic in request["topics"])
    results = {}
    for topic in request["topics"]:
        name = topic["name"]
        results[name] = {"name": name, "error_code": ErrorCode.NONE, "error_message": None}
        try:
            if names[name] > 1:
                raise KafkaError(ErrorCode.INVALID_REQUEST, "Duplicate topic name.")
            assignments = topic["assignments"] and [entry["broker_ids"] for entry in topic["assignments"]]
            await broker.metadata.create_partitions(
                name, topic["count"], assignments=assignments, validate_only=request["validate_only"]
            )
        except KafkaError as error:
            results[name].update(error_code=error.code, error_message=error.message or error.code.name)
    return {"results": list(results.values())}
