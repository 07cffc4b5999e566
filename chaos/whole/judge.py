"""What did clients know when the broker died, and is it true of the one that starts on what was left?

`Told` is everything that had been asked and answered when the crash came, in the words of the checkers: a history in which later replies
are unknown and later requests absent, topics, producers and positions as they were, and what the disk's own record of syncs
says was durable. `judge` starts a broker on a crashed image, asks it, and gives the findings of all checkers: those for histories of real
clients (chaos/checks/history), chaos/checks/answers.py and chaos/checks/resumed.py.
"""

import base64
from dataclasses import replace
from typing import NamedTuple

from chaos.checks import answers as answer_checks
from chaos.checks import history as history_checks
from chaos.checks import resumed
from chaos.checks.crash import ROOT, Image, longest_run, segments_in
from chaos.checks.history.case import ANY, Case, Finding, Kept, Policy
from chaos.history import History, Send
from chaos.whole.asking import OFFSETS_TOPIC, Answers, Asker, NoAnswer, replay_offsets, start_on
from chaos.whole.clients import Session
from chaos.whole.node import START_MS
from chaos.whole.notes import GROUP, NS_PER_MS, TopicNote, identities
from refbroker.log.directory import StartupError

LATER_MS = 3_600_000  # after so long the power comes back
STATEMENTS = ("C2.2", "C8.3", "C9.5", "C9.6")  # judged on every state

Label = tuple[str, int]  # a topic's label, and a partition


class Judged(NamedTuple):
    findings: list[Finding]
    statements: set[tuple[str, str]]  # with the acks of the records that each is about
    requests: int
    lost: int  # acked records that are gone


class Told:
    """What was known at one moment. `durable`: an image of nothing but what is durable for certain, or None after F1."""

    def __init__(self, session: Session, at: int, fault: str, durable: Image | None):
        self.session, self.at, self.fault = session, at, fault
        self.policy = Policy(session.policy.name, session.policy.messages, session.policy.ms)
        notes = session.notes
        self.topics = [note for note in notes.topics if note.created[0] <= at]
        self.producers = notes.producers
        self.history = session.history.until(session.stamp(at))
        self.deleted: dict[Label, int] = {}  # what lies below may be gone
        self.log: dict[Label, list[Kept]] = {}
        self.durable_end: dict[Label, int] = {}
        self.durable_commits: dict[Label, tuple[int, int]] = {}
        self._answers: Answers | None = None
        self._durable = durable

    def must_exist(self, note: TopicNote) -> bool:
        return note.created[1] is not None and note.created[1] <= self.at and not (note.deleted[0] is not None and note.deleted[0] <= self.at)

    def may_exist(self, note: TopicNote) -> bool:
        return not (note.deleted[1] is not None and note.deleted[1] <= self.at)

    def hear(self, answers: Answers) -> None:
        """Put the answers into the words of the history: topics by their labels, records by whose they are."""
        self._answers = answers
        for began, _, label, number, offset in self.session.notes.deletions:
            if began <= self.at:
                self.deleted[label, number] = max(offset, self.deleted.get((label, number), 0))
        labels = {note.topic_id: note.label for note in self.topics}
        for (name, number), batches in answers.log.items():
            label = labels.get(answers.topics[name])
            if label is not None:
                start = max(answers.starts[name, number], self.deleted.get((label, number), 0))
                self.log[label, number] = [Kept(offset, identity, batch.leader_epoch) for batch in batches
                                           for offset, identity in identities(batch) if offset >= start]
        self._look_at_durable()
        self.history = self._judgeable()

    def place(self, where: Label) -> tuple[str, int]:
        return where[0].partition(".")[0], where[1]

    def log_start(self, where: Label) -> int:
        """Of what lies below nobody knows whether it is there."""
        return max(self._answers.starts[self.place(where)], self.deleted.get(where, 0))

    def seen_epoch(self, where: Label) -> int:
        """The leader epoch of the last record that the consumer was handed."""
        return max((epoch for moment, label, number, _, epoch in self.session.notes.positions
                    if moment <= self.at and (label, number) == where), default=-1)

    def positions(self) -> list[tuple[Label, int, int]]:
        """(partition, next offset, epoch) of the consumer, and of the group where it is another."""
        found = {}
        for moment, label, number, position, epoch in self.session.notes.positions:
            if moment <= self.at and position > 0:
                found[label, number] = position, epoch
        result = [(where, *position) for where, position in found.items()]
        by_name = {note.name: note.label for note in self.topics if self._answers.topics.get(note.name) == note.topic_id}
        for (name, number), committed in self._answers.committed.items():
            if committed[0] > 0 and found.get((by_name[name], number)) != committed:
                result.append(((by_name[name], number), *committed))
        return result

    def case(self) -> Case:
        """For the checkers of histories."""
        answers, policy = self._answers, self.session.policy
        ends = {where: answers.ends[self.place(where)] for where in self.log}
        by_name = {name: label for label, name in ((where[0], self.place(where)[0]) for where in self.log)}
        offsets = {(GROUP, by_name[name], number): offset for (name, number), (offset, _) in answers.committed.items() if name in by_name}
        return Case(self.policy, self.fault, self.session.stamp(self.at), self.history, self.log, ends, self.durable_end, offsets,
                    self.fault == "F1" or policy.messages == 1, policy.window_ms * NS_PER_MS)

    def _judgeable(self) -> History:
        """Without what belongs to topics that are gone rightly; of records that were deleted nobody knows."""
        labels = {where[0] for where in self.log} | {note.label for note in self.topics if self.must_exist(note)}
        kept = self.history
        kept.sends = {key: self._maybe_deleted(send) for key, send in kept.sends.items() if send.topic in labels}
        kept.commits = [commit for commit in kept.commits if commit.topic in labels]
        kept.seen = [seen for seen in kept.seen if seen.topic in labels and not self._was_deleted(seen.topic, seen.partition, seen.offset)]
        return kept

    def _maybe_deleted(self, send: Send) -> Send:
        if send.offset is None or not self._was_deleted(send.topic, send.partition, send.offset):
            return send
        return replace(send, outcome="unknown", offset=None)

    def _was_deleted(self, label: str, number: int, offset: int) -> bool:
        return offset < self.deleted.get((label, number), 0)

    def _look_at_durable(self) -> None:
        """The durable end of each partition (D), and the commits that lie below that of the offsets log."""
        if self._durable is None:
            return
        for note in self.topics:
            for number in range(note.count):
                self.durable_end[note.label, number] = _durable_end(self._durable, note, number)
        run = longest_run(segments_in(self._durable, f"{ROOT}/{OFFSETS_TOPIC}-0"), 0)
        labels = {note.topic_id: note.label for note in self.topics}
        for (group, _, number), (offset, epoch, topic_id) in replay_offsets(run.batches).items():
            if group == GROUP and topic_id in labels:
                self.durable_commits[labels[topic_id], number] = offset, epoch


def _durable_end(image: Image, note: TopicNote, number: int) -> int:
    directory = f"{ROOT}/{note.name}-{number}"
    metadata = image.get(f"{directory}/partition.metadata") or b""
    if note.topic_id is None or base64.urlsafe_b64encode(note.topic_id.bytes).rstrip(b"=") not in metadata:
        return 0
    return longest_run(segments_in(image, directory), 0).end_offset


def judge(session: Session, at: int, fault: str, image: Image, durable: Image | None) -> Judged:
    """Start on `image`, ask, and hold the answers against what was told."""
    told = Told(session, at, fault, durable)
    try:
        node = start_on(image, session.config, START_MS + session.notes.ms_at(at) + LATER_MS)
    except StartupError as error:
        return Judged([Finding("C2.4", "does not start", "", -1, -1, str(error))], set(), 0, 0)
    try:
        return _ask(told, Asker(node), True)
    finally:
        node.kill()


def judge_live(session: Session) -> Judged:
    """The same of the broker that still runs: nothing is lost yet. It is asked nothing that changes it."""
    return _ask(Told(session, session.at, "F1", None), Asker(session.node), False)


def _ask(told: Told, asker: Asker, going_on: bool) -> Judged:
    statements = {(statement, ANY) for statement in STATEMENTS}
    try:
        told.hear(asker.ask_all())
        case = told.case()
        findings = answer_checks.check(told, asker.answers) + history_checks.check_all(case)
        statements |= history_checks.judged(case)
        statements |= {("C1.7", "0")} if any(send.acks == "0" for send in told.history.sends.values()) else set()
        statements |= {("C8.1", ANY)} if told.durable_commits else set()
        if going_on:
            more, asked = resumed.check(told, asker)
            findings, statements = findings + more, statements | {(statement, ANY) for statement in asked}
        return Judged(findings, statements, asker.requests, len(history_checks.lost.missing(case)))
    except NoAnswer as error:
        return Judged([Finding("C2.4", "no answer", "", -1, -1, str(error))], statements, asker.requests, 0)
