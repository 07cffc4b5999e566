"""How does aiokafka write, and read in a group?"""

import asyncio

import aiokafka
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition

from chaos.history import Recorder
from chaos.process.clients import DRAIN_SECONDS, Pace, Reader, Stop, Visits, Writer

LIBRARY = f"aiokafka {aiokafka.__version__}"
UNDER_WAY_MAX = 500
FAILURES = (Exception, asyncio.CancelledError)  # the library's own tasks are cancelled, and it lets that through; nobody cancels us


async def producer(spec: dict, history: Recorder, stop: Stop) -> None:
    writer, pace = Writer(spec, history), Pace(spec["records_per_second"])
    client = AIOKafkaProducer(
        bootstrap_servers=spec["bootstrap"], acks="all" if spec["acks"] == "all" else int(spec["acks"]),
        enable_idempotence=spec["idempotent"], client_id=spec["name"], linger_ms=2, request_timeout_ms=5_000, retry_backoff_ms=30,
        metadata_max_age_ms=10_000)
    if not await _started(client, stop):
        return
    under_way: set[asyncio.Task] = set()

    async def told(number: int, delivery: asyncio.Future) -> None:
        try:
            sent = await delivery
            writer.acked(number, sent.partition, sent.offset)
        except FAILURES as error:  # whatever the library makes of a dead broker: we know nothing of this record
            writer.failed(number, type(error).__name__)

    while not stop.asked:
        if len(under_way) < UNDER_WAY_MAX:
            number, topic, key, value = writer.next()
            try:  # one after the other: what is handed over in this order must lie in this order
                delivery = await client.send(topic, value, key=key)
            except FAILURES as error:
                writer.failed(number, type(error).__name__)
            else:
                task = asyncio.create_task(told(number, delivery))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
        await asyncio.sleep(pace.wait_seconds())
    if under_way:
        await asyncio.wait(under_way, timeout=DRAIN_SECONDS)
    await _stopped(client, history)


class _Listener(ConsumerRebalanceListener):
    def __init__(self, reader: Reader):
        self._reader = reader

    def on_partitions_revoked(self, revoked) -> None:
        self._reader.positions = {}

    def on_partitions_assigned(self, assigned) -> None:
        self._reader.assigned((each.topic, each.partition) for each in assigned)


async def consumer(spec: dict, history: Recorder, stop: Stop) -> None:
    reader, visits = Reader(spec, history), Visits(spec, stop)
    for _ in visits:
        client = AIOKafkaConsumer(
            bootstrap_servers=spec["bootstrap"], group_id=spec["group"], enable_auto_commit=False, auto_offset_reset="earliest",
            session_timeout_ms=1_500, heartbeat_interval_ms=300, client_id=spec["name"], request_timeout_ms=5_000,
            retry_backoff_ms=50, fetch_max_wait_ms=50, metadata_max_age_ms=2_000)
        client.subscribe(spec["topics"], listener=_Listener(reader))
        if not await _started(client, stop):
            return
        while not visits.over:
            try:
                batches = await client.getmany(timeout_ms=200)
            except FAILURES as error:
                reader.error("poll", error)
                await asyncio.sleep(0.1)
                continue
            for where, messages in batches.items():
                for message in messages:
                    reader.seen(where.topic, where.partition, message.offset, message.value)
            for topic, partition, offset in reader.to_commit():
                try:
                    await asyncio.wait_for(client.commit({TopicPartition(topic, partition): offset}), 5)
                    reader.committed()
                except FAILURES as error:
                    reader.uncommitted(type(error).__name__)
        await _stopped(client, history)


async def _started(client, stop: Stop) -> bool:
    while not stop.asked:
        try:
            await client.start()
            return True
        except FAILURES:  # the broker may be down at this moment, too
            await asyncio.sleep(0.1)
    return False


async def _stopped(client, history: Recorder) -> None:
    try:
        await asyncio.wait_for(client.stop(), 3)
    except FAILURES as error:
        history.write("error", error=f"stop: {type(error).__name__}")
