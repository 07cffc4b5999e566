"""How do requests come in and responses go out? The only file with sockets.

One coroutine serves one connection: read a frame, decode it, let the API's handler answer, write the response, next.
Requests of one connection are answered in their order, one at a time, as in Apache Kafka: what a client sends ahead
waits in the kernel, and a reader that is slow blocks nobody but itself. There is never more than one request and one
response of a connection in memory.

A frame is an int32 size and as many bytes. It is received into one buffer, and the batches in it stay views of that
buffer until they are written. A response is sent with one `send`; file regions follow by `sendfile`, which continues
from the event loop's writer callback until all is sent: no byte of a record passes through Python.

What costs a client its connection, and one line in the log that names the peer and the reason:

1. a frame that is longer than socket.request.max.bytes, negative, or ends early;
2. a request that does not decode (see `primitives.py`), an API or version that is not served (ApiVersions of an unknown
   version is answered, see `k18_api_versions.py`);
3. a frame, or the reading of a response, that takes longer than connections.max.idle.ms; no request for so long;
4. more connections than max.connections, or than max.connections.per.ip from one address;
5. more bytes of unfinished requests than queued.max.request.bytes (in all: the largest goes first);
6. an error of ours in a handler: the log has the traceback.

An announced size costs nothing: a large frame's buffer is anonymous memory that exists as it is filled.

How Apache Kafka differs: it allocates what was announced, and at max.connections it stops accepting instead of closing.
"""

import asyncio
import errno
import logging
import os
import socket
import struct
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from refbroker import apis
from refbroker.apis.k18_api_versions import API as API_VERSIONS
from refbroker.apis.k18_api_versions import unsupported_version
from refbroker.fetch_sessions import FetchSessions
from refbroker.frames import SMALL_FRAME_BYTES, FrameBudget, FramePool, LogLimit
from refbroker.protocol import ProtocolError, read_request_header

BACKLOG_MIN = 1024  # connections that come at once wait here; an entry costs the kernel little
ACCEPTS_PER_WAKEUP = 64  # then the other connections get their turn
ACCEPT_PAUSE_S = 0.5  # after EMFILE and the like
STOP_GRACE_S = 2.0  # what a request in hand gets to finish in at a stop
SWEEPS_PER_IDLE_TIME = 8
SWEEP_INTERVAL_MAX_S = 10.0
UNASKED_MAX = 3  # one is the echo of a read that was just done, one the turn that others get between two requests
GONE = (ConnectionResetError, BrokenPipeError, ConnectionAbortedError, TimeoutError)

_SIZE = struct.Struct(">i")

logger = logging.getLogger(__name__)


class Refused(Exception):
    """Why this connection is closed."""


class PlainStream:
    """One TCP connection. The seam that TLS and a simulated network have their own versions of: `read_into`, `write`,
    `close`. One reader and one writer at a time.

    The socket is tried first; if it has nothing, the event loop's reader callback receives into the waiting view. The
    callback stays registered from one read to the next. It goes only when bytes come that nobody waits for."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connection: socket.socket):
        self._socket = connection
        self._fd = connection.fileno()
        self._loop = loop
        self._watched = False
        self._drained = True  # the last read got less than it asked for: there is nothing to try
        self._unasked = 0
        self._view: memoryview | None = None
        self._read_waiter: asyncio.Future[int] | None = None
        self._parts: list[Any] = []
        self._write_waiter: asyncio.Future[None] | None = None

    async def read_into(self, view: memoryview) -> int:
        """Receive at least one byte, at most what fits; 0 at the end of the stream. Raises OSError."""
        if not self._drained:
            try:
                count = self._socket.recv_into(view)
                self._drained = count < len(view)
                self._unasked = 0
                return count
            except (BlockingIOError, InterruptedError):
                pass
        self._view = view
        waiter = self._read_waiter = self._loop.create_future()
        if not self._watched:
            self._watched = True
            self._unasked = 0
            self._loop.add_reader(self._fd, self._on_readable)
        try:
            return await waiter
        finally:
            self._read_waiter = self._view = None

    def _on_readable(self) -> None:
        waiter, view = self._read_waiter, self._view
        if waiter is None or waiter.done():
            self._unasked += 1
            if self._unasked >= UNASKED_MAX:
                self._loop.remove_reader(self._fd)
                self._watched = False
            return
        self._unasked = 0
        try:
            count = self._socket.recv_into(view)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            waiter.set_exception(error)
            return
        self._drained = count < len(view)
        waiter.set_result(count)

    async def write(self, parts: Sequence[Any]) -> None:
        """Send bytes-likes and file regions, in order. Raises OSError."""
        if len(parts) == 1 and not hasattr(parts[0], "file"):
            try:
                sent = self._socket.send(parts[0])
            except (BlockingIOError, InterruptedError):
                sent = 0
            if sent == len(parts[0]):
                return
            self._parts = [memoryview(parts[0])[sent:]]
        else:
            self._parts = [_Region(part) if hasattr(part, "file") else part for part in parts]
        if self._send():
            return
        self._write_waiter = self._loop.create_future()
        self._loop.add_writer(self._fd, self._on_writable)
        try:
            await self._write_waiter
        finally:
            self._loop.remove_writer(self._fd)
            self._parts = []

    def _on_writable(self) -> None:
        waiter = self._write_waiter
        if waiter is None or waiter.done():
            return
        try:
            if self._send():
                waiter.set_result(None)
        except OSError as error:
            waiter.set_exception(error)

    def _send(self) -> bool:
        """Send until all is sent (True) or the socket takes no more."""
        parts = self._parts
        try:
            while parts:
                part = parts[0]
                if isinstance(part, _Region):
                    if not part.send(self._fd):
                        continue
                else:
                    more = socket.MSG_MORE if len(parts) > 1 else 0  # the kernel waits for what follows at once
                    sent = self._socket.send(part, more)
                    if sent < len(part):
                        parts[0] = memoryview(part)[sent:]
                        continue
                parts.pop(0)
        except (BlockingIOError, InterruptedError):
            return False
        return True

    def close(self) -> None:
        if self._watched:
            self._loop.remove_reader(self._fd)
            self._watched = False
        self._socket.close()


class _Region:
    """A part of a file on its way out. Holds the file, and so its descriptor, until it is sent."""

    __slots__ = ("file", "position", "end")

    def __init__(self, region: Any):
        self.file = region.file
        self.position = region.position
        self.end = region.position + region.size

    def send(self, fd: int) -> bool:
        """True when all is sent. Raises BlockingIOError."""
        sent = os.sendfile(fd, self.file.fileno(), self.position, self.end - self.position)
        if sent == 0 and self.position < self.end:
            raise OSError(errno.EIO, "file ends before what was promised of it", self.file.path)
        self.position += sent
        return self.position == self.end


class Connection:
    """One client: its stream, its task, and since when it has kept us waiting (None: we are at work)."""

    def __init__(self, stream: Any, host: str, port: int, now: float):
        self.stream = stream
        self.host = host
        self.peer = f"{host}:{port}"
        self.task: asyncio.Task[None] | None = None
        self.reading = True
        self.waiting_since: float | None = now
        self.received = 0  # bytes of a large frame so far
        self.head = memoryview(bytearray(_SIZE.size))
        self.head_bytes = 0
        self.reason = ""

    def abort(self, reason: str) -> None:
        self.reason = self.reason or reason
        self.task.cancel()


class Server:
    """Listens, and serves every connection until `stop`."""

    def __init__(self, broker: Any, config: Any):
        self.broker = broker
        self.config = config
        self.served = apis.load()
        self.connections: set[Connection] = set()
        self.fetch_sessions = FetchSessions(config.max_incremental_fetch_session_cache_slots)
        self.address: tuple[str, int] | None = None
        self._per_host: Counter[str] = Counter()
        self._pool = FramePool()
        self._budget = FrameBudget(config.queued_max_request_bytes)
        self._log = LogLimit(logger)
        self._idle_s = config.connections_max_idle_ms / 1000
        self._stopping = False
        self._listener: socket.socket | None = None
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        return self.address[1]

    async def start(self) -> None:
        """Listen on the configured address. Raises OSError."""
        self._loop = asyncio.get_running_loop()
        host, port = self.config.listener.host, self.config.listener.port
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
        listener = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _set_buffers(listener, self.config)  # before listen: accepted sockets inherit them, and their window
            listener.bind(address)
            listener.listen(max(self.config.socket_listen_backlog_size, BACKLOG_MIN))
        except OSError:
            listener.close()
            raise
        self._listener = listener
        self.address = listener.getsockname()[:2]
        self._loop.add_reader(listener.fileno(), self._on_connection)
        self._sweeper = self._loop.create_task(self._sweep())

    async def stop(self) -> None:
        """Stop accepting, let requests in hand finish (for STOP_GRACE_S), close every connection."""
        self._stopping = True
        if self._listener is not None:
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self.connections):
            if connection.reading:
                connection.abort("")
        tasks = [connection.task for connection in self.connections]
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_GRACE_S)
        for connection in list(self.connections):
            connection.abort("")
        await asyncio.gather(*(task for task in tasks if not task.done()), return_exceptions=True)

    def _on_connection(self) -> None:
        for _ in range(ACCEPTS_PER_WAKEUP):
            try:
                accepted, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # out of descriptors: what is queued waits until some are free
                self._log.warning("cannot accept connections: %s", error)
                self._loop.remove_reader(self._listener.fileno())
                self._loop.call_later(ACCEPT_PAUSE_S, self._resume_accepting)
                return
            self._accept(accepted, *address[:2])

    def _resume_accepting(self) -> None:
        if self._listener is not None:
            self._loop.add_reader(self._listener.fileno(), self._on_connection)

    def _accept(self, accepted: socket.socket, host: str, port: int) -> None:
        limit = ""
        if len(self.connections) >= self.config.max_connections:
            limit = f"max.connections is {self.config.max_connections}"
        elif self._per_host[host] >= self.config.max_connections_per_ip:
            limit = f"max.connections.per.ip is {self.config.max_connections_per_ip}"
        if limit:
            accepted.close()
            self.broker.metrics.connections_refused += 1
            self._log.warning("closed %s:%d: %s", host, port, limit)
            return
        accepted.setblocking(False)
        with suppress(OSError):  # gone already: the first read will tell
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self.serve_stream(PlainStream(self._loop, accepted), host, port)

    def serve_stream(self, stream: Any, host: str, port: int) -> Connection:
        """Serve one client from a task of its own."""
        loop = asyncio.get_running_loop()
        connection = Connection(stream, host, port, loop.time())
        self.connections.add(connection)
        self._per_host[host] += 1
        self.broker.metrics.connections_opened += 1
        connection.task = loop.create_task(self._serve(connection))
        return connection

    async def _sweep(self) -> None:
        """Close those that have kept us waiting too long: one look at all, instead of a timer for each read."""
        if self._idle_s < 0:
            return
        interval_s = min(self._idle_s / SWEEPS_PER_IDLE_TIME, SWEEP_INTERVAL_MAX_S)
        while True:
            await asyncio.sleep(interval_s)
            limit = self._loop.time() - self._idle_s
            for connection in list(self.connections):
                if connection.waiting_since is not None and connection.waiting_since < limit:
                    connection.abort("idle, or too slow, for longer than connections.max.idle.ms")

    async def _serve(self, connection: Connection) -> None:
        try:
            while not self._stopping and await self._serve_request(connection):
                pass
        except asyncio.CancelledError:
            if connection.reason:
                self._log.warning("closed %s: %s", connection.peer, connection.reason)
        except GONE:
            pass
        except (ProtocolError, Refused, apis.Disconnect, OSError) as error:
            self._log.warning("closed %s: %s", connection.peer, error)
        except Exception:
            self._log.exception("closed %s: error of ours", connection.peer)
        finally:
            self._budget.done(connection)
            connection.stream.close()
            self.connections.remove(connection)
            self._per_host[connection.host] -= 1
            if not self._per_host[connection.host]:
                del self._per_host[connection.host]
            self.broker.metrics.connections_closed += 1

    async def _serve_request(self, connection: Connection) -> bool:
        """One request and its response. False at the end of the stream."""
        if connection.head_bytes:  # the next request is there already: it must not keep the others waiting
            await asyncio.sleep(0)
        loop, metrics = self._loop, self.broker.metrics
        size = await self._read_size(connection)
        if size is None:
            return False
        connection.waiting_since = started = loop.time()
        buffer = self._pool.take(size + _SIZE.size)
        frame = await self._read_frame(connection, buffer, size)
        connection.reading, connection.waiting_since = False, None
        metrics.bytes_in += size
        parts, name = await self._answer(connection, frame)
        self._budget.done(connection)
        self._pool.give(buffer)
        if parts:
            connection.waiting_since = loop.time()
            await connection.stream.write(parts)
            metrics.bytes_out += sum(part.size if hasattr(part, "file") else len(part) for part in parts)
        connection.reading, connection.waiting_since = True, loop.time()
        metrics.request(name, connection.waiting_since - started)
        return True

    async def _read_size(self, connection: Connection) -> int | None:
        """The size of the next frame; None at the end of the stream."""
        while connection.head_bytes < _SIZE.size:
            count = await connection.stream.read_into(connection.head[connection.head_bytes :])
            if count == 0:
                if connection.head_bytes:
                    raise Refused("closed in the middle of a frame's size")
                return None
            connection.head_bytes += count
        connection.head_bytes = 0
        (size,) = _SIZE.unpack(connection.head)
        if size < 0 or size > self.config.socket_request_max_bytes:
            raise Refused(f"frame of {size} bytes, socket.request.max.bytes is {self.config.socket_request_max_bytes}")
        return size

    async def _read_frame(self, connection: Connection, buffer: Any, size: int) -> memoryview:
        """The frame. Reads four bytes more than it has: either there is nothing more, which saves asking again, or
        they are the next frame's size."""
        view = memoryview(buffer)
        asked = size + _SIZE.size
        received = 0
        while received < size:
            count = await connection.stream.read_into(view[received:asked])
            if count == 0:
                raise Refused(f"closed after {received} of {size} bytes of a frame")
            received += count
            if size > SMALL_FRAME_BYTES:
                connection.received = min(received, size)
                victim = self._budget.grown(connection)
                if victim is not None:
                    reason = f"{victim.received} bytes of a frame, queued.max.request.bytes is used up"
                    if victim is connection:
                        raise Refused(reason)
                    victim.abort(reason)
        connection.head_bytes = received - size
        connection.head[: connection.head_bytes] = view[size:received]
        return view[:size]

    async def _answer(self, connection: Connection, frame: memoryview) -> tuple[list[Any] | None, str]:
        """The response in parts (None: the client wants none), and the name of the API."""
        header = read_request_header(frame)
        served = self.served.get(header.api_key)
        if served is None:
            raise Refused(f"API key {header.api_key} is not served")
        api, handle = served
        if not api.serves(header.version):
            if api is API_VERSIONS:
                return api.response_frame(0, header.correlation_id, unsupported_version()), api.name
            raise Refused(f"{api.name} version {header.version} is not served")
        try:
            request = api.decode_request(header.version, frame, api.body_position(header, frame))
        except ProtocolError as error:
            raise ProtocolError(f"{api.name} version {header.version}: {error}") from error
        context = apis.RequestContext(header, connection.host, self.served, self.fetch_sessions)
        response = await handle(self.broker, request, context)
        if response is None:
            return None, api.name
        self.broker.metrics.errors_in(api, response)
        return api.response_frame(header.version, header.correlation_id, response), api.name


def _set_buffers(listener: socket.socket, config: Any) -> None:
    sizes = {socket.SO_SNDBUF: config.socket_send_buffer_bytes, socket.SO_RCVBUF: config.socket_receive_buffer_bytes}
    for option, size in sizes.items():
        if size >= 0:
            listener.setsockopt(socket.SOL_SOCKET, option, size)
