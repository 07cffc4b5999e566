"""When is a write durable, and who waits: the policies, group commit, failures.

Verified: C1.3, C1.4, C1.5, C1.6, C1.13, C3.1, C3.2, C3.6, C4.2 under flush.messages=1. The disk is a real one whose syncs
the tests count, hold back and make fail.
"""

import asyncio
import errno
import threading
import uuid

import pytest
from hook_disk import HookDisk, failing

from refbroker.config import Config, LogConfig
from refbroker.errors import ErrorCode, KafkaError
from refbroker.log.directory import LogDirectory
from refbroker.log.flush import Flusher
from refbroker.log.records import Record, build


NOW_MS = 1_795_446_000_000
LONG_MAX = 2**63 - 1
SECONDS_MAX = 60


async def until(true):
    async with asyncio.timeout(SECONDS_MAX):
        while not true():
            await asyncio.sleep(0.001)


def batch(count=1, value=b"v"):
    return build([Record(index, NOW_MS, None, value) for index in range(count)])


class Lab:
    def __init__(self, path, **configs):
        self.disk = HookDisk()
        self.now_ms = NOW_MS
        self.logs = LogDirectory(self.disk, str(path / "data"), Config(), lambda: self.now_ms)
        self.logs.open()
        self.config = LogConfig(**configs)
        self.logs.create_many([("t", number, uuid.UUID(int=9), self.config) for number in (0, 1)])
        self.log, self.other = self.logs.partitions["t", 0], self.logs.partitions["t", 1]
        self.disk.calls.clear()

    def append(self, count=1):
        return self.log.append(batch(count), self.now_ms)


class Waiter:
    woken = 0

    def wake(self):
        self.woken += 1


@pytest.mark.parametrize("interval", [1, 2, 5])
def test_every_nth_offset_waits_for_its_flush(tmp_path, interval):
    """C1.4: never more than N-1 acked offsets are not durable, and N-1 of them may be."""
    lab = Lab(tmp_path, flush_messages=interval)
    unflushed_max = 0
    for _ in range(12):
        done = lab.append()
        if done.flush_to is not None:
            assert done.flush_to == lab.log.log_end_offset
            assert done.flush_to - lab.log.recovery_point == interval
            lab.log.flush()
        unflushed_max = max(unflushed_max, lab.log.log_end_offset - lab.log.recovery_point)
    assert unflushed_max == interval - 1
    assert lab.disk.count("sync", ".log") == 12 // interval


def test_page_cache_only_never_waits(tmp_path):
    lab = Lab(tmp_path)
    assert all(lab.append().flush_to is None for _ in range(100))
    assert lab.disk.count("sync") == lab.disk.count("sync_dir") == 0
    assert lab.log.high_watermark == 100 and lab.log.recovery_point == 0


def test_before_ack_nothing_is_visible_that_is_not_durable(tmp_path):
    """C1.3, C4.2: the high watermark is the durable end, and whoever waits for data is woken by the flush."""
    lab = Lab(tmp_path, flush_messages=1)
    waiter = Waiter()
    lab.log.waiters.add(waiter)
    lab.append(3)
    assert (lab.log.high_watermark, lab.log.log_end_offset, waiter.woken) == (0, 3, 0)
    assert lab.log.read(0, 1000).regions is None
    first_bytes = lab.log.active.size
    job = lab.log.begin_flush()
    lab.append(2)  # while the flush is under way: not covered by it
    job.run()
    lab.log.finish_flush(job)
    assert (lab.log.high_watermark, lab.log.recovery_point, waiter.woken) == (3, 3, 1)
    assert lab.log.read(0, 1000).regions.size == first_bytes


def test_a_retry_waits_for_the_flush_of_the_original(tmp_path):
    lab = Lab(tmp_path, flush_messages=1)
    records = [Record(0, NOW_MS, None, b"x")]
    once = build(records, producer_id=1, producer_epoch=0, base_sequence=0)
    again = bytearray(once)
    first, second = lab.log.append(once, NOW_MS), lab.log.append(again, NOW_MS)
    assert (second.duplicate, second.base_offset, second.flush_to) == (True, 0, first.flush_to)
    lab.log.flush()
    assert lab.log.append(bytearray(build(records, producer_id=1, producer_epoch=0, base_sequence=0)), NOW_MS).flush_to is None


def test_group_commit(tmp_path):
    """Whoever comes while a flush is under way shares the next one."""
    lab = Lab(tmp_path, flush_messages=1)
    released = threading.Event()
    lab.disk.hook = lambda call, path: released.wait(SECONDS_MAX) if call == "sync" else None

    async def story():
        flusher = Flusher()

        async def produce():
            await flusher.durable(lab.log, lab.append().flush_to)

        first = asyncio.create_task(produce())
        await until(lambda: lab.disk.count("sync", ".log") == 1)
        rest = [asyncio.create_task(produce()) for _ in range(63)]
        await until(lambda: lab.log.log_end_offset == 64)
        await asyncio.sleep(0.05)
        assert not first.done() and lab.log.high_watermark == 0
        released.set()
        await asyncio.gather(first, *rest)
        assert (flusher.flushes, flusher.waits) == (2, 64)
        await flusher.stop()

    asyncio.run(story())
    assert lab.disk.count("sync", ".log") == 2
    assert lab.log.high_watermark == lab.log.recovery_point == 64


def test_partitions_flush_in_parallel(tmp_path):
    lab = Lab(tmp_path, flush_messages=1)
    both = threading.Barrier(2, timeout=SECONDS_MAX)
    lab.disk.hook = lambda call, path: both.wait() if call == "sync" else None

    async def story():
        flusher = Flusher()
        waits = [flusher.durable(log, log.append(batch(), NOW_MS).flush_to) for log in (lab.log, lab.other)]
        await asyncio.gather(*waits)
        await flusher.stop()

    asyncio.run(story())


def test_a_failed_flush_is_never_followed_by_an_ack(tmp_path):
    """C1.13: the directory goes offline, whoever waits gets an error, also in other partitions, also when the next fsync
    would succeed; and nothing is appended or read any more."""
    lab = Lab(tmp_path, flush_messages=1)
    lab.disk.hook = failing("sync", ".log", errno.EIO)

    async def story():
        flusher = Flusher()
        outcomes = await asyncio.gather(
            *(flusher.durable(lab.log, lab.append().flush_to) for _ in range(5)), return_exceptions=True
        )
        assert [outcome.code for outcome in outcomes] == [ErrorCode.KAFKA_STORAGE_ERROR] * 5
        with pytest.raises(KafkaError):
            await flusher.durable(lab.log, 5)
        await flusher.stop()

    asyncio.run(story())
    assert lab.logs.offline and lab.log.offline and lab.other.offline
    assert lab.log.recovery_point == lab.log.high_watermark == 0
    for attempt in (lambda: lab.append(), lambda: lab.log.read(0, 10), lambda: lab.other.append(batch(), NOW_MS)):
        with pytest.raises(KafkaError) as refused:
            attempt()
        assert refused.value.code is ErrorCode.KAFKA_STORAGE_ERROR
    assert lab.log.begin_flush() is None
    assert lab.logs.close(clean=True) is False
    lab.disk.hook = None
    lab.logs.open()
    assert lab.logs.clean_start is False  # C3.3


def test_a_flush_that_a_truncation_overtook_proves_nothing(tmp_path):
    """C3.6."""
    lab = Lab(tmp_path, flush_messages=1)
    lab.append(4)
    job = lab.log.begin_flush()
    lab.log.truncate(0)
    lab.append(4)
    job.run()
    lab.log.finish_flush(job)
    assert lab.log.recovery_point == lab.log.high_watermark == 0
    lab.log.flush()
    assert lab.log.recovery_point == lab.log.high_watermark == 4


def test_whoever_waits_for_what_was_truncated_is_told(tmp_path):
    lab = Lab(tmp_path, flush_messages=1)
    released = threading.Event()

    async def story():
        flusher = Flusher()
        lab.append(4)
        lab.disk.hook = lambda call, path: released.wait(SECONDS_MAX) if threading.current_thread().name.startswith("sync") else None
        waiting = flusher.durable(lab.log, 4)
        await until(lambda: lab.disk.count("sync", ".log"))
        lab.log.truncate(0)
        released.set()
        with pytest.raises(KafkaError) as told:
            await waiting
        assert told.value.code is ErrorCode.NOT_LEADER_OR_FOLLOWER
        await flusher.stop()

    asyncio.run(story())


def test_flush_ms_is_never_inert(tmp_path):
    """C1.5: an append is durable after flush.ms, one period and one fsync."""
    lab = Lab(tmp_path, flush_ms=40)

    async def story():
        loop = asyncio.get_running_loop()
        start = loop.time()
        flusher = Flusher(
            lab.logs.partitions.values, lambda: NOW_MS + int((loop.time() - start) * 1000), lambda: lab.config.flush_check_ms
        )
        flusher.start()
        assert lab.append().flush_to is None
        while lab.log.recovery_point < 1:
            assert loop.time() - start < 20
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        assert flusher.flushes == 1  # nothing new, nothing to flush
        await flusher.stop()

    asyncio.run(story())


def test_flush_is_due_by_the_oldest_append(tmp_path):
    lab = Lab(tmp_path, flush_ms=100)
    assert lab.log.flush_due_ms() is None
    lab.append()
    lab.now_ms += 50
    lab.append()
    assert lab.log.flush_due_ms() == NOW_MS + 100
    job = lab.log.begin_flush()
    lab.append()
    assert lab.log.flush_due_ms() == NOW_MS + 100  # not before it has ended well
    job.run()
    lab.log.finish_flush(job)
    assert lab.log.flush_due_ms() == NOW_MS + 150
    lab.log.flush()
    assert lab.log.flush_due_ms() is None


def test_a_rolled_segment_is_flushed_whole_before_the_recovery_point_passes_it(tmp_path):
    """C1.6, C3.1, C3.2, C5.8: data, both indexes, the snapshot and the directory."""
    lab = Lab(tmp_path)
    rolled = []
    lab.logs.on_roll = rolled.append
    lab.append(5)
    lab.log.roll(lab.now_ms)
    lab.append(2)
    assert rolled == [lab.log] and lab.disk.count("sync") == 0
    assert lab.log.checkpoint_offset == 0
    job = lab.log.begin_flush(upto=lab.log.active.base_offset)
    job.run()
    synced = {path.rpartition("/")[2] for call, path in lab.disk.calls if call == "sync"}
    assert synced == {f"{0:020d}.log", f"{0:020d}.index", f"{0:020d}.timeindex", f"{5:020d}.snapshot"}
    assert lab.disk.calls[-1] == ("sync_dir", lab.log.directory)
    lab.log.finish_flush(job)
    assert lab.log.recovery_point == lab.log.checkpoint_offset == 5


def test_the_checkpoint_waits_for_the_rolled_segment_although_its_data_are_durable(tmp_path):
    lab = Lab(tmp_path)
    lab.append(5)
    job = lab.log.begin_flush()
    lab.log.roll(lab.now_ms)  # after the flush began: its index and snapshot are not in it
    job.run()
    lab.log.finish_flush(job)
    assert (lab.log.recovery_point, lab.log.checkpoint_offset) == (5, 4)
    lab.log.flush()
    assert lab.log.checkpoint_offset == 5


def test_a_roll_at_the_recovery_point_syncs_first(tmp_path):
    """The recovery point on disk may be there already: then the new file is what closes the old segment."""
    lab = Lab(tmp_path)
    lab.append(5)
    lab.log.flush()
    lab.logs.checkpoint()
    lab.disk.calls.clear()
    lab.log.roll(lab.now_ms)
    created = lab.disk.calls.index(("create", lab.log.active.path))
    before = lab.disk.calls[:created]
    for suffix in (".index", ".timeindex", ".snapshot"):
        assert any(call == "sync" and path.endswith(suffix) for call, path in before), suffix
    assert ("sync_dir", lab.log.directory) in before
    lab.append(1)
    lab.disk.calls.clear()
    lab.log.flush()
    assert ("sync_dir", lab.log.directory) in lab.disk.calls  # the new file's entry, before anything in it counts


def test_what_an_earlier_process_did_not_flush_is_due_at_once(tmp_path):
    lab = Lab(tmp_path, flush_ms=1000, segment_bytes=200)
    for _ in range(6):
        lab.append()
    lab.logs.close(clean=False)
    lab.logs.open(lambda metadata: lambda topic: lab.config)
    log = lab.logs.partitions["t", 0]
    assert log.recovery_point == 0 and log.unfinished and log.flush_due_ms() <= NOW_MS

    async def story():
        flusher = Flusher(lab.logs.partitions.values, lambda: NOW_MS, lambda: 10_000)
        flusher.start()
        await flusher.stop()

    asyncio.run(story())
    assert log.recovery_point == log.checkpoint_offset == log.log_end_offset
