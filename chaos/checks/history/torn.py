"""Is a record there in part only?

Verified: no value of the log, and none that a consumer was handed, begins as a record of some client and goes on as something
else: cut short, overwritten, run together with another one (C2.1).
Not verified: what begins as nobody's record, which invented.py takes; keys, headers and timestamps.
"""

from chaos.checks.history.case import ANY, Case, Finding
from chaos.checks.history.invented import shown


def statements(case: Case) -> set[tuple[str, str]]:
    return {("C2.1", ANY)} if any(case.log.values()) or case.history.seen else set()


def check(case: Case) -> list[Finding]:
    findings = []
    for who, topic, partition, offset, identity, like in shown(case):
        if identity is None and like in case.history.sends:
            findings.append(Finding("C2.1", "torn", topic, partition, offset,
                                    f"{who} a value that begins as {like[0]}:{like[1]} and is not that record"))
    return findings
