"""What does a history checker get, and what does it say?"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from chaos.history import History, Send

Where = tuple[str, int]  # (topic, partition)
ANY = "any"  # the acks of a statement that is not about acks


@dataclass(frozen=True)
class Kept:
    """A record that the recovered log holds. `identity` is None where its value is nothing that a client ever sent, and
    `like` then whose it claims to be. -1: the reader was not told."""

    offset: int
    identity: tuple[str, int] | None
    leader_epoch: int
    timestamp_ms: int = -1
    like: tuple[str, int] | None = None


@dataclass(frozen=True)
class Policy:
    """A flush policy as the contract names it: P0 page cache only, P1(N) every N messages, P2(S) every S ms, P3 before ack."""

    name: str
    messages: int | None = None
    ms: int | None = None

    @property
    def kind(self) -> str:
        if self.messages == 1:
            return "P3"
        return "P1" if self.messages else "P2" if self.ms else "P0"


@dataclass
class Case:
    """One fault, survived or not.

    `fault` is the contract's class, "F1" (process killed) or "F2" (power lost) or several, joined by "+"; it struck at `struck` ns;
    `log` is what the broker serves after the restart; `durable_end` for F2 the offset below which all was covered by completed
    syncs; `offsets` the committed offsets that the coordinator answers after the restart; `flush_window_ns` under P2 the age
    above which an acked record must survive. `outages` are the times in which service was disturbed on purpose, from the fault
    until the broker was ready again, and `load` the time in which clients wrote: service is owed in between, within
    `service_bound_ns` (0: nobody measured). `read_on_ns`: how long consumers read on behind the last ack (0: they did not).
    """

    policy: Policy
    fault: str
    struck: int
    history: History
    log: dict[Where, list[Kept]]
    log_end: dict[Where, int]
    durable_end: dict[Where, int] = field(default_factory=dict)
    offsets: dict[tuple[str, str, int], int] = field(default_factory=dict)
    offsets_durable: bool = True  # False where C1 allows the loss of commits (the policy of __consumer_offsets)
    flush_window_ns: int = 0
    outages: list[tuple[int, int]] = field(default_factory=list)
    load: tuple[int, int] | None = None
    service_bound_ns: int = 0
    read_on_ns: int = 0

    @property
    def power_lost(self) -> bool:
        return "F2" in self.fault


@dataclass(frozen=True)
class Finding:
    """One deviation. `evidence` says where to look: the offsets, the clients, the bytes. `acks`: of the record, where there is one."""

    statement: str
    anomaly: str
    topic: str
    partition: int
    offset: int
    evidence: str
    allowed: bool = False
    acks: str = ANY


def of_sends(statement: str, sends: Iterable[Send]) -> set[tuple[str, str]]:
    """A statement about records, for each acks that they were sent with."""
    return {(statement, send.acks) for send in sends}


def known_records(case: Case) -> dict[tuple[str, int, int], tuple[str, int] | None]:
    """(topic, partition, offset) -> the record that the log holds there, or else what a producer or consumer was told."""
    known = {(seen.topic, seen.partition, seen.offset): seen.identity for seen in case.history.seen}
    known |= {(send.topic, send.partition, send.offset): (send.client, send.number) for send in case.history.acked}
    return known | {(*where, record.offset): record.identity for where, records in case.log.items() for record in records}
