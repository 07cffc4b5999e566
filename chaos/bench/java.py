"""How fast is it with Java's own client? Kafka's kafka-producer-perf-test and kafka-consumer-perf-test, where there is a JDK.

The tools are a JVM of their own on the same cores as the broker, which starts and warms up within the measured time:
the figures are the client's as much as the broker's.
"""

import re
import subprocess

from chaos.bench.drive import Place
from chaos.bench.raw import Refused
from chaos.targets.kafka import fetch_kafka_tools, java_program

RECORD_BYTES = 1000
RECORDS_PER_SECOND = 40_000  # so many are sent for each second that a round is given
HEAP = ("-Xms256m", "-Xmx512m", "-XX:-UsePerfData")
TOOL_SECONDS_MAX = 120
_PRODUCED = re.compile(r"([\d.]+) records/sec \(([\d.]+) MB/sec\), ([\d.]+) ms avg latency.*?(\d+) ms 50th")


def perf(batch_bytes: int):
    """A workload: {"produce MiB/s", "p50 ms", "consume MiB/s"}."""

    def run(place: Place, seconds: float) -> dict[str, float]:
        count = int(RECORDS_PER_SECOND * seconds)
        told = _tool("ProducerPerformance", "--topic", place.topic, "--num-records", str(count), "--record-size", str(RECORD_BYTES),
                     "--throughput", "-1", "--producer-props", f"bootstrap.servers={place.bootstrap}",
                     f"batch.size={batch_bytes}", "linger.ms=5", "acks=all")
        found = _PRODUCED.search(told.splitlines()[-1])
        if not found:
            raise Refused(f"kafka-producer-perf-test says: {told[-300:]}")
        read = _tool("ConsumerPerformance", "--bootstrap-server", place.bootstrap, "--topic", place.topic,
                     "--messages", str(count), "--timeout", "20000")
        return {"produce MiB/s": float(found[2]), "p50 ms": float(found[4]), "consume MiB/s": consumed_rate(read, count)}

    return run


def consumed_rate(told: str, count: int) -> float:
    """MiB/s, without the time that joining the group took. Raises Refused where records are missing."""
    titles, values = (line.split(", ") for line in [line for line in told.splitlines() if ", " in line][-2:])
    row = dict(zip((title.strip() for title in titles), values, strict=True))
    if int(row["data.consumed.in.nMsg"]) < count:
        raise Refused(f"kafka-consumer-perf-test got {row['data.consumed.in.nMsg']} of {count} records")
    return float(row["fetch.MB.sec"])


def _tool(name: str, *arguments: str) -> str:
    done = subprocess.run([java_program(), *HEAP, "-cp", fetch_kafka_tools(), f"org.apache.kafka.tools.{name}", *arguments],
                          capture_output=True, text=True, timeout=TOOL_SECONDS_MAX)
    if done.returncode:
        raise Refused(f"{name} ended with {done.returncode}: {(done.stdout + done.stderr)[-300:]}")
    return done.stdout.strip()
