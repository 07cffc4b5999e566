"""Is one record there twice?

Verified: a record of an idempotent producer lies at one offset only, whatever was retried across the fault (C6.4).
Duplicates of a plain producer are allowed and counted: a retry after a lost reply appends again.
Not verified: which of the two copies the client was told of (lost.py does).
"""

from chaos.checks.history.case import Case, Finding


def statements(case: Case) -> set[str]:
    return {"C6.4"} if any(send.idempotent for send in case.history.acked) else set()


def check(case: Case) -> list[Finding]:
    first: dict[tuple[str, int], tuple[str, int, int]] = {}
    findings = []
    for (topic, partition), records in case.log.items():
        for record in records:
            if record.identity is None:
                continue
            where = (topic, partition, record.offset)
            if record.identity not in first:
                first[record.identity] = where
                continue
            send = case.history.sends.get(record.identity)
            findings.append(Finding(
                "C6.4", "duplicated", topic, partition, record.offset,
                f"{record.identity[0]}:{record.identity[1]} is at {first[record.identity]} and at {where}",
                allowed=send is not None and not send.idempotent))
    return findings
