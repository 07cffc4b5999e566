"""Where does a planted bug live? In a copy of the tree, run by processes of its own; the tree that everybody works in stays as it is.

A copy says at its root, in the file `PLANTED`, which bug it has. Whoever works in one can ask (`planted_here`), so that what a
copy writes out, a plan, says which tree it is about.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from chaos import leftovers
from chaos.mutants.catalogue import ROOT, Mutant, planted

COPIED = ("refbroker", "chaos", "pyproject.toml")
FOR_TESTS = ("tests", "specs", "README.md", "Makefile")
MARK = "PLANTED"


@contextmanager
def planted_tree(mutant: Mutant | None, with_tests: bool = False) -> Iterator[Path]:
    """A copy of the tree with the bug in it, or as it is for None; gone afterwards. Raises Misplaced before anything is copied."""
    text = planted(mutant) if mutant else None
    with tempfile.TemporaryDirectory(prefix="mutant-") as directory, _registered(directory):
        tree = Path(directory)
        ignore = shutil.ignore_patterns("__pycache__", "node_modules", "target")
        for name in COPIED + (FOR_TESTS if with_tests else ()):
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, tree / name, ignore=ignore)
            elif source.exists():
                shutil.copy(source, tree / name)
        if mutant:
            (tree / mutant.file).write_text(text)
            (tree / MARK).write_text(mutant.name + "\n")
        yield tree


@contextmanager
def _registered(directory: str) -> Iterator[None]:
    """If this process dies, a later one deletes it."""
    leftovers.register("directory", directory)
    try:
        yield
    finally:
        leftovers.release("directory", directory)


def planted_here() -> str | None:
    """The name of the bug that was planted in the tree that this code is part of."""
    mark = ROOT / MARK
    return mark.read_text().strip() if mark.exists() else None


def command(module: str, *arguments: object) -> list[str]:
    """Runs a module of the tree that `environment` names."""
    return [sys.executable, "-m", module, *map(str, arguments)]


def environment(tree: Path) -> dict[str, str]:
    """For processes that run that tree, they and their children, whatever the current directory holds (a safe path leaves it out)."""
    return os.environ | {"PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def run_there(arguments: list[str], tree: Path, seconds_max: float) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a process in that tree. Nothing that it started outlives it. Raises subprocess.TimeoutExpired."""
    with subprocess.Popen(arguments, cwd=tree, env=environment(tree), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, start_new_session=True) as process:
        try:
            out, err = process.communicate(timeout=seconds_max)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, out, err
