"""Does one offset name two records?

Verified: what consumers were handed at an offset, what a producer was told about it, and what the log holds there are one and
the same record (C2.8, C4.3). After a power cut an offset above the durable end may name another record; that is allowed and
counted.
Not verified: that the leader epoch has risen then, which reused.py does.
"""

from chaos.checks.history.case import ANY, Case, Finding


def statements(case: Case) -> set[tuple[str, str]]:
    return {("C2.8", ANY), ("C4.3", ANY)} if case.history.seen or case.history.acked else set()


def check(case: Case) -> list[Finding]:
    held = {(topic, partition, record.offset): record.identity
            for (topic, partition), records in case.log.items() for record in records}
    names: dict[tuple[str, int, int], tuple[tuple[str, int] | None, str]] = {}
    claims = [((s.topic, s.partition, s.offset), s.identity, f"{s.client} was handed") for s in case.history.seen]
    claims += [((s.topic, s.partition, s.offset), (s.client, s.number), "its producer was told") for s in case.history.acked]
    findings = []
    for where, identity, who in claims:
        other, other_who = names.setdefault(where, (identity, who))
        if other != identity:
            findings.append(_finding(case, "C2.8", where, f"{who} {identity}, but {other_who} {other}"))
        elif where in held and held[where] != identity:
            findings.append(_finding(case, "C4.3", where, f"{who} {identity}, but the log now holds {held[where]}"))
    return findings


def _finding(case: Case, statement: str, where: tuple[str, int, int], evidence: str) -> Finding:
    topic, partition, offset = where
    above_durable = case.power_lost and offset >= case.durable_end.get((topic, partition), 0)
    return Finding(statement, "two values at one offset", topic, partition, offset, evidence, allowed=above_durable)
