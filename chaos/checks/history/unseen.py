"""Did a group pass over a record?

Verified: every record below the group's committed offset, from the log's start on, was handed to some member of the group
(C8.4, C8.5): the clients commit only what they were handed, so that a gap means that the broker skipped it.
Not verified: records above the committed offset; they are still to come.
"""

from chaos.checks.history.case import Case, Finding


def statements(case: Case) -> set[str]:
    return {"C8.5"} if case.offsets else set()


def check(case: Case) -> list[Finding]:
    handed: dict[tuple[str, int], set[int]] = {}
    for seen in case.history.seen:
        handed.setdefault((seen.topic, seen.partition), set()).add(seen.offset)
    findings = []
    for (group, topic, partition), committed in case.offsets.items():
        offsets = handed.get((topic, partition), set())
        for record in case.log.get((topic, partition), []):
            if record.offset < committed and record.offset not in offsets:
                findings.append(Finding("C8.5", "unseen", topic, partition, record.offset,
                                        f"{group} has committed {committed}, but no member was handed this offset"))
    return findings
