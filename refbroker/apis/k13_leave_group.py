"""LeaveGroup: take members out now, without waiting for their sessions to time out.

- v0-2: the one member that asks. v3: many, each with an error of its own (KIP-345); an empty member id beside an
  instance id is an administrator's who removes a static member. v5: reasons, for a log that we do not keep.
- A member that is not there: UNKNOWN_MEMBER_ID, for v0-2 as the error of the whole.
"""

from typing import Any

from refbroker.errors import ErrorCode, KafkaError
from refbroker.protocol import INT16, INT32, STRING, Api, Array, Field, Struct

REQUEST = Struct(
    Field("group_id", STRING),
    Field("member_id", STRING, "0-2", default=""),
    Field("members", Array(Struct(
        Field("member_id", STRING, "3+"),
        Field("group_instance_id", STRING, "3+", nullable="3+", default=None),
        Field("reason", STRING, "5+", nullable="5+", default=None),
    )), "3+", default=()),
)  # fmt: skip

RESPONSE = Struct(
    Field("throttle_time_ms", INT32, "1+", default=0),
    Field("error_code", INT16),
    Field("members", Array(Struct(
        Field("member_id", STRING, "3+"),
        Field("group_instance_id", STRING, "3+", nullable="3+"),
        Field("error_code", INT16, "3+"),
    )), "3+", default=()),
)  # fmt: skip

API = Api(key=13, name="LeaveGroup", versions=(0, 5), flexible=4, request=REQUEST, response=RESPONSE)

MANY_MEMBERS_VERSION = 3


async def handle(broker: Any, request: dict[str, Any], context: Any) -> dict[str, Any]:
    if context.version < MANY_MEMBERS_VERSION:
        members = [(request["member_id"], None)]
    else:
        members = [(member["member_id"], member["group_instance_id"]) for member in request["members"]]
    try:
        errors = broker.groups.leave(request["group_id"], members)
    except KafkaError as error:
        return {"error_code": error.code}
    if context.version < MANY_MEMBERS_VERSION:
        return {"error_code": errors[0]}
    return {
        "error_code": ErrorCode.NONE,
        "members": [
            {"member_id": member_id, "group_instance_id": instance_id, "error_code": error}
            for (member_id, instance_id), error in zip(members, errors, strict=True)
        ],
    }
