"""Is an acked record gone?

Verified: every acked record lies at the partition and offset that its client was told (C1.2 after a kill), the last ones too,
behind which nothing was ever read. After a power cut a loss is allowed only as far as the policy reaches: none before-ack (C1.3);
under every-N at most N-1 offsets, a suffix (C1.4); under every-T only what was acked within the window (C1.5); page cache
only, nothing below the durable end (C1.6).
Not verified: acks=0, which is told nothing (C1.7).
"""

from chaos.checks.history.case import Case, Finding, Kept, of_sends
from chaos.history import Send

STATEMENT_UNDER_POWER_LOSS = {"P0": "C1.6", "P1": "C1.4", "P2": "C1.5", "P3": "C1.3"}


def statement_of(case: Case) -> str:
    return STATEMENT_UNDER_POWER_LOSS[case.policy.kind] if case.power_lost else "C1.2"


def statements(case: Case) -> set[tuple[str, str]]:
    return of_sends(statement_of(case), case.history.acked)


def missing(case: Case) -> list[Send]:
    """Acked records that are not where their client was told."""
    kept: dict[tuple[str, int], dict[int, Kept]] = {
        where: {record.offset: record for record in records} for where, records in case.log.items()}
    gone = []
    for send in case.history.acked:
        record = kept.get((send.topic, send.partition), {}).get(send.offset)
        if record is None or record.identity != (send.client, send.number):
            gone.append(send)
    return gone


def check(case: Case) -> list[Finding]:
    acked_end: dict[tuple[str, int], int] = {}
    for send in case.history.acked:
        where = (send.topic, send.partition)
        acked_end[where] = max(acked_end.get(where, 0), send.offset + 1)
    findings = []
    for send in missing(case):
        where = (send.topic, send.partition)
        findings.append(Finding(
            statement_of(case), "lost acked record", send.topic, send.partition, send.offset,
            f"{send.client}:{send.number} was acked {(case.struck - send.completed) / 1e6:.1f} ms before the fault at offset "
            f"{send.offset}; the log ends at {case.log_end.get(where)}, durable end {case.durable_end.get(where)}",
            allowed=_allowed(case, send, acked_end[where]), acks=send.acks))
    return findings


def _allowed(case: Case, send: Send, acked_end: int) -> bool:
    end = case.log_end.get((send.topic, send.partition), 0)
    if not case.power_lost or case.policy.kind == "P3" or send.offset < end:  # below the end: a hole or another value
        return False
    if case.policy.kind == "P1":
        return end >= acked_end - (case.policy.messages - 1)
    if case.policy.kind == "P2":
        return send.completed > case.struck - case.flush_window_ns
    return send.offset >= case.durable_end.get((send.topic, send.partition), 0)
