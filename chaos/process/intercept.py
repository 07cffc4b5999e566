"""Which system call of a process is next, and what becomes of it: nothing, an error, half a write, or the end of the process?

The kernel (seccomp user notification, Linux 5.9) hands the calls that we name to us, and lets all others of the process pass at
full speed; the thread that made one waits until we have said what happens. No debugger, no package, any program. What strace's
injection cannot do, and the sweeps need:

1. Calls are counted over all threads together, in the order in which they come, so that n = 1, 2, 3 ... meets every one.
2. Only those that touch one directory count: the broker's data, not its sockets, its output and the files of its interpreter.
3. A short write is real: half of the bytes are written on the process's own descriptor, and their number is returned.

A call is struck when it is entered: killed there, it has not happened. What a fault is, is a value (`Fault`); the first that
matches strikes, and `struck` says of each what it met. Numbers of calls are known for x86_64 and aarch64.
"""

import ctypes
import errno
import fcntl
import fnmatch
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from chaos.process import filtered
from chaos.targets.base import NotAvailable

# name -> ((system call, which argument says where, "fd" or "path"), ...)
CALLS = {
    "write": (("write", 0, "fd"),), "writev": (("writev", 0, "fd"),),
    "pwrite": (("pwrite64", 0, "fd"), ("pwritev", 0, "fd"), ("pwritev2", 0, "fd")),
    "fsync": (("fsync", 0, "fd"),), "fdatasync": (("fdatasync", 0, "fd"),),
    "rename": (("rename", 0, "path"), ("renameat", 1, "path"), ("renameat2", 1, "path")),
    "unlink": (("unlink", 0, "path"), ("unlinkat", 1, "path"), ("rmdir", 0, "path")),
    "ftruncate": (("ftruncate", 0, "fd"),), "mkdir": (("mkdir", 0, "path"), ("mkdirat", 1, "path")),
    "open": (("open", 0, "path"), ("openat", 1, "path")), "sendfile": (("sendfile", 1, "fd"),),
    "accept": (("accept", 0, ""), ("accept4", 0, "")),  # it touches no directory, and counts always
}
WRITES = ("write", "writev", "pwrite")
NUMBERS = {
    "x86_64": {"write": 1, "writev": 20, "pwrite64": 18, "pwritev": 296, "pwritev2": 328, "fsync": 74, "fdatasync": 75, "rename": 82,
               "renameat": 264, "renameat2": 316, "unlink": 87, "unlinkat": 263, "rmdir": 84, "ftruncate": 77, "mkdir": 83,
               "mkdirat": 258, "open": 2, "openat": 257, "sendfile": 40, "accept": 43, "accept4": 288},
    "aarch64": {"write": 64, "writev": 66, "pwrite64": 68, "pwritev": 70, "pwritev2": 287, "fsync": 82, "fdatasync": 83,
                "renameat": 38, "renameat2": 276, "unlinkat": 35, "ftruncate": 46, "mkdirat": 34, "openat": 56, "sendfile": 71,
                "accept": 202, "accept4": 242},
}
PIDFD_GETFD = 438  # the same number everywhere
NOTIF_RECV, NOTIF_SEND = 0xC0502100, 0xC0182101
_NOTIFICATION, _ANSWER, _VECTOR = struct.Struct("QIIiIQ6Q"), struct.Struct("QqiI"), struct.Struct("QQ")
GO_ON = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
PATH_BYTES_MAX = 4096
STOP_SECONDS_MAX = 5.0


@dataclass
class Fault:
    """The calls from the `nth` match on, `times` of them (None: all), are not made: `action` is "kill" (SIGKILL to the process),
    "short" (half of a write) or the name of an error, such as EIO. `path` is a shell pattern, relative to the directory."""

    call: str
    action: str
    nth: int = 1
    times: int | None = 1
    path: str = "*"
    matched: int = field(default=0, init=False)
    struck: list["Strike"] = field(default_factory=list, init=False)

    def __post_init__(self):
        assert self.call == "any" or all(name in CALLS for name in self.call.split("|")), self.call
        assert self.action in ("kill", "short") or hasattr(errno, self.action), self.action

    def meets(self, name: str, path: str) -> bool:
        """Whether to strike this call; counts it if it matches."""
        if (self.call != "any" and name not in self.call.split("|")) or not fnmatch.fnmatchcase(path, self.path):
            return False
        self.matched += 1
        return self.matched >= self.nth and (self.times is None or self.matched < self.nth + self.times)


class Strike(NamedTuple):
    """What a fault met: in ns of CLOCK_MONOTONIC, the call, its number among those of its name, the path."""

    time: int
    call: str
    number: int
    path: str


class Interceptor:
    """Serves one process (and its restarts, one after the other): put `wrap` before its command line. Raises NotAvailable."""

    _allowed: bool | None = None

    def __init__(self, directory: str, faults: list[Fault], calls: tuple[str, ...] = tuple(CALLS)):
        numbers = NUMBERS.get(os.uname().machine)
        if sys.platform != "linux" or numbers is None:
            raise NotAvailable(f"faults at system calls: not known for {sys.platform} on {os.uname().machine}")
        self.directory, self.faults = os.path.realpath(directory), faults
        self.counts: Counter[str] = Counter()
        self._known = {numbers[call]: (name, call, argument, kind) for name in calls for call, argument, kind in CALLS[name]
                       if call in numbers}
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind("")  # the kernel draws an abstract name
        self._server.listen()
        self._wake, waker = os.pipe()
        self._waker = os.fdopen(waker, "wb", buffering=0)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.wrap = (sys.executable, "-I", "-S", filtered.__file__, self._server.getsockname()[1:].decode(),
                     ",".join(map(str, self._known)))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        if not self._is_allowed():
            self.close()
            raise NotAvailable("faults at system calls: the kernel refuses a seccomp listener here (a container's own filter, or Linux < 5.9)")

    def _is_allowed(self) -> bool:
        """Tried once, with a program that does nothing."""
        if Interceptor._allowed is None:
            Interceptor._allowed = subprocess.run([*self.wrap, "true"], capture_output=True).returncode == 0
        return Interceptor._allowed

    def close(self) -> None:
        """Calls that still wait then fail with ENOSYS: end the process first."""
        self._waker.write(b"x")
        self._thread.join(STOP_SECONDS_MAX)
        self._waker.close()

    def __enter__(self) -> "Interceptor":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    @property
    def struck(self) -> list[Strike]:
        return sorted(strike for fault in self.faults for strike in fault.struck)

    def _serve(self) -> None:
        poll, listeners = select.poll(), set()
        for fd in (self._server.fileno(), self._wake):
            poll.register(fd, select.POLLIN)
        while True:
            for fd, events in poll.poll():
                if fd == self._wake:
                    for each in (*listeners, self._wake):
                        os.close(each)
                    self._server.close()
                    return
                if fd == self._server.fileno():
                    with self._server.accept()[0] as connection:
                        received = socket.recv_fds(connection, 1, 1)[1]
                    for listener in received:  # none where the kernel refused the filter: the process has said so and ended
                        listeners.add(listener)
                        poll.register(listener, select.POLLIN)
                elif events & select.POLLIN:
                    self._notified(fd)
                else:  # the last process under this filter has ended
                    poll.unregister(fd)
                    listeners.discard(fd)
                    os.close(fd)

    def _notified(self, listener: int) -> None:
        data = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(listener, NOTIF_RECV, data)
        except OSError:  # the thread died, or a signal took it out of the call
            return
        identity, thread, _, number, _, _, *arguments = _NOTIFICATION.unpack(data)
        name, call, argument, kind = self._known[number]
        try:
            path = self._path(thread, arguments[argument], kind)
            fault = path is not None and self._fault_for(name, path)
            answer = self._answer(fault, call, thread, arguments) if fault else (0, 0, GO_ON)
        except OSError:  # it died while we looked
            answer = (0, 0, GO_ON)
        if answer is not None:
            try:
                fcntl.ioctl(listener, NOTIF_SEND, bytearray(_ANSWER.pack(identity, *answer)))
            except OSError:
                pass

    def _path(self, thread: int, value: int, kind: str) -> str | None:
        """Where the call strikes, relative to the directory; None where that is elsewhere."""
        if not kind:
            return ""
        if kind == "fd":
            path = os.readlink(f"/proc/{thread}/fd/{value & 0xFFFFFFFF}")
        else:
            name = _memory(thread, value, PATH_BYTES_MAX).partition(b"\0")[0]
            path = os.path.join(os.readlink(f"/proc/{thread}/cwd"), os.fsdecode(name))
        if path != self.directory and not path.startswith(self.directory + "/"):
            return None
        return os.path.relpath(path, self.directory)

    def _fault_for(self, name: str, path: str) -> Fault | None:
        self.counts[name] += 1
        for fault in tuple(self.faults):
            if fault.meets(name, path):
                fault.struck.append(Strike(time.monotonic_ns(), name, self.counts[name], path))
                return fault
        return None

    def _answer(self, fault: Fault, call: str, thread: int, arguments: list[int]) -> tuple[int, int, int] | None:
        """(value, -errno, flags); None: nobody is left to be answered."""
        if fault.action == "kill":
            os.kill(_process_of(thread), signal.SIGKILL)
            return None
        if fault.action == "short":
            return self._short_write(call, thread, arguments), 0, 0
        return 0, -getattr(errno, fault.action), 0

    def _short_write(self, call: str, thread: int, arguments: list[int]) -> int:
        """Half of the bytes, on the process's own descriptor; what was written."""
        fd, address, count, position = arguments[:4]
        if call in ("writev", "pwritev", "pwritev2"):
            vectors = _memory(thread, address, count * _VECTOR.size)
            data = b"".join(_memory(thread, base, size) for base, size in _VECTOR.iter_unpack(vectors))
        else:
            data = _memory(thread, address, count)
        data = data[:max(1, len(data) // 2)]
        process = os.pidfd_open(_process_of(thread))
        mine = self._libc.syscall(PIDFD_GETFD, process, fd, 0)
        os.close(process)
        if mine < 0:
            raise OSError(ctypes.get_errno(), "pidfd_getfd")
        try:
            return os.write(mine, data) if call in ("write", "writev") else os.pwrite(mine, data, position)
        finally:
            os.close(mine)


def _process_of(thread: int) -> int:
    with open(f"/proc/{thread}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("Tgid:"))


def _memory(thread: int, address: int, count: int) -> bytes:
    """Bytes of a process's memory; fewer where the mapping ends before."""
    fd = os.open(f"/proc/{thread}/mem", os.O_RDONLY)
    try:
        return os.pread(fd, count, address)
    finally:
        os.close(fd)
