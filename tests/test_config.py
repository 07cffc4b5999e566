"""Configuration: the table against Kafka's rules, the properties syntax, where a value comes from, what is refused."""

import ast
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refbroker.config import Config, ConfigError, Listener, LogConfig, format_value, parse_properties
from refbroker.config import parse_value as parse
from refbroker.config import validate_topic_configs
from refbroker.config_keys import BROKER_KEYS, FAMILIES, KEYS, TOPIC_KEYS, Type
from refbroker.errors import ErrorCode, KafkaError

SOURCES = sorted(Path(__file__).parent.parent.glob("refbroker/**/*.py"))


def load(text=None, environ={}, overrides=()):
    return Config.load(text, environ, overrides)


def test_defaults_are_those_of_a_topic_config_on_a_default_broker():
    config, warnings = load()
    assert warnings == []
    assert config.log_config() == LogConfig()
    assert config.listener == Listener("PLAINTEXT", "127.0.0.1", 9092)
    assert config.node_id == 1 and config.num_partitions == 1 and config.log_dirs is None
    assert set(config.sources.values()) == {"default"}


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_every_default_passes_its_own_check(key):
    if key.default is not None:
        assert parse(key, format_value(key.default), "default") == key.default


def test_no_key_is_there_twice_and_few_are_in_a_family():
    assert len(BROKER_KEYS) == len(KEYS)
    # Rows are looked up first; these are served although their families are not.
    served = [key.name for key in KEYS if key.effect is True and any(key.name.startswith(prefix) for prefix, _ in FAMILIES)]
    stores = [f"ssl.{store}" for store in (
        "keystore.type", "keystore.location", "keystore.key", "keystore.certificate.chain", "key.password",
        "truststore.type", "truststore.location", "truststore.certificates", "client.auth", "enabled.protocols")]
    assert served == [*stores, "controller.listener.names", "replica.high.watermark.checkpoint.interval.ms"]


def test_a_key_that_is_served_is_read_somewhere_and_an_inert_one_nowhere():
    attributes, words = set(), set()
    for source in SOURCES:
        if source.name == "config_keys.py":
            continue
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Attribute):
                attributes.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                words.add(node.value)
    for key in KEYS:
        fields = {key.attribute, (key.topic_name or "").replace(".", "_")} - {""}
        read = bool(fields & attributes) or key.name in words or key.topic_name in words
        if key.effect is True:
            assert read, f"{key.name} claims an effect, but nothing reads it"
        elif key.topic_name is None:
            assert key.attribute not in attributes, f"{key.name} says it has no effect, but something reads it"


# the properties syntax


def test_properties_syntax_is_javas():
    text = "\n".join([
        "# comment", "   ! comment", "", "a=1", "b : 2", "c 3", "  d\t=\t4  ", "e", "f=", r"g = x\:y\=z", r"h\ i=1", r"j\:k=2",
        "l = one,\\", "     two,\\", "  three", r"m=tab\there \u00e9 \\ end", "n==x", "a=last", r"o=even\\", "p=5",
    ])  # fmt: skip
    values = {key: value for key, (value, _) in parse_properties(text).items()}
    assert values == {
        "a": "last", "b": "2", "c": "3", "d": "4  ", "e": "", "f": "", "g": "x:y=z", "h i": "1", "j:k": "2", "l": "one,two,three",
        "m": "tab\there é \\ end", "n": "=x", "o": "even\\", "p": "5",
    }  # fmt: skip


def test_line_numbers_are_those_where_the_key_stands():
    found = parse_properties("a=1\r\nb=\\\r\n  2\r\nc=3")
    assert {key: number for key, (_, number) in found.items()} == {"a": 1, "b": 2, "c": 4}


def test_a_bad_unicode_escape_is_refused():
    with pytest.raises(ConfigError, match="line 2.*uXXXX"):
        parse_properties("a=1\nb=\\u12g4")


@given(st.dictionaries(st.text(min_size=1), st.text(), max_size=5))
def test_whatever_is_escaped_comes_back(settings):
    def escape(text):
        return "".join(f"\\u{ord(c):04x}" if ord(c) < 0x10000 else c for c in text)

    text = "\n".join(f"{escape(key)}={escape(value)}" for key, value in settings.items())
    assert {key: value for key, (value, _) in parse_properties(text).items()} == settings


@given(st.text(alphabet=" \t\f\r\n\\#!=:ab", max_size=60))
def test_any_text_parses_or_is_refused(text):
    try:
        parse_properties(text)
    except ConfigError:
        pass


# where a value comes from


def test_override_wins_over_environment_over_file():
    text = "num.partitions=2\nlog.retention.hours=1\nmessage.max.bytes=1000"
    environ = {"KAFKA_NUM_PARTITIONS": "3", "KAFKA_LOG_RETENTION_HOURS": "2", "PATH": "/bin"}
    config, warnings = load(text, environ, ["num.partitions=4"])
    assert warnings == []
    assert (config.num_partitions, config.log_retention_hours, config.message_max_bytes) == (4, 2, 1000)
    names = ("num.partitions", "log.retention.hours", "message.max.bytes", "node.id")
    assert [config.sources[name] for name in names] == ["override", "environment", "file", "default"]


def test_variables_are_read_as_in_kafkas_container_image():
    environ = {
        "KAFKA_LOG_DIRS": "/data", "KAFKA_HEAP_OPTS": "-Xmx1g", "KAFKA_OPTS": "x", "KAFKA_JVM_PERFORMANCE_OPTS": "x", "KAFKA_HOME": "/opt",
        "KAFKA_VERSION": "4.4.0", "KAFKA_LOG4J_ROOT_LOGLEVEL": "INFO", "KAFKA_JMX_PORT": "1", "KAFKA_GC_LOG_OPTS": "x",
        "KAFKA_A__B___C_D": "1",
    }  # fmt: skip
    config, warnings = load(None, environ)
    assert config.data_dir == "/data"
    assert warnings == ["KAFKA_A__B___C_D: unknown key a_b-c.d is ignored"]


# warnings and errors


def test_an_unknown_key_is_a_warning_with_the_nearest_match():
    _, warnings = load("log.retension.ms=5\nxyz=1")
    assert warnings == [
        "line 1 of the properties file: unknown key log.retension.ms is ignored (did you mean log.retention.ms?)",
        "line 2 of the properties file: unknown key xyz is ignored",
    ]


def test_a_key_without_effect_says_so_and_why_and_never_its_value():
    _, warnings = load("num.io.threads=8\nnum.network.threads=3\nssl.keystore.password=hunter2\nauthorizer.class.name=x")
    assert len(warnings) == 3
    assert warnings[0].startswith("no effect here: num.io.threads, num.network.threads (one event loop")
    assert "ssl.keystore.password" in warnings[1] and "hunter2" not in "".join(warnings)
    assert "NO authorization" in warnings[2]


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("num.partitions=x", r"line 1 .*: num.partitions = 'x': expected a whole number"),
        ("num.partitions=0", "at least 1"),
        ("num.partitions=2147483648", "between"),
        ("num.partitions=1_0", "whole number"),
        ("log.segment.bytes=1000", "at least 1048576"),
        ("auto.create.topics.enable=yes", "true or false"),
        ("log.message.timestamp.type=Wall", "one of CreateTime, LogAppendTime"),
        ("log.cleanup.policy=shred", "some of delete, compact"),
        ("log.cleanup.policy=", "some of delete, compact"),
        ("log.cleaner.min.cleanable.ratio=much", "a number"),
        ("listeners=localhost:9092", "NAME://HOST:PORT"),
        ("listeners=PLAINTEXT://:99999", "NAME://HOST:PORT"),
        ("listeners=SSL://:9093", "needs ssl.keystore.location"),
        ("listeners=PLAINTEXT://:1,PLAINTEXT://:2", "another one of that name"),
        ("listeners=CONTROLLER://:9093", "expected a client listener"),
        ("listeners=INSIDE://:1\nlistener.security.protocol.map=INSIDE:SASL_SSL", "SASL_SSL is not served"),
        ("listeners=PLAINTEXT://0.0.0.0:9092", "clients cannot connect to 0.0.0.0"),
        ("advertised.listeners=OTHER://h:1\nlistener.security.protocol.map=PLAINTEXT:PLAINTEXT,OTHER:PLAINTEXT", "nothing for the listener PLAINTEXT"),
        ("log.dirs=/a,/b", "expected one directory, not 2"),
        ("log.dirs=", "expected one directory, not 0"),
        ("node.id=1\nbroker.id=2", "two ids"),
        ("process.roles=controller", "must name broker"),
    ],
)  # fmt: skip
def test_a_bad_value_is_named_with_what_was_expected(setting, complaint):
    with pytest.raises(ConfigError, match=complaint):
        load(setting)


def test_an_override_needs_an_equals_sign():
    with pytest.raises(ConfigError, match="key=value"):
        load(None, {}, ["num.partitions"])


# listeners


@pytest.mark.parametrize(
    ("text", "listener", "advertised"),
    [
        ("listeners=PLAINTEXT://localhost:0", ("PLAINTEXT", "localhost", 0), None),
        ("listeners=plaintext://[::1]:9092", ("PLAINTEXT", "::1", 9092), None),
        ("listeners=PLAINTEXT://:9092,CONTROLLER://:9093\nadvertised.listeners=PLAINTEXT://b:1,CONTROLLER://b:2",
         ("PLAINTEXT", "", 9092), ("PLAINTEXT", "b", 1)),
        ("listeners=PLAINTEXT://0.0.0.0:9092\nadvertised.listeners=PLAINTEXT://localhost:9092", ("PLAINTEXT", "0.0.0.0", 9092),
         ("PLAINTEXT", "localhost", 9092)),
        ("listeners=DOCKER://:1\nlistener.security.protocol.map=DOCKER:PLAINTEXT", ("DOCKER", "", 1), None),
    ],
)  # fmt: skip
def test_listeners(text, listener, advertised):
    config, _ = load(text)
    assert config.listener == listener
    assert config.advertised_listener == advertised


def test_several_listeners():
    text = "listeners=IN://:1,OUT://:2\nadvertised.listeners=OUT://b:3,IN://a:4\nlistener.security.protocol.map=IN:PLAINTEXT,OUT:PLAINTEXT"
    first, second = load(text)[0].client_listeners
    assert first == (("IN", "", 1), ("IN", "a", 4), "PLAINTEXT")
    assert second == (("OUT", "", 2), ("OUT", "b", 3), "PLAINTEXT")


def test_broker_id_is_the_old_name_of_node_id():
    assert load("broker.id=7")[0].node_id == 7
    assert load("broker.id=7\nnode.id=7")[0].node_id == 7


# topic configs


def test_kafkas_precedence_of_hours_minutes_and_milliseconds():
    def retention(text):
        return load(text)[0].log_config().retention_ms

    assert retention("log.retention.hours=2") == 7_200_000
    assert retention("log.retention.hours=2\nlog.retention.minutes=3") == 180_000
    assert retention("log.retention.hours=2\nlog.retention.minutes=3\nlog.retention.ms=4") == 4
    assert retention("log.retention.hours=-1") == -1
    assert retention("log.retention.minutes=-1") == -1
    assert load("log.roll.hours=1")[0].log_config().segment_ms == 3_600_000
    assert load("log.roll.hours=1\nlog.roll.ms=5")[0].log_config().segment_ms == 5
    assert load("log.roll.jitter.hours=1")[0].log_config().segment_jitter_ms == 3_600_000


def test_every_topic_config_reaches_its_field():
    values = {Type.INT: "7", Type.LONG: "7", Type.DOUBLE: "0.25", Type.BOOLEAN: "true"}
    texts = {"cleanup.policy": "compact,delete", "message.timestamp.type": "LogAppendTime", "compression.type": "lz4",
             "segment.bytes": "2000000"}  # fmt: skip
    config = load()[0]
    for field in LogConfig.__dataclass_fields__:
        name = field.replace("_", ".")
        text = texts.get(name, values.get(TOPIC_KEYS[name].type))
        assert format_value(getattr(config.log_config({name: text}), field)) == text
        broker_key = TOPIC_KEYS[name].name
        assert format_value(getattr(load(f"{broker_key}={text}")[0].log_config(), field)) == text
        assert load(f"{broker_key}={text}")[0].log_config({name: str(getattr(LogConfig(), field))}) is not None


def test_internal_segment_bytes_is_the_way_round_the_minimum():
    config = load()[0]
    assert config.log_config({"internal.segment.bytes": "100"}).segment_bytes == 100
    assert config.log_config({"internal.segment.bytes": "100", "segment.bytes": "2000000"}).segment_bytes == 100


@pytest.mark.parametrize("configs", [{"retention.m": "1"}, {"retention.ms": "x"}, {"retention.ms": None}, {"segment.bytes": "10"}])
def test_bad_topic_configs_are_invalid_config(configs):
    with pytest.raises(KafkaError) as caught:
        validate_topic_configs(configs)
    assert caught.value.code is ErrorCode.INVALID_CONFIG
    assert next(iter(configs)) in caught.value.message


def test_flush_ms_is_real_without_the_scheduler_key():
    """C1.5: the flusher looks often enough that flush.ms bounds the loss; Kafka's default would never look."""
    config = load("log.flush.interval.ms=1000")[0]
    assert config.flusher_period_ms(config.log_config()) == 500
    assert config.flusher_period_ms(config.log_config({"flush.ms": "10"})) == 5
    assert config.flusher_period_ms(config.log_config({"flush.ms": "1"})) == 1
    often = load("log.flush.interval.ms=1000\nlog.flush.scheduler.interval.ms=20")[0]
    assert often.flusher_period_ms(often.log_config()) == 20
    assert load("log.flush.scheduler.interval.ms=300")[0].log_config().flush_ms == 300


def test_dynamic_broker_configs_replace_each_other_and_fall_back():
    config = load("log.retention.ms=5\nbroker.id=3")[0]
    config.set_dynamic({"log.retention.ms": "6", "message.max.bytes": "10"})
    assert (config.log_retention_ms, config.message_max_bytes, config.node_id) == (6, 10, 3)
    assert config.sources["log.retention.ms"] == "dynamic" and config.log_config().retention_ms == 6
    config.set_dynamic({})
    assert (config.log_retention_ms, config.message_max_bytes, config.node_id) == (5, 1048588, 3)
    assert config.sources["log.retention.ms"] == "file"
    with pytest.raises(KafkaError, match="cannot be changed"):
        config.set_dynamic({"node.id": "4"})
    with pytest.raises(KafkaError, match="is not known"):
        config.set_dynamic({"nod.id": "4"})


def test_docs_are_sentences():
    for key in KEYS:
        if key.effect is True:
            assert re.match(r"[A-Za-z].*[.]$", key.doc), key.name
