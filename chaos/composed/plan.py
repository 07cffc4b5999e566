"""Which faults strike together in one run, when, and what must be survived?

A plan is a JSON object, drawn from a seed, saved with each run, and followed again by `refbroker-chaos run --layers composed --plan FILE`:

    {"seed": 7, "policy": "none", "seconds": 8.0, "ending": "kill", "faults": [
        {"at": 0.6, "what": "toxic", "seconds": 0.8, "kind": "latency", "stream": "upstream", "attributes": {"latency": 90, "jitter": 10}},
        {"at": 1.1, "what": "call", "seconds": 0.5, "call": "write|writev|pwrite", "action": "ENOSPC", "nth": 3, "times": null},
        {"at": 1.3, "what": "kill"},
        {"at": 2.0, "what": "stop", "seconds": 1.8},
        {"at": 2.4, "what": "rule", "rule": {"action": "drop-reply", "api": "Produce", "nth": 1, "times": 2}}]}

`at` and `seconds` count from the first acked record. `kill`: SIGKILL, and a start. `stop`: SIGSTOP, for longer than a session or shorter.
`call`: a fault of chaos/process/intercept.py on the broker's data directory. `toxic`: chaos/network/toxi.py. `rule`: chaos/network/rules.py.
A broker that ends by itself (its disk failed) is started again.

The budget, for any number of these at once:
1. `ending` "kill": a last SIGKILL. Nothing that was acked is lost, under any flush policy, and no idempotent record is there twice. A
   disk that is full for a while and an fsync that fails are part of it.
2. `ending` "power": the power goes, and what was not flushed with it: lost is at most what the policy allows. There is no kill and no
   failed fsync before, since the disk is recorded for one life of the process.
"""

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from chaos.network import toxi
from chaos.network.rules import BadRule, Rule
from chaos.plan import BadPlan
from chaos.process.intercept import Fault
from chaos.process.rounds import POLICIES

ENDINGS = ("kill", "power")
KEYS = {"kill": set(), "stop": {"seconds"}, "call": {"seconds", "call", "action", "nth", "times"},
        "toxic": {"seconds", "kind", "stream", "attributes"}, "rule": {"rule"}}
CLASSES = {"kill": "F1", "ended by itself": "F1", "stop": "F6", "toxic": "F6", "rule": "F6", "EIO": "F3"}  # an error of a call else: F4
GAP_SECONDS = (0.1, 0.7)  # between the beginnings of two faults; most of them last longer
CALLS = (  # (call, action, times): a disk that is full, descriptors that run out, writes that are half done
    ("write|writev|pwrite", "ENOSPC", None), ("write|writev|pwrite", "short", 5), ("open", "EMFILE", None), ("accept", "EMFILE", 3),
    ("mkdir|rename", "ENOSPC", 2),
)
LAST_FSYNC = ("fsync|fdatasync", "EIO", 1)
LAST_SECONDS = 1.5  # rolls come every 0.7 s, and with them an fsync under every policy
RULES = (
    {"action": "drop-reply", "api": "Produce"}, {"action": "drop-request", "api": "Produce"}, {"action": "duplicate", "api": "Fetch"},
    {"action": "delay", "api": "Heartbeat", "delay_ms": 300}, {"action": "drop-reply", "api": "OffsetCommit"},
    {"action": "reset", "api": "Fetch"}, {"action": "error", "api": "Produce", "error": "NOT_LEADER_OR_FOLLOWER"},
    {"action": "error", "api": "OffsetCommit", "error": "COORDINATOR_LOAD_IN_PROGRESS"}, {"action": "drop-reply", "api": "JoinGroup"},
)


def draw(seed: int, seconds: float, ending: str) -> dict[str, Any]:
    """A plan of `seconds`: at least one fault of each kind that the ending allows, the rest by chance."""
    rng = random.Random(f"{seed}/composed/{ending}")
    kinds = [what for what in KEYS if what != "kill" or ending == "kill"]
    due, faults, at = rng.sample(kinds, len(kinds)), [], 0.2
    while at < seconds or due:
        what = due.pop() if due else rng.choice(kinds)
        faults.append({"at": round(at, 2), "what": what, **_settings(what, rng)})
        at += rng.uniform(*GAP_SECONDS)
    at = max(fault["at"] + fault.get("seconds", 0) for fault in faults) + 0.1
    if ending == "kill":
        call, action, times = LAST_FSYNC
        faults.append({"at": round(at, 2), "what": "call", "seconds": LAST_SECONDS, "call": call, "action": action, "nth": 1, "times": times})
    policy = rng.choice(list(POLICIES))
    return {"seed": seed, "policy": policy, "seconds": round(max(at, seconds), 2), "ending": ending, "faults": faults}


def _settings(what: str, rng: random.Random) -> dict[str, Any]:
    if what == "kill":
        return {}
    if what == "stop":
        return {"seconds": round(rng.choice((rng.uniform(0.1, 0.6), rng.uniform(1.6, 2.2))), 2)}  # sessions last 1.5 s
    if what == "call":
        call, action, times = rng.choice(CALLS)
        return {"seconds": round(rng.uniform(0.3, 0.9), 2), "call": call, "action": action, "nth": rng.randrange(1, 5), "times": times}
    if what == "toxic":
        return {"seconds": round(rng.uniform(0.2, 0.9), 2), **toxi.draw(rng)}
    return {"rule": {**rng.choice(RULES), "nth": rng.randrange(1, 3), "times": rng.randrange(1, 4)}}


def fault_classes(ending: str, struck: Iterable[str]) -> str:
    """The contract's classes (C0) of what struck, as a verdict names them: "F1+F4+F6". What a plan meant and nothing met is not in it."""
    return "+".join(sorted({"F2" if ending == "power" else "F1"} | {CLASSES.get(each, "F4") for each in struck}))


def save(plan: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join("  " + json.dumps(fault) for fault in plan["faults"])
    head = json.dumps({key: value for key, value in plan.items() if key != "faults"})[1:-1]
    path.write_text(f'{{{head},\n "faults": [\n{lines}\n]}}\n')


def load(path: Path) -> dict[str, Any]:
    """Raises BadPlan, which says what is wrong with which fault."""
    try:
        plan = json.loads(path.read_text())
        check(plan)
    except BadPlan:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadPlan(f"no plan of a composed run: {error!r}") from None
    return plan


def check(plan: dict[str, Any]) -> None:
    """Raises BadPlan for what cannot be followed."""
    if plan["ending"] not in ENDINGS or plan["policy"] not in POLICIES or plan["seconds"] <= 0:
        raise BadPlan(f"ending one of {', '.join(ENDINGS)}, policy one of {', '.join(POLICIES)}, seconds above 0")
    for number, fault in enumerate(plan["faults"], 1):
        what = fault.get("what")
        if set(fault) - {"at", "what"} != KEYS.get(what):
            raise BadPlan(f"fault {number}, {what!r}: " + (f"its keys are at, what, {', '.join(sorted(KEYS[what]))}" if what in KEYS
                                                         else f"there are: {', '.join(KEYS)}"))
        if plan["ending"] == "power" and (what == "kill" or fault.get("action") in ("kill", "EIO")):
            raise BadPlan(f"fault {number}: where the power goes at the end, the process must live until then")
        try:
            if what == "call":
                call_fault(fault)
            elif what == "rule":
                Rule(**fault["rule"])
            elif what == "toxic" and fault["kind"] not in (*(name for name, _ in toxi.TOXICS), "down"):
                raise BadPlan(f"fault {number}: no toxic {fault['kind']!r}")
        except (AssertionError, BadRule, TypeError) as error:
            raise BadPlan(f"fault {number}: {error}") from None


def call_fault(fault: dict[str, Any]) -> Fault:
    return Fault(fault["call"], fault["action"], fault["nth"], fault["times"])
