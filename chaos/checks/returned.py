"""Does a broker come back from what a fault left on a real disk, and can a client read it?

Verified: before anything is started, checkpoints are whole (C3.4) and no recovery point is beyond the valid batches (C3.1); the broker
starts on it (C2.10); and what it holds, all of it, is handed to a client that checks every CRC (C2.6), within a bound (C1.16).
Not verified: what is read (chaos/checks/history does).
"""

from collections.abc import Callable
from pathlib import Path

from chaos.checks import checkpoints
from chaos.checks.crash import ROOT
from chaos.checks.history.case import Finding
from chaos.process.observe import NoAnswer, Unreadable
from chaos.targets import Process, TargetError

STATEMENTS = ("C1.16", "C2.6", "C2.10", "C3.1", "C3.4")


def check_small_files(data_dir: Path) -> list[Finding]:
    """Checkpoints of every partition, those of the broker's own logs too, by the rules for crashed images."""
    image = {f"{ROOT}/{path.relative_to(data_dir)}": path.read_bytes() if path.is_file() else None for path in data_dir.rglob("*")}
    return [Finding(problem.statement, "checkpoint", *problem.key, problem.offset, problem.text) for problem in checkpoints.check_image(image)]


def started_and_read(target: Process, read: Callable[[], object]) -> tuple[bool, list[Finding]]:
    """(whether all of it was read, what was wrong); the target is killed in the end."""
    try:
        target.start()
    except TargetError as error:
        return False, [Finding("C2.10", "does not start again", "", -1, -1, str(error))]
    try:
        read()
    except Unreadable as error:
        return False, [Finding("C2.6", "unreadable", error.topic, error.partition, -1, str(error))]
    except NoAnswer as error:
        return False, [Finding("C1.16", "no answer", "", -1, -1, str(error))]
    finally:
        target.kill()
    return True, []
