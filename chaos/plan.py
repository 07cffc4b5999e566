"""What exactly happened in this one failing run, and can it be had again? A plan: JSON that anybody can edit and replay.

    {"format": 1, "statement": "C1.3", "policy": "P3", "seed": 1,
     "constants": {"log.scan.CHECK_CHUNK_BYTES": 200}, "setup": [operations], "operations": [operations],
     "crash": {"fault": "F2", "disk": "posix", "after_events": 41,
               "deviations": {"12:/data/a-0/00000000000000000000.log": {"#38": "torn at 12", "size": "latest"}}},
     "inside_recovery": [[7, [["entries", "#3", "undone"]]]],
     "digest": "...", "problems": [...]}

`constants` of the broker are as in `chaos/disk/small.py`; absent where they are the usual ones. An operation is what
`chaos/disk/driver.py` performs: {"op": "append", "records": 2}. `after_events` counts lines of the write list;
`deviations` says, for each file with unsynced effects ("inode:path", or "entries"), which of them did not come out as the page cache had
it, with the labels of `chaos/disk/parts.py`; for a killed process ("F1") {"process": {"torn": n}} cuts its last append to n bytes. A
plan is replayed bit for bit: time, ids and garbage are functions of the plan. `digest` is that of the crashed image.

Whoever edits a plan gets the new result; `replay` says whether it is the one written down. A plan with a "mutant" is about a
broker with that planted bug (chaos/mutants): it is followed in a copy of the tree with the bug in it.
"""

import json
import random
from dataclasses import dataclass
from pathlib import Path

from chaos.checks import deletion, survival
from chaos.checks.crash import Image, Problem, Recovered
from chaos.disk import live, small, story, workloads
from chaos.disk.driver import POLICIES, Driver, quietly
from chaos.disk.lab import Failure, cache_images, debts, durable_end
from chaos.disk.model import SimDisk
from chaos.disk.profiles import BY_NAME, WEAKEST, Platters
from chaos.disk.recovering import Recoverer
from chaos.disk.spaces import Space, digest_of
from chaos.mutants.trees import planted_here

FORMAT = 1
FAULTS = ("F0", "F1", "F2")  # a clean stop, a killed process, a power cut


class BadPlan(ValueError):
    """The plan cannot be followed; the text says where."""


class Outcome:
    """What came of a plan of either kind: the image's `digest`, and `problems`, each with its statement. `written`: a problem as plans have it."""

    plan: dict
    problems: list
    digest: str

    @property
    def broken(self) -> list:
        return [problem for problem in self.problems if not problem.allowed]

    @property
    def statements(self) -> list[str]:
        return sorted({problem.statement for problem in self.broken})

    @property
    def written(self) -> list[list]:
        return [self.in_plan(problem) for problem in self.broken]

    @property
    def as_written(self) -> bool:
        """The same image, and the same problems, as the plan says."""
        return self.digest == self.plan.get("digest") and self.written == self.plan.get("problems", [])


@dataclass
class Replay(Outcome):
    """Of a plan of the log."""

    plan: dict
    driver: Driver
    crashed: Image
    recovered: Recovered
    problems: list[Problem]
    digest: str

    @staticmethod
    def in_plan(problem: Problem) -> list:
        return [problem.statement, f"{problem.key[0]}-{problem.key[1]}", problem.offset, problem.text]

    def story(self) -> str:
        return story.tell(self)


def plan_of(failure: Failure, seed: int = 0) -> dict:
    """The plan of a failure that a lab found, not yet shrunk."""
    start = workloads.STARTS[failure.start] if isinstance(failure.start, str) else failure.start
    return complete({
        "format": FORMAT, **({"mutant": name} if (name := planted_here()) else {}), "statement": failure.problem.statement, "policy": failure.policy, "seed": seed,
        **({"constants": dict(failure.constants)} if failure.constants != small.USUAL else {}),
        "setup": workloads.operations(start), "operations": workloads.operations(failure.word),
        "crash": {"fault": failure.fault, "disk": failure.disk, "after_events": failure.at, "deviations": failure.labels},
        "inside_recovery": [[at, [list(label) for label in labels]] for at, labels in failure.nested],
    })


def complete(plan: dict) -> dict:
    """The plan with the result that it has."""
    result = replay(plan)
    return {**plan, "digest": result.digest, "problems": result.written}


def replay(plan: dict):
    """Follow a plan: a `Replay`, of a whole broker a `Followed` (chaos/whole/plan.py). Raises BadPlan."""
    try:
        constants = small.checked(plan.get("constants", small.USUAL))
    except ValueError as error:
        raise BadPlan(str(error)) from error
    if plan.get("format") != FORMAT:
        raise BadPlan(f"format {plan.get('format')!r}, {FORMAT} expected")
    with quietly(), small.applied(constants):
        if "layer" not in plan:
            return _replay(plan)
        from chaos.whole import plan as whole

        if plan["layer"] != whole.LAYER:
            raise BadPlan(f"layer {plan['layer']!r}: plans are of {whole.LAYER!r}, or of the log alone and have no layer")
        return whole.follow(plan)


def _replay(plan: dict) -> Replay:
    try:
        driver = Driver(POLICIES[plan["policy"]])
        driver.start()
        for operation in (*plan["setup"], *plan["operations"]):
            driver.do(operation)
        crash = plan["crash"]
        image = crashed(driver, crash)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadPlan(f"{type(error).__name__}: {error}") from error
    recoverer = Recoverer(driver.config)
    for second in plan.get("inside_recovery", []):
        attempted = recoverer.attempt(image)
        try:
            image = _struck(attempted, *second)
        except (TypeError, ValueError, AttributeError) as error:
            raise BadPlan(f"inside_recovery, {second!r}: {type(error).__name__}: {error}") from error
    recovered = recoverer.recover(image)
    at = crash["after_events"]
    durable = durable_ends(driver, at)
    owed_at = at - 1 if crash["deviations"].get("process") else at
    owed = debts(driver.ledger, owed_at, crash["fault"], durable)
    problems = [*recovered.problems, *survival.check(recovered, owed), *deletion.check(recovered, owed)]
    problems += [Problem(statement, ("", -1), -1, text) for statement, text in driver.complaints]
    if crash["fault"] == "F0":  # no crash: what the live log answers; last, for it may write
        problems += live.check(driver)
    return Replay(plan, driver, image, recovered, problems, f"{digest_of(image):032x}")


def crashed(driver, crash: dict) -> Image:
    """The image that the crash of a plan leaves; `driver` has a disk, and how many events it has seen. Raises BadPlan, ValueError."""
    at, labels = crash["after_events"], crash["deviations"]
    if crash["fault"] not in FAULTS:
        raise BadPlan(f"fault {crash['fault']!r}, one of {', '.join(FAULTS)} expected")
    if not 0 <= at <= driver.at:
        raise BadPlan(f"after_events is {at}, the workload makes {driver.at}")
    if crash["fault"] != "F2":
        torn = int(labels.get("process", {}).get("torn", 0))
        for time, image, cut in cache_images(driver.disk, at - 1 if torn else at):
            if (time, cut) == (at, torn):
                return image
        raise BadPlan(f"no append to cut to {torn} bytes just before event {at}")
    profile = BY_NAME[crash["disk"]]
    return dict(Space(profile, fed(driver.disk, profile.commit, at), random.Random(0)).state_of(labels).image())


def _struck(disk: SimDisk, at: int, labels: list) -> Image:
    """The image that a second crash leaves, inside a recovery."""
    wanted: dict[str, dict[str, str]] = {}
    for part, axis, label in labels:
        wanted.setdefault(part, {})[axis] = label
    return dict(Space(WEAKEST, fed(disk, WEAKEST.commit, at), random.Random(0)).state_of(wanted).image())


def fed(disk: SimDisk, commit: str, at: int) -> Platters:
    """The platters of a disk after so many events."""
    platters = Platters(disk, commit)
    for event in disk.events[:at]:
        platters.feed(event)
    return platters


def durable_ends(driver: Driver, at: int) -> dict:
    image = fed(driver.disk, WEAKEST.commit, at).durable_image()
    return {(entry.key, entry.topic_id): durable_end(image, entry) for entry in driver.ledger.partitions}


def save(plan: dict, directory: Path) -> Path:
    """Write the plan and its story; the path of the plan."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{plan['statement']}-{plan['policy']}-{plan['digest'][:8]}.json"
    path.write_text(text_of(plan))
    path.with_suffix(".txt").write_text(replay(plan).story())
    return path


def text_of(plan: dict) -> str:
    return json.dumps(plan, indent=1) + "\n"


def load(path: Path) -> dict:
    """Raises BadPlan, OSError."""
    try:
        plan = json.loads(path.read_text())
    except ValueError as error:
        raise BadPlan(f"{path}: {error}") from None
    if not isinstance(plan, dict):
        raise BadPlan(f"{path}: an object is expected")
    return plan
