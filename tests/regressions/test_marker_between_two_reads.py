"""A start follows producers by the headers of their batches, in reads of 64 KiB. A transaction marker that one of these reads cut could
not be opened: the transaction stayed open, and the producer's plain batches were refused for ever (C6.1). In a log that Kafka wrote."""

import struct
import uuid

import pytest

from refbroker.config import Config, LogConfig
from refbroker.log.directory import LogDirectory
from refbroker.log.disk import Disk
from refbroker.log.records import CONTROL_COMMIT, Record, build
from refbroker.log.scan import WALK_CHUNK_BYTES

KEY, CONFIG = ("t", 0), LogConfig()


def opened(path):
    logs = LogDirectory(Disk(), f"{path}/data", Config(), lambda: 0)
    logs.open(lambda metadata: lambda topic: CONFIG)
    return logs


def data(value, **fields):
    return build([Record(fields["base_offset"], 0, None, value)], leader_epoch=0, **fields)


@pytest.mark.parametrize("left", [60, 61, 70, 77, 78, 79])  # bytes of the first read for the marker of 78; a header has 61
def test_the_transaction_ends(tmp_path, left):
    logs = opened(tmp_path)
    logs.create(*KEY, uuid.UUID(int=1), CONFIG)
    logs.checkpoint()
    logs.close(clean=False)
    producer = {"producer_id": 7, "producer_epoch": 0, "transactional": True}
    begun = data(b"v", base_offset=0, base_sequence=0, **producer)
    room = WALK_CHUNK_BYTES - left - len(begun)
    filler = data(b"x" * (room - len(data(b"x" * 60_000, base_offset=1)) + 60_000), base_offset=1)
    key, value = struct.pack(">hh", 0, CONTROL_COMMIT), struct.pack(">hi", 0, 3)
    marker = build([Record(2, 0, key, value)], base_offset=2, leader_epoch=0, control=True, **producer)
    assert (len(begun + filler), len(marker)) == (WALK_CHUNK_BYTES - left, 78)
    (tmp_path / "data" / "t-0" / f"{0:020d}.log").write_bytes(begun + filler + marker)
    log = opened(tmp_path).partitions[KEY]
    assert [(one.producer_id, one.txn_start_offset, one.coordinator_epoch) for one in log.producers.active] == [(7, None, 3)]
