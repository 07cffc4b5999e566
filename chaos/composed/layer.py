"""Real clients under load while their broker is killed and stopped, its disk fills up and fails, and the network lies: all at once.

Clients -> Kafka-aware proxy -> toxiproxy -> broker, whose system calls are intercepted. What strikes when is a plan, and what must be
survived is its budget: chaos/composed/plan.py. Each run makes two plans, one for each ending, from its seed.
"""

import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chaos.checks import history as checks
from chaos.checks.history.case import Case, Finding
from chaos.composed import plan as plans
from chaos.network import toxi
from chaos.network.layer import ProxyThread
from chaos.network.rules import Rule
from chaos.process import evidence, observe, rounds
from chaos.process.intercept import Fault, Interceptor
from chaos.process.load import SERVICE_SECONDS_MAX, TOPICS, Clients, cast, wait_for_acks
from chaos.process.power import PowerCuts, Recorded
from chaos.process.timeline import Strike, timeline
from chaos.report import Report
from chaos.targets import NotAvailable, Process, TargetError, make_target, policy_of

LAYER = "composed"
OVERHEAD_SECONDS = 9.0  # of one plan: start, drain, read back, judge
LOAD_SECONDS_MIN = 4.0
CUTS = 3  # how often the power is cut, so to speak
STEP_SECONDS = 0.02
END_SECONDS_MAX = 15.0  # for a broker whose fsync failed to end by itself
SETTLE_SECONDS = 0.5
START_ATTEMPTS = 3  # the first may meet the disk as the plan left it


def run(report: Report, seed: int, seconds: float, directory: Path, progress: Callable[[str], None], target: str = "refbroker",
        plan: Path | None = None) -> None:
    """One run for each ending within about `seconds`, or the one that `plan` describes. Raises BadPlan, NotAvailable."""
    load = max(LOAD_SECONDS_MIN, seconds / len(plans.ENDINGS) - OVERHEAD_SECONDS)
    todo = [plans.load(plan)] if plan else [plans.draw(seed, load, ending) for ending in plans.ENDINGS]
    for each in todo:
        if each["ending"] == "power" and target != "refbroker":
            report.not_run.append(f"composed run with a power cut of {target}: its disk cannot be recorded from inside")
            continue
        path = directory.parent / "plans" / f"composed-{each['ending']}.json"
        plans.save(each, path)
        Run(report, each, path, directory / each["ending"], progress, target).go()


class Run:
    """One plan, followed."""

    def __init__(self, report: Report, plan: dict[str, Any], path: Path, directory: Path, progress, target: str):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        self.report, self.plan, self.path, self.directory, self.progress = report, plan, path, directory, progress
        self.policy = rounds.POLICIES[plan["policy"]]
        self.rules: list[Rule] = [Rule("drop-request", api="nothing")]
        self.calls: list[Fault] = []
        self.strikes: list[Strike] = []
        self.findings: list[Finding] = []
        self.struck: Counter[str] = Counter()
        self.interceptor = Interceptor(str(directory / "broker" / "data"), [])
        options = {"policy": policy_of(plan["policy"]), "properties": rounds.PROPERTIES, "wrap": self.interceptor.wrap}
        place = str(directory / "broker")
        self.target: Process = (Recorded(place, record=directory / "record", **options) if plan["ending"] == "power"
                                else make_target(target, place, **options))
        self.wire: toxi.Server | None = None
        self._started_ns = 0  # when the broker was last started

    def go(self) -> None:
        clients = proxy = None
        self.target.start()
        try:
            observe.create_topics(self.target.bootstrap, TOPICS, {})
            proxy = ProxyThread(self._wired(), self.rules)
            players = cast(self.plan["seed"], 0, rounds.libraries(self.report, self.target.name))
            clients = Clients(self.directory / "history", proxy.bootstrap, self.plan["seed"], specs=players)
            wait_for_acks(clients)
            self._follow()
            if self.plan["ending"] == "kill":
                clients.stop()
            struck = time.monotonic_ns()
            if self.plan["ending"] == "power":
                self.struck["ended by itself"] += self._over()
                self.target.kill()
                clients.kill()
                self._judge_power(clients.history(), struck)
            else:
                rounds.kill_and_restart(self.target, self.findings, self.strikes)
                self._judge_kill(clients, struck)
        finally:
            for part in (clients and clients.kill, proxy and proxy.close, self.wire and self.wire.close, self._end, self.interceptor.close):
                if part:
                    part()

    def _end(self) -> None:
        if self.target.pid:
            self.target.kill()

    def _wired(self) -> str:
        """Toxiproxy before the broker; without Go on the machine the plan's toxics are left out, and that is said."""
        try:
            self.wire = toxi.Server(self.target.bootstrap)
        except NotAvailable as error:
            self.report.not_run.append(f"composed: {error}")
            return self.target.bootstrap
        return f"127.0.0.1:{self.wire.port}"

    # ------------------------------------------------------------ following the plan

    def _follow(self) -> None:
        """Begin and end each fault at its time, and start a broker again that has ended by itself."""
        began, faults, todo = time.monotonic(), self.plan["faults"], []
        for number, fault in enumerate(faults):
            todo.append((fault["at"], number, self._begin, fault))
            if "seconds" in fault:
                todo.append((fault["at"] + fault["seconds"], number, self._finish, fault))
        todo.sort(key=lambda each: each[:2])
        self._open: dict[int, tuple[Any, int]] = {}  # id of a fault -> (its handle, when it began)
        while (todo or time.monotonic() < began + self.plan["seconds"]) and not self._over():
            if todo and time.monotonic() >= began + todo[0][0]:
                _, _, act, fault = todo.pop(0)
                act(fault)
                self.progress(f"{self.plan['ending']}, {self.policy.name}: {self.struck.total()} faults, now {fault['what']}")
            self._start_if_ended()
            time.sleep(STEP_SECONDS)
        for fault in faults:
            self._finish(fault)
        self._settle()

    def _over(self) -> bool:
        """A recorded broker that has ended by itself is not started again: its one life is recorded, and so the power goes now."""
        return self.plan["ending"] == "power" and self.target.process.poll() is not None

    def _settle(self) -> None:
        """Nothing strikes any more. A broker whose fsync failed is about to end; it is started again before anybody looks."""
        deadline = time.monotonic() + END_SECONDS_MAX
        failed = any(strike.time > self._started_ns for fault in self.calls if fault.action == "EIO" for strike in fault.struck)
        while time.monotonic() < deadline - (0 if failed else END_SECONDS_MAX - SETTLE_SECONDS):
            if self.target.process.poll() is not None:
                break
            time.sleep(STEP_SECONDS)
        if not self._over():
            self._start_if_ended()

    def _begin(self, fault: dict[str, Any]) -> None:
        what, handle = fault["what"], None
        if what == "kill":
            self._start_if_ended()
            self._kill()
        elif what == "stop":
            self._start_if_ended()
            handle = self.target.pid
            self.target.signal(signal.SIGSTOP)
        elif what == "call":
            handle = plans.call_fault(fault)
            self.calls.append(handle)
            self.interceptor.faults.append(handle)
        elif what == "toxic":
            handle = self.wire.put(fault) if self.wire else None
        else:
            self.rules.append(Rule(**fault["rule"]))
        if what in ("kill", "stop") or (what == "toxic" and self.wire):  # the others are counted when something meets them
            self.struck[what] += 1
        self._open[id(fault)] = (handle, time.monotonic_ns())

    def _finish(self, fault: dict[str, Any]) -> None:
        handle, began = self._open.pop(id(fault), (None, 0))
        if handle is None:
            return
        if fault["what"] == "stop" and self.target.pid == handle:
            self.target.signal(signal.SIGCONT)
        elif fault["what"] == "call":
            if handle in self.interceptor.faults:
                self.interceptor.faults.remove(handle)
        elif fault["what"] == "toxic":
            self.wire.take(handle)
        self.strikes.append(Strike(f"{fault['what']} {fault.get('kind') or fault.get('action') or ''}".strip(), began, time.monotonic_ns()))

    def _kill(self) -> None:
        """SIGKILL; the files that it left must not shrink in recovery (C2.4). A disk that fails at the start gets well first."""
        self._healthy(lambda: rounds.kill_and_restart(self.target, self.findings, self.strikes))

    def _start_if_ended(self) -> None:
        process = self.target.process
        if process is None or process.poll() is None or self._over():
            return
        ended = time.monotonic_ns()
        self.target.stop()  # it is dead: this only takes note of it
        self.struck["ended by itself"] += 1
        self._healthy(self.target.start)
        self.strikes.append(Strike("ended by itself", ended, time.monotonic_ns()))

    def _healthy(self, start: Callable[[], None]) -> None:
        self._started_ns = time.monotonic_ns()
        for attempt in range(START_ATTEMPTS):
            try:
                return start() if self.target.pid or attempt == 0 else self.target.start()
            except TargetError:
                if attempt == START_ATTEMPTS - 1 or not self.interceptor.faults:
                    raise
                self.interceptor.faults.clear()  # somebody makes room; the plan's own end of the fault finds it gone
        return None

    # ------------------------------------------------------------ judging

    def _faults(self) -> str:
        """The classes of all that struck, now that all has."""
        for fault in self.calls:
            self.struck[fault.action] += len(fault.struck)
        self.struck["rule"] += sum(rule.acted for rule in self.rules)
        self.strikes += [Strike(f"{rule.action} {rule.api} of {client}", moment) for rule in self.rules for moment, client in rule.moments]
        return plans.fault_classes(self.plan["ending"], +self.struck)

    def _outages(self) -> list[tuple[int, int]]:
        return [(strike.since, strike.until) for strike in self.strikes if strike.until]

    def _judge_kill(self, clients: Clients, struck: int) -> None:
        case = Case(self.policy, self._faults(), struck, clients.history(), {}, {}, outages=self._outages(),
                    load=(clients.begun, clients.ended), service_bound_ns=int(SERVICE_SECONDS_MAX * 1e9), read_on_ns=clients.read_on_ns)
        rounds.observe_case(self.target.bootstrap, case)
        self.findings += checks.check_all(case) + rounds.check_files(Path(self.target.data_directory), TOPICS,
                                                                    preallocated=self.target.name != "refbroker")
        evidence.keep(self.report, self.directory, LAYER, self.target, case, self.findings)
        self.report.not_enough += [f"composed, {self.policy.name}: {line}" for line in clients.deserters()]
        self._tell(case, checks.judged(case) | {(each, "any") for each in ("C2.2", "C2.4", "C5.1", "C5.2", "C5.3")}, 1, {})

    def _judge_power(self, history, struck: int) -> None:
        cuts, rng = PowerCuts(self.target, self.policy, self._faults(), history, struck, self.directory), random.Random(f"{self.plan['seed']}/cuts")
        while cuts.count < CUTS:
            cuts.judge(self.report, LAYER, rng)
            self.progress(f"power cut {cuts.count} of {CUTS}")
        self.findings += cuts.findings
        self._tell(cuts.case, cuts.judged, CUTS, cuts.figures())

    def _tell(self, case: Case, judged: set, times: int, more: dict[str, Any]) -> None:
        self.report.judge(LAYER, self.policy.name, case.fault, judged, self.findings, times=times)
        self.report.figures.append({
            "layer": LAYER, "policy": self.policy.name, "fault": case.fault, "acked": len(case.history.acked),
            "survived": len(case.history.acked) - len(checks.lost.missing(case)), "seen": len(case.history.seen),
            **+self.struck, **more, "again": f"refbroker-chaos run --layers composed --plan {self.path}"})
        self.report.timelines.append(timeline(LAYER, self.policy.name, case.fault, case.history, sorted(self.strikes, key=lambda s: s.since)))
        if not case.history.acked or not self.struck.total():
            self.report.not_enough.append(f"composed, {self.policy.name}: {self.struck.total()} faults struck, {len(case.history.acked)} acked")
