"""What is the least that still goes wrong? Fewer operations, fewer deviating effects, a stronger disk.

1. Operations are taken away, first the whole setup, then one by one, as long as some crash inside the last that is left still
   breaks the same statement. Every crash state of the shorter workload is tried, so the crash need not be the one that was found.
2. The broker's constants become the usual ones, all at once or one by one, as long as that is so.
3. Of all crashes of the shortest workload the one on the strongest disk is kept, and of those the one with the fewest deviating effects.
4. Deviations are taken back one by one, as long as the statement still breaks.
"""

from chaos.disk.driver import POLICIES, quietly
from chaos.disk.lab import Failure, Lab, Limits
from chaos.disk.profiles import PROFILES
from chaos.disk.small import USUAL
from chaos.plan import BadPlan, complete, plan_of, replay

ATTEMPTS_MAX = 60  # explorations of a candidate
STRENGTH = {"any": len(PROFILES)} | {profile.name: rank for rank, profile in enumerate(PROFILES)}


def shrink(plan: dict) -> dict:
    """The smallest plan that breaks the same statement."""
    with quietly():
        plan = _fewer_operations(plan)
        plan = _fewer_constants(plan)
        plan = _fewer_deviations(plan)
    return complete(plan)


def _fewer_operations(plan: dict) -> dict:
    plan = _breaks(plan, plan["operations"]) or plan  # all of the setup at once: mostly it has no part in it
    attempts, place = 0, 0
    while attempts < ATTEMPTS_MAX:
        operations = [*plan["setup"], *plan["operations"]]
        if place >= len(operations):
            break
        attempts += 1
        found = _breaks(plan, operations[:place] + operations[place + 1:])
        plan, place = (found, 0) if found else (plan, place + 1)  # the shorter one is begun with anew
    return _breaks(plan, [*plan["setup"], *plan["operations"]]) or plan


def _breaks(plan: dict, operations: list[dict]) -> dict | None:
    """The best failure of the plan's statement among all crashes inside the last of these operations."""
    lab = Lab(POLICIES[plan["policy"]], plan["seed"], Limits(nested_every=0, keep_all=True), plan.get("constants", USUAL))
    try:
        lab.explore(tuple(operations[-1:]), tuple(operations[:-1]))
    except Exception:  # without what was taken away the others make no sense
        return None
    failures = [failure for failure in lab.tally.failures
                if failure.problem.statement == plan["statement"] and failure.fault == plan["crash"]["fault"]]
    return plan_of(min(failures, key=_size), plan["seed"]) if failures else None


def _fewer_constants(plan: dict) -> dict:
    operations = [*plan["setup"], *plan["operations"]]
    every = list(plan.get("constants", USUAL))
    for names in (every, *([name] for name in every)):
        constants = plan.get("constants", USUAL)
        if names[0] in constants and constants != USUAL:
            left = {name: value for name, value in constants.items() if name not in names} | USUAL
            plan = _breaks({**plan, "constants": left}, operations) or plan
    return plan


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
