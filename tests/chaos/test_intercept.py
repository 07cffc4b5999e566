"""Faults at system calls strike where they say, in the order of the calls of all threads, and a short write is a real one."""

import subprocess
import sys

import pytest

from chaos.process.intercept import Fault, Interceptor
from chaos.targets import NotAvailable

# Two threads take turns at writing and syncing; everything that happened stands in the file.
PROGRAM = """
import os, sys, threading
fd = os.open(sys.argv[1] + "/file", os.O_RDWR | os.O_CREAT | os.O_APPEND)
elsewhere = os.open(sys.argv[1] + "-elsewhere", os.O_RDWR | os.O_CREAT)
turn = threading.Lock()
def work():
    for _ in range(3):
        with turn:
            os.write(elsewhere, b"x")
            os.fdatasync(elsewhere)
            try:
                os.write(fd, b"0123456789")
                os.fdatasync(fd)
            except OSError as error:
                print(error.errno, flush=True)
threads = [threading.Thread(target=work) for _ in range(2)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def run(tmp_path, *faults: Fault) -> tuple[int, str, int, Interceptor]:
    """Exit code, output, bytes in the file, and the interceptor."""
    data = tmp_path / "data"
    data.mkdir()
    try:
        interceptor = Interceptor(str(data), list(faults))
    except NotAvailable as error:
        pytest.skip(str(error))
    with interceptor:
        done = subprocess.run([*interceptor.wrap, sys.executable, "-c", PROGRAM, str(data)], capture_output=True, text=True)
    if "Operation not permitted" in done.stderr:
        pytest.skip("seccomp is not allowed here")
    return done.returncode, done.stdout + done.stderr, (data / "file").stat().st_size, interceptor


def test_without_a_fault_every_call_in_the_directory_is_counted_and_none_beside_it(tmp_path):
    code, output, size, interceptor = run(tmp_path)
    assert (code, output, size) == (0, "", 60)
    assert interceptor.counts == {"open": 1, "write": 6, "fdatasync": 6} and not interceptor.struck


@pytest.mark.parametrize("number", [1, 4, 6])
def test_killed_on_entering_the_nth_call_of_all_threads(tmp_path, number):
    code, _, size, interceptor = run(tmp_path, Fault("write", "kill", number))
    assert code == -9 and size == (number - 1) * 10
    (strike,) = interceptor.struck
    assert (strike.call, strike.number, strike.path) == ("write", number, "file")


def test_a_fault_that_comes_too_late_strikes_nothing(tmp_path):
    code, _, size, interceptor = run(tmp_path, Fault("write", "kill", 7))
    assert code == 0 and size == 60 and not interceptor.struck


def test_an_error_once_and_for_good(tmp_path):
    code, output, size, interceptor = run(tmp_path, Fault("fdatasync", "EIO", 2), Fault("write", "ENOSPC", 5, None))
    assert (code, output.split(), size) == (0, ["5", "28", "28"], 40)
    assert [(strike.call, strike.number) for strike in interceptor.struck] == [("fdatasync", 2), ("write", 5), ("write", 6)]


def test_a_short_write_leaves_half_of_the_bytes_and_says_so(tmp_path):
    code, output, size, _ = run(tmp_path, Fault("write", "short", 2))
    assert (code, output, size) == (0, "", 55)  # the program does not look at what os.write returns


def test_paths_narrow_a_fault(tmp_path):
    code, _, _, interceptor = run(tmp_path, Fault("any", "kill", path="other*"))
    assert code == 0 and not interceptor.struck and interceptor.faults[0].matched == 0


def test_where_the_kernel_refuses_it_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(Interceptor, "_allowed", None)
    monkeypatch.setattr("chaos.process.intercept.filtered.__file__", str(tmp_path / "missing.py"))
    with pytest.raises(NotAvailable, match="seccomp"):
        Interceptor(str(tmp_path), [])
    monkeypatch.setattr(Interceptor, "_allowed", None)
