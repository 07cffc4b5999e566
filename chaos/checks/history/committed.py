"""Is the committed offset the last one that survived?

Verified: the offset that the coordinator answers was asked for by some member, and no acked commit that began after that one
had ended exists (C8.2): a regression. It is allowed, and reported apart from record loss, only where the contract allows the
loss of the commits themselves (C8.1). An answer beyond the log's end is reported after a power cut (C8.4): the consumer must
meet OFFSET_OUT_OF_RANGE there.
Not verified: commits without an answer may or may not have happened; either is accepted.
"""

from chaos.checks.history.case import Case, Finding
from chaos.history import Commit


def statements(case: Case) -> set[str]:
    return {"C8.2"} if any(commit.outcome == "acked" for commit in case.history.commits) else set()


def check(case: Case) -> list[Finding]:
    by_key: dict[tuple[str, str, int], list[Commit]] = {}
    for commit in case.history.commits:
        by_key.setdefault((commit.group, commit.topic, commit.partition), []).append(commit)
    findings = []
    for (group, topic, partition), commits in by_key.items():
        answer = case.offsets.get((group, topic, partition))
        last = max((c.invoked for c in commits if c.outcome == "acked"), default=None)
        if answer is None:
            if last is not None:
                findings.append(Finding("C8.2", "committed offset regressed", topic, partition, -1,
                                        f"{group} had acked commits, and none is left", allowed=not case.offsets_durable))
            continue
        asked = [c for c in commits if c.offset == answer and c.outcome != "failed"]
        if not asked:
            findings.append(Finding("C8.2", "committed offset regressed", topic, partition, answer,
                                    f"{group} never asked for {answer}"))
        elif last is not None and all(c.outcome == "acked" and c.completed < last for c in asked):
            findings.append(Finding("C8.2", "committed offset regressed", topic, partition, answer,
                                    f"{group} is back at {answer} after a later commit was acked",
                                    allowed=not case.offsets_durable))
    return findings
