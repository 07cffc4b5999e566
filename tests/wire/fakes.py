"""A broker that is only what the server and the handlers of the log's APIs ask of one, with a file per partition.

The log under it is a single file of batches without indexes. Tests of the wire use it where they need to hold the
log's behaviour in their hands (an append that fails, a flush that waits); everything else uses the real broker.
"""

import asyncio
import struct
import uuid
from collections import namedtuple
from contextlib import asynccontextmanager
from types import SimpleNamespace

from refbroker.config import Config
from refbroker.errors import ErrorCode, KafkaError
from refbroker.log.disk import Disk
from refbroker.metrics import Metrics
from refbroker.server import Server

Appended = namedtuple("Appended", "base_offset last_offset log_append_time_ms log_start_offset duplicate flush_to")
PATIENCE_S = 60  # for what comes at once on a machine that is not busy
Slice = namedtuple("Slice", "regions high_watermark last_stable_offset log_start_offset log_end_offset")
Region = namedtuple("Region", "file position size")


class FakePartition:
    def __init__(self, directory, topic, number):
        self.topic, self.number = topic, number
        self.file = Disk().open(f"{directory}/{topic}-{number}.log", create=True)
        self.starts = []  # (base offset, position)
        self.leader_epoch = 3
        self.log_start_offset = self.log_end_offset = 0
        self.waiters = set()
        self.config = SimpleNamespace(min_insync_replicas=1, cleanup_policy="delete")
        self.producers = SimpleNamespace(active=[])
        self.epochs = SimpleNamespace(epoch_for=lambda offset: self.leader_epoch)
        self.flush_to = None
        self.fail_with = None
        self.visible_end = None

    @property
    def high_watermark(self):
        return self.log_end_offset if self.visible_end is None else self.visible_end

    last_stable_offset = high_watermark

    def append_all(self, group, now_ms):
        results = []
        for records in group:
            try:
                results.append(self.append(records, now_ms))
            except KafkaError as error:
                results.append(error)
        return results

    def append(self, records, now_ms):
        if self.fail_with:
            raise KafkaError(self.fail_with, "as told")
        if len(records) < 61:
            raise KafkaError(ErrorCode.CORRUPT_MESSAGE, "shorter than a batch")
        base = self.log_end_offset
        (delta,) = struct.unpack_from(">i", records, 23)
        struct.pack_into(">q", records, 0, base)
        self.starts.append((base, self.file.append([records])))
        self.log_end_offset = base + delta + 1
        self.wake()
        flush_to = self.log_end_offset if self.flush_to else None
        return Appended(base, base + delta, -1, self.log_start_offset, False, flush_to)

    def wake(self):
        for waiter in list(self.waiters):
            waiter.wake()

    def read(self, offset, max_bytes, *, min_one=False):
        if not self.log_start_offset <= offset <= self.log_end_offset:
            raise KafkaError(ErrorCode.OFFSET_OUT_OF_RANGE)
        start = next((position for base, position in reversed(self.starts) if base <= offset), 0)
        end = next((position for base, position in self.starts if base >= self.high_watermark), self.file.size)
        first_end = next((position for _, position in self.starts if position > start), end)
        size = min(end - start, max(max_bytes, first_end - start if min_one else 0))
        size = size if offset < self.high_watermark else 0
        region = Region(self.file, start, size) if size > 0 else None
        return Slice(region, self.high_watermark, self.last_stable_offset, self.log_start_offset, self.log_end_offset)

    def is_behind(self, offset):
        return False  # all of it is in one file

    def epoch_end(self, epoch):
        return (3, self.log_end_offset) if epoch >= 3 else (-1, -1)

    def offset_of_max_timestamp(self):
        return (1000, self.log_end_offset - 1, 3) if self.starts else None

    def offset_for_time(self, timestamp):
        return (timestamp, 0, 3) if self.starts and timestamp <= 1000 else None

    def delete_records(self, offset):
        if offset > self.high_watermark:
            raise KafkaError(ErrorCode.OFFSET_OUT_OF_RANGE)
        self.log_start_offset = max(self.log_start_offset, self.high_watermark if offset == -1 else offset)
        return self.log_start_offset


class FakeFlusher:
    def __init__(self):
        self.waiting = []
        self.ensured = []

    def durable(self, partition, offset, waiters=1):
        future = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        return future

    def ensure(self, partition):
        self.ensured.append(partition)

    def look_again(self):
        pass


def describe(name):
    return SimpleNamespace(name=name, topic_id=uuid.uuid5(uuid.NAMESPACE_DNS, name), is_internal=name.startswith("__"))


class FakeBroker:
    node_id, cluster_id = 1, "a-cluster"

    def __init__(self, directory, topics, config):
        self.config = config
        self.clock = lambda: 1_700_000_000_000
        self.metrics = Metrics()
        self.flusher = FakeFlusher()
        self.partitions = {
            (name, number): FakePartition(directory, name, number) for name, count in topics.items() for number in range(count)
        }
        described = {name: describe(name) for name in topics}
        self.producer_ids = 1000
        self.metadata = SimpleNamespace(topics=described, by_id={t.topic_id: t for t in described.values()},
                                        next_producer_id=self.next_producer_id)
        self.server = Server(self, config)

    async def next_producer_id(self):
        self.producer_ids += 1
        return self.producer_ids

    def partition(self, topic, number):
        try:
            return self.partitions[topic, number]
        except KeyError:
            raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION) from None


def make_config(**keys):
    given = {"listeners": "PLAINTEXT://127.0.0.1:0"} | {key.replace("_", "."): value for key, value in keys.items()}
    return Config.load(None, {}, [f"{key}={value}" for key, value in given.items()])[0]


@asynccontextmanager
async def running(directory, topics=None, **keys):
    """A FakeBroker whose server is listening."""
    broker = FakeBroker(directory, topics or {"t": 2}, make_config(**keys))
    await broker.server.start()
    try:
        yield broker
    finally:
        await broker.server.stop()


class Client:
    """A client that speaks in the project's own codec, over asyncio's streams."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.correlation_id = 0

    @classmethod
    async def connect(cls, broker):
        return cls(*await asyncio.open_connection(*broker.server.address, limit=1 << 26))

    async def send(self, api, version, request, client_id="test"):
        self.correlation_id += 1
        self.writer.write(api.request_frame(version, self.correlation_id, client_id, request))
        await self.writer.drain()
        return self.correlation_id

    async def receive(self, api, version):
        (size,) = struct.unpack(">i", await self.reader.readexactly(4))
        return api.read_response(version, await self.reader.readexactly(size))

    async def call(self, api, version, request, client_id="test"):
        sent = await self.send(api, version, request, client_id)
        correlation_id, response = await self.receive(api, version)
        assert correlation_id == sent
        return response

    async def closed(self):
        """Whether the broker has closed the connection, without another byte."""
        try:
            return await asyncio.wait_for(self.reader.read(1), PATIENCE_S) == b""
        except ConnectionError:
            return True

    def close(self):
        self.writer.close()


async def until(true):
    async with asyncio.timeout(PATIENCE_S):
        while not true():
            await asyncio.sleep(0.001)


def batch(count=1, value=b"x" * 100):
    """A batch with the right CRC, of `count` records without keys."""
    from refbroker.log.records import Record, build

    return bytes(build([Record(n, 1000, None, value, []) for n in range(count)]))
