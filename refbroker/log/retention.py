"""Which of the oldest segments may go?

A decision, and nothing else: `deletable` counts segments from the oldest on that may all be deleted. One may be, if

1. everything in it lies below the high watermark (C4.7): what no consumer could see yet stays;
2. and it lies below the log start offset (DeleteRecords), or its youngest record is older than retention.ms, or the log
   is larger than retention.bytes even without it;
3. and all before it may be deleted: a log never gets a hole (C3.5).

The active segment may go like any other if it has records; the caller rolls it first. Rule 2 by age and size only
holds where cleanup.policy includes delete. A segment without timestamps is as old as this process knows it.

Apache Kafka differs: it takes the file's modification time where records have no timestamps.
"""

from refbroker.config import LogConfig
from refbroker.log.segment import Segment


def deletable(
    segments: list[Segment], config: LogConfig, now_ms: int, high_watermark: int, log_start_offset: int
) -> int:
    """How many of the oldest segments may be deleted."""
    excess_bytes = 0
    by_policy = "delete" in config.cleanup_policy
    if by_policy and config.retention_bytes >= 0:
        excess_bytes = sum(segment.size for segment in segments) - config.retention_bytes
    count = 0
    for segment in segments:
        if segment.next_offset > high_watermark or (segment is segments[-1] and not segment.size):
            break
        below_start = segment.next_offset <= log_start_offset
        if not (below_start or (by_policy and _is_old(segment, config, now_ms)) or excess_bytes >= segment.size):
            break
        excess_bytes -= segment.size
        count += 1
    return count


def _is_old(segment: Segment, config: LogConfig, now_ms: int) -> bool:
    if config.retention_ms < 0:
        return False
    youngest_ms = segment.max_timestamp
    return now_ms - (youngest_ms if youngest_ms >= 0 else segment.created_ms) > config.retention_ms
