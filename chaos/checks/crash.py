"""What does a checker of a crash state get? The files before recovery, the log after it, and what was owed.

`Recovered` is what one recovery made of one crashed image: everything that a client could ask, and the files afterwards. It
depends on the image alone, so it is made once for each distinct image. `longest_run` is the independent reading of a
partition's files: framing by `chaos/logfile.py`, nothing of the broker's code.

A checker is a function that returns `Problem`s; those of `Recovered` alone take it as their only argument.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from chaos.logfile import StoredBatch, StoredSegment, parse_log

Image = dict[str, bytes | None]
Key = tuple[str, int]
ROOT = "/data"

_LOG = re.compile(r"[0-9]{20}\.log")
_PARTITION = re.compile(r"([a-zA-Z0-9._-]+)-([0-9]{1,10})")


class Problem(NamedTuple):
    """One deviation from a statement. `offset` is the first that differs, -1 where offsets have no part in it."""

    statement: str
    key: Key
    offset: int
    text: str
    allowed: bool = False


@dataclass
class RecoveredPartition:
    """One partition as the broker has it after recovery, and its batches as they lie in the files."""

    key: Key
    topic_id: object
    offline: str | None
    log_start_offset: int
    last_stable_offset: int
    high_watermark: int
    log_end_offset: int
    recovery_point: int
    leader_epoch: int
    epochs: list[tuple[int, int]]
    producers: dict[int, tuple[int, list[tuple[int, int, int]]]]  # id -> epoch, [(first sequence, last sequence, base offset)]
    run: "Run"
    report: object | None = None


class Run(NamedTuple):
    """The batches that can be read one after the other, and why it ends where it does (None: that is all there is)."""

    batches: list[StoredBatch]
    end_offset: int
    reason: str | None
    segments: list[StoredSegment]


@dataclass
class Recovered:
    """`refused`: the start failed with this. `problems`: what the checkers that need nothing else have found."""

    before: Image
    after: Image
    refused: str | None = None
    partitions: dict[Key, RecoveredPartition] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    effects: int = 0
    digest_after: int = 0
    clean: bool = False
    parts: list["Recovered"] = field(default_factory=list)  # one for each piece that was recovered on its own


@lru_cache(maxsize=50_000)
def parsed(data: bytes, base_offset: int) -> StoredSegment:
    return parse_log(data, base_offset)


def partitions_in(image: Image) -> dict[Key, str]:
    """(topic, number) -> directory of everything that has a partition's name."""
    found = {}
    for path, data in image.items():
        if data is None and path.startswith(ROOT + "/"):
            match = _PARTITION.fullmatch(path[len(ROOT) + 1:])
            if match:
                found[match[1], int(match[2])] = path
    return found


def segments_in(image: Image, directory: str) -> list[tuple[int, bytes]]:
    """(base offset, content) of the `.log` files of a directory, in order."""
    prefix = directory + "/"
    cut = len(prefix)
    return sorted((int(path[cut:cut + 20]), data) for path, data in image.items()
                  if path.startswith(prefix) and _LOG.fullmatch(path, cut))


def longest_run(segments: list[tuple[int, bytes]], log_start_offset: int) -> Run:
    """The longest valid run of batches: from the segment that holds the log start on, while each batch continues the one
    before it and leader epochs do not fall."""
    first = max(0, sum(base <= log_start_offset for base, _ in segments) - 1)
    batches: list[StoredBatch] = []
    used: list[StoredSegment] = []
    end, epoch = None, -1
    for base, data in segments[first:]:
        if end is not None and base != end:
            return Run(batches, end, f"segment {base} does not continue at {end}", used)
        segment = parsed(data, base)
        used.append(segment)
        end = base if end is None else end
        for number, batch in enumerate(segment.batches):
            if batch.base_offset != end and (batches or number):
                return Run(batches, end, f"base offset {batch.base_offset} at {end}", used)
            if batch.leader_epoch < epoch:
                return Run(batches, end, f"leader epoch {batch.leader_epoch} behind {epoch} at offset {end}", used)
            batches.append(batch)
            end, epoch = batch.last_offset + 1, batch.leader_epoch
        if segment.problem:
            return Run(batches, end, segment.problem, used)
    return Run(batches, end or 0, None, used)


@lru_cache(maxsize=5_000)
def checkpoint(data: bytes) -> dict[Key, int] | None:
    """An offset checkpoint file, read by hand; None where it is not one."""
    try:
        lines = data.decode("ascii").split("\n")
        if not data:
            return {}
        if lines[0] != "0" or lines[-1] != "" or int(lines[1]) != len(lines) - 3:
            return None
        return {(topic, int(number)): int(offset) for topic, number, offset in (line.split(" ") for line in lines[2:-1])}
    except (ValueError, IndexError):
        return None


def checkpoint_in(image: Image, name: str) -> dict[Key, int]:
    """Empty where there is none, or where it cannot be read (C3.4 says so elsewhere)."""
    data = image.get(f"{ROOT}/{name}")
    return (checkpoint(data) if data is not None else None) or {}
