"""A run of the lab that is killed leaves processes, mounts and directories; a later one finds exactly those."""

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from chaos import leftovers

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")

# A harness that dies at once: a child in a session of its own, which has a child itself, and a directory.
HARNESS = """
import os, subprocess, sys
from chaos import leftovers
leftovers.mark()
child = subprocess.Popen(["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE, start_new_session=True)
grandchild = int(child.stdout.readline())
leftovers.register("directory", sys.argv[1])
leftovers.register("directory", sys.argv[2])
leftovers.release("directory", sys.argv[2])
print(child.pid, grandchild, flush=True)
if sys.argv[3] == "wait":
    sys.stdin.read()
os.kill(os.getpid(), 9)
"""


@pytest.fixture(autouse=True)
def registry(tmp_path, monkeypatch):
    """A registry of the test's own. Processes are everybody's to sweep: one of these tests at a time, whatever runs beside it."""
    with open(Path(tempfile.gettempdir()) / f"refbroker-test-leftovers-{os.getuid()}", "w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr("tempfile.tempdir", None)
        yield


def harness(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", HARNESS, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_what_a_killed_run_left_is_removed_and_nothing_else(tmp_path):
    scratch, kept = tmp_path / "scratch dir", tmp_path / "kept"
    scratch.mkdir()
    kept.mkdir()
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    dying = harness(str(scratch), str(kept), "die")
    child, grandchild = map(int, dying.stdout.readline().split())
    assert dying.wait() == -signal.SIGKILL
    assert is_alive(child) and is_alive(grandchild)
    lines = leftovers.sweep()
    assert not is_alive(child) and not is_alive(grandchild)
    assert not scratch.exists() and kept.exists()
    assert is_alive(stranger.pid)
    assert any(str(grandchild) in line for line in lines) and f"removed directory {scratch}" in lines
    stranger.kill()
    stranger.wait()


def test_a_run_that_lives_keeps_what_it_has(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    living = harness(str(scratch), str(tmp_path / "other"), "wait")
    child, grandchild = map(int, living.stdout.readline().split())
    leftovers.sweep()
    assert is_alive(child) and is_alive(grandchild) and scratch.exists()
    living.stdin.close()
    assert living.wait() == -signal.SIGKILL
    leftovers.sweep()
    assert not is_alive(child) and not is_alive(grandchild) and not scratch.exists()


def test_a_number_that_somebody_else_got_is_nobody_of_ours():
    pid, started, boot, namespace = leftovers.mark().split(".")
    assert not leftovers._is_dead(f"{pid}.{started}.{boot}.{namespace}")
    assert leftovers._is_dead(f"{pid}.{int(started) - 1}.{boot}.{namespace}")  # the number was used before
    assert leftovers._is_dead(f"{pid}.{started}.00000000.{namespace}")  # before the machine was started again
    assert not leftovers._is_dead(f"{pid}.{int(started) - 1}.{boot}.1")  # in a container that we cannot look into
    assert not leftovers._is_dead("something else")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
def test_a_mount_is_undone_before_the_directory_that_holds_it(tmp_path):
    place = tmp_path / "mounted"
    place.mkdir()
    code = f"""
import os, subprocess
from chaos import leftovers
leftovers.register("directory", {str(place)!r})
leftovers.register("mount", {str(place)!r})
if subprocess.run(["mount", "-t", "tmpfs", "none", {str(place)!r}]).returncode:
    os._exit(3)
open({str(place / "open")!r}, "w")
os.kill(os.getpid(), 9)
"""
    if subprocess.run([sys.executable, "-c", code]).returncode == 3:
        pytest.skip("mounts are not allowed here")
    assert os.path.ismount(place)
    removed = [line for line in leftovers.sweep() if line.startswith("removed")]
    assert removed == [f"removed mount {place}", f"removed directory {place}"]
    assert not place.exists()


@pytest.mark.slow
def test_a_chaos_run_that_is_killed_or_interrupted_leaves_nothing(tmp_path):
    """Killed with SIGKILL, its broker and clients live on, and the next run's start removes them; Ctrl-C gives a report."""
    def start(*more: str) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-m", "chaos.cli", "run", "--layers", "process", "--minutes", "1", "--seed", "7",
                                 "--out", str(tmp_path / "out"), *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                text=True, start_new_session=True)

    def children(run: subprocess.Popen) -> list[int]:
        deadline = time.monotonic() + 120
        while len(found := leftovers._processes_by_run().get(leftovers._token_of(run.pid), [])) < 5:
            assert time.monotonic() < deadline and run.poll() is None, "no clients were started"
            time.sleep(0.1)
        return found

    killed = start()
    left = children(killed)
    killed.kill()
    killed.wait()
    assert all(map(is_alive, left))
    second = start()
    running = children(second)
    assert not any(map(is_alive, left))
    os.killpg(second.pid, signal.SIGINT)
    output, _ = second.communicate(timeout=200)
    assert second.returncode == 2 and "interrupted" in output and "left by an earlier run that died: killed process" in output
    assert not any(map(is_alive, running))
    assert (tmp_path / "out" / "results.json").exists()
