"""How does kafka-python write, and read in a group?"""

import time

import kafka
from kafka import ConsumerRebalanceListener, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError
from kafka.structs import OffsetAndMetadata

from chaos.history import Recorder
from chaos.process.clients import DRAIN_SECONDS, Pace, Reader, Stop, Visits, Writer

LIBRARY = f"kafka-python {kafka.__version__}"
ANSWER_MS_MAX = 5_000
CONNECTION = {"reconnect_backoff_ms": 20, "reconnect_backoff_max_ms": 200, "retry_backoff_ms": 30}


def producer(spec: dict, history: Recorder, stop: Stop) -> None:
    writer, pace = Writer(spec, history), Pace(spec["records_per_second"])
    client = _started(stop, KafkaProducer, bootstrap_servers=spec["bootstrap"],
                      acks="all" if spec["acks"] == "all" else int(spec["acks"]), enable_idempotence=spec["idempotent"],
                      client_id=spec["name"], linger_ms=2, request_timeout_ms=5_000, delivery_timeout_ms=60_000, max_block_ms=2_000,
                      compression_type=None if spec.get("codec", "none") == "none" else spec["codec"], **CONNECTION)
    while client and not stop.asked:
        number, topic, key, value = writer.next()
        try:
            delivery = client.send(topic, value, key=key)
        except KafkaError as error:
            writer.failed(number, type(error).__name__)
        else:
            delivery.add_callback(lambda sent, number=number: writer.acked(number, sent.partition, sent.offset))
            delivery.add_errback(lambda error, number=number: writer.failed(number, type(error).__name__))
        time.sleep(pace.wait_seconds())
    if client:
        for end, seconds in ((client.flush, DRAIN_SECONDS), (client.close, 3.0)):
            try:
                end(timeout=seconds)
            except KafkaError as error:  # what is still under way stays unknown
                history.write("error", error=f"{end.__name__}: {type(error).__name__}")


class _Listener(ConsumerRebalanceListener):
    def __init__(self, client: KafkaConsumer, reader: Reader):
        self._client, self._reader = client, reader

    def on_partitions_revoked(self, revoked) -> None:
        self._reader.positions = {}

    def on_partitions_assigned(self, assigned) -> None:
        self._reader.assigned((each.topic, each.partition) for each in assigned)
        for each in assigned:
            asked = time.monotonic_ns()
            try:
                offset = self._client.committed(each, timeout_ms=ANSWER_MS_MAX)
            except KafkaError:
                continue  # no answer, nothing to judge
            self._reader.committed_at_start(each.topic, each.partition, offset, asked)


def consumer(spec: dict, history: Recorder, stop: Stop) -> None:
    reader, visits = Reader(spec, history), Visits(spec, stop)
    for _ in visits:
        client = _started(stop, KafkaConsumer, bootstrap_servers=spec["bootstrap"], group_id=spec["group"], enable_auto_commit=False,
                          auto_offset_reset="earliest", session_timeout_ms=1_500, heartbeat_interval_ms=300, client_id=spec["name"],
                          request_timeout_ms=5_000, fetch_max_wait_ms=50, metadata_max_age_ms=2_000, check_crcs=True, **CONNECTION)
        if client is None:
            return
        client.subscribe(spec["topics"], listener=_Listener(client, reader))
        while not visits.over:
            try:
                batches = client.poll(timeout_ms=100)
            except KafkaError as error:
                reader.error("poll", error)
                time.sleep(0.1)
                continue
            for where, messages in batches.items():
                for message in messages:
                    reader.seen(where.topic, where.partition, message.offset, message.value, message.leader_epoch)
            for topic, partition, offset in reader.to_commit():
                try:
                    client.commit({TopicPartition(topic, partition): OffsetAndMetadata(offset, "", -1)}, timeout_ms=ANSWER_MS_MAX)
                    reader.committed()
                except KafkaError as error:
                    reader.uncommitted(type(error).__name__)
        try:
            client.close(autocommit=False, timeout_ms=3_000)
        except KafkaError as error:
            reader.error("close", error)


def _started(stop: Stop, client, **options):
    """kafka-python asks the broker for its versions when it is made, and the broker may be down at this moment, too."""
    while not stop.asked:
        try:
            return client(**options)
        except KafkaError:
            time.sleep(0.1)
    return None
