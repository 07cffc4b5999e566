"""What did recovery find in a partition's directory, what did it do about it, and why?

One `Action` for each file that was dropped, cut, rebuilt or completed, with the statement of the contract that asks for
it. A start that had nothing to do says only what is there. `PartitionDamaged` is the refusal: records that were durable
are unreadable or gone (C2.5), so the partition stays offline, and its files stay as they are.
"""

from dataclasses import dataclass, field
from typing import NamedTuple


class Action(NamedTuple):
    file: str  # name within the directory
    what: str  # kept, dropped, cut, rebuilt, completed
    bytes: int  # how many are affected
    offsets: tuple[int, int] | None  # of the records affected, the second exclusive; None where it is not about records
    reason: str
    statement: str

    def __str__(self) -> str:
        first, end = self.offsets or (0, 0)
        offsets = f", offsets {first} to {end - 1}" if first < end else ""
        return f"{self.file}: {self.what} ({self.bytes} bytes{offsets}): {self.reason} [{self.statement}]"


@dataclass
class RecoveryReport:
    directory: str
    clean: bool = True  # no batch had to be checked
    recovery_point: int = 0  # as the checkpoint had it
    log_start_offset: int = 0
    log_end_offset: int = 0
    leader_epoch: int = 0
    scanned_bytes: int = 0
    actions: list[Action] = field(default_factory=list)

    def add(
        self, file: str, what: str, bytes: int, offsets: tuple[int, int] | None, reason: str, statement: str
    ) -> None:
        self.actions.append(Action(file, what, bytes, offsets, reason, statement))

    @property
    def lost(self) -> list[Action]:
        """What took records away, or may have."""
        return [action for action in self.actions if action.offsets is not None and action.what in ("dropped", "cut")]

    def __str__(self) -> str:
        how = "clean stop"
        if not self.clean:
            how = f"{self.scanned_bytes} bytes checked from recovery point {self.recovery_point}"
        head = (
            f"{self.directory}: offsets {self.log_start_offset} to {self.log_end_offset}, "
            f"leader epoch {self.leader_epoch}; {how}"
        )
        return "\n".join([head, *(f"  {action}" for action in self.actions)])


class PartitionDamaged(Exception):
    """Durable records of this partition cannot be read. `offset` is the first of them."""

    def __init__(self, file: str, position: int, offset: int, reason: str):
        super().__init__(
            f"{file} is damaged at byte {position}, offset {offset}, below the recovery point: {reason}. The files are "
            "left as they are; restore them, or start once with --accept-loss"
        )
        self.file = file
        self.position = position
        self.offset = offset
        self.reason = reason
