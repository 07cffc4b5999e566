"""How does librdkafka (confluent-kafka) write, read in a group, and jump about in time?"""

import random
import time

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition, libversion

from chaos.history import Recorder
from chaos.process.clients import DRAIN_SECONDS, Pace, Reader, Stop, Visits, Writer

LIBRARY = f"librdkafka {libversion()[0]}"
ANSWER_SECONDS_MAX = 5.0
LOOK_BACK_MS_MAX = 1_500  # how far a seek goes back
SEEK_EVERY_SECONDS = 0.7
CONNECTION = {"reconnect.backoff.ms": 20, "reconnect.backoff.max.ms": 200, "log_level": 0}


def producer(spec: dict, history: Recorder, stop: Stop) -> None:
    writer, pace = Writer(spec, history), Pace(spec["records_per_second"])
    client = Producer({
        "bootstrap.servers": spec["bootstrap"], "acks": spec["acks"], "enable.idempotence": spec["idempotent"],
        "linger.ms": 2, "message.timeout.ms": 60_000, "retry.backoff.ms": 20, "compression.type": spec.get("codec", "none"),
        "client.id": spec["name"], "queue.buffering.max.messages": 2_000, "socket.timeout.ms": 5_000, **CONNECTION})

    def told(number: int):
        def report(error, message):
            if error is None:
                writer.acked(number, message.partition(), message.offset())
            else:
                writer.failed(number, error.name())
        return report

    while not stop.asked:
        number, topic, key, value = writer.next()
        try:
            client.produce(topic, value, key=key, on_delivery=told(number))
        except BufferError:
            writer.failed(number, "_QUEUE_FULL")
        except KafkaException as error:  # an idempotent producer after a fatal error: nobody can go on with it
            writer.failed(number, error.args[0].name())
            history.write("error", error=f"fatal: {error}")
            break
        client.poll(pace.wait_seconds())
    client.flush(DRAIN_SECONDS)


def _reading(spec: dict, **more) -> dict:
    return {"bootstrap.servers": spec["bootstrap"], "group.id": spec["group"] or f"none-{spec['name']}", "enable.auto.commit": False,
            "auto.offset.reset": "earliest", "check.crcs": True, "fetch.wait.max.ms": 50, "client.id": spec["name"],
            "topic.metadata.refresh.interval.ms": 2_000, **CONNECTION, **more}


def consumer(spec: dict, history: Recorder, stop: Stop) -> None:
    reader, visits = Reader(spec, history), Visits(spec, stop)

    def assigned(client, partitions) -> None:
        reader.assigned((each.topic, each.partition) for each in partitions)
        asked = time.monotonic_ns()
        try:
            for each in client.committed(partitions, timeout=ANSWER_SECONDS_MAX):
                if each.error is None:
                    reader.committed_at_start(each.topic, each.partition, each.offset, asked)
        except KafkaException:
            pass  # no answer, nothing to judge

    for _ in visits:
        client = Consumer(_reading(spec, **{"session.timeout.ms": 1_500, "heartbeat.interval.ms": 300}))
        client.subscribe(spec["topics"], on_assign=assigned)
        while not visits.over:
            message = client.poll(0.1)
            if message is not None and message.error() is None:
                reader.seen(message.topic(), message.partition(), message.offset(), message.value(), message.leader_epoch())
            for topic, partition, offset in reader.to_commit():
                try:
                    bad = client.commit(offsets=[TopicPartition(topic, partition, offset)], asynchronous=False)[0].error
                    reader.uncommitted(bad) if bad else reader.committed()
                except KafkaException as error:
                    reader.uncommitted(error.args[0].name())
        client.close()


def seeker(spec: dict, history: Recorder, stop: Stop) -> None:
    """Reads every partition, outside of any group; asks for the end of the log and for times, and goes back to them."""
    reader, rng = Reader(spec, history), random.Random(spec["seed"])
    client = Consumer(_reading(spec))
    partitions = _partitions(client, spec, stop)
    reader.assigned(partitions)
    client.assign([TopicPartition(*where, 0) for where in partitions])
    for where in partitions:
        reader.seek(*where, 0)
    due = time.monotonic() + SEEK_EVERY_SECONDS
    while not stop.asked:
        for message in client.consume(100, timeout=0.1):
            if message.error() is None:
                reader.seen(message.topic(), message.partition(), message.offset(), message.value(), message.leader_epoch())
        if time.monotonic() >= due:
            due = time.monotonic() + SEEK_EVERY_SECONDS
            try:
                _look_around(client, reader, rng, *rng.choice(partitions))
            except KafkaException:
                pass  # a broker that is down answers nothing; reading goes on where it was
    client.close()


def _partitions(client: Consumer, spec: dict, stop: Stop) -> list[tuple[str, int]]:
    while not stop.asked:
        try:
            known = client.list_topics(timeout=1.0).topics
            return [(topic, number) for topic in spec["topics"] for number in sorted(known[topic].partitions)]
        except (KafkaException, KeyError):
            time.sleep(0.1)
    return []


def _look_around(client: Consumer, reader: Reader, rng: random.Random, topic: str, partition: int) -> None:
    asked = time.monotonic_ns()
    _, end = client.get_watermark_offsets(TopicPartition(topic, partition), timeout=ANSWER_SECONDS_MAX, cached=False)
    reader.answer("end", topic, partition, end, asked)
    wanted, asked = int(time.time() * 1000) - rng.randrange(LOOK_BACK_MS_MAX), time.monotonic_ns()
    found = client.offsets_for_times([TopicPartition(topic, partition, wanted)], timeout=ANSWER_SECONDS_MAX)[0]
    if found.error:
        return
    reader.answer("time", topic, partition, max(found.offset, -1), asked, time=wanted)
    if found.offset >= 0:
        reader.assigned([(topic, partition)])  # whatever becomes of the seek, reading may begin anew
        client.seek(TopicPartition(topic, partition, found.offset))
        reader.seek(topic, partition, found.offset)
