"""What does the broker count, and how does Prometheus read it? The text format 0.0.4 over a few lines of HTTP.

Hot paths only add to plain integers in `Metrics`; everything that can be looked up (partitions, offsets, memory) is
looked up when somebody asks. Names are those of Kafka's JMX beans in Prometheus style, as the usual JMX exporter rules
make them, so that dashboards made for Kafka find most of what they look for.

The responder answers `GET /metrics` and closes the connection: whatever else is asked gets 404, a request that is
longer than REQUEST_BYTES_MAX or slower than REQUEST_SECONDS_MAX is dropped.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterator
from resource import RUSAGE_SELF, getpagesize, getrusage
from typing import Any

from refbroker.errors import ErrorCode

REQUEST_BYTES_MAX = 8192  # more than any scraper sends
REQUEST_SECONDS_MAX = 5.0
HOT_API_KEYS = (0, 1)  # Produce, Fetch
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STATM_BYTES_MAX = 256  # a line of seven numbers

Family = tuple[str, str, str, list[tuple[dict[str, str], float]]]  # type, name, help, samples with their labels


class Metrics:
    """Counters since the start. Whoever does the work adds to them."""

    def __init__(self) -> None:
        self.started_at = time.time()
        self.bytes_in = 0  # request frames
        self.bytes_out = 0  # response frames, file regions included
        self.messages_in = 0  # records appended by Produce
        self.connections_opened = 0
        self.connections_closed = 0
        self.connections_refused = 0  # over max.connections or max.connections.per.ip
        self._requests: dict[str, list[float]] = defaultdict(lambda: [0, 0.0])  # API name -> [count, seconds]
        self._errors: dict[tuple[str, int], int] = {}

    def request(self, api: str, seconds: float) -> None:
        """One request was answered."""
        cell = self._requests[api]
        cell[0] += 1
        cell[1] += seconds

    def error(self, api: str, code: int) -> None:
        self._errors[api, code] = self._errors.get((api, code), 0) + 1

    def errors_in(self, api: Any, response: dict[str, Any]) -> None:
        """Count the error codes of a response. Produce and Fetch do it themselves, where an error arises."""
        if api.key not in HOT_API_KEYS:
            self._walk(api.name, response)

    def _walk(self, api: str, message: dict[str, Any]) -> None:
        if code := message.get("error_code"):
            self.error(api, code)
        for value in message.values():
            if isinstance(value, (list, tuple)) and value and isinstance(value[0], dict):
                for element in value:
                    self._walk(api, element)

    def text(self, broker: Any) -> str:
        """All metrics in Prometheus' text format."""
        lines: list[str] = []
        for kind, name, about, samples in (*self._counted(), *_looked_up(broker)):
            lines += (f"# HELP {name} {about}", f"# TYPE {name} {kind}")
            lines += (f"{name}{_labels(labels)} {value!r}" for labels, value in samples)
        return "\n".join(lines) + "\n"

    def _counted(self) -> Iterator[Family]:
        topics, sockets = "kafka_server_brokertopicmetrics_", "kafka_server_socketservermetrics_"
        network = "kafka_network_requestmetrics_"
        requests = sorted(self._requests.items())
        counts = [({"request": api}, cell[0]) for api, cell in requests]
        seconds = [({"request": api}, cell[1]) for api, cell in requests]
        errors = [({"request": api, "error": _error_name(code)}, n) for (api, code), n in sorted(self._errors.items())]
        open_now = self.connections_opened - self.connections_closed
        yield "counter", topics + "messagesin_total", "Records appended by producers.", [({}, self.messages_in)]
        yield "counter", topics + "bytesin_total", "Bytes of requests.", [({}, self.bytes_in)]
        yield "counter", topics + "bytesout_total", "Bytes of responses.", [({}, self.bytes_out)]
        yield "counter", network + "requests_total", "Requests answered.", counts
        yield "counter", network + "errors_total", "Error codes in responses.", errors
        yield "counter", network + "totaltime_seconds_total", "Time from request read to response written.", seconds
        yield "gauge", sockets + "connection_count", "Open connections.", [({}, open_now)]
        yield "counter", sockets + "connections_opened_total", "Connections accepted.", [({}, self.connections_opened)]
        yield "counter", sockets + "connections_refused_total", "Over a limit.", [({}, self.connections_refused)]


def _looked_up(broker: Any) -> Iterator[Family]:
    partitions = [
        ({"topic": topic, "partition": str(number)}, partition)
        for (topic, number), partition in sorted(broker.logs.partitions.items())
    ]
    ends = [(labels, partition.log_end_offset) for labels, partition in partitions]
    durable = [(labels, partition.recovery_point) for labels, partition in partitions]
    starts = [(labels, partition.log_start_offset) for labels, partition in partitions]
    sizes = [(labels, partition.size_bytes) for labels, partition in partitions]
    offline = sum(partition.offline is not None for _, partition in partitions)
    yield "gauge", "kafka_server_replicamanager_partitioncount", "Partitions.", [({}, len(partitions))]
    yield "gauge", "kafka_server_replicamanager_offlinereplicacount", "Partitions offline.", [({}, offline)]
    yield "gauge", "kafka_log_log_logendoffset", "Log end offset.", ends
    yield "gauge", "kafka_log_log_logstartoffset", "Log start offset.", starts
    yield "gauge", "kafka_log_log_recoverypoint", "Everything below this offset is on the disk.", durable
    yield "gauge", "kafka_log_log_size", "Bytes of log.", sizes
    flusher, flush = broker.flusher, "kafka_log_logflushstats_"
    yield "counter", flush + "logflush_total", "Flushes of partitions.", [({}, flusher.flushes)]
    yield "counter", flush + "logflush_waiters_total", "Appends that waited for one of them.", [({}, flusher.waits)]
    yield "counter", flush + "logflush_seconds_total", "Time in flushes.", [({}, flusher.flush_seconds)]
    usage = getrusage(RUSAGE_SELF)
    yield "counter", "process_cpu_seconds_total", "CPU time, user and system.", [({}, usage.ru_utime + usage.ru_stime)]
    yield "gauge", "process_start_time_seconds", "Unix time of the start.", [({}, broker.metrics.started_at)]
    yield "gauge", "process_max_resident_memory_bytes", "Most memory so far.", [({}, usage.ru_maxrss * 1024)]
    if (resident := _resident_bytes(broker.disk)) is not None:
        yield "gauge", "process_resident_memory_bytes", "Memory in use.", [({}, resident)]


def _resident_bytes(disk: Any) -> int | None:
    """From Linux's /proc; None elsewhere, and on a simulated disk."""
    try:
        pages = disk.open("/proc/self/statm", readonly=True).pread(STATM_BYTES_MAX, 0).split()[1]
    except (OSError, IndexError):
        return None
    return int(pages) * getpagesize()


def _error_name(code: int) -> str:
    return ErrorCode(code).name if code in ErrorCode._value2member_map_ else str(code)


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    escaped = (
        (name, value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")) for name, value in labels.items()
    )
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped) + "}"


async def serve(broker: Any, host: str, port: int) -> asyncio.Server:
    """Answer scrapers on this address until the returned server is closed. Raises OSError."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(REQUEST_SECONDS_MAX):
                request = await reader.readuntil(b"\r\n\r\n")
                writer.write(_response(broker, request))
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, asyncio.CancelledError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            pass  # not a scraper, one that does not read, or the broker's end
        finally:
            writer.transport.abort()

    return await asyncio.start_server(respond, host, port, limit=REQUEST_BYTES_MAX)


def _response(broker: Any, request: bytes) -> bytes:
    line = request.split(b"\r\n", 1)[0].split(b" ")
    found = len(line) == 3 and line[0] in (b"GET", b"HEAD") and line[1].partition(b"?")[0] in (b"/metrics", b"/")
    body = broker.metrics.text(broker).encode() if found else b"try GET /metrics\n"
    status = "200 OK" if found else "404 Not Found"
    about = f"Content-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\nConnection: close"
    head = f"HTTP/1.1 {status}\r\n{about}\r\n\r\n".encode()
    return head if line[0] == b"HEAD" else head + body
