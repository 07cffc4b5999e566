"""What does the broker do when a single call to the disk fails, or a bit has decayed? Every call in turn, SQLite's way.

`sweep` takes a workload that makes every kind of call, and lets the n-th call of a kind fail, n = 1, 2, 3 ... until a run ends in
which nothing was struck; once with an error that passes and once with one that lasts until it is healed. After the
run the clients try again, then
the process is killed, then the power goes: each is judged. `decay` flips bits in the files that a stopped broker left. All of it with
the usual constants of the broker, and then with small ones (chaos/disk/small.py), under which a start does not look at all that it has.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from chaos.checks import errors, lookups, rot, survival
from chaos.checks.crash import ROOT, Problem, checkpoint_in, segments_in
from chaos.checks.history.case import Finding
from chaos.disk import small
from chaos.disk.bytes import batch
from chaos.disk.driver import POLICIES, Driver, config_of, quietly
from chaos.disk.faults import CALLS, LOW_BYTES, Fault, Injector, kind_of, rot_places
from chaos.disk.faults import rot as flip
from chaos.disk.lab import debts, durable_end
from chaos.disk.model import SimDisk
from chaos.disk.profiles import WEAKEST, Platters
from chaos.disk.recovering import Recoverer, observe
from chaos.disk.workloads import operations
from refbroker.errors import KafkaError
from refbroker.log.directory import LogDirectory, StartupError

WORKLOAD = ("append", "idempotent", "fill", "idempotent", "append", "flush", "checkpoint", "truncate", "both", "create", "roll",
            "delete-records", "append", "delete", "restart", "idempotent", "retention")
BEFORE_DECAY = ("append", "idempotent", "fill", "idempotent", "append", "idempotent", "append", "flush", "checkpoint", "append")
NTH_MAX = 400  # a workload makes fewer calls of any kind
WATCHED = 3
UNWATCHED = ("misdirected", "read-eio")  # the look itself would meet the fault
FAULT_CLASS = {kind: "F3" for kind in CALLS if "-eio" in kind or kind.startswith("sync")} | {"misdirected": "F5"}


@dataclass
class SweepOutcome:
    """All runs of one fault kind under one policy."""

    policy: str
    fault: str
    kind: str
    statements: tuple[str, ...]
    runs: int = 0
    struck: int = 0
    findings: list[Finding] = field(default_factory=list)
    refused: int = 0  # answers that told a client of the failure


def sweep(until: float, progress: Callable[[str], None] = lambda text: None,
          kinds: tuple[str, ...] = tuple(CALLS)) -> list[SweepOutcome]:
    """All kinds under P0 and P3, as long as there is time; decay first, which takes a second."""
    with quietly():
        outcomes = [decay(policy, until, constants) for policy in ("P3", "P0") for constants in (small.USUAL, small.SMALL)]
        for constants in (small.USUAL, small.SMALL):
            with small.applied(constants):
                outcomes += _sweep(until, progress, kinds)
        return outcomes


def _sweep(until: float, progress: Callable[[str], None], kinds: tuple[str, ...]) -> list[SweepOutcome]:
    outcomes = []
    for kind in kinds:
        for policy in ("P3", "P0"):
            outcome = SweepOutcome(policy, FAULT_CLASS.get(kind, "F4"), kind, errors.STATEMENTS)
            outcomes.append(outcome)
            for lasting in (False, True):
                for nth in range(1, NTH_MAX):
                    if time.monotonic() > until:
                        return outcomes
                    if not strike(outcome, Fault(kind, nth, lasting)):
                        break
            progress(f"{kind} under {policy}: {outcome.runs} runs, {outcome.struck} struck, {len(outcome.findings)} broken")
    return outcomes


def strike(outcome: SweepOutcome, fault: Fault) -> bool:
    """One run with one fault; False if it never struck."""
    driver = Driver(POLICIES[outcome.policy])
    injector = Injector(fault)
    driver.start()
    driver.disk.injector = injector
    problems = _run(driver, injector, WORKLOAD)
    outcome.runs += 1
    if not injector.struck:
        return False
    outcome.struck += 1
    outcome.refused += len(driver.refused)
    injector.heal()
    problems += errors.check_live(driver)
    problems += _run(driver, injector, ("append", "idempotent"))
    if fault.kind != "misdirected":
        problems += errors.check_live(driver)
        problems += _afterwards(driver, fault)
    for problem in _once(problems):
        text = f"{fault.kind} at call {fault.nth}{' and later' if fault.lasting else ''} ({injector.log[0]}): {problem.text}"
        outcome.findings.append(Finding(problem.statement, "broken", *problem.key, problem.offset, text))
    return True


def _run(driver: Driver, injector: Injector, word: tuple[str, ...]) -> list[Problem]:
    """The operations, whatever fails."""
    problems: list[Problem] = []
    watched = WATCHED  # operations after the one that was struck, before retention sweeps all traces away
    for operation in operations(word):
        began, before = driver.at, injector.struck
        try:
            driver.do(operation)
        except StartupError as error:
            driver.refused.append(str(error))
            injector.heal()  # somebody repairs the disk before starting again
            driver.disk.kill()
            driver.start()
        except KeyError:
            pass  # the operation's topic could not be made
        except Exception as error:
            return [*problems, Problem("C1.14", ("", -1), -1, f"{operation['op']} raised {type(error).__name__}: {error}")]
        if injector.struck and not before:
            problems += errors.check_struck(driver, injector, began)
        if injector.struck and watched and not injector.fault.lasting and injector.fault.kind not in UNWATCHED:
            watched -= 1
            problems += errors.check_live(driver)
    return problems


def _afterwards(driver: Driver, fault: Fault) -> list[Problem]:
    """The process is killed, or the power goes: what is left, by the contract."""
    driver.disk.injector = None
    recoverer = Recoverer(driver.config)
    platters = Platters(driver.disk, WEAKEST.commit)
    for event in driver.disk.events:
        platters.feed(event)
    image = platters.durable_image()
    durable = {(entry.key, entry.topic_id): durable_end(image, entry) for entry in driver.ledger.partitions}
    found = []
    if fault.kind != "sync-eio-reverted":
        owed = debts(driver.ledger, driver.at, "F1", durable)
        view = driver.disk.view()
        found += _without_allowed(survival.check(recoverer.recover(view), owed))
    owed = debts(driver.ledger, driver.at, "F2", durable)
    found += _without_allowed(survival.check(recoverer.recover(image), owed))
    return found


def _without_allowed(problems: list[Problem]) -> list[Problem]:
    return [problem for problem in problems if not problem.allowed]


def _once(problems: list[Problem]) -> list[Problem]:
    return list({(problem.statement, problem.text): problem for problem in problems}.values())


def decay(policy: str, until: float = float("inf"), constants: small.Constants = small.USUAL) -> SweepOutcome:
    """One bit flipped in one file of a stopped broker, for every kind of file and field."""
    outcome = SweepOutcome(policy, "F5", "rot", rot.STATEMENTS)
    with small.applied(constants):
        _decay(outcome, policy, until)
    return outcome


def _decay(outcome: SweepOutcome, policy: str, until: float) -> None:
    for clean in (True, False):
        driver = Driver(POLICIES[policy])
        driver.start()
        for operation in operations(BEFORE_DECAY):
            driver.do(operation)
        ends = {entry.key: driver.logs.partitions[entry.key].log_end_offset for entry in driver.ledger.partitions}
        if clean:
            driver.logs.close(clean=True)
        image = driver.disk.view()
        for path, data in sorted(image.items()):
            for position, bit in rot_places(data, kind_of(path)) if data else ():
                if time.monotonic() > until:
                    return
                outcome.runs += 1
                decayed = {**image, path: flip(data, position, bit)}
                where = f"bit {bit} of byte {position} of {path}, {'clean' if clean else 'unclean'} start"
                _judge_decay(outcome, driver, decayed, path, ends, where)


def _judge_decay(outcome: SweepOutcome, driver: Driver, image: dict, path: str, ends: dict, where: str) -> None:
    kind = kind_of(path)
    disk = SimDisk(image)
    logs = LogDirectory(disk, ROOT, config_of(driver.policy), lambda: driver.now_ms)
    try:
        logs.open()
    except StartupError:
        outcome.struck += 1
        return
    except Exception as error:
        outcome.findings.append(Finding("C2.5", "broken", "", -1, -1, f"{where}: the start failed with {type(error).__name__}: {error}"))
        return
    outcome.struck += 1
    for entry in driver.ledger.partitions:
        if path.startswith(f"{ROOT}/{entry.topic}-{entry.number}/") or "/" not in path[len(ROOT) + 1:]:
            for problem in rot.check_served(logs, entry, ends[entry.key], kind):
                outcome.findings.append(Finding(problem.statement, "broken", *problem.key, problem.offset, f"{where}: {problem.text}"))
            log = logs.partitions.get(entry.key)
            if kind == "log" and log is not None and log.offline is None and not logs.clean_start:
                outcome.findings += _unchecked(entry.key, observe(entry.key, log, logs, disk.view()), image, path, where)
            if log is not None and log.offline is None:
                outcome.findings += _goes_on(entry.key, log, driver.now_ms, where)
            if kind in LOW_BYTES and log is not None and log.offline is None:
                for problem in lookups.answers(log, observe(entry.key, log, logs, disk.view())):
                    outcome.findings.append(Finding(problem.statement, "broken", *problem.key, problem.offset, f"{where}: {problem.text}"))


def _goes_on(key, log, now_ms: int, where: str) -> list[Finding]:
    """Whatever has decayed, what is asked of the log next is done or refused (C2.5)."""
    for ask in (lambda: log.append(bytearray(batch([b"next"], now_ms)), now_ms), lambda: log.retain(now_ms), lambda: log.roll(now_ms)):
        try:
            ask()
        except KafkaError:
            break
        except Exception as error:
            return [Finding("C2.5", "broken", *key, log.log_end_offset, f"{where}: {type(error).__name__}: {error}")]
    return []


def _unchecked(key, log, image: dict, path: str, where: str) -> list[Finding]:
    """After an unclean stop every batch from the segment of the recovery point on was looked at, also what no CRC covers (C2.6)."""
    point = checkpoint_in(image, "recovery-point-offset-checkpoint").get(key, 0)
    begin = max((base for base, _ in segments_in(image, f"{ROOT}/{key[0]}-{key[1]}") if base <= point), default=0)
    decayed = int(path.rpartition("/")[2].partition(".")[0])  # the segment
    if log.run.reason is None or decayed < begin:
        return []
    return [Finding("C2.6", "broken", *key, log.run.end_offset, f"{where}: it was started, and {log.run.reason}")]
