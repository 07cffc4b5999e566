"""Requests that were refused, and connections that were closed, kept their buffers until Python looked for cycles.

Found by reading: a connection knew the callback that knows it, and an error that is kept where it was caught knows the call
that keeps it, and with it the frame of the request. Since the collector looks rarely, 300 refused requests of 5 MiB were
1.5 GiB. Nothing of a request or a connection may need the collector.
"""

import asyncio
import gc
import struct

import pytest

from chaos.bench.raw import batch, produce_frame
from refbroker.apis import load
from refbroker.broker import Broker
from refbroker.config import Config
from refbroker.connections import Connection, Request
from refbroker.frames import SMALL_FRAME_BYTES, FrameReader
from refbroker.streams import PlainStream

KINDS = (Connection, FrameReader, PlainStream, Request)
CLIENTS = 3
NO_BATCH, LARGE = b"\0" * 200, b"\0" * 2 * SMALL_FRAME_BYTES
HALF = {"small": struct.pack(">i", 9000) + b"half", "large": struct.pack(">i", 9 << 20) + LARGE}


def frame(key, version, **request):
    return load()[key].api.request_frame(version, 1, "c", request)


TOPIC = {"name": "t", "num_partitions": 1, "replication_factor": 1, "assignments": [], "configs": []}  # is there already
PARTITIONS = {"name": "t", "count": 1, "assignments": None}  # so many it has
CONFIGS = {"resource_type": 2, "resource_name": "nowhere", "configs": [{"name": "flush.ms", "config_operation": 0, "value": "1"}]}
CHANGES = {"of a topic": frame(19, 4, topics=[TOPIC], timeout_ms=1000, validate_only=False),
           "of partitions": frame(37, 1, topics=[PARTITIONS], timeout_ms=1000, validate_only=False),
           "of configs": frame(44, 1, resources=[CONFIGS], validate_only=False)}


CLOSED = {"half a frame": HALF["small"], "half a large frame": HALF["large"], "garbage": struct.pack(">i", 4) + b"????",
          "acks 0, refused": produce_frame("t", NO_BATCH, acks=0), "acks 0, large, refused": produce_frame("t", LARGE, acks=0)}
ANSWERED = {"accepted": produce_frame("t", batch(1, 100)), "refused": produce_frame("t", NO_BATCH),
            "large, refused": produce_frame("t", LARGE), **CHANGES}


def kept(*kinds):
    return [type(one).__name__ for one in gc.get_objects() if type(one) in kinds]


async def answered(reader):
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    await reader.readexactly(size)


async def after(directory, story):
    """What is kept of connections and requests when all the clients of the story have gone."""
    broker = await Broker.start(Config.load(None, {}, (f"log.dirs={directory}", "listeners=PLAINTEXT://127.0.0.1:0"))[0])
    await broker.metadata.create_topic("t", 1, {}, 1)
    clients = [await asyncio.open_connection(*broker.server.address) for _ in range(CLIENTS)]
    while len(kept(Connection)) < CLIENTS:
        await asyncio.sleep(0.001)
    await story(clients)
    for _, writer in clients:
        writer.close()
    while broker.server.connections:
        await asyncio.sleep(0.001)
    await broker.stop()
    return kept(*KINDS)


@pytest.fixture(autouse=True)
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("sent", CLOSED.values(), ids=CLOSED)
def test_of_connections_that_are_closed(tmp_path, sent):
    async def story(clients):
        for _, writer in clients:
            writer.write(sent)
            writer.write_eof()
        for reader, _ in clients:
            assert await reader.read() == b""

    assert asyncio.run(after(tmp_path, story)) == []


@pytest.mark.parametrize("sent", ANSWERED.values(), ids=ANSWERED)
def test_of_requests_that_are_answered(tmp_path, sent):
    async def story(clients):
        for _, writer in clients:
            writer.write(sent)
        for reader, _ in clients:
            await answered(reader)
        await asyncio.sleep(0)
        assert kept(Request) == []  # while the connections go on

    assert asyncio.run(after(tmp_path, story)) == []
