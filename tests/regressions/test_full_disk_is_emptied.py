"""A full disk stayed full. Retention could not write down where the log begins before it deletes, and so deleted nothing; and while it
failed, consumers were told that the records were gone. A topic that was deleted took the whole broker with it, since its lines in the
checkpoints could not be removed (C1.14: when space returns; that it does is these two's business).
"""

import asyncio
import errno
import os
import random

import pytest
from test_no_descriptors_for_the_housekeeping import KEY, FullDisk, filled, opened

from chaos.disk.driver import ROOT
from chaos.disk.faults import Fault, Injector
from chaos.disk.model import SimDisk
from chaos.disk.profiles import PROFILES, Platters
from chaos.disk.spaces import Space
from refbroker.broker import Broker
from refbroker.config import Config
from refbroker.errors import KafkaError
from refbroker.log.records import Record, build

ALWAYS = 10**9


class FullEverywhere(FullDisk):
    """No checkpoint and no new segment can be written."""

    def open(self, path, **how):
        name = os.path.basename(path)
        if self.left and (name.endswith(".tmp") or how.get("create") and not self.exists(path)):
            raise OSError(self.number, os.strerror(self.number), path)
        return super().open(path, **how)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_retention_goes_on_one_by_one(tmp_path, number):
    disk = FullEverywhere("", "", number)
    logs, log = filled(tmp_path, disk)
    disk.left = ALWAYS
    for first in range(1, 6):
        assert log.retain(10**15) > 0
        assert (log.log_start_offset, log.segments[0].base_offset, log.recovery_point) == (first, first, 6)
    with pytest.raises(KafkaError):  # the last one has the next offset in its name
        log.retain(10**15)
    assert logs.offline is None and log.log_start_offset == 5
    disk.left = 0
    log.retain(10**15)
    assert log.append(build([Record(0, 0, None, b"v")]), 0).base_offset == 6
    logs.close(clean=False)
    assert opened(tmp_path, disk).partitions[KEY].log_start_offset == 6


def test_no_power_cut_makes_a_hole_of_it(tmp_path):
    """C2.2, C3.5: of every disk, at every moment. The log start is in no checkpoint, then."""
    disk = SimDisk({ROOT: None})
    logs, log = filled("", disk)
    logs.checkpoint()
    begin = len(disk.events)
    disk.injector = Injector(Fault("write-enospc", 1, True))
    while log.log_start_offset < 3:
        log.retain(10**15)
    begins = set()
    for profile in PROFILES:
        platters = Platters(disk, profile.commit)
        for at, event in enumerate(disk.events):
            for state in Space(profile, platters, random.Random(at)).states(200) if at >= begin else ():
                log = opened("", SimDisk(state.image())).partitions[KEY]
                assert log.offline is None and log.log_end_offset == 6
                assert [batch.base_offset for batch in log.read_batches(log.log_start_offset)] == list(range(log.log_start_offset, 6))
                begins.add(log.log_start_offset)
            platters.feed(event)
    assert begins == {0, 1, 2, 3}


def test_without_descriptors_nothing_is_begun(tmp_path):
    disk = FullEverywhere("", "", errno.EMFILE)
    logs, log = filled(tmp_path, disk)
    disk.left = ALWAYS
    with pytest.raises(KafkaError):
        log.retain(10**15)
    assert logs.offline is None and log.log_start_offset == log.segments[0].base_offset == 0


def test_a_topic_is_deleted_and_made_again(tmp_path):
    async def story():
        disk = FullEverywhere("", "", errno.ENOSPC)
        config, _ = Config.load(None, {}, [f"log.dirs={tmp_path}/data", "listeners=PLAINTEXT://127.0.0.1:0"])
        broker = await Broker.start(config, disk)
        await broker.metadata.create_topic("t", 1)
        await broker.append(broker.partition("t", 0), build([Record(0, 0, None, b"v")]))
        broker.partition("t", 0).flush()
        broker.logs.checkpoint()
        disk.left = ALWAYS
        await broker.metadata.delete_topic("t")
        assert broker.logs.offline is None and "t" not in broker.metadata.topics
        disk.left = 0
        await broker.metadata.create_topic("t", 1)  # before the next checkpoint
        assert "t 0" not in (tmp_path / "data" / "recovery-point-offset-checkpoint").read_text()
        await broker.stop()

    asyncio.run(story())
