"""The sweep ends by itself, kills at each call, and its judge sees what is missing."""

import shutil

import pytest

from chaos.history import Commit, Send
from chaos.process import rounds, scenario, sweep
from chaos.report import Report
from chaos.targets import NotAvailable, Refbroker, policy_of


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A broker that was killed after the story, and the story."""
    target = Refbroker(str(tmp_path_factory.mktemp("told")), policy=policy_of("none"), properties=scenario.PROPERTIES)
    story = scenario.Story()
    target.start()
    story.tell(target)
    target.kill()
    return target, story


def judged(target: Refbroker, story: scenario.Story) -> set[str]:
    before = scenario.whole_batches(target.data_directory)
    target.start()
    try:
        return {finding.statement for finding in scenario.judge(target, story, rounds.POLICIES["none"], before, retry=False)}
    finally:
        target.kill()


def test_the_judge_has_nothing_to_say_about_an_honest_broker_and_sees_what_is_missing(told):
    target, story = told
    assert judged(target, story) == set()
    lost = Send(scenario.CLIENT, 77, "swept", "all", True, 1, "acked", 2, 0, 4)
    story.history.sends[scenario.CLIENT, 77] = lost
    story.history.commits.append(Commit(scenario.CLIENT, scenario.GROUP, "swept", 1, 9, 1 << 62, "acked", 1 << 62))
    assert judged(target, story) == {"C1.2", "C8.2"}
    del story.history.sends[scenario.CLIENT, 77]
    story.history.commits.pop()


def test_the_judge_reads_the_files(told, tmp_path):
    target, story = told
    before = scenario.whole_batches(target.data_directory)
    shutil.rmtree(f"{target.data_directory}/swept-1")  # not by the broker: who compares with the files before sees it
    target.start()
    try:
        found = scenario.judge(target, story, rounds.POLICIES["none"], before, retry=False)
    finally:
        target.kill()
    assert {"C1.2", "C2.4"} <= {finding.statement for finding in found}


def test_a_sweep_over_one_call_ends_by_itself(tmp_path):
    report = Report(1)
    try:
        sweep.run(report, None, tmp_path, lambda text: None, calls=("unlink",), kinds=("recovery",))
    except NotAvailable as error:
        pytest.skip(str(error))
    assert report.exit_code == 0, [row.broken for row in report.rows.values()]
    counts = {figures["policy"]: figures["unlink"] for figures in report.figures if "scenario" in figures}
    assert counts["none"] == counts["messages=1"] >= 3  # the files of the deleted topic, at least
    assert not report.not_run
