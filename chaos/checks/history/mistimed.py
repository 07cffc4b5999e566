"""Does a lookup by time find the earliest record?

Verified: for every question of a client for a time, the answer is the first record of the log whose timestamp is at least that, or
a record that came behind the question; and none only if no such record was acked before the client asked (C5.4).
Not verified: answers above what the log holds after a power cut, which may be gone; logs whose reader was not told timestamps.
"""

from chaos.checks.history.case import ANY, Case, Finding
from chaos.history import Answer


def statements(case: Case) -> set[tuple[str, str]]:
    return {("C5.4", ANY)} if any(answer.what == "time" for answer in case.history.answers) and any(case.log.values()) else set()


def check(case: Case) -> list[Finding]:
    acked_at = {(s.topic, s.partition, s.offset): s.completed for s in case.history.acked}
    return [finding for answer in case.history.answers
            if answer.what == "time" and case.log.get((answer.topic, answer.partition)) and (finding := _judge(case, answer, acked_at))]


def _judge(case: Case, answer: Answer, acked_at: dict) -> Finding | None:
    topic, partition = answer.topic, answer.partition
    records = case.log[topic, partition]
    if case.power_lost and answer.offset >= case.log_end.get((topic, partition), 0):
        return None
    first = next((record.offset for record in records if record.timestamp_ms >= answer.time_ms), None)
    text = f"{answer.client} asked for time {answer.time_ms} and was told {answer.offset if answer.offset >= 0 else 'that there is none'}"
    if answer.offset >= 0 and answer.offset != first:
        return Finding("C5.4", "lookup by time", topic, partition, answer.offset, f"{text}; the first such record is {first}")
    if answer.offset < 0 and first is not None and acked_at.get((topic, partition, first), answer.told) < answer.asked:
        return Finding("C5.4", "lookup by time", topic, partition, first, f"{text}; {first} had been acked before")
    return None
