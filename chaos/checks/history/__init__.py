"""Is what the clients were told still true? One file for each anomaly, named by it.

Every checker is `check(case) -> list[Finding]`, a pure function of a `Case`: the history (what was asked and told), the log
that the restarted broker serves, and what the fault was. A finding is a broken statement unless `allowed` says that the
contract permits this loss under this policy and fault. A reply in flight counts as unknown (C1.15).
"""

from chaos.checks.history import committed, duplicated, invented, lost, reordered, two_values, unseen
from chaos.checks.history.case import Case, Finding

CHECKERS = {
    "lost acked record": lost, "invented or torn": invented, "duplicated": duplicated, "reordered": reordered,
    "two values at one offset": two_values, "unseen": unseen, "committed offset regressed": committed,
}


def check_all(case: Case) -> list[Finding]:
    return [finding for checker in CHECKERS.values() for finding in checker.check(case)]


def judged(case: Case) -> set[str]:
    """The statements that this case gave evidence about; a statement that nothing could break is not in it."""
    return {statement for checker in CHECKERS.values() for statement in checker.statements(case)}


__all__ = ["CHECKERS", "Case", "Finding", "check_all", "judged"]
