"""What does a run of the lab leave behind when it is killed itself, and how does a later one clean up after it?

1. A run puts a token into its environment, `mark()`; every process that it starts inherits it. So a process is known as the run's
   whatever became of its parent, its group or its name, and a stranger that was given a dead process's number never is.
2. What is no process is written down when it is made, `register(kind, value)`, and struck off when it is gone, `release`: a mount
   by its path, a loop device by its name, a directory by its path. One file for each run, one line for each entry, so that a run
   that dies at any moment has written down what it had (register before you make it).
3. A run is dead when no process has its number and its start time, on this boot. What runs in another container's process
   namespace cannot be told dead from alive, and is left alone.
4. `sweep()` undoes what dead runs left: processes by SIGKILL, then the entries, last made first. `end()` does that for the run
   itself. Both say what they did. A directory is not deleted while something is mounted in it.

Without Linux's /proc nothing is marked and nothing swept.
"""

import atexit
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

VARIABLE = "REFBROKER_CHAOS_RUN"
KINDS = ("mount", "loop", "directory")
GONE_SECONDS_MAX = 10.0  # for a killed process to leave the process table


def mark() -> str:
    """The token of the run that this process is, from now on in its environment; "" where there is no /proc."""
    token = _token_of(os.getpid())
    if token and os.environ.get(VARIABLE) != token:
        os.environ[VARIABLE] = token
        atexit.register(end)
    return token


def register(kind: str, value: str | Path) -> None:
    """Write down what a later run must undo if this one cannot: kind "mount" (path), "loop" (/dev/loopN), "directory"."""
    assert kind in KINDS, kind
    _write("+", kind, str(value))


def release(kind: str, value: str | Path) -> None:
    """It is gone: strike it off."""
    _write("-", kind, str(value))


def sweep() -> list[str]:
    """Undo what dead runs left; one line for each thing that was undone or could not be."""
    mine, done = mark(), []
    if not mine:
        return done
    runs = {token for token in _processes_by_run() if _is_dead(token)}
    runs |= {path.name for path in _registry().iterdir() if _is_dead(path.name)}
    for token in sorted(runs - {mine}):
        done += _undo(token)
    return done


def end() -> list[str]:
    """Undo what this run itself still has."""
    token = _token_of(os.getpid())
    if not token or os.environ.get(VARIABLE) != token:
        return []
    return _undo(token)


# ---------------------------------------------------------------- who is who


def _token_of(pid: int) -> str:
    started = _start_time(pid)
    if started is None:
        return ""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
    namespace = os.stat("/proc/self/ns/pid").st_ino
    return f"{pid}.{started}.{boot}.{namespace}"


def _start_time(pid: int) -> int | None:
    """Clock ticks from boot to the start of a process; None where there is none, or only its exit status is left."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _is_dead(token: str) -> bool:
    try:
        pid, started, boot, namespace = token.split(".")
        _, _, our_boot, our_namespace = _token_of(os.getpid()).split(".")
        if boot != our_boot:
            return True
        return namespace == our_namespace and _start_time(int(pid)) != int(started)
    except ValueError:  # somebody else's file, or a token of no form of ours
        return False


def _processes_by_run() -> dict[str, list[int]]:
    """Token -> the processes that inherited it. What we may not look into is not ours."""
    found: dict[str, list[int]] = {}
    key = f"{VARIABLE}=".encode()
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            environment = Path(f"/proc/{name}/environ").read_bytes()
        except OSError:
            continue
        for entry in environment.split(b"\0"):
            if entry.startswith(key):
                found.setdefault(entry[len(key):].decode(errors="replace"), []).append(int(name))
    return found


# ---------------------------------------------------------------- undoing


def _undo(token: str) -> list[str]:
    done, deadline = [], time.monotonic() + GONE_SECONDS_MAX
    while pids := _processes_by_run().get(token):
        for pid in pids:
            name = _name_of(pid)
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            if (line := f"killed process {pid} ({name})") not in done:
                done.append(line)
        if time.monotonic() > deadline:
            done.append(f"process {pids[0]} does not go away")
            break
        time.sleep(0.02)
        _reap(pids)
    path = _registry() / token
    for kind, value, detail in reversed(_entries(path)):
        problem = {"mount": _unmount, "loop": _detach, "directory": _delete}[kind](value, detail)
        if problem is not None:
            done.append(problem or f"removed {kind} {value}")
    path.unlink(missing_ok=True)
    return done


def _name_of(pid: int) -> str:
    try:
        return " ".join(Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0"))[:100].strip()
    except OSError:
        return "?"


def _reap(pids: list[int]) -> None:
    """Those that are children of ours would stay in the process table until somebody asks for their exit status."""
    for pid in pids:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass


def _unmount(path: str, _detail: str) -> str | None:
    """None: it was not there; "": undone; else what went wrong."""
    if path not in _mounts():
        return None
    for command in (["umount", path], ["umount", "-l", path]):
        if subprocess.run(command, capture_output=True).returncode == 0:
            return ""
    return f"{path} cannot be unmounted: say `umount -l {path}`"


def _detach(device: str, backing: str) -> str | None:
    if _backing_of(device) != backing or not backing:
        return None  # free, or somebody else's by now
    done = subprocess.run(["losetup", "-d", device], capture_output=True, text=True)
    return "" if done.returncode == 0 else f"{device} cannot be detached: {done.stderr.strip()}"


def _delete(path: str, _detail: str) -> str | None:
    if not os.path.isdir(path):
        return None
    if inside := [mount for mount in _mounts() if mount == path or mount.startswith(path + "/")]:
        return f"{path} is not deleted: {inside[0]} is mounted in it"
    shutil.rmtree(path, ignore_errors=True)
    return ""


def _mounts() -> set[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), line.split()[4]) for line in lines}


def _backing_of(device: str) -> str:
    try:
        return Path(f"/sys/block/{os.path.basename(device)}/loop/backing_file").read_text().strip()
    except OSError:
        return ""


# ---------------------------------------------------------------- the registry


def _registry() -> Path:
    """A directory of ours alone: what stands in it is undone with our rights."""
    path = Path(tempfile.gettempdir()) / f"refbroker-chaos-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022 or not path.is_dir() or path.is_symlink():
        raise PermissionError(f"{path} is not a directory that belongs to us alone: remove it")
    return path


def _write(sign: str, kind: str, value: str) -> None:
    token = mark()
    if not token:
        return
    detail = _backing_of(value) if kind == "loop" else ""
    line = json.dumps([sign, kind, os.path.abspath(value), detail]).encode() + b"\n"
    fd = os.open(_registry() / token, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, line)
    finally:
        os.close(fd)


def _entries(path: Path) -> list[tuple[str, str, str]]:
    """What was registered and not released, in the order of registering."""
    kept: dict[tuple[str, str], str] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            sign, kind, value, detail = json.loads(line)
        except ValueError:  # the run was killed while it wrote this line
            continue
        kept.pop((kind, value), None)
        if sign == "+":
            kept[kind, value] = detail
    return [(kind, value, detail) for (kind, value), detail in kept.items()]
