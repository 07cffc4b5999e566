"""Was an offset given out again, and nobody could tell?

Verified: one offset under one leader epoch names one record, for consumers that are told the epoch and for the log, also after a
power cut that took the first one: only a higher epoch lets a consumer notice (C2.8). Epochs never fall along the log (C4.4).
Not verified: consumers whose library does not tell the epoch.
"""

from chaos.checks.history.case import ANY, Case, Finding

ANOMALY = "offset reused within one epoch"


def statements(case: Case) -> set[tuple[str, str]]:
    found = {("C2.8", ANY)} if any(seen.epoch is not None for seen in case.history.seen) else set()
    return found | ({("C4.4", ANY)} if any(len(records) > 1 for records in case.log.values()) else set())


def check(case: Case) -> list[Finding]:
    findings, names = [], {}
    for (topic, partition), records in case.log.items():
        highest = -1
        for record in records:
            names[topic, partition, record.offset, record.leader_epoch] = record.identity, "the log holds"
            if record.leader_epoch < highest:
                findings.append(Finding("C4.4", ANOMALY, topic, partition, record.offset,
                                        f"epoch {record.leader_epoch} behind epoch {highest}"))
            highest = max(highest, record.leader_epoch)
    for seen in case.history.seen:
        if seen.epoch is None:
            continue
        other, who = names.setdefault((seen.topic, seen.partition, seen.offset, seen.epoch), (seen.identity, f"{seen.client} was handed"))
        if other != seen.identity:
            findings.append(Finding("C2.8", ANOMALY, seen.topic, seen.partition, seen.offset,
                                    f"{seen.client} was handed {seen.identity} under epoch {seen.epoch}, {who} {other}"))
    return findings
