"""What can this machine do at best? The raw rates that every figure of a broker is to be held against.

Each rate is the median of three tries. The raw rates are had with the means that a broker in Python has: system calls
on large buffers, CRC-32C by the CPU's instruction.
"""

import os
import platform
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable

import crc32c

MIB = 1 << 20
TRIES = 3
CACHED_BYTES_MAX = 3 << 30
CACHED_SHARE = 0.8  # of what the kernel leaves dirty: other files are, too
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
Facts = dict[str, float]  # by name; the name ends with the unit


def facts(directory: str, *, quick: bool) -> Facts:
    """Measured now, on the file system of `directory`."""
    found: Facts = {"cores": os.cpu_count() or 1, "load (1 min)": os.getloadavg()[0]}
    with tempfile.TemporaryFile(dir=directory) as file:
        found["sequential write, page cache MiB/s"] = _median(lambda: _write(file.fileno(), 64 if quick else 192))
        found["read and CRC-32C s/GiB"] = _median(lambda: _read_and_crc(file.fileno()))
    for name, sync in (("fsync", os.fsync), ("fdatasync", os.fdatasync)):
        took = _syncs(directory, sync, 60 if quick else 300)
        found[f"{name} after 4 KiB, p50 us"] = statistics.median(took) * 1e6
        found[f"{name} after 4 KiB, p99 us"] = percentile(took, 0.99) * 1e6
        found[f"{name} rate 1/s"] = len(took) / sum(took)
    with tempfile.TemporaryFile(dir=directory) as file:
        file.truncate(MIB)
        block = bytes(MIB)
        found["loopback send MiB/s"] = _median(lambda: _transfer(128 if quick else 512, lambda out: out.sendall(block)))
        found["loopback sendfile MiB/s"] = _median(
            lambda: _transfer(128 if quick else 512, lambda out: _send_file(out, file.fileno())))
    found["loopback round trip, p50 us"] = _round_trip(500 if quick else 3000)
    found["CRC-32C MiB/s"] = _median(lambda: _crc(64))
    found["Python function call ns"] = _median(_calls)
    return found


def describe(found: Facts) -> dict[str, str]:
    """Name without unit -> value with unit, in the order in which they are printed."""
    lines = {"machine": f"{platform.machine()}, Linux {platform.release()}", "python": platform.python_version()}
    for name, value in found.items():
        title, _, unit = name.rpartition(" ")
        if unit in ("MiB/s", "us", "ns", "1/s", "s/GiB"):
            lines[title.rstrip(",")] = f"{value:,.0f} {unit}" if value >= 10 else f"{value:.2f} {unit}"
        else:
            lines[name] = f"{value:g}" if value == int(value) else f"{value:.2f}"
    return lines


def cached_bytes_max() -> int:
    """What a round may append: with more the kernel begins to write it back meanwhile, which costs the faster broker most (it
    lost up to half of 1 MB batches in some rounds)."""
    try:
        with open("/proc/vmstat") as counters:
            pages = int(dict(line.split() for line in counters)["nr_dirty_background_threshold"])
    except (OSError, KeyError, ValueError):
        return CACHED_BYTES_MAX
    return min(CACHED_BYTES_MAX, int(pages * os.sysconf("SC_PAGE_SIZE") * CACHED_SHARE))


def in_turn(found: Facts) -> float:
    """MiB/s of one core that receives bytes, computes their CRC-32C and writes them, one after the other."""
    return 1 / sum(1 / found[name] for name in (
        "loopback send MiB/s", "CRC-32C MiB/s", "sequential write, page cache MiB/s"))


def _median(once: Callable[[], float]) -> float:
    return statistics.median(once() for _ in range(TRIES))


def _write(fd: int, mib: int) -> float:
    os.ftruncate(fd, 0)
    os.lseek(fd, 0, os.SEEK_SET)
    block, began = bytes(MIB), time.perf_counter()
    for _ in range(mib):
        os.write(fd, block)
    return mib / (time.perf_counter() - began)


def _read_and_crc(fd: int) -> float:
    size, began = os.fstat(fd).st_size, time.perf_counter()
    for position in range(0, size, MIB):
        crc32c.crc32c(os.pread(fd, MIB, position))
    return (time.perf_counter() - began) / size * (1 << 30)


def _syncs(directory: str, sync: Callable[[int], None], count: int) -> list[float]:
    """Seconds of each write of 4 KiB at the end of a file, and its sync: as a log's append."""
    took = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(count):
            began = time.perf_counter()
            os.write(file.fileno(), bytes(4096))
            sync(file.fileno())
            took.append(time.perf_counter() - began)
    return took


def _send_file(out: socket.socket, fd: int) -> None:
    sent = 0
    while sent < MIB:
        sent += os.sendfile(out.fileno(), fd, sent, MIB - sent)


def _transfer(mib: int, send: Callable[[socket.socket], None]) -> float:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as out:
        peer, _ = listener.accept()
        sender = threading.Thread(target=lambda: [send(out) for _ in range(mib)])
        buffer, left, began = bytearray(MIB), mib * MIB, time.perf_counter()
        sender.start()
        while left:
            left -= peer.recv_into(buffer)
        sender.join()
        peer.close()
        return mib / (time.perf_counter() - began)


def _round_trip(count: int) -> float:
    """Microseconds (median) of 200 bytes there and 60 back between two processes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        echo = os.fork()
        if not echo:
            peer, _ = listener.accept()
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while peer.recv(4096):
                peer.send(bytes(60))
            os._exit(0)
        with socket.create_connection(listener.getsockname()) as out:
            out.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            took = []
            for _ in range(count):
                began = time.perf_counter()
                out.send(bytes(200))
                out.recv(4096)
                took.append(time.perf_counter() - began)
        os.waitpid(echo, 0)
    return statistics.median(took) * 1e6


def _crc(mib: int) -> float:
    block, began = bytes(MIB), time.perf_counter()
    for _ in range(mib):
        crc32c.crc32c(block)
    return mib / (time.perf_counter() - began)


def _calls() -> float:
    """How fast is this interpreter? By the way it was built and by its version they differ by half."""

    def call(number: int) -> tuple[int, dict[str, int]]:
        return number, {"number": number}

    count, began = 100_000, time.perf_counter()
    for number in range(count):
        call(number)
    return (time.perf_counter() - began) / count * 1e9


def percentile(values: list[float], fraction: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * fraction))]


def memory_mib(pid: int, field: str = "VmRSS") -> float:
    """Resident memory of a process, in MiB; with "VmHWM", the most that it ever had."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field + ":")) / 1024


def processor_seconds(pid: int) -> tuple[float, float]:
    """(user, kernel) seconds of a process so far, all its threads."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return int(fields[11]) / TICKS_PER_SECOND, int(fields[12]) / TICKS_PER_SECOND


class Watch:
    """How much of the processors did others use meanwhile? `outside` is in cores: 1.0 is one core all the time.

    Ours are this process, its children that have ended, and the processes given. What the kernel does on its own account
    (writing back, interrupts) counts as outside as far as it is accounted to no process of ours."""

    def __init__(self, *pids: int):
        self._pids = pids
        self._began, self._busy, self._ours = time.monotonic(), self._all_busy(), self._of_ours()

    def outside(self) -> float:
        took = max(0.001, time.monotonic() - self._began)
        return max(0.0, (self._all_busy() - self._busy) - (self._of_ours() - self._ours)) / took

    def _all_busy(self) -> float:
        with open("/proc/stat") as stat:
            user, nice, system, _, _, _, _, steal = map(int, stat.readline().split()[1:9])
        return (user + nice + system + steal) / TICKS_PER_SECOND

    def _of_ours(self) -> float:
        times = os.times()
        return sum(times[:4]) + sum(sum(processor_seconds(pid)) for pid in self._pids)
