"""What does a partition begin with, what does it need of its directory, and what does it answer?

The values that pass between a partition and its neighbours: recovery hands it a `Content`, the log directory is its
`Owner`, requests get `Appended` and `FetchSlice`.
"""

from typing import TYPE_CHECKING, NamedTuple, Protocol

from refbroker.log.disk import File
from refbroker.log.epochs import EpochCache
from refbroker.log.producers import ProducerStates
from refbroker.log.segment import FileRegion, Segment

if TYPE_CHECKING:
    from refbroker.log.partition import Partition


class Appended(NamedTuple):
    """`flush_to`: do not answer before the recovery point has reached it. None: answer at once."""

    base_offset: int
    last_offset: int
    log_append_time_ms: int
    log_start_offset: int
    duplicate: bool
    flush_to: int | None


class FetchSlice(NamedTuple):
    """`regions`: whole batches, the last one possibly cut off; None where there is nothing."""

    regions: FileRegion | None
    high_watermark: int
    last_stable_offset: int
    log_start_offset: int
    log_end_offset: int


class Owner(Protocol):
    """The log directory, as a partition needs it."""

    def fail(self, reason: str) -> None: ...
    def lower_recovery_point(self, partition: "Partition") -> None: ...
    def persist_log_start(self, partition: "Partition") -> None: ...
    def rolled(self, partition: "Partition") -> None: ...
    def delete_later(self, path: str, due_ms: int) -> None: ...


class Content(NamedTuple):
    """A log, as it was found or made. `recovery_point`: all below is durable, entries included."""

    segments: list[Segment]
    epochs: EpochCache
    producers: ProducerStates
    log_start_offset: int = 0
    recovery_point: int = 0
    leader_epoch: int = 0
    epoch_unsaved: bool = False  # the leader epoch must be durable before the first append
    unfinished: tuple[Segment, ...] = ()  # rolled segments that the recovery point on disk must not pass yet
    snapshots: tuple[File, ...] = ()  # producer snapshots at their ends, not known to be durable
    entries_synced: bool = True  # the directory's entries are durable
    sealed: bool = False  # as a clean stop leaves it
