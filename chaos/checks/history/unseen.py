"""Did a group pass over a record?

Verified: every record below the group's committed offset, from the log's start on, was handed to some member of the group
(C8.5): the clients commit only what they were handed, so that a gap means that the broker skipped it. Where consumers
read on behind the last ack, every acked record has reached one of them (C4.9).
Not verified: records above the committed offset where nobody read on; they are still to come.
"""

from chaos.checks.history.case import ANY, Case, Finding, of_sends


def statements(case: Case) -> set[tuple[str, str]]:
    found = {("C8.5", ANY)} if case.offsets else set()
    return found | (of_sends("C4.9", case.history.acked) if case.read_on_ns else set())


def check(case: Case) -> list[Finding]:
    findings = []
    for (group, topic, partition), committed in case.offsets.items():
        offsets = {seen.offset for seen in case.history.members(group) if (seen.topic, seen.partition) == (topic, partition)}
        for record in case.log.get((topic, partition), []):
            if record.offset < committed and record.offset not in offsets:
                findings.append(Finding("C8.5", "unseen", topic, partition, record.offset,
                                        f"{group} has committed {committed}, but no member was handed this offset"))
    if case.read_on_ns:
        handed = {(seen.topic, seen.partition, seen.offset) for seen in case.history.seen}
        findings += [Finding("C4.9", "unseen", send.topic, send.partition, send.offset,
                             f"{send.client}:{send.number} was acked, consumers read on for {case.read_on_ns / 1e9:.0f} s, and none got it",
                             acks=send.acks)
                     for send in case.history.acked if (send.topic, send.partition, send.offset) not in handed]
    return findings
