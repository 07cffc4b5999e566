"""DescribeProducers: which idempotent producers does a partition know of, and what did they send last?

- One entry for each producer whose state is kept (see `log/producers.py`): its epoch, last sequence, last timestamp.
- Coordinator epoch and start of the current transaction are -1: there are no transactions.
"""

from typing import Any

from refbroker.apis import partition_for_client
from refbroker.errors import ErrorCode, KafkaError
from refbroker.protocol import INT16, INT32, INT64, STRING, Api, Array, Field, Struct

REQUEST = Struct(
    Field("topics", Array(Struct(
        Field("name", STRING),
        Field("partition_indexes", Array(INT32)),
    ))),
)  # fmt: skip

RESPONSE = Struct(
    Field("throttle_time_ms", INT32, default=0),
    Field("topics", Array(Struct(
        Field("name", STRING),
        Field("partitions", Array(Struct(
            Field("partition_index", INT32),
            Field("error_code", INT16),
            Field("error_message", STRING, nullable="0+", default=None),
            Field("active_producers", Array(Struct(
                Field("producer_id", INT64),
                Field("producer_epoch", INT32),
                Field("last_sequence", INT32, default=-1),
                Field("last_timestamp", INT64, default=-1),
                Field("coordinator_epoch", INT32),
                Field("current_txn_start_offset", INT64, default=-1),
            ))),
        ))),
    ))),
)  # fmt: skip

API = Api(key=61, name="DescribeProducers", versions=(0, 0), flexible=0, request=REQUEST, response=RESPONSE)


async def handle(broker: Any, request: dict[str, Any], context: Any) -> dict[str, Any]:
    topics = []
    for topic in request["topics"]:
        partitions = []
        for number in topic["partition_indexes"]:
            entry: dict[str, Any] = {"partition_index": number, "error_code": ErrorCode.NONE, "active_producers": []}
            try:
                partition = partition_for_client(broker, topic["name"], number)
                entry["active_producers"] = [_described(producer) for producer in partition.producers.active]
            except KafkaError as error:
                entry.update(error_code=error.code, error_message=error.message or None)
            partitions.append(entry)
        topics.append({"name": topic["name"], "partitions": partitions})
    return {"topics": topics}


def _described(producer: Any) -> dict[str, int]:
    return {
        "producer_id": producer.producer_id,
        "producer_epoch": producer.epoch,
        "last_sequence": producer.last_sequence,
        "last_timestamp": producer.last_timestamp,
        "coordinator_epoch": producer.coordinator_epoch,
        "current_txn_start_offset": -1 if producer.txn_start_offset is None else producer.txn_start_offset,
    }
