"""Does a committed offset point beyond the log?

Verified: what the coordinator answers after the fault is not above the log end (C8.4). After a power cut it may be, where the policy
lets records go that a member had been handed and the commit was flushed: counted as allowed, since the consumer then meets
OFFSET_OUT_OF_RANGE; under fsync-before-ack it may not.
Not verified: that the consumer is told so; the clients' own reset is not a thing of the broker.
"""

from chaos.checks.history.case import ANY, Case, Finding


def statements(case: Case) -> set[tuple[str, str]]:
    return {("C8.4", ANY)} if case.offsets else set()


def check(case: Case) -> list[Finding]:
    return [Finding("C8.4", "committed offset beyond the log", topic, partition, committed,
                    f"{group} has committed {committed}, the log ends at {end}",
                    allowed=case.power_lost and case.policy.kind != "P3")
            for (group, topic, partition), committed in case.offsets.items()
            if committed > (end := case.log_end.get((topic, partition), 0))]
