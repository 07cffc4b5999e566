"""IncrementalAlterConfigs (44), versions 0-1: set, delete, append to or subtract from single configs.

Operations: 0 set, 1 delete (back to the default), 2 append, 3 subtract (both for lists only). A null value is for
delete only. Each resource is one durable batch of the metadata log, all of its operations or none, and takes effect
before it is answered. Rules of what may be changed: `metadata_configs`.
"""

from refbroker.apis.k33_alter_configs import RESPONSE
from refbroker.metadata_configs import DELETE, alter, apply_operations, refuse_nulls
from refbroker.protocol import BOOL, INT8, STRING, Api, Array, Field, Struct

REQUEST = Struct(
    Field("resources", Array(Struct(
        Field("resource_type", INT8),
        Field("resource_name", STRING),
        Field("configs", Array(Struct(
            Field("name", STRING),
            Field("config_operation", INT8),
            Field("value", STRING, nullable="0+"),
        ))),
    ))),
    Field("validate_only", BOOL),
)  # fmt: skip

API = Api(key=44, name="IncrementalAlterConfigs", versions=(0, 1), flexible=1, request=REQUEST, response=RESPONSE)


async def handle(broker, request: dict, context) -> dict:
    return {"responses": await alter(broker, request["resources"], _change, validate_only=request["validate_only"])}


def _change(broker, resource: dict):
    operations = resource["configs"]
    refuse_nulls(operation for operation in operations if operation["config_operation"] != DELETE)
    return lambda present: apply_operations(broker, resource["resource_type"], operations, present)
