"""Fetch: records of many partitions from given offsets on, waiting for them if need be.

- The response carries regions of segment files, which the server sends with sendfile: no record passes through here.
- It is sent when there are min_bytes of records (or max_bytes, if less), when max_wait_ms are over, or at once when any
  partition has an error or a diverging epoch, and when there are more records than go into it: what is read of a
  partition ends with a segment. A waiting request is woken by the append that it waits for; nothing polls.
  No wait is longer than connections.max.idle.ms: whoever has gone meanwhile is not noticed before the answer.
- It holds at most max_bytes and fetch.max.bytes (whichever is less), per partition at most partition_max_bytes; but the
  first batch of the first partition that has any comes whole, however large, so that every consumer gets on.
- Partitions are read in the order of the request, or of the session (see `fetch_sessions.py`).
- Only what lies below the high watermark is read (C4.2); it is the last stable offset of read_committed, too, since
  there are no transactions. Watermarks and file positions are of one reading.
- v12: where the client names the epoch of its last record and ours ended before its offset, the answer is where
  (diverging_epoch), instead of records.
- v13 topic ids; an unknown one is UNKNOWN_TOPIC_ID. Leader hints (v16) stay empty: there is one broker.
- Up to v5 a failed disk is NOT_LEADER_OR_FOLLOWER, since those clients do not know KAFKA_STORAGE_ERROR.
- Replicas (replica id >= 0) get NOT_LEADER_OR_FOLLOWER: nobody follows this broker.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, NamedTuple
from uuid import UUID as UUIDValue

from refbroker.apis import check_leader_epoch, partition_for_client
from refbroker.errors import ErrorCode, KafkaError
from refbroker.fetch_sessions import FetchSessions, Plan, Wanted
from refbroker.protocol import INT8, INT16, INT32, INT64, RECORDS, STRING, UUID, ZERO_UUID, Api, Array, Field, Struct

READ_COMMITTED = 1
NO_RECORDS = b""

_ENDPOINTS = Array(Struct(
    Field("node_id", INT32, "16+"),
    Field("host", STRING, "16+"),
    Field("port", INT32, "16+"),
    Field("rack", STRING, "16+", nullable="16+", default=None),
))  # fmt: skip

REQUEST = Struct(
    Field("cluster_id", STRING, "12+", nullable="12+", default=None, tag=0),
    Field("replica_id", INT32, "0-14", default=-1),
    Field("replica_state", Struct(
        Field("replica_id", INT32, "15+", default=-1),
        Field("replica_epoch", INT64, "15+", default=-1),
    ), "15+", tag=1),
    Field("max_wait_ms", INT32),
    Field("min_bytes", INT32),
    Field("max_bytes", INT32, "3+", default=0x7FFFFFFF),
    Field("isolation_level", INT8, "4+", default=0),
    Field("session_id", INT32, "7+", default=0),
    Field("session_epoch", INT32, "7+", default=-1),
    Field("topics", Array(Struct(
        Field("topic", STRING, "0-12", default=""),
        Field("topic_id", UUID, "13+", default=ZERO_UUID),
        Field("partitions", Array(Struct(
            Field("partition", INT32),
            Field("current_leader_epoch", INT32, "9+", default=-1),
            Field("fetch_offset", INT64),
            Field("last_fetched_epoch", INT32, "12+", default=-1),
            Field("log_start_offset", INT64, "5+", default=-1),
            Field("partition_max_bytes", INT32),
            Field("replica_directory_id", UUID, "17+", default=ZERO_UUID, tag=0),
            Field("high_watermark", INT64, "18+", default=2**63 - 1, tag=1),
        ))),
    ))),
    Field("forgotten_topics_data", Array(Struct(
        Field("topic", STRING, "7-12", default=""),
        Field("topic_id", UUID, "13+", default=ZERO_UUID),
        Field("partitions", Array(INT32), "7+"),
    )), "7+", default=()),
    Field("rack_id", STRING, "11+", default=""),
)  # fmt: skip

RESPONSE = Struct(
    Field("throttle_time_ms", INT32, "1+", default=0),
    Field("error_code", INT16, "7+", default=0),
    Field("session_id", INT32, "7+", default=0),
    Field("responses", Array(Struct(
        Field("topic", STRING, "0-12", default=""),
        Field("topic_id", UUID, "13+", default=ZERO_UUID),
        Field("partitions", Array(Struct(
            Field("partition_index", INT32),
            Field("error_code", INT16),
            Field("high_watermark", INT64),
            Field("last_stable_offset", INT64, "4+", default=-1),
            Field("log_start_offset", INT64, "5+", default=-1),
            Field("diverging_epoch", Struct(
                Field("epoch", INT32, "12+", default=-1),
                Field("end_offset", INT64, "12+", default=-1),
            ), "12+", tag=0),
            Field("current_leader", Struct(
                Field("leader_id", INT32, "12+", default=-1),
                Field("leader_epoch", INT32, "12+", default=-1),
            ), "12+", tag=1),
            Field("snapshot_id", Struct(
                Field("end_offset", INT64, default=-1),
                Field("epoch", INT32, default=-1),
            ), "12+", tag=2),
            Field("aborted_transactions", Array(Struct(
                Field("producer_id", INT64, "4+"),
                Field("first_offset", INT64, "4+"),
            )), "4+", nullable="4+", default=()),
            Field("preferred_read_replica", INT32, "11+", default=-1),
            Field("records", RECORDS, nullable="0+"),
        ))),
    ))),
    Field("node_endpoints", _ENDPOINTS, "16+", tag=0),
)  # fmt: skip

API = Api(key=1, name="Fetch", versions=(4, 18), flexible=12, request=REQUEST, response=RESPONSE)

Result = tuple[Wanted, dict[str, Any]]


class Found(NamedTuple):
    """What one look at all partitions gave."""

    results: list[Result]
    partitions: list[Any]  # to wait for
    enough: bool  # to answer without waiting any longer


class Waiter:
    """What a partition wakes when it has more to read."""

    __slots__ = ("_future",)

    def __init__(self) -> None:
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    async def wait(self, seconds: float) -> None:
        """Until woken, or so long."""
        timer = asyncio.get_running_loop().call_later(seconds, self.wake)
        try:
            await self._future
        finally:
            timer.cancel()


def handle(broker: Any, request: dict[str, Any], context: Any) -> dict[str, Any] | Coroutine:
    version, sessions = context.version, context.fetch_sessions
    try:
        plan = sessions.plan(request, version, broker.clock())
    except KafkaError as error:
        return {"error_code": error.code, "responses": []}
    found = _read_all(broker, request, version, plan.partitions)
    if found.enough or request["max_wait_ms"] <= 0:
        return _response(broker, version, sessions, plan, found.results)
    return _when_enough(broker, request, version, sessions, plan)


async def _when_enough(
    broker: Any, request: dict[str, Any], version: int, sessions: FetchSessions, plan: Plan
) -> dict[str, Any]:
    """Read anew whenever a partition has grown, until there is enough or the client waits no longer. The first look is
    at once: between `handle`'s and the first turn of this coroutine something may have come."""
    loop = asyncio.get_running_loop()
    wait_ms, idle_ms = request["max_wait_ms"], broker.config.connections_max_idle_ms
    deadline = loop.time() + (min(wait_ms, idle_ms) if idle_ms >= 0 else wait_ms) / 1000
    while True:
        found = _read_all(broker, request, version, plan.partitions)
        remaining_s = deadline - loop.time()
        if found.enough or remaining_s <= 0:
            return _response(broker, version, sessions, plan, found.results)
        waiter = Waiter()
        for partition in found.partitions:
            partition.waiters.add(waiter)
        try:
            await waiter.wait(remaining_s)
        finally:
            for partition in found.partitions:
                partition.waiters.discard(waiter)


def _response(
    broker: Any, version: int, sessions: FetchSessions, plan: Plan, results: list[Result]
) -> dict[str, Any]:
    session_id = plan.session.id if plan.session else 0
    if plan.opens_session and version >= 7:
        session_id = sessions.open(results, version, broker.clock())
    try:
        results = plan.news(results)
    except KafkaError as error:
        return {"error_code": error.code, "session_id": session_id, "responses": []}
    by_topic: dict[str | UUIDValue, list[dict[str, Any]]] = {}
    for item, result in results:
        by_topic.setdefault(item.topic, []).append(result)
    key = "topic_id" if version >= 13 else "topic"
    responses = [{key: topic, "partitions": found} for topic, found in by_topic.items()]
    return {"session_id": session_id, "responses": responses}


def _read_all(broker: Any, request: dict[str, Any], version: int, wanted: list[Wanted]) -> Found:
    replica_id = request["replica_id"] if version < 15 else request["replica_state"]["replica_id"]
    bytes_left = min(request["max_bytes"], broker.config.fetch_max_bytes)
    committed = request["isolation_level"] == READ_COMMITTED
    results: list[Result] = []
    partitions = []
    size, at_once = 0, False
    for item in wanted:
        try:
            if replica_id >= 0:
                raise KafkaError(ErrorCode.NOT_LEADER_OR_FOLLOWER)
            partition = _partition(broker, item.topic, item.partition)
            result = _read(partition, item, bytes_left, size == 0, committed)
            partitions.append(partition)
            if result["records"]:
                size += result["records"].size
                bytes_left = max(0, bytes_left - result["records"].size)
                at_once = at_once or partition.is_behind(item.fetch_offset)
            else:  # no room for what is there: waiting would give no more
                at_once = at_once or "diverging_epoch" in result or 0 < size and item.fetch_offset < result["high_watermark"]
        except KafkaError as error:
            broker.metrics.error(API.name, error.code)
            result = _failed(item.partition, error.code, version)
            at_once = True
        results.append((item, result))
    min_bytes = min(request["min_bytes"], request["max_bytes"], broker.config.fetch_max_bytes)
    return Found(results, partitions, at_once or size >= min_bytes or not partitions)


def _partition(broker: Any, topic: str | UUIDValue, number: int) -> Any:
    if isinstance(topic, UUIDValue):
        known = broker.metadata.by_id.get(topic)
        if known is None:
            raise KafkaError(ErrorCode.UNKNOWN_TOPIC_ID)
        topic = known.name
    return partition_for_client(broker, topic, number)


def _read(partition: Any, item: Wanted, bytes_left: int, first: bool, committed: bool) -> dict[str, Any]:
    check_leader_epoch(partition, item.leader_epoch)
    diverging = _divergence(partition, item) if item.fetched_epoch >= 0 else None
    if diverging is not None:
        return {
            "partition_index": item.partition,
            "error_code": 0,
            "high_watermark": partition.high_watermark,
            "last_stable_offset": partition.last_stable_offset,
            "log_start_offset": partition.log_start_offset,
            "diverging_epoch": diverging,
            "records": NO_RECORDS,
        }
    found = partition.read(item.fetch_offset, max(0, min(item.max_bytes, bytes_left)), min_one=first)
    return {
        "partition_index": item.partition,
        "error_code": 0,
        "high_watermark": found.high_watermark,
        "last_stable_offset": found.last_stable_offset,
        "log_start_offset": found.log_start_offset,
        "aborted_transactions": () if committed else None,
        "records": found.regions or NO_RECORDS,
    }


def _divergence(partition: Any, item: Wanted) -> dict[str, int] | None:
    """Where our log and the client's part (KIP-595), if its last record is not ours."""
    epoch, end_offset = partition.epoch_end(item.fetched_epoch)
    if epoch < 0 or end_offset < 0 or item.fetch_offset < partition.log_start_offset:
        raise KafkaError(ErrorCode.OFFSET_OUT_OF_RANGE)
    if epoch < item.fetched_epoch or end_offset < item.fetch_offset:
        return {"epoch": epoch, "end_offset": end_offset}
    return None


def _failed(number: int, code: ErrorCode, version: int) -> dict[str, Any]:
    if code == ErrorCode.KAFKA_STORAGE_ERROR and version <= 5:
        code = ErrorCode.NOT_LEADER_OR_FOLLOWER
    return {"partition_index": number, "error_code": code, "high_watermark": -1, "log_start_offset": -1, "records": b""}
