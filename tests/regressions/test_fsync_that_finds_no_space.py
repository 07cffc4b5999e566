"""An fsync that failed for want of space (ENOSPC and EDQUOT come from it where blocks are allocated late) passed for a call that can be made
again: a roll, a checkpoint or a new topic met it, the log went on, and the next fsync, which succeeds, proved nothing (C1.13)."""

import errno
import os
import uuid

import pytest

from refbroker.config import Config, LogConfig
from refbroker.errors import KafkaError
from refbroker.log.directory import LogDirectory
from refbroker.log.disk import Disk
from refbroker.log.records import Record, build

KEY = ("t", 0)


def filled(path):
    logs = LogDirectory(Disk(), f"{path}/data", Config(), lambda: 0)
    logs.open()
    log = logs.create(*KEY, uuid.UUID(int=1), LogConfig())
    log.append(build([Record(0, 0, None, b"v")]), 0)
    log.flush()  # what comes first in the next segment finds the recovery point at its base
    return logs, log


@pytest.mark.parametrize("call", ["fdatasync", "fsync"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("ask", [
    lambda logs, log: log.roll(0),
    lambda logs, log: logs.checkpoint(),
    lambda logs, log: logs.create("other", 0, uuid.UUID(int=2), LogConfig()),
], ids=["roll", "checkpoint", "create"])  # fmt: skip
def test_it_is_final(tmp_path, monkeypatch, call, number, ask):
    logs, log = filled(tmp_path)

    def full(descriptor):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(KafkaError) as refused:
            ask(logs, log)
    assert str(tmp_path) in refused.value.message and os.strerror(number) in refused.value.message
    assert logs.offline and log.offline
