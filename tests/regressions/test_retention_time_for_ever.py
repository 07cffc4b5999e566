"""An OffsetCommit (v2 to v4) whose retention time was "for ever", the largest int64, cost its client the connection: the time of its end
did not fit into the record."""

import asyncio
from types import SimpleNamespace

from refbroker.apis import k08_offset_commit
from refbroker.broker import Broker
from refbroker.config import Config


async def story(path):
    keys = [f"log.dirs={path}/data", "listeners=PLAINTEXT://127.0.0.1:0"]
    broker = await Broker.start(Config.load(None, {}, keys)[0])
    await broker.metadata.create_topic("t", 1, {}, 1)
    partition = {"partition_index": 0, "committed_offset": 5, "committed_leader_epoch": -1, "committed_metadata": None}
    request = {
        "group_id": "g", "generation_id_or_member_epoch": -1, "member_id": "", "group_instance_id": None,
        "retention_time_ms": 2**63 - 1, "topics": [{"name": "t", "topic_id": None, "partitions": [partition]}],
    }  # fmt: skip
    answer = await k08_offset_commit.handle(broker, request, SimpleNamespace(version=2))
    now_ms = broker.clock()
    broker.clock = lambda: now_ms + 10**12
    broker.groups.expire()
    offsets = await broker.groups.committed("g", stable=True)
    await broker.stop()
    return answer["topics"][0]["partitions"][0]["error_code"], offsets["t", 0].offset


def test_it_is_kept(tmp_path):
    assert asyncio.run(story(tmp_path)) == (0, 5)
