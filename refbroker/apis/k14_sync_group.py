"""SyncGroup: the leader brings the assignments of a generation, everybody takes their own.

The answer comes when the leader has synced and the assignments are stored in __consumer_offsets; in a stable group at
once. v3: static members. v5: the client says which protocol type and protocol it thinks the group has, and must
(INCONSISTENT_GROUP_PROTOCOL). The rules are in `group_state.py`.
"""

from typing import Any

from refbroker.errors import ErrorCode
from refbroker.group_state import sync_response
from refbroker.protocol import BYTES, INT16, INT32, STRING, Api, Array, Field, Struct

REQUEST = Struct(
    Field("group_id", STRING),
    Field("generation_id", INT32),
    Field("member_id", STRING),
    Field("group_instance_id", STRING, "3+", nullable="3+", default=None),
    Field("protocol_type", STRING, "5+", nullable="5+", default=None),
    Field("protocol_name", STRING, "5+", nullable="5+", default=None),
    Field("assignments", Array(Struct(Field("member_id", STRING), Field("assignment", BYTES)))),
)

RESPONSE = Struct(
    Field("throttle_time_ms", INT32, "1+", default=0),
    Field("error_code", INT16),
    Field("protocol_type", STRING, "5+", nullable="5+", default=None),
    Field("protocol_name", STRING, "5+", nullable="5+", default=None),
    Field("assignment", BYTES),
)

API = Api(key=14, name="SyncGroup", versions=(0, 5), flexible=4, request=REQUEST, response=RESPONSE)

PROTOCOL_VERSION = 5


async def handle(broker: Any, request: dict[str, Any], context: Any) -> dict[str, Any]:
    protocol_type, protocol = request["protocol_type"], request["protocol_name"]
    if context.version >= PROTOCOL_VERSION and None in (protocol_type, protocol):
        return sync_response(ErrorCode.INCONSISTENT_GROUP_PROTOCOL)
    assignments = {entry["member_id"]: entry["assignment"] for entry in request["assignments"]}
    return await broker.groups.sync(
        request["group_id"], request["member_id"], request["group_instance_id"], request["generation_id"],
        protocol_type, protocol, assignments,
    )  # fmt: skip
