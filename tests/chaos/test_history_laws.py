"""No history of a correct log is flagged, and every one into which a single anomaly is put is (contract S3), as laws.

`Model` is a log, a group and their clients in the simplest way that is right: one list per partition, every operation takes effect
at one instant between its question and its answer, some answers never come. Hypothesis chooses the operations. Then one thing
is falsified, and the checker that is named for it must say so.
"""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from chaos.checks.history import CHECKERS, Case, Kept, Policy, check_all
from chaos.history import Answer, Commit, History, Seen, Send

STEP, GROUP = 10, "g"
PARTITIONS = [("t", 0), ("t", 1)]
PRODUCERS = {"p": True, "q": True, "plain": False}  # idempotent?
MEMBERS = ("c", "d")
SEEKER = "s"


class Model:
    """A correct broker with all its clients."""

    def __init__(self):
        self.history = History(clients={SEEKER: {"kind": "seeker", "group": None}})
        self.now = 0
        self.logs: dict = {where: [] for where in PARTITIONS}
        self.epoch = 0
        self.committed: dict = {}
        self.owner = dict(zip(PARTITIONS, MEMBERS, strict=True))
        self.position = {(self.owner[where], where): 0 for where in PARTITIONS}
        self.stretch: dict = {}
        self.numbers = dict.fromkeys(PRODUCERS, 0)

    def send(self, client, where, outcome, delay, timestamp):
        number, idempotent = self.numbers[client], PRODUCERS[client]
        self.numbers[client] += 1
        sent = Send(client, number, where[0], "all", idempotent, self.now)
        self.history.sends[client, number] = sent
        if outcome == "refused":
            sent.outcome, sent.completed, sent.error = "failed", self.now + delay, "MSG_SIZE_TOO_LARGE"
        copies = {"acked": 1, "appended": 1, "twice": 1 if idempotent else 2}.get(outcome, 0)
        for _ in range(copies):
            self.logs[where].append(Kept(len(self.logs[where]), (client, number), self.epoch, timestamp))
        if outcome in ("acked", "twice"):
            sent.outcome, sent.completed = "acked", self.now + delay
            sent.partition, sent.offset = where[1], len(self.logs[where]) - 1

    def poll(self, where, count, knows_epoch):
        self._hand(self.owner[where], where, count, knows_epoch)

    def _hand(self, client, where, count, knows_epoch):
        start = self.position[client, where]
        for record in self.logs[where][start:start + count]:
            self.history.seen.append(Seen(client, *where, record.offset, self.now, record.identity,
                                          record.leader_epoch if knows_epoch else None, self.stretch.get((client, where), 0)))
            self.position[client, where] = record.offset + 1

    def commit(self, where, outcome, delay):
        offset, client = self.position[self.owner[where], where], self.owner[where]
        made = Commit(client, GROUP, *where, offset, self.now, "acked" if outcome == "acked" else "unknown",
                      self.now + delay if outcome == "acked" else None)
        self.history.commits.append(made)
        if outcome != "lost":
            self.committed[where] = offset

    def rebalance(self, where, delay):
        self.owner[where] = MEMBERS[1 - MEMBERS.index(self.owner[where])]
        client = self.owner[where]
        self.stretch[client, where] = self.stretch.get((client, where), 0) + 1
        self.position[client, where] = self.committed.get(where, 0)
        self._answer("committed", where, self.committed.get(where, -1), delay, group=GROUP)

    def _answer(self, what, where, offset, delay, **more):
        self.history.answers.append(Answer(self.owner[where], what, *where, offset, self.now - delay, self.now + delay, **more))

    def ask_end(self, where, delay):
        self._answer("end", where, len(self.logs[where]), delay)

    def seek(self, where, delay, timestamp, count):
        found = next((record.offset for record in self.logs[where] if record.timestamp_ms >= timestamp), -1)
        self._answer("time", where, found, delay, time_ms=timestamp)
        self.stretch[SEEKER, where] = self.stretch.get((SEEKER, where), 0) + 1
        self.position[SEEKER, where] = found if found >= 0 else len(self.logs[where])
        self.history.seeks[SEEKER, *where, self.stretch[SEEKER, where]] = self.position[SEEKER, where]
        self._hand(SEEKER, where, count, True)

    def restart(self):
        self.epoch += 1

    def case(self, *, read_on: bool) -> Case:
        self.now += 10 * STEP
        for where in PARTITIONS if read_on else ():
            self.poll(where, 10**6, False)
        return Case(Policy("none"), "F1", self.now, self.history, self.logs, {where: len(log) for where, log in self.logs.items()},
                    offsets={(GROUP, *where): offset for where, offset in self.committed.items()},
                    load=(0, self.now), service_bound_ns=self.now + 1, read_on_ns=1 if read_on else 0)


WHERE, DELAY, TIME = st.sampled_from(PARTITIONS), st.integers(1, 4 * STEP), st.integers(0, 30)
OPERATIONS = st.one_of(
    st.tuples(st.just("send"), st.sampled_from(sorted(PRODUCERS)), WHERE,
              st.sampled_from(["acked"] * 6 + ["appended", "lost", "refused", "twice"]), DELAY, TIME),
    st.tuples(st.just("send"), st.just("p"), WHERE, st.just("acked"), DELAY, TIME),
    st.tuples(st.just("poll"), WHERE, st.integers(1, 4), st.booleans()),
    st.tuples(st.just("commit"), WHERE, st.sampled_from(["acked", "acked", "appended", "lost"]), DELAY),
    st.tuples(st.just("rebalance"), WHERE, DELAY), st.tuples(st.just("ask_end"), WHERE, DELAY),
    st.tuples(st.just("seek"), WHERE, DELAY, TIME, st.integers(0, 4)), st.tuples(st.just("restart")),
)


@st.composite
def good_cases(draw, min_size=0):
    model = Model()
    for name, *arguments in draw(st.lists(OPERATIONS, min_size=min_size, max_size=60)):
        model.now += STEP
        getattr(model, name)(*arguments)
    return model.case(read_on=draw(st.booleans()))


def alarms(case):
    return {finding.anomaly for finding in check_all(case) if not finding.allowed}


@given(good_cases())
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_no_history_of_a_correct_log_is_flagged(case):
    assert alarms(case) == set(), [finding for finding in check_all(case) if not finding.allowed]


@given(good_cases(min_size=10), st.sampled_from(["P1", "P3", "P0"]), st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_what_a_policy_may_lose_is_allowed_and_one_record_more_is_not(case, kind, data):
    """A power cut at the end: what was not durable is gone, as far as the policy allows; then one offset further."""
    assume(case.history.acked)
    where = data.draw(st.sampled_from(sorted({(send.topic, send.partition) for send in case.history.acked})))
    acked_end = max(send.offset for send in case.history.acked if (send.topic, send.partition) == where) + 1
    room = {"P3": 0, "P1": 2, "P0": data.draw(st.integers(0, acked_end - 1))}[kind]
    policy = {"P3": Policy("messages=1", messages=1), "P1": Policy("messages=3", messages=3), "P0": Policy("none")}[kind]
    keep = max(0, acked_end - room)
    if kind == "P3":  # nothing is shown before it is durable
        keep = max(keep, *(seen.offset + 1 for seen in case.history.seen if (seen.topic, seen.partition) == where), 0)

    def cut(end):
        return replace(case, policy=policy, fault="F2", log={**case.log, where: case.log[where][:end]}, offsets={}, offsets_durable=False,
                       log_end={**case.log_end, where: end}, durable_end={**case.log_end, where: keep}, service_bound_ns=0, read_on_ns=0)

    assert alarms(cut(keep)) == set()
    last = next(reversed([send for send in case.history.acked if (send.topic, send.partition) == where and send.offset < keep]), None)
    assume(last is not None and keep)
    assert "lost acked record" in alarms(cut(last.offset))


# ------------------------------------------------------------ one anomaly put into a good history


def any_of(data, items):
    items = list(items)
    assume(items)
    return data.draw(st.sampled_from(items))


def with_log(case, where, records):
    return replace(case, log={**case.log, where: records})


def with_seen(case, seen):
    case.history.seen = seen
    return case


def lose(case, data):
    gone = any_of(data, case.history.acked)
    where = gone.topic, gone.partition
    return replace(with_log(case, where, case.log[where][:gone.offset]), log_end={**case.log_end, where: gone.offset})


def tear(case, data):
    where = any_of(data, (where for where, records in case.log.items() if records))
    torn = any_of(data, case.log[where])
    return with_log(case, where, [replace(r, identity=None, like=r.identity) if r is torn else r for r in case.log[where]])


def vanish(case, data):
    seen = any_of(data, case.history.seen)
    where = seen.topic, seen.partition
    return with_log(case, where, [record for record in case.log[where] if record.offset != seen.offset])


def invent(case, data):
    where = any_of(data, PARTITIONS)
    identity = data.draw(st.sampled_from([None, ("p", 10**6), ("nobody", 0)]))
    return with_log(case, where, [*case.log[where], Kept(len(case.log[where]), identity, 99)])


def duplicate(case, data):
    where, copied = any_of(data, ((where, record) for where, records in case.log.items() for record in records
                                  if PRODUCERS[record.identity[0]]))
    other = any_of(data, PARTITIONS)
    return with_log(case, other, [*case.log[other], replace(copied, offset=len(case.log[other]))])


def reorder(case, data):
    where = any_of(data, PARTITIONS)
    mine = [record for record in case.log[where] if record.identity[0] == "p"]
    assume(len(mine) > 1)
    one, two = mine[0], any_of(data, mine[1:])
    swapped = {one.offset: replace(two, offset=one.offset), two.offset: replace(one, offset=two.offset)}
    return with_log(case, where, [swapped.get(record.offset, record) for record in case.log[where]])


def change(case, data):
    seen = any_of(data, case.history.seen)
    other = any_of(data, (key for key, send in case.history.sends.items() if key != seen.identity and send.outcome != "failed"))
    return with_seen(case, [replace(each, identity=other) if each is seen else each for each in case.history.seen])


def reuse(case, data):
    seen = any_of(data, (each for each in case.history.seen if each.epoch is not None))
    other = any_of(data, (key for key in case.history.sends if key != seen.identity))
    return with_seen(case, [*case.history.seen, replace(seen, client="x", identity=other)])


def pass_over(case, data):
    committed = {(topic, partition): offset for (_, topic, partition), offset in case.offsets.items()}
    gone = any_of(data, (s for s in case.history.seen if s.client != SEEKER and s.offset < committed.get((s.topic, s.partition), 0)))
    return with_seen(case, [s for s in case.history.seen
                            if (s.topic, s.partition, s.offset) != (gone.topic, gone.partition, gone.offset)])


def stretches(case):
    found: dict = {}
    for seen in case.history.seen:
        found.setdefault((seen.client, seen.topic, seen.partition, seen.stretch), []).append(seen)
    return found.values()


def skip(case, data):
    gone = any_of(data, any_of(data, (stretch for stretch in stretches(case) if len(stretch) > 2))[1:-1])
    return with_seen(case, [seen for seen in case.history.seen if seen is not gone])


def go_back(case, data):
    again = any_of(data, any_of(data, stretches(case)))
    return with_seen(case, [*case.history.seen, again])


def regress(case, data):
    key = any_of(data, case.offsets)
    commits = [commit for commit in case.history.commits if (commit.group, commit.topic, commit.partition) == key]
    acked = [commit for commit in commits if commit.outcome == "acked"]
    assume(acked and acked[-1].offset > 0)
    old = data.draw(st.integers(0, acked[-1].offset - 1))
    last = max(commit.invoked for commit in acked)
    # Not a regression where somebody asked for the old offset and may have had it kept last.
    assume(not any(c.offset == old and (c.completed is None or c.completed >= last) for c in commits))
    return replace(case, offsets={**case.offsets, key: old})


def run_ahead(case, data):
    key = any_of(data, case.offsets)
    return replace(case, offsets={**case.offsets, key: case.log_end[key[1:]] + data.draw(st.integers(1, 9))})


def falsify(case, data, what, wrong):
    answer = any_of(data, (answer for answer in case.history.answers if answer.what == what and wrong(answer) is not None))
    case.history.answers = [replace(each, offset=wrong(each)) if each is answer else each for each in case.history.answers]
    return case


def answer_from_the_past(case, data):
    def wrong(answer):
        acked = [send.offset for send in case.history.acked
                 if (send.topic, send.partition) == (answer.topic, answer.partition) and send.completed < answer.asked]
        return data.draw(st.integers(0, max(acked))) if acked else None

    return falsify(case, data, "end", wrong)


def mistime(case, data):
    """One off, in either direction."""
    return falsify(case, data, "time", lambda answer: None if answer.offset < 0 else answer.offset + data.draw(st.sampled_from([1, -1] if answer.offset else [1])))


def fall_silent(case, data):
    up = data.draw(st.integers(1, 10**6))
    return replace(case, load=(0, case.struck + up + 1), service_bound_ns=up)


ANOMALIES = {
    "lost acked record": lose, "torn": tear, "invented": invent, "duplicated": duplicate, "reordered": reorder,
    "two values at one offset": change, "vanished": vanish, "offset reused within one epoch": reuse, "unseen": pass_over, "poll skip": skip,
    "poll goes back": go_back, "committed offset regressed": regress, "committed offset beyond the log": run_ahead,
    "stale": answer_from_the_past, "lookup by time": mistime, "unavailable": fall_silent,
}


def test_there_is_a_way_to_plant_each_anomaly():
    assert ANOMALIES.keys() == CHECKERS.keys()


@pytest.mark.parametrize("anomaly", ANOMALIES)
def test_one_anomaly_put_into_a_good_history_is_flagged(anomaly):
    @given(good_cases(min_size=25), st.data())
    @settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much], deadline=None)
    def law(case, data):
        assert anomaly in alarms(ANOMALIES[anomaly](case, data))

    law()
