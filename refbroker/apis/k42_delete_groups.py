"""DeleteGroups: delete groups without members, and all offsets that they committed.

NON_EMPTY_GROUP, GROUP_ID_NOT_FOUND. Answered when the tombstones are written. v3: error messages.
"""

from typing import Any

from refbroker.errors import ErrorCode, KafkaError
from refbroker.protocol import INT16, INT32, STRING, Api, Array, Field, Struct

REQUEST = Struct(Field("groups_names", Array(STRING)))

RESPONSE = Struct(
    Field("throttle_time_ms", INT32, default=0),
    Field("results", Array(Struct(
        Field("group_id", STRING),
        Field("error_code", INT16),
        Field("error_message", STRING, "3+", nullable="3+", default=None),
    ))),
)  # fmt: skip

API = Api(key=42, name="DeleteGroups", versions=(0, 3), flexible=2, request=REQUEST, response=RESPONSE)


async def handle(broker: Any, request: dict[str, Any], context: Any) -> dict[str, Any]:
    return {"results": [await _delete(broker, group_id) for group_id in dict.fromkeys(request["groups_names"])]}


async def _delete(broker: Any, group_id: str) -> dict[str, Any]:
    try:
        await broker.groups.delete(group_id)
    except KafkaError as error:
        return {"group_id": group_id, "error_code": error.code, "error_message": error.message or error.code.name}
    return {"group_id": group_id, "error_code": ErrorCode.NONE}
