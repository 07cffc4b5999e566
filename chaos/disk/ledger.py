"""What did clients ask of each partition, what were they told, and when? The lab's own memory, apart from the broker.

Time is the number of events in the disk's write list: something that happened at 17 happened when 17 events were there, and a
crash after k events comes after everything that happened at or before k. `owed` answers what a crash there leaves the
broker owing (C10); the answer rests on requests, replies and the disk's record of syncs, never on the broker's claims.

1. An append that was acked is owed as far as the policy reaches; one that began and was not acked is a maybe.
2. A truncation or deletion that began is a maybe until it was confirmed: both branches are allowed meanwhile (C2.1).
3. The bytes owed are the client's own, with the base offset that it was told and the leader epoch of the log at that time.
"""

from dataclasses import dataclass, field
from typing import NamedTuple


class Policy(NamedTuple):
    """A flush policy by its name in the contract, and its settings. `window_ms`: P2's flush.ms plus the flusher's period."""

    name: str
    messages: int | None = None
    ms: int | None = None
    window_ms: int = 0


@dataclass
class Append:
    """One batch that a client sent. `data` as the log must hold it; `acked` None: never told, or told that it failed."""

    began: int
    base_offset: int
    last_offset: int
    data: bytes
    acked: int | None = None
    acked_ms: int = 0
    failed: bool = False


@dataclass
class Cut:
    """A truncation ("truncate", to `offset`) or deletion ("delete", of all below `offset`)."""

    began: int
    kind: str
    offset: int
    done: int | None = None
    undone: int | None = None  # it failed, and later turned out not to have happened
    kept: int | None = None  # when a deletion was durable
    explicit: bool = True  # False: the broker's own retention


@dataclass
class PartitionLedger:
    """One partition of one topic id. `created` and `deleted`: (began, confirmed)."""

    topic: str
    number: int
    topic_id: object
    created: list[int | None]
    deleted: list[int | None] = field(default_factory=lambda: [None, None])
    steps: list[Append | Cut] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, int]:
        return self.topic, self.number


class Owed(NamedTuple):
    """What a partition owes after one crash. `branches`: the histories that are allowed, the final one first. `must_end`: what
    lies below survives, by `statement`; `acked_end`: the end of what was acked. `start_max`: what lies below may be gone,
    `start_min`: what lies below must be."""

    ledger: PartitionLedger
    must_exist: bool
    may_exist: bool
    branches: tuple[tuple[Append, ...], ...]
    must_end: int
    acked_end: int
    durable_end: int
    start_max: int
    statement: str
    start_min: int = 0


@dataclass
class Ledger:
    policy: Policy
    partitions: list[PartitionLedger] = field(default_factory=list)
    clock: list[tuple[int, int]] = field(default_factory=list)  # (time in events, wall ms) at the end of each operation
    clean_stops: list[tuple[int, int]] = field(default_factory=list)  # (from, to): nothing happened since a clean stop

    def now_ms(self, at: int) -> int:
        """Wall time when `at` events were there: that of the last operation that had ended."""
        now = 0
        for when, ms in self.clock:
            if when <= at:
                now = ms
        return now

    def is_clean(self, at: int) -> bool:
        return any(begin <= at <= end for begin, end in self.clean_stops)

    def owed(self, partition: PartitionLedger, at: int, fault: str, durable_end: int) -> Owed:
        """What this partition owes after `fault` when `at` events were there."""
        branches, start_max = _branches(partition, at)
        final = branches[0]
        shortest = min((branch[-1].last_offset + 1 if branch else 0) for branch in branches)
        acked_end = max((step.last_offset + 1 for step in final if step.acked is not None and step.acked <= at), default=0)
        acked_end = min(acked_end, shortest)
        must_end, statement = self._must_end(final, at, fault, acked_end, min(durable_end, shortest))
        created, confirmed = partition.created
        gone, gone_for_good = partition.deleted
        must_exist = confirmed is not None and confirmed <= at and (gone is None or gone > at)
        may_exist = created <= at and not (gone_for_good is not None and gone_for_good <= at)
        start_min = max((step.offset for step in partition.steps if isinstance(step, Cut) and step.kept is not None and step.kept <= at),
                        default=0)
        return Owed(partition, must_exist, may_exist, branches, must_end, acked_end, durable_end, start_max, statement, start_min)

    def _must_end(self, final: tuple[Append, ...], at: int, fault: str, acked_end: int, durable_end: int) -> tuple[int, str]:
        if self.is_clean(at):
            return acked_end, "C1.1"
        if fault == "F1":
            return acked_end, "C1.2"
        policy = self.policy
        if policy.name == "P3":
            return acked_end, "C1.3"
        owed, statement = durable_end, "C1.6"
        if policy.name == "P1" and acked_end - (policy.messages - 1) > owed:
            owed, statement = acked_end - (policy.messages - 1), "C1.4"
        if policy.name == "P2":
            before = self.now_ms(at) - policy.window_ms
            old = max((step.last_offset + 1 for step in final
                       if step.acked is not None and step.acked <= at and step.acked_ms < before), default=0)
            if min(old, acked_end) > owed:
                owed, statement = min(old, acked_end), "C1.5"
        return owed, statement


def _branches(partition: PartitionLedger, at: int) -> tuple[tuple[tuple[Append, ...], ...], int]:
    """The histories that a log may hold after `at` events, and the highest log start that was asked for."""
    current: list[Append] = []
    older: list[tuple[Append, ...]] = []
    start_max = 0
    for step in partition.steps:
        if step.began > at:
            break
        if isinstance(step, Append):
            if step.failed:  # it may lie in the file until something else is durable in its place
                older.append((*current, step))
                continue
            current.append(step)
        elif step.kind == "truncate" and step.undone is not None and step.undone <= at:
            continue
        elif step.kind == "truncate":
            before = tuple(current)
            current = [append for append in current if append.last_offset < step.offset]
            older = [] if step.done is not None and step.done <= at else [*older, before]
        else:
            start_max = max(start_max, step.offset)
    return (tuple(current), *older), start_max
