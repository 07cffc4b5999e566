"""Many connections that send ahead, all kinds of requests at once: is each answered once, in its order, and is what was
acknowledged in the log?

Requests that the event loop finds in one turn are handled together, and their responses sent together (`server.py`): no
request may fall through in between, whatever the others do.
"""

import asyncio
import random
import struct
from types import SimpleNamespace

import pytest

from chaos.bench import raw
from refbroker.apis import k00_produce, k01_fetch, k18_api_versions
from refbroker.broker import Broker
from refbroker.config import Config
from refbroker.frames import SMALL_FRAME_BYTES
from refbroker.log.disk import Disk
from refbroker.log.records import Record, build

CONNECTIONS, REQUESTS, SECONDS_MAX = 24, 40, 60
KINDS = ("small", "small", "small", "large", "durable", "both", "silent", "versions", "fetch", "unknown")


def produce(topics, size, acks=-1):
    batch = raw.batch(1, size)
    return k00_produce.API, raw.PRODUCE_VERSION, {
        "transactional_id": None, "acks": acks, "timeout_ms": 1000,
        "topic_data": [{"name": name, "partition_data": [{"index": 0, "records": batch}]} for name in topics]}


def request(kind):
    """(API, version, message)"""
    if kind == "versions":
        return k18_api_versions.API, 3, {"client_software_name": "t", "client_software_version": "1"}
    if kind == "fetch":
        return k01_fetch.API, raw.FETCH_VERSION, {
            "replica_id": -1, "max_wait_ms": 3, "min_bytes": 1, "max_bytes": 1 << 20, "isolation_level": 0, "session_id": 0,
            "session_epoch": -1, "forgotten_topics_data": [], "rack_id": "", "topics": [{"topic": "quiet", "partitions": [
                {"partition": 0, "current_leader_epoch": -1, "fetch_offset": 0, "log_start_offset": -1, "partition_max_bytes": 1 << 20}]}]}
    return {"small": produce(["plain"], 100), "large": produce(["plain"], SMALL_FRAME_BYTES + 1), "durable": produce(["durable"], 100),
            "both": produce(["plain", "durable"], 100), "silent": produce(["plain"], 50, acks=0), "unknown": produce(["nowhere"], 10)}[kind]


async def client(port, seed, noted):
    """Sends REQUESTS requests as they come, in pieces of any size, and reads the answers meanwhile."""
    chance = random.Random(seed)
    kinds = [chance.choice(KINDS) for _ in range(REQUESTS)]
    made = [request(kind) for kind in kinds]
    data = b"".join(api.request_frame(version, number, "t", message) for number, (api, version, message) in enumerate(made))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send():
        position = 0
        while position < len(data):
            step = chance.choice((1, 7, 150, 150, 4000, 70_000))
            writer.write(data[position : position + step])
            position += step
            await writer.drain()
            if chance.random() < 0.3:
                await asyncio.sleep(0)

    sending = asyncio.create_task(send())
    for number, (kind, (api, version, _)) in enumerate(zip(kinds, made)):
        if kind == "silent":
            continue
        (size,) = struct.unpack(">i", await reader.readexactly(4))
        correlation_id, answer = api.read_response(version, await reader.readexactly(size))
        assert correlation_id == number, (kind, correlation_id, number)
        for topic in answer.get("responses", ()):
            for entry in topic.get("partition_responses", ()):
                noted.append((topic["name"], entry["error_code"], entry["base_offset"]))
    await sending
    writer.close()
    return kinds


@pytest.mark.parametrize("seed", range(4))
def test_every_request_is_answered_once_and_in_its_order(tmp_path, seed):
    async def story():
        config, _ = Config.load(None, {}, (f"log.dirs={tmp_path}", "listeners=PLAINTEXT://127.0.0.1:0"))
        broker = await Broker.start(config, Disk())
        for name, configs in (("plain", {}), ("durable", {"flush.messages": "1"}), ("quiet", {})):
            await broker.metadata.create_topic(name, 1, configs, 1)
        noted = []
        async with asyncio.timeout(SECONDS_MAX):
            all_kinds = await asyncio.gather(
                *(client(broker.server.address[1], f"{seed}/{number}", noted)
                  for number in range(CONNECTIONS)))
        for name, kinds in (("plain", ("small", "large", "both", "silent")), ("durable", ("durable", "both"))):
            offsets = [offset for topic, code, offset in noted if topic == name and code == 0]
            sent = sum(kind in kinds for each in all_kinds for kind in each)
            silent = sum(kind == "silent" and name == "plain" for each in all_kinds for kind in each)
            assert len(set(offsets)) == len(offsets) == sent - silent
            assert broker.logs.partitions[name, 0].log_end_offset == sent
        assert {code for topic, code, _ in noted if topic == "nowhere"} == {3}
        assert broker.logs.partitions["durable", 0].recovery_point == broker.logs.partitions["durable", 0].log_end_offset
        await broker.stop()

    asyncio.run(story())


def test_a_retry_and_news_of_one_turn_wait_for_the_flush_of_both(tmp_path):
    """The original is being flushed when its retry comes; what has come with the retry is not in that flush."""

    def of_producer(number):
        api, version, message = produce(["durable"], 100)
        batch = build([Record(0, 0, None, b"v")], producer_id=number, producer_epoch=0, base_sequence=0)
        message["topic_data"][0]["partition_data"][0]["records"] = batch
        view = memoryview(bytearray(api.request.encode(version, message, flexible=True)))  # as from a client
        return SimpleNamespace(version=version, client_id="t", message=api.decode_request(version, view))

    async def story():
        config, _ = Config.load(None, {}, (f"log.dirs={tmp_path}", "listeners=PLAINTEXT://127.0.0.1:0"))
        broker = await Broker.start(config, Disk())
        await broker.metadata.create_topic("durable", 1, {"flush.messages": "1"}, 1)
        log = broker.logs.partitions["durable", 0]
        (original,) = k00_produce.handle_all(broker, [of_producer(1)])
        retry, news = k00_produce.handle_all(broker, [of_producer(1), of_producer(2)])
        durable = {}
        for name, later in (("original", original), ("retry", retry), ("news", news)):
            later.future.add_done_callback(lambda _, name=name: durable.setdefault(name, log.recovery_point))
        await asyncio.wait([original.future, retry.future, news.future])
        await asyncio.sleep(0)
        assert durable == {"original": 1, "retry": 2, "news": 2}
        offsets = [later.response()["responses"][0]["partition_responses"][0]["base_offset"] for later in (original, retry, news)]
        assert offsets == [0, 0, 1]
        assert broker.flusher.waits >= 3
        await broker.stop()

    asyncio.run(story())
