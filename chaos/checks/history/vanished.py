"""Is a record gone that a consumer had been handed?

Verified: what a consumer was handed before the fault is at that offset afterwards. A power cut may take it above the durable end
(C4.3), but never under fsync-before-ack, where nothing is shown before it is durable (C4.2).
Not verified: that it is the same record (two_values.py), and that a consumer notices where it may be gone (answers.py, resumed.py).
"""

from chaos.checks.history.case import ANY, Case, Finding


def _statement(case: Case) -> str:
    return "C4.2" if case.power_lost and case.policy.kind == "P3" else "C4.3"


def statements(case: Case) -> set[tuple[str, str]]:
    return {(_statement(case), ANY)} if case.log and case.history.seen else set()


def check(case: Case) -> list[Finding]:
    held = {(topic, partition, record.offset) for (topic, partition), records in case.log.items() for record in records}
    gone = {where: seen for seen in case.history.seen if (where := (seen.topic, seen.partition, seen.offset)) not in held}
    return [Finding(_statement(case), "vanished", *where, f"{seen.client} was handed {seen.identity}; the log ends at {case.log_end.get(where[:2])}",
                    allowed=case.power_lost and case.policy.kind != "P3" and where[2] >= case.durable_end.get(where[:2], 0))
            for where, seen in gone.items() if where[:2] in case.log]
