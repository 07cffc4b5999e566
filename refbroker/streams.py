"""How do bytes get from and to one client? Together with `tls.py` the seam between the server and the network.

A stream is what `Server.serve_stream` needs of a connection, and nothing in it waits:

1. `watch(on_readable)`: from now on `on_readable()` is called, from the event loop, while there is something to receive,
   or the connection has ended; until `unwatch` or `close`. Watching what is watched changes nothing.
2. `receive(view)`: at least one byte, at most what fits, 0 at the end of the stream; BlockingIOError where there is
   nothing now. Fewer bytes than fit: that was all there is.
3. `write(parts)`: sends bytes-likes and file regions in order. None: all is sent. Where the client takes no more, a
   coroutine that sends the rest; there is no other write before it has ended.
4. `pending()`: is there something to receive of which `on_readable` will not tell, since it is not with the kernel any
   more?
5. `close()`.

Errors are OSError. A simulated network has its own version of these five.
"""

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from refbroker.frames import LogLimit


BACKLOG_MIN = 1024  # connections that come at once wait here; an entry costs the kernel little
ACCEPTS_PER_WAKEUP = 64  # then the other connections get their turn
ACCEPT_PAUSE_S = 0.5  # after EMFILE and the like


class Acceptor:
    """One address that is listened on: each connection is handed to `accepted(socket, host, port)`. Raises OSError."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, host: str, port: int, config: Any,
        accepted: Callable[[socket.socket, str, int], None], log: LogLimit,
    ):  # fmt: skip
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
        listener = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _set_buffers(listener, config)  # before listen: accepted sockets inherit them, and their window
            listener.bind(address)
            listener.listen(max(config.socket_listen_backlog_size, BACKLOG_MIN))
        except OSError:
            listener.close()
            raise
        self.address = listener.getsockname()[:2]
        self._loop = loop
        self._accepted = accepted
        self._log = log
        self._socket: socket.socket | None = listener
        self._resume()

    def _on_connection(self) -> None:
        for _ in range(ACCEPTS_PER_WAKEUP):
            try:
                accepted, address = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # out of descriptors: what is queued waits until some are free
                self._log.warning("cannot accept connections: %s", error)
                self._loop.remove_reader(self._socket.fileno())
                self._loop.call_later(ACCEPT_PAUSE_S, self._resume)
                return
            self._accepted(accepted, *address[:2])

    def _resume(self) -> None:
        if self._socket is not None:
            self._loop.add_reader(self._socket.fileno(), self._on_connection)

    def close(self) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None


def _set_buffers(listener: socket.socket, config: Any) -> None:
    sizes = {socket.SO_SNDBUF: config.socket_send_buffer_bytes, socket.SO_RCVBUF: config.socket_receive_buffer_bytes}
    for option, size in sizes.items():
        if size >= 0:
            listener.setsockopt(socket.SOL_SOCKET, option, size)


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

    def pending(self) -> bool:
        return False

    def write(self, parts: Sequence[Any]) -> Coroutine[Any, Any, None] | None:
        if len(parts) == 1 and not hasattr(parts[0], "file"):
            part = parts[0]
            try:
                sent = self._send(part, False)
            except BlockingIOError:
                sent = 0
            return None if sent == len(part) else self._write_rest([memoryview(part)[sent:]])
        rest = [self._region(part) if hasattr(part, "file") else part for part in parts]
        return None if self._send_all(rest) else self._write_rest(rest)

    async def _write_rest(self, rest: list[Any]) -> None:
        """From the event loop's writer callback, so that a slow reader costs nobody a turn."""
        done = self._loop.create_future()

        def on_writable() -> None:
            if done.done():
                return
            try:
                if self._send_all(rest):
                    done.set_result(None)
            except OSError as error:
                done.set_exception(error)

        self._loop.add_writer(self._fd, on_writable)
        try:
            await done
        finally:
            self._loop.remove_writer(self._fd)

    def _send_all(self, rest: list[Any]) -> bool:
        """Send until all is sent (True) or the socket takes no more; `rest` is what remains."""
        try:
            while rest:
                part = rest[0]
                if hasattr(part, "send"):
                    if not part.send():
                        continue
                else:
                    sent = self._send(part, len(rest) > 1)
                    if sent < len(part):
                        rest[0] = memoryview(part)[sent:]
                        continue
                rest.pop(0)
        except BlockingIOError:
            return False
        return True

    def _send(self, data: Any, more: bool) -> int:
        """`more`: the kernel waits for what follows at once. Raises BlockingIOError, OSError."""
        return self._socket.send(data, socket.MSG_MORE if more else 0)

    def _region(self, region: Any) -> "Region":
        return Region(self._fd, region)

    def close(self) -> None:
        self.unwatch()
        self._socket.close()


class Region:
    """A part of a file on its way out. Holds the file, and so its descriptor, until it is sent."""

    __slots__ = ("file", "position", "end", "_fd")

    def __init__(self, fd: int, region: Any):
        self._fd = fd
        self.file = region.file
        self.position = region.position
        self.end = region.position + region.size

    def send(self) -> bool:
        """True when all is sent. Raises BlockingIOError."""
        sent = os.sendfile(self._fd, self.file.fileno(), self.position, self.end - self.position)
        if sent == 0 and self.position < self.end:
            raise file_ends(self.file)
        self.position += sent
        return self.position == self.end


def file_ends(file: Any) -> OSError:
    return OSError(errno.EIO, "file ends before what was promised of it", file.path)
