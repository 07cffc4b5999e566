"""DeleteGroups, or the expiry, dropped a group before its tombstones were written. Where they could not be (a full disk), its offsets
stayed and were handed out, but there was no group any more: it could not be deleted again (GROUP_ID_NOT_FOUND), was not listed, and
expired no more until the broker was restarted. Where only the last of several batches was written the answer was even NONE."""

import asyncio

import pytest

from refbroker import group_log
from refbroker.broker import Broker
from refbroker.config import Config
from refbroker.errors import ErrorCode, KafkaError
from refbroker.group_records import Committed
from refbroker.groups import Commit

HOUR_MS = 3_600_000
KEYS = ["listeners=PLAINTEXT://127.0.0.1:0", "offsets.retention.minutes=1"]


def refuse(broker, count):
    """So many appends fail; those after them do not."""
    append, left = broker.append, [count]

    async def full_disk(partition, records):
        left[0] -= 1
        if left[0] >= 0:
            raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, "no space")
        return await append(partition, records)

    broker.append = full_disk


async def story(path, by_expiry):
    broker = await Broker.start(Config.load(None, {}, [f"log.dirs={path}/data", *KEYS])[0])
    groups = broker.groups
    await broker.metadata.create_topic("t", 2, {}, 1)
    commits = [Commit("t", number, Committed(5, -1, "", broker.clock())) for number in range(2)]
    assert await groups.commit("g", "", None, -1, commits, version=8) is ErrorCode.NONE
    refuse(broker, 1)
    if by_expiry:
        now_ms = broker.clock()
        broker.clock = lambda: now_ms + HOUR_MS
        groups.expire()
    else:
        with pytest.raises(KafkaError) as refused:
            await groups.delete("g")
        assert refused.value.code is ErrorCode.NOT_COORDINATOR
    await groups.committed("g", stable=True)
    await asyncio.sleep(0)
    listed = [group["group_id"] for group in groups.listed()]
    left = len(await groups.committed("g", stable=True))
    if by_expiry:
        groups.expire()
    else:
        await groups.delete("g")
    gone = dict(await groups.committed("g", stable=True))
    await broker.stop()
    return listed, left, gone


@pytest.mark.parametrize("records_per_batch", [1, 100])
@pytest.mark.parametrize("by_expiry", [False, True])
def test_it_can_be_deleted_again(tmp_path, monkeypatch, by_expiry, records_per_batch):
    if records_per_batch == 1:
        monkeypatch.setattr(group_log, "CHUNK_BYTES", 1)
    left = 1 if records_per_batch == 1 else 2
    assert asyncio.run(story(tmp_path, by_expiry)) == (["g"], left, {})
