"""What does a history checker get, and what does it say?"""

from dataclasses import dataclass, field

from chaos.history import History

Where = tuple[str, int]  # (topic, partition)


@dataclass(frozen=True)
class Kept:
    """A record that the recovered log holds. `identity` is None where its value is nothing that a client ever sent."""

    offset: int
    identity: tuple[str, int] | None
    leader_epoch: int


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

    `fault` is "F1" (process killed) or "F2" (power lost) at `struck` ns; `log` what the broker serves after the restart;
    `durable_end` for F2 the offset below which all was covered by completed syncs; `offsets` the committed offsets that
    the coordinator answers after the restart; `flush_window_ns` under P2 the age above which an acked record must survive.
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


@dataclass(frozen=True)
class Finding:
    """One deviation. `evidence` says where to look: the offsets, the clients, the bytes."""

    statement: str
    anomaly: str
    topic: str
    partition: int
    offset: int
    evidence: str
    allowed: bool = False
