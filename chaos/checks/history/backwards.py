"""Was a consumer that read on taken back?

Verified: without an assignment or a seek in between, a consumer is handed every partition in ascending offsets, none twice, and
nothing below the offset that it sought (C4.8).
Not verified: reading again after a rebalance, from the committed offset: that is what at-least-once means.
"""

from chaos.checks.history.case import ANY, Case, Finding


def statements(case: Case) -> set[tuple[str, str]]:
    return {("C4.8", ANY)} if len(case.history.seen) > 1 else set()


def check(case: Case) -> list[Finding]:
    findings = []
    position = dict(case.history.seeks)
    for seen in case.history.seen:
        stretch = seen.client, seen.topic, seen.partition, seen.stretch
        if seen.offset < (expected := position.get(stretch, -1)):
            findings.append(Finding("C4.8", "poll goes back", seen.topic, seen.partition, seen.offset,
                                    f"{seen.client} was at {expected} and was handed {seen.offset}"))
        position[stretch] = seen.offset + 1
    return findings
