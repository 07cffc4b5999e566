"""Does the log that is still running give the answers that its files give? Asked before anything crashes.

Recovery repairs much, and so hides what was wrong before it. So the questions that are put to a recovered log are put to the
live one too, against its files as they are in the page cache:

1. reads from every offset and lookups by time (C4.2, C5.4, C5.5), index files that fit their segment (C5.1, C5.2, C5.3, C5.7);
2. leader epochs and producer state that are those of the batches (C4.4, C6.1, C6.4);
3. no producer snapshot beyond the log end (C6.2);
4. what a client was told to be deleted is not there (C3.5, C4.1).
"""

from collections.abc import Iterator

from chaos.checks import epochs, lookups, producers
from chaos.checks.crash import Problem
from chaos.disk import recovering

SNAPSHOT = ".snapshot"


def check(driver) -> list[Problem]:
    """All partitions of a running log directory. It may write: indexes that are rebuilt."""
    return [problem for key, log in driver.logs.partitions.items() if log.offline is None for problem in _check(driver, key, log)]


def _check(driver, key, partition) -> Iterator[Problem]:
    files = driver.disk.view()
    log = recovering.observe(key, partition, driver.logs, files)
    if log.run.end_offset != log.log_end_offset or log.run.reason is not None:
        yield Problem("C2.2", key, log.run.end_offset, f"live: files end at {log.run.end_offset} ({log.run.reason}), the log says "
                                                       f"{log.log_end_offset}")
        return
    yield from epochs.check_partition(log, True)
    yield from producers.check_partition(log)
    yield from _unknown_producers(log)
    yield from lookups.check(partition, log, files)
    prefix = partition.directory + "/"
    for path in files:
        if path.startswith(prefix) and path.endswith(SNAPSHOT) and int(path[len(prefix):-len(SNAPSHOT)]) > log.log_end_offset:
            yield Problem("C6.2", key, log.log_end_offset, f"live: {path} lies beyond the log end")
    start = max((cut.offset for cut in _deletions(driver, partition)), default=0)
    if log.log_start_offset < min(start, log.log_end_offset):
        yield Problem("C3.5", key, start, f"live: log start {log.log_start_offset}, deleted up to {start}")


def _unknown_producers(log) -> Iterator[Problem]:
    """State of batches that the log does not have."""
    known = producers.replay(log)
    for producer_id, (_, batches) in log.producers.items():
        beyond = [batch for batch in batches if batch[2] >= log.log_end_offset]
        if beyond or (producer_id in known and batches and batches[-1] != known[producer_id][1][-1]):
            yield Problem("C6.1", log.key, log.log_end_offset, f"producer {producer_id} is known by {batches}, the log has "
                                                               f"{known.get(producer_id)}")


def _deletions(driver, partition) -> list:
    """Deletions that were confirmed to this process: an earlier one's may be undone until its checkpoint (C3.5). A start leaves events
    at once, so what began at the very time of it was asked of the process before."""
    entry = driver.partition_ledger(partition.topic, partition.number)
    since = driver.starts[-1]
    return [step for step in entry.steps if getattr(step, "kind", "") == "delete" and step.done is not None and step.began > since] if entry else []

