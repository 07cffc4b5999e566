"""Do offsets and epochs after a recovery tell a client everything that it must know?

Verified: log start <= last stable <= high watermark <= log end (C4.1); a reader gets nothing above the high watermark and
everything below it, from each offset (C4.2); the epoch cache is what the batch headers give, with at most one
entry more at the log end, both columns rising (C4.4); the leader epoch is above that of every batch, lost ones included, unless the
stop was clean, so a reused offset can be told apart (C2.8, C4.3).
Not verified: followers.
"""

from chaos.checks.crash import Problem, Recovered, RecoveredPartition


def check(recovered: Recovered) -> list[Problem]:
    found: list[Problem] = []
    for log in recovered.partitions.values():
        if log.offline is None:
            found += check_partition(log, recovered.clean)
    return found


def check_partition(log: RecoveredPartition, clean: bool) -> list[Problem]:
    found = []
    order = (log.log_start_offset, log.last_stable_offset, log.high_watermark, log.log_end_offset)
    if not (order[0] <= order[1] <= order[2] <= order[3]):
        found.append(Problem("C4.1", log.key, order[0], f"log start, last stable, high watermark, log end: {order}"))
    if any(not (a[0] < b[0] and a[1] < b[1]) for a, b in zip(log.epochs, log.epochs[1:], strict=False)):
        found.append(Problem("C4.4", log.key, -1, f"epochs do not rise: {log.epochs}"))
    scanned = _scan(log)
    cached = list(log.epochs)
    while cached and cached[-1][1] >= log.log_end_offset and cached[-1] not in scanned:
        if cached[-1][1] > log.log_end_offset:
            found.append(Problem("C4.4", log.key, cached[-1][1], f"epoch {cached[-1]} begins beyond the log end {log.log_end_offset}"))
        cached.pop()
        break
    known = [entry for entry in cached if entry[1] >= log.log_start_offset]
    expected = [entry for entry in scanned if entry[1] >= log.log_start_offset]
    missing = [entry for entry in expected if entry not in known]
    if missing and missing[0][1] > log.log_start_offset:
        found.append(Problem("C4.4", log.key, missing[0][1], f"the batches say epochs {scanned}, the cache {log.epochs}"))
    highest = max((batch.leader_epoch for batch in log.run.batches), default=-1)
    if log.leader_epoch < highest or (not clean and log.leader_epoch == highest and log.run.batches):
        found.append(Problem("C2.8", log.key, log.log_end_offset, f"leader epoch {log.leader_epoch} after an unclean start, but a "
                                                                  f"batch has {highest}"))
    return found


def _scan(log: RecoveredPartition) -> list[tuple[int, int]]:
    """(epoch, first offset) as the batch headers give it."""
    entries: list[tuple[int, int]] = []
    for batch in log.run.batches:
        if not entries or batch.leader_epoch > entries[-1][0]:
            entries.append((batch.leader_epoch, batch.base_offset))
    return entries
