"""A flush has failed, the process was started again, and the files look fine. What may be believed of them?

What was synced before; nothing else. After a failed fsync Linux may keep a page in memory, marked as written, that
never reached the disk: whoever reads it sees the right bytes, the next fsync succeeds, and the page is lost with the
power (C1.13). Records appended behind it would be acknowledged as durable, behind a hole to be.

So a directory that goes offline leaves a note in itself. It need not survive a power cut: after that, reading tells the
truth again. Where the next start finds the note, recovery writes every segment that is not known to be durable anew:

1. the valid batches are copied into a new file, which is synced and renamed over the old one;
2. its indexes, and the snapshots that are as young, are unlinked and made again;
3. the directory is synced; only when all partitions have come so far is the note removed.

Apache Kafka differs: it believes what it reads.
"""

from refbroker.log.disk import Disk
from refbroker.log.producers import list_snapshots
from refbroker.log.scan import CHECK_CHUNK_BYTES
from refbroker.log.segment import INDEX, TIME_INDEX, Segment

NOTE = ".flush-failed"


def leave_note(disk: Disk, directory: str, reason: str) -> None:
    """Best effort: on a disk in trouble."""
    try:
        disk.open(f"{directory}/{NOTE}", create=True).append([reason.encode() + b"\n"])
    except OSError:  # then the page cache has not much to offer either
        pass


def remove_note(disk: Disk, directory: str) -> None:
    if disk.exists(f"{directory}/{NOTE}"):
        disk.unlink(f"{directory}/{NOTE}")
        disk.sync_dir(directory)


def write_anew(disk: Disk, directory: str, segments: list[Segment]) -> None:
    """Give each segment a file of which every byte is known to be durable. Raises OSError."""
    for segment in segments:
        temporary = f"{segment.path}.tmp"
        copy = disk.open(temporary, create=True)
        copy.truncate(0)
        position = 0
        while position < segment.size:
            data = segment.file.pread(min(CHECK_CHUNK_BYTES, segment.size - position), position)
            copy.append([data])
            position += len(data)
        copy.sync()
        disk.rename(temporary, segment.path)
        segment.close()
        for suffix in (INDEX, TIME_INDEX):
            if disk.exists(segment.path_of(suffix)):
                disk.unlink(segment.path_of(suffix))
    for offset, name in list_snapshots(disk, directory):
        if segments and offset > segments[0].base_offset:
            disk.unlink(f"{directory}/{name}")
    disk.sync_dir(directory)
