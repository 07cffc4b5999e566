"""Whole brokers on the simulated disk: does the lab see what clients are told, and nothing else? Sound ones, and bugs planted by hand."""

import asyncio
import uuid
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from kafka.record.default_records import DefaultRecordBatchBuilder

from chaos import plan
from chaos.checks.history.case import Finding
from chaos.cli import cli
from chaos.disk import small
from chaos.disk.driver import POLICIES, quietly
from chaos.disk.judging import evidence_of
from chaos.disk.lab import cache_images
from chaos.logfile import parse_log
from chaos.report import Report
from chaos.whole import asking, run
from chaos.whole.clients import LETTERS, Session
from chaos.whole.plan import plan_of
from refbroker import broker, group_log, metadata, offsets
from refbroker.group_records import Committed, offset_key, offset_value
from refbroker.log import directory, partition, producers, recovery
from refbroker.log.flush import Flusher

SOUND = ("produce", "both", "poll", "commit", "crowd", "zero", "idempotent", "wrap", "lost", "retry", "late", "bump", "fence", "gap", "create",
         "recreate", "delete-records", "kill", "poll", "commit", "pending", "unread", "gzip", "delete")


@pytest.fixture(autouse=True)
def quiet():
    with quietly():
        yield


def explore(policy, word, chosen=1):
    return run.explore(POLICIES[policy], tuple(word.split()), 1, chosen)


def statements(tally):
    return {failure.finding.statement for failure in tally.failures}


@pytest.mark.parametrize("policy", POLICIES)
def test_clients_find_what_they_were_told(policy):
    tally = explore(policy, "produce both poll commit produce", chosen=0)
    assert [failure.text() for failure in tally.failures] == []
    assert tally.acks == 4 and tally.questions > tally.recoveries > 30
    assert (max(tally.losses) > 0) == (policy != "P3")


def test_clients_of_every_kind_find_what_they_were_told():
    tally = explore("P3", " ".join(SOUND), chosen=0)
    assert [failure.text() for failure in tally.failures] == []
    assert tally.acks == 16
    judged = {statement for statement, _, fault in tally.judgements if fault == "F2"}
    assert judged >= {"C1.7", "C2.1", "C2.2", "C2.8", "C4.3", "C6.4", "C6.5", "C6.6", "C8.1", "C8.2", "C8.3", "C8.4", "C9.5", "C9.6"}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_running_broker_answers_rightly(policy):
    """Also to read_committed while an append waits for its flush (C4.2), and to acks=0 during another's flush (C1.4)."""
    for word in run.SCENARIOS:
        tally = run.explore(POLICIES[policy], word, 1, faults=())
        assert [failure.text() for failure in tally.failures] == []


def test_every_letter_is_in_a_scenario():
    assert {letter for word in run.SCENARIOS for letter in word} == set(LETTERS)


@pytest.mark.parametrize("number", [1, 2])
def test_the_same_seed_makes_the_same_run(number):
    first, second = (run.perform(run.WholeTask(len(run.BEGIN_WITH) + number, 7)) for _ in range(2))
    assert run.WholeTask(len(run.BEGIN_WITH) + 1, 7).constants != run.WholeTask(len(run.BEGIN_WITH) + 2, 7).constants
    for name in POLICIES:
        assert first[name].recoveries and vars(first[name]) == vars(second[name])


def done():
    future = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future


def answered_before_durable(monkeypatch):
    real = Flusher.durable

    def at_once(self, partition, offset, waiters=1):
        if partition.topic.startswith("__"):
            return real(self, partition, offset)
        self.request(partition)
        return done()

    monkeypatch.setattr(Flusher, "durable", at_once)


def flush_in_flight_is_enough(monkeypatch):
    async def one_flush(self):
        self._landed.clear()
        await self._landed.wait()

    def durable(self, partition, offset, waiters=1):
        if partition.recovery_point >= offset:
            return done()
        self.request(partition)
        return asyncio.ensure_future(one_flush(self))

    monkeypatch.setattr(Flusher, "durable", durable)


def gap_is_taken(monkeypatch):
    monkeypatch.setattr(producers, "_follows", lambda last, sequence: True)


def wrap_is_refused(monkeypatch):
    monkeypatch.setattr(producers, "_follows", lambda last, sequence: sequence == last + 1)


def fence_is_open(monkeypatch):
    real = producers.ProducerStates._check_order
    monkeypatch.setattr(producers.ProducerStates, "_check_order",
                        lambda self, producer, batch: None if batch.producer_epoch < producer.epoch else real(self, producer, batch))


def retries_are_news(monkeypatch):
    monkeypatch.setattr(producers.ProducerStates, "check", lambda self, batch: None)


def visible_before_durable(monkeypatch):
    real = partition.Partition.set_config

    def set_config(self, config):
        real(self, config)
        self._visible_when_durable = False

    monkeypatch.setattr(partition.Partition, "set_config", set_config)


def first_commit_stays(monkeypatch):
    def apply(self, record):
        if record.committed is not None:
            self._groups.setdefault(record.group, {}).setdefault((record.topic, record.partition), record.committed)

    monkeypatch.setattr(offsets.Offsets, "apply", apply)


def commit_answered_before_written(monkeypatch):
    real = broker.Broker.append

    async def append(self, partition, records):
        if partition.topic != group_log.TOPIC:
            return await real(self, partition, records)
        return partition.append(records, self.clock())

    monkeypatch.setattr(broker.Broker, "append", append)


def nothing_is_loaded(monkeypatch):
    async def load(self, number):
        return None

    monkeypatch.setattr(group_log.GroupLog, "_load", load)


def same_epoch_again(monkeypatch):
    real = recovery._epochs

    def epochs(*arguments):
        cache, _, epoch = real(*arguments)
        cache.entries = [entry for entry in cache.entries if entry[0] < epoch] or [(0, 0)]
        return cache, False, max(0, epoch - 1)

    monkeypatch.setattr(recovery, "_epochs", epochs)


def removal_not_written(monkeypatch):
    real = metadata.MetadataStore._write

    async def write(self, entries):
        entries = list(entries)
        if not any(entry[0] is metadata.REMOVE_TOPIC for entry in entries):
            await real(self, entries)

    monkeypatch.setattr(metadata.MetadataStore, "_write", write)


def wait_at_the_end_of_a_segment(monkeypatch):
    monkeypatch.setattr(partition.Partition, "is_behind", lambda self, offset: False)


def nobody_is_woken(monkeypatch):
    monkeypatch.setattr(partition.Partition, "wake", lambda self: None)


def committed_to_the_log_end(monkeypatch):
    monkeypatch.setattr(partition.Partition, "last_stable_offset", property(lambda self: self.log_end_offset))


def deleted_to_the_log_end(monkeypatch):
    def delete_records(self, before_offset):
        self.log_start_offset = self.log_end_offset
        return self.log_start_offset

    monkeypatch.setattr(partition.Partition, "delete_records", delete_records)


def configs_reach_no_partition(monkeypatch):
    monkeypatch.setattr(metadata.MetadataStore, "_configs_changed", lambda self, changed: None)


def no_stop_is_clean(monkeypatch):
    monkeypatch.setattr(directory.LogDirectory, "_seal", lambda self, *_: False)


PLANTED = [
    (answered_before_durable, "P3", "produce", {"C1.3"}),
    (flush_in_flight_is_enough, "P3", "late", {"C1.3"}),
    (gap_is_taken, "P0", "idempotent gap", {"C6.5"}),
    (gap_is_taken, "P0", "idempotent", {"C6.5"}),  # asked of the broker that starts after the crash
    (wrap_is_refused, "P0", "wrap wrap", {"C6.5"}),
    (fence_is_open, "P0", "idempotent bump fence", {"C6.6"}),
    (fence_is_open, "P3", "idempotent bump", {"C6.6"}),
    (retries_are_news, "P0", "idempotent retry", {"C6.4"}),
    (retries_are_news, "P3", "idempotent", {"C6.4"}),
    (visible_before_durable, "P3", "produce pending poll", {"C4.3"}),
    (first_commit_stays, "P0", "produce poll commit produce poll commit", {"C8.3", "C8.2"}),
    (commit_answered_before_written, "P3", "produce poll commit", {"C8.1", "C8.2"}),
    (nothing_is_loaded, "P0", "produce poll commit", {"C8.3"}),
    (same_epoch_again, "P0", "produce poll produce poll", {"C8.4", "C2.8"}),
    (removal_not_written, "P0", "create delete", {"C9.5"}),
    (wait_at_the_end_of_a_segment, "P0", "gzip gzip gzip gzip catch-up", {"C1.16"}),
    (nobody_is_woken, "P3", "follow", {"C1.16"}),
    (nobody_is_woken, "P0", "create vanish", {"C1.16"}),
    (committed_to_the_log_end, "P3", "look", {"C4.2"}),
    (deleted_to_the_log_end, "P3", "empty", {"C4.1"}),
    (configs_reach_no_partition, "P0", "strict", {"C1.3"}),
    (no_stop_is_clean, "P0", "leave", {"C1.1"}),
]


@pytest.mark.parametrize("plant,policy,word,expected", PLANTED, ids=lambda value: getattr(value, "__name__", None))
def test_a_planted_bug_is_seen_by_the_right_statement(monkeypatch, plant, policy, word, expected):
    plant(monkeypatch)
    assert statements(explore(policy, word)) & expected


@pytest.mark.parametrize("plant,policy,word,fault", [
    (gap_is_taken, "P0", "idempotent gap", "F0"), (nothing_is_loaded, "P0", "produce poll commit", "F1"), (answered_before_durable, "P3", "produce", "F2"),
], ids=lambda value: getattr(value, "__name__", None))
def test_a_plan_of_a_failure_repeats_it(monkeypatch, tmp_path, plant, policy, word, fault):
    plant(monkeypatch)
    failures = [each for each in explore(policy, word).failures if each.fault == fault]
    assert failures
    for failure in failures:
        path = plan.save(plan_of(failure), tmp_path)
        followed = plan.replay(plan.load(path))
        assert failure.finding.statement in followed.statements and followed.as_written
        assert failure.finding.evidence in path.with_suffix(".txt").read_text()


def test_a_torn_append_is_in_the_plan():
    session = Session(POLICIES["P0"])
    session.play(("produce",))
    at, torn = next((at, torn) for at, _, torn in cache_images(session.disk, 1) if torn)
    session.close()
    finding = Finding("C2.3", "made up", "", -1, -1, "")
    made = plan_of(run.WholeFailure(finding, "P0", "F1", "any", ("produce",), at - 1, *reversed(evidence_of({"torn": torn})), small.USUAL))
    assert made["crash"] == {"fault": "F1", "disk": "any", "after_events": at, "deviations": {"process": {"torn": str(torn)}}}
    assert plan.replay(made).as_written and plan.replay(made).broken == []
    assert f"process torn: {torn}" in plan.replay(made).story()


@pytest.mark.parametrize("wrong,text", [
    ({"letters": ["prodce"]}, "no letter 'prodce'"), ({"letters": ["retry"]}, "makes no sense"), ({"layer": "hole"}, "layer 'hole'"),
    ({"crash": {"fault": "F2", "disk": "posix", "after_events": 9999, "deviations": {}}}, "after_events is 9999"), ({"letters": 5}, "TypeError"),
])
def test_a_plan_that_cannot_be_followed_says_why(wrong, text):
    finding = Finding("C1.3", "made up", "", -1, -1, "")
    made = plan_of(run.WholeFailure(finding, "P3", "F0", "any", ("produce",), 20, (), {}, small.USUAL))
    with pytest.raises(plan.BadPlan, match=text):
        plan.replay(made | wrong)


def test_a_failure_is_shrunk_to_the_letters_that_it_takes(monkeypatch):
    retries_are_news(monkeypatch)
    failure = next(each for each in explore("P0", "produce idempotent both").failures
                   if each.finding.statement == "C6.4" and each.fault == "F1")
    assert run.shrink(failure, 1).word == ("idempotent",)


def test_the_plan_of_a_failure_is_in_the_report(monkeypatch, tmp_path):
    retries_are_news(monkeypatch)
    report = Report(1)
    run.report(report, {"P0": explore("P0", "produce idempotent both")}, 1, tmp_path)
    paths = [Path(figures["plan"]) for figures in report.figures if "plan" in figures]
    assert {path.name[:4] for path in paths} == {"C6.4", "C6.5"} and all("idempotent" in plan.load(path)["letters"] for path in paths)
    report.write(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert all(f"refbroker-chaos replay {path}" in page for path in paths) and "idempotent, from event" in page and "What the clients did" in page
    assert CliRunner().invoke(cli, ["replay", str(paths[0])]).exit_code == 1
    refused = CliRunner().invoke(cli, ["explain", str(paths[0]), "--html", str(tmp_path / "page.html")])
    assert refused.exit_code == 2 and "of a whole broker" in refused.output


def test_a_run_is_reported_in_rows_of_its_own():
    report = Report(1)
    tallies = {name: explore(name, "produce poll commit") for name in ("P0", "P3")}
    run.report(report, tallies, 1)
    rows = {(place.label, place.policy, place.fault): row for place, row in report.rows.items()}
    assert rows["C1.6/acks=all", "P0", "F2 whole"].allowed and rows["C1.3/acks=all", "P3", "F2 whole"].judged
    assert rows["C8.3", "P0", "F1 whole"].judged and report.exit_code == 0
    assert report.figures[0]["acks"] == 2 and report.figures[0]["requests"] == 8
    run.report(report, {"P0": run.WholeTally()}, 1)
    assert report.exit_code == 2  # nothing acked, nothing lost: no evidence


def test_the_offsets_log_is_read_by_hand_as_it_is_written():
    topic_id = uuid.UUID(int=77)
    builder = DefaultRecordBatchBuilder(magic=2, compression_type=0, is_transactional=False, producer_id=-1, producer_epoch=-1,
                                        base_sequence=-1, batch_size=1 << 20)
    entries = [("g", "a", 0, Committed(5, 2, "note", 1000, topic_id=topic_id)), ("g", "a", 1, Committed(6, -1, "", 1000)),
               ("g", "b", 0, Committed(7, 3, "", 1000, 2000)), ("g", "a", 1, None)]
    for number, (group, topic, place, committed) in enumerate(entries):
        value = None if committed is None else offset_value(committed)
        builder.append(number, timestamp=1, key=offset_key(group, topic, place), value=value, headers=[])
    batches = parse_log(bytes(builder.build()), 0).batches
    assert asking.replay_offsets(batches) == {("g", "a", 0): (5, 2, topic_id), ("g", "b", 0): (7, -1, asking.ZERO_ID)}


def test_waiting_clients_share_a_flush():
    session = Session(POLICIES["P3"])
    before = Counter(event.kind for event in session.disk.events)["sync"]
    session.play(("crowd",))
    acked = len(session.history.acked)
    syncs = Counter(event.kind for event in session.disk.events)["sync"] - before
    session.close()
    assert acked == 3 and syncs < acked
