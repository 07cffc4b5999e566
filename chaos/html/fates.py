"""What became of each operation, each effect and each byte of one failing run? The facts that `story.py` draws.

1. An operation lasts from the first line of the write list that it made to the last. What its client was told before the crash is in the
   driver's ledger.
2. An effect is *durable* where a completed sync covers it under the plan's disk; else *kept*, *torn* or *lost* as the plan's deviations
   say; *never* where the crash came before it.
3. A byte is compared in three contents of its file: the page cache at the crash, what was durable, and what the crash left.
"""

import random
import re
from dataclasses import dataclass, field
from typing import NamedTuple

from chaos.disk import small
from chaos.disk.driver import POLICIES, Driver, quietly
from chaos.disk.lab import cache_images
from chaos.disk.ledger import Append
from chaos.disk.model import SYNCS, Event
from chaos.disk.profiles import BY_NAME, WEAKEST, Platters, apply_to_dirs, tree_of
from chaos.disk.spaces import Space

DURABLE, KEPT, TORN, LOST, NEVER, SYNC = "durable", "kept", "torn", "lost", "never", "sync"
_BEFORE = re.compile(r"(?:(\d+) bytes of|before) #(\d+)")


class Told(NamedTuple):
    """One thing that a client asked. `at`: when the reply left, None where none had when the crash came."""

    text: str
    at: int | None


@dataclass
class Operation:
    """One operation of the plan, and the lines of the write list that it made."""

    name: str
    setup: bool
    begin: int
    end: int
    told: list[Told] = field(default_factory=list)


class Fate(NamedTuple):
    """What became of one line of the write list; `how` in the words of the plan."""

    state: str
    how: str = ""


@dataclass
class Facts:
    operations: list[Operation]
    events: list[Event]
    fates: list[Fate]
    cached: dict[str, bytes | None]  # the page cache when the crash came
    durable: dict[str, bytes | None]  # what no crash could take, under the path that the page cache has it
    recovered: dict[str, bytes | None]  # what recovery left


def facts_of(replay) -> Facts:
    """All that can be said of a `chaos.plan.Replay`."""
    crash, driver = replay.plan["crash"], replay.driver
    at = crash["after_events"]
    profile = BY_NAME.get(crash["disk"], WEAKEST)
    platters = Platters(driver.disk, profile.commit)
    for event in driver.disk.events[:at]:
        platters.feed(event)
    cached = next(image for when, image, cut in cache_images(driver.disk, at) if (when, cut) == (at, 0))
    return Facts(_operations(replay, at), driver.disk.events, _fates(replay, at, profile, platters), cached, _durable(platters),
                 {path: data for part in (replay.recovered, *replay.recovered.parts) for path, data in part.after.items()})


def _operations(replay, at: int) -> list[Operation]:
    """The plan is driven once more: the driver keeps no record of where operations begin."""
    plan = replay.plan
    driver = Driver(POLICIES[plan["policy"]])
    known: set[int] = set()
    with quietly(), small.applied(plan.get("constants", small.USUAL)):
        driver.start()
        found = [Operation("start", True, 0, driver.at)]
        for place, operation in enumerate([*plan["setup"], *plan["operations"]]):
            begin, refused = driver.at, len(driver.refused)
            driver.do(operation)
            found.append(Operation(name_of(operation), place < len(plan["setup"]), begin, driver.at,
                                   [Told(text, driver.at if driver.at <= at else None) for text in driver.refused[refused:]]))
            for entry in driver.ledger.partitions:
                new = [step for step in entry.steps if id(step) not in known]
                known |= set(map(id, new))
                found[-1].told += [_told(entry, step, at) for step in new if step.began <= at]
    return found


def name_of(operation: dict) -> str:
    """"append records=2", as short as can be."""
    return " ".join([operation["op"], *(key if value is True else f"{key}={value}" for key, value in operation.items() if key != "op")])


def _told(entry, step, at: int) -> Told:
    where = f"{entry.topic}-{entry.number}"
    if isinstance(step, Append):
        offsets = f"offset {step.base_offset}" if step.base_offset == step.last_offset else f"offsets {step.base_offset} to {step.last_offset}"
        return Told(f"{where} {offsets}", step.acked if step.acked is not None and step.acked <= at else None)
    return Told(f"{where} {step.kind} {'to' if step.kind == 'truncate' else 'below'} {step.offset}", step.done if step.done is not None and step.done <= at else None)


def _durable(platters: Platters) -> dict[str, bytes | None]:
    """Contents by the names that the page cache has, since a file whose entry is not durable may have durable bytes."""
    dirs = {number: dict(children) for number, children in platters.dirs.items()}
    for _, event in platters.entries:
        apply_to_dirs(dirs, event)
    return {path: platters.base.get(number) for path, number in tree_of(dirs).items()}


def _fates(replay, at: int, profile, platters: Platters) -> list[Fate]:
    crash = replay.plan["crash"]
    pending = {index for pairs in platters.pending.values() for index, _ in pairs} | {index for index, _ in platters.entries}
    if profile.files == "strict":
        pending = {index for index, _ in platters.sequence}
    struck = _struck(crash, profile, platters, at)
    fates = []
    for index, event in enumerate(replay.driver.disk.events):
        if index >= at:
            fates.append(Fate(NEVER))
        elif event.kind in SYNCS:
            fates.append(Fate(SYNC))
        elif event.kind == "mark":
            fates.append(Fate(KEPT))
        elif index in struck:
            fates.append(struck[index])
        else:
            fates.append(Fate(KEPT if index in pending else DURABLE))
    return fates


def _struck(crash: dict, profile, platters: Platters, at: int) -> dict[int, Fate]:
    """Effects that did not come out as the page cache had them, by their number."""
    labels = crash["deviations"]
    if crash["fault"] != "F2":
        torn = labels.get("process", {}).get("torn")
        return {at - 1: Fate(TORN, f"{torn} bytes of it")} if torn else {}
    found: dict[int, Fate] = {}
    for part in Space(profile, platters, random.Random(0)).parts:
        members = _members(part.name, platters)
        for axis, label in labels.get(part.name, {}).items():
            for index, event in members:
                fate = _fate(axis, label, index, event, profile.sector_bytes)
                if fate and found.get(index, Fate(KEPT)).state != LOST:
                    found[index] = fate
    return found


def _members(name: str, platters: Platters) -> list[tuple[int, Event]]:
    if name == "entries":
        return platters.entries
    if name == "everything":
        return platters.sequence
    return platters.pending[int(name.partition(":")[0])]


def _fate(axis: str, label: str, index: int, event: Event, sector_bytes: int) -> Fate | None:
    """What a deviation of the plan did to effect `index`; None where it left it alone."""
    if axis == f"#{index}":
        return Fate(LOST if label in ("lost", "undone") else TORN, label)
    match = _BEFORE.fullmatch(label)
    if match is None or axis.startswith("#"):
        return None
    point = int(match[2])
    if axis.startswith("sector "):
        start = int(axis[7:]) * sector_bytes
        touched = event.position < start + sector_bytes and event.position + len(event.data) > start
        return Fate(TORN, f"{axis} as {label}") if index >= point and touched else None
    if index == point and match[1]:
        return Fate(TORN, f"{match[1]} bytes of it")
    return Fate(LOST, f"{axis}: {label}") if index >= point else None


class Bytes(NamedTuple):
    """One file, byte by byte. `states` has one letter for each: d durable, k kept, t torn (other than in the page cache), l lost,
    x there although the page cache had dropped it."""

    path: str
    cached: bytes | None
    durable: bytes | None
    left: bytes | None
    states: str

    @property
    def shown(self) -> bytes:
        """What the crash left, and what it took."""
        cached, left = self.cached or b"", self.left or b""
        return left + cached[len(left):]


def bytes_of(path: str, facts: Facts, crashed: dict[str, bytes | None]) -> Bytes:
    cached, durable, left = facts.cached.get(path), facts.durable.get(path), crashed.get(path)
    return Bytes(path, cached, durable, left, _states(cached or b"", durable or b"", left or b""))


def _states(cached: bytes, durable: bytes, left: bytes) -> str:
    out = []
    for place in range(max(len(cached), len(left))):
        if place >= len(left):
            out.append("l")
        elif place >= len(cached):
            out.append("x")
        elif left[place] != cached[place]:
            out.append("t")
        else:
            out.append("d" if place < len(durable) and durable[place] == cached[place] else "k")
    return "".join(out)
