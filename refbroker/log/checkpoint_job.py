"""How do the checkpoint files keep up with the partitions, without ever being ahead of them?

Four files of one format (`checkpoints.py`), each for all partitions: recovery points (C3.1: never above what is
durable), log starts, high watermarks, and how far logs are compacted. They are written together now and then, on any
thread; and at once, by the event loop's thread, when a value must fall or an entry must go before something else may
happen (C3.7).

1. What was collected before such a change, or before other values were collected, is not written after it: each raises the
   generation.
2. A file whose content would not change is not written, unless an earlier write failed: it may have come as far as the file.
3. A partition that is offline keeps the values that are on the disk.
4. log-start-offset-checkpoint only names partitions whose log start is above their first segment's base offset.
"""

import threading
from collections.abc import Callable, Mapping
from functools import partial

from refbroker.log import checkpoints
from refbroker.log.checkpoints import Offsets
from refbroker.log.disk import Disk

Key = tuple[str, int]


class Checkpoints:
    """The files of one data directory, and what they say."""

    def __init__(self, disk: Disk, directory: str):
        self._disk = disk
        self._directory = directory
        self._on_disk: dict[str, Offsets] = {name: {} for name in checkpoints.OFFSET_CHECKPOINTS}
        self._unsure: set[str] = set()
        self._lock = threading.Lock()
        self._generation = 0

    def read(self, name: str) -> None:
        """Raises InvalidFile."""
        self._on_disk[name] = checkpoints.read_offsets(self._disk, f"{self._directory}/{name}")

    @property
    def recovery_points(self) -> Offsets:
        return self._on_disk[checkpoints.RECOVERY_POINT]

    @property
    def log_starts(self) -> Offsets:
        return self._on_disk[checkpoints.LOG_START]

    @property
    def cleaned(self) -> Offsets:
        return self._on_disk[checkpoints.CLEANER]

    def begin(self, partitions: Mapping[Key, object]) -> Callable[[], None]:
        """Collect the values of now; the function that is returned writes them, unless newer ones are on their way."""
        self._generation += 1
        recovery_points: Offsets = {}
        log_starts: Offsets = {}
        high_watermarks: Offsets = {}
        collected = (recovery_points, log_starts, high_watermarks)
        names = (checkpoints.RECOVERY_POINT, checkpoints.LOG_START, checkpoints.HIGH_WATERMARK)
        for key, partition in partitions.items():
            if partition.offline is not None:
                for name, offsets in zip(names, collected):
                    if key in self._on_disk[name]:
                        offsets[key] = self._on_disk[name][key]
                continue
            recovery_points[key] = partition.checkpoint_offset
            high_watermarks[key] = partition.high_watermark
            if partition.log_start_offset > partition.segments[0].base_offset:
                log_starts[key] = partition.log_start_offset
        return partial(self._write_collected, self._generation, list(zip(names, collected)))

    def _write_collected(self, generation: int, files: list[tuple[str, Offsets]]) -> None:
        with self._lock:
            if generation == self._generation:
                for name, offsets in files:
                    self._write(name, offsets)

    def set_recovery_point(self, key: Key, offset: int) -> None:
        """Durable on return, if the file had a larger one (C3.7)."""
        self._set(checkpoints.RECOVERY_POINT, key, offset, only_down=True)

    def set_log_start(self, key: Key, offset: int) -> None:
        """Durable on return."""
        self._set(checkpoints.LOG_START, key, offset)

    def _set(self, name: str, key: Key, offset: int, only_down: bool = False) -> None:
        with self._lock:  # waits for a write that is under way, which may have an older, larger value
            self._generation += 1
            offsets = self._on_disk[name]
            if not only_down or offsets.get(key, 0) > offset or name in self._unsure:
                self._write(name, offsets | {key: offset})

    def forget(self, key: Key) -> None:
        """The partition is gone, and so are its entries, durably (C9.6)."""
        with self._lock:
            self._generation += 1
            for name, offsets in self._on_disk.items():
                self._write(name, {other: offset for other, offset in offsets.items() if other != key})

    def _write(self, name: str, offsets: Offsets) -> None:
        if offsets != self._on_disk[name] or name in self._unsure:
            self._unsure.add(name)
            checkpoints.write_offsets(self._disk, f"{self._directory}/{name}", offsets)
            self._unsure.discard(name)
            self._on_disk[name] = offsets
