"""What does a consumer see while an append waits to become durable?

Verified, between an append under flush.messages=1 and the flush that its reply waits for: the high watermark is not above the append's
first offset, a reader from the log start gets everything below the high watermark and nothing at or above it (C4.2, C4.3).
Not verified: what a reader holds on to from an earlier fetch.
"""

from chaos.checks.crash import Problem, parsed
from refbroker.errors import KafkaError

EVERYTHING = 1 << 30


def check(log, base_offset: int) -> list[Problem]:
    """`log` is the broker's own partition, to be asked."""
    key = log.topic, log.number
    if log.high_watermark > base_offset:
        return [Problem("C4.2", key, base_offset, f"the high watermark is {log.high_watermark} before {base_offset} is durable")]
    offset = log.log_start_offset
    while offset < log.high_watermark:
        try:
            region = log.read(offset, EVERYTHING).regions
            batches = parsed(region.file.pread(region.size, region.position), 0).batches if region is not None else []
        except (OSError, KafkaError):  # the disk refused, and so did the broker
            return []
        if not batches:
            return [Problem("C4.2", key, offset, f"nothing to read at {offset}, below the high watermark {log.high_watermark}")]
        offset = batches[-1].last_offset + 1
    if offset > max(log.high_watermark, log.log_start_offset):
        return [Problem("C4.2", key, log.high_watermark, f"a reader gets offsets below {offset}, the high watermark is {log.high_watermark}")]
    return []
