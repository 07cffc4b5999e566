"""What if the disk is really full? A small tmpfs of its own (root), filled to the last page and emptied again while the story of
chaos/process/scenario.py is told; without root, a limit on the size of a file, lowered into the next write and lifted again.

Both give real short writes: the page that a log ends in takes what fits, and the rest is refused. Then space returns, the client asks
again, and the story must come to its end, each batch at the offset that was due (C1.14); what is on the disk is judged after a restart.
"""

import os
import random
import resource
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from chaos import leftovers
from chaos.checks.history.case import Finding
from chaos.process import scenario
from chaos.process.sweep import Sweep, judged
from chaos.targets import Process, TargetError
from refbroker.client import ClientError

FAULT = "F4"
SPACE_BYTES = 4 << 20  # the story, its checkpoints, and room for the filler
FULL_SECONDS = (0.05, 0.4)
FREE_REQUESTS_MAX = 10  # between two times; counted, since a story on an idle machine is over in less time than any that could be named
TIMES_MAX = 12  # then there is space for good, and the story must come to its end
PATIENCE_S = 30.0


class Filler(threading.Thread):
    """Takes the space away and gives it back, again and again; `times` counts how often it was gone."""

    def __init__(self, target: Process, story: scenario.Story, mounted: bool, rng: random.Random):
        super().__init__(daemon=True)
        self._target, self._story, self._mounted, self._rng = target, story, mounted, rng
        self._done = threading.Event()
        self.times = 0

    def run(self) -> None:
        while self.times < TIMES_MAX and self._asked(self._rng.randrange(FREE_REQUESTS_MAX)):
            self._fill()
            self.times += 1
            self._done.wait(self._rng.uniform(*FULL_SECONDS))
            self._free()

    def _asked(self, requests: int) -> bool:
        """Wait for so many more; False at the end of the story."""
        until = self._story.asked + requests
        while self._story.asked < until and not self._done.wait(0.001):
            pass
        return not self._done.is_set()

    def stop(self) -> None:
        self._done.set()
        self.join()

    @property
    def _filler(self) -> Path:
        return Path(self._target.data_directory) / "filler"

    def _fill(self) -> None:
        if not self._mounted:
            sizes = [path.stat().st_size for path in Path(self._target.data_directory).glob("swept-*/*.log")]
            longest = max(sizes, default=0) if self.times % 2 else 0  # in turns: one log is full, or everything is
            self._limit(longest + self._rng.randrange(1, scenario.VALUE_BYTES))
            return
        block = bytes(SPACE_BYTES)  # all at once: the story goes on meanwhile
        with open(self._filler, "wb", buffering=0) as file:
            try:
                while file.write(block):
                    pass
            except OSError:  # full
                pass

    def _free(self) -> None:
        if self._mounted:
            self._filler.unlink(missing_ok=True)
        else:
            self._limit(resource.RLIM_INFINITY)

    def _limit(self, size: int) -> None:
        try:
            resource.prlimit(self._target.pid or 0, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        except (ProcessLookupError, PermissionError):  # it has ended
            pass


@contextmanager
def small_disk(directory: Path) -> Iterator[bool]:
    """A tmpfs on `directory`; False where that is not allowed, and `directory` then an ordinary one."""
    directory.mkdir(parents=True)
    leftovers.register("mount", directory)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SPACE_BYTES}", "refbroker-chaos", str(directory)],
                             capture_output=True).returncode == 0 if os.geteuid() == 0 else False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(directory)], capture_output=True, check=True)
        leftovers.release("mount", directory)


def one(sweep: Sweep, policy: str, number: int, seed: int) -> None:
    """One story on a disk that is full again and again."""
    place = sweep.directory / f"{policy}-full-disk-{number}"
    with small_disk(place / "data") as mounted:
        target, story = sweep.make(place, policy), scenario.Story(PATIENCE_S)
        target.start()
        filler = Filler(target, story, mounted, random.Random(f"{seed}/{policy}/full/{number}"))
        filler.start()
        found = []
        try:
            story.tell(target)
        except (ClientError, scenario.Refused) as error:
            if target.process.poll() is None:
                found.append(Finding("C1.14", "no service after space has returned", "", -1, -1, str(error)))
        finally:
            filler.stop()
            story.close()
        found += _stopped(target)
        found += judged(sweep, place, policy, story, retry=True, fault=FAULT)
        if found:
            shutil.copytree(place / "data", place / "kept")
    what = f"; {'a full tmpfs' if mounted else 'a limit on file sizes'}, {filler.times} times, see {place} [{FAULT}]"
    sweep.count((policy, FAULT, "full disk" if mounted else "file size limit"), story.refused > 0, True,
                [replace(finding, evidence=finding.evidence + what) for finding in found])
    if not found:
        shutil.rmtree(place)


def _stopped(target: Process) -> list[Finding]:
    began = time.monotonic()
    try:
        target.stop()
    except TargetError as error:
        return [Finding("C2.10", "does not stop", "", -1, -1, f"after {time.monotonic() - began:.0f} s: {error}")]
    return []
