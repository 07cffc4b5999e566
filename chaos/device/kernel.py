"""Which system calls does the lab need that Python has no name for? Mount namespaces, mount, umount and loop devices (Linux, root).

Everything is made so that the kernel takes it away with us, however we die:

1. `own_namespace` gives this process and its children mounts of their own: they go when the last of these processes does.
2. A loop device is attached with `autoclear`: it goes with its last user, which is the mount.
3. An image is a memfd, which has no name to be left behind.
"""

import ctypes
import fcntl
import os
import struct

CLONE_NEWNS = 0x00020000
MS_REC, MS_PRIVATE = 16384, 1 << 18
MNT_DETACH = 2
LOOP_CTL_GET_FREE, LOOP_CONFIGURE = 0x4C82, 0x4C0A
LO_FLAGS_AUTOCLEAR = 4
PR_SET_PDEATHSIG = 1
# struct loop_config: fd, block size, struct loop_info64 (232 bytes, of which only lo_flags at 52 is set here), 64 reserved bytes.
LOOP_CONFIG_BYTES = 4 + 4 + 232 + 64
LOOP_FLAGS_AT = 8 + 52
ATTACH_ATTEMPTS_MAX = 50  # another process may take the free device that we were told of

_libc = ctypes.CDLL(None, use_errno=True)
_namespace_of: int | None = None


def _call(name: str, what: str, *arguments) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def own_namespace() -> None:
    """From here on this thread's mounts are its own and its later children's. Once for a process; a forked child may ask again. Raises
    OSError (not root)."""
    global _namespace_of
    if _namespace_of == os.getpid():
        return
    _call("unshare", "mount namespace", CLONE_NEWNS)
    _call("mount", "/", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    _namespace_of = os.getpid()


def mount(source: str, target: str, kind: str, options: str = "") -> None:
    """Raises OSError: EUCLEAN, EINVAL and the like where `source` holds no sound file system."""
    _call("mount", f"{source} on {target}", source.encode(), target.encode(), kind.encode(), 0, options.encode())


def umount(target: str, *, lazy: bool = False) -> None:
    """`lazy`: the name goes now, the rest with the last descriptor. Raises OSError (EBUSY)."""
    _call("umount2", target, target.encode(), MNT_DETACH if lazy else 0)


def sync_file_system(path: str) -> None:
    """Everything of the file system that holds `path` is on its disk. A plain sync would wait for all others, too."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _call("syncfs", path, descriptor)
    finally:
        os.close(descriptor)


def die_with_parent(number: int) -> None:
    """Ask for signal `number` when the thread that started us ends."""
    _call("prctl", "parent death signal", PR_SET_PDEATHSIG, number)


def attach_loop(fd: int) -> tuple[str, int]:
    """(path, descriptor) of a loop device over an open file. It lives as long as the descriptor, or what was mounted meanwhile."""
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(ATTACH_ATTEMPTS_MAX):
            path = f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}"
            device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            config = bytearray(LOOP_CONFIG_BYTES)
            struct.pack_into("=I", config, 0, fd)
            struct.pack_into("=I", config, LOOP_FLAGS_AT, LO_FLAGS_AUTOCLEAR)
            try:
                fcntl.ioctl(device, LOOP_CONFIGURE, bytes(config))
                return path, device
            except BlockingIOError:
                os.close(device)
            except OSError as error:
                os.close(device)
                if error.errno != 16:  # EBUSY
                    raise
    finally:
        os.close(control)
    raise OSError(16, "no free loop device", "/dev/loop-control")
