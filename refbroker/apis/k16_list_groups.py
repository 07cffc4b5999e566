"""ListGroups: all groups, or (v4) those in some states, or (v5) of some types. All of ours are of type "classic"."""

from typing import Any

from refbroker.errors import ErrorCode, KafkaError
from refbroker.protocol import INT16, INT32, STRING, Api, Array, Field, Struct

REQUEST = Struct(
    Field("states_filter", Array(STRING), "4+", default=()),
    Field("types_filter", Array(STRING), "5+", default=()),
)

RESPONSE = Struct(
    Field("throttle_time_ms", INT32, "1+", default=0),
    Field("error_code", INT16),
    Field("groups", Array(Struct(
        Field("group_id", STRING),
        Field("protocol_type", STRING),
        Field("group_state", STRING, "4+", default=""),
        Field("group_type", STRING, "5+", default=""),
    ))),
)  # fmt: skip

API = Api(key=16, name="ListGroups", versions=(0, 5), flexible=3, request=REQUEST, response=RESPONSE)


async def handle(broker: Any, request: dict[str, Any], context: Any) -> dict[str, Any]:
    try:
        groups = broker.groups.listed(request["states_filter"], request["types_filter"])
    except KafkaError as error:
        return {"error_code": error.code, "groups": []}
    return {"error_code": ErrorCode.NONE, "groups": groups}
