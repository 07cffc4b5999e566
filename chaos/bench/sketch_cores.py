"""What would several cores bring? One broker process for each, each leading partitions of its own: a sketch, no product.

The log has one owner, the event loop's thread, and keeps it: nothing is shared, so nothing is locked. What several
processes would need is only to be told apart by clients, as the brokers of a cluster are: Metadata names for each
partition the process that leads it. Here that is played by the bench: each client process talks to the broker that leads
its partition. It measures one broker with its client, then two with one each, all at the same time.

On a machine whose cores are used up by one broker and its client, two of them cannot be faster together. What counts
there is the processor time for each GiB: it says what a machine with cores to spare would do, and that a second process
makes no byte dearer.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from chaos.bench import drive, raw
from chaos.bench.brokers import OURS, Side, makers
from chaos.bench.drive import Frame, Place
from chaos.bench.machine import MIB, processor_seconds
from chaos.bench.rounds import settle

SECONDS = 4.0
BATCHES = {"16 kB batches": 15, "1 MB batches": 966}  # records of 1 KiB


def sketch(scratch: Path, told: Callable[[str], None]) -> dict[str, float]:
    """The figures, by name."""
    figures: dict[str, float] = {"cores of this machine": os.cpu_count() or 1}
    for processes in (1, 2):
        sides = [makers(None)[OURS](scratch / f"{processes}-{number}") for number in range(processes)]
        for side in sides:
            side.target.start()
        try:
            for name, records in BATCHES.items():
                told(f"{processes} broker process{'es' * (processes > 1)}: {name}")
                rate, of_brokers, of_clients = _measure(sides, records)
                title = f"{processes} process{'es' * (processes > 1)}, {name}: "
                figures[title + "MiB/s in all"] = rate
                figures[title + "processor seconds of the brokers for a GiB"] = of_brokers
                figures[title + "processor seconds of the clients for a GiB"] = of_clients
                figures[title + "MiB/s of a broker with a core of its own"] = 1024 / of_brokers
        finally:
            for side in sides:
                side.target.stop()
    return figures


def _measure(sides: list[Side], records: int) -> tuple[float, float, float]:
    """(MiB/s over all, processor seconds for each GiB of the brokers, of the clients)."""
    for side in sides:
        raw.create_topic(side.bootstrap, "led-here", 1, {"file.delete.delay.ms": "0"})
    before, began = sum(sum(processor_seconds(side.pid)) for side in sides), time.monotonic()
    running = [drive.beside(_produce, Place(side.bootstrap, "led-here"), records) for side in sides]
    done = [result() for result in running]
    took = time.monotonic() - began
    used = sum(sum(processor_seconds(side.pid)) for side in sides) - before
    for side in sides:
        raw.delete_topic(side.bootstrap, "led-here")
    settle(sides[0].target.directory)
    mib = sum(sent for sent, _ in done)
    return mib / took, used / mib * 1024, sum(seconds for _, seconds in done) / mib * 1024


def _produce(place: Place, records: int) -> tuple[float, float]:
    """(MiB that were appended, processor seconds of this client)."""
    frame = Frame(raw.produce_frame(place.topic, raw.batch(records, 1024)), records)
    before = sum(os.times()[:2])
    drive.pipelined(place, frame, SECONDS)
    used = sum(os.times()[:2]) - before
    connection = place.connect()
    appended = raw.check_produced(connection.call(frame.data))  # its offset counts what came before it
    connection.close()
    return appended / frame.records * len(frame.data) / MIB, used
