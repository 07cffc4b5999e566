"""Consumer groups with three client libraries that share no code: rebalances, static members, commits over restarts."""

import asyncio
import time

import aiokafka
import confluent_kafka
import confluent_kafka.admin
import kafka
import kafka.admin
import pytest

from refbroker.testing import broker

TOPIC, PARTITIONS, RECORDS = "t", 4, 40
SECONDS_MAX = 60
SESSION_MS = 120_000  # so long that no test passes by its end, and none fails because a busy machine kept a heartbeat from it
FAST = {"group.min.session.timeout.ms": 500}


@pytest.fixture(scope="module")
def running():
    with broker(topics={TOPIC: PARTITIONS}, config=FAST) as b:
        producer = confluent_kafka.Producer({"bootstrap.servers": b.bootstrap})
        for n in range(RECORDS):
            producer.produce(TOPIC, str(n), partition=n % PARTITIONS)
        assert producer.flush(SECONDS_MAX) == 0
        yield b


def until(condition, poll=lambda: time.sleep(0.02)):
    """Poll until the condition holds."""
    deadline = time.monotonic() + SECONDS_MAX
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        poll()


def librdkafka(bootstrap, group, **config):
    consumer = confluent_kafka.Consumer({
        "bootstrap.servers": bootstrap, "group.id": group, "auto.offset.reset": "earliest", "enable.auto.commit": False,
        "session.timeout.ms": SESSION_MS, "heartbeat.interval.ms": 200, "reconnect.backoff.max.ms": 100, **config,
    })  # fmt: skip
    consumer.subscribe([TOPIC])
    return consumer


def owned(consumers):
    return sorted(tp.partition for consumer in consumers for tp in consumer.assignment())


def poll_all(consumers):
    for consumer in consumers:
        message = consumer.poll(0.02)
        assert message is None or message.error() is None, message.error()


def everything_is_shared(consumers):
    return owned(consumers) == list(range(PARTITIONS)) and all(consumer.assignment() for consumer in consumers)


@pytest.mark.parametrize("strategy", ["range", "cooperative-sticky"])
def test_two_librdkafka_members_share_and_take_over(running, strategy):
    config = {"partition.assignment.strategy": strategy}
    consumers = [librdkafka(running.bootstrap, f"lib-{strategy}", **config)]
    until(lambda: everything_is_shared(consumers), lambda: poll_all(consumers))
    consumers.append(librdkafka(running.bootstrap, f"lib-{strategy}", **config))
    until(lambda: everything_is_shared(consumers), lambda: poll_all(consumers))
    consumers.pop(0).close()
    until(lambda: everything_is_shared(consumers), lambda: poll_all(consumers))
    consumers[0].close()


def test_static_librdkafka_member_restarts_without_rebalance(running):
    rebalances = []
    other = librdkafka(running.bootstrap, "static", **{"group.instance.id": "stays"})
    other.subscribe([TOPIC], on_assign=lambda _, parts: rebalances.append(len(parts)))
    restarted = librdkafka(running.bootstrap, "static", **{"group.instance.id": "restarts"})
    consumers = [other, restarted]
    until(lambda: everything_is_shared(consumers), lambda: poll_all(consumers))
    before, count = owned([restarted]), len(rebalances)
    restarted.close()
    consumers[1] = librdkafka(running.bootstrap, "static", **{"group.instance.id": "restarts"})
    until(lambda: everything_is_shared(consumers), lambda: poll_all(consumers))
    assert owned([consumers[1]]) == before and len(rebalances) == count
    admin = kafka.KafkaAdminClient(bootstrap_servers=running.bootstrap)
    described = admin.describe_groups(["static"])["static"]
    assert {member["group_instance_id"] for member in described["members"]} == {"stays", "restarts"}
    admin.close()
    for consumer in consumers:
        consumer.close()


def kafka_python(bootstrap, group):
    consumer = kafka.KafkaConsumer(
        TOPIC, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False,
        heartbeat_interval_ms=200, session_timeout_ms=SESSION_MS, max_poll_records=5,
    )  # fmt: skip
    # A leader that joins before it knows the topic joins again when it does, and kafka-python 3.0 drops the answer to that
    # if a poll ends meanwhile: it stays without partitions for ever.
    assert len(consumer.partitions_for_topic(TOPIC)) == PARTITIONS
    return consumer


def test_two_kafka_python_members(running):
    consumers = [kafka_python(running.bootstrap, "kp")]

    def poll():
        for consumer in consumers:
            consumer.poll(timeout_ms=50)

    until(lambda: len(consumers[0].assignment()) == PARTITIONS, poll)
    consumers.append(kafka_python(running.bootstrap, "kp"))
    until(lambda: all(consumer.assignment() for consumer in consumers) and len(consumers[0].assignment()) < PARTITIONS, poll)
    assert sorted(tp.partition for c in consumers for tp in c.assignment()) == list(range(PARTITIONS))
    for consumer in consumers:
        consumer.close()


def test_two_aiokafka_members(running):
    async def main():
        def consumer():
            return aiokafka.AIOKafkaConsumer(
                TOPIC, bootstrap_servers=running.bootstrap, group_id="aio", auto_offset_reset="earliest",
                enable_auto_commit=False, heartbeat_interval_ms=200, session_timeout_ms=SESSION_MS,
            )  # fmt: skip

        consumers = [consumer(), consumer()]
        await consumers[0].start()
        await consumers[1].start()
        async with asyncio.timeout(SECONDS_MAX):
            while sorted(tp.partition for c in consumers for tp in c.assignment()) != list(range(PARTITIONS)) or not all(
                c.assignment() for c in consumers
            ):
                for c in consumers:
                    await c.getmany(timeout_ms=50)
        for c in consumers:
            await c.stop()

    asyncio.run(main())


def committed(consumer):
    partitions = [confluent_kafka.TopicPartition(TOPIC, n) for n in range(PARTITIONS)]
    return [tp.offset for tp in consumer.committed(partitions, timeout=SECONDS_MAX)]


@pytest.mark.parametrize("kill", [False, True], ids=["clean stop", "SIGKILL"])
def test_commit_and_resume_over_a_restart(kill):
    """A member that lives on keeps its place and its generation; one that comes back reads from where it committed."""
    with broker(topics={TOPIC: PARTITIONS}, config=FAST) as b:
        producer = confluent_kafka.Producer({"bootstrap.servers": b.bootstrap})
        for n in range(RECORDS):
            producer.produce(TOPIC, str(n), partition=n % PARTITIONS)
        assert producer.flush(SECONDS_MAX) == 0
        consumer = librdkafka(b.bootstrap, "g")
        read = []
        until(lambda: len(read) >= RECORDS // 2, lambda: read.extend(consumer.consume(1, timeout=0.1)))
        assert all(message.error() is None for message in read)
        consumer.commit(asynchronous=False)
        before = committed(consumer)
        assert sum(offset for offset in before if offset > 0) == len(read)
        b.kill() if kill else b.stop()
        b.start()
        until(lambda: len(read) >= RECORDS, lambda: read.extend(m for m in consumer.consume(1, timeout=0.1) if not m.error()))
        assert committed(consumer) == before
        consumer.close()
        again = librdkafka(b.bootstrap, "g")
        rest = []
        until(lambda: len(rest) >= RECORDS // 2, lambda: rest.extend(again.consume(1, timeout=0.1)))
        again.close()
        seen = {(m.partition(), m.offset()) for m in rest}
        assert seen == {(p, o) for p in range(PARTITIONS) for o in range(max(before[p], 0), RECORDS // PARTITIONS)}


def test_administration(running):
    admin = confluent_kafka.admin.AdminClient({"bootstrap.servers": running.bootstrap})
    consumer = librdkafka(running.bootstrap, "adm")
    until(lambda: owned([consumer]) == list(range(PARTITIONS)), lambda: poll_all([consumer]))
    consumer.commit(offsets=[confluent_kafka.TopicPartition(TOPIC, 1, 7, metadata="é")], asynchronous=False)
    described = admin.describe_consumer_groups(["adm"])["adm"].result()
    assert described.state == confluent_kafka.ConsumerGroupState.STABLE and len(described.members) == 1
    listed = admin.list_consumer_groups(states={confluent_kafka.ConsumerGroupState.STABLE}).result()
    assert "adm" in {group.group_id for group in listed.valid} and not listed.errors
    with pytest.raises(confluent_kafka.KafkaException) as refused:
        admin.delete_consumer_groups(["adm"])["adm"].result()
    assert refused.value.args[0].code() == confluent_kafka.KafkaError.NON_EMPTY_GROUP
    consumer.close()
    asked = confluent_kafka.ConsumerGroupTopicPartitions("adm")
    (found,) = admin.list_consumer_group_offsets([asked])["adm"].result().topic_partitions
    assert (found.topic, found.partition, found.offset, found.metadata) == (TOPIC, 1, 7, "é")
    admin.delete_consumer_groups(["adm"])["adm"].result()
    with pytest.raises(confluent_kafka.KafkaException) as refused:
        admin.delete_consumer_groups(["adm"])["adm"].result()
    assert refused.value.args[0].code() == confluent_kafka.KafkaError.GROUP_ID_NOT_FOUND
