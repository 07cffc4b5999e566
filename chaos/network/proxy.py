"""A proxy that understands just enough of Kafka's protocol to lose the reply and not the request.

Clients connect here instead of to the broker. Every frame passes as it is, but for three replies in which a broker says where
it is (Metadata, FindCoordinator, DescribeCluster): their addresses become this proxy's, one listener for each broker, so that
any client stays on it unconfigured; and ApiVersions, whose ranges are cut to what can be rewritten. What happens to a request
is said by rules (rules.py).

Replies come in the order of their requests on one connection, so the header of a request is all that must be kept.
Not done: TLS, and a client's own connection pool by broker id beyond what the addresses give.
"""

import asyncio
import socket
import struct
from dataclasses import dataclass, field
from typing import Any

from chaos.network.errors import error_response
from chaos.network.rules import Rule
from refbroker import apis
from refbroker.protocol import RequestHeader, read_request_header

FRAME_BYTES_MAX = 128 << 20  # above Kafka's own socket.request.max.bytes; a longer one is no frame
API_VERSIONS, METADATA, FIND_COORDINATOR, DESCRIBE_CLUSTER = 18, 3, 10, 60
_SIZE = struct.Struct(">i")


@dataclass
class Pending:
    """A request under way: how to read its reply, and what is to become of it."""

    header: RequestHeader
    swallow: bool = False
    close_after: bool = False


@dataclass
class Proxy:
    """One proxy in front of one broker (and of every other that its replies name)."""

    upstream: tuple[str, int]
    rules: list[Rule] = field(default_factory=list)
    frames: int = 0
    _listeners: dict[tuple[str, int], asyncio.Server] = field(default_factory=dict)
    _tasks: set[asyncio.Task] = field(default_factory=set)

    def __post_init__(self):
        self.served = apis.load()

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> tuple[str, int]:
        """Listen; returns the address for clients."""
        return await self._listen(self.upstream, host, port)

    async def stop(self) -> None:
        for server in self._listeners.values():
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _listen(self, upstream: tuple[str, int], host: str = "127.0.0.1", port: int = 0) -> tuple[str, int]:
        if upstream not in self._listeners:
            async def accept(reader, writer):
                task = asyncio.current_task()
                self._tasks.add(task)
                try:
                    await self._connection(upstream, reader, writer)
                except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                    pass
                finally:
                    self._tasks.discard(task)
                    writer.close()

            self._listeners[upstream] = await asyncio.start_server(accept, host, port)
        return self._listeners[upstream].sockets[0].getsockname()[:2]

    async def _connection(self, upstream, reader, writer) -> None:
        try:
            broker_reader, broker_writer = await asyncio.open_connection(*upstream)
        except OSError:
            return  # the client sees what it would have seen: a connection that ends at once
        pending: asyncio.Queue[Pending] = asyncio.Queue()
        both = [asyncio.create_task(self._requests(reader, writer, broker_writer, pending)),
                asyncio.create_task(self._replies(broker_reader, writer, pending))]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            broker_writer.close()

    async def _requests(self, reader, writer, broker_writer, pending) -> None:
        while True:
            frame = await read_frame(reader)
            self.frames += 1
            header = read_request_header(memoryview(frame)[4:])
            rule = self._rule_for(header, frame)
            if rule is None:
                await self._forward(frame, header, broker_writer, pending)
            elif rule.action == "delay":
                await asyncio.sleep(rule.delay_ms / 1000)
                await self._forward(frame, header, broker_writer, pending)
            elif rule.action == "duplicate":
                await self._forward(frame, header, broker_writer, pending)
                await self._forward(frame, header, broker_writer, pending, swallow=True)
            elif rule.action == "drop-reply":
                await self._forward(frame, header, broker_writer, pending, swallow=True, close_after=not rule.hang)
            elif rule.action == "error":
                await pending.join()  # replies come in the order of their requests
                for part in error_response(self.served[header.api_key].api, header, frame, rule.error):
                    writer.write(part)
                await writer.drain()
            elif rule.action == "reset":
                broker_writer.write(frame[: len(frame) // 2])
                await broker_writer.drain()
                reset(broker_writer)
                reset(writer)
                return
            elif not rule.hang:  # drop-request
                return

    async def _forward(self, frame, header, broker_writer, pending, *, swallow=False, close_after=False) -> None:
        if not _has_no_reply(self.served, header, frame):
            pending.put_nowait(Pending(header, swallow, close_after))
        broker_writer.write(frame)
        await broker_writer.drain()

    def _rule_for(self, header: RequestHeader, frame: bytes) -> Rule | None:
        if not self.rules:
            return None
        known = self.served.get(header.api_key)
        name = known.api.name if known else ""
        topics = _topics(known, header, frame) if known and any(rule.topic for rule in self.rules) else set()
        return next((rule for rule in self.rules if rule.applies(header.api_key, name, header.client_id, topics)), None)

    async def _replies(self, broker_reader, writer, pending) -> None:
        while True:
            frame = await read_frame(broker_reader)
            request = pending.get_nowait()
            if not request.swallow:
                for part in await self._rewritten(request.header, frame):
                    writer.write(part)
                await writer.drain()
            pending.task_done()
            if request.close_after:
                return

    async def _rewritten(self, header: RequestHeader, frame: bytes) -> list[Any]:
        rewrite = {API_VERSIONS: self._cut_versions, METADATA: self._move_brokers, DESCRIBE_CLUSTER: self._move_brokers,
                   FIND_COORDINATOR: self._move_coordinators}.get(header.api_key)
        api = self.served[header.api_key].api if rewrite else None
        if api is None or not api.serves(header.version):
            return [frame]
        correlation_id, reply = api.read_response(header.version, memoryview(frame)[4:])
        await rewrite(reply)
        return api.response_frame(header.version, correlation_id, reply)

    async def _cut_versions(self, reply: dict) -> None:
        for entry in reply["api_keys"]:
            if entry["api_key"] in (API_VERSIONS, METADATA, FIND_COORDINATOR, DESCRIBE_CLUSTER):
                entry["max_version"] = min(entry["max_version"], self.served[entry["api_key"]].api.versions[1])

    async def _move_brokers(self, reply: dict) -> None:
        for broker in reply["brokers"]:
            broker["host"], broker["port"] = await self._listen((broker["host"], broker["port"]))

    async def _move_coordinators(self, reply: dict) -> None:
        for each in [reply, *reply["coordinators"]]:
            if each.get("port", -1) > 0:
                each["host"], each["port"] = await self._listen((each["host"], each["port"]))


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """One frame with its size. Raises IncompleteReadError at the end, ConnectionError where the size is no frame's."""
    head = await reader.readexactly(_SIZE.size)
    (size,) = _SIZE.unpack(head)
    if not 0 <= size <= FRAME_BYTES_MAX:
        raise ConnectionError(f"a frame of {size} bytes")
    return head + await reader.readexactly(size)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST instead of FIN."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _has_no_reply(served, header: RequestHeader, frame: bytes) -> bool:
    """A Produce with acks=0 is the only request that gets none."""
    if header.api_key != 0 or not served[0].api.serves(header.version):
        return False
    return _decode(served[0].api, header, frame)["acks"] == 0


def _topics(known, header: RequestHeader, frame: bytes) -> set[str]:
    if not known.api.serves(header.version) or header.api_key not in (0, 1, 8):
        return set()
    request = _decode(known.api, header, frame)
    return {topic.get("name") or topic.get("topic") or "" for topic in request.get("topic_data") or request.get("topics") or ()}


def _decode(api, header: RequestHeader, frame: bytes) -> dict:
    view = memoryview(frame)[4:]
    return api.read_request(header, view)
