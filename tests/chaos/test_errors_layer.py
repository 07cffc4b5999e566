"""Errors at system calls: what an honest broker does holds, what one that hides a failed fsync does is found, a full disk is full."""

import random

import pytest

from chaos.process import errors, fulldisk, scenario, sweep
from chaos.process.intercept import Fault, Interceptor
from chaos.report import Report
from chaos.targets import NotAvailable, Refbroker

# refbroker with an fsync that never fails: the program that a sweep over EIO must find.
DEAF = """
import os, sys
from refbroker import cli
def deaf(call):
    def sync(fd):
        try:
            call(fd)
        except OSError:
            pass
    return sync
os.fsync, os.fdatasync = deaf(os.fsync), deaf(os.fdatasync)
sys.argv = ["refbroker", *sys.argv[1:]]
cli.main()
"""


class Deaf(Refbroker):
    def command(self) -> list[str]:
        python, _, _, *serve = super().command()
        return [python, "-c", DEAF, *serve]


def lived_through(target_class, tmp_path, kind: errors.Kind, number: int):
    fault, story = Fault(kind.call, kind.action, number, kind.times), scenario.Story(errors.PATIENCE_S)
    try:
        interceptor = Interceptor(str(tmp_path / "data"), [fault])
    except NotAvailable as error:
        pytest.skip(str(error))
    with interceptor:
        target = target_class(str(tmp_path), policy=sweep.policy_of("messages=1"), properties=scenario.PROPERTIES, wrap=interceptor.wrap)
        return errors._lived_through(target, story, fault, kind), fault, story


def test_a_failed_fsync_ends_the_broker_and_nothing_is_acked_after_it(tmp_path):
    found, fault, story = lived_through(Refbroker, tmp_path, errors.Kind("fdatasync", "EIO"), 25)
    assert not found and len(fault.struck) == 1
    assert story.under_way is not None and story.history.acked  # some before, none after


def test_a_broker_that_does_not_hear_of_it_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(errors, "END_SECONDS_MAX", 1.0)
    found, fault, _ = lived_through(Deaf, tmp_path, errors.Kind("fdatasync", "EIO"), 25)
    assert len(fault.struck) == 1
    assert {finding.anomaly for finding in found} == {"acked after a failed fsync", "not offline"}


def test_a_short_write_is_completed(tmp_path):
    found, fault, story = lived_through(Refbroker, tmp_path, errors.Kind(errors.WRITES, "short"), 20)
    assert not found and len(fault.struck) == 1 and story.under_way is None


@pytest.mark.parametrize("root", [True, False], ids=["tmpfs", "limit"])
def test_a_full_disk_refuses_and_recovers(tmp_path, monkeypatch, root):
    if not root:
        monkeypatch.setattr(fulldisk.os, "geteuid", lambda: 1)
    swept = sweep.Sweep("refbroker", tmp_path / "full", lambda text: None, None)
    fulldisk.one(swept, "none", 0, random.randrange(1 << 30))
    assert swept.kills.total() and not swept.findings["none"], swept.findings


def test_a_sample_is_drawn_by_the_seed_and_strikes(tmp_path):
    report = Report(1)
    errors.run(report, tmp_path / "sample", lambda text: None, sample=2, seed=4)
    assert report.exit_code == 0, [row.broken for row in report.rows.values()]
    assert report.figures[-1]["errors"] >= 2
