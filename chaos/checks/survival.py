"""Is every record still there that was owed, and nothing that nobody wrote?

Verified, against what clients asked and were told, and what the disk's own record says was durable: acked records survive as far as
fault and policy reach (C1.1, C1.2, C1.3, C1.4, C1.5, C1.6, with C1.15: only replies given before the crash are owed, and C3.6 for
flushes that a truncation overtook); what is there is a run of the partition's history, byte for byte (C2.1), an
unacked batch whole or not at all (C1.7);
a leader epoch that is above those of lost records (C2.8); what was deleted before a checkpoint stays deleted (C3.5); a clean marker only when nothing is missing (C3.3).
Not verified: the sense of the bytes to anyone.
"""

from chaos.checks.crash import Problem, Recovered, RecoveredPartition
from chaos.disk.ledger import Append, Owed


def check(recovered: Recovered, owed: list[Owed]) -> list[Problem]:
    if recovered.refused is not None:
        return [Problem("C2.4", ("", -1), -1, f"the broker does not start: {recovered.refused}")]
    return [problem for debt in owed for problem in check_debt(debt, recovered.partitions.get(debt.ledger.key), recovered.clean)]


def check_debt(debt: Owed, log: RecoveredPartition | None, clean: bool) -> list[Problem]:
    """What is owed to one partition, held against the log that has its name; `clean`: the start found a clean marker."""
    if log is None or log.topic_id != debt.ledger.topic_id:
        if not debt.must_exist:
            return []
        return [Problem(debt.statement if debt.must_end else "C9.6", debt.ledger.key, 0, f"the partition is gone; {debt.must_end} offsets were owed")]
    return check_partition(log, debt, clean) if log.offline is None else []


def check_partition(log: RecoveredPartition, debt: Owed, clean: bool) -> list[Problem]:
    key, end = debt.ledger.key, log.log_end_offset
    found = _check_content(log, debt)
    if log.log_start_offset > debt.start_max:
        found.append(Problem(debt.statement, key, debt.start_max,
                             f"log start {log.log_start_offset}, but nobody asked to delete beyond {debt.start_max}"))
    if log.log_start_offset < debt.start_min:
        found.append(Problem("C3.5", key, log.log_start_offset, f"log start {log.log_start_offset}, but what lies below {debt.start_min} was "
                                                                "deleted, durably"))
    if end < debt.must_end and debt.must_end > log.log_start_offset:
        found.append(Problem(debt.statement, key, end, f"log ends at {end}, owed up to {debt.must_end}"))
    elif end < debt.acked_end:
        found.append(Problem(debt.statement, key, end, f"{debt.acked_end - end} acked offsets lost", allowed=True))
    if not clean:  # a consumer may have seen what was acked, and what was never acked is nobody's loss
        used = max((int.from_bytes(append.data[12:16], "big") for branch in debt.branches for append in branch
                    if append.last_offset >= end and append.last_offset < debt.acked_end), default=-1)
        if log.leader_epoch <= used:
            text = f"offset {end} will be used again under epoch {log.leader_epoch}; what was lost had {used}"
            found.append(Problem("C2.8", key, end, text))
    elif end < (debt.branches[0][-1].last_offset + 1 if debt.branches[0] else 0):
        found.append(Problem("C3.3", key, end, f"a clean marker, but the log ends at {end}"))
    return found


def _check_content(log: RecoveredPartition, debt: Owed) -> list[Problem]:
    """The recovered batches are a contiguous part of one allowed history, up to the log's end."""
    batches = log.run.batches
    if not batches:
        return []
    best = -1
    for branch in debt.branches:
        differs = _first_difference(batches, branch)
        if differs is None:
            return []
        best = max(best, differs)
    return [Problem("C2.1", debt.ledger.key, best, "what is there was never appended there" if best >= 0 else "nothing of it was appended")]


def _first_difference(batches, branch: tuple[Append, ...]) -> int | None:
    by_base = {append.base_offset: append for append in branch}
    for batch in batches:
        append = by_base.get(batch.base_offset)
        if append is None or append.data != batch.data:
            return batch.base_offset
    return None


def lost(debt: Owed, log: RecoveredPartition) -> int | None:
    """Acked offsets that are gone, for the sanity conditions; None where the log is not the one that owes them."""
    if log.offline is not None or log.topic_id != debt.ledger.topic_id or not debt.must_exist:
        return None
    return max(0, debt.acked_end - log.log_end_offset)
