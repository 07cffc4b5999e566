"""What is this broker told to do? From server.properties, KAFKA_ variables and --override to checked, typed values.

Sources, the later wins: default, properties file, environment, override; and, while the broker runs, dynamic broker
configs. The table of keys is in `config_keys`.

1. The file is in Java's properties syntax: `#` and `!` comments, `=`, `:` or blanks after the key, a backslash at the
   end of a line continues it, escapes `\\t \\n \\r \\f \\uXXXX`, the last of equal keys wins.
2. `KAFKA_LOG_DIRS` is `log.dirs`: as in Kafka's container image `___` is `-`, `__` is `_`, `_` is `.`; the image's
   own variables (KAFKA_HEAP_OPTS and such) are no keys.
3. A bad value is an error that names key, value, source and what would be right. An unknown key is a warning with
   the nearest match; so is a key without effect here, with the reason.
4. A value of a PASSWORD key appears in no message.

Apache Kafka differs: it takes unknown keys silently (they may belong to plug-ins).
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import NamedTuple

from refbroker.config_keys import BROKER_KEYS, INT_MAX, KEYS, LONG_MAX, TOPIC_KEYS, Key, Type, family_reason
from refbroker.errors import ErrorCode, KafkaError

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS

# Variables that Kafka's image reads for itself; names as they are there, and what begins with the last ones.
_IMAGE_VARIABLES = re.compile(
    "KAFKA_(HEAP_OPTS|OPTS|JMX_.*|JVM_PERFORMANCE_OPTS|GC_LOG_OPTS|VERSION|HOME|(TOOLS_)?LOG4J_.*|DEBUG|MODE|USER)$"
)


class ConfigError(ValueError):
    """A value that cannot be served. The text is for the person who set it."""


PROTOCOLS = ("PLAINTEXT", "SSL")
HOST = re.compile(r"(?:[^.]{1,63}(?:\.|$))*")  # any other name cannot even be looked up


class Listener(NamedTuple):
    name: str
    host: str  # "" is every interface
    port: int  # 0 is a free one

    def __str__(self) -> str:
        return f"{self.name}://{'[' + self.host + ']' if ':' in self.host else self.host}:{self.port}"


class ClientListener(NamedTuple):
    listener: Listener
    advertised: Listener | None  # what clients are told instead of its address
    protocol: str  # PLAINTEXT or SSL


@dataclass(frozen=True)
class LogConfig:
    """The configs of one topic, complete. A field is the topic key with underscores."""

    segment_bytes: int = 1 << 30
    segment_ms: int = 168 * HOUR_MS
    segment_jitter_ms: int = 0
    segment_index_bytes: int = 10 << 20
    index_interval_bytes: int = 4096
    preallocate: bool = False
    flush_messages: int = LONG_MAX
    flush_ms: int = LONG_MAX
    retention_ms: int = 168 * HOUR_MS  # -1: none
    retention_bytes: int = -1
    file_delete_delay_ms: int = 60_000
    cleanup_policy: str = "delete"
    delete_retention_ms: int = 24 * HOUR_MS
    min_cleanable_dirty_ratio: float = 0.5
    min_compaction_lag_ms: int = 0
    max_compaction_lag_ms: int = LONG_MAX
    max_message_bytes: int = 1048588
    message_timestamp_type: str = "CreateTime"
    message_timestamp_before_max_ms: int = LONG_MAX
    message_timestamp_after_max_ms: int = 3_600_000
    min_insync_replicas: int = 1
    compression_type: str = "producer"

    @property
    def flush_check_ms(self) -> int:
        """How often flush.ms must be looked at to be real (C1.5): an acked record is durable after flush.ms, half of
        it again, and one fsync. LONG_MAX: never, there is no flush.ms."""
        return LONG_MAX if self.flush_ms == LONG_MAX else max(1, self.flush_ms // 2)


LOG_CONFIG_FIELDS = tuple(field.name for field in fields(LogConfig))


class Config:
    """One attribute per broker key, dots as underscores: `config.num_partitions`. Lists are tuples of str, an unset
    key is None. `values` has the same by key; `sources` says for each key which of default, file, environment,
    override or dynamic it came from."""

    def __init__(self, given: Mapping[str, object] = {}, sources: Mapping[str, str] = {}):
        self.values: dict[str, object] = {key.name: key.default for key in KEYS} | dict(given)
        self.sources: dict[str, str] = {key.name: "default" for key in KEYS} | dict(sources)
        self._publish()
        self.client_listeners = _listeners(self)
        self.listener, self.advertised_listener, _ = self.client_listeners[0]
        self.data_dir = _data_dir(self)
        if self.broker_id not in (-1, self.node_id):
            if self.sources["node.id"] != "default":
                raise ConfigError(f"broker.id={self.broker_id} and node.id={self.node_id}: two ids for one broker")
            self.values["node.id"] = self.node_id = self.broker_id
        if "broker" not in self.process_roles:
            raise ConfigError("process.roles must name broker: refbroker is broker and controller in one process")
        self._static = (dict(self.values), dict(self.sources))  # what dynamic configs fall back to

    def _publish(self) -> None:
        for key in KEYS:
            setattr(self, key.attribute, self.values[key.name])

    @classmethod
    def load(
        cls, properties_text: str | None = None, environ: Mapping[str, str] = {}, overrides: Iterable[str] = ()
    ) -> tuple["Config", list[str]]:
        """The configuration, and warnings to print. Raises ConfigError."""
        settings: list[tuple[str, str, str, str]] = []  # key, value, source, where in words
        for key, (value, line) in parse_properties(properties_text or "").items():
            settings.append((key, value, "file", f"line {line} of the properties file"))
        for variable in sorted(environ):
            if variable.startswith("KAFKA_") and not _IMAGE_VARIABLES.match(variable):
                settings.append((_key_of_variable(variable), environ[variable], "environment", variable))
        for override in overrides:
            key, equals, value = override.partition("=")
            if not equals:
                raise ConfigError(f"--override {override!r}: expected key=value")
            settings.append((key.strip(), value.strip(), "override", "--override"))
        values, sources, warnings, inert = {}, {}, [], {}
        for name, text, source, where in settings:
            key = BROKER_KEYS.get(name)
            if key is None:
                if why := family_reason(name):
                    inert.setdefault(why, []).append(name)
                else:
                    warnings.append(f"{where}: unknown key {name} is ignored{_nearest(name, BROKER_KEYS)}")
                continue
            values[name] = parse_value(key, text, where)
            sources[name] = source
            if key.effect is not True:
                inert.setdefault(key.effect, []).append(name)
        warnings += [f"no effect here: {', '.join(dict.fromkeys(names))} ({why})" for why, names in inert.items()]
        return cls(values, sources), warnings

    def set_dynamic(self, configs: Mapping[str, str]) -> None:
        """Replace all dynamic broker configs; those not named fall back to what the broker was started with."""
        validate_broker_configs(configs)
        self.values, self.sources = dict(self._static[0]), dict(self._static[1])
        for name, text in configs.items():
            self.values[name] = parse_value(BROKER_KEYS[name], text, "dynamic config")
            self.sources[name] = "dynamic"
        self._publish()

    def log_config(self, topic_overrides: Mapping[str, str] = {}) -> LogConfig:
        """What holds for a topic: its own configs over the broker's. Raises KafkaError(INVALID_CONFIG)."""
        validate_topic_configs(topic_overrides)
        own = {name: parse_value(TOPIC_KEYS[name], text, "topic", name) for name, text in topic_overrides.items()}
        chosen = {name: own.get(name, self.topic_default(name)) for name in TOPIC_KEYS}
        # The small segments of tests: Kafka's own way round the minimum of segment.bytes.
        if chosen["internal.segment.bytes"] is not None:
            chosen["segment.bytes"] = chosen["internal.segment.bytes"]
        chosen["cleanup.policy"] = ",".join(chosen["cleanup.policy"])
        chosen["retention.ms"] = max(-1, chosen["retention.ms"])
        return LogConfig(**{field: chosen[field.replace("_", ".")] for field in LOG_CONFIG_FIELDS})

    def topic_default(self, name: str) -> object:
        """What a topic without this config has: the broker's key, or the one behind it in Kafka's order."""
        value = self.values.get(TOPIC_KEYS[name].name, TOPIC_KEYS[name].default)
        if value is not None:
            return value
        if name == "segment.ms":
            return self.log_roll_hours * HOUR_MS
        if name == "segment.jitter.ms":
            return self.log_roll_jitter_hours * HOUR_MS
        if name == "flush.ms":
            return self.log_flush_scheduler_interval_ms
        if name == "retention.ms":
            if self.log_retention_minutes is not None:
                return self.log_retention_minutes * MINUTE_MS if self.log_retention_minutes >= 0 else -1
            return self.log_retention_hours * HOUR_MS if self.log_retention_hours >= 0 else -1
        return None

    def flusher_period_ms(self, log: LogConfig) -> int:
        """How often the flusher looks at a topic with these configs; LONG_MAX for never."""
        return min(self.log_flush_scheduler_interval_ms, log.flush_check_ms)


def validate_topic_configs(configs: Mapping[str, str | None]) -> None:
    """Raises KafkaError(INVALID_CONFIG) as Kafka does: unknown name, null or bad value."""
    for name, text in configs.items():
        if name not in TOPIC_KEYS:
            raise KafkaError(ErrorCode.INVALID_CONFIG, f"Unknown topic config name: {name}{_nearest(name, TOPIC_KEYS)}")
        _checked(TOPIC_KEYS[name], text, "topic config", name)


def validate_broker_configs(configs: Mapping[str, str | None]) -> None:
    """As `validate_topic_configs`, for configs of a running broker."""
    for name, text in configs.items():
        key = BROKER_KEYS.get(name)
        if key is None or not key.dynamic:
            why = "is not known" if key is None else "cannot be changed while the broker runs"
            raise KafkaError(ErrorCode.INVALID_CONFIG, f"{name} {why}")
        _checked(key, text, "dynamic config", name)


def _checked(key: Key, text: str | None, where: str, name: str) -> None:
    if text is None:
        raise KafkaError(ErrorCode.INVALID_CONFIG, f"Null value not supported for {where} {name}")
    try:
        parse_value(key, text, where, name)
    except ConfigError as error:
        raise KafkaError(ErrorCode.INVALID_CONFIG, str(error)) from error


def parse_value(key: Key, text: str, where: str, name: str = "") -> object:
    """The typed value. `name` is what the user called the key. Raises ConfigError."""
    text = text.strip()
    try:
        value = _typed(key.type, text)
    except ValueError as error:
        raise _bad(key, text, where, name, str(error)) from error
    numbers = isinstance(value, (int, float)) and not isinstance(value, bool)
    if numbers and key.minimum is not None and value < key.minimum:
        raise _bad(key, text, where, name, f"at least {key.minimum}")
    if numbers and key.maximum is not None and value > key.maximum:
        raise _bad(key, text, where, name, f"at most {key.maximum}")
    if key.choices:
        wrong = [item for item in (value if isinstance(value, tuple) else (value,)) if item not in key.choices]
        if wrong or value == ():
            kind = "some of" if key.type is Type.LIST else "one of"
            raise _bad(key, text, where, name, f"{kind} {', '.join(key.choices)}")
    return value


def _bad(key: Key, text: str, where: str, name: str, expected: str) -> ConfigError:
    shown = "(hidden)" if key.type is Type.PASSWORD else repr(text)
    return ConfigError(f"{where}: {name or key.name} = {shown}: expected {expected}")


def _typed(type: Type, text: str) -> object:
    if type is Type.BOOLEAN:
        if text.lower() not in ("true", "false"):
            raise ValueError("true or false")
        return text.lower() == "true"
    if type in (Type.INT, Type.SHORT, Type.LONG):
        limit = {Type.SHORT: 2**15 - 1, Type.INT: INT_MAX, Type.LONG: LONG_MAX}[type]
        if not re.fullmatch(r"[+-]?[0-9]{1,19}", text) or not -limit - 1 <= int(text) <= limit:
            raise ValueError(f"a whole number between {-limit - 1} and {limit}")
        return int(text)
    if type is Type.DOUBLE:
        try:
            return float(text)
        except ValueError:
            raise ValueError("a number") from None
    if type is Type.LIST:
        return tuple(item.strip() for item in text.split(",") if item.strip())
    return text


def format_value(value: object) -> str | None:
    """A value as DescribeConfigs and properties files write it."""
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(value)
    return str(value)


def parse_properties(text: str) -> dict[str, tuple[str, int]]:
    """Java's properties syntax: key -> (value, number of the line where the key stands)."""
    found: dict[str, tuple[str, int]] = {}
    lines = iter(enumerate(re.split(r"\r\n|\r|\n", text), 1))
    for number, line in lines:
        line = line.lstrip(" \t\f")
        if not line or line[0] in "#!":
            continue
        while (len(line) - len(line.rstrip("\\"))) % 2:  # an odd number of backslashes continues the line
            line = line[:-1] + next(lines, (0, ""))[1].lstrip(" \t\f")
        key, value = re.fullmatch(r"((?:\\.|[^\\=: \t\f])*)[ \t\f]*[=:]?[ \t\f]*(.*)", line, re.DOTALL).groups()
        found[_unescape(key, number)] = (_unescape(value, number), number)
    return found


def _unescape(text: str, number: int) -> str:
    def replace(match: re.Match) -> str:
        escape = match[1]
        if escape == "u":
            raise ConfigError(f"line {number} of the properties file: expected \\uXXXX with four hexadecimal digits")
        if len(escape) == 5:
            return chr(int(escape[1:], 16))
        return {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}.get(escape, escape)

    return re.sub(r"\\(u[0-9a-fA-F]{4}|.)", replace, text)


def _key_of_variable(variable: str) -> str:
    dashes = {"___": "-", "__": "_", "_": "."}
    return re.sub("___|__|_", lambda match: dashes[match[0]], variable.removeprefix("KAFKA_").lower())


def _nearest(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def parse_listener(text: str, where: str) -> Listener:
    """NAME://HOST:PORT, HOST may be empty or an IPv6 address in brackets. Raises ConfigError."""
    match = re.fullmatch(r"([A-Za-z][A-Za-z0-9_.-]*)://(?:\[([0-9A-Fa-f:.]+)\]|([^:/\[\]]*)):([0-9]{1,5})", text)
    if not match or int(match[4]) > 65535 or not HOST.fullmatch(match[3] or ""):
        raise ConfigError(f"{where}: {text!r}: expected NAME://HOST:PORT, such as PLAINTEXT://127.0.0.1:9092")
    return Listener(match[1].upper(), match[2] or match[3] or "", int(match[4]))


def _listeners(config: Config) -> tuple[ClientListener, ...]:
    """The listeners that are opened."""
    pairs = config.listener_security_protocol_map.upper().split(",")
    protocols = dict(pair.strip().split(":", 1) for pair in pairs if ":" in pair)
    controllers = {name.upper() for name in config.controller_listener_names}

    def for_clients(key: str) -> dict[str, Listener]:
        found: dict[str, Listener] = {}
        for listener in (parse_listener(text, key) for text in config.values[key] or ()):
            if listener.name in controllers:
                continue
            protocol = protocols.get(listener.name, listener.name)
            if protocol not in PROTOCOLS:
                raise ConfigError(f"{key}: {listener}: {protocol} is not served, only {' and '.join(PROTOCOLS)}")
            if listener.name in found:
                raise ConfigError(f"{key}: {listener}: there is another one of that name")
            found[listener.name] = listener
        return found

    listeners, advertised = for_clients("listeners"), for_clients("advertised.listeners")
    if not listeners:
        raise ConfigError(f"listeners: expected a client listener: {format_value(config.listeners)}")
    served = []
    for name, listener in listeners.items():
        told = advertised.get(name)
        if advertised and told is None:
            raise ConfigError(f"advertised.listeners: nothing for the listener {name}")
        host = (told or listener).host
        if host in ("0.0.0.0", "::"):
            raise ConfigError(f"advertised.listeners: clients cannot connect to {host}: name a host that they can reach")
        protocol = protocols.get(name, name)
        if protocol == "SSL":
            _check_stores(config, listener)
        served.append(ClientListener(listener, told, protocol))
    return tuple(served)


def _check_stores(config: Config, listener: Listener) -> None:
    """An SSL listener needs a key, and what is given must be PEM."""
    if not config.ssl_keystore_location and not (config.ssl_keystore_key and config.ssl_keystore_certificate_chain):
        raise ConfigError(f"{listener}: needs ssl.keystore.location, or ssl.keystore.key and ssl.keystore.certificate.chain")
    stores = {"keystore": config.ssl_keystore_type}
    if config.ssl_truststore_location or config.ssl_truststore_certificates:
        stores["truststore"] = config.ssl_truststore_type
    for store, kind in stores.items():
        if kind != "PEM":
            raise ConfigError(
                f"ssl.{store}.type: {kind} is not read, only PEM (`keytool -importkeystore -deststoretype PKCS12`, then "
                f"`openssl pkcs12 -nodes` make a PEM file of one)"
            )


def _data_dir(config: Config) -> str:
    directories = config.log_dir if config.log_dirs is None else config.log_dirs
    if len(directories) != 1:
        raise ConfigError(f"log.dirs: expected one directory, not {len(directories)}: {format_value(directories)!r}")
    return directories[0]
