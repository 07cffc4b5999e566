"""Heartbeat: "I am still here. Is there anything new?" REBALANCE_IN_PROGRESS says: join again.

While the group is being loaded the answer is NONE, as in Apache Kafka: its session begins anew after that.
v3: static members.
"""

from typing import Any

from refbroker.errors import ErrorCode, KafkaError
from refbroker.protocol import INT16, INT32, STRING, Api, Field, Struct

REQUEST = Struct(
    Field("group_id", STRING),
    Field("generation_id", INT32),
    Field("member_id", STRING),
    Field("group_instance_id", STRING, "3+", nullable="3+", default=None),
)

RESPONSE = Struct(Field("throttle_time_ms", INT32, "1+", default=0), Field("error_code", INT16))

API = Api(key=12, name="Heartbeat", versions=(0, 4), flexible=4, request=REQUEST, response=RESPONSE)


def handle(broker: Any, request: dict[str, Any], context: Any) -> dict[str, Any]:
    try:
        broker.groups.heartbeat(
            request["group_id"], request["member_id"], request["group_instance_id"], request["generation_id"]
        )
    except KafkaError as error:
        return {"error_code": error.code}
    return {"error_code": ErrorCode.NONE}
