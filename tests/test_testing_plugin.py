"""refbroker.testing and the pytest plugin: what a user's test gets."""

import os

import pytest

from refbroker import testing
from refbroker.client import Client
from refbroker.apis import k03_metadata

pytest_plugins = ["pytester"]


def partitions_of(broker) -> dict[str, int]:
    with Client((broker.host, broker.port)) as client:
        rows = client.request(k03_metadata.API, {"topics": None})["topics"]
    return {row["name"]: len(row["partitions"]) for row in rows}


def test_topics_config_and_the_end():
    with testing.broker(topics={"t": 3, "u": 1}, config={"num.partitions": 2, "auto.create.topics.enable": False}) as broker:
        assert partitions_of(broker) == {"t": 3, "u": 1}
        data_dir, process = broker.data_dir, broker.process
        assert os.path.isdir(os.path.join(data_dir, "t-0"))
    assert process.returncode == 0
    assert not os.path.exists(data_dir)


def test_killed_and_started_again_on_the_same_port():
    with testing.broker(topics={"t": 1}) as broker:
        before = broker.bootstrap
        broker.kill()
        broker.start()
        assert broker.bootstrap == before
        assert partitions_of(broker) == {"t": 1}
        assert broker.stop() == 0
        broker.start()
        assert partitions_of(broker) == {"t": 1}


def test_a_broker_that_does_not_start_tells_why(tmp_path):
    (tmp_path / "precious").write_text("not a log")
    with pytest.raises(RuntimeError, match="did not start, exit code 1:\n(.|\n)*precious|did not start, exit code 1"), testing.broker(
        data_dir=str(tmp_path)
    ):
        pass


def test_environment_variables_do_not_count(monkeypatch):
    monkeypatch.setenv("KAFKA_LISTENERS", "SSL://:1")
    with testing.broker() as broker:
        assert partitions_of(broker) == {}


def test_the_fixtures(pytester):
    pytester.makepyfile(
        """
        import pytest
        from kafka import KafkaConsumer, KafkaProducer

        @pytest.mark.kafka(topics={"orders": 2}, config={"log.flush.interval.messages": 1})
        def test_orders(kafka_broker, kafka_bootstrap):
            assert kafka_bootstrap == kafka_broker.bootstrap
            producer = KafkaProducer(bootstrap_servers=kafka_bootstrap)
            producer.send("orders", b"one", partition=1).get(60)
            producer.close()
            consumer = KafkaConsumer("orders", bootstrap_servers=kafka_bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=60_000)
            assert next(consumer).value == b"one"
            consumer.close()

        def test_without_a_mark(kafka_bootstrap):
            assert kafka_bootstrap.startswith("127.0.0.1:")
        """
    )
    result = pytester.runpytest_subprocess("--strict-markers", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=2)
