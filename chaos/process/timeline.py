"""What happened when? The faults of a run under the throughput that clients saw, as plain data for a chart (chaos/html/chart.py)."""

from typing import NamedTuple

from chaos.history import History

STEP_MS = 100
NS_PER_MS = 1_000_000


class Strike(NamedTuple):
    """A fault and when service could begin again, in ns of the clients' clock."""

    what: str
    since: int
    until: int | None = None


def timeline(layer: str, policy: str, fault: str, history: History, strikes: list[Strike]) -> dict:
    """Counts per `STEP_MS` from the first request on: records acked, and records handed to consumers."""
    acked = [send.completed for send in history.acked]
    seen = [seen.time for seen in history.seen]
    begin = min([send.invoked for send in history.sends.values()] + acked + seen, default=0)
    end = max(acked + seen + [strike.until or strike.since for strike in strikes], default=begin)
    steps = (end - begin) // (STEP_MS * NS_PER_MS) + 1
    return {"layer": layer, "policy": policy, "fault": fault, "step_ms": STEP_MS,
            "acked": _counts(acked, begin, steps), "seen": _counts(seen, begin, steps),
            "faults": [{"what": strike.what, "ms": max(0, strike.since - begin) // NS_PER_MS,
                        "until_ms": max(0, strike.until - begin) // NS_PER_MS if strike.until else None} for strike in strikes]}


def _counts(times: list[int], begin: int, steps: int) -> list[int]:
    counts = [0] * steps
    for time in times:
        counts[(time - begin) // (STEP_MS * NS_PER_MS)] += 1
    return counts
