"""How does a real file system come to lie on a disk that is recorded, and how is a crashed one looked at?

`RecordedDisk` starts the recorder (recorder.py), attaches a loop device to its file, makes and mounts a file system. `mounted` mounts an image
that a power cut left, from memory, and lets the file system recover itself. Both need `kernel.own_namespace` first, and leave nothing.
"""

import ctypes.util
import errno
import gc
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from chaos.device import kernel
from chaos.device.recorder import CONTROL, FILE
from chaos.targets import NotAvailable

MEBIBYTE = 1 << 20
PAGE = 4096
READY_SECONDS_MAX = UMOUNT_SECONDS_MAX = 10.0


class FileSystem(NamedTuple):
    """A file system as users mount it. `profile`: the promises of `chaos/disk/profiles.py` that should fit; `sector_bytes`: what it
    counts on a disk to write whole."""

    name: str
    kind: str
    size: int
    mkfs: tuple[str, ...]
    profile: str
    package: str
    sector_bytes: int = 512
    options: str = ""


FILE_SYSTEMS = {system.name: system for system in (
    FileSystem("ext4", "ext4", 64 * MEBIBYTE, ("mkfs.ext4", "-q", "-F", "-b", str(PAGE), "-E", "lazy_itable_init=0"), "size-first", "e2fsprogs"),
    FileSystem("xfs", "xfs", 300 * MEBIBYTE, ("mkfs.xfs", "-q", "-f"), "ordered", "xfsprogs"),
    FileSystem("btrfs", "btrfs", 128 * MEBIBYTE, ("mkfs.btrfs", "-q", "-f"), "append-prefix", "btrfs-progs", 4096),
)}
# The same without flushes: it must lose what it promised to keep.
NO_BARRIER = FILE_SYSTEMS["ext4"]._replace(name="ext4-nobarrier", options="barrier=0")
# The same with its bitmaps, inodes and journal in one piece at the beginning, so that a refusal can spare them.
PACKED = FILE_SYSTEMS["ext4"]._replace(mkfs=("mkfs.ext4", "-q", "-F", "-b", str(PAGE), "-E", "lazy_itable_init=0,packed_meta_blocks=1"))


def check_available() -> None:
    """Raises NotAvailable, in one line, where this machine cannot do it."""
    if os.geteuid() != 0:
        raise NotAvailable("mounting a file system needs root")
    if not os.path.exists("/dev/fuse") or ctypes.util.find_library("fuse3") is None:
        raise NotAvailable("libfuse3 or /dev/fuse missing (Debian's package fuse3)")
    try:
        import mfusepy  # noqa: F401
    except ImportError:
        raise NotAvailable("the Python package mfusepy is missing (the extra `chaos` has it)") from None
    except OSError as error:
        raise NotAvailable(f"mfusepy cannot load libfuse ({error}; Debian's package fuse3)") from None
    if not os.path.exists("/dev/loop-control"):
        raise NotAvailable("no loop devices (/dev/loop-control)")
    try:
        kernel.own_namespace()
    except OSError as error:
        raise NotAvailable(f"no mount namespace of our own: {error}") from None


def missing_mkfs(system: FileSystem) -> str | None:
    if shutil.which(system.mkfs[0]):
        return None
    return f"{system.name}: {system.mkfs[0]} missing (Debian's package {system.package})"


class RecordedDisk:
    """A new file system on a recorded disk, mounted at `directory`/mnt. A context manager."""

    def __init__(self, system: FileSystem, directory: Path):
        self.system = system
        self.mountpoint = directory / "mnt"
        self._fuse = directory / "fuse"
        self._process: subprocess.Popen | None = None
        self._image, self._log, self._control = (os.memfd_create(name) for name in ("image", "log", "control"))
        for path in (self.mountpoint, self._fuse):
            path.mkdir(parents=True, exist_ok=True)
        os.ftruncate(self._image, system.size)
        self.let_write()

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _start(self) -> None:
        inherited = (self._image, self._log, self._control)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "chaos.device.recorder", str(self._fuse), str(self.system.size), *map(str, inherited)],
            pass_fds=inherited, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
        deadline = time.monotonic() + READY_SECONDS_MAX
        while not os.path.exists(self._fuse / FILE):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                words = self._process.stderr.read().decode(errors="replace").strip().splitlines()
                raise NotAvailable(f"the recorder does not start: {words[-1] if words else 'no answer'}")
            time.sleep(0.01)
        backing = os.open(self._fuse / FILE, os.O_RDWR | os.O_CLOEXEC)
        loop, descriptor = kernel.attach_loop(backing)
        os.close(backing)
        try:
            made = subprocess.run([*self.system.mkfs, loop], capture_output=True, text=True, check=False)
            if made.returncode:
                raise NotAvailable(f"{self.system.mkfs[0]} failed: {made.stderr.strip()}")
            kernel.mount(loop, str(self.mountpoint), self.system.kind, self.system.options)
        finally:
            os.close(descriptor)

    def metadata(self) -> tuple[int, int]:
        """The bytes of a `PACKED` disk up to the end of ext4's journal. Raises NotAvailable."""
        shown = subprocess.run(["debugfs", "-R", "stat <8>", str(self._fuse / FILE)], capture_output=True, text=True, check=False)
        blocks = [int(number) for line in shown.stdout.partition("EXTENTS:")[2].splitlines() for number in re.findall(r":(\d+)(?:-(\d+))?", line)
                  for number in number if number]
        if not blocks:
            raise NotAvailable(f"debugfs does not find ext4's journal: {shown.stderr.strip()}")
        return 0, (max(blocks) + 1) * PAGE

    def log_bytes(self) -> bytes:
        """All that was recorded so far."""
        return os.pread(self._log, os.fstat(self._log).st_size, 0)

    def refuse_writes(self, number: int, spared: tuple[int, int] = (0, 0)) -> None:
        """From now on writes fail with errno `number`, but in the range `spared` (bytes of the disk)."""
        os.pwrite(self._control, CONTROL.pack(number, *spared), 0)

    def let_write(self) -> None:
        os.pwrite(self._control, CONTROL.pack(0, 0, 0), 0)

    def close(self) -> None:
        """Unmount whatever is mounted, end the recorder. Every descriptor on the mount should be closed by now; if one is not, the mount
        goes with it."""
        for path in (self.mountpoint, self._fuse):
            if os.path.ismount(path):
                try:
                    kernel.umount(str(path))
                except OSError:
                    kernel.umount(str(path), lazy=True)
        if self._process is not None:
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process.stderr.close()
            self._process = None
        for descriptor in (self._image, self._log, self._control):
            if descriptor >= 0:
                os.close(descriptor)
        self._image = self._log = self._control = -1


@contextmanager
def mounted(system: FileSystem, image: int, mountpoint: Path) -> Iterator[Path]:
    """Mount what lies in the memfd `image`. Raises OSError where the file system cannot recover itself."""
    loop, descriptor = kernel.attach_loop(image)
    try:
        kernel.mount(loop, str(mountpoint), system.kind, system.options)
    finally:
        os.close(descriptor)
    try:
        yield mountpoint
    finally:
        _umount(str(mountpoint))


def _umount(mountpoint: str) -> None:
    """Unmount now, not lazily: what would go on writing to this image would write into the next one, too."""
    deadline = time.monotonic() + UMOUNT_SECONDS_MAX
    while True:
        try:
            return kernel.umount(mountpoint)
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
        gc.collect()  # an open file that only a cycle still holds keeps the mount busy
        if time.monotonic() > deadline:
            kernel.umount(mountpoint, lazy=True)
            raise RuntimeError(f"{mountpoint} is still in use after {UMOUNT_SECONDS_MAX:.0f} s: what was seen from here on would prove nothing")
        time.sleep(0.02)
