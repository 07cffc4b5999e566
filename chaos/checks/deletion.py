"""Does what was deleted stay deleted, and does a new topic begin empty?

Verified: a topic whose deletion was confirmed is not there after any crash, under its id (C9.5), a directory that
waits to be unlinked is served by nobody;
a topic that was made again holds nothing of the old one, and its id is on disk before its first record (C9.6).
Not verified: compaction (C9.1 to C9.4).
"""

from chaos.checks.crash import ROOT, Problem, Recovered, RecoveredPartition
from chaos.disk.ledger import Owed


def check(recovered: Recovered, owed: list[Owed]) -> list[Problem]:
    return [problem for log in recovered.partitions.values() for problem in check_log(log, owed)]


def check_log(log: RecoveredPartition, owed: list[Owed]) -> list[Problem]:
    """Whether one recovered log is one that was made and is not deleted; `owed` may leave out the debts to other partitions."""
    debt = next((debt for debt in owed if (debt.ledger.key, debt.ledger.topic_id) == (log.key, log.topic_id)), None)
    if debt is None:
        bytes_there = sum(len(batch.data) for batch in log.run.batches)
        if bytes_there or log.topic_id is not None:
            return [Problem("C9.6", log.key, 0, f"a partition with id {log.topic_id}, which nobody made, and {bytes_there} bytes of records")]
        return []
    if not debt.may_exist:
        return [Problem("C9.5", log.key, 0, f"topic {log.key[0]} ({log.topic_id}) was deleted and is back")]
    return []


def metadata_before_records(recovered: Recovered) -> list[Problem]:
    """No record lies in a directory whose topic id is not on disk."""
    found = []
    for path, data in recovered.before.items():
        if path.endswith(".log") and data:
            directory = path.rpartition("/")[0]
            topic, _, number = directory[len(ROOT) + 1:].rpartition("-")  # what waits to be unlinked has no number there
            if number.isdigit() and not recovered.before.get(f"{directory}/partition.metadata"):
                found.append(Problem("C9.6", (topic, int(number)), 0, f"{path} has records, its directory has no topic id"))
    return found
