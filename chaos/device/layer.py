"""The device layer: the power goes under a real file system, at every flush of its disk, while real clients write.

For each file system (ext4, then XFS or btrfs, all where there is time): a load on a recorded disk, then cuts until the time is spent. Two
questions are answered, each with counts: does the broker keep its contract, for all flush policies; and does the simulated disk tell
the truth, that is: was each state that the file system showed one that its profile allows (`outside` must be 0).

And on ext4: fsyncgate, an fsync that fails and a later one that succeeds (gate.py); and the teeth: with barriers off, statements must
break. If they do not, the layer sees nothing, and the run has not enough evidence.

Everything is gone with this process, however it ends: mounts in a namespace of its own, loop devices that go with their mount, images
without a name, a recorder that dies with its parent.
"""

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from chaos.checks import history as checks
from chaos.checks.history.case import Finding
from chaos.device import cuts
from chaos.device.disk import FILE_SYSTEMS, NO_BARRIER, FileSystem, RecordedDisk, check_available, missing_mkfs, mounted
from chaos.device.judge import Judge, State, Tally, case_of
from chaos.device.load import Loaded, broker_on, load, served
from chaos.process.rounds import PROPERTIES
from chaos.process.timeline import Strike, timeline
from chaos.report import Report
from chaos.targets import TargetError
from refbroker.config import Config

LAYER = "device"
LOAD_SECONDS = 2.0
TEETH_SECONDS, TEETH_MOMENTS = 0.7, 8
PASS_INTERVALS = 16  # in ascending order: a disk that is put together goes forward only
LATEST_OF = 5  # where there is time for one interval only, it is the latest of so many: a full disk says more
OTHERS_CUT_SECONDS, OTHERS_DISK_BYTES = 15.0, 192 << 20
STRIKES_MAX = 30
Progress = Callable[[str], None]


def run(report: Report, seed: int, seconds: float, directory: Path, progress: Progress, target: str = "refbroker") -> None:
    """Spend about `seconds`. Raises NotAvailable where the machine cannot do it."""
    from chaos.device import gate

    check_available()
    began, rng = time.monotonic(), random.Random(f"{seed}/device")
    shutil.rmtree(directory, ignore_errors=True)
    systems = [system for system in FILE_SYSTEMS.values() if not missing_mkfs(system)]
    report.not_run += [f"{LAYER}: {missing}" for system in FILE_SYSTEMS.values() if (missing := missing_mkfs(system))]
    if target != "refbroker":
        _others(report, rng, seed, seconds, directory, progress, target)
        return
    if seconds < 75 and len(systems) > 2:
        left = systems.pop(rng.randrange(1, len(systems)))
        report.not_run.append(f"{LAYER}: {left.name}: no time for a third file system in {seconds:.0f} s (--minutes, or another seed)")
    if FILE_SYSTEMS["ext4"] in systems:
        progress("teeth: ext4 without barriers")
        _teeth(report, seed, directory / "teeth")
        progress("fsyncgate: ext4 on a disk that refuses writes for a moment")
        gate.run(report, LAYER, seed, directory / "gate")
    for number, system in enumerate(systems):
        until = time.monotonic() + (began + seconds - time.monotonic()) / (len(systems) - number)
        cut_all(report, seed, system, directory / system.name, until, progress)


def config_of_broker() -> Config:
    """What the brokers of load.py run with, for recoveries in this process."""
    return Config.load(None, {}, [f"{key}={value}" for key, value in {**PROPERTIES, "log.flush.interval.messages": "1"}.items()])[0]


def cut_all(report: Report, seed: int, system: FileSystem, directory: Path, until: float, progress: Progress) -> None:
    """One load on this file system, and its cuts until the time is over; those of one interval at least."""
    progress(f"{system.name}: real clients write to a broker on a recorded disk")
    with RecordedDisk(system, directory) as disk:
        loaded = load(disk, directory, seed, LOAD_SECONDS)
    tally, rng = Tally(), random.Random(f"{seed}/{system.name}/cuts")
    judge = Judge(system, loaded, config_of_broker(), tally)
    spans = cuts.intervals(loaded.entries, loaded.since, loaded.until)
    todo, struck, size = rng.sample(spans, len(spans)), [], 1
    todo[:LATEST_OF] = sorted(todo[:LATEST_OF], reverse=True)
    with Looking(system, directory) as looking:
        if todo:
            _serve(looking, judge, todo[0], rng)
        while todo and (not struck or time.monotonic() < until):
            batch, todo, size = sorted(todo[:size]), todo[size:], PASS_INTERVALS
            for interval in _one_pass(looking, judge, batch, rng, until):
                struck.append(loaded.entries[interval[1]].time)
                progress(f"{system.name}: {tally.cuts} power cuts, {tally.mounted} images mounted, {sum(tally.outside.values())} outside of the model, "
                         f"{tally.broken_cuts} broke a statement")
    _report(report, system, loaded, tally, struck, f"{len(struck)} of {len(spans)}")


def _one_pass(looking: "Looking", judge: Judge, batch: list[tuple[int, int]], rng: random.Random, until: float) -> Iterator[tuple[int, int]]:
    """Judge the cuts of these intervals, in order; yields each interval that is done. The first is done whatever the time is."""
    entries, system = judge.loaded.entries, looking.system
    walk, platter = judge.begin(), cuts.Platter(entries, system.size)
    states: dict[int, State | OSError] = {}
    for interval in batch:
        for cut in cuts.cuts_in(entries, interval, system.sector_bytes, rng):
            if interval != batch[0] and time.monotonic() >= until:
                return
            image = platter.image(cut)
            if image.digest not in states:
                states[image.digest] = looking.at(image, judge.look)
            judge.judge(states[image.digest], walk.at(cut.time), cut.time, where(system, judge.loaded, cut))
        yield interval


def where(system: FileSystem, loaded: Loaded, cut: cuts.Cut) -> str:
    return f"[{system.name}: power cut after {cut.at} of {len(loaded.entries)} requests to the disk, {cut.how}, seed {cut.seed}]"


class Looking:
    """A place to mount crashed images at, one after the other."""

    def __init__(self, system: FileSystem, directory: Path):
        self.system, self.directory = system, directory
        self._mountpoint = directory / "look"
        self._mountpoint.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        self._image = os.memfd_create("crashed")
        return self

    def __exit__(self, *_) -> None:
        os.close(self._image)

    def at(self, image: cuts.Image, look: Callable):
        """What `look` makes of the mounted image, or the error with which mounting or reading it ended."""
        image.write(self._image)
        try:
            with mounted(self.system, self._image, self._mountpoint) as mountpoint:
                return look(mountpoint)
        except OSError as error:
            return error


def _serve(looking: Looking, judge: Judge, interval: tuple[int, int], rng: random.Random) -> None:
    """A broker process starts on the mounted image, recovers there, and answers a real client: judged like the others."""
    loaded, tally = judge.loaded, judge.tally
    cut = next(cut for cut in cuts.cuts_in(loaded.entries, interval, looking.system.sector_bytes, rng) if cut.how == "subset")
    broker = broker_on(looking.directory / "look", looking.directory / "served")
    found = looking.at(cuts.Platter(loaded.entries, looking.system.size).image(cut), lambda _: served(broker, loaded))
    platters = judge.begin().at(cut.time)
    if isinstance(found, OSError):
        judge.judge(found, platters, cut.time, where(looking.system, loaded, cut))
        return
    tally.served += 1
    tally.broken_cuts += judge.contract(found, platters, cut.time, cut.time, f"{where(looking.system, loaded, cut)}, served by a process")


def _report(report: Report, system: FileSystem, loaded: Loaded, tally: Tally, struck: list[int], intervals: str) -> None:
    fault = f"F2 {system.name}"
    into(report, fault, tally)
    flushes = sum(entry.kind == b"F" for entry in loaded.entries)
    outside = {f"outside_{name}": tally.outside[name] for name in (system.profile, "posix")} if loaded.record else {}
    report.figures.append({
        "layer": LAYER, "policy": "all", "fault": fault, "acked": len(loaded.history.acked), "seen": len(loaded.history.seen),
        "disk_requests": len(loaded.entries), "flushes": flushes, "flush_intervals": intervals, "cuts": tally.cuts,
        "images_mounted": tally.mounted + tally.served, "recovered_in_place": tally.in_place, "served": tally.served, "not_mountable": tally.outside["mount"],
        **outside, **{f"lost_{name}": count for name, count in tally.lost.items()}})
    strikes = [Strike("power cut", at) for at in sorted(struck)[::max(1, len(struck) // STRIKES_MAX)]]
    report.timelines.append(timeline(LAYER, "all", fault, loaded.history, strikes))
    if not loaded.history.acked:
        report.not_enough.append(f"{LAYER}, {system.name}: nothing was acked")
    if not tally.lost["none"]:
        report.not_enough.append(f"{LAYER}, {system.name}: page cache only lost nothing in {tally.cuts} power cuts: the fault did not bite (S2)")


def into(report: Report, fault: str, tally: Tally) -> None:
    """A tally's judgements as rows of the report."""
    for policy, judged in tally.judged.items():
        by_pair: dict[tuple[str, str], list[Finding]] = {}
        for finding in tally.findings[policy]:
            by_pair.setdefault((finding.statement, finding.acks), []).append(finding)
        for pair, times in judged.items():
            report.judge(LAYER, policy, fault, [pair], by_pair.get(pair, ()), times)


def _teeth(report: Report, seed: int, directory: Path) -> None:
    """Without barriers the disk may lose what the file system thinks is durable: the judges must see it."""
    with RecordedDisk(NO_BARRIER, directory) as disk:
        loaded = load(disk, directory, seed, TEETH_SECONDS)
    tally, rng = Tally(), random.Random(f"{seed}/teeth")
    judge = Judge(NO_BARRIER, loaded, config_of_broker(), tally)
    walk, platter = judge.begin(), cuts.Platter(loaded.entries, NO_BARRIER.size)
    with Looking(NO_BARRIER, directory) as looking:
        acked = min((send.completed for send in loaded.history.acked), default=loaded.since)
        for cut in cuts.moments(loaded.entries, acked, loaded.until, TEETH_MOMENTS, rng):
            judge.judge(looking.at(platter.image(cut), judge.look), walk.at(cut.time), cut.time, where(NO_BARRIER, loaded, cut))
    broken = {finding.statement for found in tally.findings.values() for finding in found if not finding.allowed}
    report.figures.append({"layer": LAYER, "teeth": "ext4 with barriers off", "cuts": tally.cuts, "cuts_that_broke_a_statement": tally.broken_cuts,
                           "not_mountable": tally.outside["mount"], "statements": " ".join(sorted(broken))})
    if not broken & {"C1.3", "C1.6"}:
        report.not_enough.append(f"{LAYER}: with barriers off no acked record was missed in {tally.cuts} power cuts: the layer sees nothing")


def _others(report: Report, rng: random.Random, seed: int, seconds: float, directory: Path, progress: Progress, target: str) -> None:
    """Another broker on ext4: each cut is a start of its own process on the mounted image. What it did to its disk is not recorded, so
    nothing is said about the model, nor about how much of a page-cache-only topic is durable."""
    system, began = FILE_SYSTEMS["ext4"]._replace(size=OTHERS_DISK_BYTES), time.monotonic()
    report.not_run.append(f"{LAYER}: fsyncgate, teeth and the disk model: the effects of {target} on its disk are not recorded")
    progress(f"{system.name}: real clients write to {target} on a recorded disk")
    with RecordedDisk(system, directory) as disk:
        loaded = load(disk, directory, seed, LOAD_SECONDS * 2, target)
    acked = min(send.completed for send in loaded.history.acked)
    todo = rng.sample(spans := cuts.intervals(loaded.entries, acked, loaded.until), len(spans))
    tally, done, lasted = Tally(), 0, OTHERS_CUT_SECONDS
    with Looking(system, directory) as looking:
        while todo and (not done or time.monotonic() - began + lasted < seconds):
            started, interval = time.monotonic(), todo.pop()
            cut = rng.choice(cuts.cuts_in(loaded.entries, interval, system.sector_bytes, rng))
            broker = broker_on(directory / "look", directory / f"served{done}", target)
            image = cuts.Platter(loaded.entries, system.size).image(cut)
            found = looking.at(image, lambda _, broker=broker: served(broker, loaded))
            if isinstance(found, OSError):
                raise TargetError(f"{system.name} does not mount after a power cut: {found}")
            tally.served += 1
            for topic in loaded.policies:
                case = case_of(loaded, topic, loaded.of_topic(topic).until(cut.time), cut.time, "F2", *found)
                tally.lost[case.policy.name] += len(checks.lost.missing(case))
                tally.add(case.policy.name, checks.judged(case), checks.check_all(case))
            done, lasted = done + 1, time.monotonic() - started
            progress(f"{target} on {system.name}: {done} power cuts, lost {dict(tally.lost)}")
    tally.cuts = done
    _report(report, system, loaded, tally, [], f"{done} of {len(spans)}")
