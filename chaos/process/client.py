"""One real client under load, as a process of its own: `python -m chaos.process.client SPEC`.

SPEC is JSON: {"kind": "librdkafka-producer", "name": "p1", "bootstrap": "127.0.0.1:9092", "history": "DIR", "topics": ["a"],
"acks": "all", "idempotent": true, "seed": 7, "records_per_second": 200, "value_bytes": 900, "group": "g"}.

It runs until SIGTERM, then waits a bounded time for what is under way, and leaves. What it asked and was told is in
`DIR/<name>.jsonl` (chaos/history.py). A broker that dies is nothing special: the library retries, as it would for any user.
"""

import asyncio
import json
import logging
import random
import signal
import sys
import time

from chaos.history import Recorder, identify, value_of

DRAIN_SECONDS = 20.0
# Errors after which a record can never appear: the broker refused it, or it never left the client.
SURE_FAILURES = {"MSG_SIZE_TOO_LARGE", "MESSAGE_TOO_LARGE", "MessageSizeTooLargeError", "_QUEUE_FULL"}


class Stop:
    """SIGTERM as a flag: the loops look at it, so that what is under way is finished and written down."""

    def __init__(self):
        self.asked = False
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the harness's business

    def _ask(self, *_):
        self.asked = True


class Pace:
    """Spaces calls evenly, without trying to make up for the time in which the broker was down."""

    def __init__(self, per_second: float):
        self._gap = 1.0 / per_second
        self._next = time.monotonic()

    def wait_seconds(self) -> float:
        now = time.monotonic()
        self._next = max(self._next + self._gap, now - self._gap)
        return max(0.0, self._next - now)


def librdkafka_producer(spec: dict, history: Recorder, stop: Stop) -> None:
    from confluent_kafka import KafkaException, Producer

    rng, pace, number = random.Random(spec["seed"]), Pace(spec["records_per_second"]), 0
    producer = Producer({
        "bootstrap.servers": spec["bootstrap"], "acks": spec["acks"], "enable.idempotence": spec["idempotent"],
        "linger.ms": 2, "message.timeout.ms": 60_000, "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200,
        "retry.backoff.ms": 20, "compression.type": spec.get("codec", "none"), "client.id": spec["name"],
        "queue.buffering.max.messages": 2_000, "socket.timeout.ms": 5_000, "log_level": 0})

    def told(identity: int):
        def report(error, message):
            if error is not None:
                history.write("failed", id=identity, error=error.name(), sure=error.name() in SURE_FAILURES)
            elif spec["acks"] != "0":  # acks=0 is told nothing: it stays unknown
                history.write("acked", id=identity, partition=message.partition(), offset=message.offset())
        return report

    while not stop.asked:
        topic, size = rng.choice(spec["topics"]), rng.randrange(40, spec["value_bytes"])
        history.write("send", id=number, topic=topic, acks=spec["acks"], idempotent=spec["idempotent"])
        try:
            producer.produce(topic, value_of(spec["name"], number, size), key=f"k{number % 16}", on_delivery=told(number))
        except BufferError:
            history.write("failed", id=number, error="_QUEUE_FULL", sure=True)
        except KafkaException as error:  # an idempotent producer after a fatal error: nobody can go on with it
            history.write("failed", id=number, error=error.args[0].name(), sure=False)
            history.write("error", error=f"fatal: {error}")
            break
        number += 1
        producer.poll(pace.wait_seconds())
    producer.flush(DRAIN_SECONDS)


async def aiokafka_producer(spec: dict, history: Recorder, stop: Stop) -> None:
    from aiokafka import AIOKafkaProducer

    rng, pace, number = random.Random(spec["seed"]), Pace(spec["records_per_second"]), 0
    acks = "all" if spec["acks"] == "all" else int(spec["acks"])
    producer = AIOKafkaProducer(
        bootstrap_servers=spec["bootstrap"], acks=acks, enable_idempotence=spec["idempotent"], client_id=spec["name"],
        linger_ms=2, request_timeout_ms=5_000, retry_backoff_ms=30, metadata_max_age_ms=10_000)
    await _started(producer, stop)
    under_way: set[asyncio.Task] = set()

    async def told(identity: int, delivery: asyncio.Future) -> None:
        try:
            sent = await delivery
            if spec["acks"] != "0":  # acks=0 is told nothing: it stays unknown
                history.write("acked", id=identity, partition=sent.partition, offset=sent.offset)
        except Exception as error:  # whatever the library makes of a dead broker: we know nothing of this record
            history.write("failed", id=identity, error=type(error).__name__, sure=type(error).__name__ in SURE_FAILURES)

    while not stop.asked:
        if len(under_way) < 500:
            topic, value = rng.choice(spec["topics"]), value_of(spec["name"], number, rng.randrange(40, spec["value_bytes"]))
            history.write("send", id=number, topic=topic, acks=spec["acks"], idempotent=spec["idempotent"])
            try:  # one after the other: what is handed over in this order must lie in this order
                delivery = await producer.send(topic, value, key=f"k{number % 16}".encode())
            except Exception as error:
                history.write("failed", id=number, error=type(error).__name__, sure=False)
            else:
                task = asyncio.create_task(told(number, delivery))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            number += 1
        await asyncio.sleep(pace.wait_seconds())
    if under_way:
        await asyncio.wait(under_way, timeout=DRAIN_SECONDS)
    try:
        await asyncio.wait_for(producer.stop(), 3)
    except (asyncio.TimeoutError, Exception) as error:
        history.write("error", error=f"stop: {type(error).__name__}")


async def _started(client, stop: Stop) -> None:
    while not stop.asked:
        try:
            return await client.start()
        except Exception:  # the broker may be down at this moment, too
            await asyncio.sleep(0.1)
    sys.exit(0)


def librdkafka_consumer(spec: dict, history: Recorder, stop: Stop) -> None:
    from confluent_kafka import Consumer, KafkaException

    consumer = Consumer({
        "bootstrap.servers": spec["bootstrap"], "group.id": spec["group"], "enable.auto.commit": False,
        "auto.offset.reset": "earliest", "session.timeout.ms": 1_500, "heartbeat.interval.ms": 300, "check.crcs": True,
        "reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200, "fetch.wait.max.ms": 50, "client.id": spec["name"],
        "topic.metadata.refresh.interval.ms": 2_000, "log_level": 0})
    consumer.subscribe(spec["topics"])
    positions: dict[tuple[str, int], int] = {}
    commits, due = 0, time.monotonic() + 0.3
    while not stop.asked:
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            _seen(history, message.topic(), message.partition(), message.offset(), message.value())
            positions[message.topic(), message.partition()] = message.offset() + 1
        if positions and time.monotonic() >= due:
            due = time.monotonic() + 0.3
            commits = _commit_librdkafka(consumer, positions, spec, history, commits, KafkaException)
    consumer.close()


def _commit_librdkafka(consumer, positions, spec, history, commits, failure) -> int:
    from confluent_kafka import TopicPartition

    mine = {(p.topic, p.partition) for p in consumer.assignment()}
    for (topic, partition), offset in list(positions.items()):
        del positions[topic, partition]
        if (topic, partition) not in mine:
            continue
        history.write("commit", id=commits, group=spec["group"], topic=topic, partition=partition, offset=offset)
        try:
            answer = consumer.commit(offsets=[TopicPartition(topic, partition, offset)], asynchronous=False)
            bad = answer[0].error
            history.write("uncommitted" if bad else "committed", id=commits, **({"error": str(bad), "sure": False} if bad else {}))
        except failure as error:
            history.write("uncommitted", id=commits, error=error.args[0].name(), sure=False)
        commits += 1
    return commits


async def aiokafka_consumer(spec: dict, history: Recorder, stop: Stop) -> None:
    from aiokafka import AIOKafkaConsumer, TopicPartition

    consumer = AIOKafkaConsumer(
        *spec["topics"], bootstrap_servers=spec["bootstrap"], group_id=spec["group"], enable_auto_commit=False,
        auto_offset_reset="earliest", session_timeout_ms=1_500, heartbeat_interval_ms=300, client_id=spec["name"],
        request_timeout_ms=5_000, retry_backoff_ms=50, fetch_max_wait_ms=50, metadata_max_age_ms=2_000)
    await _started(consumer, stop)
    commits = 0
    while not stop.asked:
        try:
            batches = await consumer.getmany(timeout_ms=200)
        except Exception as error:
            history.write("error", error=f"poll: {type(error).__name__}: {error}")
            await asyncio.sleep(0.1)
            continue
        for where, messages in batches.items():
            for message in messages:
                _seen(history, where.topic, where.partition, message.offset, message.value)
            if where not in consumer.assignment():
                continue
            offset = messages[-1].offset + 1
            history.write("commit", id=commits, group=spec["group"], topic=where.topic, partition=where.partition, offset=offset)
            try:
                await asyncio.wait_for(consumer.commit({TopicPartition(*where): offset}), 5)
                history.write("committed", id=commits)
            except (asyncio.TimeoutError, Exception) as error:
                history.write("uncommitted", id=commits, error=type(error).__name__, sure=False)
            commits += 1
    try:
        await asyncio.wait_for(consumer.stop(), 3)
    except (asyncio.TimeoutError, Exception) as error:
        history.write("error", error=f"stop: {type(error).__name__}")


def _seen(history: Recorder, topic: str, partition: int, offset: int, value: bytes | None) -> None:
    history.write("seen", topic=topic, partition=partition, offset=offset, id=identify(value or b""))


KINDS = {
    "librdkafka-producer": librdkafka_producer, "aiokafka-producer": aiokafka_producer,
    "librdkafka-consumer": librdkafka_consumer, "aiokafka-consumer": aiokafka_consumer,
}


def main(spec: dict) -> None:
    logging.disable(logging.CRITICAL)  # the libraries report each reconnect; the history has what counts
    client = KINDS[spec["kind"]]
    history, stop = Recorder(f"{spec['history']}/{spec['name']}.jsonl"), Stop()
    if asyncio.iscoroutinefunction(client):
        asyncio.run(client(spec, history, stop))
    else:
        client(spec, history, stop)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
