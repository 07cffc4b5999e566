"""Are the producer snapshots there that the recovery point promises?

Verified on the crashed image: where the recovery point on disk has reached the base offset of a segment, other than the first, the
snapshot of that offset is there and whole (C3.2): recovery takes what lies below for durable, and retention may delete the
batches that it stands for.
Not verified: what it says (producers.py); the snapshot at the log start, where a log that restarts empty has none.
"""

import struct

import crc32c

from chaos.checks.crash import ROOT, Image, Problem, checkpoint_in, partitions_in, segments_in

_HEADER = struct.Struct(">hIi")
_ENTRY_BYTES = 46


def check_image(image: Image) -> list[Problem]:
    found = []
    points = checkpoint_in(image, "recovery-point-offset-checkpoint")
    starts = checkpoint_in(image, "log-start-offset-checkpoint")
    for key, directory in partitions_in(image).items():
        point = points.get(key, 0)
        for base, _ in segments_in(image, directory)[1:] if point else ():
            if starts.get(key, 0) < base <= point:
                trouble = _trouble(image.get(f"{directory}/{base:020d}.snapshot"))
                if trouble:
                    found.append(Problem("C3.2", key, base, f"recovery point {point} on {ROOT}'s disk, the snapshot at {base} {trouble}"))
    return found


def _trouble(data: bytes | None) -> str | None:
    if data is None:
        return "is not there"
    if len(data) < _HEADER.size:
        return f"has {len(data)} bytes"
    version, crc, count = _HEADER.unpack_from(data)
    if version != 1 or len(data) != _HEADER.size + count * _ENTRY_BYTES or crc32c.crc32c(data[6:]) != crc:
        return "is torn"
    return None
