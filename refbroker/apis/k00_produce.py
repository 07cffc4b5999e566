"""Produce: append batches to partitions.

- Each partition succeeds or fails for itself. Topics come by name up to v12, by id from v13.
- acks 0: no response; if anything failed, the connection is closed, so that the producer learns that something is
  wrong. acks 1 and -1: answered when the batch is as durable as the flush policy of its topic demands (C1.2); with one
  replica they differ only in that -1 is refused where min.insync.replicas is more than 1. Other acks are refused.
- The batch goes to the log as it lies in the request frame. This handler never looks into it, but for one thing: zstd
  needs v7, since older consumers of the same client would not know it.
- A duplicate of one of a producer's last five batches is answered with the offset that the first one got (C6.1).
- Internal topics take records from nobody but Kafka's own admin client.
- v8 adds error messages, v10 the new leader (never set: there is one broker), v13 topic ids.

Apache Kafka differs: of two entries for one partition in one request it drops the first; here both are appended.
"""

import asyncio
from typing import Any

from refbroker.apis import Disconnect, Later, partition_for_client
from refbroker.errors import ErrorCode, KafkaError
from refbroker.produce_template import template_of  # the server asks for it here
from refbroker.protocol import INT16, INT32, INT64, RECORDS, STRING, UUID, ZERO_UUID, Api, Array, Field, Struct
from refbroker.topic_rules import is_internal

ADMIN_CLIENT_ID = "__admin_client"
ATTRIBUTES_POSITION = 22  # the low byte of a batch's attributes; its low three bits are the codec
CODEC_ZSTD = 4
ZSTD_VERSION_MIN = 7

REQUEST = Struct(
    Field("transactional_id", STRING, "3+", nullable="3+", default=None),
    Field("acks", INT16),
    Field("timeout_ms", INT32),
    Field("topic_data", Array(Struct(
        Field("name", STRING, "0-12", default=""),
        Field("topic_id", UUID, "13+", default=ZERO_UUID),
        Field("partition_data", Array(Struct(
            Field("index", INT32),
            Field("records", RECORDS, nullable="0+"),
        ))),
    ))),
)  # fmt: skip

RESPONSE = Struct(
    Field("responses", Array(Struct(
        Field("name", STRING, "0-12", default=""),
        Field("topic_id", UUID, "13+", default=ZERO_UUID),
        Field("partition_responses", Array(Struct(
            Field("index", INT32),
            Field("error_code", INT16),
            Field("base_offset", INT64),
            Field("log_append_time_ms", INT64, "2+", default=-1),
            Field("log_start_offset", INT64, "5+", default=-1),
            Field("record_errors", Array(Struct(
                Field("batch_index", INT32, "8+"),
                Field("batch_index_error_message", STRING, "8+", nullable="8+", default=None),
            )), "8+", default=()),
            Field("error_message", STRING, "8+", nullable="8+", default=None),
            Field("current_leader", Struct(
                Field("leader_id", INT32, "10+", default=-1),
                Field("leader_epoch", INT32, "10+", default=-1),
            ), "10+", tag=0),
        ))),
    ))),
    Field("throttle_time_ms", INT32, "1+", default=0),
    Field("node_endpoints", Array(Struct(
        Field("node_id", INT32, "10+"),
        Field("host", STRING, "10+"),
        Field("port", INT32, "10+"),
        Field("rack", STRING, "10+", nullable="10+", default=None),
    )), "10+", tag=0),
)  # fmt: skip

Entry = tuple[Any, Any, dict[str, Any]]  # partition, records, its part of the response
Flush = tuple[Any, int, dict[str, Any]]  # partition, offset up to which it must be durable, its part of the response
Waits = dict[Any, asyncio.Future[None]]  # by partition: done when all that was appended in this turn is durable, or will not be

API = Api(key=0, name="Produce", versions=(3, 13), flexible=9, request=REQUEST, response=RESPONSE)


def handle(broker: Any, request: dict[str, Any], context: Any) -> dict[str, Any] | None | Later:
    flushes: list[Flush] = []
    responses, entries = _begin(broker, request, context)
    now_ms = broker.clock()
    for partition, records, result in entries:
        try:
            outcome: Any = partition.append(records, now_ms)
        except KafkaError as error:
            outcome = error.with_traceback(None)  # which would keep this call, and with it the request, until Python looks for cycles
        _note(broker, partition, outcome, result, flushes)
    return _answer(broker, request["acks"], responses, flushes, _waits(broker, flushes) if flushes and request["acks"] else {})


def handle_all(broker: Any, contexts: list[Any]) -> list[dict[str, Any] | None | Later | Disconnect]:
    """What several requests append to one partition goes to its log together."""
    groups: dict[Any, list[tuple[Any, dict[str, Any], list[Flush]]]] = {}  # by partition: records, their result, its request's flushes
    begun = []
    for context in contexts:
        flushes: list[Flush] = []
        responses, entries = _begin(broker, context.message, context)
        for partition, records, result in entries:
            groups.setdefault(partition, []).append((records, result, flushes))
        begun.append((context.message["acks"], responses, flushes))
    now_ms = broker.clock()
    for partition, group in groups.items():
        appended = partition.append_all([records for records, _, _ in group], now_ms)
        for outcome, (_, result, flushes) in zip(appended, group):
            _note(broker, partition, outcome, result, flushes)
    waits = _waits(broker, [flush for acks, _, flushes in begun if acks for flush in flushes])
    answers: list[Any] = []
    for acks, responses, flushes in begun:
        try:
            answers.append(_answer(broker, acks, responses, flushes, waits))
        except Disconnect as reason:
            answers.append(reason.with_traceback(None))
    return answers


def _begin(broker: Any, request: dict[str, Any], context: Any) -> tuple[list[dict[str, Any]], list[Entry]]:
    """The response's topics, and what is to be appended."""
    responses, entries = [], []
    for topic in request["topic_data"]:
        name = _topic_name(broker, topic, context.version)
        results = []
        for entry in topic["partition_data"]:
            result = {"index": entry["index"], "error_code": 0}
            results.append(result)
            try:
                entries.append((_writable_partition(broker, name, entry, request["acks"], context), entry["records"], result))
            except KafkaError as error:
                _fail(broker, result, error)
        responses.append({"name": topic["name"], "topic_id": topic["topic_id"], "partition_responses": results})
    return responses, entries


def _note(broker: Any, partition: Any, outcome: Any, result: dict[str, Any], flushes: list[Flush]) -> None:
    if isinstance(outcome, KafkaError):
        _fail(broker, result, outcome)
        return
    result["base_offset"] = outcome.base_offset
    result["log_append_time_ms"] = outcome.log_append_time_ms
    result["log_start_offset"] = outcome.log_start_offset
    broker.metrics.messages_in += outcome.last_offset - outcome.base_offset + 1
    if outcome.flush_to is not None:
        flushes.append((partition, outcome.flush_to, result))


def _answer(
    broker: Any, acks: int, responses: list[dict[str, Any]], flushes: list[Flush], waits: Waits
) -> dict[str, Any] | None | Later:
    if acks == 0:
        return _no_answer(broker, responses, flushes)
    if flushes:
        return _when_durable(broker, flushes, {"responses": responses}, waits)
    return {"responses": responses}


def _waits(broker: Any, flushes: list[Flush]) -> Waits:
    """Those who wait for a partition wait together, so that one flush wakes them at once."""
    ends: dict[Any, list[int]] = {}
    for partition, flush_to, _ in flushes:
        ends.setdefault(partition, []).append(flush_to)
    return {partition: broker.flusher.durable(partition, max(wanted), len(wanted)) for partition, wanted in ends.items()}


def _topic_name(broker: Any, topic: dict[str, Any], version: int) -> str | None:
    """None: no topic has this id."""
    if version < 13:
        return topic["name"]
    known = broker.metadata.by_id.get(topic["topic_id"])
    return known.name if known else None


def _writable_partition(broker: Any, name: str | None, entry: dict[str, Any], acks: int, context: Any) -> Any:
    if name is None:
        raise KafkaError(ErrorCode.UNKNOWN_TOPIC_ID)
    partition = partition_for_client(broker, name, entry["index"])
    records = entry["records"]
    if acks not in (-1, 0, 1):
        raise KafkaError(ErrorCode.INVALID_REQUIRED_ACKS)
    if not records:
        raise KafkaError(ErrorCode.INVALID_RECORD, "one batch is expected for each partition")
    if context.version < ZSTD_VERSION_MIN and len(records) > ATTRIBUTES_POSITION and records[ATTRIBUTES_POSITION] & 7 == CODEC_ZSTD:
        raise KafkaError(ErrorCode.UNSUPPORTED_COMPRESSION_TYPE)
    if is_internal(name) and context.client_id != ADMIN_CLIENT_ID:
        raise KafkaError(ErrorCode.INVALID_TOPIC_EXCEPTION, f"Cannot append to internal topic {name}")
    if acks == -1 and partition.config.min_insync_replicas > 1:
        wanted = partition.config.min_insync_replicas
        raise KafkaError(ErrorCode.NOT_ENOUGH_REPLICAS, f"1 replica, min.insync.replicas is {wanted}")
    return partition


def _fail(broker: Any, result: dict[str, Any], error: KafkaError) -> None:
    broker.metrics.error(API.name, error.code)
    result.update(error_code=error.code, base_offset=-1, error_message=error.message or None,
                  log_append_time_ms=-1, log_start_offset=-1)


def _when_durable(broker: Any, flushes: list[Flush], response: dict[str, Any], waits: Waits) -> Later:
    """The response, once everything in it is as durable as it says. A failed flush turns success into an error (C1.13)."""

    def answer() -> dict[str, Any]:
        for partition, _, result in flushes:
            error = waits[partition].exception()
            if isinstance(error, KafkaError):
                _fail(broker, result, error)
            elif error is not None:
                raise error
        return response

    if len(flushes) == 1:
        return Later(waits[flushes[0][0]], answer)
    return Later(asyncio.gather(*(waits[partition] for partition, _, _ in flushes), return_exceptions=True), answer)


def _no_answer(broker: Any, responses: list[dict[str, Any]], flushes: list[Flush]) -> None:
    """The flush is owed all the same (C1.4)."""
    for partition, _, _ in flushes:
        broker.flusher.ensure(partition)
    errors = {
        f"{topic['name'] or topic['topic_id']}-{entry['index']}": ErrorCode(entry["error_code"]).name
        for topic in responses
        for entry in topic["partition_responses"]
        if entry["error_code"]
    }
    if errors:
        raise Disconnect(f"produce with acks=0 failed: {errors}")
