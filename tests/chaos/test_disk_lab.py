"""Does the disk layer of the lab see what it must, and nothing else? Small bugs planted by hand, a sound log, plans."""

import json
from collections import Counter

import pytest

from chaos import contract
from chaos.checks import vacuity
from chaos.cli import main
from chaos.disk import coverage, errors, lab, small, speed
from chaos.disk.driver import POLICIES, quietly
from chaos.disk.lab import Lab, Limits
from chaos.disk.model import SimDisk, SimFile
from chaos.disk.profiles import PROFILES
from chaos.disk.run import Pool, Task, perform, performed
from chaos.plan import BadPlan, load, plan_of, replay, save
from chaos.shrink import shrink
from refbroker.log import directory, flush, partition, producers, recovery, survey

QUICK = Limits(bound=40, nested_every=32)


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """What a planted bug made of a recovery is not to be remembered."""
    monkeypatch.setattr(lab, "_RECOVERERS", {})
    monkeypatch.setattr(lab, "_INSIDE", {})
    with quietly(), small.applied(small.USUAL):
        yield


def explore(policy, *words, start="fresh", limits=QUICK):
    laboratory = Lab(POLICIES[policy], 1, limits)
    for word in words:
        laboratory.explore(tuple(word.split()), start)
    return laboratory.tally


def statements(tally):
    return {failure.problem.statement for failure in tally.failures}


SOUND = ("append", "append append append", "fill append", "append roll append", "idempotent idempotent", "append flush truncate",
         "fill append background", "append checkpoint", "append restart", "append kill", "create recreate",
         "append delete-records retention", "append delete-records kill",
         "both both", "append overtaken", "append wait")


@pytest.mark.parametrize("policy,worst", [("P0", 3), ("P1", 2), ("P2", 3), ("P3", 0)])
def test_a_sound_log_breaks_nothing_and_each_policy_loses_what_it_may(policy, worst):
    tally = explore(policy, "", *SOUND)
    assert [(failure.problem, failure.word, failure.labels) for failure in tally.failures] == []
    assert tally.unsynced and tally.differing and tally.nested
    assert max(tally.losses) >= worst
    assert vacuity.missing(policy, POLICIES[policy].messages, tally.unsynced, tally.differing, tally.losses) == []
    assert vacuity.broken(policy, POLICIES[policy].messages, tally.losses) == []


def no_file_sync(monkeypatch):
    monkeypatch.setattr(SimFile, "sync", lambda self: None)


def no_directory_sync(monkeypatch):
    monkeypatch.setattr(SimDisk, "sync_dir", lambda self, path: None)


def torn_tail_kept(monkeypatch):
    def end_unchecked(segment, *_):
        return survey.Finding(segment.file.size, segment.next_offset, entries=survey.IndexEntries(100, segment.base_offset))

    monkeypatch.setattr(recovery, "check_segment", end_unchecked)


def duplicates_taken(monkeypatch):
    monkeypatch.setattr(producers.ProducerStates, "check", lambda self, batch: None)


def epoch_stays(monkeypatch):
    real = recovery._epochs

    def same_epoch(*arguments):
        cache, _, epoch = real(*arguments)
        cache.entries = [entry for entry in cache.entries if entry[0] < epoch] or [(0, 0)]
        return cache, False, max(0, epoch - 1)

    monkeypatch.setattr(recovery, "_epochs", same_epoch)


def early_recovery_point(monkeypatch):
    monkeypatch.setattr(partition.Partition, "checkpoint_offset", property(lambda self: self.log_end_offset))


def marker_without_flush(monkeypatch):
    monkeypatch.setattr(flush.FlushJob, "run", lambda self: None)


def marker_stays(monkeypatch):
    monkeypatch.setattr(SimDisk, "unlink", _unless_marker(SimDisk.unlink))


def _unless_marker(unlink):
    return lambda self, path: None if path.endswith(".kafka_cleanshutdown") else unlink(self, path)


def old_directory_adopted(monkeypatch):
    monkeypatch.setattr(directory.LogDirectory, "delete", lambda self, topic, number: self.partitions.pop((topic, number)))


PLANTED = [
    (no_file_sync, "P3", ("append",), {"C1.3"}),
    (no_directory_sync, "P3", ("fill append",), {"C1.3"}),
    (torn_tail_kept, "P0", ("append append",), {"C2.3", "C2.6"}),
    (duplicates_taken, "P0", ("idempotent retry",), {"C6.4"}),
    (epoch_stays, "P0", ("append kill append",), {"C2.8"}),
    (early_recovery_point, "P0", ("append checkpoint",), {"C3.1"}),
    (marker_without_flush, "P0", ("append restart",), {"C1.1", "C3.3", "C2.4"}),
    (marker_stays, "P0", ("append restart append",), {"C3.3"}),
    (old_directory_adopted, "P0", ("create delete",), {"C9.5"}),
]


@pytest.mark.parametrize("plant,policy,words,expected", PLANTED, ids=lambda value: getattr(value, "__name__", None))
def test_a_planted_bug_is_seen_by_the_right_statement(monkeypatch, plant, policy, words, expected):
    plant(monkeypatch)
    assert statements(explore(policy, *words)) & expected


def test_a_failure_is_shrunk_and_replays_bit_for_bit(monkeypatch, tmp_path):
    no_directory_sync(monkeypatch)
    tally = explore("P3", "append gzip fill append")
    failure = next(failure for failure in tally.failures if failure.problem.statement == "C1.3" and not failure.nested)
    plan = shrink(plan_of(failure, seed=1))
    assert len(plan["operations"]) + len(plan["setup"]) <= 2
    assert sum(map(len, plan["crash"]["deviations"].values())) == 1
    path = save(plan, tmp_path)
    story = path.with_suffix(".txt").read_text()
    assert "C1.3" in story and "acked at event" in story and "not there" in story
    again = replay(load(path))
    assert again.as_written and "C1.3" in again.statements
    edited = json.loads(path.read_text())
    edited["crash"]["deviations"] = {}
    assert replay(edited).statements == []  # nothing lost, nothing broken


@pytest.mark.parametrize("edit", [{"format": 9}, {"policy": "P9"}, {"operations": [{"op": "dance"}]},
                                  {"crash": {"fault": "F2", "disk": "posix", "after_events": 10**6, "deviations": {}}},
                                  {"crash": {"fault": "F2", "disk": "posix", "after_events": 30, "deviations": {"entries": {"#1": "odd"}}}}])
def test_a_plan_that_cannot_be_followed_says_so(edit):
    plan = {"format": 1, "statement": "C1.3", "policy": "P3", "seed": 1, "setup": [], "operations": [{"op": "append"}],
            "crash": {"fault": "F2", "disk": "posix", "after_events": 30, "deviations": {}}, "inside_recovery": []}
    with pytest.raises(BadPlan):
        replay(plan | edit)


def test_one_process_and_two_find_the_same():
    tasks = [Task("fresh", (), (), 1, 20, 16), Task("fresh", ("append",), ("roll", "kill"), 1, 20, 16)]
    alone = {task: perform(task) for task in tasks}
    with Pool("2") as pool:
        assert dict(pool.map(tasks, None, performed)) == alone
    assert all(tally.judged for tally in alone[tasks[0]].values()) and alone[tasks[0]]["P0"].digests


@pytest.mark.parametrize("kind", ["sync-eio-kept", "sync-eio-reverted", "sync-enospc", "write-enospc", "short-write", "open-emfile", "rename-eio", "rename-enospc"])
def test_single_failing_calls_break_nothing_promised(kind):
    outcome = errors.SweepOutcome("P3", "F3", kind, ())
    for nth in range(1, 200, 7):
        if not errors.strike(outcome, errors.Fault(kind, nth, nth % 2 == 0)):
            break
    assert outcome.struck > 1
    assert [finding.evidence for finding in outcome.findings] == []


def test_an_fsync_error_that_is_swallowed_is_seen(monkeypatch):
    monkeypatch.setattr(partition.Partition, "flush", _swallowing(partition.Partition.flush))
    outcome = errors.SweepOutcome("P3", "F3", "sync-eio-kept", ())
    errors.strike(outcome, errors.Fault("sync-eio-kept", 1))
    assert "C1.13" in {finding.statement for finding in outcome.findings}


def _swallowing(flush):
    def flush_anyway(self, upto=None):
        job = self.begin_flush(upto)
        if job is not None:
            try:
                job.run()
            except OSError:
                pass
            self.finish_flush(job)

    return flush_anyway


def test_decay_is_never_served():
    outcome = errors.decay("P0")
    assert outcome.struck > 100
    assert [finding.evidence for finding in outcome.findings] == []


def test_vacuous_runs_are_told_apart():
    assert vacuity.missing("P0", None, 5, 5, Counter({0: 9})) != []
    assert vacuity.missing("P0", None, 5, 5, Counter({0: 9, 4: 1})) == []
    assert vacuity.missing("P1", 3, 5, 5, Counter({0: 9, 1: 1})) != []
    assert vacuity.missing("P1", 3, 5, 5, Counter({2: 1})) == []
    assert vacuity.missing("P3", 1, 0, 5, Counter()) != []
    assert vacuity.broken("P1", 3, Counter({3: 1}))[0][0] == "C1.4"
    assert vacuity.broken("P3", 1, Counter({1: 1}))[0][0] == "C1.3"
    assert vacuity.broken("P3", 1, Counter({0: 1})) == []


def test_verdicts_name_their_statement():
    verdict = contract.Verdict("C1.6", "F2", "P0", "journal", True, "a", 0, 4, "2 acked offsets lost", evidence=("append 100 to 180",))
    assert "C1.6 allowed loss" in verdict.line() and "disk journal" in verdict.line()
    with pytest.raises(AssertionError):
        contract.Verdict("C99" + ".1", "F2", "P0", "journal", True, "a", 0, 4, "")


def test_bench_prints_a_row_for_each_length_and_profile(monkeypatch, capsys):
    monkeypatch.setattr(speed, "LENGTHS", (1,))
    monkeypatch.setattr(speed, "STRONGEST_FIRST", PROFILES[-1:])
    main(["bench", "--seconds", "0.1", "--json"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["length"], row["profiles"]) for row in rows] == [(1, "strict"), (2, "strict")]
    assert all(0 < row["distinct"] <= row["judged"] and row["distinct per second and core"] > 0 for row in rows)


def test_crash_space_has_no_gap_that_is_not_explained():
    """At a small budget: the rows of a few words. An effect that cannot come out as it could would be a gap."""
    labs = [Lab(policy, 1, Limits(bound=16, nested_every=0)) for policy in (POLICIES["P0"], POLICIES["P3"])]
    for word in ("", "append append append", "fill append", "append checkpoint", "create recreate"):
        lab.explore(labs, tuple(word.split()))
    reached, met = Counter(), Counter()
    for each in labs:
        reached.update(each.tally.coverage)
        met.update(each.tally.facts)
    rows = {(site, kind) for site, kind, _ in met}
    assert {("segment.Segment.append", "log"), ("index._Index.write", "index"), ("directory.LogDirectory._rename_going", "directory")} <= rows
    entries = [entry for entry in coverage.account(reached, met) if entry["deviation"] != "never met"]
    assert coverage.gaps(entries) == []
    reached["segment.Segment.append", "log", "torn"] = 0
    assert coverage.gaps(coverage.account(reached, met))[0] == "segment.Segment.append on log: torn"
    assert set(coverage.ELSEWHERE) <= coverage.changing_sites()
