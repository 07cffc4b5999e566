"""What others said or did made the lab end with 70, "an error of the lab itself", or with 1, "a statement is broken": brackets in the
words of a broker that does not start, an address where nobody listens, a reader of its output that had seen enough."""

import json
import subprocess
import sys

import pytest

from chaos.targets.base import free_port

PREPARE = """name = "mine"
start = ["true"]
prepare = ["sh", "-c", "echo 'cannot open [/foo/bar]'; exit 3"]
property = ["--set", "{key}={value}"]
"""


def lab(tmp_path, *words):
    """(exit code, stdout, stderr)"""
    command = [sys.executable, "-m", "chaos.cli", "run", "--minutes", "0.5", "--out", str(tmp_path / "out"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def test_brackets_in_the_words_of_a_broker(tmp_path):
    (tmp_path / "mine.toml").write_text(PREPARE)
    code, out, err = lab(tmp_path, "--target", str(tmp_path / "mine.toml"), "--layers", "process")
    assert (code, err) == (2, "")
    assert "cannot open [/foo/bar]" in out


@pytest.mark.parametrize("host", ["127.0.0.1", "no..host"])
def test_an_address_where_nobody_listens(tmp_path, host):
    address = f"{host}:{free_port()}"
    code, out, err = lab(tmp_path, "--bootstrap-server", address)
    assert (code, err) == (2, "")
    assert f"not run: network: nobody answers at {address}" in out
    assert json.loads((tmp_path / "out" / "results.json").read_text())["rows"] == []


def test_a_reader_that_has_seen_enough(tmp_path):
    command = [sys.executable, "-m", "chaos.cli", "run", "--layers", "disk", "--minutes", "0.5", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert (process.stderr.read(), process.wait(120)) == (b"", 2)
