"""How long does the event loop go on looking before it sleeps?

A processor that sleeps takes 30 to 60 us to be woken in a virtual machine, more than it takes to serve a small request.
So while requests come close behind each other, the loop looks again and again for up to `--idle-poll-us` before it sleeps;
Seastar, and with it Redpanda, has the same option (`--idle-poll-time-us`). One client with one small request at a time
waits 80 us for its answer instead of 130.

What that costs is bounded: the loop looks again only if its last wait was shorter than the limit. A broker that has
nothing to do sleeps; one whose requests come farther apart than the limit sleeps between them; and each time that the
looking was in vain, a wait had been short before it. Each look offers the processor to whoever waits for it: on a busy
machine nothing is lost (without that, eight durable producers got a quarter less). It does not look while a thread waits
for the disk, which would then have to fight for the interpreter's lock; and never with less than two processors, be it a
container's share of more: the client needs them.
"""

import asyncio
import os
import selectors
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from refbroker.log.disk import Disk
from refbroker.log.threads import Threads

LIMIT_US_DEFAULT = 200
CPU_MAX = "/sys/fs/cgroup/cpu.max"  # of a container: microseconds in each period, or "max"
CPU_MAX_BYTES = 64


def default_limit_us(disk: Disk) -> int:
    processors: float = len(os.sched_getaffinity(0))
    with suppress(OSError, ValueError):  # no control groups, or no limit
        quota, period = map(int, disk.open(CPU_MAX, readonly=True).pread(CPU_MAX_BYTES, 0).split())
        processors = min(processors, quota / period)
    return LIMIT_US_DEFAULT if processors >= 2 else 0


class IdlePollSelector(selectors.DefaultSelector):
    """A selector that looks for `limit_s` seconds before it sleeps, where its last wait was shorter than that."""

    def __init__(self, limit_s: float, threads: Threads):
        super().__init__()
        self._limit_s = limit_s
        self._threads = threads
        self._was_short = False

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= self._limit_s:
            return super().select(timeout)
        until = time.perf_counter() + self._limit_s
        if self._was_short and not self._threads.at_work:
            while time.perf_counter() < until:
                if ready := super().select(0):
                    return ready
                os.sched_yield()
        ready = super().select(timeout)
        self._was_short = time.perf_counter() < until
        return ready


def run(main: Coroutine[Any, Any, None], limit_us: int, threads: Threads) -> None:
    """As asyncio.run, with a loop that looks for `limit_us` (0: sleeps at once) unless one of `threads` is at work."""
    selector = IdlePollSelector(limit_us / 1e6, threads) if limit_us else selectors.DefaultSelector()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(main)
