"""Does the Kafka-aware proxy do to requests what its rules say, and nothing else? A real broker behind it, real clients before it."""

import pytest

from chaos.bench import raw
from chaos.network.layer import ProxyThread
from chaos.network.rules import BadRule, Rule, parse_rules
from chaos.process.observe import create_topics, read_all
from refbroker.testing import broker

TOPICS = {"orders": 1}


@pytest.fixture(scope="module")
def upstream():
    with broker(config={"group.initial.rebalance.delay.ms": "0"}) as running:
        create_topics(running.bootstrap, TOPICS, {})
        yield running.bootstrap


@pytest.fixture
def through(upstream):
    opened = []

    def make(*rules: Rule) -> str:
        opened.append(ProxyThread(upstream, list(rules)))
        return opened[-1].bootstrap

    yield make
    for proxy in opened:
        proxy.close()


def produce(bootstrap: str, *, idempotent: bool, count: int = 6) -> list[int]:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": idempotent, "acks": "all", "linger.ms": 0,
                         "retry.backoff.ms": 20, "reconnect.backoff.ms": 10, "log_level": 0})
    offsets: list[int] = []
    for number in range(count):
        producer.produce("orders", b"%d" % number, on_delivery=lambda error, message: offsets.append(message.offset()))
        producer.flush(60)
    return offsets


def end_of(bootstrap: str) -> int:
    return read_all(bootstrap, TOPICS)[1]["orders", 0]


def test_the_addresses_of_the_broker_become_the_proxys(through):
    from confluent_kafka.admin import AdminClient

    bootstrap = through()
    named = AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=60).brokers.values()
    assert {f"{each.host}:{each.port}" for each in named} == {bootstrap}


@pytest.mark.parametrize(("idempotent", "copies"), [(False, 1), (True, 0)])
def test_a_lost_reply_makes_a_plain_producer_write_twice_and_an_idempotent_one_not(upstream, through, idempotent, copies):
    before, rule = end_of(upstream), Rule("drop-reply", api="Produce", nth=3)
    offsets = produce(through(rule), idempotent=idempotent)
    assert len(offsets) == 6 and rule.acted == 1
    assert end_of(upstream) - before == 6 + copies


@pytest.mark.parametrize("rule", [
    Rule("drop-request", api="Produce", nth=2), Rule("duplicate", api="produce", nth=2), Rule("reset", api="0", nth=2),
    Rule("delay", api="*", delay_ms=5), Rule("error", api="Produce", nth=2, error="NOT_LEADER_OR_FOLLOWER"),
], ids=lambda rule: rule.action)
def test_an_idempotent_producer_survives_every_action(upstream, through, rule):
    before = end_of(upstream)
    assert len(produce(through(rule), idempotent=True)) == 6
    assert rule.acted >= 1
    assert end_of(upstream) - before == 6


def test_an_error_rule_answers_in_the_brokers_place(upstream, through):
    before = end_of(upstream)
    connection = raw.Connection(through(Rule("error", api="Produce", error="KAFKA_STORAGE_ERROR", nth=1)))
    frame = raw.produce_frame("orders", raw.batch(1, 10))
    with pytest.raises(raw.Refused, match="error 56"):
        raw.check_produced(connection.call(frame))
    raw.check_produced(connection.call(frame))
    connection.close()
    assert end_of(upstream) - before == 1


def test_rules_count_their_own_matches_by_client_and_topic():
    rule = Rule("delay", api="Produce", client="a*", topic="t", nth=2, times=2)
    calls = [("a1", {"t"}), ("b", {"t"}), ("a2", {"u"}), ("a3", {"t", "u"}), ("a1", {"t"}), ("a1", {"t"})]
    assert [rule.applies(0, "Produce", client, topics) for client, topics in calls] == [False, False, False, True, True, False]
    assert not rule.applies(1, "Fetch", "a1", {"t"})


@pytest.mark.parametrize(("text", "message"), [
    ("[[rule]]\naction = 'explode'", "rule 1: no action 'explode'"),
    ("[[rule]]\naction = 'delay'\n[[rule]]\naction = 'error'\nerror = 'OOPS'", "rule 2: no error 'OOPS'"),
    ("[[rule]]\naction = 'delay'\nwhen = 3", "rule 1: .*when"),
    ("[[rule]]\naction = 'delay'\nnth = 0", "rule 1: nth"),
    ("[[rule]", "not TOML"),
])
def test_a_bad_rule_is_named(text, message):
    with pytest.raises(BadRule, match=message):
        parse_rules(text)
