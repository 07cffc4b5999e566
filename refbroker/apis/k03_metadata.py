"""Metadata (3), versions 0-13: which brokers, topics and partitions are there, and who leads what?

1. `topics` null means all of them; so does an empty list, in version 0 only. Later an empty list asks for none.
2. A topic that is not there is created where the request allows it (`allow_auto_topic_creation`, 4+; always before),
   `auto.create.topics.enable` is on and its name is legal. Otherwise UNKNOWN_TOPIC_OR_PARTITION, or
   INVALID_TOPIC_EXCEPTION for a name that could never exist.
3. By id from version 12 on: an unknown id is UNKNOWN_TOPIC_ID with a null name, and never creates anything. If any
   topic is asked for by id, names in the same request are ignored. Versions 10 and 11 carry ids, but using them is
   INVALID_REQUEST for every topic of the request.
4. A partition whose log directory is offline has no leader: LEADER_NOT_AVAILABLE, this broker among its offline
   replicas.
5. Authorized operations are computed only where asked for; without an authorizer everything is allowed.
6. librdkafka (2.16 at least) writes the null list of a flexible request as four zero bytes, of which Kafka reads one
   as the list and the next ones as the fields behind it, and ignores the three bytes that are then left over. That
   request is understood here as it was meant; any other trailing byte is refused.

Apache Kafka answers the request that triggers an automatic creation with UNKNOWN_TOPIC_OR_PARTITION and lets the
client ask again, since its controller works asynchronously. Here the creation is awaited, and the answer is the topic.
"""

from refbroker.errors import ErrorCode, KafkaError
from refbroker.protocol import BOOL, INT16, INT32, STRING, UUID, ZERO_UUID, Api, Array, Field, ProtocolError, Struct
from refbroker.topic_rules import AUTHORIZED_CLUSTER, AUTHORIZED_TOPIC, NOT_ASKED, check_name, is_internal

REQUEST = Struct(
    Field("topics", Array(Struct(
        Field("topic_id", UUID, "10+", default=ZERO_UUID),
        Field("name", STRING, nullable="10+"),
    )), nullable="1+"),
    Field("allow_auto_topic_creation", BOOL, "4+", default=True),
    Field("include_cluster_authorized_operations", BOOL, "8-10", default=False),
    Field("include_topic_authorized_operations", BOOL, "8+", default=False),
)  # fmt: skip

RESPONSE = Struct(
    Field("throttle_time_ms", INT32, "3+", default=0),
    Field("brokers", Array(Struct(
        Field("node_id", INT32),
        Field("host", STRING),
        Field("port", INT32),
        Field("rack", STRING, "1+", nullable="1+", default=None),
    ))),
    Field("cluster_id", STRING, "2+", nullable="2+", default=None),
    Field("controller_id", INT32, "1+", default=-1),
    Field("topics", Array(Struct(
        Field("error_code", INT16),
        Field("name", STRING, nullable="12+"),
        Field("topic_id", UUID, "10+", default=ZERO_UUID),
        Field("is_internal", BOOL, "1+", default=False),
        Field("partitions", Array(Struct(
            Field("error_code", INT16),
            Field("partition_index", INT32),
            Field("leader_id", INT32),
            Field("leader_epoch", INT32, "7+", default=-1),
            Field("replica_nodes", Array(INT32)),
            Field("isr_nodes", Array(INT32)),
            Field("offline_replicas", Array(INT32), "5+", default=()),
        ))),
        Field("topic_authorized_operations", INT32, "8+", default=NOT_ASKED),
    ))),
    Field("cluster_authorized_operations", INT32, "8-10", default=NOT_ASKED),
    Field("error_code", INT16, "13+", default=ErrorCode.NONE),
)  # fmt: skip

NULL_LIST_OF_LIBRDKAFKA = bytes(4)


class MetadataApi(Api):
    """Decodes what librdkafka sends, too (6)."""

    def read_request(self, header, view) -> dict:
        try:
            return super().read_request(header, view)
        except ProtocolError:
            begin = header.position + 1  # behind its tagged fields, of which it has none
            if self.is_flexible(header.version) and bytes(view[begin : begin + 4]) == NULL_LIST_OF_LIBRDKAFKA:
                return self.decode_request(header.version, view, begin + 3)
            raise


API = MetadataApi(key=3, name="Metadata", versions=(0, 13), flexible=9, request=REQUEST, response=RESPONSE)


async def handle(broker, request: dict, context) -> dict:
    asked = request["topics"]
    if asked is None or (context.version == 0 and not asked):
        topics = [_described(broker, name) for name in sorted(broker.metadata.topics)]
    elif context.version < 12 and any(topic["name"] is None or topic["topic_id"] != ZERO_UUID for topic in asked):
        topics = [_failed(ErrorCode.INVALID_REQUEST, topic["name"] or "", topic["topic_id"]) for topic in asked]
    elif ids := dict.fromkeys(topic["topic_id"] for topic in asked if topic["topic_id"] != ZERO_UUID):
        topics = [_by_id(broker, topic_id) for topic_id in ids]
    else:
        names = dict.fromkeys(topic["name"] for topic in asked)
        may_create = request["allow_auto_topic_creation"] and broker.config.auto_create_topics_enable
        topics = [await _by_name(broker, name, may_create) for name in names]
    if request["include_topic_authorized_operations"]:
        for topic in topics:
            topic["topic_authorized_operations"] = AUTHORIZED_TOPIC
    host, port = broker.advertised(context.listener)
    asked_cluster = request["include_cluster_authorized_operations"]
    return {
        "brokers": [{"node_id": broker.node_id, "host": host, "port": port, "rack": broker.config.broker_rack}],
        "cluster_id": broker.cluster_id,
        "controller_id": broker.node_id,
        "topics": topics,
        "cluster_authorized_operations": AUTHORIZED_CLUSTER if asked_cluster else NOT_ASKED,
    }


async def _by_name(broker, name: str | None, may_create: bool) -> dict:
    if name is None:  # version 12 and later, with a zero id as well: it names nothing
        return _failed(ErrorCode.INVALID_REQUEST, None, ZERO_UUID)
    if name in broker.metadata.topics:
        return _described(broker, name)
    try:
        check_name(name)
        if not may_create:
            raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
        await broker.metadata.auto_create(name)
    except KafkaError as error:
        return _failed(error.code, name, ZERO_UUID)
    return _described(broker, name)


def _by_id(broker, topic_id) -> dict:
    topic = broker.metadata.by_id.get(topic_id)
    return _described(broker, topic.name) if topic else _failed(ErrorCode.UNKNOWN_TOPIC_ID, None, topic_id)


def _failed(code: ErrorCode, name: str | None, topic_id) -> dict:
    internal = name is not None and is_internal(name)
    return {"error_code": code, "name": name, "topic_id": topic_id, "is_internal": internal, "partitions": []}


def _described(broker, name: str) -> dict:
    topic = broker.metadata.topics.get(name)
    if topic is None:  # deleted while an earlier name of the same request was being created
        return _failed(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, name, ZERO_UUID)
    return {
        "error_code": ErrorCode.NONE,
        "name": name,
        "topic_id": topic.topic_id,
        "is_internal": topic.is_internal,
        "partitions": [broker.metadata.describe_partition(topic, number) for number in range(topic.partitions)],
    }
