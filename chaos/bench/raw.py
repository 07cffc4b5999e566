"""A client that costs next to nothing: plain sockets, frames built once, answers looked at as little as is safe.

With it a figure is the broker's, not the client library's. Frames are built by refbroker's own schemas, in versions that
both brokers under test serve: Produce v9 and Fetch v11. How the frames are sent is in `drive.py`.
"""

import random
import socket
import ssl
import struct
import time
from collections.abc import Sequence

from refbroker.apis import k00_produce, k01_fetch, k03_metadata, k19_create_topics, k20_delete_topics
from refbroker.log.records import Record, build

PRODUCE_VERSION, FETCH_VERSION, METADATA_VERSION, CREATE_VERSION, DELETE_VERSION = 9, 11, 9, 4, 3
ANSWER_SECONDS_MAX = 60
_SIZE = struct.Struct(">i")
_SECONDS = struct.Struct("@ll")  # of SO_RCVTIMEO and SO_SNDTIMEO
_MARK = 0x0123456789ABCDEF  # stands for the offset in a Fetch frame until it is known


class Refused(Exception):
    """The broker answered with an error code, or not what was asked for."""


def batch(records: int, record_bytes: int, codec: int = 0) -> bytes:
    """One record batch of `records` records with `record_bytes` of value each; lz4 and zstd shrink them to about a half."""
    now, chance = int(time.time() * 1000), random.Random(records)
    return bytes(build([Record(i, now, None, _value(i, record_bytes, chance)) for i in range(records)], codec=codec))


def _value(number: int, size: int, chance: random.Random) -> bytes:
    text = ""
    while len(text) < size:
        text += f"record {number:09d} of the bench, {chance.randbytes(12).hex()} "
    return text[:size].encode()


def produce_frame(topic: str, records: bytes, *, partitions: int = 1, acks: int = -1) -> bytes:
    """A request with the same batch for each partition."""
    return k00_produce.API.request_frame(PRODUCE_VERSION, 1, "bench", {
        "transactional_id": None, "acks": acks, "timeout_ms": 30_000, "topic_data": [
            {"name": topic, "partition_data": [{"index": n, "records": records} for n in range(partitions)]}]})


def produce_answer(topic: str, partitions: int = 1) -> bytes:
    """What a broker that does nothing answers to `produce_frame`."""
    return b"".join(map(bytes, k00_produce.API.response_frame(PRODUCE_VERSION, 1, {"responses": [
        {"name": topic, "partition_responses": [
            {"index": n, "error_code": 0, "base_offset": 0, "log_start_offset": 0} for n in range(partitions)]}]})))


def fetch_frame(topic: str, offset: int, bytes_max: int, wait_ms: int = 500, *, partitions: int = 1) -> bytes:
    return k01_fetch.API.request_frame(FETCH_VERSION, 1, "bench", {
        "replica_id": -1, "max_wait_ms": wait_ms, "min_bytes": 1, "max_bytes": bytes_max, "isolation_level": 0,
        "session_id": 0, "session_epoch": -1, "forgotten_topics_data": [], "rack_id": "", "topics": [
            {"topic": topic, "partitions": [{"partition": n, "current_leader_epoch": -1, "fetch_offset": offset,
                                             "log_start_offset": -1, "partition_max_bytes": bytes_max} for n in range(partitions)]}]})


def fetch_answer(topic: str, records: bytes) -> bytes:
    """What a broker answers to `fetch_frame` that has these records."""
    entry = {"partition_index": 0, "error_code": 0, "high_watermark": 1, "last_stable_offset": 1, "log_start_offset": 0,
             "aborted_transactions": None, "records": records}
    return b"".join(map(bytes, k01_fetch.API.response_frame(FETCH_VERSION, 1, {
        "error_code": 0, "session_id": 0, "responses": [{"topic": topic, "partitions": [entry]}]})))


class Connection:
    """One blocking connection; with a `context`, over TLS."""

    def __init__(self, bootstrap: str, context: ssl.SSLContext | None = None):
        host, _, port = bootstrap.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS_MAX)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.tls = context is not None
        if context:
            self.socket = context.wrap_socket(self.socket, server_hostname=host)
        self.socket.settimeout(None)  # the kernel's own timeouts spare a poll before each call
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self.socket.setsockopt(socket.SOL_SOCKET, option, _SECONDS.pack(ANSWER_SECONDS_MAX, 0))
        self._buffer = bytearray(1 << 16)
        self._view = memoryview(self._buffer)

    def send(self, frames: Sequence[bytes]) -> None:
        """Frames in one system call, as far as the socket takes them; their bytes are not put together."""
        if self.tls:
            for frame in frames:
                self.socket.sendall(frame)
        elif len(frames) == 1:
            self.socket.sendall(frames[0])
        else:
            sent = self.socket.sendmsg(frames)
            for frame in frames:
                if sent < len(frame):
                    self.socket.sendall(memoryview(frame)[sent:])
                sent = max(0, sent - len(frame))

    def receive(self) -> int:
        """Bytes of answers that came, at least one; nobody looks at them."""
        count = self.socket.recv_into(self._buffer)
        if not count:
            raise ConnectionError("the broker closed the connection")
        return count

    def answer(self) -> memoryview:
        """The body of the next response, header included. Valid until the next one."""
        self._read(self._view[:4])
        (size,) = _SIZE.unpack_from(self._buffer)
        if size > len(self._buffer):
            self._buffer = bytearray(size)
            self._view = memoryview(self._buffer)
        view = self._view[:size]
        self._read(view)
        return view

    def call(self, frame: bytes | bytearray) -> memoryview:
        self.socket.sendall(frame)
        return self.answer()

    def _read(self, view: memoryview) -> None:
        while len(view):
            count = self.socket.recv_into(view) if self.tls else self.socket.recv_into(view, len(view), socket.MSG_WAITALL)
            if not count:
                raise ConnectionError("the broker closed the connection")
            view = view[count:]

    def close(self) -> None:
        self.socket.close()


class Reader:
    """Reads partition 0 of a topic in order, one fetch after the other; `offset` is where the next one begins.

    The first answer is decoded by the schema; of the later ones only the fixed places of the error codes and of the
    batches' headers are looked at."""

    def __init__(self, connection: Connection, topic: str, bytes_max: int, wait_ms: int = 500):
        self.connection, self.topic, self.offset = connection, topic, 0
        self._frame = bytearray(fetch_frame(topic, _MARK, bytes_max, wait_ms))
        self._position = self._frame.index(_MARK.to_bytes(8, "big"))
        self._records = 4 + 4 + 2 + 4 + 4 + (2 + len(topic)) + 4 + 4 + 2 + 3 * 8 + 4 + 4 + 4  # no aborted transactions
        self._looked = False

    def read(self) -> int:
        """Bytes of whole batches that came, 0 where there are none yet. Raises Refused."""
        struct.pack_into(">q", self._frame, self._position, self.offset)
        view = self.connection.call(self._frame)
        if not self._looked:
            records = check_fetched(view)
            if records is None or len(view) - len(records) != self._records:
                raise Refused("Fetch: the answer is laid out in another way than expected")
            self._looked = True
        error_at = self._records - 4 - 4 - 4 - 3 * 8 - 2
        if view[8:10] != b"\0\0" or view[error_at : error_at + 2] != b"\0\0":
            check_fetched(view)
            raise Refused("Fetch: an error that the schema does not show")
        following, used = _next_offset(view[self._records :])
        self.offset = following if used else self.offset
        return used


def check_produced(view: memoryview) -> int:
    """The base offset of the first partition. Raises Refused."""
    _, answer = k00_produce.API.read_response(PRODUCE_VERSION, view)
    for entry in answer["responses"][0]["partition_responses"]:
        if entry["error_code"]:
            raise Refused(f"Produce: error {entry['error_code']} {entry['error_message']}")
    return answer["responses"][0]["partition_responses"][0]["base_offset"]


def check_fetched(view: memoryview) -> memoryview | None:
    """The records of the first partition. Raises Refused."""
    _, answer = k01_fetch.API.read_response(FETCH_VERSION, view)
    if answer["error_code"] or not answer["responses"]:
        raise Refused(f"Fetch: error {answer['error_code']}")
    entry = answer["responses"][0]["partitions"][0]
    if entry["error_code"]:
        raise Refused(f"Fetch: error {entry['error_code']}")
    return entry["records"]


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


def metadata(connection: Connection, topic: str | None = None) -> dict:
    """Metadata of one topic, or only of the brokers."""
    _, answer = k03_metadata.API.read_response(METADATA_VERSION, connection.call(
        k03_metadata.API.request_frame(METADATA_VERSION, 1, "bench", {
            "topics": [{"name": topic}] if topic else [], "allow_auto_topic_creation": False,
            "include_cluster_authorized_operations": False, "include_topic_authorized_operations": False})))
    return answer


def wait_until_served(bootstrap: str, topic: str, partitions: int, seconds_max: float = 30) -> None:
    """Until every partition can be read: Metadata may name a leader that does not know of it yet."""
    connection, deadline = Connection(bootstrap), time.monotonic() + seconds_max
    frame = fetch_frame(topic, 0, 1, wait_ms=0, partitions=partitions)
    while time.monotonic() < deadline:
        _, answer = k01_fetch.API.read_response(FETCH_VERSION, connection.call(frame))
        if not answer["error_code"] and not any(p["error_code"] for t in answer["responses"] for p in t["partitions"]):
            connection.close()
            return
        time.sleep(0.02)
    raise Refused(f"{topic} is not served after {seconds_max:.0f} s")


def wait_for_leader(bootstrap: str, topic: str, seconds_max: float = 30) -> None:
    """Until Metadata names a leader for every partition of a topic."""
    connection, deadline = Connection(bootstrap), time.monotonic() + seconds_max
    while time.monotonic() < deadline:
        found = metadata(connection, topic)["topics"][0]
        if not found["error_code"] and found["partitions"] and all(p["leader_id"] >= 0 for p in found["partitions"]):
            connection.close()
            return
        time.sleep(0.02)
    raise Refused(f"{topic} has no leader after {seconds_max:.0f} s")


def create_topic(bootstrap: str, topic: str, partitions: int, configs: dict[str, str]) -> None:
    """Create a topic and return when it has leaders. Raises Refused."""
    connection = Connection(bootstrap)
    _, answer = k19_create_topics.API.read_response(CREATE_VERSION, connection.call(
        k19_create_topics.API.request_frame(CREATE_VERSION, 1, "bench", {"timeout_ms": 30_000, "validate_only": False, "topics": [
            {"name": topic, "num_partitions": partitions, "replication_factor": 1, "assignments": [],
             "configs": [{"name": name, "value": value} for name, value in configs.items()]}]})))
    connection.close()
    if answer["topics"][0]["error_code"]:
        raise Refused(f"CreateTopics {topic}: error {answer['topics'][0]['error_code']} {answer['topics'][0]['error_message']}")
    wait_for_leader(bootstrap, topic)
    wait_until_served(bootstrap, topic, partitions)


def delete_topic(bootstrap: str, topic: str) -> None:
    connection = Connection(bootstrap)
    _, answer = k20_delete_topics.API.read_response(DELETE_VERSION, connection.call(
        k20_delete_topics.API.request_frame(DELETE_VERSION, 1, "bench", {"topic_names": [topic], "timeout_ms": 30_000})))
    connection.close()
    if answer["responses"][0]["error_code"]:
        raise Refused(f"DeleteTopics {topic}: error {answer['responses'][0]['error_code']}")
