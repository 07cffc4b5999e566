"""Is a bit that decayed at rest ever served, or a record dropped for it without a word?

Verified, with one bit flipped in each field of each kind of file of a stopped broker, after a clean stop and after a kill: what a reader
gets is what was appended, or is refused, or can be told by the reader: it fails its CRC, or, in the fields that no
CRC covers, its offset is not
the one asked for or its epoch falls or is above the leader's (C2.5, C2.6); records that are missing are missing from an offline
partition or with a report (C2.5); decayed indexes, snapshots and checkpoints change no answer (C5.5, C6.2).
Not verified: that decay in the log is found before a reader comes to it.
"""

from chaos.checks.crash import Problem, parsed
from chaos.disk.ledger import PartitionLedger
from refbroker.errors import KafkaError

EVERYTHING = 1 << 30
STATEMENTS = ("C2.5", "C2.6", "C5.5", "C6.2")


def check_served(logs, entry: PartitionLedger, end: int, kind: str) -> list[Problem]:
    """Read the whole partition as a consumer would. `end` is the log end before the decay, `kind` the file that decayed."""
    log = logs.partitions.get(entry.key)
    statement = "C2.5" if kind == "log" else "C6.2" if kind == "snapshot" else "C5.5"
    if log is None:  # an empty partition without a readable id cannot be told from one that was never made
        return [] if kind == "partition.metadata" and not end else [Problem(statement, entry.key, 0, "the partition is gone")]
    if log.offline is not None:
        loud = kind in ("log", "partition.metadata") or kind.endswith("-offset-checkpoint")  # refusing is always allowed for these
        return [] if loud else [Problem(statement, entry.key, 0, f"offline for a decayed {kind}: {log.offline}")]
    if log.log_end_offset > end:
        return [Problem(statement, entry.key, end, f"ends at {log.log_end_offset} instead of {end}: what was there is hidden")]
    report = logs.reports.get(entry.key)
    if log.log_end_offset < end and not (report is not None and report.lost):
        return [Problem("C2.5", entry.key, log.log_end_offset, f"ends at {log.log_end_offset} instead of {end}, and no report says why")]
    if log.log_end_offset < end and kind != "log":
        return [Problem(statement, entry.key, log.log_end_offset, f"a decayed {kind} took records")]
    return _read(log, entry, statement)


def _read(log, entry: PartitionLedger, statement: str) -> list[Problem]:
    wanted = {step.base_offset: step.data for step in entry.steps if hasattr(step, "data")}
    offset, epoch = log.log_start_offset, -1
    found: list[Problem] = []
    while offset < log.high_watermark:
        try:
            region = log.read(offset, EVERYTHING).regions
        except KafkaError:  # refused: a reader is told
            return []
        if region is None:
            return [Problem(statement, entry.key, offset, "nothing to read below the high watermark")]
        data = region.file.pread(region.size, region.position)
        batches = parsed(data, 0).batches
        for batch in batches:
            if batch.base_offset > offset or batch.last_offset < offset or not epoch <= batch.leader_epoch <= log.leader_epoch:
                return []  # not what was asked for, or from no leader's time: whoever looks sees it
            offset, epoch = batch.last_offset + 1, batch.leader_epoch
            if wanted.get(batch.base_offset) != batch.data:
                found.append(Problem("C2.6" if statement == "C2.5" else statement, entry.key, batch.base_offset,
                                     "a reader gets a batch with a right CRC that is not what was appended"))
        if not batches or batches[-1].end < len(data):
            return []  # the reader's CRC check or framing stops it
    return found[:1]
