"""The process layer within a time budget: kill rounds and power cuts, policy by policy, and a sample of failing system calls."""

import time
from collections.abc import Callable
from pathlib import Path

from chaos.process import clocks, errors
from chaos.process.power import power_rounds
from chaos.process.rounds import POLICIES, kill_rounds
from chaos.report import Report
from chaos.targets import NotAvailable

# What one policy costs beside its load: starting, draining, reading back, checking without indexes.
OVERHEAD_SECONDS = 14.0
CUTS_PER_30_SECONDS = 6
ERRORS, ERROR_SECONDS = 3, 2.0  # `--errors` has all of them


def run(report: Report, seed: int, seconds: float, directory: Path, progress: Callable[[str], None],
        target: str = "refbroker") -> None:
    """Spend about `seconds` over all policies: kills, and for our own broker, whose disk can be recorded, power cuts."""
    if target != "refbroker":
        _run_other(report, seed, seconds, directory, progress, target)
        return
    share = (seconds - ERRORS * ERROR_SECONDS) / len(POLICIES)
    load = max(3.0, share - OVERHEAD_SECONDS)
    for policy in POLICIES:
        kill_rounds(policy, load * 0.7, seed, directory / f"{policy}-kill", report, progress)
        cuts = max(3, int(CUTS_PER_30_SECONDS * share / 30))
        power_rounds(policy, max(2.5, load * 0.2), cuts, seed, directory / f"{policy}-power", report, progress)
    for attempt in (lambda: errors.run(report, directory / "errors", progress, sample=ERRORS, seed=seed),
                    lambda: clocks.run(report, seed, directory / "clocks", progress)):
        try:
            attempt()
        except NotAvailable as error:
            report.not_run.append(str(error))


def _run_other(report: Report, seed: int, seconds: float, directory: Path, progress: Callable[[str], None], target: str) -> None:
    """Another broker starts as slowly as it does: the ends of the scale come first, and what no time is left for is said."""
    began, overhead = time.monotonic(), OVERHEAD_SECONDS
    order = sorted(POLICIES, key=lambda name: (POLICIES[name].kind not in ("P0", "P3"), name != "none"))
    for number, policy in enumerate(order):
        left = seconds - (time.monotonic() - began)
        if number and left < overhead:
            report.not_run.append(f"kills under {policy}: no time left (--minutes); beside the load, a round of {target} took {overhead:.0f} s")
            continue
        load, started = max(4.0, left / (len(order) - number) - overhead), time.monotonic()
        kill_rounds(policy, load, seed, directory / f"{policy}-kill", report, progress, target)
        overhead = time.monotonic() - started - load
    report.not_run.append(f"power cuts of {target}: its disk cannot be recorded from inside (the device and machine layers' business)")
