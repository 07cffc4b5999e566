"""What is measured? Each workload is a topic, a way to drive it, and what to hold the figure against.

Topics are made anew for every round and deleted after it, so that no round reads what another one wrote. `raw` gives
the machine's own limit for the first figure; `answer` what a server that does nothing would answer, for workloads whose
client limit can be had that way (`null.py`).
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from chaos.bench import drive, java, raw
from chaos.bench.drive import Frame, Place
from chaos.bench.machine import MIB, Facts, in_turn, percentile

CODEC_NONE, CODEC_LZ4, CODEC_ZSTD = 0, 3, 4
KIB_RECORD = 1024
FILL_MIB = 256  # of a topic that is then read
LIBRDKAFKA_QUEUED_MAX = 98_000  # of its queue.buffering.max.messages, 100,000
LIBRDKAFKA_PAUSE_MS = 10  # fetch.queue.backoff.ms


@dataclass(frozen=True)
class Workload:
    """`run(place, seconds)` gives {figure: value}."""

    name: str
    run: Callable[[Place, float], dict[str, float]]
    higher: bool = True  # is better
    partitions: int = 1
    configs: dict[str, str] = field(default_factory=dict)
    raw: Callable[[Facts], float] | None = None
    answer: Callable[[str], bytes] | None = None
    tls: bool = False
    filled: bool = False  # the topic has FILL_MIB in it before the clock runs


def _frame(topic: str, bytes_wanted: int, record_bytes: int = KIB_RECORD, codec: int = CODEC_NONE, partitions: int = 1) -> Frame:
    """A request whose batches are of so many bytes before they are compressed."""
    records = max(1, bytes_wanted // (record_bytes + 10))
    return Frame(raw.produce_frame(topic, raw.batch(records, record_bytes, codec), partitions=partitions), records)


def latency(place: Place, seconds: float) -> dict[str, float]:
    took = drive.latencies(place, _frame(place.topic, 100, 100), seconds)
    return {"p50 us": statistics.median(took) * 1e6, "p99 us": percentile(took, 0.99) * 1e6,
            "p99.9 us": percentile(took, 0.999) * 1e6}


def end_to_end(place: Place, seconds: float) -> dict[str, float]:
    took = drive.end_to_end(place, _frame(place.topic, 100, 100), seconds)
    return {"p50 us": statistics.median(took) * 1e6, "p99 us": percentile(took, 0.99) * 1e6}


def small(place: Place, seconds: float) -> dict[str, float]:
    return {"req/s": drive.pipelined(place, _frame(place.topic, 100, 100), seconds, in_flight=64)}


def produce(batch_bytes: int, codec: int = CODEC_NONE, record_bytes: int = KIB_RECORD, partitions: int = 1):
    def run(place: Place, seconds: float) -> dict[str, float]:
        frame = _frame(place.topic, batch_bytes, record_bytes, codec, partitions)
        rate = drive.pipelined(place, frame, seconds)
        mib = rate * partitions * frame.records * (record_bytes + 10) / MIB  # before compression
        return {"MiB/s": mib, "req/s": rate} if batch_bytes < 64 << 10 and partitions == 1 else {"MiB/s": mib}

    return run


def fill(place: Place) -> None:
    """Four whole batches are a little less than a MiB."""
    drive.fill(place, _frame(place.topic, MIB // 4), FILL_MIB)


def fetch(place: Place, seconds: float) -> dict[str, float]:
    return {"MiB/s": drive.fetch(place, MIB, seconds)}


def connections(count: int, record_bytes: int = KIB_RECORD, batch_bytes: int = 16 << 10):
    def run(place: Place, seconds: float) -> dict[str, float]:
        return {"req/s": drive.many(place, _frame(place.topic, batch_bytes, record_bytes), count, seconds)}

    return run


def both_ways(place: Place, seconds: float) -> dict[str, float]:
    frame = _frame(place.topic, 256 << 10)
    reading = drive.beside(drive.follow, place, MIB, seconds)
    requests = drive.pipelined(place, frame, seconds)
    return {"produce MiB/s": requests * frame.records * (KIB_RECORD + 10) / MIB, "consume MiB/s": reading()}


def librdkafka(place: Place, seconds: float) -> dict[str, float]:
    """confluent-kafka with its defaults but for one; the records are handed over in bulk, so that little of the time is Python's.

    Its consumer asks for nothing for a second when its queue (64 MiB) is full, and the application empties that in a tenth of
    it: with the default fetch.queue.backoff.ms a round measures how often the client slept, and a faster broker makes it sleep
    more often (164 to 263 MiB/s from either broker, where 10 ms give 462 to 646).
    """
    from confluent_kafka import Consumer, Producer, TopicPartition

    bulk = [{"value": bytes(raw.batch(1, KIB_RECORD)[-KIB_RECORD - 1 : -1])} for _ in range(1000)]
    producer = Producer({"bootstrap.servers": place.bootstrap, "log_level": 0})
    began, count = drive.clock(), 0
    while drive.clock() - began < seconds:
        if len(producer) > LIBRDKAFKA_QUEUED_MAX:
            producer.poll(0.001)
        elif producer.produce_batch(place.topic, bulk, partition=0) == len(bulk):
            count += len(bulk)
        else:
            raise raw.Refused("librdkafka did not take a record")
    if producer.flush(60):
        raise raw.Refused("librdkafka could not deliver everything within 60 s")
    produced = count * KIB_RECORD / MIB / (drive.clock() - began)
    consumer = Consumer({"bootstrap.servers": place.bootstrap, "group.id": "bench", "enable.auto.commit": False, "log_level": 0,
                         "fetch.queue.backoff.ms": LIBRDKAFKA_PAUSE_MS})
    consumer.assign([TopicPartition(place.topic, 0, 0)])
    got = len(consumer.consume(1, 30))  # connecting is not the point
    began = drive.clock()
    while got < count:
        messages = consumer.consume(min(10_000, count - got), 5)
        if not messages:
            raise raw.Refused(f"librdkafka got {got} of {count} records")
        got += len(messages)
    consumed = count * KIB_RECORD / MIB / (drive.clock() - began)
    consumer.close()
    return {"produce MiB/s": produced, "consume MiB/s": consumed}


def _roomy(topic: str) -> bytes:
    return raw.fetch_answer(topic, raw.batch(255, KIB_RECORD) * 4)


def _loopback(found: Facts) -> float:
    return found["loopback round trip, p50 us"]


def _sendfile(found: Facts) -> float:
    return found["loopback sendfile MiB/s"]


def _durable(producers: int) -> Workload:
    return Workload(f"flush.messages=1, {producers} producer{'s' * (producers > 1)}, 1 kB", _acked(producers),
                    configs={"flush.messages": "1"}, raw=lambda found: found["fdatasync rate 1/s"] * producers)


def _acked(producers: int):
    def run(place: Place, seconds: float) -> dict[str, float]:
        return {"acked/s": drive.many(place, _frame(place.topic, KIB_RECORD, 1000), producers, seconds)}

    return run


def _policy(name: str, **configs: str) -> Workload:
    return Workload(f"produce, 16 kB batches, {name}", produce(16_000),
                    configs={key.replace("_", "."): value for key, value in configs.items()})


ONE_RECORD, PRODUCE_16K = "one 100 B record per request", "produce, 16 kB batches"
PRODUCE_256K, PRODUCE_1M, FETCH_1M = "produce, 256 KiB batches", "produce, 1 MB batches", "fetch, 1 MiB a request"
CONNECTIONS_8, CONNECTIONS_64 = "8 connections, 16 kB batches", "64 connections, 16 kB batches"
DURABLE = {producers: _durable(producers) for producers in (1, 8, 64)}
LIBRDKAFKA = "librdkafka, 1 KiB records, its default batches"
WORKLOADS = (
    Workload(ONE_RECORD, latency, higher=False, raw=_loopback, answer=raw.produce_answer),
    Workload("end to end, 100 B, consumer waiting", end_to_end, higher=False),
    Workload("small requests, 100 B, 1 connection, 64 in flight", small, answer=raw.produce_answer),
    Workload("small requests, 100 B, 64 connections", connections(64, 100, 100), answer=raw.produce_answer),
    Workload(PRODUCE_16K, produce(16_000), raw=in_turn, answer=raw.produce_answer),
    Workload(PRODUCE_256K, produce(256 << 10), raw=in_turn, answer=raw.produce_answer),
    Workload("produce, 256 KiB as 16 partitions of 16 KiB", produce(16 << 10, partitions=16), partitions=16, raw=in_turn,
             answer=lambda topic: raw.produce_answer(topic, 16)),
    Workload("produce, 256 KiB as 256 partitions of 1 KiB", produce(1 << 10, partitions=256, record_bytes=950), partitions=256,
             raw=in_turn, answer=lambda topic: raw.produce_answer(topic, 256)),
    Workload(PRODUCE_1M, produce(1_000_000), raw=in_turn, answer=raw.produce_answer),
    Workload("produce, 256 KiB of 1 KiB records, lz4", produce(256 << 10, CODEC_LZ4), answer=raw.produce_answer),
    Workload("produce, 256 KiB of 1 KiB records, zstd", produce(256 << 10, CODEC_ZSTD), answer=raw.produce_answer),
    Workload(CONNECTIONS_8, connections(8), answer=raw.produce_answer),
    Workload(CONNECTIONS_64, connections(64), answer=raw.produce_answer),
    Workload(FETCH_1M, fetch, filled=True, raw=_sendfile, answer=_roomy),
    Workload("producing while a consumer reads from the start", both_ways, filled=True),
    _policy("flush.ms=200", flush_ms="200"),
    _policy("flush.messages=1000", flush_messages="1000"),
    _policy("flush.messages=1", flush_messages="1"),
    *DURABLE.values(),
    Workload("TLS: produce, 256 KiB batches", produce(256 << 10), tls=True),
    Workload("TLS: fetch, 1 MiB a request", fetch, tls=True, filled=True),
    Workload(LIBRDKAFKA, librdkafka),
    Workload("Java's perf tools, 1,000 B records, 16 KiB batches", java.perf(16 << 10)),
    Workload("Java's perf tools, 1,000 B records, 256 KiB batches", java.perf(256 << 10)),
)
