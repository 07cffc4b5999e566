"""What is the least that still goes wrong? Fewer operations, fewer deviating effects, a stronger disk.

1. Operations are taken away one by one, those of the setup first, as long as some crash inside the last one still
   breaks the same statement.
   Every crash state of the shorter workload is tried, so the crash need not be the one that was found.
2. Of all crashes of the shortest workload the one on the strongest disk is kept, and of those the one with the fewest deviating effects.
3. Deviations are taken back one by one, as long as the statement still breaks.
"""

from chaos.disk.driver import POLICIES, quietly
from chaos.disk.lab import Failure, Lab, Limits
from chaos.disk.profiles import PROFILES
from chaos.plan import BadPlan, complete, plan_of, replay

ATTEMPTS_MAX = 60  # explorations of a candidate
STRENGTH = {"any": len(PROFILES)} | {profile.name: rank for rank, profile in enumerate(PROFILES)}


def shrink(plan: dict) -> dict:
    """The smallest plan that breaks the same statement."""
    with quietly():
        plan = _fewer_operations(plan)
        plan = _fewer_deviations(plan)
    return complete(plan)


def _fewer_operations(plan: dict) -> dict:
    attempts = 0
    shorter = True
    if plan["setup"]:
        found = _breaks(plan, [], plan["operations"])
        plan = found or plan
    while shorter and attempts < ATTEMPTS_MAX:
        shorter = False
        total = [("setup", place) for place in range(len(plan["setup"]))]
        total += [("operations", place) for place in range(len(plan["operations"]) - 1)]
        for where, place in total:
            attempts += 1
            rest = {name: [each for at, each in enumerate(plan[name]) if (name, at) != (where, place)] for name in ("setup", "operations")}
            found = _breaks(plan, rest["setup"], rest["operations"])
            if found is not None:
                plan, shorter = found, True
                break
            if attempts >= ATTEMPTS_MAX:
                break
    return _breaks(plan, plan["setup"], plan["operations"]) or plan


def _breaks(plan: dict, setup: list[dict], operations: list[dict]) -> dict | None:
    """The best failure of the plan's statement among all crashes inside the last of these operations."""
    lab = Lab(POLICIES[plan["policy"]], plan["seed"], Limits(nested_every=0, keep_all=True))
    try:
        lab.explore(tuple(operations), tuple(setup))
    except Exception:  # without what was taken away the others make no sense
        return None
    failures = [failure for failure in lab.tally.failures
                if failure.problem.statement == plan["statement"] and failure.fault == plan["crash"]["fault"]]
    return _plan(min(failures, key=_size), plan) if failures else None


def _plan(failure: Failure, plan: dict) -> dict:
    return plan_of(failure, plan["seed"])


def _size(failure: Failure) -> tuple:
    return -STRENGTH[failure.disk], failure.deviations, failure.at


def _fewer_deviations(plan: dict) -> dict:
    for part, axes in list(plan["crash"]["deviations"].items()):
        for axis in list(axes):
            labels = {name: {key: label for key, label in each.items() if (name, key) != (part, axis)}
                      for name, each in plan["crash"]["deviations"].items()}
            candidate = {**plan, "crash": {**plan["crash"], "deviations": {name: each for name, each in labels.items() if each}}}
            try:
                if plan["statement"] in replay(candidate).statements:
                    plan = candidate
            except BadPlan:
                continue
    return plan
