"""Which Python does `make setup` take? It is only asked here (`make -n`): nothing is set up."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SYSTEM = "/usr/bin/python3"

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def python_taken(directory: Path, *, optimized: bool, **environment: str) -> str:
    """By a make that finds a python3 that answers the Makefile's question so."""
    found = directory / "python3"
    found.write_text(f"#!/bin/sh\nexit {0 if optimized else 1}\n")
    found.chmod(0o755)
    outside = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "MAKEFLAGS", "MAKELEVEL")}
    path = f"{directory}:{os.environ['PATH']}"
    done = subprocess.run(
        ["make", "-n", "-B", "setup"], cwd=ROOT, env=outside | {"PATH": path} | environment, capture_output=True, text=True, check=True
    )
    (line,) = [line for line in done.stdout.splitlines() if line.endswith("-m venv .venv")]
    return line.split()[0]


def system_python_will_do() -> bool:
    command = [SYSTEM, "-c", "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))"]
    return os.path.exists(SYSTEM) and not subprocess.run(command, stderr=subprocess.DEVNULL).returncode


def test_a_python_that_was_built_to_be_fast_is_taken(tmp_path):
    assert python_taken(tmp_path, optimized=True) == "python3"


def test_instead_of_a_slow_build_it_is_the_systems_where_that_will_do(tmp_path):
    assert python_taken(tmp_path, optimized=False) == (SYSTEM if system_python_will_do() else "python3")


def test_what_the_user_asks_for_is_taken(tmp_path):
    assert python_taken(tmp_path, optimized=False, PYTHON="python3.99") == "python3.99"
