"""Directories with a damaged tail: what Apache Kafka 4.4.0 does, and what we do, by statement of the contract.

One segment of three batches of 102 bytes (offsets 0-2, 3-5, 6-8), damaged, then opened. "killed" has no clean marker, and
a recovery point of 0; "marker" is a clean stop: the marker is there, and the recovery point is 9.

| Damage | Kafka, killed | Kafka, marker | here, killed | here, marker |
|---|---|---|---|---|
| last batch cut after 46 bytes | truncates to 6 | torn bytes stay, the next append goes behind them: acked, unreadable | C2.3: cut at 6 | C2.5: offline |
| last batch cut after 10 bytes | truncates to 6 | same; librdkafka aborts | C2.3: cut at 6 | C2.5: offline |
| a bit flipped in the middle batch | truncates to 3 | served; a consumer finds the wrong CRC | C2.3: cut at 3, loss reported | served: found by consumers (C10, F5) |
| 4096 zero bytes behind the end | truncates to 9 | does not start | C2.7: cut at 9 | C2.7: cut at 9 |

Offline means that nothing of it is served or overwritten, and that the reason names file, byte and offset. Whoever accepts the
loss starts once with `accept_loss`: then it is cut, and reported.
"""

import re
import uuid

import pytest

from refbroker.config import Config, LogConfig
from refbroker.errors import ErrorCode, KafkaError
from refbroker.log.checkpoints import CLEAN_SHUTDOWN, RECOVERY_POINT, format_clean_shutdown, write_offsets
from refbroker.log.directory import LogDirectory
from refbroker.log.disk import Disk
from refbroker.log.records import Record, build

NOW_MS = 1_795_446_000_000
KEY = ("tiny", 0)
DISK = Disk()

DAMAGES = {
    "cut after 46 bytes": lambda log: log[: 204 + 46],
    "cut after 10 bytes": lambda log: log[: 204 + 10],
    "bit flipped in the middle batch": lambda log: log[:180] + bytes([log[180] ^ 1]) + log[181:],
    "length of the middle batch destroyed": lambda log: log[:110] + b"\x7f\xff\xff\xff" + log[114:],
    "base offset of the middle batch changed": lambda log: log[:109] + b"\x07" + log[110:],
    "4096 zero bytes behind the end": lambda log: log + bytes(4096),
    "nothing": lambda log: log,
}

STORIES = {
    ("cut after 46 bytes", "killed"): """
        00000000000000000000.log: cut (46 bytes): byte 204: 46 bytes of a header of 61 [C2.3]
        offsets 0 to 6, reads 0 1 2 3 4 5, next append at 6 under epoch 1
    """,
    ("cut after 46 bytes", "marker"): """
        offline: 00000000000000000000.log is damaged at byte 204, offset 6, below the recovery point: byte 204: 46 bytes of a header of 61
        accepted: 00000000000000000000.log: cut (0 bytes, offsets 6 to 8): durable records are lost, accepted: byte 204: 46 bytes of a header of 61 [C2.5]
        accepted: 00000000000000000000.log: cut (46 bytes): byte 204: 46 bytes of a header of 61 [C2.3]
        offsets 0 to 6, reads 0 1 2 3 4 5, next append at 6 under epoch 1
    """,
    ("cut after 10 bytes", "killed"): """
        00000000000000000000.log: cut (10 bytes): byte 204: 10 bytes, a batch has at least 61 [C2.3]
        offsets 0 to 6, reads 0 1 2 3 4 5, next append at 6 under epoch 1
    """,
    ("cut after 10 bytes", "marker"): """
        offline: 00000000000000000000.log is damaged at byte 204, offset 6, below the recovery point: byte 204: 10 bytes, a batch has at least 61
        accepted: 00000000000000000000.log: cut (0 bytes, offsets 6 to 8): durable records are lost, accepted: byte 204: 10 bytes, a batch has at least 61 [C2.5]
        accepted: 00000000000000000000.log: cut (10 bytes): byte 204: 10 bytes, a batch has at least 61 [C2.3]
        offsets 0 to 6, reads 0 1 2 3 4 5, next append at 6 under epoch 1
    """,
    ("bit flipped in the middle batch", "killed"): """
        00000000000000000000.log: cut (204 bytes, offsets 3 to 8): byte 102: stored CRC <crc>, computed <crc> [C2.3]
        offsets 0 to 3, reads 0 1 2, next append at 3 under epoch 1
    """,
    ("bit flipped in the middle batch", "marker"): """
        offsets 0 to 9, reads 0 1 2, then: at byte 102, next append at 9 under epoch 0
    """,
    ("length of the middle batch destroyed", "killed"): """
        00000000000000000000.log: cut (204 bytes): byte 102: 204 bytes of a batch of 2147483659 [C2.3]
        offsets 0 to 3, reads 0 1 2, next append at 3 under epoch 1
    """,
    ("length of the middle batch destroyed", "marker"): """
        offline: 00000000000000000000.log is damaged at byte 102, offset 3, below the recovery point: byte 102: 204 bytes of a batch of 2147483659
        accepted: 00000000000000000000.log: cut (0 bytes, offsets 3 to 8): durable records are lost, accepted: byte 102: 204 bytes of a batch of 2147483659 [C2.5]
        accepted: 00000000000000000000.log: cut (204 bytes): byte 102: 204 bytes of a batch of 2147483659 [C2.3]
        offsets 0 to 3, reads 0 1 2, next append at 3 under epoch 1
    """,
    ("base offset of the middle batch changed", "killed"): """
        00000000000000000000.log: cut (204 bytes, offsets 3 to 8): byte 102: base offset 7, 3 expected [C2.3]
        offsets 0 to 3, reads 0 1 2, next append at 3 under epoch 1
    """,
    ("base offset of the middle batch changed", "marker"): """
        offline: 00000000000000000000.log is damaged at byte 102, offset 3, below the recovery point: byte 102: base offset 7, 3 expected
        accepted: 00000000000000000000.log: cut (0 bytes, offsets 3 to 8): durable records are lost, accepted: byte 102: base offset 7, 3 expected [C2.5]
        accepted: 00000000000000000000.log: cut (204 bytes, offsets 3 to 8): byte 102: base offset 7, 3 expected [C2.3]
        offsets 0 to 3, reads 0 1 2, next append at 3 under epoch 1
    """,
    ("4096 zero bytes behind the end", "killed"): """
        00000000000000000000.log: cut (4096 bytes): zeros to the end of the file [C2.7]
        offsets 0 to 9, reads 0 1 2 3 4 5 6 7 8, next append at 9 under epoch 1
    """,
    ("4096 zero bytes behind the end", "marker"): """
        00000000000000000000.log: cut (4096 bytes): zeros to the end of the file [C2.7]
        offsets 0 to 9, reads 0 1 2 3 4 5 6 7 8, next append at 9 under epoch 1
    """,
    ("nothing", "killed"): """
        offsets 0 to 9, reads 0 1 2 3 4 5 6 7 8, next append at 9 under epoch 1
    """,
    ("nothing", "marker"): """
        offsets 0 to 9, reads 0 1 2 3 4 5 6 7 8, next append at 9 under epoch 0
    """,
}


def three_batches():
    log = bytearray()
    for base in (0, 3, 6):
        records = [
            Record(base, NOW_MS, b"k1", b"hello"),
            Record(base + 1, NOW_MS + 1, None, b"world!!", [("h", b"x")]),
            Record(base + 2, NOW_MS + 2, b"k3", None),
        ]
        log += build(records, base_offset=base, leader_epoch=0)
    assert len(log) == 3 * 102
    return bytes(log)


def directory_with(path, log, how):
    logs = LogDirectory(DISK, str(path), Config(), lambda: NOW_MS)
    logs.open()
    partition = logs.create(*KEY, uuid.UUID(int=5), LogConfig())
    file = DISK.open(partition.active.path)
    file.append([log])
    logs.close(clean=False)
    if how == "marker":
        (path / CLEAN_SHUTDOWN).write_bytes(format_clean_shutdown(17))
        write_offsets(DISK, str(path / RECOVERY_POINT), {KEY: 9})


def opened(path, accept_loss=False):
    logs = LogDirectory(DISK, str(path), Config(), lambda: NOW_MS, accept_loss=accept_loss)
    logs.open()
    return logs, logs.partitions[KEY]


def read_offsets(partition):
    offsets, end = [], ""
    try:
        for batch in partition.read_batches(0):
            offsets += range(batch.base_offset, batch.next_offset)
    except KafkaError as error:
        assert error.code is ErrorCode.KAFKA_STORAGE_ERROR
        end = f", then: {error.message.partition(': ')[2].partition(':')[0]}"
    return f"reads {' '.join(map(str, offsets))}{end}"


def tell(path):
    lines = []
    logs, partition = opened(path)
    if partition.offline:
        told = partition.offline.replace(f"{partition.directory}/", "").partition(". The files")[0]
        lines.append(f"offline: {told}")
        with pytest.raises(KafkaError) as refused:
            partition.append(build([Record(0, NOW_MS, None, b"x")]), NOW_MS)
        assert refused.value.code is ErrorCode.KAFKA_STORAGE_ERROR
        logs.close(clean=True)
        logs, partition = opened(path, accept_loss=True)
        lines += [f"accepted: {action}" for action in logs.reports[KEY].actions]
    else:
        lines += [str(action) for action in logs.reports[KEY].actions]
    # The append comes first: a partition whose damage a reader has found takes no more.
    done = partition.append(build([Record(0, NOW_MS, None, b"next")]), NOW_MS)
    end = done.base_offset
    reads = read_offsets(partition).removesuffix(f" {end}")
    lines.append(
        f"offsets {partition.log_start_offset} to {end}, {reads}, next append at {end} under epoch {partition.leader_epoch}"
    )
    logs.close(clean=False)
    return lines


@pytest.mark.parametrize(("damage", "how"), STORIES, ids=lambda value: value.replace(" ", "-"))
def test_damaged_directory(tmp_path, damage, how):
    path = tmp_path / "data"
    log = DAMAGES[damage](three_batches())
    directory_with(path, log, how)
    file = path / "tiny-0" / f"{0:020d}.log"
    lines = [re.sub(r"CRC \d+, computed \d+", "CRC <crc>, computed <crc>", line) for line in tell(path)]
    assert lines == [line.strip() for line in STORIES[damage, how].strip().splitlines()]
    # C2.10: opened once more it is the same, and what was acked is there.
    if "then:" not in lines[-1]:
        before = file.read_bytes()
        logs, partition = opened(path)
        assert not logs.reports[KEY].lost and file.read_bytes() == before
        assert read_offsets(partition).endswith(f" {partition.log_end_offset - 1}")
        logs.close(clean=False)


def test_refused_damage_changes_no_file(tmp_path):
    path = tmp_path / "data"
    log = DAMAGES["cut after 46 bytes"](three_batches())
    directory_with(path, log, "marker")
    before = {file.name: file.read_bytes() for file in (path / "tiny-0").iterdir()}
    for _ in range(2):
        logs, partition = opened(path)
        assert partition.offline and KEY in logs.damaged
        assert (logs.damaged[KEY].position, logs.damaged[KEY].offset) == (204, 6)
        logs.checkpoint()
        assert logs.close(clean=True) is False  # no marker while something is offline (C3.3)
        assert {file.name: file.read_bytes() for file in (path / "tiny-0").iterdir()} == before
        assert not (path / CLEAN_SHUTDOWN).exists()
        assert "tiny 0 9" in (path / RECOVERY_POINT).read_text()
