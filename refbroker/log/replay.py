"""What does the log itself say about its producers?

Producer state is a function of the log (C6.1). A snapshot gives it at some offset, with the last batch of each
producer; `replay` follows the log from there on. `remember` looks at the log just before the snapshot, for up to five
batches of each producer: a client may retry any of them, also after a restart (C6.4).

Apache Kafka differs: after a restart it knows only the last batch before the snapshot.
"""

from refbroker.log.producers import ProducerStates
from refbroker.log.segment import Segment

REMEMBER_BYTES_MAX = 8 << 20  # so far back: five batches of each producer in flight are rarely spread wider


def replay(segments: list[Segment], producers: ProducerStates, offset: int) -> None:
    """Follow the log from `offset` to its end."""
    for segment in segments:
        if segment.next_offset > offset:
            for _, batch in segment.headers_from(max(offset, segment.base_offset)):
                if batch.base_offset >= offset:
                    producers.replay(batch)
    producers.end_offset = segments[-1].next_offset


def remember(segments: list[Segment], producers: ProducerStates, offset: int) -> None:
    """Complete the producers of a snapshot at `offset` by their batches before the last one."""
    if not producers.active:
        return
    earlier = ProducerStates(producers.expiration_ms)
    left = REMEMBER_BYTES_MAX
    behind = []  # the stretches of log before the offset, the last first
    for segment in reversed(segments):
        if segment.base_offset < offset and left > 0:
            behind.append(segment.headers_of_last(left, offset))
            left -= segment.size
    for stretch in reversed(behind):
        for _, batch in stretch:
            if batch.next_offset <= offset:
                earlier.replay(batch)
    for producer in producers.active:
        known = earlier.get(producer.producer_id)
        if known and known.epoch == producer.epoch and known.last_offset == producer.last_offset:
            producer.batches = known.batches
