"""Does the log know after a recovery which batches a producer has already sent?

Verified, by replaying the recovered bytes: for every producer in the log the same epoch and last sequence (C6.1,
C3.2, C6.2, C6.7: whatever snapshots
there were, or were not), and a retry of each of its last five batches is recognised with its offset (C6.4); an epoch that a
surviving batch carries fences the lower ones (C6.6).
Not verified: expiry; transactions; producers of which nothing but a snapshot is left (their records are below the log start).
"""

from chaos.checks.crash import Problem, Recovered, RecoveredPartition

BATCHES_KEPT = 5


def check(recovered: Recovered) -> list[Problem]:
    return [problem for log in recovered.partitions.values() if log.offline is None for problem in check_partition(log)]


def check_partition(log: RecoveredPartition) -> list[Problem]:
    found = []
    for producer_id, (epoch, batches) in replay(log).items():
        known = log.producers.get(producer_id)
        last_offset = batches[-1][2]
        if known is None:
            found.append(Problem("C6.1", log.key, last_offset, f"producer {producer_id} is in the log and not known"))
            continue
        if known[0] != epoch:
            statement = "C6.6" if known[0] < epoch else "C6.1"
            text = f"producer {producer_id} has epoch {epoch} in the log, {known[0]} in the state"
            found.append(Problem(statement, log.key, last_offset, text))
            continue
        if not known[1] or known[1][-1] != batches[-1]:
            text = f"producer {producer_id} ended with {batches[-1]}, the state says {known[1][-1:]}"
            found.append(Problem("C6.1", log.key, last_offset, text))
        forgotten = [batch for batch in batches if batch not in known[1] and batch[2] >= log.log_start_offset]
        if forgotten:
            text = f"a retry of {forgotten[0]} of producer {producer_id} would be taken for news; the state has {known[1]}"
            found.append(Problem("C6.4", log.key, forgotten[0][2], text))
    return found


def replay(log: RecoveredPartition) -> dict[int, tuple[int, list[tuple[int, int, int]]]]:
    """Producer id -> (epoch, last five batches as (first sequence, last sequence, base offset))."""
    producers: dict[int, tuple[int, list[tuple[int, int, int]]]] = {}
    for batch in log.run.batches:
        if batch.producer_id < 0:
            continue
        epoch, batches = producers.get(batch.producer_id, (batch.producer_epoch, []))
        if batch.producer_epoch != epoch:
            epoch, batches = batch.producer_epoch, []
        entry = (batch.base_sequence, batch.base_sequence + batch.count - 1, batch.base_offset)
        producers[batch.producer_id] = epoch, [*batches, entry][-BATCHES_KEPT:]
    return producers
