"""A flush that acks=0 asked for while another one was under way was forgotten: under flush.messages=1 the record stayed unflushed, and
hidden from consumers, until somebody wrote the next one. So was what a stricter flush.messages asked for.

Found by the network layer in CI: a consumer waited for the end of a partition in vain (C1.16). Since then its kin asks for C1.4.
"""

import asyncio
import threading

import pytest

from chaos.bench import raw
from refbroker.broker import Broker
from refbroker.config import Config
from refbroker.log.flush import FlushJob

FRAME = raw.produce_frame("t", raw.batch(1, 100), acks=0)


@pytest.fixture
def disk(monkeypatch):
    """No flush ends before it is `set`; before it is cleared for the first time, it is."""
    is_idle, run = threading.Event(), FlushJob.run

    def run_later(job):
        assert is_idle.wait(60)
        run(job)

    is_idle.set()
    monkeypatch.setattr(FlushJob, "run", run_later)
    return is_idle


async def start(directory, configs):
    broker = await Broker.start(Config.load(None, {}, (f"log.dirs={directory}", "listeners=PLAINTEXT://127.0.0.1:0"))[0])
    await broker.metadata.create_topic("t", 1, configs, 1)
    return broker, broker.logs.partitions["t", 0]


async def landed(broker, disk):
    disk.set()
    while broker.flusher._in_flight:
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "together"])
def test_all_that_acks_0_appends_is_flushed(tmp_path, disk, together):
    async def story():
        broker, log = await start(tmp_path, {"flush.messages": "1"})
        disk.clear()
        streams = [(await asyncio.open_connection(*broker.server.address))[1] for _ in range(3)]
        for number, stream in enumerate(streams, 1):
            stream.write(FRAME)
            while not together and log.log_end_offset < number:
                await asyncio.sleep(0.001)
        while log.log_end_offset < len(streams):
            await asyncio.sleep(0.001)
        before = log.high_watermark
        await landed(broker, disk)
        after = log.high_watermark, log.recovery_point
        await broker.stop()
        return before, after

    assert asyncio.run(story()) == (0, (3, 3))


def test_what_a_stricter_policy_asks_for_is_flushed(tmp_path, disk):
    async def story():
        broker, log = await start(tmp_path, {})
        log.append(bytearray(raw.batch(1, 100)), broker.clock())
        disk.clear()
        broker.flusher.request(log)
        for _ in range(3):
            log.append(bytearray(raw.batch(1, 100)), broker.clock())
        broker.metadata.topics["t"].configs = {"flush.messages": "2"}
        broker.metadata._configs_changed(broker.metadata.topics["t"])  # what alter_configs does when its own record is flushed
        await landed(broker, disk)
        flushed = log.recovery_point
        await broker.stop()
        return flushed

    assert asyncio.run(story()) == 4
