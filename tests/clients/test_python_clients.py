"""Can the three Python clients work with the broker? kafka-python, confluent-kafka (librdkafka), aiokafka.

Each against a real broker process, fast enough for every run: every codec, headers, null keys and values, seek by time,
admin, and what a client is told when it asks for something wrong. (More clients and longer scenarios: `scenarios.py`.)
"""

import asyncio
import uuid

import aiokafka
import aiokafka.admin
import aiokafka.errors
import confluent_kafka as ck
import confluent_kafka.admin as ck_admin
import kafka
import kafka.admin
import kafka.codec
import kafka.errors
import pytest
from aiokafka.admin.records_to_delete import RecordsToDelete

from refbroker import testing

SECONDS_MAX = 60
NOW_MS = 1_795_446_000_000
RECORDS = [  # key, value, headers, timestamp
    (b"k0", b"plain", [], NOW_MS),
    (None, b"no key", [("h", b"x"), ("h", b""), ("\u00fc", "\u00e9".encode())], NOW_MS + 10),
    (b"k2", None, [], NOW_MS + 20),
    (b"", b"", [("empty", b"")], NOW_MS + 30),
    (b"k4", b"long " * 500, [], NOW_MS + 40),
]


@pytest.fixture(scope="module")
def bootstrap():
    config = {"auto.create.topics.enable": False, "log.message.timestamp.after.max.ms": 2**62}
    with testing.broker(config=config) as broker:
        yield broker.bootstrap


@pytest.fixture
def topic(bootstrap):
    name = f"t-{uuid.uuid4().hex[:8]}"
    admin = ck_admin.AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([ck_admin.NewTopic(name, 2, 1)])[name].result(SECONDS_MAX)
    return name


# ---------------------------------------------------------------- records


KAFKA_PYTHON_CODECS = [  # it brings none but gzip
    None, *(name for name in ("gzip", "snappy", "lz4", "zstd") if getattr(kafka.codec, f"has_{name}")()),
]  # fmt: skip


def test_kafka_python_produces_and_reads_with_every_codec_that_it_has(bootstrap, topic):
    for number, codec in enumerate(KAFKA_PYTHON_CODECS):
        with kafka.KafkaProducer(
            bootstrap_servers=bootstrap, compression_type=codec, acks="all", linger_ms=20
        ) as producer:
            sent = [
                producer.send(topic, value, key, headers=headers, partition=0, timestamp_ms=ts)
                for key, value, headers, ts in RECORDS
            ]
            offsets = [future.get(SECONDS_MAX).offset for future in sent]
        assert offsets == list(range(number * 5, number * 5 + 5))
        with kafka.KafkaConsumer(
            bootstrap_servers=bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=1000 * SECONDS_MAX
        ) as consumer:
            place = kafka.TopicPartition(topic, 0)
            consumer.assign([place])
            consumer.seek(place, offsets[0])
            got = [next(consumer) for _ in RECORDS]
            assert [(r.key, r.value, list(r.headers), r.timestamp) for r in got] == RECORDS
            assert consumer.end_offsets([place])[place] == offsets[-1] + 1


@pytest.mark.parametrize("codec", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_librdkafka_produces_and_reads(bootstrap, topic, codec):
    delivered = []
    settings = {"bootstrap.servers": bootstrap, "compression.type": codec, "enable.idempotence": True, "linger.ms": 20}
    producer = ck.Producer(settings)
    for key, value, headers, timestamp in RECORDS:
        producer.produce(topic, value, key, partition=1, headers=headers, timestamp=timestamp,
                         on_delivery=lambda error, message: delivered.append((error, message.offset())))  # fmt: skip
    assert producer.flush(SECONDS_MAX) == 0
    assert delivered == [(None, offset) for offset in range(5)]
    consumer = ck.Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "unused", "check.crcs": True, "auto.offset.reset": "error"}
    )
    consumer.assign([ck.TopicPartition(topic, 1, 0)])
    got = _take(consumer, 5)
    assert [(m.key(), m.value(), m.headers() or [], m.timestamp()[1]) for m in got] == RECORDS
    assert consumer.get_watermark_offsets(ck.TopicPartition(topic, 1)) == (0, 5)
    consumer.close()


def _take(consumer: ck.Consumer, count: int) -> list[ck.Message]:
    messages = []
    while len(messages) < count:
        message = consumer.poll(SECONDS_MAX)
        assert message is not None, f"only {len(messages)} of {count} records within {SECONDS_MAX} s"
        assert message.error() is None, message.error()
        messages.append(message)
    return messages


@pytest.mark.parametrize("codec", [None, "gzip", "snappy", "lz4", "zstd"])
def test_aiokafka_produces_and_reads(bootstrap, topic, codec):
    async def run() -> None:
        producer = aiokafka.AIOKafkaProducer(
            bootstrap_servers=bootstrap, compression_type=codec, enable_idempotence=True, linger_ms=20
        )
        async with producer:
            sent = [
                await producer.send(topic, v, k, partition=0, headers=h, timestamp_ms=ts) for k, v, h, ts in RECORDS
            ]
            assert [(await future).offset for future in sent] == list(range(5))
        async with aiokafka.AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="none") as consumer:
            place = aiokafka.TopicPartition(topic, 0)
            consumer.assign([place])
            consumer.seek(place, 0)
            got = [await asyncio.wait_for(consumer.getone(), SECONDS_MAX) for _ in RECORDS]
            assert [(r.key, r.value, list(r.headers), r.timestamp) for r in got] == RECORDS

    asyncio.run(run())


# ---------------------------------------------------------------- seek by time


def _fill(bootstrap: str, topic: str) -> None:
    producer = ck.Producer({"bootstrap.servers": bootstrap})
    for number in range(100):
        producer.produce(topic, str(number), partition=0, timestamp=NOW_MS + 10 * number)
        if number % 7 == 0:
            producer.flush(SECONDS_MAX)
    assert producer.flush(SECONDS_MAX) == 0


def test_all_three_seek_by_time(bootstrap, topic):
    _fill(bootstrap, topic)
    expected = {NOW_MS - 5: 0, NOW_MS: 0, NOW_MS + 1: 1, NOW_MS + 500: 50, NOW_MS + 990: 99, NOW_MS + 991: None}
    with kafka.KafkaConsumer(bootstrap_servers=bootstrap) as consumer:
        place = kafka.TopicPartition(topic, 0)
        for timestamp, offset in expected.items():
            found = consumer.offsets_for_times({place: timestamp})[place]
            assert (found.offset if found else None) == offset
        assert consumer.beginning_offsets([place]) == {place: 0}
    rd = ck.Consumer({"bootstrap.servers": bootstrap, "group.id": "unused"})
    for timestamp, offset in expected.items():
        (found,) = rd.offsets_for_times([ck.TopicPartition(topic, 0, timestamp)], SECONDS_MAX)
        assert found.offset == (ck.OFFSET_END if offset is None else offset)
    rd.close()

    async def run() -> None:
        async with aiokafka.AIOKafkaConsumer(bootstrap_servers=bootstrap) as aio:
            place = aiokafka.TopicPartition(topic, 0)
            for timestamp, offset in expected.items():
                found = (await aio.offsets_for_times({place: timestamp}))[place]
                assert (found.offset if found else None) == offset

    asyncio.run(run())


# ---------------------------------------------------------------- admin


def test_kafka_python_admin(bootstrap):
    name = f"kp-{uuid.uuid4().hex[:8]}"
    admin = kafka.admin.KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        admin.create_topics({name: {"num_partitions": 2, "replication_factor": 1, "configs": {"retention.ms": "5000"}}})
        with pytest.raises(kafka.errors.TopicAlreadyExistsError):
            admin.create_topics({name: {"num_partitions": 1, "replication_factor": 1}})
        with pytest.raises(kafka.errors.InvalidReplicationFactorError):
            admin.create_topics({name + "x": {"num_partitions": 1, "replication_factor": 2}})
        assert name in admin.list_topics()
        (described,) = admin.describe_topics([name])
        assert len(described["partitions"]) == 2
        resource = kafka.admin.ConfigResource("TOPIC", name)
        assert _values(admin.describe_configs([resource]))["retention.ms"] == "5000"
        admin.alter_configs(
            [kafka.admin.ConfigResource("TOPIC", name, {"retention.ms": "6000", "segment.bytes": "2097152"})]
        )
        assert _values(admin.describe_configs([resource])) == {"retention.ms": "6000", "segment.bytes": "2097152"}
        admin.create_partitions({name: 4})
        assert len(admin.describe_topics([name])[0]["partitions"]) == 4
        _fill(bootstrap, name)
        place = kafka.TopicPartition(name, 0)
        assert admin.delete_records({place: 40})[place]["low_watermark"] == 40
        sizes = admin.describe_log_dirs({name: [0]})
        assert name in str(sizes)
        assert admin.describe_cluster()["controller_id"] == 1
        admin.delete_topics([name])
        with pytest.raises(kafka.errors.UnknownTopicOrPartitionError):
            admin.delete_topics([name])
    finally:
        admin.close()


def _values(described: dict) -> dict[str, str]:
    """key -> value of the one resource in kafka-python's answer."""
    ((configs,),) = [list(by_name.values()) for by_name in described.values()]
    return {key: config["value"] for key, config in configs.items()}


def test_librdkafka_admin(bootstrap):
    name = f"ck-{uuid.uuid4().hex[:8]}"
    admin = ck_admin.AdminClient({"bootstrap.servers": bootstrap})

    def done(futures):
        return {key: future.result(SECONDS_MAX) for key, future in futures.items()}

    def refused(futures) -> str:
        with pytest.raises(ck.KafkaException) as error:
            done(futures)
        return error.value.args[0].name()

    done(admin.create_topics([ck_admin.NewTopic(name, 2, 1, config={"retention.ms": "5000"})]))
    assert refused(admin.create_topics([ck_admin.NewTopic(name, 1, 1)])) == "TOPIC_ALREADY_EXISTS"
    assert refused(admin.create_topics([ck_admin.NewTopic(name + "x", 1, 3)])) == "INVALID_REPLICATION_FACTOR"
    assert refused(admin.create_topics([ck_admin.NewTopic("no/good", 1, 1)])) == "TOPIC_EXCEPTION"
    assert (
        refused(admin.create_topics([ck_admin.NewTopic(name + "x", 1, 1, config={"no.such": "1"})])) == "INVALID_CONFIG"
    )
    done(admin.create_topics([ck_admin.NewTopic(name + "x", 1, 1)], validate_only=True))
    assert set(admin.list_topics(timeout=SECONDS_MAX).topics) & {name, name + "x"} == {name}
    resource = ck_admin.ConfigResource(ck_admin.ConfigResource.Type.TOPIC, name)
    (configs,) = done(admin.describe_configs([resource])).values()
    assert (configs["retention.ms"].value, configs["retention.ms"].source) == (
        "5000",
        ck_admin.ConfigSource.DYNAMIC_TOPIC_CONFIG.value,
    )
    assert configs["segment.bytes"].is_default
    entry = ck_admin.ConfigEntry("flush.messages", "7", incremental_operation=ck_admin.AlterConfigOpType.SET)
    done(
        admin.incremental_alter_configs(
            [ck_admin.ConfigResource(ck_admin.ConfigResource.Type.TOPIC, name, incremental_configs=[entry])]
        )
    )
    (configs,) = done(admin.describe_configs([resource])).values()
    assert (configs["flush.messages"].value, configs["retention.ms"].value) == ("7", "5000")
    broker = ck_admin.ConfigResource(ck_admin.ConfigResource.Type.BROKER, "1")
    (configs,) = done(admin.describe_configs([broker])).values()
    assert configs["num.partitions"].is_read_only
    done(admin.create_partitions([ck_admin.NewPartitions(name, 3)]))
    assert refused(admin.create_partitions([ck_admin.NewPartitions(name, 3)])) == "INVALID_PARTITIONS"
    _fill(bootstrap, name)
    (deleted,) = done(admin.delete_records([ck.TopicPartition(name, 0, 30)])).values()
    assert deleted.low_watermark == 30
    assert refused(admin.delete_records([ck.TopicPartition(name, 0, 1000)])) == "OFFSET_OUT_OF_RANGE"
    cluster = admin.describe_cluster().result(SECONDS_MAX)
    assert [node.id for node in cluster.nodes] == [1]
    done(admin.delete_topics([name]))
    assert refused(admin.delete_topics([name])) == "UNKNOWN_TOPIC_OR_PART"


def test_aiokafka_admin(bootstrap):
    name = f"aio-{uuid.uuid4().hex[:8]}"

    async def run() -> None:
        admin = aiokafka.admin.AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        try:
            wanted = aiokafka.admin.NewTopic(name, 2, 1, topic_configs={"retention.ms": "5000"})
            for code in (0, 36):
                assert (await admin.create_topics([wanted])).topic_errors[0][1] == code
            assert name in await admin.list_topics()
            resource = aiokafka.admin.config_resource.ConfigResource("topic", name)
            (answer,) = await admin.describe_configs([resource])
            assert {entry[0]: entry[1] for entry in answer.resources[0][4]}["retention.ms"] == "5000"
            await admin.alter_configs(
                [aiokafka.admin.config_resource.ConfigResource("topic", name, {"retention.ms": "6000"})]
            )
            (answer,) = await admin.describe_configs([resource])
            assert {entry[0]: entry[1] for entry in answer.resources[0][4]}["retention.ms"] == "6000"
            await admin.create_partitions({name: aiokafka.admin.NewPartitions(3)})
            (described,) = await admin.describe_topics([name])
            assert len(described["partitions"]) == 3
            _fill(bootstrap, name)
            place = aiokafka.TopicPartition(name, 0)
            assert await admin.delete_records({place: RecordsToDelete(20)}) == {place: 20}
            assert (await admin.delete_topics([name])).topic_error_codes == [(name, 0)]
        finally:
            await admin.close()

    asyncio.run(run())


# ---------------------------------------------------------------- what is refused


def test_kafka_python_is_told_what_is_wrong(bootstrap, topic):
    settings = {"max_request_size": 1 << 24, "enable_idempotence": False}  # else the first error is its last
    with kafka.KafkaProducer(bootstrap_servers=bootstrap, **settings) as producer:
        with pytest.raises(kafka.errors.MessageSizeTooLargeError):
            producer.send(topic, bytes(2_000_000), partition=0).get(SECONDS_MAX)
        assert producer.send(topic, b"small", partition=0).get(SECONDS_MAX).offset == 0
    with kafka.KafkaProducer(bootstrap_servers=bootstrap, max_block_ms=1500) as impatient:
        with pytest.raises(kafka.errors.KafkaTimeoutError):
            impatient.send("not-there", b"x").get(SECONDS_MAX)
    with kafka.KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="none") as consumer:
        place = kafka.TopicPartition(topic, 0)
        consumer.assign([place])
        consumer.seek(place, 99)
        with pytest.raises(kafka.errors.OffsetOutOfRangeError):
            for _ in range(2 * SECONDS_MAX):
                consumer.poll(500)


def test_librdkafka_is_told_what_is_wrong(bootstrap, topic):
    errors = []
    producer = ck.Producer({"bootstrap.servers": bootstrap, "message.max.bytes": 1 << 24, "message.timeout.ms": 1000 * SECONDS_MAX})
    for wanted, size in ((topic, 2_000_000), (topic, 10)):
        producer.produce(wanted, bytes(size), partition=0, on_delivery=lambda error, _: errors.append(error))
        producer.flush(SECONDS_MAX)
    assert [error.name() if error else None for error in errors] == ["MSG_SIZE_TOO_LARGE", None]
    consumer = ck.Consumer({"bootstrap.servers": bootstrap, "group.id": "unused", "auto.offset.reset": "error"})
    consumer.assign([ck.TopicPartition(topic, 0, 99)])
    message = consumer.poll(SECONDS_MAX)
    assert message.error().name() == "_AUTO_OFFSET_RESET"
    consumer.close()


def test_aiokafka_is_told_what_is_wrong(bootstrap, topic):
    async def run() -> None:
        async with aiokafka.AIOKafkaProducer(bootstrap_servers=bootstrap, max_request_size=1 << 24) as producer:
            with pytest.raises(aiokafka.errors.MessageSizeTooLargeError):
                await producer.send_and_wait(topic, bytes(2_000_000), partition=0)
            assert (await producer.send_and_wait(topic, b"small", partition=0)).offset == 0
        async with aiokafka.AIOKafkaProducer(bootstrap_servers=bootstrap, request_timeout_ms=1500) as impatient:
            with pytest.raises((aiokafka.errors.UnknownTopicOrPartitionError, aiokafka.errors.KafkaTimeoutError)):
                await impatient.send_and_wait("not-there", b"x")
        async with aiokafka.AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="none") as consumer:
            place = aiokafka.TopicPartition(topic, 0)
            consumer.assign([place])
            consumer.seek(place, 99)
            with pytest.raises(aiokafka.errors.OffsetOutOfRangeError):
                await asyncio.wait_for(consumer.getone(), SECONDS_MAX)

    asyncio.run(run())
