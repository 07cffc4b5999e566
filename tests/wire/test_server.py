"""The server over real sockets: order, limits, who is closed and who never notices."""

import asyncio
import gc
import logging
import re
import resource
import struct

import pytest
from fakes import PATIENCE_S, Client, batch, running

from refbroker import apis
from refbroker.errors import ErrorCode, KafkaError

SERVED = apis.load()
PRODUCE, FETCH, API_VERSIONS = (SERVED[key].api for key in (0, 1, 18))
NAMED = {"client_software_name": "test", "client_software_version": "1"}


def produce_request(records, acks=-1, partition=0, topic="t"):
    data = [{"index": partition, "records": records}]
    return {"acks": acks, "timeout_ms": 1000, "topic_data": [{"name": topic, "partition_data": data}]}


async def produce(client, records, acks=-1, version=9, **where):
    response = await client.call(PRODUCE, version, produce_request(records, acks, **where))
    return response["responses"][0]["partition_responses"][0]


def fetch_request(offset=0, partition=0, max_wait_ms=0, min_bytes=1, max_bytes=1 << 20):
    entry = {"partition": partition, "fetch_offset": offset, "partition_max_bytes": max_bytes}
    topics = [{"topic": "t", "partitions": [entry]}]
    return {"max_wait_ms": max_wait_ms, "min_bytes": min_bytes, "max_bytes": max_bytes, "topics": topics}


async def fetch(client, version=12, **wanted):
    response = await client.call(FETCH, version, fetch_request(**wanted))
    return response["responses"][0]["partitions"][0]


def closing_lines(caplog):
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith("closed ")]


def test_what_is_produced_is_fetched(tmp_path):
    async def story():
        async with running(tmp_path) as broker:
            client = await Client.connect(broker)
            for number, version in enumerate(range(3, 13)):
                assert (await produce(client, batch(2), version=version))["base_offset"] == 2 * number
            for version in range(4, 13):
                found = await fetch(client, version, offset=2)
                assert found["error_code"] == 0 and found["high_watermark"] == 20
                assert len(found["records"]) == 9 * len(batch(2))
                assert struct.unpack_from(">q", found["records"]) == (2,)

    asyncio.run(story())


def test_requests_sent_ahead_are_answered_in_order(tmp_path):
    async def story():
        async with running(tmp_path) as broker:
            client, other = await Client.connect(broker), await Client.connect(broker)
            sent = [await client.send(PRODUCE, 9, produce_request(batch())) for _ in range(200)]
            assert (await fetch(other, max_wait_ms=0, min_bytes=0))["error_code"] == 0
            received = [await client.receive(PRODUCE, 9) for _ in sent]
            assert [correlation_id for correlation_id, _ in received] == sent
            offsets = [one["responses"][0]["partition_responses"][0]["base_offset"] for _, one in received]
            assert offsets == list(range(200))

    asyncio.run(story())


@pytest.mark.parametrize("behind", [b"\0\0\1\0 a part of the next", b"\x7f\xff\xff\xff", b"\0\0\0\2??"], ids=["part", "too long", "garbage"])
def test_an_answer_does_not_wait_for_what_comes_behind_its_request(tmp_path, behind):
    async def story():
        async with running(tmp_path) as broker:
            for end in (False, True):
                client = await Client.connect(broker)
                client.writer.write(PRODUCE.request_frame(9, 7, "c", produce_request(batch())) + behind)
                if end:
                    client.writer.write_eof()
                assert (await asyncio.wait_for(client.receive(PRODUCE, 9), PATIENCE_S))[0] == 7

    asyncio.run(story())


def test_an_answer_does_not_wait_with_the_request_behind_it(tmp_path):
    async def story():
        async with running(tmp_path) as broker:
            client, other = await Client.connect(broker), await Client.connect(broker)
            client.writer.write(PRODUCE.request_frame(9, 1, "c", produce_request(batch()))
                                + FETCH.request_frame(12, 2, "c", fetch_request(offset=1, max_wait_ms=2 * PATIENCE_S * 1000)))
            assert (await asyncio.wait_for(client.receive(PRODUCE, 9), PATIENCE_S))[0] == 1
            assert (await produce(other, batch()))["base_offset"] == 1
            assert (await asyncio.wait_for(client.receive(FETCH, 12), PATIENCE_S))[0] == 2

    asyncio.run(story())


def test_frames_may_come_in_any_pieces(tmp_path):
    async def story():
        async with running(tmp_path) as broker:
            client = await Client.connect(broker)
            frame = PRODUCE.request_frame(9, 7, "c", produce_request(batch(3)))
            for size in (1, 3, 50):
                stream = frame * 2
                for start in range(0, len(stream), size):
                    client.writer.write(stream[start : start + size])
                    await client.writer.drain()
                    if start < 12:
                        await asyncio.sleep(0.001)
                assert (await client.receive(PRODUCE, 9))[0] == (await client.receive(PRODUCE, 9))[0] == 7

    asyncio.run(story())


def test_acks_0_gets_no_answer_and_an_error_closes(tmp_path, caplog):
    async def story():
        async with running(tmp_path) as broker:
            client = await Client.connect(broker)
            await client.send(PRODUCE, 9, produce_request(batch(), acks=0))
            assert (await produce(client, batch()))["base_offset"] == 1
            await client.send(PRODUCE, 9, produce_request(batch(), acks=0, topic="unknown"))
            assert await client.closed()

    asyncio.run(story())
    assert "UNKNOWN_TOPIC_OR_PARTITION" in closing_lines(caplog)[0]


def test_an_append_that_must_be_durable_is_answered_when_it_is(tmp_path):
    async def story():
        async with running(tmp_path) as broker:
            client = await Client.connect(broker)
            for number in (0, 1):
                broker.partitions["t", number].flush_to = 1
            request = produce_request(batch())
            request["topic_data"][0]["partition_data"].append({"index": 1, "records": batch()})
            await client.send(PRODUCE, 9, request)
            answer = asyncio.ensure_future(client.receive(PRODUCE, 9))
            while len(broker.flusher.waiting) < 2:  # both partitions wait at the same time
                await asyncio.sleep(0.001)
            broker.flusher.waiting[1].set_exception(KafkaError(ErrorCode.KAFKA_STORAGE_ERROR))
            await asyncio.sleep(0.02)
            assert not answer.done()
            broker.flusher.waiting[0].set_result(None)
            first, second = (await answer)[1]["responses"][0]["partition_responses"]
            assert (first["error_code"], first["base_offset"]) == (0, 0)
            assert (second["error_code"], second["base_offset"]) == (ErrorCode.KAFKA_STORAGE_ERROR, -1)

    asyncio.run(story())


def test_those_of_one_turn_wait_together_and_none_for_the_other_to_stay(tmp_path):
    async def story():
        async with running(tmp_path) as broker:
            broker.partitions["t", 0].flush_to = 1
            clients = [await Client.connect(broker) for _ in range(3)]
            for client in clients:
                await client.call(API_VERSIONS, 0, {})  # so that the server knows of all of them
            sent = [PRODUCE.request_frame(9, 7, "test", produce_request(batch())) for _ in clients]
            for client, data in zip(clients, sent):
                client.writer.write(data)
            while sum(connection.task is not None for connection in broker.server.connections) < len(clients):
                await asyncio.sleep(0.001)
            (waiting,) = broker.flusher.waiting
            peer = "%s:%d" % clients[0].writer.get_extra_info("sockname")
            (gone,) = (connection for connection in broker.server.connections if connection.peer == peer)
            broker.server._abort(gone, "for a test")
            assert await clients[0].closed() and not waiting.done()
            waiting.set_result(None)
            for client in clients[1:]:
                assert (await client.receive(PRODUCE, 9))[1]["responses"][0]["partition_responses"][0]["error_code"] == 0
                assert await client.call(API_VERSIONS, 0, {})

    asyncio.run(story())


def test_of_those_who_wait_together_each_gets_what_became_of_its_own(tmp_path):
    """Requests of one turn, of all kinds of acks, for two partitions of which one cannot be flushed."""

    async def story():
        async with running(tmp_path) as broker:
            for number in (0, 1):
                broker.partitions["t", number].flush_to = 1
            both = produce_request(batch())
            both["topic_data"][0]["partition_data"].append({"index": 1, "records": batch()})
            sent = {"good": produce_request(batch(), acks=1), "bad": produce_request(batch(), partition=1), "both": both,
                    "silent": produce_request(batch(), acks=0, partition=1), "again": produce_request(batch(), acks=1)}
            clients = {name: await Client.connect(broker) for name in sent}
            for client in clients.values():
                await client.call(API_VERSIONS, 0, {})  # so that the server knows of all of them
            for name, request in sent.items():
                clients[name].writer.write(PRODUCE.request_frame(9, 7, "test", request))
            while sum(connection.task is not None for connection in broker.server.connections) < len(sent) - 1:
                await asyncio.sleep(0.001)
            zero, one = broker.flusher.waiting  # both partitions, once
            assert broker.flusher.ensured == [broker.partitions["t", 1]]  # for whoever wants no answer
            one.set_exception(KafkaError(ErrorCode.KAFKA_STORAGE_ERROR))
            codes = {"bad": await codes_of(clients["bad"])}
            zero.set_result(None)
            codes |= {name: await codes_of(clients[name]) for name in ("good", "both", "again")}
            failed = ErrorCode.KAFKA_STORAGE_ERROR
            assert codes == {"good": [0], "bad": [failed], "both": [0, failed], "again": [0]}
            assert await clients["silent"].call(API_VERSIONS, 0, {})  # it goes on, and nothing came before this
            assert broker.server._later == {}

    async def codes_of(client):
        _, answer = await client.receive(PRODUCE, 9)
        return [entry["error_code"] for entry in answer["responses"][0]["partition_responses"]]

    asyncio.run(story())


def test_who_waits_for_the_disk_is_not_idle(tmp_path):
    async def story():
        async with running(tmp_path, connections_max_idle_ms=200) as broker:
            broker.partitions["t", 0].flush_to = 1
            client = await Client.connect(broker)
            await client.send(PRODUCE, 9, produce_request(batch()))
            await asyncio.sleep(0.6)
            broker.flusher.waiting[0].set_result(None)
            assert (await client.receive(PRODUCE, 9))[1]["responses"][0]["partition_responses"][0]["error_code"] == 0
            await asyncio.sleep(0.1)
            assert broker.server.connections and await client.closed()  # from its answer on it is

    asyncio.run(story())


def test_a_stop_does_not_wait_for_a_disk_that_never_answers(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("refbroker.server.STOP_GRACE_S", 0.05)

    async def story():
        async with running(tmp_path) as broker:
            broker.partitions["t", 0].flush_to = 1
            client = await Client.connect(broker)
            await client.send(PRODUCE, 9, produce_request(batch()))
            while not broker.flusher.waiting:
                await asyncio.sleep(0.001)
        assert await client.closed() and not broker.server.connections
        broker.flusher.waiting.pop().set_exception(KafkaError(ErrorCode.KAFKA_STORAGE_ERROR))  # when nobody waits any more
        await asyncio.sleep(0.01)
        assert broker.server._later == {}

    asyncio.run(story())
    gc.collect()
    assert caplog.records == []


def test_errors_of_produce(tmp_path):
    async def story():
        async with running(tmp_path, {"t": 2, "__consumer_offsets": 1}) as broker:
            client = await Client.connect(broker)
            zstd = bytearray(batch())
            zstd[22] |= 4
            broker.partitions["t", 1].config.min_insync_replicas = 2
            for expected, answer in (
                (ErrorCode.INVALID_REQUIRED_ACKS, produce(client, batch(), acks=2)),
                (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, produce(client, batch(), topic="u")),
                (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, produce(client, batch(), partition=2)),
                (ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, produce(client, batch(), topic="__cluster_metadata")),
                (ErrorCode.INVALID_TOPIC_EXCEPTION, produce(client, batch(), topic="__consumer_offsets")),
                (ErrorCode.UNSUPPORTED_COMPRESSION_TYPE, produce(client, bytes(zstd), version=6)),
                (ErrorCode.INVALID_RECORD, produce(client, None)),
                (ErrorCode.CORRUPT_MESSAGE, produce(client, b"x" * 30)),
                (ErrorCode.NOT_ENOUGH_REPLICAS, produce(client, batch(), partition=1)),
                (ErrorCode.NONE, produce(client, batch(), partition=1, acks=1)),
            ):
                assert ErrorCode((await answer)["error_code"]) == expected
            unknown = produce_request(batch())
            unknown["topic_data"][0] |= {"topic_id": broker.metadata.topics["t"].topic_id}
            good = await client.call(PRODUCE, 13, unknown)
            assert good["responses"][0]["partition_responses"][0]["error_code"] == 0
            unknown["topic_data"][0] |= {"topic_id": apis.k00_produce.ZERO_UUID}
            bad = await client.call(PRODUCE, 13, unknown)
            assert bad["responses"][0]["partition_responses"][0]["error_code"] == ErrorCode.UNKNOWN_TOPIC_ID

    asyncio.run(story())


def test_api_versions(tmp_path):
    async def story():
        async with running(tmp_path) as broker:
            client = await Client.connect(broker)
            rows = (await client.call(API_VERSIONS, 4, NAMED))["api_keys"]
            known = {row["api_key"]: (row["min_version"], row["max_version"]) for row in rows}
            assert known[0] == (0, 13)  # for librdkafka, see k18_api_versions.py
            assert all(known[key] == served.api.versions for key, served in SERVED.items() if key != 0)
            client.writer.write(API_VERSIONS.request_frame(4, 77, "c", NAMED)[:6] + b"\x00\x63" + b"\x00\x00\x00\x4d\x00\x00\x00")
            await client.writer.drain()
            client.writer.write(b"x" * (len(API_VERSIONS.request_frame(4, 77, "c", NAMED)) - 15))
            correlation_id, answer = await client.receive(API_VERSIONS, 0)
            assert (correlation_id, answer["error_code"]) == (77, ErrorCode.UNSUPPORTED_VERSION)
            assert answer["api_keys"] == [{"api_key": 18, "min_version": 0, "max_version": 5}]
            for change, expected in (
                ({"client_software_name": "-"}, ErrorCode.INVALID_REQUEST),
                ({"cluster_id": "a-cluster", "node_id": 1}, ErrorCode.NONE),
                ({"cluster_id": "a-cluster"}, ErrorCode.INVALID_REQUEST),
                ({"cluster_id": "another", "node_id": 1}, ErrorCode.REBOOTSTRAP_REQUIRED),
                ({"cluster_id": "a-cluster", "node_id": 2}, ErrorCode.REBOOTSTRAP_REQUIRED),
            ):
                assert (await client.call(API_VERSIONS, 5, NAMED | change))["error_code"] == expected

    asyncio.run(story())


def frame(body):
    return struct.pack(">i", len(body)) + body


@pytest.mark.parametrize(
    "data, reason",
    [
        (struct.pack(">i", -1), "frame of -1 bytes"),
        (struct.pack(">i", 104857601), "frame of 104857601 bytes"),
        (struct.pack(">i", 0), "has no header"),
        (frame(b"\x00\x12\x00"), "has no header"),
        (frame(struct.pack(">hhih", 999, 0, 1, -1)), "API key 999 is not served"),
        (frame(struct.pack(">hhih", 0, 2, 1, -1)), "Produce version 2 is not served"),
        (frame(struct.pack(">hhih", 0, 14, 1, -1)), "Produce version 14 is not served"),
        (frame(struct.pack(">hhih", 18, -1, 1, 99)), "client id of 99 bytes"),
        (frame(struct.pack(">hhih", 18, 0, 1, -1) + b"x"), "ApiVersions version 0: 1 bytes after the end"),
        (frame(struct.pack(">hhih", 2, 1, 1, -1) + b"\xff\xff\xff\xff\x7f\xff\xff\xff"), "array of 2147483647 elements"),
    ],
)
def test_a_bad_frame_costs_one_connection_and_one_line(tmp_path, caplog, data, reason):
    async def story():
        async with running(tmp_path) as broker:
            good, bad = await Client.connect(broker), await Client.connect(broker)
            waiting = asyncio.ensure_future(fetch(good, max_wait_ms=PATIENCE_S * 1000))
            host, port = bad.writer.get_extra_info("sockname")
            bad.writer.write(data)
            assert await bad.closed()
            assert (await produce(await Client.connect(broker), batch()))["error_code"] == 0
            assert len((await waiting)["records"]) == len(batch())
            return f"{host}:{port}"

    peer = asyncio.run(story())
    (line,) = closing_lines(caplog)
    assert peer in line and reason in line


def test_a_frame_that_ends_early_costs_one_line(tmp_path, caplog):
    async def story():
        async with running(tmp_path) as broker:
            client = await Client.connect(broker)
            client.writer.write(struct.pack(">i", 1000) + b"x" * 10)
            client.writer.write_eof()
            assert await client.closed()

    asyncio.run(story())
    assert "closed after 10 of 1000 bytes" in closing_lines(caplog)[0]


def test_an_error_of_ours_costs_one_connection(tmp_path, caplog):
    async def story():
        async with running(tmp_path) as broker:
            client, other = await Client.connect(broker), await Client.connect(broker)
            broker.partitions["t", 0].append = lambda records, now_ms: 1 / 0
            await client.send(PRODUCE, 9, produce_request(batch()))
            assert await client.closed()
            assert (await produce(other, batch(), partition=1))["error_code"] == 0

    asyncio.run(story())
    assert any("ZeroDivisionError" in (record.exc_text or "") for record in caplog.records)


def test_announced_frames_cost_nothing(tmp_path):
    async def story():
        async with running(tmp_path) as broker:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            clients = [await Client.connect(broker) for _ in range(40)]
            for client in clients:  # four gigabytes, announced
                client.writer.write(struct.pack(">i", 104857600) + b"x" * 1000)
            while len(broker.server._budget._held) < 40:
                await asyncio.sleep(0.005)
            assert (await produce(await Client.connect(broker), batch()))["error_code"] == 0
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB

    asyncio.run(story())


def test_over_the_budget_the_largest_frame_loses(tmp_path, caplog):
    async def story():
        async with running(tmp_path, queued_max_request_bytes=3_000_000) as broker:
            large, small = await Client.connect(broker), await Client.connect(broker)
            large.writer.write(struct.pack(">i", 50_000_000) + b"x" * 2_500_000)
            while broker.server._budget.bytes < 2_400_000:
                await asyncio.sleep(0.005)
            answer = await produce(small, batch(1, b"y" * 900_000))
            assert answer["error_code"] == 0
            assert await large.closed()
            assert broker.server._budget.bytes == 0

    asyncio.run(story())
    (line,) = closing_lines(caplog)
    assert "queued.max.request.bytes" in line


def test_more_connections_than_allowed_are_closed(tmp_path, caplog):
    async def story():
        for key, limit in (("max_connections", 3), ("max_connections_per_ip", 2)):
            async with running(tmp_path, **{key: limit}) as broker:
                clients = [await Client.connect(broker) for _ in range(limit)]
                for client in clients:
                    assert (await client.call(API_VERSIONS, 0, {}))["error_code"] == 0
                assert await (await Client.connect(broker)).closed()
                assert (await clients[0].call(API_VERSIONS, 0, {}))["error_code"] == 0
                clients.pop().close()
                while len(broker.server.connections) == limit:
                    await asyncio.sleep(0.005)
                assert (await (await Client.connect(broker)).call(API_VERSIONS, 0, {}))["error_code"] == 0
                assert broker.metrics.connections_refused == 1

    asyncio.run(story())
    assert [re.search(r"max\.\S+", line)[0] for line in closing_lines(caplog)] == ["max.connections", "max.connections.per.ip"]


def test_the_idle_and_the_slow_are_closed_the_waiting_are_not(tmp_path, caplog):
    async def story():
        async with running(tmp_path, connections_max_idle_ms=500) as broker:
            waiting = await Client.connect(broker)
            for _ in range(40):
                await produce(waiting, batch(1, b"z" * 900_000))
            idle, slow, deaf = [await Client.connect(broker) for _ in range(3)]
            await deaf.send(FETCH, 12, fetch_request(max_bytes=40_000_000))
            deaf.writer.transport.pause_reading()
            broker.partitions["t", 1].flush_to = 1
            answer = asyncio.ensure_future(produce(waiting, batch(), partition=1))
            frame = iter(struct.pack(">i", 10_000) + bytes(10_000))
            async with asyncio.timeout(PATIENCE_S):
                while len(broker.server.connections) > 1:
                    if not slow.writer.is_closing():
                        slow.writer.write(bytes([next(frame)]))  # a byte now and then is no progress
                    await asyncio.sleep(0.1)
            await asyncio.sleep(1)
            assert await idle.closed() and await slow.closed()
            assert len(broker.server.connections) == 1
            broker.flusher.waiting[0].set_result(None)
            assert (await answer)["error_code"] == 0

    asyncio.run(story())
    assert len([line for line in closing_lines(caplog) if "connections.max.idle.ms" in line]) == 3


def test_a_slow_reader_gets_its_records_by_sendfile(tmp_path):
    async def story():
        async with running(tmp_path) as broker:
            client, other = await Client.connect(broker), await Client.connect(broker)
            whole = b"".join(bytes([number]) * 900_000 for number in range(20))
            for number in range(20):
                await produce(client, batch(1, bytes([number]) * 900_000))
            client.writer.transport.pause_reading()
            await client.send(FETCH, 12, fetch_request(max_bytes=40_000_000))
            await asyncio.sleep(0.05)
            assert (await produce(other, batch(), partition=1))["error_code"] == 0  # nobody else waits
            client.writer.transport.resume_reading()
            _, response = await client.receive(FETCH, 12)
            records = response["responses"][0]["partitions"][0]["records"]
            size = len(batch(1, bytes(900_000)))
            assert len(records) == 20 * size
            values = b"".join(bytes(records[n * size + size - 900_001 : n * size + size - 1]) for n in range(20))
            assert values == whole

    asyncio.run(story())


def test_stop_finishes_the_request_in_hand(tmp_path):
    async def story():
        async with running(tmp_path) as broker:
            client, idle = await Client.connect(broker), await Client.connect(broker)
            broker.partitions["t", 0].flush_to = 1
            await client.send(PRODUCE, 9, produce_request(batch()))
            while not broker.flusher.waiting:
                await asyncio.sleep(0.001)
            stopping = asyncio.ensure_future(broker.server.stop())
            assert await idle.closed()
            with pytest.raises(OSError):
                await Client.connect(broker)
            broker.flusher.waiting[0].set_result(None)
            _, answer = await client.receive(PRODUCE, 9)
            assert answer["responses"][0]["partition_responses"][0]["error_code"] == 0
            assert await client.closed()
            await stopping
            assert not broker.server.connections

    asyncio.run(story())


def test_many_connections_at_once(tmp_path):
    async def story():
        async with running(tmp_path) as broker:
            clients = await asyncio.gather(*(Client.connect(broker) for _ in range(400)))
            answers = await asyncio.gather(*(produce(client, batch()) for client in clients))
            assert sorted(answer["base_offset"] for answer in answers) == list(range(400))
            for client in clients:
                client.close()
            while broker.server.connections:
                await asyncio.sleep(0.01)
            assert broker.metrics.connections_closed == 400

    asyncio.run(story())


def test_the_log_is_not_flooded(tmp_path, caplog):
    async def story():
        async with running(tmp_path) as broker:
            clients = [await Client.connect(broker) for _ in range(60)]
            for client in clients:
                client.writer.write(struct.pack(">i", -5))
            for client in clients:
                assert await client.closed()

    with caplog.at_level(logging.WARNING):
        asyncio.run(story())
    assert 1 <= len(closing_lines(caplog)) <= 30
