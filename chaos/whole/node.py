"""How does a whole broker run on a simulated disk, without sockets, threads or a clock?

`Node` is a broker as `refbroker serve` composes it: its data directory, flusher, metadata, groups, dispatch and handlers.
Only what lies behind its seams is different:

1. Disk: a `SimDisk`. Stream: `Stream`, two buffers in memory; what a client sends and gets are whole frames of bytes.
2. Time: `VirtualLoop`, an event loop whose time moves only when nothing else can be done, and never beyond what the lab allows.
   The wall clock follows it.
3. Threads: what would run on one (fsyncs, checkpoints) waits as a job. The lab decides when it runs, and when the loop hears
   of the result, so that requests may come in between.
4. Chance: ids come from a counter. The same requests make the same write list on every machine.
"""

import asyncio
import struct
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from chaos.disk.model import SimDisk
from refbroker.broker import Broker
from refbroker.config import Config
from refbroker.log.threads import Job, Threads
from refbroker.protocol import Api
from refbroker.server import Server

START_MS = 1_700_000_000_000
PORT = 9092
_SIZE = struct.Struct(">i")


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop that waits for nothing real. `held`: jobs stay where they are."""

    def __init__(self):
        super().__init__()
        self._selector = self
        self._now = self._until = 0.0
        self.held = False
        self.jobs: deque[tuple[asyncio.Future, Job]] = deque()
        self.results: deque[tuple[asyncio.Future, OSError | None]] = deque()
        self.set_exception_handler(lambda *_: None)  # a process that was killed leaves its tasks unfinished

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> list:
        """Called by the loop when it has nothing to do for `timeout` seconds (None: for ever)."""
        if timeout == 0:
            return []
        if not self.held and (self.results or self.jobs):
            if not self.results:
                self.run_job()
            self._deliver()
        elif timeout is not None and self._now + timeout <= self._until:
            self._now += timeout
        else:
            self._now = max(self._now, self._until)
            self.stop()
        return []

    def run_job(self) -> bool:
        """The oldest job is done, and the loop does not know yet; False where there is none."""
        if not self.jobs:
            return False
        future, job = self.jobs.popleft()
        try:
            job()
            self.results.append((future, None))
        except OSError as error:
            self.results.append((future, error))
        return True

    def _deliver(self) -> None:
        future, error = self.results.popleft()
        if future.done():  # whoever waited was cancelled
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(None)

    def settle(self, seconds: float = 0.0, *, held: bool = False) -> None:
        """Run until nothing is left to do, and `seconds` are over. `held`: leave the jobs."""
        self.held, self._until = held, self._now + seconds
        self.run_forever()
        self.held = False

    def finish(self, coroutine):
        """The result of a coroutine, however long it takes."""
        self.held, self._until = False, float("inf")
        return self.run_until_complete(coroutine)

    def _process_events(self, event_list: list) -> None:
        """There are no events of files."""

    def _write_to_self(self) -> None:
        """There is nobody to wake."""


class Held(Threads):
    """No threads: jobs wait in the loop."""

    def run(self, job: Job) -> asyncio.Future:
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.jobs.append((future, job))
        return future

    def map(self, function: Callable, items: Iterable) -> Iterator:
        """For a clean stop, which flushes all logs at once."""
        return map(function, items)


class Stream:
    """The broker's end of a connection. `received` is called with each whole response, when it is handed over."""

    def __init__(self, loop: VirtualLoop, received: Callable[[bytes], None]):
        self.received = received
        self.closed = False
        self._loop = loop
        self._sent = bytearray()
        self._on_readable: Callable[[], None] | None = None

    def send(self, data: bytes) -> None:
        """The client's side: bytes for the broker."""
        self._sent += data
        self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        if self._on_readable is not None and self._sent:
            self._on_readable()
            self._loop.call_soon(self._turn)

    def watch(self, on_readable: Callable[[], None]) -> None:
        self._on_readable = on_readable
        self._loop.call_soon(self._turn)

    def unwatch(self) -> None:
        self._on_readable = None

    def receive(self, view: memoryview) -> int:
        if not self._sent:
            raise BlockingIOError
        count = min(len(view), len(self._sent))
        view[:count] = self._sent[:count]
        del self._sent[:count]
        return count

    def pending(self) -> bool:
        return False

    def write(self, parts) -> None:
        self.received(b"".join(part.file.pread(part.size, part.position) if hasattr(part, "file") else part for part in parts))

    def close(self) -> None:
        self.unwatch()
        self.closed = True


class QuietServer(Server):
    """The server without its listener: connections are made by `Node.connect`."""

    async def start(self) -> None:
        self._begin(asyncio.get_running_loop())
        self.addresses = {self.config.listener.name: ("127.0.0.1", PORT)}


class LabBroker(Broker):
    def __init__(self, config: Config, disk: SimDisk, clock: Callable[[], int], **options):
        super().__init__(config, disk, clock, threads=Held(), **options)
        self.server = QuietServer(self, config)


class Connection:
    """One client on one connection: requests out, responses in, by frames of bytes. `closed` where the broker hung up."""

    def __init__(self, node: "Node", name: str, port: int):
        self.name = name
        self._stream = Stream(node.loop, self._receive)
        self._waiting: deque[tuple[Api, int, int, Callable[[dict], None] | None]] = deque()
        self._sent = 0
        self.frames: list[tuple[Api, int, bytes, bytes]] = []  # (API, version, request, response) that were answered
        self._requests: deque[bytes] = deque()
        node.loop.call_soon(node.broker.server.serve_stream, self._stream, "10.0.0.1", port)

    @property
    def closed(self) -> bool:
        return self._stream.closed

    @property
    def unanswered(self) -> list[str]:
        return [] if self.closed else [api.name for api, *_ in self._waiting]

    def send(self, api: Api, version: int, request: dict, then: Callable[[dict], None] | None) -> None:
        """`then` gets the response when the broker hands it over; None where none will come (acks=0)."""
        self._sent += 1
        frame = api.request_frame(version, self._sent, self.name, request)
        if then is not None:
            self._waiting.append((api, version, self._sent, then))
            self._requests.append(frame)
        self._stream.send(frame)

    def _receive(self, data: bytes) -> None:
        api, version, number, then = self._waiting.popleft()
        (size,) = _SIZE.unpack_from(data)
        assert size + _SIZE.size == len(data), (api.name, size, len(data))
        correlation_id, response = api.read_response(version, memoryview(data)[_SIZE.size:])
        assert correlation_id == number, (api.name, correlation_id, number)
        self.frames.append((api, version, self._requests.popleft(), data))
        then(response)


class Node:
    """One process of the broker, from its start to a stop or a crash. Raises StartupError."""

    def __init__(self, disk: SimDisk, config: Config, *, start_ms: int = START_MS, new_uuid: Callable[[], uuid.UUID]):
        self.disk = disk
        self.loop = VirtualLoop()
        self._start_ms = start_ms
        self._ports = 50_000
        self.broker = self.loop.finish(LabBroker.start(config, disk, self.now_ms, new_uuid=new_uuid))
        self.loop.finish(self.broker.groups.loaded())

    def now_ms(self) -> int:
        return self._start_ms + round(self.loop.time() * 1000)

    def connect(self, name: str) -> Connection:
        self._ports += 1
        return Connection(self, name, self._ports)

    def stop(self) -> None:
        """A clean stop."""
        self.loop.finish(self.broker.stop(clean=True))
        self.disk.kill()

    def kill(self) -> None:
        """The process is gone: nothing of it runs any more."""
        self.disk.kill()
        self.loop.close()
