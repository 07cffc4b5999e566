"""Under flush.messages=1 a commit of a group is answered when it is on the disk (C8.1): it is a record like any other."""

import asyncio
import os
import threading

from test_group_apis import COMMIT, call, codes, commit_request, fetched

from refbroker.broker import Broker
from refbroker.config import Config
from refbroker.errors import ErrorCode
from refbroker.log.disk import Disk, File


class GatedFile(File):
    __slots__ = ("_gate",)

    def __init__(self, path, fd, gate):
        super().__init__(path, fd)
        self._gate = gate

    def sync(self):
        if "__consumer_offsets" in self.path:
            self._gate.wait(20)
        super().sync()


class GatedDisk(Disk):
    """No fsync of an offsets log ends before the gate is open."""

    def __init__(self):
        self.gate = threading.Event()

    def open(self, path, *, create=False, readonly=False):
        file = super().open(path, create=create, readonly=readonly)
        return GatedFile(path, os.dup(file.fileno()), self.gate)


def test_a_commit_waits_for_its_fsync(tmp_path):
    async def story():
        config, _ = Config.load(None, {}, [
            "listeners=PLAINTEXT://127.0.0.1:0", f"log.dirs={tmp_path}", "offsets.topic.num.partitions=1",
            "log.flush.interval.messages=1",
        ])  # fmt: skip
        disk = GatedDisk()
        disk.gate.set()
        broker = await Broker.start(config, disk)
        try:
            await broker.metadata.create_topic("t", 1, {}, 1)
            await call(broker, COMMIT, 7, commit_request(broker, offsets=((0, 1),)))
            disk.gate.clear()
            commit = asyncio.ensure_future(call(broker, COMMIT, 7, commit_request(broker, offsets=((0, 5),))))
            await asyncio.sleep(0.2)
            assert not commit.done()
            disk.gate.set()
            assert codes(await commit) == [ErrorCode.NONE]
            assert (await fetched(broker))[0] == 5
        finally:
            disk.gate.set()
            await broker.stop()

    asyncio.run(story())

