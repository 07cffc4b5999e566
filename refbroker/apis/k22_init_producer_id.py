"""InitProducerId: a producer id for an idempotent producer.

- Without transactional id: a producer id that this broker never gave before, over crashes too (C6.5), and epoch 0. A
  producer that sends the id and epoch it had (v3+) gets a fresh id all the same, as in Kafka; to send one of the two
  without the other is INVALID_REQUEST.
- With transactional id: UNSUPPORTED_VERSION. Transactions are not served, and of the codes that make every client
  stop at once instead of trying for ever, this one says why.
- v6 (two-phase commit) is unstable in Apache Kafka 4.4, and not served.
"""

from typing import Any

from refbroker.errors import ErrorCode, KafkaError
from refbroker.protocol import INT16, INT32, INT64, STRING, Api, Field, Struct

REQUEST = Struct(
    Field("transactional_id", STRING, nullable="0+"),
    Field("transaction_timeout_ms", INT32),
    Field("producer_id", INT64, "3+", default=-1),
    Field("producer_epoch", INT16, "3+", default=-1),
)  # fmt: skip

RESPONSE = Struct(
    Field("throttle_time_ms", INT32, default=0),
    Field("error_code", INT16),
    Field("producer_id", INT64, default=-1),
    Field("producer_epoch", INT16),
)  # fmt: skip

API = Api(key=22, name="InitProducerId", versions=(0, 5), flexible=2, request=REQUEST, response=RESPONSE)


async def handle(broker: Any, request: dict[str, Any], context: Any) -> dict[str, Any]:
    try:
        if (request["producer_id"] == -1) != (request["producer_epoch"] == -1):
            raise KafkaError(ErrorCode.INVALID_REQUEST)
        if request["transactional_id"] is not None:
            named = request["transactional_id"] != ""
            raise KafkaError(ErrorCode.UNSUPPORTED_VERSION if named else ErrorCode.INVALID_REQUEST)
        producer_id = await broker.metadata.next_producer_id()
    except KafkaError as error:
        return {"error_code": error.code, "producer_epoch": -1}
    return {"error_code": ErrorCode.NONE, "producer_id": producer_id, "producer_epoch": 0}
