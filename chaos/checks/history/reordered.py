"""Do the records of one producer lie in the order in which it sent them?

Verified: within one partition, the records of an idempotent producer stand in ascending order, by the log, and where the log has
lost them by the offsets that their producer was told (C2.1).
Not verified: plain producers with several requests in flight, whose retries may pass each other in any Kafka; copies, which
duplicated.py takes.
"""

from chaos.checks.history.case import Case, Finding, known_records, of_sends


def statements(case: Case) -> set[tuple[str, str]]:
    return of_sends("C2.1", (send for send in case.history.acked if send.idempotent))


def check(case: Case) -> list[Finding]:
    findings, last, placed = [], {}, set()
    for (topic, partition, offset), identity in sorted(known_records(case).items(), key=lambda item: item[0]):
        send = case.history.sends.get(identity)
        if send is None or not send.idempotent or (topic, partition, identity) in placed:
            continue
        placed.add((topic, partition, identity))
        before = last.get((topic, partition, send.client), -1)
        if send.number < before:
            findings.append(Finding("C2.1", "reordered", topic, partition, offset,
                                    f"{send.client}:{send.number} stands behind {send.client}:{before}", acks=send.acks))
        last[topic, partition, send.client] = max(before, send.number)
    return findings
