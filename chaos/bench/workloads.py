"""What is measured, and how? Each workload is a function of a running target that gives one figure per round.

`higher` says which way is better. A workload that needs the broker to itself (start, recovery, memory) starts its own.
Topics are made anew for every round, so that no round reads what another one wrote.
"""

import itertools
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chaos.bench import raw
from chaos.bench.machine import MIB, memory_mib, percentile
from chaos.process.observe import create_topics
from chaos.targets import Target

CODEC_NONE, CODEC_LZ4 = 0, 3
_names = itertools.count()


@dataclass(frozen=True)
class Workload:
    """`figure(target, scale)` gives {column name: value}; scale is 1 for a full run and less for a quick one."""

    name: str
    unit: str
    higher: bool
    figure: Callable[[Target, float], dict[str, float]]


def _topic(target: Target, partitions: int = 1, **configs: str) -> str:
    name = f"bench-{next(_names)}"
    create_topics(target.bootstrap, {name: partitions}, {key.replace("_", "."): value for key, value in configs.items()})
    raw.wait_for_leader(target.bootstrap, name)
    return name


def latency(target: Target, scale: float) -> dict[str, float]:
    frame = raw.produce_frame(_topic(target), raw.batch(1, 100))
    took = raw.latencies(target.bootstrap, frame, int(4000 * scale))
    return {"p50": statistics.median(took) * 1e6, "p99": percentile(took, 0.99) * 1e6, "p99.9": percentile(took, 0.999) * 1e6}


def end_to_end(target: Target, scale: float) -> dict[str, float]:
    topic = _topic(target)
    took = raw.end_to_end(target.bootstrap, topic, raw.produce_frame(topic, raw.batch(1, 100)), int(1000 * scale))
    return {"p50": statistics.median(took) * 1e6, "p99": percentile(took, 0.99) * 1e6}


def produce(batch_bytes: int, codec: int = CODEC_NONE, record_bytes: int = 1024, acks: int = -1):
    def figure(target: Target, scale: float) -> dict[str, float]:
        records = raw.batch(max(1, batch_bytes // (record_bytes + 12)), record_bytes, codec)
        frame = raw.produce_frame(_topic(target), records, acks=acks)
        count = max(50, int(min(8000, 768 * MIB // len(records)) * scale))
        rate = raw.pipelined(target.bootstrap, frame, count)
        return {"req/s": rate, "MiB/s": rate * len(records) / MIB}

    return figure


def fetch(target: Target, scale: float) -> dict[str, float]:
    topic, records = _topic(target), raw.batch(250, 1024)
    wanted = int(768 * MIB * scale)
    raw.pipelined(target.bootstrap, raw.produce_frame(topic, records), wanted // len(records) + 1)
    raw.fetch_all(target.bootstrap, topic, MIB, wanted // 4)
    return {"MiB/s": raw.fetch_all(target.bootstrap, topic, MIB, wanted)}


def durable(producers: int):
    def figure(target: Target, scale: float) -> dict[str, float]:
        frame = raw.produce_frame(_topic(target, flush_messages="1"), raw.batch(1, 1024))
        return {"acked/s": raw.many(target.bootstrap, frame, producers, max(1.5, 5 * scale))}

    return figure


def connections(count: int):
    def figure(target: Target, scale: float) -> dict[str, float]:
        frame = raw.produce_frame(_topic(target), raw.batch(15, 1024))
        return {"req/s": raw.many(target.bootstrap, frame, count, max(1.5, 5 * scale))}

    return figure


def librdkafka(batch_bytes: int, acks: str = "all"):
    def figure(target: Target, scale: float) -> dict[str, float]:
        from confluent_kafka import Consumer, Producer, TopicPartition

        topic, count, value = _topic(target), int(200_000 * scale), bytes(raw.batch(1, 1024)[-1024:])
        producer = Producer({"bootstrap.servers": target.bootstrap, "batch.size": batch_bytes, "linger.ms": 5, "acks": acks,
                             "queue.buffering.max.messages": 1_000_000, "log_level": 0})
        began = time.perf_counter()
        for number in range(count):
            producer.produce(topic, value, partition=0)
            if number % 500 == 0:
                producer.poll(0)
        if producer.flush(120):
            raise raw.Refused("librdkafka could not deliver everything within 120 s")
        produced = count * len(value) / MIB / (time.perf_counter() - began)
        consumer = Consumer({"bootstrap.servers": target.bootstrap, "group.id": "bench", "enable.auto.commit": False, "log_level": 0})
        consumer.assign([TopicPartition(topic, 0, 0)])
        began, got = time.perf_counter(), 0
        while got < count:
            messages = consumer.consume(10_000, 5)
            if not messages:
                raise raw.Refused(f"librdkafka got {got} of {count} records")
            got += len(messages)
        consumed = count * len(value) / MIB / (time.perf_counter() - began)
        consumer.close()
        return {"produce MiB/s": produced, "consume MiB/s": consumed}

    return figure


WORKLOADS = (
    Workload("one 100 B record per request", "us", False, latency),
    Workload("end to end, 100 B, consumer waiting", "us", False, end_to_end),
    Workload("produce, 16 KiB batches of 1 KiB, acks=all", "rate", True, produce(16 << 10)),
    Workload("produce, 16 KiB batches of 1 KiB, acks=1", "rate", True, produce(16 << 10, acks=1)),
    Workload("produce, 16 KiB batches of 100 B, lz4", "rate", True, produce(16 << 10, CODEC_LZ4, 100)),
    Workload("produce, 256 KiB batches of 1 KiB", "rate", True, produce(256 << 10)),
    Workload("produce, 256 KiB batches of 100 B, lz4", "rate", True, produce(256 << 10, CODEC_LZ4, 100)),
    Workload("produce, 1000 KB batches of 1 KiB", "rate", True, produce(1_000_000)),
    Workload("fetch, 1 MiB a request", "rate", True, fetch),
    Workload("8 connections, 16 KiB batches", "rate", True, connections(8)),
    Workload("64 connections, 16 KiB batches", "rate", True, connections(64)),
    Workload("flush.messages=1, 1 producer", "rate", True, durable(1)),
    Workload("flush.messages=1, 8 producers", "rate", True, durable(8)),
    Workload("flush.messages=1, 64 producers", "rate", True, durable(64)),
    Workload("librdkafka, 1 KiB records, batch.size 16 KiB", "rate", True, librdkafka(16 << 10)),
    Workload("librdkafka, 1 KiB records, batch.size 256 KiB", "rate", True, librdkafka(256 << 10)),
)


def start_and_recovery(make: Callable[[Path], Target], directory: Path, scale: float) -> dict[str, float]:
    """Start to first answer on an empty directory; memory idle; recovery after a kill per GiB that was not flushed."""
    shutil.rmtree(directory, ignore_errors=True)
    target = make(directory)
    target.start()  # formats, and warms the page cache
    target.stop()
    began = time.perf_counter()
    target.start()
    connection = raw.Connection(target.bootstrap)
    figures = {"start s": time.perf_counter() - began}
    connection.close()
    time.sleep(0.5)
    figures["idle MiB"] = memory_mib(target.pid)
    topic, records, mib = _topic(target), raw.batch(250, 1024), int(1024 * scale)
    raw.pipelined(target.bootstrap, raw.produce_frame(topic, records), mib * MIB // len(records))
    target.kill()
    began = time.perf_counter()
    target.start()
    raw.wait_for_leader(target.bootstrap, topic)
    raw.check_fetched(raw.Connection(target.bootstrap).call(raw.fetch_frame(topic, 0, MIB)))
    figures["recovery s/GiB"] = (time.perf_counter() - began - figures["start s"]) * 1024 / mib
    target.kill()
    shutil.rmtree(directory)
    return figures
