"""What do the clients of a whole broker know besides their history? And the constants that they and their judges share.

A history (chaos/history.py) has records, commits and what consumers were handed. `Notes` has topics with their ids, deletions, the positions of
the consumer, producers with all that they sent, and which wall time it was at which moment of the disk's write list.
"""

from bisect import bisect_right
from dataclasses import dataclass, field
from functools import lru_cache
from uuid import UUID

from chaos.disk.driver import ROOT
from chaos.disk.ledger import Policy
from chaos.history import identify
from chaos.logfile import StoredBatch, parse_log
from chaos.whole.node import START_MS
from refbroker.config import Config

GROUP = "readers"
CONSUMER = "reader"
VALUE_BYTES = 40
SEGMENT_BYTES = 700  # five batches of one record
BATCHES_KEPT = 5
SEQUENCE_MODULUS = 2**31
STEP_S = 0.01  # what a letter takes
NS_PER_MS = 1_000_000  # and a run makes fewer events than that
VERSIONS = {  # the newest in which topics go by their names, so that a request can be written before its topic exists
    "Produce": 12, "Fetch": 12, "ListOffsets": 9, "Metadata": 12, "OffsetCommit": 9, "OffsetFetch": 9, "CreateTopics": 7,
    "DeleteTopics": 6, "DeleteRecords": 2, "InitProducerId": 4, "OffsetForLeaderEpoch": 4, "IncrementalAlterConfigs": 1,
}
ACKS = {-1: "all", 0: "0", 1: "1"}
NONE, OFFSET_OUT_OF_RANGE, OUT_OF_ORDER_SEQUENCE, INVALID_PRODUCER_EPOCH = 0, 1, 45, 47


def config_of(policy: Policy) -> Config:
    values: dict[str, object] = {"log.dirs": (ROOT,), "offsets.topic.num.partitions": 1, "log.index.interval.bytes": 200,
                                 "producer.id.expiration.ms": 2**31 - 1}
    if policy.messages:
        values["log.flush.interval.messages"] = policy.messages
    if policy.ms:
        values["log.flush.interval.ms"] = policy.ms
    return Config(values)


@dataclass
class TopicNote:
    """One topic id. `created` and `deleted`: the moments when it was asked for, and confirmed."""

    name: str
    label: str
    count: int
    created: list[int | None]
    deleted: list[int | None] = field(default_factory=lambda: [None, None])
    topic_id: UUID | None = None


@dataclass
class Sent:
    """One batch of an idempotent producer: `data` as it can be sent again, `numbers` the records in it."""

    began: int
    label: str
    partition: int
    data: bytes
    numbers: tuple[int, ...]
    sequence: int
    epoch: int
    acked: int | None = None
    base_offset: int = -1


@dataclass
class Producer:
    """An idempotent producer: what it would send next, and what it sent last."""

    name: str
    producer_id: int
    epoch: int = 0
    next_sequence: dict[tuple[str, int], int] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)


@dataclass
class Notes:
    """What a history has no place for. `deletions`: (began, confirmed, label, partition, offset). `positions`: (moment, label,
    partition, next offset, epoch of the last record) of the consumer. `clock`: (moment, wall ms)."""

    topics: list[TopicNote] = field(default_factory=list)
    deletions: list[list] = field(default_factory=list)
    positions: list[tuple[int, str, int, int, int]] = field(default_factory=list)
    producers: dict[str, Producer] = field(default_factory=dict)
    clock: list[tuple[int, int]] = field(default_factory=list)
    clean_stops: list[int] = field(default_factory=list)

    def ms_at(self, at: int) -> int:
        """Milliseconds since the start when `at` events were there."""
        return self.clock[max(0, bisect_right(self.clock, at, key=lambda entry: entry[0]) - 1)][1] - START_MS


@lru_cache(maxsize=20_000)
def batches_of(data: bytes) -> tuple[StoredBatch, ...]:
    """The batches of a fetch response, read by hand."""
    return tuple(parse_log(data, 0).batches)


_IDENTITIES: dict[bytes, list[tuple[int, tuple[str, int] | None]]] = {}


def identities(batch: StoredBatch) -> list[tuple[int, tuple[str, int] | None]]:
    """(offset, whose record it is) of each record."""
    found = _IDENTITIES.get(batch.data)
    if found is None:
        if len(_IDENTITIES) > 20_000:
            _IDENTITIES.clear()
        found = _IDENTITIES[batch.data] = [(offset, identify(value or b"")) for offset, _, value in batch.records]
    return found
