"""Does the broker that starts after a crash answer its clients as the one before has told them?

Verified, by the answers to requests as bytes alone: a topic whose creation was confirmed is there, under its id and with all its
partitions, one whose deletion was confirmed is not (C9.5), and one that was made again has nothing of the old one (C9.6); offsets go on
from batch to batch, from the log start to the log end (C2.2); a record that a consumer was handed is where it was, or a power cut took it
and the leader epoch is higher now (C4.3); the committed offsets are those that a replay of the offsets log by hand gives (C8.3); those
that were durable, or under flush before ack acked, are not older (C8.1, C8.2); a record that was sent with acks=0 is
there once or not at all (C1.7).
Not verified: acked records, which chaos/checks/history judges.
"""

from collections import Counter
from collections.abc import Iterator

from chaos.checks.history.case import Finding

ANOMALY = "told otherwise"


def check(told, answers) -> list[Finding]:
    """`told` is a `chaos.whole.judge.Told`, `answers` a `chaos.whole.asking.Answers`."""
    found = [Finding("C2.4", "refused", "", -1, -1, error) for error in answers.errors]
    for checker in (_topics, _offsets_go_on, _seen, _replayed, _commits, _careless):
        found += checker(told, answers)
    return found


def _topics(told, answers) -> Iterator[Finding]:
    by_id = {note.topic_id: note for note in told.topics}
    for note in told.topics:
        there = answers.topics.get(note.name) == note.topic_id and note.topic_id is not None
        if told.must_exist(note) and not there:
            yield Finding("C9.6", ANOMALY, note.name, -1, -1, f"{note.label} was created, {answers.topics.get(note.name)} is there")
        elif there and not told.may_exist(note):
            yield Finding("C9.5", ANOMALY, note.name, -1, -1, f"{note.label} was deleted, and is back")
        if there:
            numbers = {number for name, number in answers.epochs if name == note.name}
            if numbers != set(range(note.count)):
                yield Finding("C9.6", ANOMALY, note.name, -1, -1, f"{note.label} has partitions {sorted(numbers)} of {note.count}")
    for name, topic_id in answers.topics.items():
        if topic_id not in by_id and not name.startswith("__"):
            yield Finding("C9.6", ANOMALY, name, -1, -1, f"topic id {topic_id} was never given out")
    for (label, number), records in told.log.items():
        for record in records:
            send = told.history.sends.get(record.identity)
            if send is not None and send.topic != label and send.topic.partition(".")[0] == label.partition(".")[0]:
                yield Finding("C9.6", ANOMALY, label, number, record.offset, f"{record.identity} was sent to {send.topic}")


def _offsets_go_on(told, answers) -> Iterator[Finding]:
    for where, batches in answers.log.items():
        start, end = answers.starts[where], answers.ends[where]
        expected = batches[0].base_offset if batches else end
        if (batches and not expected <= start <= batches[0].last_offset) or (not batches and start != end):
            yield Finding("C2.2", "hole", *where, start, f"the log starts at {start} and ends at {end}, the first batch is {expected}")
        for batch in batches:
            if batch.base_offset != expected:
                yield Finding("C2.2", "hole", *where, expected, f"offset {batch.base_offset} follows {expected - 1}")
            expected = batch.last_offset + 1
        if expected != end:
            yield Finding("C2.2", "hole", *where, expected, f"records end at {expected}, the log end offset is {end}")


def _seen(told, answers) -> Iterator[Finding]:
    held = {(label, number, record.offset): record.identity for (label, number), records in told.log.items() for record in records}
    for seen in told.history.seen:
        where = seen.topic, seen.partition
        if where not in told.log or seen.offset < told.log_start(where) or held.get((*where, seen.offset)) == seen.identity:
            continue
        epoch, now = told.seen_epoch(where), answers.epochs[told.place(where)]
        durable = seen.offset < told.durable_end.get(where, 0)
        allowed = told.fault == "F2" and told.policy.messages != 1 and not durable and now > epoch
        yield Finding("C4.3", "seen and gone", *where, seen.offset, f"a consumer was handed {seen.identity} under leader epoch {epoch}; "
                      f"now there is {held.get((*where, seen.offset))}, leader epoch {now}", allowed=allowed)


def _replayed(told, answers) -> Iterator[Finding]:
    if answers.committed != answers.replayed:
        yield Finding("C8.3", ANOMALY, "", -1, -1, f"the coordinator says {answers.committed}, the offsets log {answers.replayed}")


def _commits(told, answers) -> Iterator[Finding]:
    for where, (offset, _) in told.durable_commits.items():
        if where not in told.log:
            continue
        answer = answers.committed.get(told.place(where), (-1, -1))[0]
        ranks = {commit.offset: rank for rank, commit in enumerate(told.history.commits) if (commit.topic, commit.partition) == where}
        if ranks.get(answer, -1) < ranks.get(offset, -1):
            yield Finding("C8.1", "committed offset regressed", *where, offset, f"{offset} was durable, {answer} is answered")


def _careless(told, answers) -> Iterator[Finding]:
    times = Counter(record.identity for records in told.log.values() for record in records)
    for identity, send in told.history.sends.items():
        if send.acks == "0" and times[identity] > 1:
            yield Finding("C1.7", "duplicated", send.topic, -1, -1, f"{identity} was sent once, and is there {times[identity]} times", acks="0")
