"""Is there something that nobody sent?

Verified: every record of the log, and every one that a consumer was handed, is a value that some client sent to that topic (C2.1),
and not one that a client was surely refused (C1.14).
Not verified: values that begin as somebody's record and are not it, which torn.py takes; keys, headers and timestamps.
"""

from collections.abc import Iterator

from chaos.checks.history.case import ANY, Case, Finding


def statements(case: Case) -> set[tuple[str, str]]:
    found = {("C2.1", ANY)} if any(case.log.values()) or case.history.seen else set()
    return found | ({("C1.14", ANY)} if any(send.outcome == "failed" for send in case.history.sends.values()) else set())


def shown(case: Case) -> Iterator[tuple]:
    """(who, topic, partition, offset, identity, like) of all that the log holds and consumers were handed."""
    for (topic, partition), records in case.log.items():
        for record in records:
            yield "the log holds", topic, partition, record.offset, record.identity, record.like
    for seen in case.history.seen:
        yield f"{seen.client} was handed", seen.topic, seen.partition, seen.offset, seen.identity, seen.like


def check(case: Case) -> list[Finding]:
    return [finding for each in shown(case) if (finding := _judge(case, *each))]


def _judge(case: Case, who: str, topic: str, partition: int, offset: int, identity, like) -> Finding | None:
    if identity is None:
        return None if like in case.history.sends else Finding(
            "C2.1", "invented", topic, partition, offset, f"{who} a value that no client ever made")
    send = case.history.sends.get(identity)
    name = f"{identity[0]}:{identity[1]}"
    if send is None:
        return Finding("C2.1", "invented", topic, partition, offset, f"{who} {name}, which was never sent")
    if send.topic != topic:
        return Finding("C2.1", "invented", topic, partition, offset, f"{who} {name}, sent to {send.topic}")
    if send.outcome == "failed":
        return Finding("C1.14", "invented", topic, partition, offset, f"{who} {name}, refused with {send.error}")
    return None
