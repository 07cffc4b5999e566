"""How do bytes get from and to one client? Together with `tls.py` the seam between the server and the network.

A stream is what `Server.serve_stream` needs of a connection, and nothing in it waits:

1. `watch(on_readable)`: from now on `on_readable()` is called, from the event loop, while there is something to receive,
   or the connection has ended; until `unwatch` or `close`. Watching what is watched changes nothing.
2. `receive(view)`: at least one byte, at most what fits, 0 at the end of the stream; BlockingIOError where there is
   nothing now. Fewer bytes than fit: that was all there is.
3. `write(parts)`: sends bytes-likes and file regions in order. None: all is sent. Where the client takes no more, a
   coroutine that sends the rest; there is no other write before it has ended.
4. `close()`.

Errors are OSError. A simulated network has its own version of these four.
"""

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any


class PlainStream:
    """One TCP connection. File regions go out by `sendfile`: no byte of a record passes through Python."""

    def __init__(self, loop: asyncio.AbstractEventLoop, connection: socket.socket):
        connection.setblocking(False)
        with suppress(OSError):  # gone already: the first read will tell
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._socket = connection
        self._fd = connection.fileno()
        self._loop = loop
        self._watched = False
        self.receive = connection.recv_into  # it does just what rule 2 says

    def watch(self, on_readable: Callable[[], None]) -> None:
        if not self._watched:
            self._loop.add_reader(self._fd, on_readable)
            self._watched = True

    def unwatch(self) -> None:
        if self._watched:
            self._loop.remove_reader(self._fd)
            self._watched = False

    def write(self, parts: Sequence[Any]) -> Coroutine[Any, Any, None] | None:
        if len(parts) == 1 and not hasattr(parts[0], "file"):
            part = parts[0]
            try:
                sent = self._socket.send(part)
            except BlockingIOError:
                sent = 0
            return None if sent == len(part) else self._write_rest([memoryview(part)[sent:]])
        rest = [_Region(part) if hasattr(part, "file") else part for part in parts]
        return None if self._send(rest) else self._write_rest(rest)

    async def _write_rest(self, rest: list[Any]) -> None:
        """From the event loop's writer callback, so that a slow reader costs nobody a turn."""
        done = self._loop.create_future()

        def on_writable() -> None:
            if done.done():
                return
            try:
                if self._send(rest):
                    done.set_result(None)
            except OSError as error:
                done.set_exception(error)

        self._loop.add_writer(self._fd, on_writable)
        try:
            await done
        finally:
            self._loop.remove_writer(self._fd)

    def _send(self, rest: list[Any]) -> bool:
        """Send until all is sent (True) or the socket takes no more; `rest` is what remains."""
        try:
            while rest:
                part = rest[0]
                if isinstance(part, _Region):
                    if not part.send(self._fd):
                        continue
                else:
                    more = socket.MSG_MORE if len(rest) > 1 else 0  # the kernel waits for what follows at once
                    sent = self._socket.send(part, more)
                    if sent < len(part):
                        rest[0] = memoryview(part)[sent:]
                        continue
                rest.pop(0)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        self.unwatch()
        self._socket.close()


class _Region:
    """A part of a file on its way out. Holds the file, and so its descriptor, until it is sent."""

    __slots__ = ("file", "position", "end")

    def __init__(self, region: Any):
        self.file = region.file
        self.position = region.position
        self.end = region.position + region.size

    def send(self, fd: int) -> bool:
        """True when all is sent. Raises BlockingIOError."""
        sent = os.sendfile(fd, self.file.fileno(), self.position, self.end - self.position)
        if sent == 0 and self.position < self.end:
            raise OSError(errno.EIO, "file ends before what was promised of it", self.file.path)
        self.position += sent
        return self.position == self.end
