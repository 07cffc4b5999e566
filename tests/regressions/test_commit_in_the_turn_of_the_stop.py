"""What a group wrote in the very turn of the event loop in which the broker began to stop was never heard of again: its task was cancelled
before it had begun. A deletion of a topic that waited for it kept the broker from ever stopping."""

import asyncio

from refbroker.broker import Broker
from refbroker.config import Config
from refbroker.errors import ErrorCode
from refbroker.group_records import offset_key


def test_who_waits_is_told(tmp_path):
    async def story():
        broker = await Broker.start(Config.load(None, {}, [f"log.dirs={tmp_path}/data", "listeners=PLAINTEXT://127.0.0.1:0"])[0])
        await broker.groups.ready("g")
        log = broker.groups._log
        applied = log.write("g", [(offset_key("g", "t", 0), None)])
        stopped = asyncio.create_task(log.drain("g"))
        await log.stop()
        await asyncio.wait_for(stopped, 60)
        await broker.stop()
        return applied.result()

    assert asyncio.run(story()) in (ErrorCode.NONE, ErrorCode.COORDINATOR_NOT_AVAILABLE)
