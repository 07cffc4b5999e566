"""What does a crowd cost? 1,000 connections, 200 topics of 5 partitions, two producers and two consumers at work.

Reported: resident memory and descriptors of the broker idle, with the topics, with the crowd and under load; latency of a raw
producer (one 100 B record per request) while all of that is there; what the producers and consumers got through.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from chaos.bench import drive, raw
from chaos.bench.machine import memory_mib, percentile
from chaos.history import load
from chaos.process.observe import create_topics
from chaos.targets import Refbroker

CONNECTIONS, TOPICS, PARTITIONS = 1000, 200, 5
_CLIENT = "import sys, json; from chaos.process.client import main; main(json.loads(sys.argv[1]))"


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def crowd(seconds: float = 20.0) -> dict[str, float]:
    """The figures, by name."""
    scratch = Path(tempfile.mkdtemp(prefix="refbroker-crowd-"))
    target = Refbroker(str(scratch / "broker"), properties={
        "group.initial.rebalance.delay.ms": "0", "group.min.session.timeout.ms": "500"})
    target.start()
    clients: list[subprocess.Popen] = []
    opened: list[raw.Connection] = []
    try:
        figures: dict[str, float] = {"idle MiB": memory_mib(target.pid), "idle descriptors": descriptors(target.pid)}
        names = [f"crowd-{number}" for number in range(TOPICS)]
        began = time.monotonic()
        for first in range(0, TOPICS, 20):
            create_topics(target.bootstrap, dict.fromkeys(names[first:first + 20], PARTITIONS), {})
        figures["creating 1,000 partitions s"] = time.monotonic() - began
        raw.wait_for_leader(target.bootstrap, names[-1])
        figures["with topics MiB"] = memory_mib(target.pid)
        frame = raw.produce_frame(names[0], raw.batch(1, 100))
        began = time.monotonic()
        for _ in range(CONNECTIONS):
            opened.append(raw.Connection(target.bootstrap))
            raw.check_produced(opened[-1].call(frame))
        figures["1,000 connections, each with one answer s"] = time.monotonic() - began
        figures["with the crowd MiB"], figures["with the crowd descriptors"] = memory_mib(target.pid), descriptors(target.pid)
        (scratch / "history").mkdir()
        for number, kind in enumerate(("librdkafka-producer", "aiokafka-producer", "librdkafka-consumer", "aiokafka-consumer")):
            spec = {"kind": kind, "name": f"{kind}-{number}", "bootstrap": target.bootstrap, "history": str(scratch / "history"),
                    "topics": names, "acks": "all", "idempotent": True, "seed": number, "records_per_second": 150,
                    "value_bytes": 1000, "group": "crowd"}
            clients.append(subprocess.Popen([sys.executable, "-c", _CLIENT, json.dumps(spec)], stdin=subprocess.DEVNULL))
        time.sleep(3)
        took = drive.latencies(drive.Place(target.bootstrap, names[0], counts=False), drive.Frame(frame, 1), 5.0)
        time.sleep(max(0.0, seconds - 5))
        figures["latency p50 us"], figures["latency p99 us"] = statistics.median(took) * 1e6, percentile(took, 0.99) * 1e6
        figures["under load MiB"], figures["under load descriptors"] = memory_mib(target.pid), descriptors(target.pid)
        for connection in opened:
            raw.check_produced(connection.call(frame))  # every one of the crowd is still served
        for client in clients:
            client.terminate()
        for client in clients:
            client.wait(60)
        history = load(str(scratch / "history"))
        figures["acked records"], figures["consumed records"] = len(history.acked), len(history.seen)
        return figures
    finally:
        for client in clients:
            client.kill()
        for connection in opened:
            connection.close()
        target.stop()
        shutil.rmtree(scratch, ignore_errors=True)
