"""What can the client do at most? A server that does nothing: it counts the bytes of a request and sends a ready answer.

A broker's figure that is near this one is the client's, not the broker's. It runs in a process of its own, as a broker
does, and is as cheap as Python makes it: one receive for what has come, no look at it but for the sizes, one send.
"""

import multiprocessing
import os
import select
import socket
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

RECEIVE_BYTES = 1 << 20
SENDFILE_BYTES_MIN = 1 << 16
_SIZE = struct.Struct(">i")


@contextmanager
def null_server(answer: bytes) -> Iterator[str]:
    """The address of a server that answers every frame with this one."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        process = multiprocessing.get_context("fork").Process(target=_serve, args=(listener, answer), daemon=True)
        process.start()
        try:
            yield "127.0.0.1:%d" % listener.getsockname()[1]
        finally:
            process.kill()
            process.join()


def _serve(listener: socket.socket, answer: bytes) -> None:
    poller, clients = select.epoll(), {}
    poller.register(listener, select.EPOLLIN)
    buffer = bytearray(RECEIVE_BYTES)
    with tempfile.TemporaryFile() as file:
        file.write(answer)
        file.flush()
        while True:
            for number, _ in poller.poll():
                if number == listener.fileno():
                    accepted, _ = listener.accept()
                    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    clients[accepted.fileno()] = Client(accepted)
                    poller.register(accepted, select.EPOLLIN)
                    continue
                client = clients[number]
                count = client.socket.recv_into(buffer)
                if not count:
                    poller.unregister(number)
                    clients.pop(number).socket.close()
                elif whole := client.frames(buffer, count):
                    _answer(client.socket, answer, whole, file.fileno())


def _answer(client: socket.socket, answer: bytes, times: int, fd: int) -> None:
    if len(answer) < SENDFILE_BYTES_MIN:
        client.sendall(answer * times)
        return
    for _ in range(times):
        sent = 0
        while sent < len(answer):
            sent += os.sendfile(client.fileno(), fd, sent, len(answer) - sent)


class Client:
    """One connection, and how far its current frame has come."""

    def __init__(self, connection: socket.socket):
        self.socket = connection
        self._head = b""
        self._left = 0  # bytes of the current frame that have not come yet

    def frames(self, buffer: bytearray, count: int) -> int:
        """How many frames end in these bytes."""
        position = whole = 0
        while position < count:
            if self._left:
                step = min(self._left, count - position)
                position += step
                self._left -= step
                whole += self._left == 0
                continue
            wanted = _SIZE.size - len(self._head)
            self._head += buffer[position : min(position + wanted, count)]
            position += wanted
            if len(self._head) == _SIZE.size:
                (self._left,) = _SIZE.unpack(self._head)
                self._head = b""
        return whole
