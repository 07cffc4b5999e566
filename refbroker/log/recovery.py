"""From whatever is in a partition's directory to a log that is valid, with a report of what was dropped and why.

`recover` is a function of the directory, its recovery point and its log start offset. It first looks (nothing is
changed), then decides, then acts; a crash at any step of the last leads to the same decision again (C2.10).

What it looks at:
1. segments wholly below the log start offset are not part of the log any more (C9.5);
2. segments below the one that holds the recovery point were durable and checked: their ends are looked at, so that a
   hole between two segments is found (C2.2);
3. from the segment that holds the recovery point on, every batch: length, magic, CRC, the next base offset, a leader
   epoch that does not fall (C2.6). The first that fails ends the log (C2.3), zeros too (C2.7); so does the end of a
   segment that the next one does not continue. All valid batches before it are kept (C2.4), what follows goes, later
   segments included;
4. after a clean stop only the ends are looked at, of all segments. If they are not as the checkpoint says, the stop
   was not clean for this partition, and everything is checked;
5. where producers or epochs must be read from what was durable, and a batch of it has decayed, everything is checked.

What it decides:
1. the log ends below the recovery point, or a segment that begins below it is not part of it: records that were durable
   are gone or unreadable. `PartitionDamaged`, unless `accept_loss` (C2.5): then it is cut there, and the report says
   what is lost;
2. the log ends below the log start offset: it restarts, empty, there (C2.9);
3. else the log is what was found, and after an unclean stop gets a leader epoch higher than any before it (C2.8).

How it acts, in this order:
1. leader epochs are saved, durably; the new one only before the first append (it is in `Content.epoch_unsaved`), so
   that recovering twice changes nothing;
2. segments that go are unlinked, the highest first, with all leftovers, and the directory is synced;
3. the last segment is cut and synced (or written anew, where a flush has failed before), before anything can be
   appended to it;
4. the indexes of what was checked become what its batches give; nothing is written where they are that already (C5.5);
5. producer state: newest usable snapshot, then the log behind it (C6.1, C6.2, R13). The directory is synced again if
   snapshots went.

What was kept but never synced stays so: the recovery point does not move (C3.1), and the next flush covers it.

Apache Kafka differs: it does not look for holes between segments, does not check base offsets and epochs on every
batch, truncates also below the recovery point, and drops a whole segment where one entry does not fit its index.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from refbroker.config import LogConfig
from refbroker.log import leftovers
from refbroker.log.batch import CorruptBatch
from refbroker.log.checkpoints import InvalidFile
from refbroker.log.content import Content
from refbroker.log.cuts import keep_snapshots, remove_segments
from refbroker.log.disk import Disk
from refbroker.log.distrust import write_anew
from refbroker.log.epochs import LEADER_EPOCH_CHECKPOINT, EpochCache
from refbroker.log.producers import ProducerStates, list_snapshots, snapshot_name
from refbroker.log.replay import remember, replay
from refbroker.log.report import PartitionDamaged, RecoveryReport
from refbroker.log.scan import header_at
from refbroker.log.survey import Finding, check_segment, end_of_segment, peek
from refbroker.log.segment import Damaged, Segment, file_name


@dataclass
class Survey:
    """What was found, before anything is changed."""

    segments: list[Segment]  # that stay
    stale: list[Segment] = field(default_factory=list)  # wholly below the log start offset
    dropped: list[Segment] = field(default_factory=list)  # behind the end of the log
    checked: dict[int, Finding] = field(default_factory=dict)  # by base offset: every batch was looked at
    finding: Finding | None = None  # of the last segment that stays
    reason: str | None = None  # why the log ends before the files do
    statement: str = "C2.3"
    position: int = 0
    epochs: list[tuple[int, int]] = field(default_factory=list)  # (epoch, first offset) in what was checked
    epoch_max: int = -1  # the largest in anything, also in what is dropped

    @property
    def end_offset(self) -> int:
        return self.segments[-1].next_offset if self.segments else 0


def recover(disk: Disk, directory: str, **settings) -> tuple[Content, RecoveryReport]:
    """The log, and how it was found; by the `settings` of `_recover`. Raises PartitionDamaged, OSError."""
    try:
        return _recover(disk, directory, **settings)
    except (CorruptBatch, Damaged):  # in what is durable, and was read for producers or epochs only (C2.5)
        return _recover(disk, directory, check_all=True, **settings)


def _recover(
    disk: Disk,
    directory: str,
    *,
    config: LogConfig,
    recovery_point: int,
    log_start_offset: int,
    clean: bool,
    now_ms: int,
    compacted: bool = False,
    accept_loss: bool = False,
    distrust: bool = False,
    lower_recovery_point: Callable[[int], None] = lambda offset: None,
    producer_expiration_ms: int = 86_400_000,
    check_all: bool = False,
) -> tuple[Content, RecoveryReport]:
    """`lower_recovery_point` makes a lower one durable before anything that was durable is cut (C3.7). `distrust`: a
    flush has failed before, see distrust.py. `check_all`: look at every batch, as if nothing were known to be durable.
    Raises CorruptBatch, Damaged where that should be done."""
    report = RecoveryReport(directory, recovery_point=recovery_point)
    names = disk.list(directory)
    if any(name.endswith(".log.swap") for name in names):
        leftovers.finish_swaps(disk, directory, report)
        names = disk.list(directory)
    compacted = compacted or "compact" in config.cleanup_policy
    clean, look_from = clean and not check_all, 0 if check_all else recovery_point
    found = _look(disk, directory, names, config, look_from, log_start_offset, clean, compacted, now_ms)
    if clean and (found.reason is not None or found.end_offset != recovery_point):
        clean = False
        found = _look(disk, directory, names, config, recovery_point, log_start_offset, clean, compacted, now_ms)
    report.clean = clean
    if found.segments:
        log_start_offset = max(log_start_offset, found.segments[0].base_offset)
    if _lacks_durable(found, log_start_offset, recovery_point, compacted):
        _refuse_or_report(found, directory, recovery_point, accept_loss, report)
        lower_recovery_point(min(found.end_offset, recovery_point))
    recovery_point = min(recovery_point, found.end_offset)

    epochs, unsaved, leader_epoch = _epochs(disk, directory, found, clean, log_start_offset, report)
    _drop(disk, directory, names, found, report)
    if not found.segments or found.end_offset < log_start_offset:
        start = max(log_start_offset, found.end_offset)
        _restart_empty(disk, directory, found, start, config, now_ms, report)
    recovery_point = max(recovery_point, found.segments[0].base_offset)  # what lies below is no part of the log
    if distrust:
        write_anew(disk, directory, [segment for segment in found.segments if segment.base_offset in found.checked])
    unfinished = _repair(disk, directory, found, clean, report)
    producers = ProducerStates(producer_expiration_ms)
    snapshots = _producers(disk, directory, found.segments, unfinished, producers, recovery_point, now_ms, report)
    end_offset = found.end_offset
    report.log_start_offset, report.log_end_offset, report.leader_epoch = log_start_offset, end_offset, leader_epoch
    for segment in found.segments[:-1]:
        segment.close()
    sealed = clean and not report.actions and not unsaved and disk.exists(f"{directory}/{snapshot_name(end_offset)}")
    content = Content(
        found.segments, epochs, producers, log_start_offset, recovery_point, leader_epoch, unsaved, tuple(unfinished),
        tuple(snapshots), entries_synced=clean, sealed=sealed,
    )  # fmt: skip
    return content, report


# ---------------------------------------------------------------- look


def _look(
    disk: Disk, directory: str, names: list[str], config: LogConfig, recovery_point: int, log_start_offset: int,
    clean: bool, compacted: bool, now_ms: int,
) -> Survey:  # fmt: skip
    segments = []
    for base_offset in leftovers.segment_offsets(names):
        segment = Segment(disk, directory, base_offset, interval_bytes=config.index_interval_bytes, created_ms=now_ms)
        segment.size = segment.file.size
        segment.close()
        segments.append(segment)
    first = max(0, sum(segment.base_offset <= log_start_offset for segment in segments) - 1)
    found = Survey([], stale=segments[:first])
    segments = segments[first:]
    from_index = max(0, sum(segment.base_offset <= recovery_point for segment in segments) - 1)
    epoch, expected = -1, None
    for index, segment in enumerate(segments):
        whole = index >= from_index and not clean
        base_offset = segment.base_offset
        if expected is not None and (base_offset < expected or (base_offset > expected and not compacted)):
            what = "overlaps" if base_offset < expected else "leaves a hole behind"
            found.reason = f"{file_name(base_offset)} {what} the segment before it, which ends at {expected}"
            found.statement, found.position = "C2.2", found.segments[-1].size
            found.dropped = segments[index:]
            break
        if whole:
            finding = check_segment(segment, expected, compacted, epoch)
            found.checked[segment.base_offset] = finding
            found.epochs += finding.epochs
            epoch = finding.epoch
        else:
            finding = end_of_segment(segment)
        segment.adopt(finding.size, finding.end_offset)
        if index < len(segments) - 1:
            segment.close()
        found.segments.append(segment)
        found.finding = finding
        expected = finding.end_offset
        if finding.reason is not None:
            found.reason, found.statement, found.position = finding.reason, finding.statement, finding.size
            found.dropped = segments[index + 1 :]
            break
    found.epoch_max = max([epoch, *(epoch for epoch, _ in found.epochs)])
    if not clean:
        for segment in found.dropped:
            segment.next_offset, epoch = peek(segment, 0)
            found.epoch_max = max(found.epoch_max, epoch)
        if found.finding is not None:
            found.epoch_max = max(found.epoch_max, found.finding.epoch_behind)
    return found


def _lacks_durable(found: Survey, log_start_offset: int, recovery_point: int, compacted: bool) -> bool:
    """Is something gone that was durable? The log ends too early; or an offset that has decayed, which no CRC covers,
    makes it begin behind all that, or hides that later segments do not belong behind it."""
    short = max(found.end_offset, log_start_offset) < recovery_point
    first = found.segments[0] if not compacted and found.end_offset > recovery_point > log_start_offset else None
    beyond = first is not None and first.size > 0 and header_at(first.file, 0, first.size).base_offset >= recovery_point
    return short or beyond or any(segment.base_offset < recovery_point for segment in found.dropped)


def _refuse_or_report(found: Survey, directory: str, recovery_point: int, accept_loss: bool, report: RecoveryReport) -> None:
    last = found.segments[-1] if found.segments else None
    name = file_name(last.base_offset) if last else file_name(0)
    reason = found.reason or f"the log ends here, but was durable up to offset {recovery_point}"
    if not accept_loss:
        raise PartitionDamaged(f"{directory}/{name}", found.position, found.end_offset, reason)
    lost = found.end_offset, recovery_point
    report.add(name, "cut", 0, lost, f"durable records are lost, accepted: {reason}", "C2.5")


# ---------------------------------------------------------------- act


def _epochs(
    disk: Disk, directory: str, found: Survey, clean: bool, log_start_offset: int, report: RecoveryReport
) -> tuple[EpochCache, bool, int]:
    """(the cache, whether it must be saved before the first append, the leader epoch)."""
    path = f"{directory}/{LEADER_EPOCH_CHECKPOINT}"
    end_offset = max(found.end_offset, log_start_offset)
    observed = found.epochs
    try:
        cache = EpochCache.load(disk, path)
        on_disk = list(cache.entries)
    except InvalidFile as error:
        cache, on_disk = EpochCache(path), None
        report.add(LEADER_EPOCH_CHECKPOINT, "rebuilt", 0, None, str(error), "C4.4")
    highest = max(found.epoch_max, -1 if cache.latest is None else cache.latest)
    last = found.finding.epoch if found.finding is not None else -1
    visible = found.end_offset > log_start_offset  # else the last batch was deleted, and its epoch with it
    if clean and last >= 0 and visible and cache.epoch_for(found.end_offset - 1) != last:
        report.add(LEADER_EPOCH_CHECKPOINT, "rebuilt", 0, None, f"the last batch has leader epoch {last}", "C4.4")
        cache.clear()
    if not cache.entries and found.end_offset:  # from all batches, not only those that were checked
        observed = [entry for segment in found.segments for entry in _epochs_of(segment)]
    highest = max([highest, *(epoch for epoch, _ in observed)])
    if not clean and found.checked:
        cache.truncate_from_end(min(found.checked))
    for epoch, start_offset in observed:
        if cache.latest is None or epoch > cache.latest:
            cache.assign(epoch, start_offset)
    while cache.entries and cache.entries[-1][1] > end_offset:
        cache.entries.pop()
    if found.end_offset < log_start_offset:
        cache.clear()
    if highest >= 0 and cache.latest != highest:  # its batches are gone; its number stays in use (C2.8)
        cache.assign(highest, end_offset)
    if cache.entries != (on_disk or []):
        cache.save(disk)
        if on_disk:
            report.add(LEADER_EPOCH_CHECKPOINT, "rebuilt", 0, None, "it did not fit the batches", "C4.4")
    cache.truncate_from_start(log_start_offset)
    if clean and highest >= 0:
        return cache, False, highest
    cache.assign(highest + 1, end_offset)
    return cache, True, highest + 1


def _epochs_of(segment: Segment) -> list[tuple[int, int]]:
    entries: list[tuple[int, int]] = []
    for _, batch in segment.headers_from(segment.base_offset):
        if batch.leader_epoch > (entries[-1][0] if entries else -1):
            entries.append((batch.leader_epoch, batch.base_offset))
    return entries


def _drop(disk: Disk, directory: str, names: list[str], found: Survey, report: RecoveryReport) -> None:
    """Unlink what is no part of the log, from the end, and make that durable."""
    for segment in reversed(found.dropped):
        name, offsets = file_name(segment.base_offset), (segment.base_offset, segment.next_offset)
        report.add(name, "dropped", segment.size, offsets, f"behind the end of the log: {found.reason}", "C2.3")
    for segment in found.stale:
        name = file_name(segment.base_offset)
        report.add(name, "dropped", segment.size, None, "wholly below the log start offset", "C9.5")
    remove_segments(disk, directory, found.stale + found.dropped)
    changed = found.stale or found.dropped or any(name.endswith(".tmp") for name in names)  # one may have been renamed since
    if leftovers.drop(disk, directory, disk.list(directory) if changed else names, report):
        disk.sync_dir(directory)


def _restart_empty(disk: Disk, directory: str, found: Survey, start: int, config: LogConfig, now_ms: int, report: RecoveryReport) -> None:
    """The log goes on, empty, at its start (C2.9). Also the first segment of a partition that was being created."""
    if found.segments:
        report.add(
            file_name(found.segments[0].base_offset), "dropped", sum(segment.size for segment in found.segments), None,
            f"the log ends at {found.end_offset}, below the log start offset {start}", "C2.9",
        )  # fmt: skip
        remove_segments(disk, directory, found.segments)
    keep_snapshots(disk, directory, set())
    segment = Segment.create(disk, directory, start, interval_bytes=config.index_interval_bytes, created_ms=now_ms)
    disk.sync_dir(directory)
    found.segments, found.checked, found.finding, found.reason = [segment], {}, None, None


def _repair(disk: Disk, directory: str, found: Survey, clean: bool, report: RecoveryReport) -> list[Segment]:
    """Cut the last segment, and make all indexes right. Returns the rolled segments that must be flushed."""
    for segment in found.segments:
        finding = found.checked.get(segment.base_offset)
        name = file_name(segment.base_offset)
        if finding is not None:
            report.scanned_bytes += finding.size
            if segment.adopt_entries(finding.entries, segment is found.segments[-1]):
                report.add(name, "rebuilt", 0, None, "indexes that its batches do not give", "C5.5")
        excess = segment.file.size - segment.size
        if excess:
            end = found.finding.end_behind if found.finding else segment.next_offset
            offsets = segment.next_offset, max(end, segment.next_offset)
            report.add(name, "cut", excess, offsets, found.reason, found.statement)
            segment.file.truncate(segment.size)
            segment.file.sync()
    return [segment for segment in found.segments[:-1] if segment.base_offset in found.checked]


def _producers(
    disk: Disk, directory: str, segments: list[Segment], unfinished: list[Segment], producers: ProducerStates,
    recovery_point: int, now_ms: int, report: RecoveryReport,
) -> list:  # fmt: skip
    """Load and replay. Returns the snapshots at the ends of unfinished segments, which their flush must cover
    (C3.2). The newest one up to the recovery point stays whatever is written here, since that is not durable yet."""
    end_offset = segments[-1].next_offset
    loaded = producers.load(disk, directory, segments[0].base_offset, end_offset, now_ms)
    for name, reason in loaded.removed:
        report.add(name, "dropped", 0, None, reason, "C6.2")
    kept = {segment.base_offset for segment in segments} | {loaded.offset}
    kept |= set(sorted(offset for offset, _ in list_snapshots(disk, directory) if offset <= recovery_point)[-1:])
    if keep_snapshots(disk, directory, kept) or loaded.removed:
        disk.sync_dir(directory)
    remember(segments, producers, loaded.offset)
    unsynced, offset = [], loaded.offset
    for segment in unfinished:
        if segment.next_offset > offset:
            replay(segments[: segments.index(segment) + 1], producers, offset)
            offset = segment.next_offset
            unsynced.append(producers.write_snapshot(disk, directory, sync=False))
    replay(segments, producers, offset)
    ends = {segment.next_offset for segment in unfinished}
    fresh = {file.path for file in unsynced}
    for offset, name in list_snapshots(disk, directory):
        if offset in ends and f"{directory}/{name}" not in fresh:
            unsynced.append(disk.open(f"{directory}/{name}"))
    return unsynced
