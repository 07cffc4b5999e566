"""How many calls of the broker's own functions does a small Produce request cost?

Two thirds of the processor time of a small request is the interpreter's, and most of that goes with the number of calls; so
this is what a change can make worse without any test of times. It does not depend on the machine, and little on the version
of Python (later ones call comprehensions no more). Alone, and in the company of fifteen others in the same turn of the loop.
"""

import asyncio
import sys
from pathlib import Path

import pytest

import refbroker
from chaos.bench import raw
from refbroker.broker import Broker
from refbroker.config import Config
from refbroker.log.disk import Disk

PACKAGE = str(Path(refbroker.__file__).parent)
TURNS, TURNS_BEFORE = 100, 20
# What one request may cost, of calls.
ALONE, IN_COMPANY, DURABLE = 55, 44, 51


class Stream:
    """A client that has sent the same request again as soon as it is answered (see the five rules in `streams.py`)."""

    def __init__(self, frame):
        self.frame, self.unread, self.answered = frame, b"", asyncio.Event()

    def watch(self, on_readable):
        self.on_readable = on_readable

    def unwatch(self):
        pass

    def pending(self):
        return False

    def receive(self, view):
        if not self.unread:
            raise BlockingIOError
        taken, self.unread = self.unread[: len(view)], self.unread[len(view) :]
        view[: len(taken)] = taken
        return len(taken)

    def write(self, parts):
        assert parts[0][0:3] == b"\0\0\0" and len(parts[0]) < 100
        self.answered.set()

    def close(self):
        pass


async def turn(loop, streams):
    for stream in streams:
        stream.unread = stream.frame
        stream.answered.clear()
        loop.call_soon(stream.on_readable)
    for stream in streams:
        await stream.answered.wait()


async def calls(directory, connections, configs):
    """Of functions of the package, for each request."""
    config, _ = Config.load(None, {}, (f"log.dirs={directory}", "listeners=PLAINTEXT://127.0.0.1:0"))
    broker = await Broker.start(config, Disk())
    await broker.metadata.create_topic("t", 1, configs, 1)
    frame, loop, found = raw.produce_frame("t", raw.batch(1, 100)), asyncio.get_running_loop(), []
    streams = [Stream(frame) for _ in range(connections)]
    for number, stream in enumerate(streams):
        broker.server.serve_stream(stream, "host", number)

    def note(code_frame, event, _):
        name = code_frame.f_code.co_filename
        if event == "call" and (name.startswith((PACKAGE, "<read", "<write"))):
            found.append(f"{Path(name).stem}.{code_frame.f_code.co_name}")

    for _ in range(TURNS_BEFORE):
        await turn(loop, streams)
    log, before = broker.logs.partitions["t", 0], broker.logs.partitions["t", 0].log_end_offset
    sys.setprofile(note)
    for _ in range(TURNS):
        await turn(loop, streams)
    sys.setprofile(None)
    assert log.log_end_offset - before == TURNS * connections
    await broker.stop()
    return len(found) / (TURNS * connections), found


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "connections, configs, most", [(1, {}, ALONE), (16, {}, IN_COMPANY), (16, {"flush.messages": "1"}, DURABLE)]
)
def test_calls_of_a_small_produce_request(tmp_path, connections, configs, most):
    each, found = asyncio.run(calls(tmp_path, connections, configs))
    assert most * 0.8 < each <= most, sorted({name: found.count(name) for name in set(found)}.items(), key=lambda item: -item[1])
