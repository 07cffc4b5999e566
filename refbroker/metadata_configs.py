"""What does each config answer when it is described, and which change is allowed?

A topic config comes from the first of these that has it, and `source` says which; the list of all that have it are its
synonyms, the winner first:

| Source | Code | |
|---|---|---|
| topic config | 1 | set on the topic |
| dynamic broker config | 2 | set on this broker while it runs |
| dynamic default broker config | 3 | set on all brokers while they run |
| static broker config | 4 | properties file, environment, --override |
| default | 5 | the table in `config_keys` |

Changes, as Apache Kafka allows them:

1. A topic may have every config of the table; a bad name or value is INVALID_CONFIG.
2. A broker may get those that are `dynamic` and have an effect here: defaults of topic configs. Any other is
   INVALID_REQUEST, and described as read-only. The resource name is this broker's id, or empty for the default of all.
3. Append and subtract are for lists only (INVALID_CONFIG), and start from the default where nothing is set.
4. Other resource types (loggers, client metrics, groups) are INVALID_REQUEST.

Keys beginning with `internal.` are not shown. A value of type PASSWORD never is.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from refbroker.config import format_value, parse_value, validate_broker_configs
from refbroker.config_keys import BROKER_KEYS, KEYS, TOPIC_KEYS, Key, Type
from refbroker.errors import ErrorCode, KafkaError
from refbroker.metadata_records import Resource

TOPIC_SOURCE, DYNAMIC_SOURCE, DYNAMIC_DEFAULT_SOURCE, STATIC_SOURCE, DEFAULT_SOURCE = 1, 2, 3, 4, 5
SET, DELETE, APPEND, SUBTRACT = range(4)

# Keys that stand in for another where that is not set, in Kafka's order.
FALLBACKS = {
    "log.roll.ms": ("log.roll.hours",),
    "log.roll.jitter.ms": ("log.roll.jitter.hours",),
    "log.flush.interval.ms": ("log.flush.scheduler.interval.ms",),
    "log.retention.ms": ("log.retention.minutes", "log.retention.hours"),
}

Configs = dict[str, str]


def topic_entries(broker, configs: Mapping[str, str], names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """What holds for a topic with these configs of its own, for DescribeConfigs and CreateTopics."""
    sources, entries = _broker_sources(broker), []
    for name, key in sorted(TOPIC_KEYS.items()):
        if name.startswith("internal.") or (names and name not in names):
            continue
        synonyms = _synonyms(sources, key) if key.name in BROKER_KEYS else []
        value = format_value(broker.config.topic_default(name))
        if name in configs:
            value = _normal(key, configs[name])
            synonyms.insert(0, {"name": name, "value": value, "source": TOPIC_SOURCE})
        entries.append(_entry(name, key, value, synonyms, read_only=False))
    return entries


def broker_entries(broker, resource_name: str, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """All configs of this broker; of the default of all brokers (the empty name) those that are set."""
    sources, entries = _broker_sources(broker), []
    own = dict(sources)[DYNAMIC_DEFAULT_SOURCE]
    for name, key in sorted(BROKER_KEYS.items()):
        if name.startswith("internal.") or (names and name not in names) or (not resource_name and name not in own):
            continue
        synonyms = _synonyms(sources, key)
        if not resource_name:
            synonyms = [synonym for synonym in synonyms if synonym["source"] == DYNAMIC_DEFAULT_SOURCE]
        value = format_value(broker.config.values[name]) if resource_name else own[name]
        entries.append(_entry(name, key, value, synonyms, read_only=not changeable(key)))
    return entries


def changeable(key: Key | None) -> bool:
    """May this broker config be altered while the broker runs?"""
    return key is not None and key.dynamic and key.effect is True


def _broker_sources(broker) -> list[tuple[int, Configs]]:
    """What each source says about broker keys, the strongest first."""
    dynamic = {  # without what is not in force here: a metadata log of Kafka's may have more
        resource: {name: value for name, value in configs.items() if changeable(BROKER_KEYS.get(name))}
        for resource, configs in broker.metadata.broker_configs.items()
    }
    static = broker.metadata.static_config.items()
    return [
        (DYNAMIC_SOURCE, dynamic.get(str(broker.node_id), {})),
        (DYNAMIC_DEFAULT_SOURCE, dynamic.get("", {})),
        (STATIC_SOURCE, {name: format_value(value) for name, (value, source) in static if source != "default"}),
        (DEFAULT_SOURCE, {key.name: format_value(key.default) for key in KEYS if key.default is not None}),
    ]


def _synonyms(sources: list[tuple[int, Configs]], key: Key) -> list[dict[str, Any]]:
    """Every place that gives this broker key a value. Keys that stand in for it follow only where it has one."""
    found = [
        {"name": synonym, "value": None if key.type is Type.PASSWORD else values[synonym], "source": source}
        for source, values in sources
        for synonym in (key.name, *FALLBACKS.get(key.name, ()))
        if synonym in values
    ]
    first = next((index for index, synonym in enumerate(found) if synonym["name"] == key.name), len(found))
    return found[first:]


def _entry(
    name: str, key: Key, value: str | None, synonyms: list[dict[str, Any]], *, read_only: bool
) -> dict[str, Any]:
    sensitive = key.type is Type.PASSWORD
    return {
        "name": name,
        "value": None if sensitive else value,
        "read_only": read_only,
        "config_source": synonyms[0]["source"] if synonyms else DEFAULT_SOURCE,
        "is_sensitive": sensitive,
        "synonyms": synonyms,
        "config_type": int(key.type),
        "documentation": key.doc if key.effect is True else f"{key.doc} No effect here: {key.effect}.".strip(),
    }


def _normal(key: Key, text: str) -> str | None:
    return format_value(parse_value(key, text, "config"))


def check_broker_configs(configs: Mapping[str, str]) -> None:
    """Raises KafkaError(INVALID_REQUEST), Kafka's code for all that a running broker cannot take (rule 2)."""
    for name in configs:
        if not changeable(BROKER_KEYS.get(name)):
            raise KafkaError(ErrorCode.INVALID_REQUEST, f"Cannot update these configs dynamically: {name} is read-only")
    try:
        validate_broker_configs(configs)
    except KafkaError as error:
        raise KafkaError(ErrorCode.INVALID_REQUEST, error.message) from error


async def alter(
    broker, resources: Iterable[Mapping[str, Any]], change_of: Callable[[Any, Mapping[str, Any]], Callable[[Configs], Configs]], *,
    validate_only: bool,
) -> list[dict[str, Any]]:  # fmt: skip
    """The answers of AlterConfigs and IncrementalAlterConfigs. `change_of` makes of a resource in the request the
    function from its present configs to the new ones."""
    asked = Counter((resource["resource_type"], resource["resource_name"]) for resource in resources)
    answers = []
    for resource in resources:
        resource_type, name = resource["resource_type"], resource["resource_name"]
        answer = {"error_code": ErrorCode.NONE, "error_message": None, "resource_type": resource_type, "resource_name": name}
        try:
            if asked[resource_type, name] > 1:
                raise KafkaError(ErrorCode.INVALID_REQUEST, "Each resource must appear at most once.")
            keys = [config["name"] for config in resource["configs"]]
            if len(set(keys)) < len(keys):
                raise KafkaError(ErrorCode.INVALID_REQUEST, "Error due to duplicate config keys")
            check_resource(broker, resource_type, name)
            if resource_type == Resource.TOPIC and not name:
                raise KafkaError(ErrorCode.INVALID_REQUEST, "Default topic resources are not allowed.")
            change = change_of(broker, resource)
            await broker.metadata.alter_configs(resource_type, name, change, validate_only=validate_only)
        except KafkaError as error:
            answer.update(error_code=error.code, error_message=error.message or error.code.name)
        answers.append(answer)
    return answers


def check_resource(broker, resource_type: int, name: str) -> None:
    """Raises KafkaError(INVALID_REQUEST) for a resource whose configs are not kept here."""
    reason = None
    if resource_type == Resource.TOPIC:
        return
    if resource_type != Resource.BROKER:
        reason = f"Unsupported resource type {resource_type}: topics (2) and brokers (4) have configs here"
    elif name and not name.removeprefix("-").isdecimal():
        reason = f"Node id must be an integer, but it is: {name}"
    elif name and int(name) != broker.node_id:
        reason = f"Unexpected broker id, expected {broker.node_id}, but received {name}"
    if reason:
        raise KafkaError(ErrorCode.INVALID_REQUEST, reason)


def refuse_nulls(configs: Iterable[Mapping[str, Any]]) -> None:
    if names := [config["name"] for config in configs if config["value"] is None]:
        raise KafkaError(ErrorCode.INVALID_REQUEST, f"Null value not supported for : {', '.join(names)}")


def apply_operations(broker, resource_type: int, operations: Sequence[Mapping[str, Any]], configs: Configs) -> Configs:
    """What IncrementalAlterConfigs makes of `configs`."""
    keys = TOPIC_KEYS if resource_type == Resource.TOPIC else BROKER_KEYS
    for operation in operations:
        name, value, op = operation["name"], operation["value"], operation["config_operation"]
        if op == SET:
            configs[name] = value
        elif op == DELETE:
            configs.pop(name, None)
        elif op not in (APPEND, SUBTRACT):
            raise KafkaError(ErrorCode.INVALID_REQUEST, f"Unknown operations type {op}")
        elif name not in keys or keys[name].type is not Type.LIST:
            verb = "APPEND" if op == APPEND else "SUBTRACT"
            raise KafkaError(ErrorCode.INVALID_CONFIG, f"Can't {verb} to key {name} because its type is not LIST.")
        else:
            default = (
                broker.config.topic_default(name) if resource_type == Resource.TOPIC else broker.config.values[name]
            )
            items = [item for item in configs.get(name, format_value(default) or "").split(",") if item]
            if op == APPEND:
                items += [item for item in value.split(",") if item not in items]
            else:
                items = [item for item in items if item not in value.split(",")]
            configs[name] = ",".join(items)
    return configs
