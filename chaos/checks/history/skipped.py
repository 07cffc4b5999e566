"""Did a consumer that read on leave a record out?

Verified: between two records that a consumer was handed one after the other, without an assignment or a seek in between, and
between a seek and the first record behind it, there is none that the log holds, a producer was acked or anybody was handed (C4.8).
Not verified: where reading begins after an assignment, which is the group's committed offset (unseen.py).
"""

from bisect import bisect_left

from chaos.checks.history.case import ANY, Case, Finding, known_records


def statements(case: Case) -> set[tuple[str, str]]:
    return {("C4.8", ANY)} if len(case.history.seen) > 1 else set()


def check(case: Case) -> list[Finding]:
    known: dict[tuple[str, int], list[int]] = {}
    for topic, partition, offset in sorted(known_records(case)):
        known.setdefault((topic, partition), []).append(offset)
    findings = []
    position = {where: offset for where, offset in case.history.seeks.items() if offset >= 0}
    for seen in case.history.seen:
        stretch = seen.client, seen.topic, seen.partition, seen.stretch
        offsets = known[seen.topic, seen.partition]
        expected = position.get(stretch)
        if expected is not None and expected < seen.offset and (skipped := offsets[bisect_left(offsets, expected)]) < seen.offset:
            findings.append(Finding("C4.8", "poll skip", seen.topic, seen.partition, skipped,
                                    f"{seen.client} was at {expected} and was handed {seen.offset}; {skipped} is there"))
        position[stretch] = seen.offset + 1
    return findings
