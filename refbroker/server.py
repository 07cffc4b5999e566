"""How do requests come in and responses go out?

A connection's bytes are received when the event loop says that there are some, into one buffer (see `frames.py`). A
whole frame is decoded, and its API's handler answers at once, or where it must wait (for the disk, for records, for
other members of a group) with a coroutine: only then is there a task for it. So a request that waits for nothing costs
no task, no future and no second turn of the loop, which is a third of the processor time of a small one.

Requests of one connection are answered in their order, one at a time, as in Apache Kafka: what a client sends ahead
waits in the kernel, and a reader that is slow blocks nobody but itself. There is never more than one request of a
connection in memory. Small responses go out at the end of the loop's turn, those of one connection in one `send`.

What costs a client its connection, and one line in the log that names the peer and the reason:

1. a frame that is longer than socket.request.max.bytes, negative, or ends early;
2. a request that does not decode (see `primitives.py`), an API or version that is not served (ApiVersions of an unknown
   version is answered, see `k18_api_versions.py`);
3. a frame, or the reading of a response, that takes longer than connections.max.idle.ms; no request for so long;
4. more connections than max.connections, or than max.connections.per.ip from one address;
5. more bytes of unfinished requests than queued.max.request.bytes (in all: the largest goes first);
6. an error of ours in a handler, of those that were handled together all: the log has the traceback.

An announced size costs nothing: a large frame's buffer is anonymous memory that exists as it is filled.

How Apache Kafka differs: it allocates what was announced, and at max.connections it stops accepting instead of closing.
"""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

from refbroker import apis, tls
from refbroker.apis.k18_api_versions import unsupported_version
from refbroker.connections import Connection, Request, decode
from refbroker.fetch_sessions import FetchSessions
from refbroker.frames import SMALL_FRAME_BYTES, FrameBudget, FramePool, FrameReader, LogLimit, Refused
from refbroker.protocol import Api, ProtocolError
from refbroker.streams import Acceptor, PlainStream

REQUESTS_PER_WAKEUP = 16  # of one connection, sent ahead; then the others
RESPONSES_PER_SEND = 4  # so that a client that has five requests under way works while we do
STOP_GRACE_S = 2.0  # what a request in hand gets to finish in at a stop
SWEEPS_PER_IDLE_TIME = 8
SWEEP_INTERVAL_MAX_S = 10.0
GONE = (ConnectionResetError, BrokenPipeError, ConnectionAbortedError, TimeoutError)
TOLD = (ProtocolError, Refused, apis.Disconnect, OSError)  # errors of the peer or of the world: one line, no traceback

logger = logging.getLogger(__name__)


class Server:
    """Listens, and serves every connection until `stop`."""

    def __init__(self, broker: Any, config: Any):
        self.broker = broker
        self.config = config
        self.served = apis.load()
        self.connections: set[Connection] = set()
        self.fetch_sessions = FetchSessions(config.max_incremental_fetch_session_cache_slots)
        self.addresses: dict[str, tuple[str, int]] = {}  # that are listened on, by the listener's name
        self._per_host: Counter[str] = Counter()
        self._pool = FramePool()
        self._budget = FrameBudget(config.queued_max_request_bytes)
        self._log = LogLimit(logger)
        self._idle_s = config.connections_max_idle_ms / 1000
        self._stopping = False
        self._holding: list[Connection] = []  # that hold responses
        self._later: dict[asyncio.Future, list[tuple[Request, apis.Later]]] = {}  # by what they wait for
        self._together: list[Request] = []  # that are handled at the end of the turn
        self._ending = False  # a call of `_end_turn` is under way
        self._turn: Any = ()
        self._acceptors: list[Acceptor] = []
        self._tls = {
            served.listener.name: tls.server_context(broker.disk, config)
            for served in config.client_listeners
            if served.protocol == "SSL"
        }
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Of the first listener."""
        return self.addresses[self.config.listener.name]

    async def start(self) -> None:
        """Listen on the configured addresses. Raises OSError whose `filename` is the listener."""
        self._begin(asyncio.get_running_loop())
        for listener, _, _ in self.config.client_listeners:
            try:
                acceptor = Acceptor(
                    self._loop, listener.host, listener.port, self.config, partial(self._accept, listener.name), self._log
                )
            except OSError as error:
                error.filename = str(listener)
                raise
            self._acceptors.append(acceptor)
            self.addresses[listener.name] = acceptor.address
        self._sweeper = self._loop.create_task(self._sweep())

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._turn = getattr(loop, "_ready", ())  # what asyncio has still to call in this turn

    async def stop(self) -> None:
        """Stop accepting, let requests in hand finish (for STOP_GRACE_S), close every connection."""
        self._stopping = True
        for acceptor in self._acceptors:
            acceptor.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in list(self.connections):
            if connection.task is None:
                self._close(connection)
        tasks = [connection.task for connection in self.connections]
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_GRACE_S)
        for connection in list(self.connections):
            self._abort(connection, "")
        await asyncio.gather(*(task for task in tasks if isinstance(task, asyncio.Task)), return_exceptions=True)

    def _accept(self, listener: str, accepted: socket.socket, host: str, port: int) -> None:
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
        context = self._tls.get(listener)
        try:
            stream = tls.TlsStream(self._loop, accepted, context) if context else PlainStream(self._loop, accepted)
        except OSError:  # gone already
            accepted.close()
            return
        self.serve_stream(stream, host, port, listener)

    def serve_stream(self, stream: Any, host: str, port: int, listener: str | None = None) -> Connection:
        """Serve one client, from now on; by the first listener unless told otherwise."""
        frames = FrameReader(self._pool, self.config.socket_request_max_bytes)
        connection = Connection(stream, host, port, listener or self.config.listener.name, self._loop.time(), frames)
        self.connections.add(connection)
        self._per_host[host] += 1
        self.broker.metrics.connections_opened += 1
        connection.on_readable = partial(self._on_readable, connection)
        stream.watch(connection.on_readable)
        return connection

    async def _sweep(self) -> None:
        """Close those that have kept us waiting too long: one look at all, instead of a timer for each read."""
        if self._idle_s < 0:
            return
        interval_s = min(self._idle_s / SWEEPS_PER_IDLE_TIME, SWEEP_INTERVAL_MAX_S)
        while True:
            await asyncio.sleep(interval_s)
            limit = self._loop.time() - self._idle_s
            late = [each for each in self.connections if each.waiting_since is not None and each.waiting_since < limit]
            while late:  # no name for them here that would outlive them
                self._abort(late.pop(), "idle, or too slow, for longer than connections.max.idle.ms")

    # ------------------------------------------------------------ one connection

    def _on_readable(self, connection: Connection) -> None:
        """Serve what has come, as far as it goes without waiting."""
        if connection.task is not None:  # at work: what else comes waits in the kernel
            connection.stream.unwatch()
        elif not connection.closed and not connection.in_turn:
            more = False
            try:
                for _ in range(REQUESTS_PER_WAKEUP):
                    if not (more := self._serve_request(connection)):
                        break
                    if len(connection.held) >= RESPONSES_PER_SEND:
                        self._end_turn_soon()
            except Exception as error:
                self._lost(connection, error)
            if not self._ending:
                self._end_turn_soon()
            if more and not connection.closed:
                self._come_back(connection)

    def _come_back(self, connection: Connection) -> None:
        """To a request that came with the last one, where the event loop will not tell us of it."""
        if connection.frames.has_whole or connection.stream.pending():
            self._loop.call_soon(connection.on_readable)

    def _serve_request(self, connection: Connection) -> bool:
        """One request and its response. True where more has come with it, False where there was no whole request, or
        its response must wait."""
        connection.started = connection.waiting_since  # where the frame came with the one before it
        frame = connection.frames.next() if connection.frames.received_bytes else None
        if frame is None and (frame := self._receive(connection)) is None:
            return False
        connection.waiting_since = None
        self.broker.metrics.bytes_in += len(frame)
        request = decode(self, connection, frame)
        if request.entry.handle_all is None or connection.frames.size > SMALL_FRAME_BYTES or not self._turn:
            if request.message is None:
                return self._answered(request, unsupported_version())
            return self._answered(request, request.entry.handle(self.broker, request.message, request))
        connection.in_turn = True  # others come in this turn
        self._together.append(request)
        return False

    def _serve_together(self) -> list[Connection]:
        """The small requests of one turn, all Produce. Those connections with which more has come."""
        requests, self._together = self._together, []
        try:
            responses = requests[0].entry.handle_all(self.broker, requests)
        except Exception as error:
            responses = [error] * len(requests)
        more = []
        for request, response in zip(requests, responses):
            connection = request.connection
            connection.in_turn = False
            try:
                if isinstance(response, Exception):
                    self._lost(connection, response)
                elif not connection.closed and self._answered(request, response):
                    more.append(connection)
            except Exception as error:
                self._lost(connection, error)
        return more

    def _answered(self, request: Request, response: Any) -> bool:
        """A handler has spoken. True where more has come with the request and can be served."""
        connection, api = request.connection, request.entry.api
        if type(response) is not dict and response is not None:
            self._wait(request, response)
            return False
        unsent = self._respond(request, response, may_hold=True)
        connection.waiting_since = self._loop.time()
        if unsent is not None:
            self._work(connection, api, unsent)
            return False
        self.broker.metrics.request(api.name, connection.waiting_since - connection.started)
        return connection.frames.received_bytes > 0

    def _receive(self, connection: Connection) -> memoryview | None:
        """A whole frame, or None while there is none. Raises Refused, OSError."""
        frames = connection.frames
        while True:
            space = frames.space()
            try:
                count = connection.stream.receive(space)
            except (BlockingIOError, InterruptedError):
                frames.rest()
                return None
            if not count:
                frames.end()
                self._close(connection)
                return None
            was_announced = frames.size >= 0
            frames.received_bytes += count
            frame = frames.next()
            if frames.size >= 0 and not was_announced:
                connection.started = connection.waiting_since = self._loop.time()
            if frames.size > SMALL_FRAME_BYTES:
                self._bound(connection)
            if frame is not None or count < len(space):
                return frame

    def _bound(self, connection: Connection) -> None:
        """A large frame has grown: the largest one goes, should they be too much together. Raises Refused."""
        if (victim := self._budget.grown(connection)) is not None:
            reason = f"{victim.received} bytes of a frame, queued.max.request.bytes is used up"
            if victim is connection:
                raise Refused(reason)
            self._abort(victim, reason)

    def _respond(self, request: Request, response: Any, *, may_hold: bool = False) -> Coroutine | None:
        """Send a response, or a part of it: then the rest is the coroutine's. One that may be held is sent at the end of
        the turn, together with those of the connection's other requests that came with it."""
        connection, api = request.connection, request.entry.api
        if self._budget.bytes:
            self._budget.done(connection)
        connection.frames.done()
        if response is None:
            return None
        metrics = self.broker.metrics
        metrics.errors_in(api, response)
        parts = api.response_frame(request.version, request.correlation_id, response)
        held = connection.held
        if may_hold and len(parts) == 1:
            metrics.bytes_out += len(parts[0])
            if not held:
                self._holding.append(connection)
            held.append(parts[0])
            return None
        for part in parts:
            metrics.bytes_out += part.size if hasattr(part, "file") else len(part)
        if held:
            parts = [b"".join([*held, parts[0]]), *parts[1:]]
            held.clear()
        return connection.stream.write(parts)

    def _end_turn_soon(self) -> None:
        """When all that the event loop has found in this turn is received, what can be done together is, and what is held
        goes out: the first `send` wakes a client, the others find it awake. 64 connections get half as many answers again."""
        if not self._turn:
            self._end_turn()
        elif (self._together or self._holding) and not self._ending:
            self._ending = True
            self._loop.call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._ending = False
        for connection in self._serve_together() if self._together else ():
            self._come_back(connection)
        holding, self._holding = self._holding, []
        for connection in holding:
            try:
                if (unsent := self._send_held(connection)) is not None:
                    self._work(connection, None, unsent)
            except Exception as error:
                self._lost(connection, error)

    def _send_held(self, connection: Connection) -> Coroutine | None:
        """Send what waits for company; a part that the socket does not take is the coroutine's."""
        held = connection.held
        if not held:
            return None
        part = held[0] if len(held) == 1 else b"".join(held)
        held.clear()
        return connection.stream.write((part,))

    def _wait(self, request: Request, response: Coroutine | apis.Later) -> None:
        """For an answer that is not there yet."""
        connection = request.connection
        unsent = self._send_held(connection) if connection.held else None
        if type(response) is apis.Later and unsent is None:
            connection.task = response.future
            if not (waiting := self._later.setdefault(response.future, [])):
                response.future.add_done_callback(self._come_true)
            waiting.append((request, response))
        else:
            self._work(connection, request.entry.api, self._respond_later(request, response, unsent))

    def _come_true(self, future: asyncio.Future) -> None:
        """What these requests have waited for is there."""
        for request, response in self._later.pop(future):
            connection = request.connection
            connection.task = None
            try:
                if (found := response.response()) and not connection.closed:  # looked at in any case, else asyncio complains
                    self._respond(request, found, may_hold=True)
                    self._go_on(connection, request.entry.api)
            except Exception as error:
                self._lost(connection, error)
        self._end_turn_soon()

    def _work(self, connection: Connection, api: Api | None, rest: Coroutine) -> None:
        """What is left to do of a request gets a task. No API: of responses that were held."""
        connection.task = self._loop.create_task(rest)
        connection.task.add_done_callback(partial(self._worked, connection, api))

    async def _respond_later(self, request: Request, response: Coroutine | apis.Later, earlier: Coroutine | None) -> None:
        if earlier is not None:
            request.connection.waiting_since = self._loop.time()
            await earlier
            request.connection.waiting_since = None
        if type(response) is apis.Later:
            await asyncio.wait([response.future])
            found = response.response()
        else:
            found = await response
        unsent = self._respond(request, found)
        if unsent is not None:
            request.connection.waiting_since = self._loop.time()
            await unsent

    def _worked(self, connection: Connection, api: Api | None, task: asyncio.Task[None]) -> None:
        connection.task = None
        if task.cancelled():
            self._close(connection, connection.reason)
        elif (error := task.exception()) is not None:
            self._lost(connection, error)
        else:
            self._go_on(connection, api)

    def _go_on(self, connection: Connection, api: Api | None) -> None:
        """To the next request."""
        if self._stopping:
            self._close(connection)
            return
        now = connection.waiting_since = self._loop.time()
        if api is not None:
            self.broker.metrics.request(api.name, now - connection.started)
        connection.stream.watch(connection.on_readable)
        self._come_back(connection)

    def _abort(self, connection: Connection, reason: str) -> None:
        """Close it, whatever it is waiting for."""
        connection.reason = connection.reason or reason
        if isinstance(connection.task, asyncio.Task):
            connection.task.cancel()
        else:  # what a Later waits for is not this connection's alone
            self._close(connection, connection.reason)

    def _lost(self, connection: Connection, error: BaseException) -> None:
        if isinstance(error, GONE):
            self._close(connection)
        elif isinstance(error, TOLD):
            self._close(connection, str(error))
        else:
            self._log.error(error, "closed %s: error of ours", connection.peer)
            self._close(connection)

    def _close(self, connection: Connection, reason: str = "") -> None:
        if connection.closed:
            return
        connection.closed = True
        if reason:
            self._log.warning("closed %s: %s", connection.peer, reason)
        self._budget.done(connection)
        with suppress(OSError):  # what was answered goes out, as far as the socket takes it
            if (unsent := self._send_held(connection)) is not None:
                unsent.close()
        connection.stream.close()
        del connection.on_readable  # it knows the connection: the buffers of both would stay until Python looks for cycles
        self.connections.remove(connection)
        self._per_host[connection.host] -= 1
        if not self._per_host[connection.host]:
            del self._per_host[connection.host]
        self.broker.metrics.connections_closed += 1

