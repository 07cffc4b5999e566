"""What happened when? The faults of a run under what each client did and got, as plain data for a chart (chaos/html/chart.py)."""

from collections.abc import Iterator

from typing import NamedTuple

from chaos.history import History

STEP_MS = 100
NS_PER_MS = 1_000_000
MARKS_MAX = 300  # of one client


class Strike(NamedTuple):
    """A fault and when service could begin again, in ns of the clients' clock."""

    what: str
    since: int
    until: int | None = None


def timeline(layer: str, policy: str, fault: str, history: History, strikes: list[Strike]) -> dict:
    """Counts per `STEP_MS` from the first request on: records acked, and records handed to consumers, over all and for each client."""
    acked = [send.completed for send in history.acked]
    seen = [seen.time for seen in history.seen]
    sent = [send.invoked for send in history.sends.values()]  # with acks=0 nothing comes back: it may be the last thing of all
    begin = min(sent + acked + seen, default=0)
    end = max(sent + acked + seen + [strike.until or strike.since for strike in strikes], default=begin)
    steps = (end - begin) // (STEP_MS * NS_PER_MS) + 1
    lanes = [lane for client in sorted(history.clients) if (lane := _lane(history, client, begin, end, steps))]
    return {"layer": layer, "policy": policy, "fault": fault, "step_ms": STEP_MS,
            "acked": _counts(acked, begin, steps), "seen": _counts(seen, begin, steps), "lanes": lanes,
            "faults": [{"what": strike.what, "ms": max(0, strike.since - begin) // NS_PER_MS,
                        "until_ms": max(0, strike.until - begin) // NS_PER_MS if strike.until else None} for strike in strikes]}


def _lane(history: History, client: str, begin: int, end: int, steps: int) -> dict | None:
    """What one client did: what it got in each step, and moments of their own: commits, rebalances, and what stayed without an answer."""
    sends = [send for send in history.sends.values() if send.client == client]
    seen = [each.time for each in history.seen if each.client == client]
    times = [send.completed for send in sends if send.outcome == "acked"] if sends else seen
    if not sends and not seen:
        return None
    about = history.clients[client]
    kind = "member of a group" if about.get("group") else "seeks by time"
    if sends:
        kind = "idempotent" if about.get("idempotent") else "not idempotent"
    if sends and sends[0].acks == "0":  # told nothing: what it sent is all there is to see
        times, kind = [send.invoked for send in sends], "acks=0, sent"
    marks = [[(time - begin) // NS_PER_MS, what] for time, what in sorted(_moments(history, client)) if begin <= time <= end]
    return {"name": client, "what": f"{about.get('library', '')}, {kind}", "counts": _counts(times, begin, steps),
            "marks": marks[:MARKS_MAX]}


def _moments(history: History, client: str) -> Iterator[tuple[int, str]]:
    if history.clients[client].get("group"):  # outside of a group it is a seek
        yield from ((time, "rebalance") for name, time in history.assignments if name == client)
    yield from ((commit.completed or commit.invoked, "commit" if commit.outcome == "acked" else "no answer")
                for commit in history.commits if commit.client == client)
    yield from ((send.completed or send.invoked, "no answer") for send in history.sends.values()
                if send.client == client and send.outcome == "unknown" and send.acks != "0")


def _counts(times: list[int], begin: int, steps: int) -> list[int]:
    counts = [0] * steps
    for time in times:
        counts[(time - begin) // (STEP_MS * NS_PER_MS)] += 1
    return counts
