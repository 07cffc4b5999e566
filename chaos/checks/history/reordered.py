"""Do the records of one producer lie in the order in which it sent them?

Verified: within one partition, the records of an idempotent producer stand in ascending order (C2.1).
Not verified: plain producers with several requests in flight, whose retries may pass each other in any Kafka.
"""

from chaos.checks.history.case import Case, Finding


def statements(case: Case) -> set[str]:
    return {"C2.1"} if any(send.idempotent for send in case.history.acked) else set()


def check(case: Case) -> list[Finding]:
    findings = []
    for (topic, partition), records in case.log.items():
        last: dict[str, int] = {}
        for record in records:
            send = case.history.sends.get(record.identity)
            if send is None or not send.idempotent:
                continue
            before = last.get(send.client, -1)
            if send.number < before:
                findings.append(Finding("C2.1", "reordered", topic, partition, record.offset,
                                        f"{send.client}:{send.number} stands behind {send.client}:{before}"))
            last[send.client] = max(before, send.number)
    return findings
