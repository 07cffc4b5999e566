"""Is what the clients were told still true? One file for each anomaly, named by it.

Every checker is `check(case) -> list[Finding]`, a pure function of a `Case`: the history (what was asked and told), the log
that the restarted broker serves, and what the fault was. A finding is a broken statement unless `allowed` says that the
contract permits this loss under this policy and fault. A reply in flight counts as unknown (C1.15). `statements(case)` says
what this case is evidence about, as (statement, acks) pairs; a statement that nothing could break is not in it.

The anomalies of Jepsen's Kafka workload, by its names, and who finds them here: lost-write: lost. unseen: unseen. duplicate:
duplicated. inconsistent-offsets: two_values. poll-skip and int-poll-skip: skipped. nonmonotonic-poll and
int-nonmonotonic-poll: backwards. nonmonotonic-send, int-nonmonotonic-send and int-send-skip: reordered. G1a (a refused write is
read): invented. precommitted-read and the cycles G0 and G1c are about transactions, which this broker has not. Beyond it: torn,
reused, vanished, regressed, ahead, stale, mistimed, unavailable.
"""

from chaos.checks.history import (
    ahead,
    backwards,
    duplicated,
    invented,
    lost,
    mistimed,
    regressed,
    reordered,
    reused,
    skipped,
    stale,
    torn,
    two_values,
    unavailable,
    unseen,
    vanished,
)
from chaos.checks.history.case import Case, Finding, Kept, Policy

CHECKERS = {
    "lost acked record": lost, "torn": torn, "invented": invented, "duplicated": duplicated, "reordered": reordered,
    "two values at one offset": two_values, "vanished": vanished, "offset reused within one epoch": reused, "unseen": unseen, "poll skip": skipped,
    "poll goes back": backwards, "committed offset regressed": regressed, "committed offset beyond the log": ahead,
    "stale": stale, "lookup by time": mistimed, "unavailable": unavailable,
}


def check_all(case: Case) -> list[Finding]:
    return [finding for checker in CHECKERS.values() for finding in checker.check(case)]


def judged(case: Case) -> set[tuple[str, str]]:
    """The (statement, acks) pairs that this case gave evidence about."""
    return {pair for checker in CHECKERS.values() for pair in checker.statements(case)}


__all__ = ["CHECKERS", "Case", "Finding", "Kept", "Policy", "check_all", "judged"]
