"""Does the metadata log keep what it acknowledged, in every state that a crash can leave? (C9.5, C9.6)

The whole store runs on the simulated disk. A story of changes is crashed after each of its disk effects, and opened
again from every state that the disk may then be in: what is found is the state after the last acknowledged change or
after the one under way, never a mixture, never an older one.
"""

import asyncio
import random
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.disk.faults import Fault, Injector
from chaos.disk.model import SimDisk
from chaos.disk.profiles import BY_NAME, Platters
from chaos.disk.spaces import Space
from refbroker.broker import Broker
from refbroker.config import Config
from refbroker.errors import ErrorCode, KafkaError
from refbroker.log import records
from refbroker.log.directory import StartupError
from refbroker.metadata_records import TOPIC, Resource, Topic, encode, topic_entries
from refbroker.topic_rules import CLUSTER_METADATA, NewTopic

STATES_PER_CRASH_POINT = 3  # beside the two in which everything pending was kept, and lost
NOW_MS = 1_795_446_000_000


def opened(disk, *overrides: str) -> Broker:
    config, _ = Config.load(None, {}, ["log.dirs=/data", *overrides])
    broker = Broker(config, disk, lambda: NOW_MS)
    broker.logs.open(broker.metadata.load)
    return broker


async def configure(store, topic, configs):
    await store.alter_configs(Resource.TOPIC, topic, lambda _: configs)


async def started(disk, *overrides: str) -> Broker:
    broker = opened(disk, *overrides)
    await broker.metadata.start()
    return broker


def seen(broker: Broker) -> dict:
    """What clients would be told: name -> (partitions, configs)."""
    return {name: (topic.partitions, dict(topic.configs)) for name, topic in broker.metadata.topics.items()}


def assert_directories_agree(broker: Broker) -> None:
    there = {
        place: partition.topic_id for place, partition in broker.logs.partitions.items() if place[0] != CLUSTER_METADATA
    }
    told = {
        (topic.name, number): topic.topic_id
        for topic in broker.metadata.topics.values()
        for number in range(topic.partitions)
    }
    assert there == told


def one_record() -> bytearray:
    return records.build([records.Record(0, NOW_MS, b"key", b"value", [])])


# ---------------------------------------------------------------- the crash sweep


async def _story(disk: SimDisk) -> None:
    """Marks carry (state, ids) as acknowledged; `going` marks say what the change under way leads to."""
    broker = await started(disk)
    store = broker.metadata

    async def change(after: dict, work) -> None:
        disk.mark(("going", after))
        await work
        assert seen(broker) == after
        disk.mark(("acked", after, {name: topic.topic_id for name, topic in store.topics.items()}))

    await change({"a": (2, {"retention.ms": "5000"})}, store.create_topic("a", 2, {"retention.ms": "5000"}))
    broker.logs.partitions["a", 0].append(one_record(), NOW_MS)
    await change({}, store.delete_topic("a"))
    await change({"a": (1, {})}, store.create_topic("a", 1))
    await change({"a": (3, {})}, store.create_partitions("a", 3))
    await change({"a": (3, {"flush.messages": "7"})}, configure(store, "a", {"flush.messages": "7"}))
    await change(seen(broker), store.next_producer_id())
    both = {"a": (3, {"flush.messages": "7"}), "b": (1, {}), "c": (2, {})}
    await change(both, store.create_topics([NewTopic("b", 1), NewTopic("c", 2)]))
    await change({"b": (1, {}), "c": (2, {})}, store.delete_topic("a"))
    await broker.flusher.stop()


async def _check_state(image: dict, acked, going, ids_given: int) -> None:
    disk = SimDisk(image, sites=False)
    broker = await started(disk)
    found = seen(broker)
    assert found in (acked[1], going), f"acknowledged {acked[1]}, under way {going}, found {found}"
    for name, topic in broker.metadata.topics.items():
        if found[name] == acked[1].get(name) and going == acked[1]:
            assert topic.topic_id == acked[2][name]
        log_ends = [broker.logs.partitions[name, number].log_end_offset for number in range(topic.partitions)]
        assert not any(log_ends) or found[name][0] == 2 and name == "a", (
            "a topic created again has adopted an old directory"
        )
    assert_directories_agree(broker)
    assert await broker.metadata.next_producer_id() >= ids_given, "a producer id was given out twice"
    await broker.flusher.stop()
    again = await started(SimDisk(disk.view(), sites=False))
    assert seen(again) == found
    await again.flusher.stop()


@pytest.mark.parametrize("profile", ["posix", "journal"])
def test_every_crash_state_has_the_acknowledged_changes_whole(profile):
    disk = SimDisk({"/unrelated": b""})
    asyncio.run(_story(disk))
    platters = Platters(disk, BY_NAME[profile].commit)
    acked, going, ids_given, digests = ("acked", {}, {}), {}, 0, set()
    rng = random.Random(7)

    async def sweep() -> None:
        nonlocal acked, going, ids_given
        for event in disk.events:
            platters.feed(event)
            if event.kind == "mark":
                if event.note[0] == "going":
                    going = event.note[1]
                else:
                    ids_given += (
                        acked[1] == event.note[1] and acked is not event.note
                    )  # the one change that changes no topic
                    acked = event.note
            states = list(Space(BY_NAME[profile], platters, rng).states(STATES_PER_CRASH_POINT))
            for state in states[:2] + rng.sample(states[2:], min(STATES_PER_CRASH_POINT, len(states[2:]))):
                key = (state.digest, id(acked), id(going))
                if key not in digests:
                    digests.add(key)
                    await _check_state(state.image(), acked, going, ids_given)

    asyncio.run(sweep())
    assert len(digests) > 100  # the faults did bite


def test_what_a_start_acts_upon_is_durable():
    """A record that a killed process left in the page cache leads to directories: a power cut must not take it then."""

    async def run() -> None:
        disk = SimDisk({"/unrelated": b""})
        broker = await started(disk)
        topic_id = uuid.uuid4()
        entries = topic_entries(Topic("a", topic_id, 1), 1, uuid.uuid4())
        batch = _batch([encode(*entry) for entry in entries])
        broker.logs.partitions[CLUSTER_METADATA, 0].append(batch, NOW_MS)  # and no flush
        await broker.flusher.stop()
        disk.kill()
        again = await started(disk)
        assert again.logs.partitions["a", 0].topic_id == topic_id
        await again.flusher.stop()
        platters = Platters(disk, BY_NAME["posix"].commit)
        for event in disk.events:
            platters.feed(event)
        last = await started(SimDisk(platters.durable_image()))
        assert last.metadata.topics["a"].topic_id == topic_id
        assert_directories_agree(last)
        await last.flusher.stop()

    asyncio.run(run())


# ---------------------------------------------------------------- laws


NAMES = st.sampled_from(["a", "b", "c"])
COMMANDS = st.lists(
    st.one_of(
        st.tuples(st.just("create"), NAMES, st.integers(1, 3), st.sampled_from([{}, {"retention.ms": "1"}])),
        st.tuples(st.just("delete"), NAMES),
        st.tuples(st.just("grow"), NAMES, st.integers(0, 5)),
        st.tuples(
            st.just("configure"), NAMES, st.sampled_from([{}, {"segment.bytes": "2097152"}, {"flush.messages": "1"}])
        ),
        st.tuples(st.just("restart")),
        st.tuples(st.just("kill")),
    ),
    max_size=14,
)


@settings(max_examples=60, deadline=None)
@given(COMMANDS)
def test_changes_and_restarts_in_any_order_follow_a_model(commands):
    async def run() -> None:
        disk, model, given = SimDisk(sites=False), {}, -1
        broker = await started(disk)
        for command, *details in commands:
            expected = _apply_to_model(model, command, *details)
            code = None
            try:
                store = broker.metadata
                if command == "create":
                    await store.create_topic(*details)
                elif command == "delete":
                    await store.delete_topic(*details)
                elif command == "grow":
                    await store.create_partitions(*details)
                elif command == "configure":
                    await configure(store, *details)
                else:
                    await broker.flusher.stop()
                    if command == "restart":
                        broker.logs.close(clean=True)
                    else:
                        disk.kill()
                    broker = await started(disk)
            except KafkaError as error:
                code = error.code
            assert code == expected
            assert seen(broker) == model
            assert_directories_agree(broker)
            producer_id = await broker.metadata.next_producer_id()
            assert producer_id > given
            given = producer_id
        await broker.flusher.stop()

    asyncio.run(run())


def _apply_to_model(model: dict, command: str, name: str = "", *details) -> ErrorCode | None:
    if command == "create":
        if name in model:
            return ErrorCode.TOPIC_ALREADY_EXISTS
        model[name] = (details[0], details[1])
    elif command in ("delete", "grow", "configure") and name not in model:
        return ErrorCode.UNKNOWN_TOPIC_OR_PARTITION
    elif command == "delete":
        del model[name]
    elif command == "grow":
        if details[0] <= model[name][0]:
            return ErrorCode.INVALID_PARTITIONS
        model[name] = (details[0], model[name][1])
    elif command == "configure":
        model[name] = (model[name][0], details[0])
    return None


def test_one_change_is_one_batch_one_flush_and_only_then_directories():
    async def run() -> None:
        disk = SimDisk()
        broker = await started(disk)
        first = len(disk.events)
        await broker.metadata.create_topics([NewTopic("a", 3, {"retention.ms": "1"}), NewTopic("b", 2)])
        events = [event for event in disk.events[first:] if CLUSTER_METADATA in event.path or event.kind == "mkdir"]
        assert [event.kind for event in events] == ["append", "sync"] + ["mkdir"] * 5
        await broker.flusher.stop()

    asyncio.run(run())


def test_a_client_that_hangs_up_does_not_interrupt_a_change():
    async def run() -> None:
        broker = await started(SimDisk(sites=False))
        impatient = asyncio.create_task(broker.metadata.create_topic("a", 1))
        await asyncio.sleep(0)
        impatient.cancel()
        with pytest.raises(asyncio.CancelledError):
            await impatient
        with pytest.raises(KafkaError, match="TOPIC_ALREADY_EXISTS"):
            await broker.metadata.create_topic("a", 1)
        assert_directories_agree(broker)
        await broker.flusher.stop()

    asyncio.run(run())


def test_concurrent_changes_are_made_one_after_the_other():
    async def run() -> None:
        disk = SimDisk(sites=False)
        broker = await started(disk)
        outcomes = await asyncio.gather(
            *(broker.metadata.create_topic("same", 1) for _ in range(5)),
            *(broker.metadata.next_producer_id() for _ in range(2500)),
            return_exceptions=True,
        )
        assert sum(isinstance(outcome, KafkaError) for outcome in outcomes[:5]) == 4
        assert sorted(outcomes[5:]) == list(range(2500))
        await broker.flusher.stop()
        disk.kill()
        again = await started(disk)
        assert await again.metadata.next_producer_id() == 3000  # a started block is never resumed
        await again.flusher.stop()

    asyncio.run(run())


def test_a_failed_flush_acknowledges_nothing():
    async def run() -> None:
        disk = SimDisk(sites=False)
        broker = await started(disk)
        await broker.metadata.create_topic("before", 1)
        disk.injector = Injector(Fault("sync-eio-kept", 1, file_kind="log"))
        with pytest.raises(KafkaError, match="KAFKA_STORAGE_ERROR"):
            await broker.metadata.create_topic("after", 1)
        assert seen(broker) == {"before": (1, {})}
        with pytest.raises(KafkaError, match="KAFKA_STORAGE_ERROR"):
            await broker.metadata.create_topic("later", 1)
        await broker.flusher.stop()

    asyncio.run(run())


@pytest.mark.parametrize("nth", range(1, 16))
def test_no_space_leaves_a_topic_whole_or_not_there(nth):
    """C1.14 for a creation: whichever write finds the disk full, what is answered is what is there."""

    async def run() -> None:
        disk = SimDisk(sites=False)
        broker = await started(disk)
        await broker.metadata.create_topic("before", 1)
        injector = disk.injector = Injector(Fault("write-enospc", nth))
        try:
            await broker.metadata.create_topic("a", 3)
            expected = {"before": (1, {}), "a": (3, {})}
        except KafkaError as error:
            assert error.code is ErrorCode.KAFKA_STORAGE_ERROR
            expected = {"before": (1, {})}
        assert seen(broker) == expected
        assert_directories_agree(broker)
        assert bool(injector.struck) == ("a" not in expected)
        disk.injector = None
        if "a" not in expected:
            await broker.metadata.create_topic("a", 3)
        await broker.flusher.stop()
        disk.kill()
        again = await started(disk)
        assert seen(again) == {"before": (1, {}), "a": (3, {})}
        await again.flusher.stop()

    asyncio.run(run())


def test_directories_that_belong_to_no_topic_are_set_aside_and_kept():
    async def run() -> None:
        disk = SimDisk(sites=False)
        broker = await started(disk)
        config = broker.config.log_config()
        await broker.metadata.create_topic("mine", 2)
        broker.logs.create("foreign", 0, uuid.uuid4(), config).append(one_record(), NOW_MS)
        broker.logs.delete("mine", 1)
        broker.logs.create("mine", 1, uuid.uuid4(), config).append(one_record(), NOW_MS)
        await broker.flusher.stop()
        broker.logs.close(clean=True)
        again = await started(disk)
        assert_directories_agree(again)
        assert again.logs.partitions["mine", 1].log_end_offset == 0
        strays = [name for name in disk.list("/data") if name.endswith("-stray")]
        assert len(strays) == 2
        assert all(disk.open(f"/data/{name}/{0:020d}.log").size for name in strays)
        await again.flusher.stop()

    asyncio.run(run())


def test_configs_take_effect_at_once_and_after_a_restart():
    async def run() -> None:
        disk = SimDisk(sites=False)
        broker = await started(disk)
        store = broker.metadata
        await store.create_topic("a", 1)
        await store.create_topic("b", 1, {"retention.bytes": "5"})
        a, b = broker.logs.partitions["a", 0], broker.logs.partitions["b", 0]
        await configure(store, "a", {"segment.bytes": "2097152"})
        assert a.config.segment_bytes == 2097152
        await store.alter_configs(
            Resource.BROKER, "", lambda _: {"log.retention.bytes": "77", "log.segment.bytes": "3145728"}
        )
        await store.alter_configs(Resource.BROKER, str(broker.node_id), lambda _: {"log.segment.bytes": "4194304"})
        expected = [(2097152, 77), (4194304, 5)]
        assert [(p.config.segment_bytes, p.config.retention_bytes) for p in (a, b)] == expected
        await broker.flusher.stop()
        disk.kill()
        again = await started(disk)
        partitions = [again.logs.partitions[name, 0] for name in "ab"]
        assert [(p.config.segment_bytes, p.config.retention_bytes) for p in partitions] == expected
        await again.metadata.alter_configs(Resource.BROKER, str(again.node_id), lambda _: {})
        assert partitions[1].config.segment_bytes == 3145728
        await again.flusher.stop()

    asyncio.run(run())


# ---------------------------------------------------------------- what a start refuses, and Kafka's snapshots


def _image_with_a_topic() -> dict:
    async def run() -> dict:
        disk = SimDisk(sites=False)
        broker = await started(disk)
        await broker.metadata.create_topic("a", 2)
        await broker.flusher.stop()
        broker.logs.close(clean=True)
        return disk.view()

    return asyncio.run(run())


def test_partitions_without_a_metadata_log_are_left_alone():
    image = {path: data for path, data in _image_with_a_topic().items() if CLUSTER_METADATA not in path}
    disk = SimDisk(image, sites=False)
    with pytest.raises(StartupError, match="2 partitions, but no metadata log"):
        asyncio.run(started(disk))
    assert {"a-0", "a-1"} <= set(disk.list("/data"))


@pytest.mark.parametrize("value", [b"\x01\x02\x09", b"\x01\x09\x00" + bytes(17), b"\x00"])
def test_a_metadata_log_that_makes_no_sense_is_refused(value):
    async def run() -> None:
        disk = SimDisk(_image, sites=False)
        broker = opened(disk)
        broker.logs.partitions[CLUSTER_METADATA, 0].append(_batch([value]), NOW_MS)
        broker.logs.close(clean=True)
        with pytest.raises(StartupError, match="cannot be replayed"):
            opened(disk)
        assert {"a-0", "a-1"} <= set(disk.list("/data"))

    _image = _image_with_a_topic()
    asyncio.run(run())


def _batch(values: list[bytes]) -> bytearray:
    return records.build([records.Record(n, NOW_MS, None, value, []) for n, value in enumerate(values)])


def test_the_newest_snapshot_that_the_log_goes_on_from_is_loaded():
    topic_id, later = uuid.uuid4(), uuid.uuid4()
    entries = topic_entries(Topic("from-snapshot", topic_id, 2, {"retention.ms": "9"}), 1, uuid.uuid4())
    image = _image_with_a_topic()
    directory = f"/data/{CLUSTER_METADATA}-0"
    # The log has 3 records: topic a and its two partitions. Snapshots of before it, of after it, of the far future.
    for end, content in ((0, [(TOPIC, {"name": "old", "topic_id": later})]), (3, entries), (99, [])):
        values = [encode(*entry) for entry in content] or [b"not read"]
        image[f"{directory}/{end:020d}-0000000001.checkpoint"] = bytes(_batch(values))

    async def run() -> None:
        broker = await started(SimDisk(image, sites=False))
        assert seen(broker) == {"from-snapshot": (2, {"retention.ms": "9"})}
        assert_directories_agree(broker)
        await broker.flusher.stop()

    asyncio.run(run())
