"""DescribeConfigs (32), versions 1-4: what is configured, where does each value come from, what does it mean?

1. Topics (2) and brokers (4). A broker is named by its id; the empty name is the default of all brokers, and answers
   only what is set there. Any other broker id or resource type is INVALID_REQUEST.
2. `configuration_keys` null or empty: all of them. Unknown names are left out.
3. A topic that is not there: UNKNOWN_TOPIC_OR_PARTITION.
4. Synonyms and documentation (3+) only where asked for. A key that has no effect here says so in its documentation.
"""

from refbroker.errors import ErrorCode, KafkaError
from refbroker.metadata_configs import broker_entries, check_resource, topic_entries
from refbroker.metadata_records import Resource
from refbroker.protocol import BOOL, INT8, INT16, INT32, STRING, Api, Array, Field, Struct
from refbroker.topic_rules import check_name

REQUEST = Struct(
    Field("resources", Array(Struct(
        Field("resource_type", INT8),
        Field("resource_name", STRING),
        Field("configuration_keys", Array(STRING), nullable="0+"),
    ))),
    Field("include_synonyms", BOOL, "1+", default=False),
    Field("include_documentation", BOOL, "3+", default=False),
)  # fmt: skip

RESPONSE = Struct(
    Field("throttle_time_ms", INT32, default=0),
    Field("results", Array(Struct(
        Field("error_code", INT16),
        Field("error_message", STRING, nullable="0+"),
        Field("resource_type", INT8),
        Field("resource_name", STRING),
        Field("configs", Array(Struct(
            Field("name", STRING),
            Field("value", STRING, nullable="0+"),
            Field("read_only", BOOL),
            Field("config_source", INT8, "1+", default=-1),
            Field("is_sensitive", BOOL),
            Field("synonyms", Array(Struct(
                Field("name", STRING, "1+"),
                Field("value", STRING, "1+", nullable="0+"),
                Field("source", INT8, "1+"),
            )), "1+", default=()),
            Field("config_type", INT8, "3+", default=0),
            Field("documentation", STRING, "3+", nullable="0+", default=None),
        ))),
    ))),
)  # fmt: skip

API = Api(key=32, name="DescribeConfigs", versions=(1, 4), flexible=4, request=REQUEST, response=RESPONSE)


async def handle(broker, request: dict, context) -> dict:
    results = []
    for resource in request["resources"]:
        code, message, entries = ErrorCode.NONE, None, []
        try:
            entries = _entries(broker, resource)
        except KafkaError as error:
            code, message = error.code, error.message or error.code.name
        for entry in entries:
            if not request["include_synonyms"]:
                entry["synonyms"] = ()
            if not request["include_documentation"]:
                entry["documentation"] = None
        results.append({
            "error_code": code, "error_message": message, "resource_type": resource["resource_type"],
            "resource_name": resource["resource_name"], "configs": entries,
        })  # fmt: skip
    return {"results": results}


def _entries(broker, resource: dict) -> list[dict]:
    name, keys = resource["resource_name"], resource["configuration_keys"]
    check_resource(broker, resource["resource_type"], name)
    if resource["resource_type"] == Resource.BROKER:
        return broker_entries(broker, name, keys)
    check_name(name)
    topic = broker.metadata.topics.get(name)
    if topic is None:
        raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
    return topic_entries(broker, topic.configs, keys)
