"""After a call to the disk failed, is anything promised that is not true?

Verified, with each call of each kind failing once, for a moment and for good: after a failed fsync the directory is
offline and nothing that
needed it is acked (C1.13); a failed append moves no offset, shows a reader nothing, and when the disk works again the next append
comes at the same offset, or the directory is offline (C1.14); a producer may then send its batch again and it is
appended once (C6.3); what was
acked survives the process and, as far as the policy reaches, the power.
Not verified: errors that the device does not report.
"""

from chaos.checks.crash import Problem, checkpoint_in, parsed
from chaos.disk.driver import Driver
from chaos.disk.faults import Injector
from chaos.disk.ledger import Append, Cut

EVERYTHING = 1 << 30
STATEMENTS = ("C1.13", "C1.14", "C3.1", "C6.3")


def check_struck(driver: Driver, injector: Injector, began: int) -> list[Problem]:
    """Right after the operation in which the fault struck, in the same process; the operation began at `began`."""
    if not injector.fault.kind.startswith("sync") or driver.restarted_since(began):
        return []
    found = []
    if driver.logs.offline is None:
        found.append(Problem("C1.13", ("", -1), -1, "an fsync failed, and the directory is not offline"))
    if driver.policy.messages == 1:
        mine = [entry for entry in driver.ledger.partitions if f"/{entry.topic}-{entry.number}/" in injector.log[0] + "/"]
        found += [Problem("C1.13", entry.key, step.base_offset, "acked, though its fsync failed") for entry in mine
                  for step in entry.steps if isinstance(step, Append) and step.acked is not None and step.began >= began]
    return found


def check_live(driver: Driver) -> list[Problem]:
    """The process as it is now, whatever it met."""
    found = [Problem(statement, ("", -1), -1, text) for statement, text in driver.complaints]
    for entry in driver.ledger.partitions:
        log = driver.logs.partitions.get(entry.key)
        if log is not None and log.offline is None and log.topic_id == entry.topic_id and entry.deleted[0] is None:
            found += _check_readable(log, entry)
    points = checkpoint_in(driver.disk.view(), "recovery-point-offset-checkpoint")
    found += [Problem("C3.1", key, log.log_end_offset, f"the recovery point on disk is {points[key]}, the log ends before it")
              for key, log in driver.logs.partitions.items() if log.offline is None and points.get(key, 0) > log.log_end_offset]
    return found


def _check_readable(log, entry) -> list[Problem]:
    """Everything that a reader gets was appended, and not said to have failed."""
    expected: list[Append] = []
    for step in entry.steps:
        if isinstance(step, Append) and not step.failed:
            expected.append(step)
        elif isinstance(step, Cut) and step.kind == "truncate" and step.undone is None:
            expected = [append for append in expected if append.last_offset < step.offset]
    by_base = {append.base_offset: append.data for append in expected}
    data, offset, segments = b"", log.log_start_offset, []
    while offset < log.high_watermark:
        region = log.read(offset, EVERYTHING).regions
        if region is None:
            return [Problem("C1.14", entry.key, offset, f"nothing to read at {offset}, below the high watermark {log.high_watermark}")]
        data = region.file.pread(region.size, region.position)
        segment = parsed(data, 0)
        if segment.problem or not segment.batches:
            return [Problem("C1.14", entry.key, offset, f"a reader gets what is no batch: {segment.problem}")]
        segments += segment.batches
        offset = segment.batches[-1].last_offset + 1
    return [Problem("C1.14", entry.key, batch.base_offset, "a reader gets a batch that was refused or never sent")
            for batch in segments if by_base.get(batch.base_offset) != batch.data]
