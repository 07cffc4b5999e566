"""A scraper that had asked for nothing yet when the broker was stopped left a traceback in its log; one that asked for much and read
nothing was said to be dropped after a while, and kept its response in memory for as long as it liked."""

import asyncio
import gc
import logging
import socket
from types import SimpleNamespace

import pytest

from refbroker import metrics

RESPONSE_BYTES = 32 << 20  # more than sockets take


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(metrics, "REQUEST_SECONDS_MAX", 0.3)


async def serve():
    counters = SimpleNamespace(text=lambda _: "x" * RESPONSE_BYTES)
    server = await metrics.serve(SimpleNamespace(metrics=counters), "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()


def test_who_does_not_read_is_dropped(hasty):
    async def story():
        server, address = await serve()
        with socket.create_connection(address) as deaf:
            deaf.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            async with asyncio.timeout(30):
                while not [each for each in transports() if each.get_extra_info("peername") == deaf.getsockname()]:
                    await asyncio.sleep(0.02)
                while [each for each in transports() if not each._conn_lost and each.get_extra_info("peername") == deaf.getsockname()]:
                    await asyncio.sleep(0.1)
        server.close()

    def transports():
        return [each for each in gc.get_objects() if type(each).__name__ == "_SelectorSocketTransport"]

    asyncio.run(story())


def test_who_reads_slowly_gets_all():
    async def story():
        server, address = await serve()
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        await asyncio.sleep(0.5)
        assert len((await reader.read()).partition(b"\r\n\r\n")[2]) == RESPONSE_BYTES
        writer.close()
        server.close()

    asyncio.run(story())


def test_who_asks_for_nothing_leaves_no_traceback_at_the_stop(caplog):
    async def story():
        server, address = await serve()
        _, writer = await asyncio.open_connection(*address)
        await asyncio.sleep(0.1)
        server.close()
        return writer

    with caplog.at_level(logging.ERROR):
        asyncio.run(story())
    assert caplog.records == []
