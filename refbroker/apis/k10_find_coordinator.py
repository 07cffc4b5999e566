"""FindCoordinator: which broker looks after this group?

- Key type 0, groups: this broker. The first question makes __consumer_offsets; Apache Kafka answers
  COORDINATOR_NOT_AVAILABLE until it has been made, here the answer waits for it.
- Key type 1, transactions: INVALID_REQUEST. There is no transaction coordinator, and COORDINATOR_NOT_AVAILABLE would
  make every client ask again for a minute or for ever. Key type 2, share groups: INVALID_REQUEST, as in a Kafka without
  share coordinator.
- v1: key types, error messages. v4: many keys in one request.
"""

from typing import Any

from refbroker.errors import ErrorCode, KafkaError
from refbroker.protocol import INT8, INT16, INT32, STRING, Api, Array, Field, Struct

REQUEST = Struct(
    Field("key", STRING, "0-3", default=""),
    Field("key_type", INT8, "1+", default=0),
    Field("coordinator_keys", Array(STRING), "4+", default=()),
)

RESPONSE = Struct(
    Field("throttle_time_ms", INT32, "1+", default=0),
    Field("error_code", INT16, "0-3", default=0),
    Field("error_message", STRING, "1-3", nullable="1-3", default=None),
    Field("node_id", INT32, "0-3", default=-1),
    Field("host", STRING, "0-3", default=""),
    Field("port", INT32, "0-3", default=-1),
    Field("coordinators", Array(Struct(
        Field("key", STRING, "4+"),
        Field("node_id", INT32, "4+"),
        Field("host", STRING, "4+"),
        Field("port", INT32, "4+"),
        Field("error_code", INT16, "4+"),
        Field("error_message", STRING, "4+", nullable="4+", default=None),
    )), "4+", default=()),
)  # fmt: skip

API = Api(key=10, name="FindCoordinator", versions=(0, 6), flexible=3, request=REQUEST, response=RESPONSE)

MANY_KEYS_VERSION = 4
GROUP = 0
KINDS = {1: "transactions are not served", 2: "share groups are not served"}


async def handle(broker: Any, request: dict[str, Any], context: Any) -> dict[str, Any]:
    if context.version < MANY_KEYS_VERSION:
        return await _coordinator(broker, context, request["key_type"], request["key"])
    keys = request["coordinator_keys"]
    return {"coordinators": [{"key": key, **await _coordinator(broker, context, request["key_type"], key)} for key in keys]}


async def _coordinator(broker: Any, context: Any, key_type: int, key: str) -> dict[str, Any]:
    try:
        if key_type != GROUP:
            raise KafkaError(ErrorCode.INVALID_REQUEST, KINDS.get(key_type, f"unknown coordinator type {key_type}"))
        await broker.groups.find(key)
    except KafkaError as error:
        return {
            "error_code": error.code, "error_message": error.message or error.code.name, "node_id": -1, "host": "",
            "port": -1,
        }  # fmt: skip
    host, port = broker.advertised(context.listener)
    return {"error_code": ErrorCode.NONE, "node_id": broker.node_id, "host": host, "port": port}
