"""Which batches lie in a stretch of a log file?

Walks over a file, all from a position that is the start of a batch:

1. `headers`: only the 61 bytes of each batch are looked at, so that a lookup costs as many reads as there are gaps of
   more than a chunk. It trusts the bytes: it is for files that were checked or written by this process. A transaction
   marker is whole, as those who follow producers open it.
2. `checked`: every byte is read, and every batch passes length, magic, size and CRC (C2.6). Recovery walks this way.

`batches` is `checked` for those who read the records too. All end at `end`. Where the bytes there are no whole batch
they raise `CorruptBatch` (`IncompleteBatch` for a batch that the file's end cuts off) whose `position` is the one in
the file. Memory is bounded by a chunk, also where a batch claims to be larger: its CRC is computed piece by piece.
"""

from collections.abc import Iterator

from crc32c import crc32c

from refbroker.log.batch import CRC_START, HEADER_SIZE, Batch, CorruptBatch, IncompleteBatch, check, parse
from refbroker.log.disk import File

LOOKUP_CHUNK_BYTES = 4096 + 1024  # an index interval's worth and one small batch: most lookups are one read
WALK_CHUNK_BYTES = 64 * 1024  # for walks over whole segments by their headers
CHECK_CHUNK_BYTES = 1 << 20  # recovery reads in pieces of this size


def header_at(file: File, position: int, end: int) -> Batch:
    """The header of the batch at `position`, whose view is only the header. Raises CorruptBatch."""
    return _moved(file.pread(min(HEADER_SIZE, end - position), position), 0, position, end, header_only=True)


def headers(file: File, position: int, end: int, chunk_bytes: int = LOOKUP_CHUNK_BYTES) -> Iterator[tuple[int, Batch]]:
    """(position, header) of each batch between two positions. The views may be shorter than the batches, but for markers."""
    start, chunk = position, b""
    while position < end:
        if position + HEADER_SIZE > start + len(chunk):
            start, chunk = position, memoryview(file.pread(min(chunk_bytes, end - position), position))
        batch = _moved(chunk, position - start, position, end, header_only=True)
        if batch.is_control and len(batch.view) < batch.size:
            batch.view = memoryview(file.pread(min(batch.size, WALK_CHUNK_BYTES), position))
        yield position, batch
        position += batch.size


def checked(file: File, position: int, end: int, chunk_bytes: int = CHECK_CHUNK_BYTES) -> Iterator[tuple[int, Batch]]:
    """(position, batch) of each batch between two positions, each one whole and valid."""
    start, chunk = position, b""
    while position < end:
        try:
            batch = _moved(chunk, position - start, position, end)
        except IncompleteBatch:
            start, chunk = position, memoryview(file.pread(min(chunk_bytes, end - position), position))
            batch = _moved(chunk, 0, position, end, header_only=True)
        if len(batch.view) == batch.size:
            check(batch, position)
        else:
            _check_large(file, batch, position, chunk_bytes)
        yield position, batch
        position += batch.size


def batches(file: File, position: int, end: int, chunk_bytes: int = CHECK_CHUNK_BYTES) -> Iterator[tuple[int, Batch]]:
    """As `checked`, and every view is the whole batch, however large: for those who open it."""
    for at, batch in checked(file, position, end, chunk_bytes):
        if len(batch.view) < batch.size:
            batch = parse(file.pread(batch.size, at))
        yield at, batch


def _moved(chunk, at: int, position: int, end: int, header_only: bool = False) -> Batch:
    """Parse at `at` of the chunk; what is wrong is told by its position in the file."""
    try:
        batch = parse(chunk, at, header_only=header_only)
    except IncompleteBatch as error:
        raise IncompleteBatch(position, error.needed, error.reason) from None
    except CorruptBatch as error:
        raise CorruptBatch(position, error.reason) from None
    if batch.size > end - position:
        raise IncompleteBatch(position, batch.size, f"{end - position} bytes of a batch of {batch.size}")
    return batch


def _check_large(file: File, batch: Batch, position: int, chunk_bytes: int) -> None:
    """Validate a batch that is longer than a chunk without holding it in memory."""
    crc, at, end = 0, position + CRC_START, position + batch.size
    while at < end:
        data = file.pread(min(chunk_bytes, end - at), at)
        if not data:
            raise IncompleteBatch(position, batch.size, f"the file ends at {at}")
        crc = crc32c(data, crc)
        at += len(data)
    if crc != batch.crc:
        raise CorruptBatch(position, f"stored CRC {batch.crc}, computed {crc}")
    if batch.base_offset < 0 or batch.last_offset_delta < 0 or batch.record_count < 0:
        raise CorruptBatch(position, "negative base offset, last offset delta or record count")
