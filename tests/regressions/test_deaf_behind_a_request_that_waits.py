"""A client that read nothing was closed after connections.max.idle.ms, but not where it had sent a request that waits behind one whose
response did not go out: it kept its connection for good."""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "wire"))
from fakes import running  # noqa: E402

from refbroker import apis  # noqa: E402

FETCH = apis.load()[1].api
PATIENCE_S = 30


def fetch(number, topic, max_wait_ms):
    wanted = {"partition": 0, "fetch_offset": 0, "partition_max_bytes": 1 << 20}
    return FETCH.request_frame(12, number, "deaf", {"max_wait_ms": max_wait_ms, "min_bytes": 1, "max_bytes": 1 << 20, "topics": [
        {"topic": topic, "partitions": [wanted]}]})


class Deaf:
    """The stream of a client that sends this, and never reads."""

    def __init__(self, sent: bytes):
        self.sent = sent

    def watch(self, on_readable):
        asyncio.get_running_loop().call_soon(on_readable)

    def unwatch(self):
        pass

    def receive(self, view):
        if not self.sent:
            raise BlockingIOError
        count = min(len(view), len(self.sent))
        view[:count], self.sent = self.sent[:count], self.sent[count:]
        return count

    def write(self, parts):
        return asyncio.sleep(3600)

    def pending(self):
        return False

    close = unwatch


def test_it_is_closed(tmp_path):
    async def story():
        async with running(tmp_path, connections_max_idle_ms=200) as broker:
            deaf = broker.server.serve_stream(Deaf(fetch(1, "not there", 0) + fetch(2, "t", 100_000)), "127.0.0.1", 1)
            async with asyncio.timeout(PATIENCE_S):
                while not deaf.closed:
                    await asyncio.sleep(0.05)
            assert "connections.max.idle.ms" in deaf.reason

    asyncio.run(story())
