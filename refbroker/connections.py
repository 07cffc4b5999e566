"""What does the server know of a client, and of a request of it?"""

import asyncio
from collections.abc import Callable
from typing import Any

from refbroker.apis import Served
from refbroker.fetch_sessions import FetchSessions
from refbroker.frames import FrameReader
from refbroker.protocol import RequestHeader


class Connection:
    """One client: its stream, what has come of its next request, and since when it has kept us waiting (None: we are
    at work). `task` is there while a request, or the rest of a response, waits for something; `in_turn` while a request
    waits for the end of the event loop's turn."""

    __slots__ = (
        "stream", "on_readable", "held", "host", "peer", "listener", "frames", "task", "in_turn", "waiting_since", "started",
        "reason", "closed", "__weakref__",
    )  # fmt: skip

    def __init__(self, stream: Any, host: str, port: int, listener: str, now: float, frames: FrameReader):
        self.stream = stream
        self.on_readable: Callable[[], None]  # what the stream calls
        self.held: list[bytes] = []  # responses that go out at the end of the loop's turn
        self.host = host
        self.listener = listener
        self.peer = f"{host}:{port}"
        self.frames = frames
        self.task: asyncio.Future | None = None
        self.in_turn = False
        self.waiting_since: float | None = now
        self.started = now  # to receive the current request
        self.reason = ""
        self.closed = False

    @property
    def reading(self) -> bool:
        """Is its request still incomplete?"""
        return self.task is None

    @property
    def received(self) -> int:
        """Bytes of its request so far."""
        return self.frames.received_bytes


class Request:
    """A request in hand, and as `context` what its handler may know of it besides the message. `message` None: ApiVersions in a
    version that is not served, which is answered all the same."""

    __slots__ = ("server", "connection", "entry", "version", "correlation_id", "client_id", "message")

    def __init__(self, server: Any, connection: Connection, entry: Served, header: RequestHeader, message: dict[str, Any] | None):
        self.server = server
        self.connection = connection
        self.entry = entry
        self.version = header.version
        self.correlation_id = header.correlation_id
        self.client_id = header.client_id
        self.message = message

    @property
    def client_host(self) -> str:
        return self.connection.host

    @property
    def listener(self) -> str:
        """Its name."""
        return self.connection.listener

    @property
    def served(self) -> dict[int, Served]:
        return self.server.served

    @property
    def fetch_sessions(self) -> FetchSessions:
        return self.server.fetch_sessions
