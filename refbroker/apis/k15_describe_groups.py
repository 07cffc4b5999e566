"""DescribeGroups: state, protocol and members of classic groups.

A group that is not there is Dead, without error; from v6 on GROUP_ID_NOT_FOUND. The protocol and the members' metadata
are told of stable groups only. v3: authorized operations; without an authorizer all are allowed. v4: instance ids.
"""

from typing import Any

from refbroker.errors import ErrorCode, KafkaError
from refbroker.protocol import BOOL, BYTES, INT16, INT32, STRING, Api, Array, Field, Struct

REQUEST = Struct(
    Field("groups", Array(STRING)),
    Field("include_authorized_operations", BOOL, "3+", default=False),
)

NOT_ASKED = -(2**31)

RESPONSE = Struct(
    Field("throttle_time_ms", INT32, "1+", default=0),
    Field("groups", Array(Struct(
        Field("error_code", INT16),
        Field("error_message", STRING, "6+", nullable="6+", default=None),
        Field("group_id", STRING),
        Field("group_state", STRING),
        Field("protocol_type", STRING),
        Field("protocol_data", STRING),
        Field("members", Array(Struct(
            Field("member_id", STRING),
            Field("group_instance_id", STRING, "4+", nullable="4+", default=None),
            Field("client_id", STRING),
            Field("client_host", STRING),
            Field("member_metadata", BYTES),
            Field("member_assignment", BYTES),
        ))),
        Field("authorized_operations", INT32, "3+", default=NOT_ASKED),
    ))),
)  # fmt: skip

API = Api(key=15, name="DescribeGroups", versions=(0, 6), flexible=5, request=REQUEST, response=RESPONSE)

NOT_FOUND_VERSION = 6
# a bit for each AclOperation that groups have: read, delete, describe, describe configs, alter configs
AUTHORIZED_OPERATIONS = sum(1 << code for code in (3, 6, 8, 10, 11))


async def handle(broker: Any, request: dict[str, Any], context: Any) -> dict[str, Any]:
    groups = [_describe(broker, group_id, context.version) for group_id in request["groups"]]
    if request["include_authorized_operations"]:
        for group in groups:
            if group["error_code"] is ErrorCode.NONE:
                group["authorized_operations"] = AUTHORIZED_OPERATIONS
    return {"groups": groups}


def _describe(broker: Any, group_id: str, version: int) -> dict[str, Any]:
    try:
        return broker.groups.describe(group_id)
    except KafkaError as error:
        code, is_dead = error.code, error.code is ErrorCode.GROUP_ID_NOT_FOUND
        return {
            "error_code": ErrorCode.NONE if is_dead and version < NOT_FOUND_VERSION else code,
            "error_message": error.message or code.name,
            "group_id": group_id,
            "group_state": "Dead" if is_dead else "",
            "protocol_type": "",
            "protocol_data": "",
            "members": [],
        }
