"""How does a pytest test ask for a broker? By the fixtures `kafka_broker` and `kafka_bootstrap`, one broker per test.

    @pytest.mark.kafka(topics={"orders": 3}, config={"log.flush.interval.messages": 1})
    def test_orders(kafka_bootstrap):
        producer = Producer({"bootstrap.servers": kafka_bootstrap})

The mark is optional, and takes the arguments of `refbroker.testing.broker`. A suite that wants one broker for many
tests makes its own fixture of wider scope from that context manager.
"""

from collections.abc import Iterator

import pytest

from refbroker import testing


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "kafka(topics, config): how the broker of `kafka_broker` is set up")


@pytest.fixture
def kafka_broker(request: pytest.FixtureRequest) -> Iterator[testing.TestBroker]:
    """A real broker of this test's own: a process that can be stopped, killed and started again."""
    mark = request.node.get_closest_marker("kafka")
    with testing.broker(**(mark.kwargs if mark else {})) as broker:
        yield broker


@pytest.fixture
def kafka_bootstrap(kafka_broker: testing.TestBroker) -> str:
    """Its address, host:port."""
    return kafka_broker.bootstrap
