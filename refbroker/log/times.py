"""Which record of a partition has this time?

Only records between the log start offset and the high watermark are answered with, and always the earliest that fits
(C5.4). Segments are skipped by their largest timestamp, batches by the time index and then by their headers; only the
one batch that must hold the answer is opened.

Apache Kafka differs: it answers an error where a batch cannot be opened; here its first offset, which is not too late.
"""

from collections.abc import Iterator

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
    largest, best, start = -1, None, partition.log_start_offset
    for segment in partition.segments:
        if segment.max_timestamp <= largest:
            continue
        for position, batch in segment.headers_from(max(segment.base_offset, start)):
            if batch.base_offset >= partition.high_watermark:
                break
            if batch.max_timestamp > largest:
                # Of a batch that DeleteRecords took the beginning from, the largest may have gone.
                timestamps = (record[0] for record in _records(segment, position, batch, start))
                timestamp = batch.max_timestamp if batch.base_offset >= start else max(timestamps, default=-1)
                found = _first_record(segment, position, batch, timestamp, start) if timestamp > largest else None
                if found is not None:
                    largest, best = timestamp, (*found, batch.leader_epoch)
    return best


def _first_record(
    segment: Segment, position: int, header: Batch, timestamp: int, start_offset: int
) -> tuple[int, int] | None:
    """(timestamp, offset) of the batch's first record at or above `start_offset` that is not older."""
    records = _records(segment, position, header, start_offset)
    return next((record for record in records if record[0] >= timestamp), None)


def _records(segment: Segment, position: int, header: Batch, start_offset: int) -> Iterator[tuple[int, int]]:
    """(timestamp, offset) of the batch's records at or above `start_offset`. Of a batch that cannot be opened only one,
    at its first offset and with its largest timestamp."""
    start_offset = max(header.base_offset, start_offset)
    if header.is_log_append_time:
        yield header.max_timestamp, start_offset
        return
    _, batch = next(batches(segment.file, position, position + header.size))
    try:
        found = [(record.timestamp, record.offset) for record in iterate(batch, bytes_max=LOOKUP_BYTES_MAX)]
    except (InvalidRecords, CodecMissing):  # a producer's nonsense, or a codec that is not installed
        found = [(header.max_timestamp, start_offset)]
    yield from (record for record in found if record[1] >= start_offset)
