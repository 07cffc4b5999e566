"""A rename that met a full disk (a directory may need a new block for the name) while a topic was deleted took the whole broker with it; it
can be done later as well. Meanwhile the topic is gone, and one of that name is made in its own directory (C1.14, C9.5, C9.6)."""

import asyncio
import errno

import pytest
from test_no_descriptors_for_the_housekeeping import FullDisk

from refbroker.broker import Broker
from refbroker.config import Config
from refbroker.errors import ErrorCode, KafkaError
from refbroker.log.records import Record, build

ALWAYS = 10**9


async def started(path, disk):
    return await Broker.start(Config.load(None, {}, [f"log.dirs={path}/data", "listeners=PLAINTEXT://127.0.0.1:0"])[0], disk)


def names(path):
    return [directory.name for directory in sorted((path / "data").iterdir()) if directory.name.startswith("t-")]


async def with_deleted(path, disk):
    broker = await started(path, disk)
    await broker.metadata.create_topic("t", 1, {"file.delete.delay.ms": "0"})
    await broker.append(broker.partition("t", 0), build([Record(0, 0, None, b"v")]))
    disk.left = ALWAYS
    await broker.metadata.delete_topic("t")
    assert broker.logs.offline is None and "t" not in broker.metadata.topics
    with pytest.raises(KafkaError, match="UNKNOWN_TOPIC_OR_PARTITION"):
        broker.partition("t", 0)
    assert names(path) == ["t-0"]
    return broker


def full(number=errno.ENOSPC):
    return FullDisk("rename", "t-0", number)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_it_is_done_when_there_is_space(tmp_path, number):
    async def story():
        disk = full(number)
        broker = await with_deleted(tmp_path, disk)
        broker.logs.sweep(broker.clock() + 1)
        assert broker.logs.offline is None and names(tmp_path) == ["t-0"]
        disk.left = 0
        broker.logs.sweep(broker.clock() + 1)
        broker.logs.sweep(broker.clock() + 1)
        assert names(tmp_path) == []
        await broker.stop()

    asyncio.run(story())


def test_a_topic_of_that_name_waits_for_it(tmp_path):
    async def story():
        disk = full()
        broker = await with_deleted(tmp_path, disk)
        with pytest.raises(KafkaError) as refused:
            await broker.metadata.create_topic("t", 1)
        assert refused.value.code is ErrorCode.KAFKA_STORAGE_ERROR and broker.logs.offline is None
        disk.left = 0
        await broker.metadata.create_topic("t", 1)
        assert (await broker.append(broker.partition("t", 0), build([Record(0, 0, None, b"v")]))).base_offset == 0
        await broker.stop()

    asyncio.run(story())


@pytest.mark.parametrize("clean", [True, False])
def test_or_at_the_next_start(tmp_path, clean):
    async def story():
        disk = full()
        broker = await with_deleted(tmp_path, disk)
        await broker.stop(clean)
        disk.left = 0
        broker = await started(tmp_path, disk)
        assert "t" not in broker.metadata.topics and "t-0" not in names(tmp_path)
        await broker.stop()

    asyncio.run(story())
