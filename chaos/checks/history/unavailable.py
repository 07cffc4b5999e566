"""Does service come back?

Verified: while the broker is up, clients that write get acks, and clients that read get records, within the bound (C1.16): the time up
between two acks, and between two records handed out, never adds up to more, however many outages lie in between.
Not verified: how long a start takes (the harness does, and says so if the broker does not come back at all); each client alone.
"""

from collections.abc import Iterator

from chaos.checks.history.case import ANY, Case, Finding


def statements(case: Case) -> set[tuple[str, str]]:
    return {("C1.16", ANY)} if case.service_bound_ns and case.load else set()


def check(case: Case) -> list[Finding]:
    if not statements(case):
        return []
    findings = []
    for what, times in _served(case):
        since, until, up = longest_gap(times, case.outages, case.load)
        if up > case.service_bound_ns:
            findings.append(Finding("C1.16", "unavailable", "", -1, -1,
                                    f"no {what} for {(until - since) / 1e9:.1f} s, in {up / 1e9:.1f} s of which the broker was up"))
    return findings


def _served(case: Case) -> Iterator[tuple[str, list[int]]]:
    yield "record was acked", [send.completed for send in case.history.acked]
    if case.history.seen:
        yield "consumer was handed a record", [seen.time for seen in case.history.seen]


def longest_gap(times: list[int], outages: list[tuple[int, int]], load: tuple[int, int]) -> tuple[int, int, int]:
    """(from, to, time up in it), all in ns, of the stretch without service during the load that has the most time up."""
    moments = [load[0], *sorted(time for time in times if load[0] < time < load[1]), load[1]]
    gaps = []
    for since, until in zip(moments, moments[1:], strict=False):
        down = sum(max(0, min(until, end) - max(since, begin)) for begin, end in outages)
        gaps.append((until - since - down, since, until))
    up, since, until = max(gaps)
    return since, until, up
