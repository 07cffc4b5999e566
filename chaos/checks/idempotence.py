"""Does a second recovery change anything, and does a first one need its helpers?

Verified: recovering what a recovery left (its process killed) gives the same files and numbers, the leader epoch
aside, which may rise (C2.10); recovering without
any index and snapshot gives the same offsets, batches and producers to clients (C2.12).
Not verified: crashes inside recovery (the enumeration makes those, and judges them by the debts of the first crash).
"""

from chaos.checks.crash import Image, Problem, Recovered

DERIVED = (".index", ".timeindex", ".txnindex", ".snapshot")
MAY_DIFFER = ("leader-epoch-checkpoint",)


def same_again(first: Recovered, second: Recovered) -> list[Problem]:
    """`second` was made from `first.after`."""
    if second.refused is not None:
        return [Problem("C2.10", ("", -1), -1, f"recovery works once; the second time: {second.refused}")]
    found = []
    for key, log in first.partitions.items():
        again = second.partitions.get(key)
        if again is None or numbers(again) != numbers(log):
            found.append(Problem("C2.10", key, log.log_end_offset, f"first recovery {numbers(log)}, second {again and numbers(again)}"))
    for path in sorted(first.after.keys() | second.after.keys()):
        if first.after.get(path) != second.after.get(path) and not path.endswith(MAY_DIFFER):
            found.append(Problem("C2.10", ("", -1), -1, f"the second recovery changed {path}"))
    return found


def numbers(log) -> tuple:
    return log.offline is None, log.log_start_offset, log.log_end_offset, log.high_watermark, log.recovery_point


def without_derived(image: Image) -> Image:
    return {path: data for path, data in image.items() if data is None or not path.endswith(DERIVED)}


def same_without_derived(full: Recovered, bare: Recovered) -> list[Problem]:
    """`bare` was made from the same image without its derived files."""
    if bare.refused is not None:
        return [Problem("C2.12", ("", -1), -1, f"without indexes and snapshots: {bare.refused}")]
    found = []
    for key, log in full.partitions.items():
        other = bare.partitions.get(key)
        if other is None or _visible(other) != _visible(log):
            found.append(Problem("C2.12", key, log.log_start_offset, "another log without its indexes and snapshots"))
    return found


def _visible(log) -> tuple:
    """What clients see; of producers those that have records in the log, since nothing but a snapshot can know the others."""
    present = {batch.producer_id for batch in log.run.batches}
    known = {number: (epoch, batches[-1:]) for number, (epoch, batches) in log.producers.items() if number in present}
    offsets = log.log_start_offset, log.log_end_offset, log.high_watermark
    return log.offline is None, offsets, [batch.data for batch in log.run.batches], known
