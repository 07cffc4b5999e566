"""The time of a request ended before its response was encoded and sent: a Fetch of a megabyte cost nothing of what it costs.

Found by reading, against what the metric says of itself: "Time from request read to response written".
"""

import asyncio
import time

import pytest

from chaos.bench import raw
from refbroker.broker import Broker
from refbroker.config import Config
from refbroker.protocol import Api
from refbroker.streams import PlainStream

SLOW_S = 0.05
ASKED = {"encode": ("Produce", Api, "response_frame"), "send": ("Fetch", PlainStream, "write")}


def slower(method):
    def slow(*arguments):
        time.sleep(SLOW_S)
        return method(*arguments)

    return slow


@pytest.mark.parametrize(("asked", "owner", "name"), ASKED.values(), ids=ASKED)
def test_the_seconds_of_a_request(tmp_path, monkeypatch, asked, owner, name):
    async def story():
        broker = await Broker.start(Config.load(None, {}, (f"log.dirs={tmp_path}", "listeners=PLAINTEXT://127.0.0.1:0"))[0])
        await broker.metadata.create_topic("t", 1, {}, 1)
        address = "%s:%d" % broker.server.address
        await asyncio.to_thread(ask, address)
        await broker.stop()
        return broker.metrics._requests[asked]

    def ask(address):
        connection, frame = raw.Connection(address), raw.produce_frame("t", raw.batch(1, 100))
        raw.check_produced(connection.call(frame))
        monkeypatch.setattr(owner, name, slower(getattr(owner, name)))
        connection.call(frame if asked == "Produce" else raw.fetch_frame("t", 0, 1000))
        connection.close()

    _, seconds = asyncio.run(story())
    assert seconds >= SLOW_S
