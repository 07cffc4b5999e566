"""What does the server know of a client, and of a request of it?"""

import asyncio
from collections.abc import Callable
from typing import Any

from refbroker.apis import Served
from refbroker.apis.k18_api_versions import API as API_VERSIONS
from refbroker.fetch_sessions import FetchSessions
from refbroker.frames import FrameReader, Refused
from refbroker.produce_template import ProduceTemplate
from refbroker.protocol import ProtocolError, RequestHeader, read_request_header


class Connection:
    """One client: its stream, what has come of its next request, and since when it has kept us waiting (None: we are
    at work). `task` is there while a request, or the rest of a response, waits for something; `in_turn` while a request
    waits for the end of the event loop's turn."""

    __slots__ = (
        "stream", "on_readable", "held", "host", "peer", "listener", "frames", "task", "in_turn", "waiting_since", "started",
        "reason", "closed", "template", "__weakref__",
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
        self.template: ProduceTemplate | None = None  # what its last request has in common with the next one
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

    def __init__(self, server: Any, connection: Connection, entry: Served, header: RequestHeader, correlation_id: int,
                 message: dict[str, Any] | None):
        self.server = server
        self.connection = connection
        self.entry = entry
        self.version = header.version
        self.correlation_id = correlation_id  # not the header's where that is a template's
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


def decode(server: Any, connection: Connection, frame: memoryview) -> Request:
    """The request that a whole frame is. Raises ProtocolError, Refused."""
    template = connection.template
    if template is not None and (message := template.message(frame)) is not None:
        correlation_id, header = int.from_bytes(frame[4:8], "big", signed=True), template.header
        return Request(server, connection, server.served[header.api_key], header, correlation_id, message)
    header = read_request_header(frame)
    served = server.served.get(header.api_key)
    if served is None:
        raise Refused(f"API key {header.api_key} is not served")
    api = served.api
    if not api.serves(header.version):
        if api is API_VERSIONS:
            return Request(server, connection, served, header._replace(version=0), header.correlation_id, None)
        raise Refused(f"{api.name} version {header.version} is not served")
    try:
        message = api.read_request(header, frame)
    except ProtocolError as error:
        raise ProtocolError(f"{api.name} version {header.version}: {error}") from error
    if served.template_of is not None and (template is None or template.fitted):  # one that has not fitted yet stays
        connection.template = served.template_of(header, frame, message)
    return Request(server, connection, served, header, header.correlation_id, message)
