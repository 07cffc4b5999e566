"""Are the answers of a recovered log those of its records, whatever its indexes say?

Verified, on the live log against a plain walk over its bytes: a read from each offset begins with the batch that holds it and ends at
the high watermark (C4.2); the earliest offset for each timestamp, the ones between included (C5.4); the answers do not depend on the index
files that were found (C5.5, C5.8), whose entries after recovery point where they say (C5.1, C5.2, C5.3, C5.7, by chaos/checks/indexes.py); a
closed segment's time index ends with its largest timestamp.
Not verified: how fast.
"""

from functools import lru_cache

from kafka.record.default_records import DefaultRecordBatch

from chaos.checks.crash import ROOT, Image, Problem, RecoveredPartition
from chaos.checks.indexes import check_offset_index, check_time_index
from chaos.logfile import StoredSegment

EVERYTHING = 1 << 30
TIME_ENTRY_BYTES = 12


def check(partition, log: RecoveredPartition, after: Image) -> list[Problem]:
    """`partition` is the broker's own, to be asked."""
    return check_index_files(log, after) + answers(partition, log)


def answers(partition, log: RecoveredPartition) -> list[Problem]:
    """What reads and lookups by time give."""
    found: list[Problem] = []
    try:
        found += _check_reads(partition, log)
        found += _check_times(partition, log)
    except Exception as error:  # whatever a lookup raises is an answer, and a wrong one
        found.append(Problem("C5.5", log.key, log.log_start_offset, f"a lookup failed: {type(error).__name__}: {error}"))
    return found


def _check_reads(partition, log: RecoveredPartition) -> list[Problem]:
    found = []
    for batch in log.run.batches:
        if batch.last_offset < log.log_start_offset or batch.base_offset >= log.high_watermark:
            continue
        for offset in {max(batch.base_offset, log.log_start_offset), min(batch.last_offset, log.high_watermark - 1)}:
            region = partition.read(offset, EVERYTHING).regions
            got = region.file.pread(region.size, region.position) if region is not None else b""
            if got.startswith(batch.data):
                continue
            found.append(Problem("C5.5", log.key, batch.base_offset, f"a read from {batch.base_offset} got {got[:20].hex()}..."))
    end = partition.read(log.log_end_offset, EVERYTHING)
    if end.regions is not None:
        found.append(Problem("C4.2", log.key, log.log_end_offset, "a read at the log end got bytes"))
    return found


def _check_times(partition, log: RecoveredPartition) -> list[Problem]:
    records = [(timestamp, offset) for batch in log.run.batches for offset, timestamp in times_of(batch.data)
               if log.log_start_offset <= offset < log.high_watermark]
    found = []
    for target in _targets(records):
        expected = next((offset for timestamp, offset in records if timestamp >= target), None)
        answer = partition.offset_for_time(target)
        if (answer[1] if answer else None) != expected:
            text = f"first offset at or after {target} ms is {expected}, answered {answer}"
            found.append(Problem("C5.4", log.key, expected if expected is not None else -1, text))
    return found


def _targets(records: list[tuple[int, int]]) -> list[int]:
    """The smallest, the largest, one in the middle, and one millisecond beyond each."""
    times = sorted({timestamp for timestamp, _ in records})
    chosen = {times[0], times[len(times) // 2], times[-1]} if times else set()
    return sorted(chosen | {time + 1 for time in chosen})


@lru_cache(maxsize=20_000)
def times_of(batch: bytes) -> list[tuple[int, int]]:
    """(offset, timestamp) of each record, as kafka-python reads it."""
    return [(record.offset, record.timestamp) for record in DefaultRecordBatch(batch)]


def check_index_files(log: RecoveredPartition, after: Image) -> list[Problem]:
    found = []
    for segment in log.run.segments:
        base = f"{ROOT}/{log.key[0]}-{log.key[1]}/{segment.base_offset:020d}"
        found += [Problem(statement, log.key, segment.base_offset, f"{base}{suffix}: {text}")
                  for suffix, checker in ((".index", check_offset_index), (".timeindex", check_time_index))
                  for statement, text in _index(checker, after.get(base + suffix), segment)]
        youngest = max((batch.max_timestamp for batch in segment.batches), default=-1)
        if segment is not log.run.segments[-1] and youngest >= 0 and last_time(after.get(base + ".timeindex")) != youngest:
            found.append(Problem("C5.3", log.key, segment.base_offset, f"{base}.timeindex of a closed segment does not end with {youngest} ms"))
    return found


def last_time(data: bytes | None) -> int | None:
    """The timestamp of the last entry of a time index."""
    return int.from_bytes(data[-TIME_ENTRY_BYTES:-4], "big", signed=True) if data and len(data) % TIME_ENTRY_BYTES == 0 else None


def _index(checker, data: bytes | None, segment: StoredSegment) -> list[tuple[str, str]]:
    return checker(data, segment) if data else []
