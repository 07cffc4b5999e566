"""OffsetForLeaderEpoch: where did this leader epoch end? By the answer a client learns that the log was cut (KIP-320).

- The answer is the largest epoch not above the one asked for, and the offset where the next one began; for the current
  epoch, the log end offset. -1 and -1 where we know of none.
- Here the epoch rises at each unclean start (C4.3), so that a consumer tells an offset that was lost in a crash and
  given again from the one it has read.
- The current epoch that the client believes in is held against ours: FENCED_LEADER_EPOCH, UNKNOWN_LEADER_EPOCH.
"""

from typing import Any

from refbroker.apis import check_leader_epoch, partition_for_client
from refbroker.errors import ErrorCode, KafkaError
from refbroker.protocol import INT16, INT32, INT64, STRING, Api, Array, Field, Struct

REQUEST = Struct(
    Field("replica_id", INT32, "3+", default=-2),
    Field("topics", Array(Struct(
        Field("topic", STRING),
        Field("partitions", Array(Struct(
            Field("partition", INT32),
            Field("current_leader_epoch", INT32, "2+", default=-1),
            Field("leader_epoch", INT32),
        ))),
    ))),
)  # fmt: skip

RESPONSE = Struct(
    Field("throttle_time_ms", INT32, "2+", default=0),
    Field("topics", Array(Struct(
        Field("topic", STRING),
        Field("partitions", Array(Struct(
            Field("error_code", INT16),
            Field("partition", INT32),
            Field("leader_epoch", INT32, "1+", default=-1),
            Field("end_offset", INT64, default=-1),
        ))),
    ))),
)  # fmt: skip

API = Api(key=23, name="OffsetForLeaderEpoch", versions=(2, 4), flexible=4, request=REQUEST, response=RESPONSE)


async def handle(broker: Any, request: dict[str, Any], context: Any) -> dict[str, Any]:
    topics = []
    for topic in request["topics"]:
        partitions = []
        for entry in topic["partitions"]:
            number = entry["partition"]
            try:
                partition = partition_for_client(broker, topic["topic"], number)
                check_leader_epoch(partition, entry["current_leader_epoch"])
                epoch, end_offset = partition.epoch_end(entry["leader_epoch"])
                code = ErrorCode.NONE
            except KafkaError as error:
                code, epoch, end_offset = error.code, -1, -1
            end = {"leader_epoch": epoch, "end_offset": end_offset}
            partitions.append({"error_code": code, "partition": number, **end})
        topics.append({"topic": topic["topic"], "partitions": partitions})
    return {"topics": topics}
