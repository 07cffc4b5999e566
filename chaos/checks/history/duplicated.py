"""Is one record there twice?

Verified: a record of an idempotent producer lies at one offset only, whatever was retried across the fault (C6.4): in the log, and,
where no power was lost, also by what its producer was told and consumers were handed.
Duplicates of a plain producer are allowed and counted: a retry after a lost reply appends again.
Not verified: which of the two copies the client was told of (lost.py does).
"""

from collections.abc import Iterator

from chaos.checks.history.case import Case, Finding, of_sends


def statements(case: Case) -> set[tuple[str, str]]:
    return of_sends("C6.4", (send for send in case.history.acked if send.idempotent))


def _places(case: Case) -> Iterator[tuple[tuple[str, int] | None, tuple[str, int, int]]]:
    for (topic, partition), records in case.log.items():
        yield from ((record.identity, (topic, partition, record.offset)) for record in records)
    if not case.power_lost:  # what was handed out and then lost may come again, elsewhere
        yield from ((seen.identity, (seen.topic, seen.partition, seen.offset)) for seen in case.history.seen)
        yield from (((send.client, send.number), (send.topic, send.partition, send.offset)) for send in case.history.acked)


def check(case: Case) -> list[Finding]:
    places: dict[tuple[str, int], dict[tuple[str, int, int], None]] = {}
    for identity, where in _places(case):
        if identity is not None:
            places.setdefault(identity, {})[where] = None
    findings = []
    for (client, number), found in places.items():
        send, (first, *more) = case.history.sends.get((client, number)), found
        findings += [Finding("C6.4", "duplicated", *where, f"{client}:{number} is at {first} and at {where}",
                             allowed=send is not None and not send.idempotent, acks=send.acks if send else "any") for where in more]
    return findings
