"""Is the committed offset the last one that survived?

Verified: the offset that the coordinator answers, to members during the run and to anybody after the fault, was asked for by some
member, and no acked commit that began after that one had ended exists (C8.2): a regression. It is allowed, and reported apart
from record loss, only after a fault that may take the commits themselves (C8.1).
Not verified: commits without an answer may or may not have happened; either is accepted.
"""

from chaos.checks.history.case import ANY, Case, Finding
from chaos.history import Commit

ANOMALY = "committed offset regressed"


def statements(case: Case) -> set[tuple[str, str]]:
    acked = any(commit.outcome == "acked" for commit in case.history.commits)
    return {("C8.1", ANY), ("C8.2", ANY)} if acked else set()


def check(case: Case) -> list[Finding]:
    by_key: dict[tuple[str, str, int], list[Commit]] = {}
    for commit in case.history.commits:
        by_key.setdefault((commit.group, commit.topic, commit.partition), []).append(commit)
    questions = [(key, case.offsets.get(key, -1), None, None) for key in by_key]
    questions += [((a.group, a.topic, a.partition), a.offset, a.asked, a.told) for a in case.history.answers if a.what == "committed"]
    return [finding for key, answer, asked, told in questions
            if (finding := _judge(case, key, by_key.get(key, []), answer, asked, told))]


def _judge(case: Case, key: tuple, commits: list[Commit], answer: int, asked: int | None, told: int | None) -> Finding | None:
    """`asked` and `told` are None for what is answered after everything."""
    group, topic, partition = key
    allowed = not case.offsets_durable and (asked is None or asked > case.struck)
    last = max((c.invoked for c in commits if c.outcome == "acked" and (asked is None or c.completed < asked)), default=None)
    if answer < 0:
        return None if last is None else Finding("C8.2", ANOMALY, topic, partition, -1,
                                                 f"{group} had acked commits, and none is left", allowed=allowed)
    candidates = [c for c in commits if c.offset == answer and c.outcome != "failed" and (told is None or c.invoked < told)]
    if not candidates:
        return Finding("C8.2", ANOMALY, topic, partition, answer, f"{group} never asked for {answer}")
    if last is not None and all(c.outcome == "acked" and c.completed < last for c in candidates):
        return Finding("C8.2", ANOMALY, topic, partition, answer, f"{group} is back at {answer} after a later commit was acked",
                       allowed=allowed)
    return None
