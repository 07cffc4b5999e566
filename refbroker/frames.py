"""Where do the bytes of a request live while it is worked on, and how many may there be?

A frame of up to SMALL_FRAME_BYTES gets a buffer of its own. A larger one gets anonymous memory (mmap), which costs
nothing until bytes arrive in it: a client that announces a hundred megabytes and sends none has taken none. Such
buffers are used again, since getting their pages from the kernel costs as much as filling them; at most
POOL_BYTES_MAX of them are kept.

The sum of what unfinished requests hold is bounded by queued.max.request.bytes (or QUEUED_BYTES_DEFAULT). Where it
would be exceeded, the largest frame that is still incomplete loses: requests of ordinary size always get through.
"""

import logging
import mmap
import time
from typing import Any

SMALL_FRAME_BYTES = 32 * 1024
POOL_BYTES_MAX = 16 << 20
POOLED_BUFFER_BYTES_MAX = 4 << 20  # a kept buffer is as large as the largest frame that ever was in it
QUEUED_BYTES_DEFAULT = 512 << 20  # Kafka's default is no limit
LINES_PER_SECOND = 10  # of log, about clients that misbehave

Buffer = bytearray | mmap.mmap


class FramePool:
    """Buffers for frames, by powers of two."""

    def __init__(self) -> None:
        self._free: dict[int, list[mmap.mmap]] = {}
        self._kept_bytes = 0

    def take(self, size: int) -> Buffer:
        """A buffer of at least `size` bytes, with anything in it."""
        if size <= SMALL_FRAME_BYTES:
            return bytearray(size)
        capacity = 1 << (size - 1).bit_length()
        free = self._free.get(capacity)
        if free:
            self._kept_bytes -= capacity
            return free.pop()
        return mmap.mmap(-1, capacity)

    def give(self, buffer: Buffer) -> None:
        """Take back a buffer that nobody looks at any more."""
        capacity = len(buffer)
        if capacity <= SMALL_FRAME_BYTES or capacity > POOLED_BUFFER_BYTES_MAX:
            return
        if self._kept_bytes + capacity <= POOL_BYTES_MAX:
            self._kept_bytes += capacity
            self._free.setdefault(capacity, []).append(buffer)


class FrameBudget:
    """What the frames of all connections hold, as far as they are large. Connections have
    `received`, in bytes, and `reading`: whether their frame is still incomplete."""

    def __init__(self, bytes_max: int):
        self.bytes_max = bytes_max if bytes_max > 0 else QUEUED_BYTES_DEFAULT
        self._held: dict[Any, int] = {}
        self.bytes = 0

    def grown(self, connection: Any) -> Any | None:
        """Note what a connection has received of a frame. Returns the one that must be closed, if any."""
        self.bytes += connection.received - self._held.get(connection, 0)
        self._held[connection] = connection.received
        if self.bytes <= self.bytes_max:
            return None
        return max((holder for holder in self._held if holder.reading), key=lambda holder: holder.received)

    def done(self, connection: Any) -> None:
        """Its request is answered, or it is gone."""
        if connection.received:
            self.bytes -= self._held.pop(connection, 0)
            connection.received = 0


class LogLimit:
    """A logger that writes at most LINES_PER_SECOND lines: an attack on the broker is none on its log."""

    def __init__(self, logger: logging.Logger):
        self._logger = logger
        self._second = 0.0
        self._lines = 0
        self._dropped = 0

    def _allows(self) -> bool:
        now = time.monotonic()
        if now - self._second >= 1:
            if self._dropped:
                self._logger.warning("and %d lines more like these", self._dropped)
            self._second, self._lines, self._dropped = now, 0, 0
        self._lines += 1
        if self._lines > LINES_PER_SECOND:
            self._dropped += 1
            return False
        return True

    def warning(self, message: str, *values: Any) -> None:
        if self._allows():
            self._logger.warning(message, *values)

    def exception(self, message: str, *values: Any) -> None:
        """Errors of ours, with their traceback."""
        if self._allows():
            self._logger.exception(message, *values)
