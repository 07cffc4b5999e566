"""A clean stop, and a recovery point, spare a start the reading of what was durable. But who follows producers or leader epochs reads it,
and where a batch's header had decayed there the whole broker did not start: with idempotent producers anywhere in the last 8 MiB of one
partition, and in any segment above 4 KiB. That partition is damaged, and all others are served (C2.5)."""

import uuid

import pytest

from refbroker.config import Config, LogConfig
from refbroker.log.directory import LogDirectory
from refbroker.log.disk import Disk
from refbroker.log.epochs import LEADER_EPOCH_CHECKPOINT
from refbroker.log.records import Record, build

CONFIG = LogConfig(segment_bytes=20_000, index_interval_bytes=1000)
COUNT, ROTTEN = 30, 3
DISK = Disk()


def opened(path, **settings):
    logs = LogDirectory(DISK, f"{path}/data", Config(), lambda: 0, **settings)
    logs.open(lambda metadata: lambda topic: CONFIG)
    return logs


@pytest.fixture(params=["clean stop", "kill"])
def data(tmp_path, request):
    """Two partitions of two segments; a batch of the first segment of one has lost its length."""
    logs = opened(tmp_path)
    for topic in ("rotten", "well"):
        log = logs.create(topic, 0, uuid.UUID(int=1), CONFIG)
        for sequence in range(COUNT):
            producer = {"producer_id": 5, "producer_epoch": 0, "base_sequence": sequence}
            position = log.append(build([Record(0, 0, None, b"v" * 1000)], **producer), 0) and log.active.size
            if sequence == ROTTEN - 1:
                rotten = position
        log.flush()
    assert len(log.segments) == 2
    logs.checkpoint()
    logs.close(clean=request.param == "clean stop")
    path = tmp_path / "data" / "rotten-0" / f"{0:020d}.log"
    content = bytearray(path.read_bytes())
    content[rotten + 8 : rotten + 12] = b"\0\0\0\1"
    path.write_bytes(content)
    return tmp_path


@pytest.mark.parametrize("gone", ["", ".snapshot", LEADER_EPOCH_CHECKPOINT])
def test_one_partition_is_damaged_and_the_others_are_served(data, gone):
    for path in (data / "data" / "rotten-0").iterdir():
        if gone and path.name.endswith(gone):
            path.unlink()
    logs = opened(data)
    rotten, well = logs.partitions["rotten", 0], logs.partitions["well", 0]
    assert "batch length 1" in rotten.offline and ("rotten", 0) in logs.damaged
    assert well.log_end_offset == COUNT and well.append(build([Record(0, 0, None, b"v")]), 0).base_offset == COUNT
    logs.close(clean=False)
    logs = opened(data, accept_loss=True)
    assert logs.partitions["rotten", 0].log_end_offset == ROTTEN and logs.partitions["rotten", 0].offline is None
    assert logs.reports["rotten", 0].lost
