"""Fsyncgate for real: what becomes of acks when the disk refuses writes for a moment, an fsync fails, and the next one succeeds?

On ext4 the pages that could not be written are marked clean: the page cache shows the new bytes, later fsyncs return success, and the bytes
never reach the disk. A file of our own on the same mount shows that this has happened here; without that there is no evidence. The
part of the disk that holds the journal and the inodes is spared, for ext4 would go read-only without it, and no later fsync would succeed.

Judged (C1.13): the broker leaves (exit code 1) or serves nothing that depended on the failed fsync: then the power goes, a broker starts on
what the disk has, and every record that was acked under fsync before ack, before the refusal or after it, must be there.
"""

import errno
import os
import random
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from chaos.checks.history.case import ANY, Finding
from chaos.device import cuts
from chaos.device.disk import PACKED, RecordedDisk
from chaos.device.judge import Judge, State, Tally
from chaos.device.load import Loaded, broker_on, load, served
from chaos.report import Report
from chaos.targets import Process

SYSTEM = PACKED
FAULT = "F2+F3"
BEFORE_SECONDS = 0.6
LEAVES_SECONDS_MAX = 5.0
TRIES_MAX = 3  # ext4 goes read-only where a refusal meets a directory on its way out of the journal; then nothing can be seen
OLD, NEW = b"old" * 1365, b"new" * 1365  # just below a page


class Probe:
    """A file that lives through the same refusal, written by us."""

    def __init__(self, path: Path):
        self.first = self.second = "not asked"
        self.cached = b""
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._put(OLD)
        os.fsync(self._fd)

    def _put(self, data: bytes) -> None:
        os.pwrite(self._fd, data, 0)

    def _sync(self) -> str:
        try:
            os.fsync(self._fd)
            return "ok"
        except OSError as error:
            return errno.errorcode[error.errno]

    def fail(self) -> None:
        """While writes are refused: a write that goes well, an fsync that does not."""
        self._put(NEW)
        self.first = self._sync()

    def succeed(self) -> None:
        """When writes go again: an fsync, and what the page cache has."""
        self.second = self._sync()
        self.cached = os.pread(self._fd, len(NEW), 0)
        os.close(self._fd)

    @property
    def happened(self) -> bool:
        return self.first == "EIO" and self.second == "ok" and self.cached == NEW


def _refused_under_load(seed: int, directory: Path) -> tuple[Probe, list[int | None], Loaded]:
    """The disk refuses writes for a moment under load. What became of the probe, the broker and the load."""
    exit_code: list[int | None] = []
    with RecordedDisk(SYSTEM, directory) as disk:
        probe = Probe(disk.mountpoint / "probe")
        spared = disk.metadata()

        def refuse(broker: Process) -> None:
            disk.refuse_writes(errno.EIO, spared)
            probe.fail()
            try:
                exit_code.append(broker.process.wait(LEAVES_SECONDS_MAX))
            except subprocess.TimeoutExpired:
                exit_code.append(None)
            disk.let_write()
            probe.succeed()
            if exit_code[0] is None:  # it goes on: what it acks now is judged like everything else
                time.sleep(1)

        return probe, exit_code, load(disk, directory, seed, BEFORE_SECONDS, disturb=refuse)


def run(report: Report, layer: str, seed: int, directory: Path) -> None:
    """One refusal under load, three power cuts after it, and a restart."""
    from chaos.device.layer import Looking, config_of_broker, into

    for number in range(TRIES_MAX):
        probe, exit_code, loaded = _refused_under_load(seed + number, directory / str(number))
        if probe.happened:
            break
    refused = [entry.time for entry in loaded.entries if entry.kind == b"E"]
    tally = Tally()
    judge = Judge(SYSTEM, loaded, config_of_broker(), tally)
    at = sum(entry.time <= loaded.until for entry in loaded.entries)
    platters, platter = judge.begin().at(loaded.until), cuts.Platter(loaded.entries, SYSTEM.size)
    survived: set[bytes] = set()
    with Looking(SYSTEM, directory) as looking:
        for how in ("none", "subset", "all"):
            cut = cuts.Cut(at, loaded.until, how, random.Random(f"{seed}/gate").getrandbits(32))
            image = platter.image(cut)
            state = looking.at(image, lambda place: (survived.add((place / "probe").read_bytes()), judge.look(place))[1])
            _judge(judge, state, platters, refused, f"[ext4: power cut after fsyncgate, {how}]")
        broker = broker_on(directory / "look", directory / "served")
        found = looking.at(image, lambda _: served(broker, loaded))
        if not isinstance(found, OSError):
            tally.served += 1
            judge.contract(found, platters, loaded.until, min(refused, default=loaded.until), "[after fsyncgate, served by a process]", FAULT)
    _report(report, layer, loaded, tally, probe, survived, refused, exit_code, into)


def _judge(judge: Judge, state: State | OSError, platters, refused: list[int], where: str) -> None:
    """As after any power cut; what was acked just before the refusal, or later, is young."""
    judge.tally.cuts += 1
    if isinstance(state, OSError):
        judge.tally.add("any", ["C1.13"], [Finding("C1.13", "no file system", "", -1, -1, f"{state} {where}")])
        return
    log = state.log(judge.loaded.partitions, judge.records)
    judge.contract(log, platters, judge.loaded.until, min(refused, default=judge.loaded.until), where, FAULT)


def _report(report: Report, layer: str, loaded, tally: Tally, probe: Probe, survived: set[bytes], refused: list[int],
            exit_code: list[int | None], into: Callable) -> None:
    name = "messages=1"
    lost = [finding for finding in tally.findings.get(name, ()) if finding.statement == "C1.3"]
    after = sum(send.completed > refused[0] for send in loaded.of_topic("durable").acked) if refused else 0
    tally.add(name, ["C1.13"], [replace(finding, statement="C1.13", acks=ANY) for finding in lost])
    tally.judged[name]["C1.13", ANY] = tally.cuts + tally.served
    into(report, f"{FAULT} ext4", tally)
    report.figures.append({
        "layer": layer, "fault": f"{FAULT} ext4 fsyncgate", "acked": len(loaded.history.acked), "writes_refused": len(refused),
        "first_fsync": probe.first, "second_fsync": probe.second, "page_cache": "new bytes" if probe.cached == NEW else "old bytes",
        "after_the_power_cut": " or ".join(sorted("old bytes" if data == OLD else "new bytes" if data == NEW else "other bytes" for data in survived)),
        "broker": "goes on" if exit_code[0] is None else f"exit {exit_code[0]}", "acked_later": after, "lost_before_ack": len(lost)})
    if not probe.happened or NEW in survived or not refused:
        report.not_enough.append(f"{layer}: no fsyncgate happened: first fsync {probe.first}, second {probe.second}, {len(refused)} writes refused")
