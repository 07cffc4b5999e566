"""A benchmark that got SIGTERM, as from `timeout`, left its brokers running and its directory behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def brokers_below(directory: Path) -> list[str]:
    """Numbers of the processes whose command line names the directory."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(directory).encode() in place.read_bytes():
                found.append(place.parent.name)
        except OSError:  # gone meanwhile
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_no_broker_outlives_it(tmp_path):
    bench = subprocess.Popen([sys.executable, "-m", "refbroker", "bench", "--only", "16 kB batches", "--json", str(tmp_path / "results.json")],
                             env={**os.environ, "TMPDIR": str(tmp_path)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not brokers_below(tmp_path / "refbroker-bench-"):
            assert bench.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        bench.send_signal(signal.SIGTERM)
        assert bench.wait(60) != 0
    finally:
        bench.kill()
    assert brokers_below(tmp_path / "refbroker-bench-") == []
    assert list(tmp_path.glob("refbroker-bench-*")) == []
