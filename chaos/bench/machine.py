"""What can this machine do at best? The raw rates that every figure of a broker is to be held against."""

import os
import socket
import statistics
import tempfile
import threading
import time

import crc32c

MIB = 1 << 20


def facts(directory: str, *, quick: bool) -> dict[str, str]:
    """Name -> measured, in the order in which they are printed."""
    writes, syncs = _disk(directory, 64 if quick else 256, 60 if quick else 300)
    loopback, sendfile = _loopback(256 if quick else 1024)
    return {
        "cores": str(os.cpu_count()), "load (1 min)": f"{os.getloadavg()[0]:.2f}",
        "sequential write, page cache": f"{writes:.0f} MiB/s",
        "fdatasync after 4 KiB": f"p50 {syncs[0] * 1e6:.0f} us, p99 {syncs[1] * 1e6:.0f} us",
        "loopback send": f"{loopback:.0f} MiB/s", "loopback sendfile": f"{sendfile:.0f} MiB/s",
        "CRC-32C": f"{_crc(32):.0f} MiB/s",
    }


def _disk(directory: str, mib: int, syncs: int) -> tuple[float, tuple[float, float]]:
    with tempfile.TemporaryFile(dir=directory) as file:
        block, began = bytes(MIB), time.perf_counter()
        for _ in range(mib):
            os.write(file.fileno(), block)
        rate = mib / (time.perf_counter() - began)
        os.fdatasync(file.fileno())
        took = []
        for _ in range(syncs):
            os.write(file.fileno(), bytes(4096))
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - began)
    return rate, (statistics.median(took), percentile(took, 0.99))


def _loopback(mib: int) -> tuple[float, float]:
    with tempfile.TemporaryFile() as file:
        os.ftruncate(file.fileno(), MIB)
        block = bytes(MIB)
        return (_transfer(mib, lambda out: out.sendall(block)),
                _transfer(mib, lambda out: _send_file(out, file.fileno())))


def _send_file(out: socket.socket, fd: int) -> None:
    sent = 0
    while sent < MIB:
        sent += os.sendfile(out.fileno(), fd, sent, MIB - sent)


def _transfer(mib: int, send) -> float:
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


def _crc(mib: int) -> float:
    block, began = bytes(MIB), time.perf_counter()
    for _ in range(mib):
        crc32c.crc32c(block)
    return mib / (time.perf_counter() - began)


def percentile(values: list[float], fraction: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * fraction))]


def memory_mib(pid: int) -> float:
    """Resident memory of a process, in MiB."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:")) / 1024
