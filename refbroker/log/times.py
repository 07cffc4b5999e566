"""Which record of a partition has this time?

Only records between the log start offset and the high watermark are answered with, and always the earliest that fits
(C5.4). Segments are skipped by their largest timestamp, batches by the time index and then by their headers; only the one
batch that must hold the answer is opened.

Apache Kafka differs: it answers an error where a batch cannot be opened; here its first offset, which is not too late.
"""

from refbroker.log.batch import Batch
from refbroker.log.records import CodecMissing, InvalidRecords, iterate
from refbroker.log.scan import batches
from refbroker.log.segment import Segment

LOOKUP_BYTES_MAX = 64 << 20  # records are decompressed up to this size to find one among them


def offset_for_time(partition, timestamp: int) -> tuple[int, int, int] | None:
    """(timestamp, offset, leader epoch) of the earliest record that is not older."""
    for segment in partition.segments:
        for position, batch in segment.headers_since(timestamp):
            if batch.base_offset >= partition.high_watermark:
                return None
            if batch.max_timestamp >= timestamp and batch.last_offset >= partition.log_start_offset:
                found = _first_record(segment, position, batch, timestamp, partition.log_start_offset)
                if found is not None:
                    return *found, batch.leader_epoch
    return None


def offset_of_max_timestamp(partition) -> tuple[int, int, int] | None:
    """(timestamp, offset, leader epoch) of the first record with the largest timestamp; None in an empty log."""
    largest, best = -1, None
    for segment in partition.segments:
        if segment.max_timestamp <= largest:
            continue
        for position, batch in segment.headers_from(max(segment.base_offset, partition.log_start_offset)):
            if batch.base_offset < partition.high_watermark and batch.max_timestamp > largest:
                found = _first_record(segment, position, batch, batch.max_timestamp, partition.log_start_offset)
                if found is not None:
                    largest, best = batch.max_timestamp, (*found, batch.leader_epoch)
    return best


def _first_record(
    segment: Segment, position: int, header: Batch, timestamp: int, start_offset: int
) -> tuple[int, int] | None:
    """(timestamp, offset) of the batch's first record at or above `start_offset` that is not older."""
    start_offset = max(header.base_offset, start_offset)
    if header.is_log_append_time:
        return header.max_timestamp, start_offset
    _, batch = next(batches(segment.file, position, position + header.size))
    try:
        for record in iterate(batch, bytes_max=LOOKUP_BYTES_MAX):
            if record.timestamp >= timestamp and record.offset >= start_offset:
                return record.timestamp, record.offset
    except (InvalidRecords, CodecMissing):  # a producer's nonsense, or a codec that is not installed
        return header.max_timestamp, start_offset
    return None
