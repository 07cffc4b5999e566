"""Does a green run mean anything? The sanity conditions on the lab itself (S1, S2 of the contract).

Verified: unsynced bytes or entries existed at crash points, and states differed from "nothing was lost"; page cache only under power
loss shows acked records lost (C1.6); every-N shows a loss of exactly N - 1 acked offsets and never N (C1.4);
before-ack shows none (C1.3); the
files of every kind that the workloads write have deviated.
Not verified: that another fault kind changed an outcome (each sweep says for itself how often it struck).
"""

from collections import Counter


def missing(policy: str, messages: int | None, unsynced: int, differing: int, losses: Counter) -> list[str]:
    """What this policy's run did not show; empty where it means something."""
    found = []
    if not unsynced:
        found.append(f"{policy}: nothing was ever unsynced at a crash")
    if not differing:
        found.append(f"{policy}: no crash state differed from the state without one")
    lost = {offsets for offsets, states in losses.items() if offsets and states}
    if policy in ("P0", "P2") and not lost:
        found.append(f"{policy}: power loss took no acked record, though the policy allows it: the fault did not bite")
    if policy == "P1" and messages - 1 not in lost:
        found.append(f"{policy}: no state lost exactly {messages - 1} acked offsets: the bound was not reached (seen: {sorted(lost)})")
    return found


def broken(policy: str, messages: int | None, losses: Counter) -> list[tuple[str, str]]:
    """(statement, what) where the losses seen over all states are more than the policy allows."""
    worst = max((offsets for offsets, states in losses.items() if states), default=0)
    if policy == "P1" and worst >= messages:
        return [("C1.4", f"a state lost {worst} acked offsets with flush.messages={messages}")]
    if policy == "P3" and worst:
        return [("C1.3", f"a state lost {worst} acked offsets with flush before ack")]
    return []
