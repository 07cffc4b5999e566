"""JoinGroup: be a member of the next generation. The answer comes when that generation is complete.

- v0 has no rebalance timeout: the session timeout stands for it.
- v4: who comes without a member id gets MEMBER_ID_REQUIRED and an id to come back with, so that a client which gives up
  before its first answer leaves nothing behind. v5: static members, who need no such round.
- v7: the protocol type is told, and the protocol may be null. v8: the client's reason, for a log that we do not keep.
- v9: the leader of a stable group that has come back as a static member is told to skip the assignment (KIP-814).

The rules are in `group_state.py`.
"""

from typing import Any

from refbroker.group_members import Join
from refbroker.protocol import BOOL, BYTES, INT16, INT32, STRING, Api, Array, Field, Struct

REQUEST = Struct(
    Field("group_id", STRING),
    Field("session_timeout_ms", INT32),
    Field("rebalance_timeout_ms", INT32, "1+", default=-1),
    Field("member_id", STRING),
    Field("group_instance_id", STRING, "5+", nullable="5+", default=None),
    Field("protocol_type", STRING),
    Field("protocols", Array(Struct(Field("name", STRING), Field("metadata", BYTES)))),
    Field("reason", STRING, "8+", nullable="8+", default=None),
)

RESPONSE = Struct(
    Field("throttle_time_ms", INT32, "2+", default=0),
    Field("error_code", INT16),
    Field("generation_id", INT32, default=-1),
    Field("protocol_type", STRING, "7+", nullable="7+", default=None),
    Field("protocol_name", STRING, nullable="7+"),
    Field("leader", STRING),
    Field("skip_assignment", BOOL, "9+", default=False),
    Field("member_id", STRING),
    Field("members", Array(Struct(
        Field("member_id", STRING),
        Field("group_instance_id", STRING, "5+", nullable="5+", default=None),
        Field("metadata", BYTES),
    ))),
)  # fmt: skip

API = Api(key=11, name="JoinGroup", versions=(0, 9), flexible=6, request=REQUEST, response=RESPONSE)

REBALANCE_TIMEOUT_VERSION = 1
KNOWN_MEMBER_ID_VERSION = 4
NULL_PROTOCOL_VERSION = 7
SKIP_ASSIGNMENT_VERSION = 9


async def handle(broker: Any, request: dict[str, Any], context: Any) -> dict[str, Any]:
    session_ms, rebalance_ms = request["session_timeout_ms"], request["rebalance_timeout_ms"]
    protocols: dict[str, bytes] = {}
    for protocol in request["protocols"]:
        protocols.setdefault(protocol["name"], protocol["metadata"])
    join = Join(
        request["member_id"],
        request["group_instance_id"],
        context.client_id or "",
        context.client_host,
        session_ms,
        session_ms if context.version < REBALANCE_TIMEOUT_VERSION else max(rebalance_ms, 0),
        request["protocol_type"],
        tuple(protocols.items()),
        must_know_member_id=context.version >= KNOWN_MEMBER_ID_VERSION,
        can_skip_assignment=context.version >= SKIP_ASSIGNMENT_VERSION,
    )
    response = await broker.groups.join(request["group_id"], join)
    if context.version < NULL_PROTOCOL_VERSION:
        response["protocol_name"] = response["protocol_name"] or ""
    return response
