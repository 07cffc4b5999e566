"""Do clients that go on after a crash get what they must?

Verified, by requests as bytes to the broker that has started again: a consumer whose position lies beyond the log end is told so
(OFFSET_OUT_OF_RANGE; with its epoch, where the logs part), also when new records have taken those offsets meanwhile (C8.4, C4.3,
C2.8), and one whose position is still good is served; a retry of a producer's last batches gets its old offset where the batch survived and
is appended once where not, so that in the end there is one copy (C6.4); a sequence with a gap is refused, beyond 2^31 - 1 too (C6.5); the epoch
before is refused if a batch of the newer one survived (C6.6).
Not verified: what a client library makes of these answers.
"""

from collections import Counter
from collections.abc import Iterator

from chaos.checks.history.case import Finding
from chaos.disk import bytes as make

NONE, OFFSET_OUT_OF_RANGE, OUT_OF_ORDER_SEQUENCE, INVALID_PRODUCER_EPOCH = 0, 1, 45, 47
BATCHES_KEPT = 5
SEQUENCE_MODULUS = 2**31
STATEMENTS = ("C8.4", "C6.4", "C6.5", "C6.6")


def check(told, asker) -> tuple[list[Finding], set[str]]:
    """What is wrong, and the statements that something was asked about. `told` is a `chaos.whole.judge.Told`, `asker` a
    `chaos.whole.asking.Asker`. It writes."""
    found: list[Finding] = []
    asked: set[str] = set()
    for producer in told.producers.values():
        for where in {(sent.label, sent.partition) for sent in producer.sent}:
            if where in told.log:
                found += _producer(told, asker, producer, where, asked)
    for where, position, epoch in told.positions():
        if where in told.log:
            asked.add("C8.4")
            found += _position(told, asker, where, position, epoch)
    return found, asked


def _producer(told, asker, producer, where, asked: set[str]) -> Iterator[Finding]:
    """Its retries, a gap, the epoch before."""
    batches = [sent for sent in producer.sent if (sent.label, sent.partition) == where and sent.began <= told.at]
    if not batches:
        return
    epoch, place = batches[-1].epoch, told.place(where)
    batches = [sent for sent in batches if sent.epoch == epoch]
    held = {record.identity: record.offset for record in told.log[where]}
    start = told.log_start(where)
    offsets = [held.get((producer.name, sent.numbers[0])) for sent in batches]
    if any(offset is None and sent.acked is not None and sent.base_offset < start for offset, sent in zip(offsets, batches, strict=True)):
        return  # its records were deleted, and with them perhaps what was known of it
    lost = next((index for index, offset in enumerate(offsets) if offset is None), len(batches))
    asked.add("C6.4")
    for sent, offset in list(zip(batches, offsets, strict=True))[min(lost, max(0, len(batches) - BATCHES_KEPT)):]:
        end = asker.offset(place, -1)
        answer = asker.produce(place, sent.data)
        if answer != (NONE, end if offset is None else offset):
            yield Finding("C6.4", "retry", *where, offset if offset is not None else end, f"a retry of sequence {sent.sequence} of {producer.name}, "
                          f"which {'survived' if offset is not None else 'was lost'}, got error and offset {answer}; the log ended at {end}")
            return
    times = Counter((batch.producer_id, batch.producer_epoch, batch.base_sequence) for batch in asker.read(place) if batch.producer_id >= 0)
    twice = [key for key, count in times.items() if count > 1]
    if twice:
        yield Finding("C6.4", "duplicated", *where, -1, f"producer, epoch and sequence {twice} are there more than once")
    last = batches[-1]
    following = (last.sequence + len(last.numbers)) % SEQUENCE_MODULUS
    asked.add("C6.5")
    yield from _refused(asker, where, place, (producer.producer_id, epoch, (following + 1) % SEQUENCE_MODULUS), OUT_OF_ORDER_SEQUENCE, "C6.5")
    if epoch > 0:
        asked.add("C6.6")
        yield from _refused(asker, where, place, (producer.producer_id, epoch - 1, 0), INVALID_PRODUCER_EPOCH, "C6.6")
    answer = asker.produce(place, make.batch([b"goes on"], asker.node.now_ms(), producer=(producer.producer_id, epoch, following)))
    if answer[0] != NONE:
        yield Finding("C6.5", "refused", *where, -1, f"the sequence {following} that follows was refused with error {answer[0]}")


def _refused(asker, where, place, producer: tuple[int, int, int], code: int, statement: str) -> Iterator[Finding]:
    answer = asker.produce(place, make.batch([b"not to be taken"], asker.node.now_ms(), producer=producer))
    if answer[0] != code:
        yield Finding(statement, "taken", *where, -1, f"producer, epoch and sequence {producer} got error and offset {answer}, {code} expected")


def _position(told, asker, where, position: int, epoch: int) -> Iterator[Finding]:
    """A consumer that has read up to `position`, the last record under `epoch`."""
    place, start = told.place(where), told.log_start(where)
    end = asker.answers.ends[place]
    if position < start:
        return
    if position <= end:
        row = asker.fetch(place, position, epoch)
        if row["error_code"] != NONE or row["diverging_epoch"]["end_offset"] >= 0:
            yield Finding("C4.3", "sent away", *where, position, f"a position below the log end {end}, epoch {epoch}, is answered with error "
                                                                f"{row['error_code']}, {dict(row['diverging_epoch'])}")
        return
    now = asker.offset(place, -1)
    if now < position:
        row = asker.fetch(place, position)
        if row["error_code"] != OFFSET_OUT_OF_RANGE:
            yield Finding("C8.4", "not told", *where, position, f"the log ends at {now}; a fetch at {position} got error {row['error_code']}")
        yield from _parted(asker, where, place, position, epoch, end)
        asker.fill(place, position - now + 1)  # others take these offsets, and the one that it waits for
    yield from _parted(asker, where, place, position, epoch, end)


def _parted(asker, where, place, position: int, epoch: int, end: int) -> Iterator[Finding]:
    row = asker.fetch(place, position, epoch)
    parted = row["diverging_epoch"]["end_offset"]
    if row["error_code"] != OFFSET_OUT_OF_RANGE and not 0 <= parted <= end:
        yield Finding("C8.4", "not told", *where, position, f"offsets from {end} were lost, a fetch at {position} with epoch {epoch} got error "
                      f"{row['error_code']}, parting at {parted}, {len(row['records'] or b'')} bytes")
    answer = asker.epoch_end(place, epoch)
    if answer[1] > end:
        yield Finding("C2.8", "not told", *where, position, f"epoch {epoch} is said to end at {answer}, the log was cut at {end}")
