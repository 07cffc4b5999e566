"""Where do the bytes of a request live while it is worked on, and how many may there be?

A frame is an int32 size and as many bytes. `FrameReader` finds the frames in what one connection receives:

1. An idle connection holds no buffer. One that begins to receive expects a frame as long as its last one, so that a
   frame of ordinary size comes with its size in one receive.
2. A frame lies in one buffer, behind its size, and the batches in it stay views of that buffer until they are written.
3. The buffer has room for the size of the next frame: a receive that fills it says that there is more to come, one
   that does not, that asking again is vain.

A frame of up to SMALL_FRAME_BYTES gets a buffer of its own. A larger one gets anonymous memory (mmap), which costs
nothing until bytes arrive in it: a client that announces a hundred megabytes and sends none has taken none. Such
buffers are used again, since getting their pages from the kernel costs as much as filling them; at most
POOL_BYTES_MAX of them are kept.

The sum of what unfinished requests hold is bounded by queued.max.request.bytes (or QUEUED_BYTES_DEFAULT). Where it
would be exceeded, the largest frame that is still incomplete loses: requests of ordinary size always get through.
"""

import logging
import mmap
import struct
import time
from typing import Any

SMALL_FRAME_BYTES = 32 * 1024
POOL_BYTES_MAX = 16 << 20
POOLED_BUFFER_BYTES_MAX = 4 << 20  # a kept buffer is as large as the largest frame that ever was in it
QUEUED_BYTES_DEFAULT = 512 << 20  # Kafka's default is no limit
LINES_PER_SECOND = 10  # of log, about clients that misbehave

Buffer = bytearray | mmap.mmap

_SIZE = struct.Struct(">i")
SIZE_BYTES = _SIZE.size


class Refused(Exception):
    """Why this connection is closed."""


class FrameReader:
    """The frames of one connection. Receive into `space()`, add how much to `received_bytes`, take frames with `next` until
    there is none, and give each back with `done` before the next one is asked for."""

    __slots__ = ("received_bytes", "_pool", "_bytes_max", "_buffer", "_view", "size", "_expected_bytes")

    def __init__(self, pool: "FramePool", bytes_max: int):
        self.received_bytes = 0  # of the frame that is being received, its size included
        self._pool = pool
        self._bytes_max = bytes_max
        self._buffer: Buffer | None = None
        self._view: memoryview | None = None
        self.size = -1  # of that frame without it, as soon as it is known
        self._expected_bytes = 0

    def space(self) -> memoryview:
        """Where the next bytes go."""
        if self._view is None:
            self._view = memoryview(bytearray(self._expected_bytes + 2 * SIZE_BYTES))
        return self._view[self.received_bytes :]

    def next(self) -> memoryview | None:
        """The frame, without its size, where it is whole. Raises Refused for a size that is not allowed."""
        if self.size < 0:
            if self.received_bytes < SIZE_BYTES:
                return None
            (self.size,) = _SIZE.unpack_from(self._view)
            if not 0 <= self.size <= self._bytes_max:
                raise Refused(f"frame of {self.size} bytes, socket.request.max.bytes is {self._bytes_max}")
            if self.size + SIZE_BYTES > len(self._view):
                self._buffer = self._pool.take(self.size + 2 * SIZE_BYTES)
                view = memoryview(self._buffer)[: self.size + 2 * SIZE_BYTES]
                view[: self.received_bytes] = self._view[: self.received_bytes]
                self._view = view
        end = SIZE_BYTES + self.size
        return self._view[SIZE_BYTES:end] if self.received_bytes >= end else None

    @property
    def has_whole(self) -> bool:
        """Is the next frame here, to its end, or is it one that `next` refuses?"""
        if self.received_bytes < SIZE_BYTES:
            return False
        size = self.size if self.size >= 0 else _SIZE.unpack_from(self._view)[0]
        return self.received_bytes >= SIZE_BYTES + size

    def done(self) -> None:
        """Nobody looks at the frame any more. What came behind it is the beginning of the next one."""
        end = SIZE_BYTES + self.size
        self._expected_bytes = self.size if self.size <= SMALL_FRAME_BYTES else 0
        behind = self.received_bytes - end
        view = None
        if behind:
            view = memoryview(bytearray(max(behind, self._expected_bytes) + 2 * SIZE_BYTES))
            view[:behind] = self._view[end : self.received_bytes]
        self._view, self.received_bytes, self.size = view, behind, -1
        if self._buffer is not None:
            self._pool.give(self._buffer)
            self._buffer = None

    def rest(self) -> None:
        """There is nothing to receive now: an idle connection holds no buffer."""
        if not self.received_bytes:
            self._view = None

    def end(self) -> None:
        """The stream has ended. Raises Refused if it was in the middle of a frame."""
        if self.size >= 0:
            raise Refused(f"closed after {self.received_bytes - SIZE_BYTES} of {self.size} bytes of a frame")
        if self.received_bytes:
            raise Refused("closed in the middle of a frame's size")


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
        if connection in self._held:
            self.bytes -= self._held.pop(connection)


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

    def error(self, error: BaseException, message: str, *values: Any) -> None:
        """One of ours, with its traceback."""
        if self._allows():
            self._logger.error(message, *values, exc_info=error)
