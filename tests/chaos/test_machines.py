"""Long histories with crashes in them, and life that goes on: a log on a simulated disk against a list of what was acked.

The letters are those of the exhaustive workloads (chaos/disk/workloads.py); Hypothesis strings them together, loses the power in a
state that it draws, or kills the process, and goes on with what recovery left. The model is plain Python: for each partition the
batches that were acked, in order, and how many of them a crash may not take. It is asked after every crash; besides, the checkers
of the lab look at each recovered image on its own.

HYPOTHESIS_PROFILE=deep tries forty times as many.
"""

import random

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from chaos.checks.crash import longest_run, segments_in
from chaos.disk import small, workloads
from chaos.disk.driver import DAY_MS, POLICIES, PRODUCER_ID, ROOT, Driver, config_of, quietly
from chaos.disk.ledger import Append, Cut, Ledger, PartitionLedger
from chaos.disk.model import SimDisk, SimFile
from chaos.disk.profiles import PROFILES, Platters
from chaos.disk.recovering import Recoverer
from chaos.disk.spaces import Space
from refbroker.log import producers

EXAMPLES = settings().max_examples
SHORT = settings(max_examples=400, stateful_step_count=8, deadline=None, database=None, derandomize=True, print_blob=False,
                 report_multiple_bugs=False, phases=(Phase.generate, Phase.shrink))
STATES_BOUND = 60  # of which a crash draws one; the first has lost nothing
PRODUCER_ID_AT, COUNT_AT = 43, 57
SENDING = ("append", "fill", "gzip", "pair", "both", "idempotent", "retry")
KEEPING = ("flush", "roll", "background", "wait", "checkpoint", "restart")


class Model:
    """What a client of one partition knows: `batches` as (base offset, bytes), in order; how many of them are `durable`
    whatever the policy, and how many `old` enough for flush.ms; below `start` all is deleted."""

    def __init__(self):
        self.batches = []
        self.durable = self.old = self.start = 0

    def follow(self, steps):
        """Take what was told since: appends that were acked, and cuts."""
        for step in steps:
            if isinstance(step, Append):
                self.batches.append((step.base_offset, step.data, step.acked is not None))
            elif step.kind == "truncate":
                self.batches = [batch for batch in self.batches if batch[0] < step.offset]
                self.durable, self.old = min(self.durable, len(self.batches)), min(self.old, len(self.batches))
            else:
                self.start = max(self.start, step.offset)

    def owed(self, policy, power_lost):
        """How many of the batches a crash must leave."""
        acked = max((index + 1 for index, batch in enumerate(self.batches) if batch[2]), default=0)
        if not power_lost or policy.name == "P3":
            return acked
        if policy.name == "P1":
            end = self.end(acked)
            return max(self.durable, sum(self.end(index + 1) <= end - (policy.messages - 1) for index in range(acked)))
        return max(self.durable, self.old if policy.name == "P2" else 0)

    def end(self, count):
        """The offset behind the first `count` batches."""
        if not count:
            return 0
        base, data, _ = self.batches[count - 1]
        return base + int.from_bytes(data[COUNT_AT:COUNT_AT + 4], "big")


@pytest.fixture(autouse=True)
def usual_constants():
    with small.applied(small.USUAL):
        yield


class LogWithCrashes(RuleBasedStateMachine):
    trail: list[str] = []  # of the last run: after a failure, the smallest one that fails

    @initialize(policy=st.sampled_from(sorted(POLICIES, reverse=True)))
    def begin(self, policy):
        self.policy = POLICIES[policy]
        type(self).trail = [policy]
        self.recoverer = Recoverer(config_of(self.policy))
        self.driver = Driver(self.policy)
        self.driver.start()
        self.models, self.taken = {}, {}
        self.follow()

    def follow(self, letter=""):
        """The models learn what the driver's clients were told by the last letter."""
        for entry in self.driver.ledger.partitions:
            identity = entry.key, entry.topic_id
            model = self.models.setdefault(identity, Model())
            model.follow(entry.steps[self.taken.get(identity, 0):])
            self.taken[identity] = len(entry.steps)
            if letter == "restart" or (letter == "flush" and entry.key == ("a", 0)):
                model.durable = len(model.batches)
            if letter == "wait":
                model.old = len(model.batches)

    @rule(letter=st.sampled_from(SENDING))
    def send(self, letter):
        self.operate(letter)

    @rule(letter=st.sampled_from(KEEPING))
    def keep(self, letter):
        self.operate(letter)

    @rule(letter=st.sampled_from([letter for letter in workloads.ALPHABET if letter not in SENDING + KEEPING]))
    def do_something_else(self, letter):
        self.operate(letter)

    def operate(self, letter):
        self.trail.append(letter)
        with quietly():
            self.driver.do(workloads.ALPHABET[letter])
        self.follow(letter)

    @rule()
    def kill(self):
        self.trail.append("killed")
        self.go_on(self.driver.disk.view(), power_lost=False)

    @rule(profile=st.sampled_from(PROFILES), data=st.data())
    def lose_power(self, profile, data):
        self.trail.append("power lost")
        platters = Platters(self.driver.disk, profile.commit)
        for event in self.driver.disk.events:
            platters.feed(event)
        states = list(Space(profile, platters, random.Random(1)).states(STATES_BOUND))
        self.go_on(states[data.draw(st.integers(0, len(states) - 1))].image(), power_lost=True)

    def go_on(self, image, power_lost):
        """Recover, ask the model, and begin anew with what is left."""
        with quietly():
            recovered = self.recoverer.recover(image)
            assert recovered.refused is None
            assert [(problem.statement, problem.text) for problem in recovered.problems] == []
            driver = Driver(self.policy, SimDisk(image), Ledger(self.policy))
            driver.now_ms, driver.counter = self.driver.now_ms + DAY_MS // 24, self.driver.counter
            gone = [(entry.key, entry.topic_id) for entry in self.driver.ledger.partitions if entry.deleted[0] is not None]
            driver.start()
        left = {(key, log.topic_id): log for key, log in driver.logs.partitions.items()}
        for identity, model in self.models.items():
            if identity not in gone:
                assert identity in left, f"{identity} is gone"
                self.survived(model, left[identity], driver, power_lost)
        self.models = {identity: self.models.get(identity) or Model() for identity in left}
        self.driver, self.taken = driver, {}
        for (key, topic_id), log in left.items():
            self.remember(key, topic_id, log)

    def survived(self, model, log, driver, power_lost):
        """What is there is the list of what was sent, up to a point that the policy allows."""
        sent = [(base, data) for base, data, _ in model.batches]
        found = contents(driver, log)
        first = sent.index(found[0]) if found else 0
        assert found == sent[first:first + len(found)]
        owed = model.end(model.owed(self.policy, power_lost))
        assert log.log_end_offset >= owed, f"log end {log.log_end_offset}, owed {owed}"
        assert log.log_start_offset <= model.start

    def remember(self, key, topic_id, log):
        """The new life begins with what is left: all of it is on the disk, and acked by being there."""
        entry = PartitionLedger(*key, topic_id, [0, 0])
        found = contents(self.driver, log)
        entry.steps += [Append(0, base, base + count_of(data) - 1, data, 0) for base, data in found]
        if log.log_start_offset:
            entry.steps.append(Cut(0, "delete", log.log_start_offset, 0, explicit=False))
        self.driver.ledger.partitions.append(entry)
        model = self.models[key, topic_id] = Model()
        model.follow(entry.steps)
        model.durable = model.old = len(model.batches)
        self.taken[key, topic_id] = len(entry.steps)
        mine = [(base, data) for base, data in found if int.from_bytes(data[PRODUCER_ID_AT:PRODUCER_ID_AT + 8], "big") == PRODUCER_ID]
        known = log.producers.get(PRODUCER_ID)
        self.driver.sequences[key] = known.last_sequence + 1 if known else 0  # recovery.problems holds this against the batches
        if mine:  # the last batch of the producer, once more
            again = bytearray(8) + mine[-1][1][8:]
            assert log.append(again, self.driver.now_ms).base_offset == mine[-1][0], "a retry was taken for news"

    @precondition(lambda self: hasattr(self, "driver"))
    @invariant()
    def no_complaint(self):
        assert self.driver.complaints == []


def count_of(data):
    return int.from_bytes(data[COUNT_AT:COUNT_AT + 4], "big")


def contents(driver, log):
    """(base offset, bytes) of every batch in the files of a log, read by hand."""
    run = longest_run(segments_in(driver.disk.view(), f"{ROOT}/{log.topic}-{log.number}"), log.log_start_offset)
    return [(batch.base_offset, batch.data) for batch in run.batches]


LogWithCrashes.TestCase.settings = settings(max_examples=EXAMPLES, stateful_step_count=20, deadline=None)
TestLogWithCrashes = LogWithCrashes.TestCase


def no_sync(monkeypatch):
    monkeypatch.setattr(SimFile, "sync", lambda self: None)


def retries_are_news(monkeypatch):
    monkeypatch.setattr(producers.ProducerStates, "check", lambda self, batch: None)


@pytest.mark.parametrize("plant,steps_max", [(no_sync, 3), (retries_are_news, 4)])
def test_a_planted_bug_shrinks_to_a_few_steps(monkeypatch, plant, steps_max):
    plant(monkeypatch)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(LogWithCrashes, settings=SHORT)
    assert len(LogWithCrashes.trail) <= steps_max, LogWithCrashes.trail
