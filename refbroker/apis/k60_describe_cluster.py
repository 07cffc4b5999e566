"""DescribeCluster (60), versions 0-2: which cluster is this, who is in it, who controls it?

1. `endpoint_type` (1+): 1 asks for brokers, the only kind of endpoint here. 2 (controllers) is
   MISMATCHED_ENDPOINT_TYPE, anything else UNSUPPORTED_ENDPOINT_TYPE.
2. The one broker is never fenced (2+), so `include_fenced_brokers` changes nothing.
3. Authorized operations only where asked for; without an authorizer everything is allowed.
"""

from refbroker.errors import ErrorCode
from refbroker.protocol import BOOL, INT8, INT16, INT32, STRING, Api, Array, Field, Struct
from refbroker.topic_rules import AUTHORIZED_CLUSTER, NOT_ASKED

BROKERS, CONTROLLERS = 1, 2

REQUEST = Struct(
    Field("include_cluster_authorized_operations", BOOL),
    Field("endpoint_type", INT8, "1+", default=BROKERS),
    Field("include_fenced_brokers", BOOL, "2+", default=False),
)  # fmt: skip

RESPONSE = Struct(
    Field("throttle_time_ms", INT32, default=0),
    Field("error_code", INT16, default=ErrorCode.NONE),
    Field("error_message", STRING, nullable="0+", default=None),
    Field("endpoint_type", INT8, "1+", default=BROKERS),
    Field("cluster_id", STRING),
    Field("controller_id", INT32, default=-1),
    Field("brokers", Array(Struct(
        Field("broker_id", INT32),
        Field("host", STRING),
        Field("port", INT32),
        Field("rack", STRING, nullable="0+", default=None),
        Field("is_fenced", BOOL, "2+", default=False),
    ))),
    Field("cluster_authorized_operations", INT32, default=NOT_ASKED),
)  # fmt: skip

API = Api(key=60, name="DescribeCluster", versions=(0, 2), flexible=0, request=REQUEST, response=RESPONSE)


async def handle(broker, request: dict, context) -> dict:
    asked = request["endpoint_type"]
    if asked == CONTROLLERS:
        message = "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER"
        return _failed(ErrorCode.MISMATCHED_ENDPOINT_TYPE, message)
    if asked != BROKERS:
        return _failed(ErrorCode.UNSUPPORTED_ENDPOINT_TYPE, f"Unsupported endpoint type {asked}")
    host, port = broker.advertised(context.listener)
    allowed = AUTHORIZED_CLUSTER if request["include_cluster_authorized_operations"] else NOT_ASKED
    return {
        "cluster_id": broker.cluster_id,
        "controller_id": broker.node_id,
        "brokers": [{"broker_id": broker.node_id, "host": host, "port": port, "rack": broker.config.broker_rack}],
        "cluster_authorized_operations": allowed,
    }


def _failed(code: ErrorCode, message: str) -> dict:
    return {"error_code": code, "error_message": message, "cluster_id": "", "brokers": []}
