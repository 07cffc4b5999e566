"""A client that costs next to nothing: plain sockets, frames built once, answers checked for their error code only.

With it a figure is the broker's, not the client library's. Frames are built by refbroker's own schemas; the brokers under
test see Produce v9 and Fetch v11, which both serve.
"""

import selectors
import socket
import struct
import time

from refbroker.apis import k00_produce, k01_fetch, k03_metadata
from refbroker.log.records import Record, build

PRODUCE_VERSION, FETCH_VERSION, METADATA_VERSION = 9, 11, 9
_SIZE = struct.Struct(">i")


class Refused(Exception):
    """The broker answered with an error code."""


def batch(records: int, record_bytes: int, codec: int = 0) -> bytes:
    """One record batch of `records` records with `record_bytes` of value each; text that compresses about three to one."""
    now = int(time.time() * 1000)
    return bytes(build([Record(i, now, None, _value(i, record_bytes)) for i in range(records)], codec=codec))


def _value(number: int, size: int) -> bytes:
    text = f"record {number:09d} of the bench, {number * 2654435761 % 2**32:08x} "
    return (text * (size // len(text) + 1)).encode()[:size]


def produce_frame(topic: str, records: bytes, *, partitions: int = 1, acks: int = -1) -> bytes:
    return k00_produce.API.request_frame(PRODUCE_VERSION, 1, "bench", {
        "transactional_id": None, "acks": acks, "timeout_ms": 30_000, "topic_data": [
            {"name": topic, "partition_data": [{"index": n, "records": records} for n in range(partitions)]}]})


def fetch_frame(topic: str, offset: int, bytes_max: int, wait_ms: int = 500) -> bytes:
    return k01_fetch.API.request_frame(FETCH_VERSION, 1, "bench", {
        "replica_id": -1, "max_wait_ms": wait_ms, "min_bytes": 1, "max_bytes": bytes_max, "isolation_level": 0,
        "session_id": 0, "session_epoch": -1, "forgotten_topics_data": [], "rack_id": "", "topics": [
            {"topic": topic, "partitions": [{"partition": 0, "current_leader_epoch": -1, "fetch_offset": offset,
                                             "log_start_offset": -1, "partition_max_bytes": bytes_max}]}]})


class Connection:
    """One blocking connection."""

    def __init__(self, bootstrap: str):
        host, _, port = bootstrap.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=60)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray(1 << 16)

    def answer(self) -> memoryview:
        """The body of the next response, header included."""
        self._read(memoryview(self._buffer)[:4])
        (size,) = _SIZE.unpack_from(self._buffer)
        if size > len(self._buffer):
            self._buffer = bytearray(size)
        view = memoryview(self._buffer)[:size]
        self._read(view)
        return view

    def call(self, frame: bytes) -> memoryview:
        self.socket.sendall(frame)
        return self.answer()

    def _read(self, view: memoryview) -> None:
        while len(view):
            count = self.socket.recv_into(view)
            if not count:
                raise ConnectionError("the broker closed the connection")
            view = view[count:]

    def close(self) -> None:
        self.socket.close()


def check_produced(view: memoryview) -> int:
    """The base offset of the first partition. Raises Refused."""
    _, answer = k00_produce.API.read_response(PRODUCE_VERSION, view)
    entry = answer["responses"][0]["partition_responses"][0]
    if entry["error_code"]:
        raise Refused(f"Produce: error {entry['error_code']} {entry['error_message']}")
    return entry["base_offset"]


def check_fetched(view: memoryview) -> memoryview | None:
    """The records of the first partition. Raises Refused."""
    _, answer = k01_fetch.API.read_response(FETCH_VERSION, view)
    if answer["error_code"] or not answer["responses"]:
        raise Refused(f"Fetch: error {answer['error_code']}")
    entry = answer["responses"][0]["partitions"][0]
    if entry["error_code"]:
        raise Refused(f"Fetch: error {entry['error_code']}")
    return entry["records"]


def wait_for_leader(bootstrap: str, topic: str, seconds_max: float = 30) -> None:
    """Until Metadata names a leader for every partition of a topic."""
    connection, deadline = Connection(bootstrap), time.monotonic() + seconds_max
    frame = k03_metadata.API.request_frame(METADATA_VERSION, 1, "bench", {
        "topics": [{"name": topic}], "allow_auto_topic_creation": False, "include_cluster_authorized_operations": False,
        "include_topic_authorized_operations": False})
    while time.monotonic() < deadline:
        _, answer = k03_metadata.API.read_response(METADATA_VERSION, connection.call(frame))
        found = answer["topics"][0]
        if not found["error_code"] and found["partitions"] and all(p["leader_id"] >= 0 for p in found["partitions"]):
            connection.close()
            return
        time.sleep(0.05)
    raise Refused(f"{topic} has no leader after {seconds_max:.0f} s")


def latencies(bootstrap: str, frame: bytes, count: int) -> list[float]:
    """Seconds of each of `count` calls, one at a time, after a tenth as many to warm up."""
    connection = Connection(bootstrap)
    check_produced(connection.call(frame))
    took = []
    for number in range(count + count // 10):
        began = time.perf_counter()
        connection.call(frame)
        if number >= count // 10:
            took.append(time.perf_counter() - began)
    check_produced(connection.call(frame))
    connection.close()
    return took


def pipelined(bootstrap: str, frame: bytes, count: int, in_flight: int = 5) -> float:
    """Requests per second of one connection with `in_flight` requests under way."""
    connection = Connection(bootstrap)
    check_produced(connection.call(frame))
    began = time.perf_counter()
    for number in range(count + in_flight):
        if number < count:
            connection.socket.sendall(frame)
        if number >= in_flight:
            last = connection.answer()
    rate = count / (time.perf_counter() - began)
    check_produced(last)
    connection.close()
    return rate


def many(bootstrap: str, frame: bytes, connections: int, seconds: float) -> float:
    """Requests per second of many connections with one request under way each."""
    selector, opened = selectors.DefaultSelector(), [Connection(bootstrap) for _ in range(connections)]
    for connection in opened:
        check_produced(connection.call(frame))
        selector.register(connection.socket, selectors.EVENT_READ, connection)
        connection.socket.sendall(frame)
    done, began = 0, time.perf_counter()
    while (now := time.perf_counter()) - began < seconds:
        for key, _ in selector.select(1):
            last = key.data.answer()
            key.data.socket.sendall(frame)
            done += 1
    rate = done / (now - began)
    check_produced(last)
    for connection in opened:
        connection.answer()
        connection.close()
    return rate


def fetch_all(bootstrap: str, topic: str, bytes_max: int, bytes_wanted: int) -> float:
    """MiB per second of reading a topic from its start, one fetch after the other."""
    connection, offset, got, began = Connection(bootstrap), 0, 0, time.perf_counter()
    while got < bytes_wanted:
        records = check_fetched(connection.call(fetch_frame(topic, offset, bytes_max)))
        if not records:
            raise Refused(f"the topic ends after {got} of {bytes_wanted} bytes")
        offset, used = _next_offset(records)
        got += used
    rate = got / (1 << 20) / (time.perf_counter() - began)
    connection.close()
    return rate


def _next_offset(records: memoryview) -> tuple[int, int]:
    """(offset behind the last whole batch, bytes up to there); only batch headers are looked at."""
    position, offset = 0, -1
    while position + 61 <= len(records):
        base, length = struct.unpack_from(">qi", records, position)
        if position + 12 + length > len(records):
            break
        offset = base + struct.unpack_from(">i", records, position + 23)[0] + 1
        position += 12 + length
    return offset, position


def end_to_end(bootstrap: str, topic: str, frame: bytes, count: int) -> list[float]:
    """Seconds from handing a record to the broker until a consumer that waits in a fetch has it, one at a time."""
    producer, consumer, took = Connection(bootstrap), Connection(bootstrap), []
    offset = check_produced(producer.call(frame)) + 1
    for _ in range(count):
        consumer.socket.sendall(fetch_frame(topic, offset, 1 << 20))
        time.sleep(0.002)  # so that the fetch waits before the record comes
        began = time.perf_counter()
        producer.socket.sendall(frame)
        records = check_fetched(consumer.answer())
        took.append(time.perf_counter() - began)
        producer.answer()
        offset, _ = _next_offset(records)
    producer.close()
    consumer.close()
    return took
