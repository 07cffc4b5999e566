"""How is a whole machine run, and how is its power cut? As User Mode Linux: a kernel that is an ordinary process.

The guest's root is the host's own file system, read-only (hostfs), so that it finds the same Python and the same broker; its disk is an image
file. What the guest's block layer has written is in that file, and survives; its page cache, its dirty metadata and its
processes are memory of the guest, and go when it is killed. So SIGKILL for its session is a power cut. No root is needed:

1. each client of the guest writes its history to a console of its own, which is a pipe to the host: what a client has written
   has left the guest before the client goes on, so what was acked is known when the power goes;
2. after the cut e2fsck replays the journal of the image, and debugfs copies the files out.

What the guest's disk does (works, fails writes, lies) is up to dm-flakey, what its network does to netem, both in the guest.
"""

import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from chaos.targets import NotAvailable, TargetError

KERNEL = "linux.uml"
TOOLS = {KERNEL: "user-mode-linux", "mkfs.ext4": "e2fsprogs", "e2fsck": "e2fsprogs", "debugfs": "e2fsprogs", "dmsetup": "dmsetup",
         "tc": "iproute2", "insmod": "kmod"}
PLACES = ("/mnt", "/media", "/srv")  # where the guest may mount what it writes
IMAGE_MIB = 160
MEMORY_MIB = {"refbroker": 512, "kafka": 2048}
BOOT_SECONDS_MAX = 240
ROOT = Path(__file__).resolve().parents[2]

_INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs {place}
export HOME={place} TMPDIR={place} PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PYTHONPATH={root} PYTHONDONTWRITEBYTECODE=1 {java}
ip link set lo up
cd {root}
{python} -m chaos.machine.inside {spec}
echo "the guest's program ended with $?"
exec sleep 1000000
"""


def require() -> None:
    """Raises NotAvailable, in one line, where a machine cannot be run here."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = sorted({package for tool, package in TOOLS.items() if not shutil.which(tool, path=path)})
    if missing:
        raise NotAvailable(f"a machine of our own needs Debian's {', '.join(missing)}")


def make_image(path: Path) -> None:
    """An empty ext4 file system in a sparse file."""
    with path.open("wb") as file:
        file.truncate(IMAGE_MIB << 20)
    _run("mkfs.ext4", "-q", "-F", str(path))


def extract(image: Path, target: Path) -> None:
    """What a kernel would find after the cut: the journal replayed, then every file copied to `target` (made anew). The image
    itself stays as it is."""
    copy = image.with_suffix(".replayed")
    _run("cp", "--sparse=always", str(image), str(copy))
    _run("e2fsck", "-fy", str(copy), codes=(0, 1))  # 1: errors were corrected, as a journal replay counts
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    _run("debugfs", "-R", f"rdump / {target}", str(copy))
    copy.unlink()


def _run(*command: str, codes: tuple[int, ...] = (0,)) -> None:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    done = subprocess.run([shutil.which(command[0], path=path) or command[0], *command[1:]], capture_output=True, text=True, timeout=120)
    if done.returncode not in codes:
        raise TargetError(f"{command[0]} ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")


class Guest:
    """One boot. `spec` is what `chaos.machine.inside` is told; its clients get a console each, whose lines go to
    `history/<client>.jsonl` below `directory`; all else that the guest says goes to `console.txt`."""

    def __init__(self, image: Path, directory: Path, spec: dict):
        self.directory = directory
        self.history = directory / "history"
        self.history.mkdir(parents=True, exist_ok=True)
        place = next(place for place in PLACES if os.path.isdir(place) and not str(directory.resolve()).startswith(place + "/"))
        spec = {**spec, "place": place, "consoles": {name: number for number, name in enumerate(spec["clients"], 1)}}
        (directory / "spec.json").write_text(json.dumps(spec))
        init = directory / "init.sh"
        java = f"JAVA_HOME={os.environ['JAVA_HOME']}" if "JAVA_HOME" in os.environ else ""
        init.write_text(_INIT.format(place=place, root=ROOT, python=sys.executable, spec=(directory / "spec.json").resolve(), java=java))
        init.chmod(0o755)
        self._image, self._init, self._clients = image, init, list(spec["clients"])
        self._memory = MEMORY_MIB.get(spec["target"], MEMORY_MIB["refbroker"])
        self._said: list[str] = []
        self._news = threading.Condition()

    def start(self) -> None:
        pipes = {"console": os.pipe()} | {name: os.pipe() for name in self._clients}
        consoles = [f"con{number}=null,fd:{pipes[name][1]}" for number, name in enumerate(self._clients, 1)]
        command = [KERNEL, "rootfstype=hostfs", "ro", f"init={self._init.resolve()}", f"mem={self._memory}M",
                   f"ubd0={self._image.resolve()}", "con=null", f"con0=null,fd:{pipes['console'][1]}", *consoles, "quiet"]
        writing = [write for _, write in pipes.values()]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                        pass_fds=writing, start_new_session=True)
        for write in writing:
            os.close(write)
        files = {read: (self.directory / "console.txt" if name == "console" else self.history / f"{name}.jsonl")
                 for name, (read, _) in pipes.items()}
        self._thread = threading.Thread(target=self._listen, args=(files,), daemon=True)
        self._thread.start()

    def _listen(self, paths: dict[int, Path]) -> None:
        with selectors.DefaultSelector() as selector:
            files = {read: path.open("ab", buffering=0) for read, path in paths.items()}
            for read in files:
                selector.register(read, selectors.EVENT_READ)
            while files:
                for key, _ in selector.select():
                    data = os.read(key.fd, 1 << 16)
                    if not data:
                        selector.unregister(key.fd)
                        os.close(key.fd)
                        files.pop(key.fd).close()
                        continue
                    files[key.fd].write(data)
                    if paths[key.fd].name == "console.txt":
                        with self._news:
                            self._said.append(data.decode(errors="replace"))
                            self._news.notify_all()

    def wait_for(self, pattern: str, seconds_max: float = BOOT_SECONDS_MAX) -> None:
        """Return when the guest has said it. Raises TargetError with its last words."""
        deadline = time.monotonic() + seconds_max
        with self._news:
            while not re.search(pattern, "".join(self._said)):
                left = deadline - time.monotonic()
                ended = re.search(r"the guest's program ended|Kernel panic", "".join(self._said)) or self.process.poll() is not None
                if left <= 0 or ended:
                    raise TargetError(f"the guest did not say {pattern!r} within {seconds_max:.0f} s; its last words:\n"
                                      + "".join(self._said)[-2000:])
                self._news.wait(min(left, 1.0))

    def cut_power(self) -> None:
        """SIGKILL for the kernel and the processes that it made; nothing gets a chance to write anything."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._thread.join(20)
