"""What state does the metadata log on this disk describe?

The newest snapshot that the log goes on from, if there is one, then every record of the log behind it. Snapshots are
Kafka's: `<end offset, 20 digits>-<epoch, 10 digits>.checkpoint`, record batches as in a log, the whole state before
that offset. We write none, but a data directory that Apache Kafka wrote has them, and its log may begin only there.

Control batches (who leads the quorum, where a snapshot begins and ends) say nothing to us.
"""

import re

from refbroker.log.batch import Batch, CorruptBatch, check, parse_all
from refbroker.log.disk import Disk, read_file
from refbroker.log.partition import Partition
from refbroker.log.records import CodecMissing, InvalidRecords, iterate
from refbroker.metadata_records import Entry, Image, MetadataError, decode

SNAPSHOT_NAME = re.compile(r"(\d{20})-(\d{10})\.checkpoint")
SNAPSHOT_BYTES_MAX = 256 << 20  # of a cluster with millions of partitions; more is no snapshot
BATCH_BYTES_MAX = 64 << 20  # a compressed metadata batch, opened


def replay(disk: Disk, partition: Partition) -> Image:
    """Raises MetadataError; KafkaError where the log cannot be read."""
    image = Image()
    start = partition.log_start_offset
    names = filter(None, map(SNAPSHOT_NAME.fullmatch, disk.list(partition.directory)))
    snapshots = [(int(name[1]), name[0]) for name in names if start <= int(name[1]) <= partition.log_end_offset]
    if snapshots:
        start, newest = max(snapshots)
        _replay_snapshot(disk, f"{partition.directory}/{newest}", image)
    elif start > 0:
        raise MetadataError(f"it begins at offset {start}, and there is no snapshot of what was before")
    for batch in partition.read_batches(start, partition.log_end_offset):
        image.replay(_entries(batch))
    return image


def _replay_snapshot(disk: Disk, path: str, image: Image) -> None:
    try:
        for batch in parse_all(read_file(disk, path, bytes_max=SNAPSHOT_BYTES_MAX)):
            check(batch)
            image.replay(_entries(batch))
    except (CorruptBatch, OSError, ValueError) as error:
        raise MetadataError(f"snapshot {path}: {error}") from error


def _entries(batch: Batch) -> list[Entry]:
    """The records of one batch that say something to us."""
    if batch.is_control:
        return []
    try:
        decoded = [decode(record.value) for record in iterate(batch, bytes_max=BATCH_BYTES_MAX)]
    except (InvalidRecords, CodecMissing) as error:
        raise MetadataError(f"batch at offset {batch.base_offset}: {error}") from error
    return [entry for entry in decoded if entry]
