"""A topic with flush.ms whose directories could not be made at once, for want of space, was looked at once a minute when they were:
records acked and not durable for up to that minute (C1.5). Of a change that was half done, the same was true of the half."""

import asyncio

import pytest
from test_flush_ms_of_a_new_topic import FLUSH_MS, batch, durable_soon, start

from refbroker.errors import ErrorCode, KafkaError

FULL = KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, "no space")


async def refuse_later(*_):
    raise FULL


@pytest.mark.parametrize("made", [0, 4], ids=["by the sweep", "before space ran out"])
def test_it_is_flushed_in_time(tmp_path, monkeypatch, made):
    async def story():
        broker = await start(tmp_path)
        create_many, calls = broker.logs.create_many, []

        def refuse(wanted):
            if calls or not made:
                raise FULL
            calls.append(wanted)
            return create_many(wanted)

        with monkeypatch.context() as patched:
            patched.setattr(broker.logs, "create_many", refuse)
            patched.setattr(broker.metadata, "_remove", refuse_later)
            with pytest.raises(KafkaError):
                await broker.metadata.create_topic("t", 8, {"flush.ms": str(FLUSH_MS)})
        if not made:
            await broker.metadata.make_missing()
        partition = broker.partition("t", 0)
        await broker.append(partition, batch())
        assert await durable_soon(partition)
        await broker.stop()

    asyncio.run(story())
