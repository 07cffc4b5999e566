"""What becomes of answers whose reader is slow or goes away, of files that end before what was promised of them, and of connections
that come when there is no descriptor left."""

import asyncio
import errno
import socket
import struct

import pytest
from fakes import Client, Region, batch, running
from test_server import API_VERSIONS, FETCH, NAMED, closing_lines, fetch_request, produce

from refbroker import streams
from refbroker.log.disk import Disk

PATIENCE_S = 60
REQUESTS = 4_000  # whose answers are more than sockets take that nobody reads


def tell(tmp_path, story, **keys):
    async def run():
        async with running(tmp_path, **keys) as broker:
            await asyncio.wait_for(story(broker), PATIENCE_S)

    asyncio.run(run())


@pytest.mark.parametrize("ends_with_records", [False, True])
def test_small_answers_that_the_client_does_not_read_come_whole_and_in_order(tmp_path, ends_with_records):
    """Many requests in one piece; the socket takes only some of the answers."""

    async def story(broker):
        client, other = await Client.connect(broker), await Client.connect(broker)
        await produce(other, batch(1, b"v" * 100_000))
        client.writer.transport.pause_reading()
        requests = b"".join(API_VERSIONS.request_frame(3, number, "c", NAMED) for number in range(REQUESTS))
        client.writer.write(requests)
        if ends_with_records:
            client.writer.write(FETCH.request_frame(12, REQUESTS, "c", fetch_request()))
        await asyncio.sleep(0.3)
        await produce(other, batch())
        sent = broker.metrics.bytes_out
        client.writer.transport.resume_reading()
        for number in range(REQUESTS):
            correlation_id, answer = await client.receive(API_VERSIONS, 3)
            assert correlation_id == number and answer["error_code"] == 0
        assert sent < broker.metrics.bytes_out, "the socket took everything"
        if ends_with_records:
            correlation_id, answer = await client.receive(FETCH, 12)
            assert correlation_id == REQUESTS
            assert len(answer["responses"][0]["partitions"][0]["records"]) == len(batch(1, b"v" * 100_000)) + len(batch())

    tell(tmp_path, story, socket_send_buffer_bytes="4096")


def test_a_client_that_goes_while_it_is_written_to(tmp_path, caplog):
    async def story(broker):
        client, other = await Client.connect(broker), await Client.connect(broker)
        for _ in range(8):
            await produce(other, batch(1, b"v" * 900_000))
        client.writer.transport.pause_reading()
        await client.send(FETCH, 12, fetch_request(max_bytes=1 << 24))
        await asyncio.sleep(0.1)
        assert len(broker.server.connections) == 2
        client.writer.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.writer.transport.abort()
        while len(broker.server.connections) > 1:
            await asyncio.sleep(0.01)
        assert (await produce(other, batch()))["error_code"] == 0

    tell(tmp_path, story)
    assert "error of ours" not in caplog.text


def test_a_file_that_is_cut_while_it_is_sent_costs_one_connection(tmp_path, caplog):
    async def story(broker):
        client, other = await Client.connect(broker), await Client.connect(broker)
        await produce(other, batch(1, b"v" * 1000))
        partition = broker.partitions["t", 0]
        partition.read = lambda *_, **__: broken
        broken = type(partition).read(partition, 0, 1 << 20)
        partition.file.truncate(500)
        await client.send(FETCH, 12, fetch_request())
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.receive(FETCH, 12)
        assert (await produce(other, batch()))["error_code"] == 0

    tell(tmp_path, story)
    assert any("file ends before what was promised of it" in line for line in closing_lines(caplog)), caplog.text


def test_a_region_that_is_longer_than_its_file_is_sent_as_far_as_it_goes(tmp_path):
    file, content = Disk().open(f"{tmp_path}/f", create=True), bytes(range(100))
    file.append([content])
    ours, theirs = socket.socketpair()
    with ours, theirs:
        region = streams.Region(ours.fileno(), Region(file, 5, 200))
        assert region.send() is False and theirs.recv(200) == content[5:]
        with pytest.raises(OSError) as error:
            region.send()
        assert error.value.errno == errno.EIO


def test_connections_wait_while_there_is_no_descriptor(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(streams, "ACCEPT_PAUSE_S", 0.1)

    async def story(broker):
        (acceptor,) = broker.server._acceptors
        listener = acceptor._socket
        left = [2]

        class Full:
            def accept(self):
                if left[0]:
                    left[0] -= 1
                    raise OSError(errno.EMFILE, "Too many open files")
                return listener.accept()

            def __getattr__(self, name):
                return getattr(listener, name)

        acceptor._socket = Full()
        client = await Client.connect(broker)
        assert (await produce(client, batch()))["error_code"] == 0 and left == [0]
        left[0] = 1
        late = await Client.connect(broker)
        while left[0]:
            await asyncio.sleep(0.01)
        await broker.server.stop()  # before it looks again
        assert await late.closed() and await client.closed()

    tell(tmp_path, story)
    assert "cannot accept connections" in caplog.text
