"""Under which leader epoch was an offset written, and where did each epoch end?

A leader epoch numbers the reigns over a partition: it rises at each unclean start, so that an offset that is used again
can be told apart from what it named before (C2.8). Each batch carries its epoch; the cache keeps where each one
began. `leader-epoch-checkpoint` is a text file: line "0" (version), line with the number of entries, then lines
"epoch first-offset". Valid if epochs and offsets both strictly increase (C4.4); it equals what a scan of the log's
batch headers gives, plus at most one last entry that starts at the log end offset.

How Apache Kafka differs: it writes the file after a truncation in the background, and sorts out on the next start what
a crash left in it.
"""

from refbroker.log.checkpoints import (
    CHECKPOINT_BYTES_MAX, EPOCH_MAX, OFFSET_MAX, InvalidFile, format_lines, parse_lines, parse_number,
)  # fmt: skip
from refbroker.log.disk import Disk, read_file, replace_file

LEADER_EPOCH_CHECKPOINT = "leader-epoch-checkpoint"
UNDEFINED = (-1, -1)  # (epoch, end offset) that nobody knows


class EpochCache:
    """`entries`: (epoch, first offset), both strictly increasing. Changes are in memory until `save`."""

    def __init__(self, path: str, entries: list[tuple[int, int]] = ()):
        self.path = path
        self.entries = list(entries)

    @classmethod
    def load(cls, disk: Disk, path: str) -> "EpochCache":
        """Empty where there is no file. Raises InvalidFile: then rebuild it from the log."""
        if not disk.exists(path):
            return cls(path)
        try:
            return cls(path, parse_epochs(read_file(disk, path, bytes_max=CHECKPOINT_BYTES_MAX)))
        except ValueError as error:  # InvalidFile, or longer than the limit
            raise InvalidFile(f"{path}: {error}") from None

    def save(self, disk: Disk) -> None:
        """Durable on return (C3.4)."""
        replace_file(disk, self.path, format_epochs(self.entries))

    @property
    def latest(self) -> int | None:
        return self.entries[-1][0] if self.entries else None

    def assign(self, epoch: int, start_offset: int) -> bool:
        """Note that `epoch` begins at `start_offset`; later or equal epochs and starts give way. False where nothing
        changed: the epoch goes on."""
        assert epoch >= 0 and start_offset >= 0, (epoch, start_offset)
        if self.entries and self.entries[-1][0] == epoch and start_offset >= self.entries[-1][1]:
            return False
        while self.entries and (self.entries[-1][0] >= epoch or self.entries[-1][1] >= start_offset):
            self.entries.pop()
        self.entries.append((epoch, start_offset))
        return True

    def end_offset_for(self, epoch: int, log_end_offset: int) -> tuple[int, int]:
        """(the largest epoch known up to `epoch`, the offset where it ended): what OffsetForLeaderEpoch answers. A
        client with a position beyond that offset, read under `epoch`, has read what is no longer there."""
        if epoch < 0 or not self.entries or epoch > self.entries[-1][0]:
            return UNDEFINED
        if epoch == self.entries[-1][0]:
            return epoch, log_end_offset
        higher = next(index for index, entry in enumerate(self.entries) if entry[0] > epoch)
        if higher == 0:  # older than all that is known: what it wrote is gone
            return epoch, self.entries[0][1]
        return self.entries[higher - 1][0], self.entries[higher][1]

    def epoch_for(self, offset: int) -> int | None:
        """The epoch under which `offset` was written; None below all that is known."""
        found = None
        for epoch, start_offset in self.entries:
            if start_offset > offset:
                break
            found = epoch
        return found

    def truncate_from_end(self, end_offset: int) -> bool:
        """Forget epochs that begin at or after `end_offset`. Whether anything changed."""
        before = len(self.entries)
        while self.entries and self.entries[-1][1] >= end_offset:
            self.entries.pop()
        return len(self.entries) != before

    def truncate_from_start(self, start_offset: int) -> bool:
        """Forget epochs that ended at or before `start_offset`; the one that reaches over it now begins there."""
        epoch = self.epoch_for(start_offset)
        if epoch is None or self.entries[0] == (epoch, start_offset):
            return False
        self.entries = [(epoch, start_offset)] + [entry for entry in self.entries if entry[1] > start_offset]
        return True

    def clear(self) -> None:
        self.entries.clear()


def format_epochs(entries: list[tuple[int, int]]) -> bytes:
    return format_lines([f"{epoch} {start_offset}" for epoch, start_offset in entries])


def parse_epochs(data: bytes) -> list[tuple[int, int]]:
    entries: list[tuple[int, int]] = []
    for fields in parse_lines(data):
        if len(fields) != 2:
            raise InvalidFile(f"{' '.join(fields)[:80]!r}: epoch and first offset expected")
        entry = parse_number(fields[0], EPOCH_MAX, "epoch"), parse_number(fields[1], OFFSET_MAX, "offset")
        if entries and (entry[0] <= entries[-1][0] or entry[1] <= entries[-1][1]):
            raise InvalidFile(f"entry {entry} behind {entries[-1]}: both must rise")
        entries.append(entry)
    return entries
