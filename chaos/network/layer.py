"""Real clients under load over a network that lies, first by bytes (toxiproxy), then by requests (the Kafka-aware proxy), the latter
together with clients that die or stop for a while.

Budget: everything here must be survived. A fault on the wire never loses an acked record, never duplicates an idempotent
producer's, never hands a consumer something else, never moves a committed offset back (fault class F6).

With `rules` of the caller's own (run --rules) the load is another one: each library writes once with and once without idempotence, and
the figures say which record came twice.
"""

import asyncio
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from chaos.checks import history as checks
from chaos.checks.history.case import Case, Finding
from chaos.network.proxy import Proxy
from chaos.network.rules import Rule, parse_rules
from chaos.process import evidence, observe
from chaos.process.load import SERVICE_SECONDS_MAX, Clients, cast, wait_for_acks
from chaos.process.rounds import POLICIES, PROPERTIES, libraries
from chaos.process.timeline import Strike, timeline
from chaos.report import Report
from chaos.targets import NotAvailable, Target, make_target, policy_of

LAYER = "network"
PARTITIONS = {"orders": 2, "events": 1}
RULED_SECONDS, RULED_SECONDS_MAX = 5.0, 40.0  # how long producers write under rules of the caller's own: until each has met one


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


class Part:
    """One load: clients -> Kafka-aware proxy -> `upstream` -> broker, and what became of it."""

    def __init__(self, name: str, policy: str, target: Target, report: Report, directory: Path):
        self.name, self.policy, self.target, self.report = name, policy, target, report
        self.directory = directory / name
        self.strikes: list[Strike] = []
        self.rules: list[Rule] = []
        self.clients: Clients | None = None
        self._proxy: ProxyThread | None = None
        # Topics and a group of its own: the broker may be somebody's, and is the other part's, too.
        suffix = f"{name}-{time.time_ns():x}"
        self.topics = {f"{topic}-{suffix}": count for topic, count in PARTITIONS.items()}
        self.group = f"chaos-{suffix}"
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self, seed: int, players: list[dict], upstream: str | None = None) -> None:
        observe.create_topics(self.target.bootstrap, self.topics, policy_of(self.policy).topic)
        self._proxy = ProxyThread(upstream or self.target.bootstrap, self.rules)
        specs = [{**spec, "group": self.group} for spec in players]
        self.clients = Clients(self.directory / "history", self._proxy.bootstrap, seed, topics=self.topics, specs=specs, group=self.group)
        wait_for_acks(self.clients)

    def judge(self) -> Case:
        """Let the clients finish, and judge."""
        self.clients.stop()
        case = Case(POLICIES[self.policy], "F6", time.monotonic_ns(), self.clients.history(), {}, {},
                    outages=[(strike.since, strike.until) for strike in self.strikes if strike.until],
                    load=(self.clients.begun, self.clients.ended), service_bound_ns=int(SERVICE_SECONDS_MAX * 1e9),
                    read_on_ns=self.clients.read_on_ns)
        case.log, case.log_end = observe.read_all(self.target.bootstrap, self.topics)
        case.offsets = observe.committed_offsets(self.target.bootstrap, self.group, self.topics)
        self.strikes += [Strike(f"{rule.action} {rule.api} of {client}", moment) for rule in self.rules for moment, client in rule.moments]
        return case

    def tell(self, case: Case, counts: dict[str, int], more: dict) -> list[Finding]:
        """The verdicts, figures and time line of this part; the findings."""
        findings, total = checks.check_all(case), sum(counts.values())
        self.report.judge(LAYER, self.policy, "F6", checks.judged(case), findings, times=max(1, total))
        self.report.figures.append({
            "layer": LAYER, "policy": self.policy, "fault": f"F6 {self.name}", "acked": len(case.history.acked),
            "seen": len(case.history.seen), "faults": total, "of which": ", ".join(f"{name} {count}" for name, count in sorted(counts.items()) if count), **more})
        strikes = sorted(self.strikes, key=lambda strike: strike.since)
        self.report.timelines.append(timeline(LAYER, f"{self.name}, {self.policy}", "F6", case.history, strikes))
        self.report.not_enough += [f"network, {self.name}: {line}" for line in self.clients.deserters()]
        if not total or not case.history.acked:
            self.report.not_enough.append(f"network, {self.name}: {total} faults struck, {len(case.history.acked)} records acked")
        evidence.keep(self.report, self.directory, LAYER, self.target, case, findings)
        return findings

    def close(self) -> None:
        if self.clients:
            self.clients.kill()
        if self._proxy:
            self._proxy.close()
        if not self.target.can_kill:  # somebody else's broker is left as it was found
            observe.delete_topics(self.target.bootstrap, self.topics)


def run(report: Report, seed: int, seconds: float, directory: Path, progress: Callable[[str], None],
        target_name: str = "refbroker", rules: Path | None = None) -> None:
    """Half of the time under toxiproxy, half under rules; a missing Go costs the first half and is said."""
    load = max(4.0, seconds / 2 - 10)
    shutil.rmtree(directory, ignore_errors=True)
    with make_target(target_name, str(directory / "broker"), policy=policy_of("none"), properties=PROPERTIES) as target:
        if rules:
            _under_given_rules(report, seed, rules, directory, progress, target)
            return
        try:
            _under_toxics(report, seed, load, directory, progress, target)
        except NotAvailable as error:
            report.not_run.append(str(error))
        _under_rules(report, seed, load, directory, progress, target)


def _under_toxics(report: Report, seed: int, seconds: float, directory: Path, progress, target: Target) -> None:
    from chaos.network.toxi import Server, binary, draw

    binary()
    rng, struck = random.Random(f"{seed}/toxics"), Counter()
    wire, part = Server(target.bootstrap), Part("toxiproxy", "none", target, report, directory)
    try:
        part.start(seed, cast(seed, 0, libraries(report, target.name)), f"127.0.0.1:{wire.port}")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            since, toxic = time.monotonic_ns(), draw(rng)
            wire.put(toxic)
            name = toxic["kind"]
            struck[name] += 1
            progress(f"toxiproxy: {struck.total()} faults, now {name}")
            time.sleep(rng.uniform(0.2, 1.0))
            wire.heal()
            part.strikes.append(Strike(name, since, time.monotonic_ns()))
            time.sleep(rng.uniform(0.1, 0.5))
        case = part.judge()
        part.tell(case, struck, {"clients": part.clients.libraries()})
    finally:
        part.close()
        wire.close()


def _drawn(rng: random.Random) -> Rule:
    """A rule that strikes the next one to three requests that it matches."""
    rule = rng.choice([
        Rule("drop-reply", api="Produce"), Rule("duplicate", api="Fetch"), Rule("delay", api="Heartbeat", delay_ms=rng.randrange(50, 400)),
        Rule("drop-request", api="OffsetCommit"), Rule("drop-reply", api="OffsetCommit"), Rule("reset", api="Fetch"),
        Rule("reset", api="Produce"), Rule("error", api="Produce", error="NOT_LEADER_OR_FOLLOWER"),
        Rule("error", api="OffsetCommit", error="COORDINATOR_LOAD_IN_PROGRESS")])
    rule.nth, rule.times = 1, rng.randrange(1, 4)
    return rule


def _under_rules(report: Report, seed: int, seconds: float, directory: Path, progress, target: Target) -> None:
    rng, on_clients = random.Random(f"{seed}/rules"), Counter()
    part = Part("rules", "messages=1", target, report, directory)
    try:
        part.start(seed, cast(seed, 1, libraries(report, target.name)))
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if rng.random() < 0.8:
                part.rules.append(fresh := _drawn(rng))
                what = f"{fresh.action} {fresh.api}"
            else:
                since, what = time.monotonic_ns(), part.clients.strike(rng)
                part.strikes.append(Strike(what, since))
                on_clients[what.rpartition(" ")[2]] += 1
            progress(f"rules: {sum(rule.acted for rule in part.rules)} requests met one, now {what}")
            time.sleep(rng.uniform(0.1, 0.5))
        case = part.judge()
        struck = Counter({f"clients {name}": count for name, count in on_clients.items()})
        for rule in part.rules:
            struck[rule.action] += rule.acted
        part.tell(case, struck, {"clients": part.clients.libraries()})
    finally:
        part.close()


def _under_given_rules(report: Report, seed: int, rules: Path, directory: Path, progress, target: Target) -> None:
    """The same rules for producers with and without idempotence, in every library. Raises BadRule."""
    part = Part("given", "none", target, report, directory)
    part.rules += parse_rules(rules.read_text())
    players = [{"kind": f"{library}-producer", "name": f"{name}-{library}", "acks": "all", "idempotent": name == "idempotent",
                "records_per_second": 20} for library in libraries(report, target.name) for name in ("plain", "idempotent")]
    try:
        part.start(seed, players)
        began, names = time.monotonic(), {player["name"] for player in players}
        while (gone := time.monotonic() - began) < RULED_SECONDS or (gone < RULED_SECONDS_MAX and names - _met(part).keys()):
            progress(f"{rules.name}: {_met(part).total()} requests met a rule")
            time.sleep(0.5)
        time.sleep(1.0)  # for the retry
        case, met = part.judge(), _met(part)
        findings = part.tell(case, Counter({rule.action: rule.acted for rule in part.rules}), {"rules": rules.name})
        twice = Counter(finding.evidence.partition(":")[0] for finding in findings if finding.anomaly == "duplicated")
        for player in players:
            library = case.history.clients[player["name"]]["library"]
            report.figures.append({"layer": LAYER, "rules": rules.name, "target": target.name, "client": library,
                                   "idempotent": str(player["idempotent"]), "met a rule": met[player["name"]],
                                   "acked": sum(send.client == player["name"] for send in case.history.acked),
                                   "records twice": twice[player["name"]]})
        report.not_enough += [f"{player['name']} met no rule of {rules.name}" for player in players if not met[player["name"]]]
    finally:
        part.close()


def _met(part: Part) -> Counter:
    """How many requests of each client met a rule."""
    return Counter(client for rule in part.rules for _, client in rule.moments)
