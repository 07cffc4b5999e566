"""What is going on when the power goes? Real clients that write to a broker whose data directory lies on the recorded disk.

One broker, one topic for each flush policy, so that one run of the disk is evidence for all. The broker's own default is fsync before ack:
that is the policy of its committed offsets. All writes of the disk, all effects of the broker, and what the clients were told
carry times of one clock.
"""

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from chaos.checks.history.case import Policy
from chaos.device import kernel
from chaos.device.cuts import Entry, entries_of
from chaos.device.disk import RecordedDisk
from chaos.history import History
from chaos.process import observe
from chaos.process.load import GROUP, Clients, wait_for_acks
from chaos.process.power import Recorded
from chaos.process.rounds import POLICIES, PROPERTIES
from chaos.targets import Process, make_target, policy_of

EVERYTHING = "9223372036854775807"
# Two partitions where an ack is a promise. `flush.ms` does nothing by itself in Apache Kafka, and its every-N is the same code as N = 1.
TOPICS = {"cached": ("none", 1), "tenth": ("messages=10", 1), "window": ("ms=200", 1), "durable": ("messages=1", 2)}
OTHERS_TOPICS = ("cached", "durable")
CLIENTS = (
    {"kind": "librdkafka-producer", "name": "idem", "acks": "all", "idempotent": True, "records_per_second": 150},
    {"kind": "librdkafka-producer", "name": "gzip", "acks": "1", "idempotent": False, "records_per_second": 60, "codec": "gzip"},
    {"kind": "aiokafka-producer", "name": "aio", "acks": "all", "idempotent": True, "records_per_second": 60},
    {"kind": "librdkafka-consumer", "name": "c1"},
)
# Effects that the broker made before the power went are in its record by then: it writes them down right after each call.
RECORD_SECONDS = 0.2


@dataclass
class Loaded:
    """One load: `entries` of the disk, the broker's `record` (None where its disk has none), the clients' `history`. The power may go from
    `since` to `until` ns. `policies`: of each topic."""

    entries: list[Entry]
    record: str | None
    root: str
    history: History
    since: int
    until: int
    policies: dict[str, Policy] = field(default_factory=dict)

    @property
    def partitions(self) -> dict[str, int]:
        return {topic: TOPICS[topic][1] for topic in self.policies}

    def of_topic(self, topic: str) -> History:
        """The part of the history that is about one topic."""
        whole = self.history
        return replace(whole, sends={key: send for key, send in whole.sends.items() if send.topic == topic},
                       commits=[commit for commit in whole.commits if commit.topic == topic],
                       seen=[seen for seen in whole.seen if seen.topic == topic],
                       answers=[answer for answer in whole.answers if answer.topic == topic])


def broker_on(mountpoint: Path, directory: Path, target: str = "refbroker", record: bool = False) -> Process:
    """A broker with its data on a mounted disk, and everything else in `directory`."""
    place, policy = str(directory / "broker"), policy_of("messages=1")
    broker = (Recorded(place, policy=policy, properties=PROPERTIES, record=directory / "record") if record
              else make_target(target, place, policy=policy, properties=PROPERTIES))
    broker.data_directory = str(mountpoint / "data")
    return broker


def load(disk: RecordedDisk, directory: Path, seed: int, seconds: float, target: str = "refbroker",
         disturb: Callable[[Process], None] | None = None) -> Loaded:
    """`seconds` of clients, from a broker that starts on an empty directory, then `disturb`; it is killed when the evidence is in."""
    rng = random.Random(f"{seed}/{disk.system.name}")
    topics = TOPICS if target == "refbroker" else OTHERS_TOPICS
    loaded = Loaded([], None, str(disk.mountpoint / "data"), History(), 0, 0, {topic: POLICIES[TOPICS[topic][0]] for topic in topics})
    os.mkdir(loaded.root)
    kernel.sync_file_system(loaded.root)
    broker, clients = broker_on(disk.mountpoint, directory, target, record=target == "refbroker"), None
    loaded.since = time.monotonic_ns()
    try:
        broker.start()
        for topic in topics:
            configs = {"flush.messages": EVERYTHING, **policy_of(TOPICS[topic][0]).topic}
            observe.create_topics(broker.bootstrap, {topic: TOPICS[topic][1]}, configs)
        clients = Clients(directory / "history", broker.bootstrap, seed, topics=topics, specs=CLIENTS)
        wait_for_acks(clients)
        time.sleep(seconds + rng.random() / 2)
        if disturb:
            disturb(broker)
        loaded.until = time.monotonic_ns()
        time.sleep(RECORD_SECONDS)
        loaded.entries = entries_of(disk.log_bytes())
    finally:
        if broker.pid:
            broker.kill()
        if clients:
            clients.kill()
    loaded.history = clients.history()
    loaded.record = str(broker.record) if isinstance(broker, Recorded) else None
    return loaded


def served(broker: Process, loaded: Loaded) -> tuple[dict, dict, dict]:
    """Start the broker on what is there, and ask it as clients do: (records, log ends, committed offsets)."""
    broker.start()
    try:
        log, ends = observe.read_all(broker.bootstrap, loaded.partitions)
        return log, ends, observe.committed_offsets(broker.bootstrap, GROUP, loaded.partitions)
    finally:
        broker.kill()
