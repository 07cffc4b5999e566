"""A disk of one file that writes down everything it is told, in order: `python -m chaos.device.recorder MOUNTPOINT SIZE IMAGE LOG CONTROL`.

It is a FUSE file system with one file, `disk`, for a loop device to lie on; the last three arguments are inherited descriptors. It is a
process of its own, always: a process that serves the disk on which it waits would wait for ever.

Each request is one entry of the log, written before it is answered: a header (kind, time, offset, length; `HEADER`) and, for W, the data.

| Kind | Request |
|---|---|
| W | a write; its bytes are in the volatile cache of the disk from here on |
| F | a flush: everything above it in the log is on the platters |
| Z | a range that reads as zeros (discard, write-zeroes) |
| E | a write that was refused, as the control block says |

The time is CLOCK_MONOTONIC, in ns, at the moment the request was received: what a client was told before it was told without this entry.
A loop device has no FUA: such a write arrives as W and F, stronger than some disks.

Who dies first? The last process of a mount namespace unmounts what is in it, on its way out, and that writes to this disk. Were it the recorder
itself, it would wait for its own answers, and every `sync` of the machine with it. So it leaves the namespace in which others mount
file systems on the disk as soon as its own is mounted, and never sees those.

The control block (`CONTROL`) says how writes fail: an errno or 0, and a range of the disk that is spared.
"""

import os
import signal
import struct
import sys
import time

HEADER = struct.Struct("<cQQI")
CONTROL = struct.Struct("<iQQ")
FILE = "disk"


def serve(mountpoint: str, size: int, image: int, log: int, control: int) -> None:
    """Serve until it is unmounted."""
    import errno
    import stat

    import mfusepy

    from chaos.device import kernel

    class Recorder(mfusepy.Operations):
        use_ns = True

        def init(self, path):
            kernel.own_namespace()

        def getattr(self, path, fh=None):
            if path == "/":
                return {"st_mode": stat.S_IFDIR | 0o755, "st_nlink": 2}
            if path == f"/{FILE}":
                return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": size}
            raise mfusepy.FuseOSError(errno.ENOENT)

        def readdir(self, path, fh):
            return [".", "..", FILE]

        def open(self, path, flags):
            return 1

        def read(self, path, count, offset, fh):
            return os.pread(image, count, offset)

        def write(self, path, data, offset, fh):
            now = time.monotonic_ns()
            number, spared, spared_end = CONTROL.unpack(os.pread(control, CONTROL.size, 0))
            if number and not spared <= offset < spared_end:
                os.write(log, HEADER.pack(b"E", now, offset, len(data)))
                raise mfusepy.FuseOSError(number)
            os.pwrite(image, data, offset)
            os.writev(log, [HEADER.pack(b"W", now, offset, len(data)), data])
            return len(data)

        def fsync(self, path, datasync, fh):
            os.write(log, HEADER.pack(b"F", time.monotonic_ns(), 0, 0))
            return 0

        def fallocate(self, path, mode, offset, length, fh):
            now = time.monotonic_ns()
            os.pwrite(image, bytes(min(length, size - offset)), offset)
            os.write(log, HEADER.pack(b"Z", now, offset, length))
            return 0

    mfusepy.FUSE(Recorder(), mountpoint, foreground=True, nothreads=True, fsname="refbroker-recorder")


if __name__ == "__main__":
    from chaos.device import kernel

    kernel.die_with_parent(signal.SIGKILL)
    os.environ.setdefault("FUSE_LIBRARY_PATH", "libfuse3.so.3")
    serve(sys.argv[1], *map(int, sys.argv[2:]))
