"""What is measured of a broker that has the machine to itself? Start, memory, a crowd of idle connections, recovery.

- Start: from the start of its process to the answer to a Metadata request that names a broker, on a directory that has
  been formatted before; asked every few milliseconds by a thread of ours.
- Memory idle: resident, half a second after that.
- 1,000 idle connections: what each adds to the broker's resident memory, and the latency of another client beside them.
- Recovery: a GiB is appended and nothing flushed; SIGKILL; from the start to the first Fetch from the end of that log,
  less an ordinary start. The machine's own part of it is reading the file and computing its CRC-32C.
"""

import itertools
import math
import shutil
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

from chaos.bench import drive, raw
from chaos.bench.brokers import Maker, Side
from chaos.bench.drive import Frame, Place
from chaos.bench.goals import IDLE, RECOVERY, START
from chaos.bench.machine import Facts, Watch, memory_mib, percentile
from chaos.bench.rounds import Round, Row, in_rounds, rows, settle

CONNECTIONS = 1000
ASK_SECONDS = 0.004
STARTS = {"kafka": 1}  # in a round; three where a start takes a fraction of a second
CROWD = f"{CONNECTIONS:,} idle connections"


def timed_start(side: Side, asked: Callable[[], bool]) -> float:
    """Start the broker; seconds until `asked`, which may raise as long as nobody listens, is true."""
    answered: list[float] = []

    def ask() -> None:
        while not answered:
            try:
                if asked():
                    answered.append(time.perf_counter())
            except (OSError, raw.Refused, IndexError):
                time.sleep(ASK_SECONDS)

    began = time.perf_counter()
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    side.target.start()
    asking.join(60)
    if not answered:
        raise raw.Refused(f"{side.name} gives no answer")
    return answered[0] - began


def has_brokers(side: Side) -> bool:
    connection = raw.Connection(side.bootstrap)
    try:
        return bool(raw.metadata(connection)["brokers"])
    finally:
        connection.close()


def serves_from(side: Side, topic: str, offset: int) -> bool:
    """Whether a fetch from there on finds records."""
    connection = raw.Connection(side.bootstrap)
    try:
        return bool(raw.check_fetched(connection.call(raw.fetch_frame(topic, offset, 1 << 20))))
    finally:
        connection.close()


def one_turn(make: Maker, directory: Path, mib: int) -> dict[tuple[str, str], float]:
    """(row, figure) -> value, of one broker in one round."""
    shutil.rmtree(directory, ignore_errors=True)
    side = make(directory)
    side.target.start()  # formats, and warms the page cache
    starts = []
    for _ in range(STARTS.get(side.name, 3)):
        side.target.stop()
        starts.append(timed_start(side, lambda: has_brokers(side)))
    found = {(START, "s"): statistics.median(starts)}
    try:
        time.sleep(0.5)
        found[IDLE, "MiB"] = memory_mib(side.pid)
        found |= _crowd(side)
        raw.create_topic(side.bootstrap, "recovered", 1, {})
        frame = Frame(raw.produce_frame("recovered", raw.batch(250, 1024)), 250)
        drive.fill(Place(side.bootstrap, "recovered"), frame, mib)
        last = (mib * (1 << 20) // len(frame.data) + 1) * frame.records
        side.target.kill()
        took = timed_start(side, lambda: serves_from(side, "recovered", last))
        found[RECOVERY, "s/GiB"] = (took - found[START, "s"]) * 1024 / mib
    finally:
        if side.target.process:
            side.target.kill()
        shutil.rmtree(directory, ignore_errors=True)
        settle(str(directory.parent))
    return found


def _crowd(side: Side) -> dict[tuple[str, str], float]:
    raw.create_topic(side.bootstrap, "crowd", 1, {})
    frame = Frame(raw.produce_frame("crowd", raw.batch(1, 100)), 1)
    place, before, opened = Place(side.bootstrap, "crowd"), memory_mib(side.pid), []
    try:
        for _ in range(CONNECTIONS):
            opened.append(place.connect())
            raw.check_produced(opened[-1].call(frame.data))
        took = drive.latencies(place, frame, 0.7)
        return {(CROWD, "KiB each"): max(0.0, memory_mib(side.pid) - before) * 1024 / CONNECTIONS,
                (CROWD, "p50 us"): statistics.median(took) * 1e6, (CROWD, "p99 us"): percentile(took, 0.99) * 1e6}
    finally:
        for connection in opened:
            connection.close()


def measure(makers: dict[str, Maker], scratch: Path, rounds: int, mib: int, facts: Facts, told: Callable[[str], None]) -> list[Row]:
    """All rows of this file, the brokers in turn; without recovery where it was lost in the noise of the starts."""
    number = itertools.count(1)

    def once() -> Round:
        this, found, outside = next(number), {}, 0.0
        for name, make in makers.items():
            told(f"start, memory, {CROWD}, recovery: {name}, round {this}")
            watch = Watch()
            found[name] = one_turn(make, scratch / f"{name}-alone", mib)
            outside = max(outside, watch.outside())
        lost = any(one[RECOVERY, "s/GiB"] <= 0 for one in found.values())  # a plain start took longer: all noise
        return Round(found, math.inf if lost else outside)

    kept, repeats, noisy = in_rounds(once, rounds, told)
    result = []
    for key in next(iter(kept[0].figures.values())):
        only = [Round({name: {key[1]: one.figures[name][key]} for name in makers}, 0.0) for one in kept]
        result += rows(key[0], False, only, 0 if result else repeats, noisy)  # the rounds are of all of them
    if any(value <= 0 for row in result if row.workload == RECOVERY for values in row.values.values() for value in values):
        told("recovery: a start took longer than a start with a recovery, the machine is too busy to measure it")
        result = [row for row in result if row.workload != RECOVERY]
    for row in result:
        row.raw = facts["read and CRC-32C s/GiB"] if row.workload == RECOVERY else None
    return result
