"""An fsync that failed in the very first start left a note of it, and that note made the directory look like somebody else's: no later
start was possible until the file was removed by hand (found by errors at every system call of the real process, C2.10)."""

import errno

import pytest

from refbroker.config import Config
from refbroker.log.directory import LogDirectory, StartupError
from refbroker.log.disk import Disk, File


class FailingFile(File):
    __slots__ = ()

    def sync(self) -> None:
        raise OSError(errno.EIO, "Input/output error", self.path)


class FailingDisk(Disk):
    def open(self, path: str, *, create: bool = False, readonly: bool = False) -> File:
        file = super().open(path, create=create, readonly=readonly)
        file.__class__ = FailingFile
        return file


def test_the_start_after_it_is_a_first_start_again(tmp_path):
    config, _ = Config.load(None, {}, [f"log.dirs={tmp_path}/data"])
    with pytest.raises(StartupError, match="Input/output error"):
        LogDirectory(FailingDisk(), config.data_dir, config, lambda: 0).open()
    logs = LogDirectory(Disk(), config.data_dir, config, lambda: 0)
    logs.open()
    assert logs.offline is None and (tmp_path / "data" / "meta.properties").exists()
    logs.close()
