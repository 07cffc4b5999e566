"""Who loads the broker during a run, and what do they leave behind?

Each round has the same six roles: a producer that is idempotent, one that is not (and compresses), one that wants no acks, two members of
a group, the second of which comes and goes, and a reader that asks for times and goes back to them. Which library plays which role
turns from round to round, from a place that the seed draws: so over the policies of one run every library is everything.
"""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from chaos.history import History, load
from chaos.process import observe
from chaos.process.clients import java

TOPICS = {"orders": 2, "events": 1}
GROUP = "chaos-group"
LIBRARIES = ("librdkafka", "aiokafka", "kafka-python")
CODEC = {"aiokafka": "none"}  # gzip elsewhere
CLIENT_STOP_SECONDS_MAX = 40
READ_ON_SECONDS_MAX = 20.0  # for consumers to be handed what was acked last, once nobody writes any more
LEFT_IN_ORDER = (0, -signal.SIGTERM, 128 + signal.SIGTERM)  # the latter two: asked to before it had begun, and a JVM
SERVICE_SECONDS_MAX = 20.0  # time up without an ack, or without a record for any consumer (C1.16); clients back off up to 5 s


def cast(seed: int, turn: int, libraries: tuple[str, ...] = LIBRARIES) -> list[dict]:
    """The clients of round number `turn` of a run."""
    first = random.Random(f"{seed}/cast").randrange(len(libraries)) + turn
    one, two, three = (libraries[(first + place) % len(libraries)] for place in range(3))
    return [
        {"kind": f"{one}-producer", "name": "idem", "acks": "all", "idempotent": True, "records_per_second": 200},
        {"kind": f"{two}-producer", "name": "plain", "acks": "1", "idempotent": False, "records_per_second": 70,
         "codec": CODEC.get(two, "gzip")},
        {"kind": f"{three}-producer", "name": "zero", "acks": "0", "idempotent": False, "records_per_second": 20},
        {"kind": f"{two}-consumer", "name": "stays"},
        {"kind": f"{three}-consumer", "name": "visits", "stay_seconds": 4},
        {"kind": "librdkafka-seeker", "name": "seeks"},
    ]


class Clients:
    """The client processes of one run, and their histories."""

    def __init__(self, directory: Path, bootstrap: str, seed: int, *, topics: Iterable[str] = TOPICS, specs: Iterable[dict] | None = None,
                 group: str = GROUP):
        self.directory, self.group = directory, group
        directory.mkdir(parents=True)
        self.specs = [
            {"bootstrap": bootstrap, "history": str(directory), "topics": list(topics), "group": group, "seed": seed + number,
             "value_bytes": 1500, **spec} for number, spec in enumerate(cast(seed, 0) if specs is None else specs)]
        self.processes: list[subprocess.Popen] = []
        self.struck: set[str] = set()  # killed on purpose, or since it did not come to an end
        self.read_on_ns = 0
        self.begun = time.monotonic_ns()
        self.ended: int | None = None  # when producers were asked to end
        for spec in self.specs:
            self._start(spec)

    def _start(self, spec: dict) -> None:
        command = java.command(spec) if spec["kind"] in java.KINDS else [sys.executable, "-m", "chaos.process.client", json.dumps(spec)]
        with (self.directory / f"{spec['name']}.err").open("wb") as errors:
            self.processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors))

    def strike(self, rng: random.Random) -> str:
        """A fault on the clients' side: one is stopped for a while and goes on, or is killed and another takes its place. Says which."""
        spec, process = rng.choice([pair for pair in zip(self.specs, self.processes, strict=True) if pair[0]["name"] not in self.struck])
        if rng.random() < 0.5:
            process.send_signal(signal.SIGSTOP)
            time.sleep(rng.uniform(0.3, 2.5))
            process.send_signal(signal.SIGCONT)
            return f"client {spec['name']} stopped and resumed"
        process.kill()
        process.wait()
        self.struck.add(spec["name"])
        self.specs.append({**spec, "name": f"{spec['name'].partition('.')[0]}.{len(self.specs)}", "seed": spec["seed"] + 1000})
        self._start(self.specs[-1])
        return f"client {spec['name']} killed"

    def stop(self) -> None:
        """Ask the producers to finish what is under way and leave, let consumers read on until they have all that was acked
        (`read_on_ns`: how long they had), and ask them, too."""
        self.ended = time.monotonic_ns()
        self._end(writing=True)
        began = time.monotonic()
        while not self._all_read() and time.monotonic() - began < READ_ON_SECONDS_MAX:
            time.sleep(0.3)
        self.read_on_ns = int((time.monotonic() - began) * 1e9) if any(self._roles(writing=False)) else 0
        self._end(writing=False)

    def _roles(self, *, writing: bool) -> list[tuple[str, subprocess.Popen]]:
        return [(spec["name"], process) for spec, process in zip(self.specs, self.processes, strict=True)
                if spec["kind"].endswith("-producer") == writing]

    def _end(self, *, writing: bool) -> None:
        processes = self._roles(writing=writing)
        for _, process in processes:
            process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + CLIENT_STOP_SECONDS_MAX
        for name, process in processes:
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:  # what it had under way stays unknown
                process.kill()
                process.wait()
                self.struck.add(name)

    def _all_read(self) -> bool:
        history = self.history()
        handed = {(seen.topic, seen.partition, seen.offset) for seen in history.members(self.group)}
        return all((send.topic, send.partition, send.offset) in handed for send in history.acked)

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()

    def history(self) -> History:
        return load(str(self.directory))

    def silent(self) -> list[str]:
        """Producers that want acks and have none yet."""
        return [name for name in self._asking() if not self._heard(name)]

    def _asking(self) -> list[str]:
        return [spec["name"] for spec in self.specs if spec["kind"].endswith("-producer") and spec["acks"] != "0"]

    def _heard(self, name: str) -> bool:
        path = self.directory / f"{name}.jsonl"
        return path.exists() and b'"acked"' in path.read_bytes()

    def acked_any(self) -> bool:
        return any(map(self._heard, self._asking()))

    def libraries(self) -> str:
        """Who took part, for the figures: roles by library."""
        return ", ".join(f"{spec['name']}: {spec['kind'].rpartition('-')[0]}" for spec in self.specs)

    def deserters(self) -> list[str]:
        """Clients that ended otherwise than asked to: one line each, with the end of what they said."""
        lines = []
        for spec, process in zip(self.specs, self.processes, strict=True):
            if process.returncode not in LEFT_IN_ORDER and spec["name"] not in self.struck:
                words = (self.directory / f"{spec['name']}.err").read_text(errors="replace").strip().splitlines()[-1:]
                lines.append(f"client {spec['name']} ({spec['kind']}) ended with {process.returncode}{': ' + words[0] if words else ''}")
        return lines


def wait_for_acks(clients: Clients, seconds_max: float = 60) -> None:
    """Until every producer that wants acks has got one. A JVM may take longer on a busy machine, and comes late then; that nobody
    got any raises NoAnswer."""
    deadline = time.monotonic() + seconds_max
    while clients.silent() and time.monotonic() < deadline:
        time.sleep(0.1)
    if not clients.acked_any():
        raise observe.NoAnswer(f"no client got a single record acked within {seconds_max:.0f} s")
