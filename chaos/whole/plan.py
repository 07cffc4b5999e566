"""One failing run of a whole broker and its clients as a plan (chaos/plan.py), which anybody can edit and replay.

    {"format": 1, "layer": "whole", "statement": "C1.3", "policy": "P3", "letters": ["produce", "poll"],
     "crash": {"fault": "F2", "disk": "posix", "after_events": 41, "deviations": {...}},
     "digest": "...", "problems": [...]}

`letters` are those of `clients.py`, in the order in which they are played; `constants`, `crash` and what follows are as in the plans of the log.
"F0" is no crash: the broker that still runs is asked. Time, ids and records are functions of the letters, so that a plan is replayed bit for bit.
"""

from dataclasses import dataclass

from chaos.checks.crash import Image
from chaos.checks.history.case import Finding
from chaos.disk import small, story
from chaos.disk.driver import POLICIES
from chaos.disk.profiles import WEAKEST
from chaos.disk.spaces import digest_of
from chaos.mutants.trees import planted_here
from chaos.plan import FORMAT, BadPlan, Outcome, crashed, fed
from chaos.whole.clients import LETTERS, Session
from chaos.whole.judge import judge, judge_live
from chaos.whole.notes import NS_PER_MS

LAYER = "whole"


@dataclass
class Followed(Outcome):
    """What came of a plan. `began`: the event at which each letter did."""

    plan: dict
    driver: Session  # what a story calls it: it has the disk
    began: list[int]
    crashed: Image
    problems: list[Finding]
    digest: str

    @staticmethod
    def in_plan(finding: Finding) -> list:
        return [finding.statement, f"{finding.topic}-{finding.partition}", finding.offset, f"{finding.anomaly}: {finding.evidence}"]

    def story(self) -> str:
        plan, crash = self.plan, self.plan["crash"]
        what = "no crash" if crash["fault"] == "F0" else f"{crash['fault']} on disk {crash['disk']}"
        lines = [f"{plan['statement']} under {plan['policy']}, whole broker, {what}, after event {crash['after_events']}", ""]
        lines += ["Constants of the broker", *story.constants(plan["constants"]), ""] if plan.get("constants") else []
        lines += ["What the clients did, one letter after the other"]
        lines += [f"  {letter}, from event {began}{_about(letter)}" for letter, began in zip(plan["letters"], self.began)]
        lines += ["", "What they sent, and were told", *self._sends(), ""]
        lines += ["What the broker made of it: the write list (* unsynced at the crash)", *story.events(self), ""]
        lines += ["What the crash made of it", *story.deviations(crash), ""]
        lines += ["What was on the disk (page cache above, disk below, ~ marks bytes that differ)", *story.files(self), ""]
        lines += ["What broke"] + [f"  {each.statement} {each.anomaly}{_where(each)}: {each.evidence}" for each in self.broken]
        lines += [] if self.broken else ["  nothing"]
        return "\n".join(lines) + "\n"

    def _sends(self) -> list[str]:
        lines = []
        for send in self.driver.history.sends.values():
            place = f"{send.topic}-{send.partition}" if send.partition is not None else send.topic
            told = send.outcome if send.completed is None else f"{send.outcome} at event {send.completed % NS_PER_MS}"
            offset = f", offset {send.offset}" if send.offset is not None else ""
            lines.append(f"  {send.client} {send.number}: {place}, acks {send.acks}, sent at event {send.invoked % NS_PER_MS}, {told}{offset}")
        return lines or ["  nothing"]


def plan_of(failure) -> dict:
    """The plan of a `WholeFailure`, with the result that it has."""
    plan = {
        "format": FORMAT, "layer": LAYER, **({"mutant": name} if (name := planted_here()) else {}), "statement": failure.finding.statement,
        "policy": failure.policy, **({"constants": dict(failure.constants)} if failure.constants != small.USUAL else {}),
        "letters": list(failure.word),
        "crash": {"fault": failure.fault, "disk": failure.disk, "after_events": failure.at + ("process" in failure.labels), "deviations": failure.labels},
    }
    with small.applied(failure.constants):
        result = follow(plan)
    return {**plan, "digest": result.digest, "problems": result.written}


def follow(plan: dict) -> Followed:
    """Raises BadPlan. Constants are the caller's to apply."""
    try:
        session = Session(POLICIES[plan["policy"]])
        began = [_played(session, letter) for letter in plan["letters"]]
        crash = plan["crash"]
        findings = [Finding(statement, "answered wrongly", "", -1, -1, text) for statement, text in session.complaints]
        findings = findings + judge_live(session).findings if crash["fault"] == "F0" else []
        session.close()
        image, at = crashed(session, crash), crash["after_events"]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadPlan(f"{type(error).__name__}: {error}") from error
    if crash["fault"] != "F0":
        durable = fed(session.disk, WEAKEST.commit, at).durable_image() if crash["fault"] == "F2" else None
        known_at = at - 1 if crash["deviations"].get("process") else at
        findings = judge(session, known_at, crash["fault"], image, durable).findings
    return Followed(plan, session, began, image, findings, f"{digest_of(image):032x}")


def _played(session: Session, letter: str) -> int:
    if letter not in LETTERS:
        raise BadPlan(f"no letter {letter!r}: there are {' '.join(LETTERS)}")
    began = session.at
    if session.play((letter,)) is None:
        raise BadPlan(f"{letter!r} makes no sense behind what was played")
    return began


def _about(letter: str) -> str:
    """What it does, where its name does not say that."""
    text = " ".join((getattr(Session, "do_" + letter.replace("-", "_")).__doc__ or "").split())
    return f": {text}" if text else ""


def _where(finding: Finding) -> str:
    return f" {finding.topic}-{finding.partition} at {finding.offset}" if finding.topic else ""
