"""A real disk whose calls a test can count, delay or make fail."""

import os

from refbroker.log.disk import Disk, File


class HookFile(File):
    __slots__ = ("_hook",)

    def __init__(self, path, fd, hook):
        super().__init__(path, fd)
        self._hook = hook

    def append(self, buffers):
        self._hook("append", self.path)
        return super().append(buffers)

    def truncate(self, size):
        self._hook("truncate", self.path)
        super().truncate(size)

    def sync(self):
        self._hook("sync", self.path)
        super().sync()


class HookDisk(Disk):
    """`calls` lists (call, path). `hook`, if set, is called before each one: it may block, or raise OSError."""

    def __init__(self):
        self.calls = []
        self.hook = None

    def _called(self, call, path):
        self.calls.append((call, path))
        if self.hook is not None:
            self.hook(call, path)

    def count(self, call, part=""):
        return sum(each == call and part in path for each, path in self.calls)

    def open(self, path, *, create=False, readonly=False):
        self._called("create" if create and not self.exists(path) else "open", path)
        file = super().open(path, create=create, readonly=readonly)
        return HookFile(path, os.dup(file.fileno()), self._called)

    def sync_dir(self, path):
        self._called("sync_dir", path)
        super().sync_dir(path)

    def rename(self, source, target):
        self._called("rename", source)
        super().rename(source, target)

    def unlink(self, path):
        self._called("unlink", path)
        super().unlink(path)

    def mkdir(self, path):
        self._called("mkdir", path)
        super().mkdir(path)


def failing(call, part, number, times=1):
    """A hook that makes the first `times` matching calls fail with this errno."""
    left = [times]

    def hook(each, path):
        if each == call and part in os.path.basename(path) and left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number), path)

    return hook
