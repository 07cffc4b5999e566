"""What else can lie in a partition's directory, left by a crash, and what becomes of it?

    *.deleted        a file that was given up and not yet unlinked, or whose unlink a power cut undid: unlinked (C9.5)
    *.cleaned        a compaction that had not finished: unlinked; what it read is still there (C9.1)
    *.log.swap       a compaction that had finished: it replaces the segments whose offsets it covers (C9.1). But where
                     a `.cleaned` of the same or a lower offset is left, its turn had not come: unlinked
    *.index.swap ... derived: unlinked, and rebuilt when needed
    *.tmp            a small file that was to replace another: unlinked, the other one is whole (C3.4)
    an index without its `.log`: unlinked (C2.11)

Everything else is left alone. Each step can be repeated: a crash in between changes nothing about the outcome.

Apache Kafka differs: it relies on renames reaching the disk in the order of the calls.
"""

import re

from refbroker.log.batch import CorruptBatch
from refbroker.log.disk import Disk
from refbroker.log.report import RecoveryReport
from refbroker.log.scan import headers
from refbroker.log.segment import LOG, SUFFIXES, file_name

_SEGMENT_FILE = re.compile(r"([0-9]{20})\.(log|index|timeindex|txnindex)")
_SWAP = re.compile(r"([0-9]{20})\.log\.swap")
_CLEANED = re.compile(r"([0-9]{20})\.log\.cleaned")
_DROPPED = (
    (".deleted", "given up before the stop", "C9.5"),
    (".cleaned", "a compaction that had not finished", "C9.1"),
    (".swap", "a compaction's index, which is derived", "C9.1"),
    (".tmp", "a replacement that had not happened", "C3.4"),
)


def segment_offsets(names: list[str]) -> list[int]:
    """Base offsets of the segments, in order."""
    return sorted(int(match[1]) for match in map(_SEGMENT_FILE.fullmatch, names) if match and match[2] == "log")


def finish_swaps(disk: Disk, directory: str, report: RecoveryReport) -> None:
    """Bring compactions that had finished to their end: the segments they replace go, durably, then they get their
    names."""
    names = disk.list(directory)
    unfinished = [int(match[1]) for match in map(_CLEANED.fullmatch, names) if match]
    for match in filter(None, map(_SWAP.fullmatch, names)):
        base_offset, path = int(match[1]), f"{directory}/{match[0]}"
        if unfinished and base_offset >= min(unfinished):
            disk.unlink(path)
            report.add(match[0], "dropped", 0, None, "a compaction whose turn had not come", "C9.1")
            continue
        file = disk.open(path, readonly=True)
        end_offset = base_offset
        try:
            for _, batch in headers(file, 0, file.size):
                end_offset = batch.next_offset
        except CorruptBatch as error:
            report.add(match[0], "dropped", file.size, None, f"a compaction that is damaged: {error}", "C9.2")
            disk.unlink(path)
            continue
        for old in segment_offsets(names):
            if base_offset <= old < end_offset:
                _unlink_segment(disk, directory, old)
        disk.sync_dir(directory)
        disk.rename(path, f"{directory}/{file_name(base_offset)}")
        disk.sync_dir(directory)
        report.add(match[0], "completed", file.size, None, "a compaction that had finished", "C9.1")


def drop(disk: Disk, directory: str, names: list[str], report: RecoveryReport) -> bool:
    """Unlink what is in nobody's use. Whether anything was: the caller syncs the directory."""
    segments = {name for name in names if name.endswith(LOG)}
    dropped = False
    for name in names:
        match = _SEGMENT_FILE.fullmatch(name)
        if match:
            if match[2] == "log" or f"{match[1]}{LOG}" in segments:
                continue
            reason, statement = "an index without its segment", "C2.11"
        else:
            found = next((entry for entry in _DROPPED if name.endswith(entry[0])), None)
            if found is None:
                continue
            _, reason, statement = found
        disk.unlink(f"{directory}/{name}")
        report.add(name, "dropped", 0, None, reason, statement)
        dropped = True
    return dropped


def _unlink_segment(disk: Disk, directory: str, base_offset: int) -> None:
    for suffix in SUFFIXES:
        path = f"{directory}/{file_name(base_offset, suffix)}"
        if disk.exists(path):
            disk.unlink(path)
