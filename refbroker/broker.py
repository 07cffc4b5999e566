"""What is a broker made of, and in which order do its parts start and stop?

Start: configuration, data directory (lock, recovery), flusher, metadata log, group coordinator, then the server: no
client is answered before everything that it could ask for is loaded. Stop is the reverse; a clean one ends with a
flush of every log, the checkpoints and the clean marker (C1.1), an unclean one leaves the directory as a kill would.

The event loop's thread owns all state. Work that repeats (retention, checkpoints, forgetting silent producers) is a
task here; each looks at one partition at a time and lets the loop go on in between.
"""

import asyncio
import logging
import os
import time
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

from refbroker.config import Config
from refbroker.config_keys import LONG_MAX
from refbroker.errors import ErrorCode, KafkaError
from refbroker.groups import GroupCoordinator
from refbroker.log.directory import LogDirectory
from refbroker.log.disk import Disk
from refbroker.log.flush import Flusher
from refbroker.log.partition import Appended, Partition
from refbroker.log.threads import Threads
from refbroker.metadata import MetadataStore
from refbroker.metrics import Metrics
from refbroker.server import Server

SWEEP_INTERVAL_MS = 5_000  # how much longer than file.delete.delay.ms a deleted file may stay
CHECKPOINT_INTERVALS = (
    "log.flush.offset.checkpoint.interval.ms",
    "log.flush.start.offset.checkpoint.interval.ms",
    "replica.high.watermark.checkpoint.interval.ms",
)  # the files are written together: the shortest counts

logger = logging.getLogger(__name__)


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


class Broker:
    def __init__(
        self, config: Config, disk: Disk, clock: Callable[[], int], *,
        threads: Threads | None = None, accept_loss: bool = False, new_uuid: Callable[[], uuid.UUID] = uuid.uuid4,
    ):  # fmt: skip
        """`threads` run fsyncs. `accept_loss`: a log damaged below its recovery point is cut, not refused (C2.5).
        `new_uuid` names clusters, directories and topics."""
        self.config = config
        self.disk = disk
        self.clock = clock
        self.metrics = Metrics()
        self.ready = False
        self.threads = threads or Threads()
        self.logs = LogDirectory(disk, config.data_dir, config, clock, accept_loss=accept_loss, new_uuid=new_uuid)
        self.flusher = Flusher(self.logs.partitions.values, clock, self._flusher_period_ms, threads=self.threads)
        self.logs.on_roll = self._flush_rolled
        self.metadata = MetadataStore(self, new_uuid)
        self.groups = GroupCoordinator(self)
        self.server = Server(self, config)
        self._tasks: list[asyncio.Task] = []

    @classmethod
    async def start(
        cls, config: Config, disk: Disk | None = None, clock: Callable[[], int] = wall_clock_ms, **options: Any
    ) -> "Broker":
        """A broker that answers clients. Raises StartupError, OSError (the address is taken)."""
        broker = cls(config, disk or Disk(), clock, **options)
        broker.logs.open(broker.metadata.load)
        try:
            broker.flusher.start()
            await broker.metadata.start()
            await broker.groups.start()
            await broker.server.start()
        except BaseException:
            await broker.stop(clean=False)
            raise
        broker._repeat(config.log_retention_check_interval_ms, broker._retain)
        broker._repeat(min(config.values[key] for key in CHECKPOINT_INTERVALS), broker._checkpoint)
        broker._repeat(SWEEP_INTERVAL_MS, broker._sweep)
        broker._repeat(config.producer_id_expiration_check_interval_ms, broker._expire_producers)
        broker.ready = True
        return broker

    async def stop(self, clean: bool = True) -> None:
        """Stop serving, then close the directory. `clean`: durably, with the marker."""
        self.ready = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.server.stop()
        await self.groups.stop()
        await self.metadata.close()
        await self.flusher.stop()
        self.logs.close(clean=clean, mapper=self.threads.map)
        self.threads.stop()

    @property
    def node_id(self) -> int:
        return self.logs.node_id

    @property
    def cluster_id(self) -> str:
        return self.logs.cluster_id

    def advertised(self, listener_name: str) -> tuple[str, int]:
        """Host and port that clients are told which came through this listener."""
        found = next(served for served in self.config.client_listeners if served.listener.name == listener_name)
        told = found.advertised or found.listener
        return told.host or os.uname().nodename, told.port or self.server.addresses[listener_name][1]

    def partition(self, topic: str, number: int) -> Partition:
        """Raises KafkaError: UNKNOWN_TOPIC_OR_PARTITION, or KAFKA_STORAGE_ERROR where its directory is offline."""
        partition = self.logs.partitions.get((topic, number))
        if partition is None:
            raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION, f"{topic}-{number}")
        if partition.offline:
            raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, f"{topic}-{number}: {partition.offline}")
        return partition

    async def append(self, partition: Partition, records: bytearray | memoryview) -> Appended:
        """Append, and where the flush policy says so, wait until it is durable. Raises KafkaError."""
        appended = partition.append(records, self.clock())
        if appended.flush_to is not None:
            await self.flusher.durable(partition, appended.flush_to)
        return appended

    def _flusher_period_ms(self) -> int:
        """Half the shortest flush.ms that any partition has, so that it is real for all (C1.5)."""
        configs = {partition.config for partition in self.logs.partitions.values()}
        return min(map(self.config.flusher_period_ms, configs), default=LONG_MAX)

    def _repeat(self, interval_ms: int, work: Callable[[], Coroutine]) -> None:
        async def run() -> None:
            while True:
                await asyncio.sleep(max(interval_ms, 1) / 1000)
                try:
                    await work()
                except Exception:  # one failed round must not end all later ones; a broken disk is offline by now
                    logger.exception("%s failed", work.__name__.lstrip("_"))

        self._tasks.append(asyncio.get_running_loop().create_task(run()))

    async def _retain(self) -> None:
        for partition in list(self.logs.partitions.values()):
            try:
                if not partition.offline and (count := partition.retain(self.clock())):
                    logger.info("%s-%d: retention deleted %d bytes", partition.topic, partition.number, count)
            except KafkaError as error:
                logger.warning("%s-%d: retention: %s", partition.topic, partition.number, error)
            await asyncio.sleep(0)

    async def _expire_producers(self) -> None:
        for partition in list(self.logs.partitions.values()):
            partition.producers.expire(self.clock())
            await asyncio.sleep(0)

    async def _checkpoint(self) -> None:
        """All checkpoint files: those whose content would not change cost nothing."""
        if self.logs.offline is None:
            try:
                await self.threads.run(self.logs.begin_checkpoint())
            except OSError as error:
                self.logs.failed("checkpoint", error)

    async def _sweep(self) -> None:
        self.logs.sweep(self.clock())
        await self.metadata.make_missing()

    def _flush_rolled(self, partition: Partition) -> None:
        self.flusher.request(partition, partition.active.base_offset)
