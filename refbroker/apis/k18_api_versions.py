"""ApiVersions: which APIs, in which versions?

- The first request of nearly every client, often in a version that is newer than ours. A version that we do not know is
  answered in v0 with UNSUPPORTED_VERSION and the versions of this API alone (KIP-511); the server does that, since
  such a request cannot be decoded.
- The response header is v0 in every version, see `protocol.py`.
- Produce is listed from v0 on, although older than v3 is not served: a bug in librdkafka takes a broker without
  Produce v0 for one without message format v2 (KAFKA-18659). Apache Kafka does the same.
- v3 wants the client's name and version to be made of letters, digits, `-` and `.`, beginning and ending with a letter
  or digit. v5 adds the cluster and node that the client means to talk to; both or none are to be set. If we are not
  them, the answer is REBOOTSTRAP_REQUIRED (KIP-1242).
- Features (metadata.version and the like) are not listed: nothing here can be upgraded.
"""

import re
from typing import Any

from refbroker.errors import ErrorCode
from refbroker.protocol import BOOL, INT16, INT32, INT64, STRING, Api, Array, Field, Struct

SOFTWARE = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?")
PRODUCE_KEY = 0

REQUEST = Struct(
    Field("client_software_name", STRING, "3+", default=""),
    Field("client_software_version", STRING, "3+", default=""),
    Field("cluster_id", STRING, "5+", nullable="5+", default=None),
    Field("node_id", INT32, "5+", default=-1),
)  # fmt: skip

RESPONSE = Struct(
    Field("error_code", INT16),
    Field("api_keys", Array(Struct(
        Field("api_key", INT16),
        Field("min_version", INT16),
        Field("max_version", INT16),
    ))),
    Field("throttle_time_ms", INT32, "1+", default=0),
    Field("supported_features", Array(Struct(
        Field("name", STRING, "3+"),
        Field("min_version", INT16, "3+"),
        Field("max_version", INT16, "3+"),
    )), "3+", tag=0),
    Field("finalized_features_epoch", INT64, "3+", default=-1, tag=1),
    Field("finalized_features", Array(Struct(
        Field("name", STRING, "3+"),
        Field("max_version_level", INT16, "3+"),
        Field("min_version_level", INT16, "3+"),
    )), "3+", tag=2),
    Field("zk_migration_ready", BOOL, "3+", default=False, tag=3),
)  # fmt: skip

API = Api(key=18, name="ApiVersions", versions=(0, 5), flexible=3, request=REQUEST, response=RESPONSE)


async def handle(broker: Any, request: dict[str, Any], context: Any) -> dict[str, Any]:
    error = _refusal(broker, request, context.version)
    if error is not None:
        return {"error_code": error, "api_keys": []}
    rows = [versions_row(served.api) for served in context.served.values()]
    return {"error_code": ErrorCode.NONE, "api_keys": rows}


def _refusal(broker: Any, request: dict[str, Any], version: int) -> ErrorCode | None:
    cluster_id, node_id = request["cluster_id"], request["node_id"]
    if version >= 5:
        if (cluster_id is None) != (node_id == -1):
            return ErrorCode.INVALID_REQUEST
        if cluster_id is not None and (cluster_id, node_id) != (broker.cluster_id, broker.node_id):
            return ErrorCode.REBOOTSTRAP_REQUIRED
    if version >= 3:
        names = request["client_software_name"], request["client_software_version"]
        if not all(SOFTWARE.fullmatch(name) for name in names):
            return ErrorCode.INVALID_REQUEST
    return None


def versions_row(api: Api) -> dict[str, int]:
    first, last = api.versions
    return {"api_key": api.key, "min_version": 0 if api.key == PRODUCE_KEY else first, "max_version": last}


def unsupported_version() -> dict[str, Any]:
    """The answer, in v0, to a version of this API that we do not know."""
    return {"error_code": ErrorCode.UNSUPPORTED_VERSION, "api_keys": [versions_row(API)]}
