"""DeleteTopics (20), versions 1-6: remove these topics, by name or (6) by id.

1. All topics of one request that can go are removed with one durable batch of the metadata log; then their
   directories are renamed to `-delete`, durably, and only then the answer leaves. A crash in between leaves
   directories whose topic id is known to be removed: they are deleted at the next start (C9.5).
2. A topic must be named either by name or by id; given twice, or both ways, it is INVALID_REQUEST.
3. Unknown name: UNKNOWN_TOPIC_OR_PARTITION; unknown id: UNKNOWN_TOPIC_ID.
4. `delete.topic.enable=false`: TOPIC_DELETION_DISABLED for each (INVALID_REQUEST before version 3).

Apache Kafka shuffles the answers so that positions give nothing away to the unauthorized; here they come in the order
of the request.
"""

from refbroker.errors import ErrorCode, KafkaError
from refbroker.protocol import INT16, INT32, STRING, UUID, ZERO_UUID, Api, Array, Field, Struct

REQUEST = Struct(
    Field("topics", Array(Struct(
        Field("name", STRING, "6+", nullable="6+", default=None),
        Field("topic_id", UUID, "6+", default=ZERO_UUID),
    )), "6+", default=()),
    Field("topic_names", Array(STRING), "0-5", default=()),
    Field("timeout_ms", INT32),
)  # fmt: skip

RESPONSE = Struct(
    Field("throttle_time_ms", INT32, "1+", default=0),
    Field("responses", Array(Struct(
        Field("name", STRING, nullable="6+"),
        Field("topic_id", UUID, "6+", default=ZERO_UUID),
        Field("error_code", INT16, default=ErrorCode.NONE),
        Field("error_message", STRING, "5+", nullable="5+", default=None),
    ))),
)  # fmt: skip

API = Api(key=20, name="DeleteTopics", versions=(1, 6), flexible=4, request=REQUEST, response=RESPONSE)


async def handle(broker, request: dict, context) -> dict:
    asked = [(topic["name"], topic["topic_id"]) for topic in request["topics"]]
    asked += [(name, ZERO_UUID) for name in request["topic_names"]]
    found = [_find(broker, name, topic_id) for name, topic_id in asked]
    counts: dict = {}
    for topic in found:
        if not isinstance(topic, KafkaError):
            counts[topic.topic_id] = counts.get(topic.topic_id, 0) + 1
    duplicate = KafkaError(ErrorCode.INVALID_REQUEST, "Duplicate topic: named more than once in the request.")
    disabled = KafkaError(
        ErrorCode.TOPIC_DELETION_DISABLED if context.version >= 3 else ErrorCode.INVALID_REQUEST,
        "Topic deletion is disabled.",
    )
    if not broker.config.delete_topic_enable:
        found = [disabled] * len(asked)
    else:
        found = [
            topic if isinstance(topic, KafkaError) or counts[topic.topic_id] == 1 else duplicate for topic in found
        ]
    outcomes = await broker.metadata.delete_topics([topic for topic in found if not isinstance(topic, KafkaError)])
    responses: dict = {}
    for (name, topic_id), topic in zip(asked, found, strict=True):
        if isinstance(topic, KafkaError):
            responses[name, topic_id] = _answer(name, topic_id, topic)
        else:
            responses[name, topic_id] = _answer(topic.name, topic.topic_id, outcomes[topic.topic_id])
    return {"responses": list(responses.values())}


def _find(broker, name: str | None, topic_id):
    """The topic, or the error that this way of naming it deserves."""
    if name is None and topic_id == ZERO_UUID:
        return KafkaError(ErrorCode.INVALID_REQUEST, "Neither topic name nor id were specified.")
    if name is not None and topic_id != ZERO_UUID:
        return KafkaError(ErrorCode.INVALID_REQUEST, "You may not specify both topic name and topic id.")
    if name is None:
        return broker.metadata.by_id.get(topic_id) or KafkaError(ErrorCode.UNKNOWN_TOPIC_ID)
    return broker.metadata.topics.get(name) or KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)


def _answer(name: str | None, topic_id, error: KafkaError | None) -> dict:
    if error is None:
        return {"name": name, "topic_id": topic_id}
    return {"name": name, "topic_id": topic_id, "error_code": error.code, "error_message": error.message or error.code.name}
