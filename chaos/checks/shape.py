"""Is the recovered log one unbroken run of whole batches, and all of what the disk still held?

Verified, against an independent reading of the files before and after: no hole, overlap or invalid batch in what is served
(C2.2, C2.6); the first invalid batch ended the log and everything behind it is gone (C2.3); zeros are not data
(C2.7); nothing of the longest
valid run was dropped (C2.4); the log does not end below its start (C2.9), and retention left no hole (C4.7, C3.5); no
`.deleted`, `.swap`, `.cleaned` or `.tmp` file,
no index without its log, names are base offsets (C2.11). What is served is byte for byte what the files held before (C2.1).
Not verified: that these were the client's bytes (survival.py); compacted logs.
"""

from chaos.checks.crash import ROOT, Image, Problem, Recovered, RecoveredPartition, Run, checkpoint_in, longest_run, segments_in

LITTER = (".deleted", ".swap", ".cleaned", ".tmp")
DERIVED = (".index", ".timeindex", ".txnindex")


def check(recovered: Recovered) -> list[Problem]:
    found: list[Problem] = []
    starts = checkpoint_in(recovered.before, "log-start-offset-checkpoint")
    for key, log in recovered.partitions.items():
        directory = f"{ROOT}/{key[0]}-{key[1]}"
        before = longest_run(segments_in(recovered.before, directory), starts.get(key, 0))
        if log.offline is not None:
            found.append(Problem("C2.4", key, before.end_offset, f"offline after a crash: {log.offline}"))
            continue
        found += _check_end(log, before, starts.get(key, 0))
        found += _check_run(log, directory, recovered.after)
        kept = [batch.data for batch in log.run.batches]
        held = [batch.data for batch in before.batches]
        skipped = len(held) - len(kept)
        if kept and skipped >= 0 and kept != held[skipped:]:
            found.append(Problem("C2.1", key, log.run.batches[0].base_offset, "recovery changed the bytes of a batch"))
        found += _check_litter(key, directory, recovered.after)
    return found


def _check_end(log: RecoveredPartition, before: Run, log_start: int) -> list[Problem]:
    """R is the end of the longest run, or the log start where that is higher."""
    expected = before.end_offset
    if expected < log_start:
        if log.log_end_offset != log_start or log.log_start_offset != log_start:
            return [Problem("C2.9", log.key, log.log_end_offset, f"ends at {expected} on disk, below its start {log_start}: now "
                                                                 f"{log.log_start_offset} to {log.log_end_offset}")]
        return []
    if log.log_end_offset < expected:
        return [Problem("C2.4", log.key, log.log_end_offset,
                        f"recovery kept offsets up to {log.log_end_offset}, the disk held valid batches up to {expected}")]
    if log.log_end_offset > expected:
        statement = "C2.7" if before.segments and _ends_in_zeros(before) else "C2.3"
        return [Problem(statement, log.key, expected, f"log end {log.log_end_offset}, but the disk held valid batches only up to "
                                                      f"{expected}: {before.reason}")]
    return []


def _ends_in_zeros(run: Run) -> bool:
    """What the run stopped at were bytes that a size without data leaves."""
    return "magic 0" in (run.reason or "") or "batch of 12 bytes" in (run.reason or "")


def _check_run(log: RecoveredPartition, directory: str, after: Image) -> list[Problem]:
    found = []
    run = longest_run(segments_in(after, directory), log.log_start_offset)
    if run.reason is not None:
        hole = "continue" in run.reason
        found.append(Problem("C2.2" if hole else "C2.6", log.key, run.end_offset, f"after recovery: {run.reason}"))
    if run.end_offset != log.log_end_offset:
        found.append(Problem("C2.6", log.key, run.end_offset, f"files end at {run.end_offset}, the log says {log.log_end_offset}"))
    if not log.log_start_offset <= log.log_end_offset:
        found.append(Problem("C2.9", log.key, log.log_start_offset, f"log start {log.log_start_offset} above end {log.log_end_offset}"))
    return found


def _check_litter(key, directory: str, after: Image) -> list[Problem]:
    found = []
    prefix = directory + "/"
    bases = set()
    for path in after:
        if not path.startswith(prefix):
            continue
        name = path[len(prefix):]
        if name.endswith(LITTER):
            found.append(Problem("C2.11", key, -1, f"{name} is left after recovery"))
        elif name.endswith(".log"):
            bases.add(name[:20])
    for path in after:
        if path.startswith(prefix) and path.endswith(DERIVED) and path[len(prefix):len(prefix) + 20] not in bases:
            found.append(Problem("C2.11", key, -1, f"{path[len(prefix):]} has no log"))
    return found
