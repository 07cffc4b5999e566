"""What is asked of the flusher while it flushes, or when a flush cannot begin; and what the broker does by the clock.

Verified: C1.3 and C1.6 (a rolled segment is flushed, however busy the disk is), C1.13, C6.7, C9.5.
"""

import asyncio
import dataclasses
import errno
import logging
import threading

import pytest
from hook_disk import HookDisk, failing

from refbroker.broker import Broker
from refbroker.config import Config
from refbroker.errors import ErrorCode, KafkaError
from refbroker.log.disk import Disk
from refbroker.log.records import Record, build

PATIENCE_S = 60


def batch(timestamp=0, **settings):
    return build([Record(0, timestamp, None, b"v" * 100)], **settings)


async def small_segments(broker, **configs):
    """A partition whose segments hold one batch, which no topic config allows."""
    await broker.metadata.create_topic("t", 1, {key.replace("_", "."): value for key, value in configs.items()})
    partition = broker.partition("t", 0)
    partition.set_config(dataclasses.replace(partition.config, segment_bytes=200))
    return partition


async def until(true):
    while not true():
        await asyncio.sleep(0.005)


def tell(tmp_path, story, *overrides, disk=None):
    """A real broker with these configs, for one story."""

    async def run():
        keys = [f"log.dirs={tmp_path}/data", "listeners=PLAINTEXT://127.0.0.1:0", *overrides]
        broker = await Broker.start(Config.load(None, {}, keys)[0], disk or Disk())
        try:
            await asyncio.wait_for(story(broker), PATIENCE_S)
        finally:
            await broker.stop()

    asyncio.run(run())


def test_segments_that_are_rolled_during_a_flush_have_their_turn(tmp_path):
    disk, go_on = HookDisk(), threading.Event()

    async def story(broker):
        partition = await small_segments(broker)
        disk.hook = lambda call, path: go_on.wait(PATIENCE_S) if call == "sync" and path.endswith(".log") and "/t-0/" in path else None
        for _ in range(8):
            partition.append(batch(), 0)
            await asyncio.sleep(0.005)
        assert len(partition.segments) == 8 and partition.recovery_point == 0
        go_on.set()
        await until(lambda: partition.recovery_point == partition.active.base_offset == 7)
        assert not partition.unfinished

    tell(tmp_path, story, disk=disk)


def test_who_waits_for_a_flush_that_cannot_begin_is_told(tmp_path):
    """C1.14: as any append that cannot be served for the moment; the next one can."""
    disk = HookDisk()

    async def story(broker):
        partition = await small_segments(broker)
        broker.logs.on_roll = lambda partition: None
        for _ in range(3):
            partition.append(batch(), 0)
        for segment in partition.segments:
            segment.close()
        disk.hook = failing("open", ".log", errno.EMFILE)
        with pytest.raises(KafkaError) as error:
            await broker.flusher.durable(partition, 3)
        assert error.value.code is ErrorCode.KAFKA_STORAGE_ERROR and broker.logs.offline is None
        await broker.flusher.durable(partition, 3)
        assert partition.recovery_point == 3

    tell(tmp_path, story, disk=disk)


def test_who_gave_up_waiting_disturbs_nobody(tmp_path):
    disk, go_on = HookDisk(), threading.Event()

    async def story(broker):
        await broker.metadata.create_topic("t", 1, {"flush.messages": "1"})
        partition = broker.partition("t", 0)
        disk.hook = lambda call, path: go_on.wait(PATIENCE_S) if call == "sync" and "/t-0/" in path else None
        waiting = [asyncio.create_task(broker.append(partition, batch())) for _ in range(3)]
        await until(lambda: partition.log_end_offset == 3)
        waiting[0].cancel()
        waiting[2].cancel()
        go_on.set()
        assert (await waiting[1]).base_offset == 1 and partition.high_watermark >= 2

    tell(tmp_path, story, disk=disk)


def test_old_producers_old_segments_and_their_files_go_by_the_clock(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("refbroker.broker.SWEEP_INTERVAL_MS", 10)

    async def story(broker):
        partition = await small_segments(broker, retention_ms="1000", file_delete_delay_ms="0")
        for sequence in range(3):
            partition.append(batch(1, producer_id=5, producer_epoch=0, base_sequence=sequence), 0)
        assert partition.producers.active
        await until(lambda: not partition.producers.active)
        await until(lambda: partition.log_start_offset == 3)
        await until(lambda: not list((tmp_path / "data" / "t-0").glob("*.deleted")))
        partition.go_offline("told so")
        with pytest.raises(KafkaError) as error:
            broker.partition("t", 0)
        assert error.value.code is ErrorCode.KAFKA_STORAGE_ERROR
        await asyncio.sleep(0.05)  # what is offline is left alone

    with caplog.at_level(logging.INFO):
        expiration = ("producer.id.expiration.ms=1000", "producer.id.expiration.check.interval.ms=10")
        tell(tmp_path, story, "log.retention.check.interval.ms=10", *expiration)
    assert "retention deleted" in caplog.text and "Traceback" not in caplog.text


def test_a_round_that_fails_does_not_end_the_later_ones(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("refbroker.broker.SWEEP_INTERVAL_MS", 10)

    async def story(broker):
        rounds, sweep = [], broker.logs.sweep

        def failing_once(now_ms):
            rounds.append(now_ms)
            if len(rounds) == 1:
                raise OSError(errno.EACCES, "told so")
            return sweep(now_ms)

        broker.logs.sweep = failing_once
        await until(lambda: len(rounds) > 2)
        assert broker.logs.offline is None

    tell(tmp_path, story)
    assert "sweep failed" in caplog.text


def test_a_checkpoint_on_a_disk_that_fails_takes_the_directory_offline(tmp_path):
    disk, made = HookDisk(), lambda: sum(call in ("create", "open") and path.endswith("checkpoint.tmp") for call, path in disk.calls)

    async def story(broker):
        await broker.metadata.create_topic("t", 1)
        checkpoint = tmp_path / "data" / "recovery-point-offset-checkpoint"
        await until(lambda: checkpoint.exists() and "t 0 0" in checkpoint.read_text())
        await asyncio.sleep(0.05)
        before, disk.hook = made(), failing("rename", "checkpoint.tmp", errno.EIO)
        broker.partition("t", 0).append(batch(), 0)
        await until(lambda: broker.logs.offline is not None)
        assert "checkpoint failed" in broker.logs.offline
        await asyncio.sleep(0.05)
        assert made() == before + 1, "none is tried behind it"

    tell(tmp_path, story, "log.flush.offset.checkpoint.interval.ms=10", disk=disk)
