"""A metadata log, or a snapshot of one, that cannot be read: the broker says so in one line and touches nothing, as without it every
topic would be nobody's."""

import asyncio

import pytest

from refbroker.broker import Broker
from refbroker.config import Config
from refbroker.log.batch import parse
from refbroker.log.checkpoints import LOG_START
from refbroker.log.directory import StartupError
from refbroker.log.records import Record, build
from refbroker.metadata_records import CONFIG, Resource, encode
from refbroker.topic_rules import CLUSTER_METADATA

SNAPSHOT = f"{2:020d}-{0:010d}.checkpoint"


def start(path, story=None):
    async def run():
        config, _ = Config.load(None, {}, [f"log.dirs={path}/data", "listeners=PLAINTEXT://127.0.0.1:0"])
        broker = await Broker.start(config)
        try:
            if story:
                await story(broker)
            return dict(broker.metadata.topics)
        finally:
            await broker.stop()

    return asyncio.run(run())


def files(path):
    return {str(each): each.read_bytes() for each in sorted((path / "data").rglob("*")) if each.is_file() and each.name != ".lock"}


def rot_of_a_record(directory):
    path = directory / f"{0:020d}.log"
    content = bytearray(path.read_bytes())
    content[70] ^= 1
    path.write_bytes(content)


def rot_of_a_header(directory):
    path = directory / f"{0:020d}.log"
    content = bytearray(path.read_bytes())
    content[16] = 1
    path.write_bytes(content)


def no_records(directory):
    path = directory / SNAPSHOT
    path.write_bytes(build([Record(0, 0, None, b"\1")])[:-1])


def nonsense(directory):
    data = build([Record(0, 0, None, b"\1\2\0" + b"x" * 20)], codec=1)
    data[80] ^= 1
    data[17:21] = parse(data).computed_crc().to_bytes(4, "big")
    (directory / SNAPSHOT).write_bytes(data)


def wrong_checksum(directory):
    data = build([Record(0, 0, None, b"\1\2\0")])
    data[-1] ^= 1
    (directory / SNAPSHOT).write_bytes(data)


def too_long(directory):
    (directory / SNAPSHOT).touch()
    with open(directory / SNAPSHOT, "r+b") as file:
        file.truncate((256 << 20) + 1)


def no_beginning(directory):
    (directory.parent / LOG_START).write_text(f"0\n1\n{CLUSTER_METADATA} 0 1\n")


@pytest.mark.parametrize("damage", [rot_of_a_record, rot_of_a_header, no_records, nonsense, wrong_checksum, too_long, no_beginning])
def test_it_is_refused_and_nothing_is_touched(tmp_path, damage):
    async def story(broker):
        await broker.metadata.create_topic("t", 2)
        await broker.append(broker.partition("t", 0), build([Record(0, 0, None, b"v")]))

    start(tmp_path, story)
    damage(tmp_path / "data" / f"{CLUSTER_METADATA}-0")
    before = {path: data for path, data in files(tmp_path).items() if "/t-" in path or CLUSTER_METADATA in path}
    for _ in range(2):
        with pytest.raises(StartupError) as error:
            start(tmp_path)
        assert CLUSTER_METADATA in str(error.value) and "\n" not in str(error.value)
    after = files(tmp_path)
    assert all(after[path] == data for path, data in before.items() if "/t-" in path or path.endswith((".log", ".checkpoint")))


def test_what_kafka_writes_and_we_do_not_serve_is_read_over(tmp_path):
    """Control batches in the log; configs of clients, and of topics that are not there any more."""
    async def story(broker):
        await broker.metadata.create_topic("t", 1)
        partition = broker.partition(CLUSTER_METADATA, 0)
        odd = [(Resource.TOPIC, "gone"), (16, "a client"), (Resource.BROKER, "77")]
        configs = [{"resource_type": kind, "resource_name": name, "name": "x", "value": "y"} for kind, name in odd]
        entries = [encode(CONFIG, fields) for fields in configs]
        await broker.append(partition, build([Record(index, 0, None, value) for index, value in enumerate(entries)]))
        leader = build([Record(partition.log_end_offset, 0, b"\0\0\0\2", b"\0\0")], base_offset=partition.log_end_offset, control=True)
        partition.active.append([parse(leader)])
        partition.log_end_offset += 1

    start(tmp_path, story)
    assert list(start(tmp_path)) == ["t"]
    assert list(start(tmp_path)) == ["t"]
