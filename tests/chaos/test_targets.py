"""Can a broker be put under test by its command line or its address, and is what cannot be done said in one line?"""

import os
import sys
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from chaos.process import observe
from chaos.targets import TargetError, make_target, policy_of

EXAMPLE = Path(__file__).parents[2] / "chaos/targets/examples/refbroker.toml"


@pytest.fixture(autouse=True)
def _programs_of_this_environment(monkeypatch):
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def test_a_broker_by_its_command_line_starts_is_killed_and_comes_back(tmp_path):
    target = make_target(str(EXAMPLE), str(tmp_path), policy=policy_of("messages=1"), properties={"log.segment.bytes": "1048576"})
    assert "log.flush.interval.messages=1" in target.command() and "log.segment.bytes=1048576" in target.command()
    with target:
        observe.create_topics(target.bootstrap, {"t": 1}, {})
        target.kill()
        target.start()
        assert target.generation == 2 and "t" in observe.topics(target.bootstrap)
        assert Path(target.data_directory, "t-0").is_dir()
        same = make_target(target.origin, str(tmp_path / "other"))
        assert same.name == target.name == "by-command-line"
    assert target.pid is None


def test_a_broker_by_its_address_can_be_asked_and_not_killed(tmp_path, kafka_broker):
    with make_target(f"bootstrap={kafka_broker.bootstrap}", str(tmp_path)) as target:
        observe.create_topics(target.bootstrap, {"t": 1}, {})
        with pytest.raises(TargetError, match="cannot be killed from here"):
            target.kill()
        observe.delete_topics(target.bootstrap, ["t", "never there"])
        assert "t" not in observe.topics(target.bootstrap)


@pytest.mark.parametrize("text, says", [
    ("", "`start` is missing"), ("start = ['x']\ncolour = 'red'", "unknown key 'colour'"), ("start = ['x']\nproperty = ['{key}']\nstop_signal = 'SIGNOTHING'", "no signal"),
    ("start = [", "target .*toml"), ("start = ['x']", "no `property` template, so 'log.flush.interval.messages' cannot be set"),
])
def test_a_description_that_means_nothing_is_refused(tmp_path, text, says):
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(TargetError, match=says):
        make_target(str(tmp_path / "a.toml"), str(tmp_path), policy=policy_of("messages=1"))


@pytest.mark.parametrize("name", ["kafak", "bootstrap=nowhere", "bootstrap=:9092", "missing.toml"])
def test_a_target_that_is_none_is_refused(tmp_path, name):
    with pytest.raises(TargetError):
        make_target(name, str(tmp_path))


def test_a_broker_that_ends_instead_of_starting_says_its_last_words(tmp_path):
    (tmp_path / "a.toml").write_text(f"start = ['{sys.executable}', '-c', 'print(\"no licence\"); exit(3)']")
    with pytest.raises(TargetError, match=r"(?s)ended with 3 instead of starting.*no licence"):
        make_target(str(tmp_path / "a.toml"), str(tmp_path)).start()


def test_an_error_is_no_answer(monkeypatch):
    """Found when Apache Kafka said UNKNOWN_LEADER_EPOCH right after a start: it was taken for "there is no such record"."""
    tries = []

    def ask():
        tries.append(KafkaError(KafkaError.UNKNOWN_LEADER_EPOCH) if len(tries) < 2 else None)
        partition = TopicPartition("t", 0, -1)
        if tries[-1]:
            raise KafkaException(tries[-1])
        return partition

    assert observe._answered("a question", ask).topic == "t" and len(tries) == 3
    monkeypatch.setattr(observe, "ANSWER_SECONDS_MAX", 0.05)
    with pytest.raises(observe.NoAnswer, match="a question: .*UNKNOWN_LEADER_EPOCH"):
        observe._answered("a question", lambda: (_ for _ in ()).throw(KafkaException(KafkaError(KafkaError.UNKNOWN_LEADER_EPOCH))))
