"""Where does the time go? Flame graphs of the three hottest workloads, by py-spy, which looks at the broker from outside.

For each workload a self-contained SVG, and a line that says how much of the broker's processor time the kernel has and
which functions have most of the rest. py-spy is an extra of its own: pip install 'refbroker[profile]'.
"""

import collections
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from chaos.bench import drive
from chaos.bench.brokers import OURS, Side, makers
from chaos.bench.machine import processor_seconds
from chaos.bench.rounds import place_of, settle
from chaos.bench.workloads import FETCH_1M, PRODUCE_1M, PRODUCE_16K, WORKLOADS, Workload

HOTTEST = {PRODUCE_16K: "produce-16k", PRODUCE_1M: "produce-1m", FETCH_1M: "fetch-1m"}
SECONDS = 5.0
SAMPLES_PER_SECOND = 500
FUNCTIONS_SHOWN = 8
WAIT = "Selector.select ("  # asleep, or looking before it sleeps


def profile(scratch: Path, out: Path, told: Callable[[str], None]) -> Iterator[str]:
    """Writes OUT/NAME.svg for each workload; yields lines about what is in them."""
    program = shutil.which("py-spy", path=os.path.dirname(sys.executable)) or shutil.which("py-spy")
    if not program:
        raise click.ClickException("py-spy is missing: pip install 'refbroker[profile]'")
    out.mkdir(parents=True, exist_ok=True)
    side = makers(None)[OURS](scratch / OURS)
    side.target.start()
    try:
        for workload in WORKLOADS:
            if workload.name in HOTTEST:
                told(f"profiling: {workload.name}")
                svg = out / f"{HOTTEST[workload.name]}.svg"
                kernel = _during(side, workload, [program, "record", "--format", "flamegraph", "--output", str(svg)])
                with tempfile.NamedTemporaryFile("r", dir=scratch) as stacks:
                    _during(side, workload, [program, "record", "--format", "raw", "--output", stacks.name])
                    hottest = ", ".join(f"{name} {share:.0%}" for name, share in own_shares(stacks.read())[:FUNCTIONS_SHOWN])
                yield f"{workload.name}: kernel {kernel:.0%} of the processor time; {hottest}; {svg}"
    finally:
        side.target.stop()


def _during(side: Side, workload: Workload, command: list[str]) -> float:
    """Run it on the broker while the workload runs; the kernel's share of the broker's processor time."""
    place = place_of(side, workload)
    load = drive.beside(workload.run, place, SECONDS + 2)
    before = processor_seconds(side.pid)
    try:
        done = subprocess.run([*command, "--pid", str(side.pid), "--duration", str(int(SECONDS)), "--rate", str(SAMPLES_PER_SECOND),
                               "--nonblocking"], capture_output=True, text=True)
        if done.returncode:
            raise click.ClickException(f"py-spy ended with {done.returncode}: {(done.stdout + done.stderr).strip()[-300:]}")
        user, kernel = (now - then for now, then in zip(processor_seconds(side.pid), before, strict=True))
        return kernel / max(0.01, user + kernel)
    finally:
        load()
        settle(side.target.directory)


def own_shares(collapsed: str) -> list[tuple[str, float]]:
    """(function, share of the samples in which it was the innermost one), hottest first, of collapsed stacks. The event
    loop's wait does not count: the broker has nothing to do there, or waits for a core."""
    own: collections.Counter[str] = collections.Counter()
    for line in collapsed.splitlines():
        stack, _, count = line.rpartition(" ")
        if WAIT not in stack:
            own[stack.rpartition(";")[2].rpartition(":")[0] + ")"] += int(count)  # no line
    whole = sum(own.values())
    return [(name, count / whole) for name, count in own.most_common()]
