"""Which threads wait for the disk? A few that do nothing else, so that the event loop never does.

A job is a function of fsyncs; what follows from it is told on the event loop, whose state only the loop's own thread may
touch. The executors of the standard library do the same, with two futures, a semaphore and three locks for each job: that
costs 50 us more of a flush than a queue does, a quarter of what a single durable request takes.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

THREADS_MAX = 8  # fsyncs in flight over all partitions; a disk gains little beyond

Job = Callable[[], None]


class Threads:
    """Made as they are needed, and never more than THREADS_MAX."""

    def __init__(self) -> None:
        self.at_work = 0  # jobs of which the event loop has not heard yet
        self._jobs: SimpleQueue[tuple[Job, asyncio.Future[None]] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def run(self, job: Job) -> asyncio.Future[None]:
        """Work the job off on a thread; the future, of the running event loop, has what it raised."""
        self.at_work += 1
        if len(self._threads) < min(self.at_work, THREADS_MAX):
            thread = threading.Thread(target=self._work, name=f"sync-{len(self._threads)}", daemon=True)
            with suppress(RuntimeError):  # the system gives no more: those that are there do it
                thread.start()
                self._threads.append(thread)
        future = asyncio.get_running_loop().create_future()
        self._jobs.put((job, future))
        if not self._threads:  # then the event loop waits
            self._jobs.put(None)
            self._work()
        return future

    def map(self, function: Callable[[Any], None], items: Sequence[Any]) -> Iterator[None]:
        """`function` of each item, some at a time; returns when all are done. For a stop: the event loop waits."""
        with suppress(RuntimeError), ThreadPoolExecutor(THREADS_MAX) as pool:  # where the system gives no thread for it
            return iter(list(pool.map(function, items)))
        return iter([function(item) for item in items])

    def stop(self) -> None:
        """No job follows any more; those that were begun are finished."""
        for _ in self._threads:
            self._jobs.put(None)
        self._threads.clear()

    def _work(self) -> None:
        while (given := self._jobs.get()) is not None:
            job, future = given
            error: BaseException | None = None
            try:
                job()
            except BaseException as raised:
                error = raised
            with suppress(RuntimeError):  # the loop is closed: nobody is left to be told
                future.get_loop().call_soon_threadsafe(self._tell, future, error)

    def _tell(self, future: asyncio.Future[None], error: BaseException | None) -> None:
        self.at_work -= 1
        if future.done():  # whoever waited was cancelled
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
