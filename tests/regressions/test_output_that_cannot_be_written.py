"""Output that could not be written, as into a file on a full disk, ended a command with a traceback and 70, "a bug of ours", or, where it
was short, with Python's own 120."""

import subprocess
import sys
from pathlib import Path

import pytest

from refbroker import testing

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


def into(file, *words):
    """(exit code, stderr)"""
    with open(file, "w") as out:
        done = subprocess.run([sys.executable, "-m", "refbroker", *map(str, words)], stdout=out, stderr=subprocess.PIPE, text=True, timeout=60)
    return done.returncode, done.stderr


@pytest.mark.parametrize("bytes_before", [0, 20_000])
def test_a_dump(tmp_path, bytes_before):
    path = tmp_path / ("x" * 100)
    assert into("/dev/full", "dump-log", *[path] * (bytes_before // 100 + 1)) == (1, "refbroker: output: No space left on device\n")


def test_a_list_of_topics(tmp_path):
    with testing.broker(topics={"t": 1}, data_dir=str(tmp_path / "data")) as broker:
        assert into("/dev/full", "topics", "list", "--bootstrap-server", broker.bootstrap) == (1, "refbroker: output: No space left on device\n")
        assert into("/dev/null", "topics", "list", "--bootstrap-server", broker.bootstrap) == (0, "")
