"""Did the broker answer from the past?

Verified: a log end that a client is told is above every record that was acked before it asked (C4.9), and, as long as no power is
lost, never below one that somebody was told before, the log end after the fault included (C4.1).
Not verified: questions and acks that overlap in time.
"""

from bisect import bisect_left

from chaos.checks.history.case import ANY, Case, Finding
from chaos.history import Answer


def statements(case: Case) -> set[tuple[str, str]]:
    return {("C4.1", ANY), ("C4.9", ANY)} if any(answer.what == "end" for answer in case.history.answers) else set()


def check(case: Case) -> list[Finding]:
    by_partition: dict[tuple[str, int], list[Answer]] = {}
    for answer in case.history.answers:
        if answer.what == "end":
            by_partition.setdefault((answer.topic, answer.partition), []).append(answer)
    findings = []
    for (topic, partition), answers in by_partition.items():
        acked = sorted((s.completed, s.offset, "an ack") for s in case.history.acked if (s.topic, s.partition) == (topic, partition))
        told = sorted((a.told, a.offset - 1, "an answer") for a in answers)
        for statement, before in (("C4.9", _Highest(acked)), ("C4.1", _Highest(told))):
            for answer in answers:
                offset, what = before.at(answer.asked)
                if answer.offset <= offset:
                    findings.append(Finding(statement, "stale", topic, partition, answer.offset,
                                            f"{answer.client} was told that the log ends at {answer.offset}, after {what} for {offset}"))
        end, highest = case.log_end.get((topic, partition), 0), max(offset for _, offset, _ in told)
        if not case.power_lost and case.log_end and end <= highest:
            findings.append(Finding("C4.1", "stale", topic, partition, end, f"the log ends at {end}, and somebody was told {highest + 1}"))
    return findings


class _Highest:
    """The highest offset that was known before a moment."""

    def __init__(self, events: list[tuple[int, int, str]]):
        self._times, self._highest = [event[0] for event in events], []
        for _, offset, what in events:
            self._highest.append(max((offset, what), self._highest[-1] if self._highest else (-1, "")))

    def at(self, time_ns: int) -> tuple[int, str]:
        place = bisect_left(self._times, time_ns)
        return self._highest[place - 1] if place else (-1, "")
