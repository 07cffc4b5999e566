"""AlterConfigs (33), versions 0-2: replace all configs of a topic or broker by these.

What is not named falls back to its default: a read-modify-write by two clients loses one's change, which is why
IncrementalAlterConfigs (44) exists; Kafka has deprecated this one. Each resource is one durable batch of the metadata
log, and takes effect before it is answered. Rules of what may be changed: `metadata_configs`.
"""

from refbroker.metadata_configs import alter, refuse_nulls
from refbroker.protocol import BOOL, INT8, INT16, INT32, STRING, Api, Array, Field, Struct

REQUEST = Struct(
    Field("resources", Array(Struct(
        Field("resource_type", INT8),
        Field("resource_name", STRING),
        Field("configs", Array(Struct(
            Field("name", STRING),
            Field("value", STRING, nullable="0+"),
        ))),
    ))),
    Field("validate_only", BOOL),
)  # fmt: skip

RESPONSE = Struct(
    Field("throttle_time_ms", INT32, default=0),
    Field("responses", Array(Struct(
        Field("error_code", INT16),
        Field("error_message", STRING, nullable="0+"),
        Field("resource_type", INT8),
        Field("resource_name", STRING),
    ))),
)  # fmt: skip

API = Api(key=33, name="AlterConfigs", versions=(0, 2), flexible=2, request=REQUEST, response=RESPONSE)


async def handle(broker, request: dict, context) -> dict:
    return {"responses": await alter(broker, request["resources"], _change, validate_only=request["validate_only"])}


def _change(broker, resource: dict):
    refuse_nulls(resource["configs"])
    configs = {config["name"]: config["value"] for config in resource["configs"]}
    return lambda _present: configs
