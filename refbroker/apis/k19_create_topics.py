"""CreateTopics (19), versions 2-7: make these topics.

1. All topics of one request that pass the checks are written to the metadata log as one batch: after a crash all of
   them exist or none. The answer leaves only when that batch is durable and the partition directories exist.
2. A name given twice is INVALID_REQUEST, and neither is created. `__cluster_metadata` cannot be created.
3. `num_partitions` and `replication_factor` -1 mean the broker's defaults (4+ by protocol, accepted always). With
   manual assignments both must be -1, and each partition's only replica must be this broker.
4. `validate_only` runs every check and answers as if it had been done.
5. From version 5 on the answer carries the effective configs, from version 7 on the topic id.

Apache Kafka answers a `validate_only` request with a random topic id; here it is the zero id, as there is no topic.
"""

from collections import Counter

from refbroker.errors import ErrorCode, KafkaError
from refbroker.metadata_configs import topic_entries
from refbroker.protocol import BOOL, INT8, INT16, INT32, STRING, UUID, ZERO_UUID, Api, Array, Field, Struct
from refbroker.topic_rules import NewTopic, check_assignment, check_new_name

REQUEST = Struct(
    Field("topics", Array(Struct(
        Field("name", STRING),
        Field("num_partitions", INT32),
        Field("replication_factor", INT16),
        Field("assignments", Array(Struct(
            Field("partition_index", INT32),
            Field("broker_ids", Array(INT32)),
        ))),
        Field("configs", Array(Struct(
            Field("name", STRING),
            Field("value", STRING, nullable="0+"),
        ))),
    ))),
    Field("timeout_ms", INT32, default=60000),
    Field("validate_only", BOOL, "1+", default=False),
)  # fmt: skip

RESPONSE = Struct(
    Field("throttle_time_ms", INT32, "2+", default=0),
    Field("topics", Array(Struct(
        Field("name", STRING),
        Field("topic_id", UUID, "7+", default=ZERO_UUID),
        Field("error_code", INT16, default=ErrorCode.NONE),
        Field("error_message", STRING, "1+", nullable="0+", default=None),
        Field("topic_config_error_code", INT16, "5+", tag=0, tagged="5+", default=0),
        Field("num_partitions", INT32, "5+", default=-1),
        Field("replication_factor", INT16, "5+", default=-1),
        Field("configs", Array(Struct(
            Field("name", STRING, "5+"),
            Field("value", STRING, "5+", nullable="5+"),
            Field("read_only", BOOL, "5+"),
            Field("config_source", INT8, "5+", default=-1),
            Field("is_sensitive", BOOL, "5+"),
        )), "5+", nullable="5+", default=()),
    ))),
)  # fmt: skip

API = Api(key=19, name="CreateTopics", versions=(2, 7), flexible=5, request=REQUEST, response=RESPONSE)


async def handle(broker, request: dict, context) -> dict:
    names = Counter(topic["name"] for topic in request["topics"])
    results: dict[str, dict] = {}
    wanted = []
    for topic in request["topics"]:
        name = topic["name"]
        try:
            if names[name] > 1:
                raise KafkaError(ErrorCode.INVALID_REQUEST, "Duplicate topic name.")
            wanted.append(_new_topic(broker, topic))
        except KafkaError as error:
            results[name] = _failed(name, error)
    outcomes = await broker.metadata.create_topics(wanted, validate_only=request["validate_only"])
    for new in wanted:
        outcome = outcomes[new.name]
        if isinstance(outcome, KafkaError):
            results[new.name] = _failed(new.name, outcome)
        else:
            results[new.name] = {
                "name": new.name,
                "topic_id": ZERO_UUID if request["validate_only"] else outcome.topic_id,
                "num_partitions": outcome.partitions,
                "replication_factor": 1,
                "configs": [
                    {key: entry[key] for key in ("name", "value", "read_only", "config_source", "is_sensitive")}
                    for entry in topic_entries(broker, outcome.configs)
                ],
            }
    return {"topics": [results[name] for name in names]}


def _new_topic(broker, topic: dict) -> NewTopic:
    """What is asked for, checked as far as it needs no look at the topics that exist."""
    check_new_name(topic["name"], broker.metadata.topics)
    if nulls := [config["name"] for config in topic["configs"] if config["value"] is None]:
        raise KafkaError(ErrorCode.INVALID_CONFIG, f"Null value not supported for topic configs: {','.join(nulls)}")
    configs = {config["name"]: config["value"] for config in topic["configs"]}
    if not topic["assignments"]:
        return NewTopic(topic["name"], topic["num_partitions"], configs, topic["replication_factor"])
    for field, text in (("replication_factor", "replication factor"), ("num_partitions", "numPartitions")):
        if topic[field] != -1:
            raise KafkaError(ErrorCode.INVALID_REQUEST, f"A manual partition assignment was specified, but {text} was not set to -1.")
    indexes = Counter(assignment["partition_index"] for assignment in topic["assignments"])
    index, count = indexes.most_common(1)[0]
    if count > 1:
        raise KafkaError(ErrorCode.INVALID_REPLICA_ASSIGNMENT, f"Found multiple manual partition assignments for partition {index}")
    for assignment in topic["assignments"]:
        check_assignment(assignment["broker_ids"], broker.node_id)
    if sorted(indexes) != list(range(len(indexes))):
        raise KafkaError(ErrorCode.INVALID_REPLICA_ASSIGNMENT, "partitions should be a consecutive 0-based integer sequence")
    return NewTopic(topic["name"], len(indexes), configs, 1)


def _failed(name: str, error: KafkaError) -> dict:
    return {"name": name, "error_code": error.code, "error_message": error.message or error.code.name}
