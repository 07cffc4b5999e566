"""ListOffsets: which offset has the first record with a timestamp of at least this? And earliest, latest and others.

| Timestamp | Asks for | From |
|---|---|---|
| -1 | the latest: high watermark, or last stable offset for read_committed | v1 |
| -2 | the earliest: log start offset | v1 |
| -3 | the record with the largest timestamp | v7 |
| -4 | the earliest that is on local disk: log start offset, since there is no other storage | v8 |
| -5 | the last that is in tiered storage: none, offset -1 | v9 |
| -6 | the first that is yet to go there: none, offset -1 | v11 |

- Nothing at or above the high watermark is found (C4.2), except by clients that say they are a replica or a debugger.
- Nothing found is no error: offset and timestamp are -1.
- v4 adds leader epochs, the client's for fencing and ours in the answer.
- A partition named twice is refused, as in Kafka.
"""

from collections import Counter
from typing import Any

from refbroker.apis import check_leader_epoch, partition_for_client
from refbroker.errors import ErrorCode, KafkaError
from refbroker.protocol import INT8, INT16, INT32, INT64, STRING, Api, Array, Field, Struct

LATEST, EARLIEST, MAX_TIMESTAMP, EARLIEST_LOCAL, LATEST_TIERED, EARLIEST_PENDING_UPLOAD = -1, -2, -3, -4, -5, -6
SPECIAL = (LATEST, EARLIEST, MAX_TIMESTAMP, EARLIEST_LOCAL, LATEST_TIERED, EARLIEST_PENDING_UPLOAD)
VERSION_MIN = dict(zip(SPECIAL, (1, 1, 7, 8, 9, 11)))
CONSUMER = -1  # the replica id of clients that are none
READ_COMMITTED = 1

REQUEST = Struct(
    Field("replica_id", INT32),
    Field("isolation_level", INT8, "2+", default=0),
    Field("topics", Array(Struct(
        Field("name", STRING),
        Field("partitions", Array(Struct(
            Field("partition_index", INT32),
            Field("current_leader_epoch", INT32, "4+", default=-1),
            Field("timestamp", INT64),
        ))),
    ))),
    Field("timeout_ms", INT32, "10+", default=0),
)  # fmt: skip

RESPONSE = Struct(
    Field("throttle_time_ms", INT32, "2+", default=0),
    Field("topics", Array(Struct(
        Field("name", STRING),
        Field("partitions", Array(Struct(
            Field("partition_index", INT32),
            Field("error_code", INT16),
            Field("timestamp", INT64, "1+", default=-1),
            Field("offset", INT64, "1+", default=-1),
            Field("leader_epoch", INT32, "4+", default=-1),
        ))),
    ))),
)  # fmt: skip

API = Api(key=2, name="ListOffsets", versions=(1, 11), flexible=6, request=REQUEST, response=RESPONSE)


async def handle(broker: Any, request: dict[str, Any], context: Any) -> dict[str, Any]:
    asked = request["topics"]
    named = Counter((topic["name"], entry["partition_index"]) for topic in asked for entry in topic["partitions"])
    topics = []
    for topic in request["topics"]:
        name = topic["name"]
        partitions = []
        for entry in topic["partitions"]:
            number = entry["partition_index"]
            try:
                if named[name, number] > 1:
                    raise KafkaError(ErrorCode.INVALID_REQUEST)
                timestamp, offset, epoch = _find(broker, name, entry, request, context.version)
                code = ErrorCode.NONE
            except KafkaError as error:
                code, timestamp, offset, epoch = error.code, -1, -1, -1
            found = {"timestamp": timestamp, "offset": offset, "leader_epoch": epoch}
            partitions.append({"partition_index": number, "error_code": code, **found})
        topics.append({"name": name, "partitions": partitions})
    return {"topics": topics}


def _find(broker: Any, name: str, entry: dict[str, Any], request: dict[str, Any], version: int) -> tuple[int, int, int]:
    """(timestamp, offset, leader epoch) of what was asked for."""
    wanted = entry["timestamp"]
    if wanted < 0 and version < VERSION_MIN.get(wanted, version + 1):
        raise KafkaError(ErrorCode.UNSUPPORTED_VERSION)
    partition = partition_for_client(broker, name, entry["partition_index"])
    check_leader_epoch(partition, entry["current_leader_epoch"])
    if request["replica_id"] != CONSUMER:
        end = partition.log_end_offset
    elif request["isolation_level"] == READ_COMMITTED:
        end = partition.last_stable_offset
    else:
        end = partition.high_watermark
    if wanted == LATEST:
        return -1, end, partition.leader_epoch
    if wanted in (EARLIEST, EARLIEST_LOCAL):
        epoch = partition.epochs.epoch_for(partition.log_start_offset)
        return -1, partition.log_start_offset, -1 if epoch is None else epoch
    if wanted in (LATEST_TIERED, EARLIEST_PENDING_UPLOAD):
        return -1, -1, -1
    found = partition.offset_of_max_timestamp() if wanted == MAX_TIMESTAMP else partition.offset_for_time(wanted)
    if found is None or found[1] >= end:
        return -1, -1, -1
    return found
