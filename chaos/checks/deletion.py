"""Does what was deleted stay deleted, and does a new topic begin empty?

Verified: a topic whose deletion was confirmed is not there after any crash, under its id (C9.5), a directory that
waits to be unlinked is served by nobody;
a topic that was made again holds nothing of the old one, and its id is on disk before its first record (C9.6).
Not verified: compaction (C9.1 to C9.4).
"""

from chaos.checks.crash import ROOT, Problem, Recovered
from chaos.disk.ledger import Owed


def check(recovered: Recovered, owed: list[Owed]) -> list[Problem]:
    found: list[Problem] = []
    by_id = {(debt.ledger.key, debt.ledger.topic_id): debt for debt in owed}
    for key, log in recovered.partitions.items():
        debt = by_id.get((key, log.topic_id))
        if debt is None:
            bytes_there = sum(len(batch.data) for batch in log.run.batches)
            if bytes_there or log.topic_id is not None:
                text = f"a partition with id {log.topic_id}, which nobody made, and {bytes_there} bytes of records"
                found.append(Problem("C9.6", key, 0, text))
            continue
        if not debt.may_exist:
            found.append(Problem("C9.5", key, 0, f"topic {key[0]} ({log.topic_id}) was deleted and is back"))
    return found


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
