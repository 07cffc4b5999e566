"""What must be reached, and what is aimed at? The table of the issue that asked for speed, as data, and its judgement.

A goal is a ratio of our figure to the peer's: at least so much where more is better, at most so much where less is. An
aim may be something else than a ratio: a fraction of the machine's raw limit, or a value.
"""

from dataclasses import dataclass

from chaos.bench.workloads import CONNECTIONS_8, CONNECTIONS_64, DURABLE, FETCH_1M, LIBRDKAFKA, ONE_RECORD
from chaos.bench.workloads import PRODUCE_1M, PRODUCE_16K, PRODUCE_256K

START, IDLE, LOADED, RECOVERY = "start to first answer", "memory, idle", "memory, after all workloads", "recovery after a kill"


@dataclass(frozen=True)
class Goal:
    """`must` and `aim` are ratios to the peer; `of_raw` and `value` are further conditions of the aim."""

    must: float
    aim: float | None = None
    of_raw: float | None = None
    value: float | None = None


GOALS: dict[tuple[str, str], Goal] = {
    (ONE_RECORD, "p50 us"): Goal(0.6, 0.4),
    (ONE_RECORD, "p99 us"): Goal(0.6, 0.4),
    (PRODUCE_16K, "MiB/s"): Goal(1.0, 1.5),
    (PRODUCE_256K, "MiB/s"): Goal(1.2, 2.0),
    (PRODUCE_1M, "MiB/s"): Goal(1.2, 2.0),
    (FETCH_1M, "MiB/s"): Goal(1.0, 1.5, of_raw=0.8),
    (CONNECTIONS_8, "req/s"): Goal(0.8, 1.2),
    (CONNECTIONS_64, "req/s"): Goal(0.8, 1.2),
    (DURABLE[1].name, "acked/s"): Goal(1.0),
    (DURABLE[8].name, "acked/s"): Goal(3.0),
    (DURABLE[64].name, "acked/s"): Goal(8.0, of_raw=0.5),
    (LIBRDKAFKA, "produce MiB/s"): Goal(1.0, 1.2),
    (LIBRDKAFKA, "consume MiB/s"): Goal(1.0, 1.2),
    (START, "s"): Goal(1 / 15, value=0.2),
    (IDLE, "MiB"): Goal(1 / 8, 1 / 15),
    (LOADED, "MiB"): Goal(1 / 8, 1 / 15),
    (RECOVERY, "s/GiB"): Goal(0.7, of_raw=1 / 1.3),
}


def judge(goal: Goal, higher: bool, *, ours: float, ratio: float | None, of_raw: float | None) -> tuple[str, str]:
    """("yes 1.2" or "NO 1.2" or "", the same for the aim). What cannot be judged, for want of a peer, is ""."""
    must = "" if ratio is None else _word(_reached(ratio, goal.must, higher), goal.must, "x")
    conditions = []
    if goal.aim is not None:
        conditions.append((None if ratio is None else _reached(ratio, goal.aim, higher), goal.aim, "x"))
    if goal.of_raw is not None:
        conditions.append((None if of_raw is None else _reached(of_raw, goal.of_raw, True), goal.of_raw, " of raw"))
    if goal.value is not None:
        conditions.append((_reached(ours, goal.value, higher), goal.value, ""))
    aim = ", ".join(_word(reached, wanted, unit) for reached, wanted, unit in conditions if reached is not None)
    return must, aim


def _reached(value: float, wanted: float, higher: bool) -> bool:
    return value >= wanted if higher else value <= wanted


def _word(reached: bool, wanted: float, unit: str) -> str:
    shown = f"{wanted:.2g}" if wanted >= 0.2 or not unit else f"1/{1 / wanted:.0f}"
    return f"{'yes' if reached else 'NO'} ({shown}{unit})"
