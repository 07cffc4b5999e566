"""Is there something that nobody sent?

Verified: every record of the log, and every one that a consumer was handed, is byte for byte a value that some client sent to
that topic, and not one that a client was surely refused (C2.1, C1.14). A torn or merged value is nobody's value.
Not verified: keys, headers and timestamps.
"""

from chaos.checks.history.case import Case, Finding


def statements(case: Case) -> set[str]:
    return {"C2.1"} if any(case.log.values()) or case.history.seen else set()


def check(case: Case) -> list[Finding]:
    findings = []
    for (topic, partition), records in case.log.items():
        findings += [f for r in records if (f := _judge(case, topic, partition, r.offset, r.identity, "the log holds"))]
    for seen in case.history.seen:
        if found := _judge(case, seen.topic, seen.partition, seen.offset, seen.identity, f"{seen.client} was handed"):
            findings.append(found)
    return findings


def _judge(case: Case, topic: str, partition: int, offset: int, identity, who: str) -> Finding | None:
    if identity is None:
        return Finding("C2.1", "invented or torn", topic, partition, offset, f"{who} a value that no client ever made")
    send = case.history.sends.get(identity)
    name = f"{identity[0]}:{identity[1]}"
    if send is None:
        return Finding("C2.1", "invented or torn", topic, partition, offset, f"{who} {name}, which was never sent")
    if send.topic != topic:
        return Finding("C2.1", "invented or torn", topic, partition, offset, f"{who} {name}, sent to {send.topic}")
    if send.outcome == "failed":
        return Finding("C1.14", "invented or torn", topic, partition, offset, f"{who} {name}, refused with {send.error}")
    return None
