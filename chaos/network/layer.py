"""Real clients under load over a network that lies, first by bytes (toxiproxy), then by requests (the Kafka-aware proxy).

Budget: everything here must be survived. A fault on the wire never loses an acked record, never duplicates an idempotent
producer's, never hands a consumer something else, never moves a committed offset back (fault class F6).
"""

import asyncio
import random
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from chaos.checks import history as checks
from chaos.checks.history.case import Case
from chaos.network.proxy import Proxy
from chaos.network.rules import Rule
from chaos.process import observe
from chaos.process.rounds import GROUP, POLICIES, PROPERTIES, TOPICS, Clients, wait_for_acks
from chaos.report import Report
from chaos.targets import NotAvailable, make_target, policy_of

LAYER = "network"


class ProxyThread:
    """The Kafka-aware proxy on a loop of its own."""

    def __init__(self, upstream: str, rules: list[Rule]):
        host, _, port = upstream.rpartition(":")
        self.proxy = Proxy((host, int(port)), rules)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.bootstrap = ":".join(map(str, self._run(self.proxy.start())))

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    def close(self) -> None:
        self._run(self.proxy.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def run(report: Report, seed: int, seconds: float, directory: Path, progress: Callable[[str], None],
        target: str = "refbroker") -> None:
    """Half of the time under toxiproxy, half under rules; a missing Go costs the first half and is said."""
    load = max(4.0, seconds / 2 - 8)
    try:
        _under_toxics(report, seed, load, directory / "toxics", progress, target)
    except NotAvailable as error:
        report.not_run.append(str(error))
    _under_rules(report, seed, load, directory / "rules", progress, target)


def _under_toxics(report, seed, seconds, directory: Path, progress, target_name: str) -> None:
    from chaos.network.toxi import Server, binary

    binary()
    rng, struck = random.Random(f"{seed}/toxics"), {}

    def disturb(broker, until: float) -> None:
        while time.monotonic() < until:
            name = wire.strike(rng)
            struck[name] = struck.get(name, 0) + 1
            progress(f"toxiproxy: {sum(struck.values())} faults, now {name}")
            time.sleep(rng.uniform(0.2, 1.0))
            wire.heal()
            time.sleep(rng.uniform(0.1, 0.5))

    wire = None

    def chain(bootstrap: str) -> str:
        nonlocal wire
        wire = Server(bootstrap)
        return f"127.0.0.1:{wire.port}"

    try:
        _load_and_judge(report, seed, seconds, directory, target_name, chain, [], disturb, lambda: struck, "toxiproxy")
    finally:
        if wire:
            wire.close()


def _rules(rng: random.Random) -> list[Rule]:
    """Each strikes again and again, at a period of its own, so that they meet."""
    return [
        Rule("drop-reply", api="Produce", nth=rng.randrange(2, 5), times=400),
        Rule("duplicate", api="Fetch", nth=3, times=200), Rule("delay", api="Heartbeat", delay_ms=rng.randrange(50, 400)),
        Rule("drop-request", api="OffsetCommit", nth=4, times=3), Rule("reset", api="Fetch", nth=40, times=2),
        Rule("error", api="Produce", nth=30, times=3, error="NOT_LEADER_OR_FOLLOWER"),
        Rule("error", api="OffsetCommit", nth=9, times=2, error="COORDINATOR_LOAD_IN_PROGRESS"),
    ]


def _under_rules(report, seed, seconds, directory: Path, progress, target_name: str) -> None:
    rng = random.Random(f"{seed}/rules")
    rules = [Rule("drop-request", api="nothing")]

    def disturb(broker, until: float) -> None:
        while time.monotonic() < until:
            fresh = rng.choice(_rules(rng))
            fresh.nth, fresh.times = 1, rng.randrange(1, 4)
            rules.append(fresh)
            progress(f"rules: {sum(rule.acted for rule in rules)} requests met one, now {fresh.action} {fresh.api}")
            time.sleep(rng.uniform(0.1, 0.5))

    def acted() -> dict[str, int]:
        counts: dict[str, int] = {}
        for rule in rules:
            counts[rule.action] = counts.get(rule.action, 0) + rule.acted
        return counts

    _load_and_judge(report, seed, seconds, directory, target_name, lambda bootstrap: bootstrap, rules, disturb, acted, "rules")


def _load_and_judge(report, seed, seconds, directory: Path, target_name, chain, rules, disturb, struck, name: str) -> None:
    """Clients -> Kafka-aware proxy -> what `chain` puts there -> broker; `disturb` runs during the load."""
    shutil.rmtree(directory, ignore_errors=True)
    target = make_target(target_name, str(directory / "broker"), policy=policy_of("none"), properties=PROPERTIES)
    target.start()
    clients = proxy = None
    try:
        observe.create_topics(target.bootstrap, TOPICS, {})
        proxy = ProxyThread(chain(target.bootstrap), rules)
        clients = Clients(directory / "history", proxy.bootstrap, seed)
        wait_for_acks(clients)
        disturb(target, time.monotonic() + seconds)
        time.sleep(0.5)
        clients.stop()
        case = Case(POLICIES["none"], "F6", time.monotonic_ns(), clients.history(), {}, {})
        case.log, case.log_end = observe.read_all(target.bootstrap, TOPICS)
        case.offsets = observe.committed_offsets(target.bootstrap, GROUP, TOPICS)
    finally:
        if clients:
            clients.kill()
        if proxy:
            proxy.close()
        target.stop()
    findings, counts = checks.check_all(case), struck()
    report.judge(LAYER, name, "F6", checks.judged(case), findings, times=sum(counts.values()))
    report.figures.append({"layer": LAYER, "policy": name, "fault": "F6", "acked": len(case.history.acked),
                           "seen": len(case.history.seen), "duplicates_of_plain_producers": sum(f.allowed for f in findings), **counts})
    if not sum(counts.values()) or not case.history.acked:
        report.not_enough.append(f"network, {name}: {sum(counts.values())} faults struck, {len(case.history.acked)} records acked")
