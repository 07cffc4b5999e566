"""Where __consumer_offsets was deleted while members waited in JoinGroup or SyncGroup, they waited for ever, and so did their
connections, even when the clients had gone (C1.16)."""

import asyncio

from refbroker.broker import Broker
from refbroker.config import Config
from refbroker.errors import ErrorCode, KafkaError
from refbroker.group_members import Join

DELAY = "group.initial.rebalance.delay.ms"


def join(client):
    return Join("", None, client, "host", 10_000, 60_000, "consumer", (("range", b""),), must_know_member_id=False)


async def story(path):
    config, _ = Config.load(None, {}, [f"log.dirs={path}/data", "listeners=PLAINTEXT://127.0.0.1:0", f"{DELAY}=0"])
    broker = await Broker.start(config)
    first = await broker.groups.join("syncing", join("a"))
    second = asyncio.create_task(broker.groups.join("syncing", join("b")))  # waits for the first
    third = asyncio.create_task(broker.groups.join("syncing", join("c")))
    await asyncio.sleep(0.01)
    await broker.metadata.delete_topic("__consumer_offsets")
    try:
        broker.groups.heartbeat("syncing", first["member_id"], None, 1)  # by which the coordinator learns of it
    except KafkaError:
        pass
    answers = [await asyncio.wait_for(task, 30) for task in (second, third)]
    again = await broker.groups.join("syncing", join("a"))
    await broker.stop()
    return [answer["error_code"] for answer in answers], again["error_code"]


def test_who_waits_is_told(tmp_path):
    assert asyncio.run(story(tmp_path)) == ([ErrorCode.COORDINATOR_NOT_AVAILABLE] * 2, ErrorCode.NONE)
