"""Does a Dask cluster find the same as one process: the same states, counts and failures? In a tree with a planted bug, so that there are some.

The file is also the program that runs there (`python test_dask.py`): it starts a cluster of two workers and prints what differs.
"""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from chaos.disk.cluster import NoWorkers
from chaos.disk.driver import POLICIES
from chaos.disk.judging import Tally
from chaos.disk.run import Pool, Task, first_of_each_kind
from chaos.mutants import catalogue, trees

TASKS = [Task(start, prefix, letters, 1, 20, 16) for start, prefix, letters in (
    ("fresh", (), ()), ("fresh", (), ("append", "fill")), ("fresh", ("append",), ("roll", "kill")), ("fresh", ("append",), ("restart", "append")),
    ("fresh", ("idempotent",), ("retry", "append")),
    ("used, small", (), ("gzip", "kill")))]


def total(workers: str) -> dict[str, Tally]:
    """What all tasks together have seen."""
    tallies = {name: Tally() for name in POLICIES}
    with Pool(workers) as pool:
        for by_policy in pool.map(TASKS, None):
            for name, tally in by_policy.items():
                tallies[name].add(tally)
    return {name: replace(tally, failures=first_of_each_kind(tally.failures)) for name, tally in tallies.items()}


def main() -> None:
    from distributed import LocalCluster

    alone = total("1")
    with LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None) as cluster:
        spread = total("dask://" + cluster.scheduler_address.removeprefix("tcp://"))
    json.dump({"states": sum(len(tally.digests) for tally in alone.values()),
               "failures": [str(failure) for tally in alone.values() for failure in tally.failures],
               "differ": [(name, field) for name, tally in alone.items() for field, value in vars(tally).items() if value != getattr(spread[name], field)]},
              sys.stdout)


@pytest.mark.slow
def test_two_dask_workers_find_what_one_process_finds():
    pytest.importorskip("distributed", reason="not run: Dask is not installed (pip install 'refbroker[dask]')")
    with trees.planted_tree(catalogue.named("epoch-zero-does-not-count")) as tree:
        done = subprocess.run([sys.executable, __file__], env=trees.environment(tree), cwd=tree, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert result["differ"] == []
    assert result["states"] > 100
    assert any("C2.8" in failure for failure in result["failures"])


@pytest.mark.parametrize("workers, why", [("two", "a number of processes"), ("dask://here", "HOST:PORT"), ("dask://127.0.0.1:1", "no Dask scheduler answers")])
def test_workers_that_there_are_not(workers, why, monkeypatch):
    if workers.endswith(":1"):
        pytest.importorskip("distributed", reason="not run: Dask is not installed (pip install 'refbroker[dask]')")
    monkeypatch.setattr("chaos.disk.cluster.CONNECT_SECONDS_MAX", 1)
    with pytest.raises(NoWorkers, match=why):
        Pool(workers).__enter__()


if __name__ == "__main__":
    main()
