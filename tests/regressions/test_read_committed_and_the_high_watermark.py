"""A Fetch with read_committed, the default of librdkafka, was served up to the log end: under flush.messages=1 a consumer got records
that were not durable, which a power cut may take back (C4.2, C4.3).

Found while looking into a finding of the network layer: a consumer was beyond the end that its broker named, and met no end.
"""

import asyncio

from chaos.bench import raw
from refbroker.apis import k01_fetch
from refbroker.broker import Broker
from refbroker.client import Client
from refbroker.config import Config


def test_nothing_above_the_high_watermark_whatever_the_isolation_level(tmp_path):
    async def story():
        broker = await Broker.start(Config.load(None, {}, (f"log.dirs={tmp_path}", "listeners=PLAINTEXT://127.0.0.1:0"))[0])
        await broker.metadata.create_topic("t", 1, {"flush.messages": "1"}, 1)
        log = broker.logs.partitions["t", 0]
        log.append(bytearray(raw.batch(1, 100)), broker.clock())
        unflushed = await asyncio.to_thread(fetched, broker.server.address)
        log.flush()
        flushed = await asyncio.to_thread(fetched, broker.server.address)
        await broker.stop()
        return unflushed, flushed, log.size_bytes

    unflushed, flushed, size = asyncio.run(story())
    assert unflushed == [(0, 0, 0)] * 2
    assert flushed == [(1, 1, size)] * 2


def fetched(address):
    """(high watermark, last stable offset, bytes of records) of either isolation level."""
    topics = [{"topic": "t", "partitions": [{"partition": 0, "fetch_offset": 0, "partition_max_bytes": 1 << 20}]}]
    with Client(address) as client:
        responses = [client.request(k01_fetch.API, {"max_wait_ms": 0, "min_bytes": 1, "isolation_level": level, "topics": topics}, 12)
                     for level in (0, 1)]
    rows = [response["responses"][0]["partitions"][0] for response in responses]
    return [(row["high_watermark"], row["last_stable_offset"], len(row["records"])) for row in rows]
