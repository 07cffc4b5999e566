"""How does a log get shorter, at its end or at its start, without ever looking longer or holed again?

At the end (`truncate`), in this order:
1. flushes that are under way prove nothing any more (C3.6);
2. the recovery point on disk is lowered, durably (C3.7, C3.1);
3. later segments are removed, the highest first, and the directory is synced: none of them may come back behind
   records that are appended from now on;
4. the segment that holds the offset is cut, indexes first, all synced (C5.7, C5.8);
5. leader epochs and producer state are cut too (C4.4, C6.2).

At the start (`retain`, `delete_records`):
1. the log start offset rises in memory. DeleteRecords may be undone by a crash before the next checkpoint, which is
   allowed (C3.5);
2. before segments are deleted, the log start offset is durable in its checkpoint: if power fails half way, and some of
   the deletions are undone, what has come back lies below it and goes at the next start (C9.5). So no hole. On a disk
   too full for that, the oldest segment goes alone, which leaves no hole either, and makes space for the rest;
3. files are renamed to `.deleted`, the directory is synced, and some time later they are unlinked: a fetch in flight is
   not disturbed.

Apache Kafka differs: it checkpoints the log start offset lazily, and does not sync the directory.
"""

import errno

from refbroker.errors import ErrorCode, KafkaError
from refbroker.log import retention
from refbroker.log.disk import Disk
from refbroker.log.flush import FlushJob
from refbroker.log.producers import list_snapshots
from refbroker.log.replay import remember, replay
from refbroker.log.segment import Segment

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def truncate(partition, offset: int) -> int:
    """Drop everything from the batch that holds `offset` on. Raises OSError when half done."""
    if offset >= partition.log_end_offset:
        return partition.log_end_offset
    if offset < partition.log_start_offset:
        raise KafkaError(ErrorCode.OFFSET_OUT_OF_RANGE, f"offset {offset}, the log begins at {partition.log_start_offset}")
    kept = partition.segment_index(offset)
    segment = partition.segments[kept]
    found = segment.find(offset)
    position, end = (found[0], found[1].base_offset) if found else (segment.size, segment.next_offset)
    partition.generation += 1
    partition.recovery_point = min(partition.recovery_point, end)
    partition.unfinished = [each for each in partition.unfinished if each in partition.segments[:kept]]
    partition.owner.lower_recovery_point(partition)
    if partition.log_start_offset > end:  # it was in the middle of the batch that goes
        partition.log_start_offset = end
        partition.owner.persist_log_start(partition)
    remove_segments(partition.disk, partition.directory, partition.segments[kept + 1 :])
    segment.truncate(position, end)
    del partition.segments[kept + 1 :]
    partition.reset_end()
    if partition.epochs.truncate_from_end(end):
        partition.epochs.assign(partition.leader_epoch, end)  # the reign goes on, from here
        partition.epochs.save(partition.disk)
        partition.epoch_unsaved = False
    partition.unsynced_snapshots.clear()
    loaded = partition.producers.load(partition.disk, partition.directory, partition.segments[0].base_offset, end, 0)
    remember(partition.segments, partition.producers, loaded.offset)
    replay(partition.segments, partition.producers, loaded.offset)
    partition.disk.sync_dir(partition.directory)
    return end


def remove_segments(disk: Disk, directory: str, segments: list[Segment]) -> None:
    """Unlink all files of these, the highest first. Durable on return."""
    if not segments:
        return
    for segment in reversed(segments):
        for path in segment.files():
            disk.unlink(path)
    disk.sync_dir(directory)


def delete_records(partition, before_offset: int) -> int:
    """Raise the log start offset; `before_offset` -1 is the high watermark."""
    if before_offset == -1:
        before_offset = partition.high_watermark
    if before_offset < 0 or before_offset > partition.high_watermark:
        raise KafkaError(
            ErrorCode.OFFSET_OUT_OF_RANGE, f"offset {before_offset}, the high watermark is {partition.high_watermark}"
        )
    if before_offset > partition.log_start_offset:
        partition.log_start_offset = before_offset
        partition.epochs.truncate_from_start(before_offset)
        partition.wake()  # who waits to read what is gone
    return partition.log_start_offset


def begin_retain(partition, now_ms: int) -> int:
    """How many segments retention no longer wants; the log begins behind them, durably. Raises OSError: they stay."""
    count = retention.deletable(
        partition.segments, partition.config, now_ms, partition.high_watermark, partition.log_start_offset
    )
    if not count:
        return 0
    if count == len(partition.segments):  # also the active one: what comes next goes to a new segment
        try:
            partition.roll(now_ms)
            partition.disk.sync_dir(partition.directory)
        except KafkaError:  # for want of space, most likely: the others can go
            if count == 1 or partition.offline is not None:
                raise
            count -= 1
    start = partition.log_start_offset
    partition.log_start_offset = max(start, partition.segments[count].base_offset)
    try:
        partition.owner.persist_log_start(partition)
    except OSError as error:  # rule 2 on a full disk
        partition.log_start_offset = start
        if error.errno not in NO_SPACE:
            raise
        count, partition.log_start_offset = 1, max(start, partition.segments[1].base_offset)
    partition.wake()
    return count


def retain(partition, count: int, now_ms: int) -> int:
    """Delete the oldest segments; returns their bytes. Raises OSError when half done."""
    gone, first = partition.segments[:count], partition.segments[count]
    due_ms = now_ms + partition.config.file_delete_delay_ms
    for segment in gone:
        for path in segment.rename_deleted():
            partition.owner.delete_later(path, due_ms)
        partition.unfinished = [each for each in partition.unfinished if each is not segment]
    for offset, name in list_snapshots(partition.disk, partition.directory):
        if offset < first.base_offset:
            partition.disk.unlink(f"{partition.directory}/{name}")
    partition.disk.sync_dir(partition.directory)
    del partition.segments[:count]
    partition.recovery_point = max(partition.recovery_point, first.base_offset)
    partition.epochs.truncate_from_start(partition.log_start_offset)
    return sum(segment.size for segment in gone)


def begin_seal(partition) -> FlushJob | None:
    """At a clean stop: everything, with indexes and producer snapshot, so that the next start reads only the ends of
    files. None where nothing has changed since such a stop. Raises OSError."""
    if partition.sealed:
        return None
    disk, directory, active = partition.disk, partition.directory, partition.active
    if partition.epoch_unsaved:
        partition.epochs.save(disk)
        partition.epoch_unsaved = False
    active.seal()
    job = partition.begin_flush()
    if job is None:
        job = FlushJob(disk, [], None, partition.log_end_offset, active.base_offset, active.size)
        job.generation = partition.generation
    job.files += active.heal_indexes()
    keep_snapshots(disk, directory, {segment.base_offset for segment in partition.segments})
    job.files.append(partition.producers.write_snapshot(disk, directory, sync=False))
    job.directory = directory
    return job


def finish_seal(partition, job: FlushJob) -> None:
    """The job ran. Raises OSError where a rolled segment could not be finished."""
    partition.finish_flush(job)
    if partition.unfinished:
        raise OSError(errno.ENOSPC, "no space for the index of a rolled segment", partition.unfinished[0].path)
    partition.active.close()
    partition.sealed = True


def keep_snapshots(disk: Disk, directory: str, offsets: set[int]) -> bool:
    """Unlink the snapshots at other offsets. Whether there were any."""
    others = [name for offset, name in list_snapshots(disk, directory) if offset not in offsets]
    for name in others:
        disk.unlink(f"{directory}/{name}")
    return bool(others)
