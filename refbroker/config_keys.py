"""Which configuration keys are there? One table: Kafka's names, types, defaults, and what each does here.

Source: Apache Kafka 4.4's own definitions of broker and topic configs. A row is either served (`effect` is True: some
code here reads it) or known but inert (`effect` is a sentence that says why; setting it earns a warning with that
sentence). Inert families that come in dozens are prefixes, not rows. A test holds both claims against the code.

A row with a `topic_name` is the default of that topic config; `TOPIC_KEYS` is the table by topic names, and adds the
topic configs that have no broker key. `dynamic` keys can be altered while the broker runs.

Where the defaults differ from Apache Kafka's:

1. `listeners` is loopback only, `log.dir` is not Kafka's /tmp/kafka-logs: nobody gets a public or a foreign broker by
   mistake. `node.id`, `process.roles` and `controller.listener.names` have defaults, so that no file is needed.
2. Replication factors are 1: there is one broker.
"""

from enum import IntEnum
from typing import NamedTuple


class Type(IntEnum):
    """The numbers are those of DescribeConfigs."""

    BOOLEAN = 1
    STRING = 2
    INT = 3
    SHORT = 4
    LONG = 5
    DOUBLE = 6
    LIST = 7
    CLASS = 8
    PASSWORD = 9


BOOLEAN, STRING, INT, SHORT, LONG, DOUBLE, LIST, CLASS, PASSWORD = Type

INT_MAX = 2**31 - 1
LONG_MAX = 2**63 - 1
LOG_DIR_DEFAULT = "/tmp/refbroker-logs"


class Key(NamedTuple):
    name: str
    type: Type
    default: object  # None: not set, and then what `doc` says
    topic_name: str | None
    doc: str
    effect: bool | str = True  # True, or why setting it changes nothing
    dynamic: bool = False
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def attribute(self) -> str:
        return self.name.replace(".", "_")


def _log(name: str, type: Type, default: object, topic_name: str, doc: str, effect: bool | str = True, **bounds) -> Key:
    """A broker key that is the default of a topic config: all of them can be altered at run time."""
    return Key(name, type, default, topic_name, doc, effect, True, **bounds)


def _inert(why: str, *rows: tuple) -> list[Key]:
    """Rows of (name, type, default, topic name where there is one)."""
    return [Key(*row[:3], row[3] if row[3:] else None, "", why, dynamic=bool(row[3:])) for row in rows]


_AS_SENT = "batches are stored as the producer sent them"
_THREADS = "one event loop serves everything: there are no such threads or queues"
_ALONE = "a cluster of one: nothing is replicated, elected or moved"
_CODECS = ("uncompressed", "zstd", "lz4", "snappy", "gzip", "producer")
_NO_COMPACTION = "topics are not compacted yet: a compacted topic keeps every record"
_NO_TIERS = "no tiered storage"
_NO_TXN = "transactions are not served"
_STORES = ("JKS", "PKCS12", "PEM")
_OLD_STYLE = "coordinators read and write their logs directly"

KEYS: tuple[Key, ...] = (
    # who and where
    Key("node.id", INT, 1, None, "This broker's id, also written to meta.properties.", minimum=0),
    Key("broker.id", INT, -1, None, "Old name of node.id; must agree with it where both are set."),
    Key("broker.rack", STRING, None, None, "Reported to clients in Metadata and DescribeCluster."),
    Key("process.roles", LIST, ("broker", "controller"), None,
        "Must name broker; the controller is always in the same process.",
        choices=("broker", "controller")),
    Key("listeners", LIST, ("PLAINTEXT://127.0.0.1:9092",), None,
        "Client listeners, each NAME://HOST:PORT; empty HOST is every interface, PORT 0 a free port."),
    Key("advertised.listeners", LIST, None, None,
        "What clients are told to connect to, as NAME://HOST:PORT; unset is what we listen on."),
    Key("listener.security.protocol.map", STRING,
        "PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL",
        None, "Which protocol each listener name speaks; PLAINTEXT and SSL are served."),
    Key("ssl.keystore.type", STRING, "JKS", None, "Must be PEM where there is an SSL listener.", choices=_STORES),
    Key("ssl.keystore.location", STRING, None, None, "A PEM file with the private key and the certificate chain."),
    Key("ssl.keystore.key", PASSWORD, None, None, "The private key itself, as PEM, instead of a file."),
    Key("ssl.keystore.certificate.chain", PASSWORD, None, None, "The certificate chain itself, as PEM."),
    Key("ssl.key.password", PASSWORD, None, None, "Of the private key, where that is encrypted."),
    Key("ssl.truststore.type", STRING, "JKS", None, "Must be PEM where there is a truststore.", choices=_STORES),
    Key("ssl.truststore.location", STRING, None, None, "A PEM file with the certificates that clients' are signed by."),
    Key("ssl.truststore.certificates", PASSWORD, None, None, "These certificates themselves, as PEM."),
    Key("ssl.client.auth", STRING, "none", None, "Must a client show a certificate? It then may do what all others may.",
        choices=("none", "requested", "required")),
    Key("ssl.enabled.protocols", LIST, ("TLSv1.2", "TLSv1.3"), None, "The versions of TLS that are spoken.",
        choices=("TLSv1.2", "TLSv1.3")),
    Key("controller.listener.names", LIST, ("CONTROLLER",), None,
        "Listeners of these names are not opened: there is no separate controller."),
    Key("log.dir", LIST, (LOG_DIR_DEFAULT,), None, "The data directory where log.dirs is not set."),
    Key("log.dirs", LIST, None, None, "The data directory; exactly one is served."),
    # connections and requests
    Key("socket.request.max.bytes", INT, 104857600, None, "A longer request closes its connection.", minimum=1),
    # Kafka's default is 102400, which keeps the OS from tuning: with -1 256 KiB batches came in 1.4 times as fast here.
    Key("socket.send.buffer.bytes", INT, -1, None,
        "SO_SNDBUF of client connections; -1 leaves it to the OS.", minimum=-1),
    Key("socket.receive.buffer.bytes", INT, -1, None,
        "SO_RCVBUF of client connections; -1 leaves it to the OS.", minimum=-1),
    Key("socket.listen.backlog.size", INT, 50, None,
        "Connections that the OS queues before we accept them.", minimum=1),
    Key("queued.max.request.bytes", LONG, -1, None, "Most bytes of requests in the works; -1: 512 MiB."),
    Key("max.connections", INT, INT_MAX, None, "More connections than this are closed at once.", minimum=0),
    Key("max.connections.per.ip", INT, INT_MAX, None, "The same, per client address.", minimum=0),
    Key("connections.max.idle.ms", LONG, 600000, None,
        "A connection without requests for so long is closed; -1 never."),
    Key("fetch.max.bytes", INT, 57671680, None, "Most bytes of records in one Fetch response.", minimum=1024),
    Key("max.incremental.fetch.session.cache.slots", INT, 1000, None, "Most fetch sessions kept.", minimum=0),
    Key("max.request.partition.size.limit", INT, 2000, None,
        "Most partitions in one DescribeTopicPartitions response.", minimum=1),
    # topics
    Key("auto.create.topics.enable", BOOLEAN, True, None, "Metadata requests for an unknown topic create it."),
    Key("delete.topic.enable", BOOLEAN, True, None, "Topics may be deleted."),
    Key("num.partitions", INT, 1, None, "Partitions of a topic created without a number.", minimum=1),
    Key("default.replication.factor", INT, 1, None, "", _ALONE),
    # the log: defaults of topic configs
    _log("log.segment.bytes", INT, 1 << 30, "segment.bytes",
        "A segment is rolled before it would grow beyond this.", minimum=1 << 20),
    _log("log.roll.ms", LONG, None, "segment.ms",
        "Roll a segment whose first record is older than this; unset: log.roll.hours.", minimum=1),
    Key("log.roll.hours", INT, 168, None, "As log.roll.ms, which wins.", minimum=1),
    _log("log.roll.jitter.ms", LONG, None, "segment.jitter.ms",
        "At most so much is randomly taken off segment.ms; unset: log.roll.jitter.hours.", minimum=0),
    Key("log.roll.jitter.hours", INT, 0, None, "As log.roll.jitter.ms, which wins.", minimum=0),
    _log("log.index.size.max.bytes", INT, 10 << 20, "segment.index.bytes",
        "A segment is rolled when an index reaches this.", minimum=4),
    _log("log.index.interval.bytes", INT, 4096, "index.interval.bytes",
        "Bytes of log between two index entries.", minimum=0),
    _log("log.preallocate", BOOLEAN, False, "preallocate", "", "segment files grow by appending"),
    _log("log.flush.interval.messages", LONG, LONG_MAX, "flush.messages",
        "The append that makes it so many unflushed messages is answered when they are durable.", minimum=1),
    _log("log.flush.interval.ms", LONG, None, "flush.ms",
        "A record is durable 1.5 times so long after its append; unset: log.flush.scheduler.interval.ms.", minimum=0),
    Key("log.flush.scheduler.interval.ms", LONG, LONG_MAX, None,
        "flush.ms is looked at so often, and at least twice per flush.ms: it works without this key.", minimum=1),
    Key("log.flush.offset.checkpoint.interval.ms", INT, 60000, None,
        "How often recovery points are written.", minimum=0),
    Key("log.flush.start.offset.checkpoint.interval.ms", INT, 60000, None,
        "How often log start offsets are written.", minimum=0),
    Key("replica.high.watermark.checkpoint.interval.ms", LONG, 5000, None,
        "How often high watermarks are written.", minimum=1),
    _log("log.retention.ms", LONG, None, "retention.ms",
        "Delete segments older than this, -1 never; unset: log.retention.minutes.", minimum=-1),
    Key("log.retention.minutes", INT, None, None,
        "As log.retention.ms, which wins; unset: log.retention.hours.", minimum=-1),
    Key("log.retention.hours", INT, 168, None, "As log.retention.minutes, which wins.", minimum=-1),
    _log("log.retention.bytes", LONG, -1, "retention.bytes",
        "Delete the oldest segments of a partition larger than this; -1 never."),
    Key("log.retention.check.interval.ms", LONG, 300000, None, "How often retention is looked at.", minimum=1),
    _log("log.cleanup.policy", LIST, ("delete",), "cleanup.policy",
        "delete, compact or both; compaction itself is not done yet.",
        choices=("delete", "compact")),
    _log("log.segment.delete.delay.ms", LONG, 60000, "file.delete.delay.ms",
        "Wait before a deleted file is unlinked.", minimum=0),
    _log("message.max.bytes", INT, 1048588, "max.message.bytes", "Largest record batch.", minimum=0),
    _log("log.message.timestamp.type", STRING, "CreateTime", "message.timestamp.type", "Whose clock stamps records.",
        choices=("CreateTime", "LogAppendTime")),
    _log("log.message.timestamp.before.max.ms", LONG, LONG_MAX, "message.timestamp.before.max.ms",
        "Older records are refused.", minimum=0),
    _log("log.message.timestamp.after.max.ms", LONG, 3600000, "message.timestamp.after.max.ms",
        "Records further in the future are refused.", minimum=0),
    _log("min.insync.replicas", INT, 1, "min.insync.replicas",
        "acks=all is refused where this is more than 1: there is one replica.", minimum=1),
    _log("compression.type", STRING, "producer", "compression.type", "", _AS_SENT, choices=_CODECS),
    _log("compression.gzip.level", INT, -1, "compression.gzip.level", "", _AS_SENT, minimum=-1, maximum=9),
    _log("compression.lz4.level", INT, 9, "compression.lz4.level", "", _AS_SENT, minimum=1, maximum=17),
    _log("compression.zstd.level", INT, 3, "compression.zstd.level", "", _AS_SENT, minimum=-131072, maximum=22),
    _log("max.decompressed.message.bytes", INT, INT_MAX - 8, "max.decompressed.message.bytes",
        "", _AS_SENT, minimum=1, maximum=INT_MAX - 8),
    Key("producer.id.expiration.ms", INT, 86400000, None,
        "Idempotent producers silent for so long are forgotten.", minimum=1),
    Key("producer.id.expiration.check.interval.ms", INT, 600000, None, "How often that is looked at.", minimum=1),
    # consumer groups
    Key("group.initial.rebalance.delay.ms", INT, 3000, None,
        "An empty group waits so long for further members.", minimum=0),
    Key("group.min.session.timeout.ms", INT, 6000, None, "Shortest session timeout a member may ask for.", minimum=1),
    Key("group.max.session.timeout.ms", INT, 1800000, None, "Longest session timeout a member may ask for.", minimum=1),
    Key("group.max.size", INT, INT_MAX, None, "Most members of a group.", minimum=1),
    Key("offset.metadata.max.bytes", INT, 4096, None, "Longest metadata text of a committed offset.", minimum=0),
    Key("offsets.topic.num.partitions", INT, 50, None,
        "Partitions of __consumer_offsets; fixed once it exists.", minimum=1),
    Key("offsets.topic.segment.bytes", INT, 104857600, None, "segment.bytes of __consumer_offsets.", minimum=1),
    Key("offsets.retention.minutes", INT, 10080, None,
        "Offsets of an empty group are dropped after so long.", minimum=1),
    Key("offsets.retention.check.interval.ms", LONG, 600000, None, "How often that is looked at.", minimum=1),
    # ours
    Key("internal.segment.bytes", INT, None, "internal.segment.bytes",
        "log.segment.bytes without its minimum, and wins; in Kafka a topic config only.", dynamic=True, minimum=1),
    # known, and without effect here
    *_inert(_ALONE, ("offsets.topic.replication.factor", SHORT, 1),
            ("unclean.leader.election.enable", BOOLEAN, False, "unclean.leader.election.enable"),
            ("num.replica.fetchers", INT, 1), ("auto.leader.rebalance.enable", BOOLEAN, True),
            ("controlled.shutdown.enable", BOOLEAN, True),
            ("broker.heartbeat.interval.ms", INT, 2000), ("broker.session.timeout.ms", INT, 9000),
            ("inter.broker.listener.name", STRING, None),
            ("security.inter.broker.protocol", STRING, "PLAINTEXT"), ("log.dir.failure.timeout.ms", LONG, 30000),
            ("cordoned.log.dirs", LIST, ()),
            ("request.timeout.ms", INT, 30000), ("initial.broker.registration.timeout.ms", INT, 60000)),
    *_inert(_THREADS, ("num.io.threads", INT, 8), ("num.network.threads", INT, 3), ("background.threads", INT, 10),
            ("queued.max.requests", INT, 500),
            ("num.recovery.threads.per.data.dir", INT, 2),
            ("fetch.purgatory.purge.interval.requests", INT, 1000),
            ("producer.purgatory.purge.interval.requests", INT, 1000),
            ("delete.records.purgatory.purge.interval.requests", INT, 1)),
    *_inert(_NO_COMPACTION, ("log.cleaner.enable", BOOLEAN, True), ("log.cleaner.threads", INT, 1),
            ("log.cleaner.backoff.ms", LONG, 15000),
            ("log.cleaner.dedupe.buffer.size", LONG, 134217728), ("log.cleaner.io.buffer.size", INT, 524288),
            ("log.cleaner.io.buffer.load.factor", DOUBLE, 0.9),
            ("log.cleaner.io.max.bytes.per.second", DOUBLE, 1.7976931348623157e308)),
    _log("log.cleaner.delete.retention.ms", LONG, 86400000, "delete.retention.ms", "", _NO_COMPACTION, minimum=0),
    _log("log.cleaner.min.cleanable.ratio", DOUBLE, 0.5, "min.cleanable.dirty.ratio", "", _NO_COMPACTION,
        minimum=0, maximum=1),
    _log("log.cleaner.min.compaction.lag.ms", LONG, 0, "min.compaction.lag.ms", "", _NO_COMPACTION, minimum=0),
    _log("log.cleaner.max.compaction.lag.ms", LONG, LONG_MAX, "max.compaction.lag.ms", "", _NO_COMPACTION, minimum=1),
    *_inert(_OLD_STYLE, ("offsets.commit.timeout.ms", INT, 5000), ("offsets.load.buffer.size", INT, 5242880),
            ("offsets.topic.compression.codec", INT, 0)),
    _log("log.local.retention.ms", LONG, -2, "local.retention.ms", "", _NO_TIERS, minimum=-2),
    _log("log.local.retention.bytes", LONG, -2, "local.retention.bytes", "", _NO_TIERS, minimum=-2),
    _log("log.remote.copy.lag.ms", LONG, 0, "remote.copy.lag.ms", "", _NO_TIERS, minimum=-1),
    _log("log.remote.copy.lag.bytes", LONG, -1, "remote.copy.lag.bytes", "", _NO_TIERS, minimum=-1),
)

_TOPIC_ONLY = (
    *_inert(_ALONE, ("leader.replication.throttled.replicas", LIST, ()),
            ("follower.replication.throttled.replicas", LIST, ())),
    *_inert(_NO_TIERS, ("remote.storage.enable", BOOLEAN, False), ("remote.log.copy.disable", BOOLEAN, False),
            ("remote.log.delete.on.disable", BOOLEAN, False)),
    *_inert("share groups are not served", ("errors.deadletterqueue.group.enable", BOOLEAN, False)),
)

# Keys in families, and why none of them does anything here. Checked after the rows above.
FAMILIES: tuple[tuple[str, str], ...] = (
    ("ssl.", "TLS is OpenSSL's, with its own ciphers, and keys are PEM"),
    ("sasl.", "no SASL"),
    ("listener.name.", "listeners have no settings of their own"),
    ("connections.max.reauth", "no SASL"),
    ("connection.failed.authentication", "no SASL"),
    ("delegation.token.", "no delegation tokens"),
    ("security.providers", "TLS is OpenSSL's"),
    ("authorizer.", "NO authorization is done: whoever can connect may do everything"),
    ("super.users", "NO authorization is done: whoever can connect may do everything"),
    ("allow.everyone.if.no.acl.found", "NO authorization is done: whoever can connect may do everything"),
    ("principal.builder.", "no authentication is done"),
    ("early.start.listeners", "there is no authorizer to wait for"),
    ("remote.", _NO_TIERS),
    ("rlmm.config.", _NO_TIERS),
    ("rsm.config.", _NO_TIERS),
    ("follower.fetch.", _NO_TIERS),
    ("replica.", _ALONE),
    ("replication.quota.", _ALONE),
    ("leader.imbalance.", _ALONE),
    ("alter.log.dirs.", _ALONE),
    ("num.replica.", _ALONE),
    ("socket.connection.setup.", _ALONE),
    ("controller.", "the metadata log has one writer and no quorum"),
    ("metadata.", "the metadata log has one writer and no quorum"),
    ("transaction.", _NO_TXN),
    ("transactional.", _NO_TXN),
    ("add.partitions.to.txn.", _NO_TXN),
    ("group.consumer.", "the classic group protocol only"),
    ("group.coordinator.", "the classic group protocol only"),
    ("group.share.", "share groups are not served"),
    ("share.", "share groups are not served"),
    ("errors.deadletterqueue.", "share groups are not served"),
    ("group.streams.", "streams groups are not served"),
    ("quota.", "no quotas"),
    ("client.quota.", "no quotas"),
    ("max.connection.creation.rate", "no quotas"),
    ("max.connections.per.ip.overrides", "max.connections.per.ip holds for every address"),
    ("metric", "metrics are Prometheus text: `refbroker serve --metrics HOST:PORT`"),
    ("kafka.metrics.", "metrics are Prometheus text: `refbroker serve --metrics HOST:PORT`"),
    ("telemetry.", "client telemetry is not served"),
    ("create.topic.policy.", "no plug-ins are loaded"),
    ("alter.config.policy.", "no plug-ins are loaded"),
    ("config.providers", "no plug-ins are loaded"),
)

BROKER_KEYS: dict[str, Key] = {key.name: key for key in KEYS}
# By topic name: the key whose type, bounds and default hold for the topic config.
TOPIC_KEYS: dict[str, Key] = {key.topic_name: key for key in KEYS if key.topic_name}
TOPIC_KEYS.update({key.name: key for key in _TOPIC_ONLY})


def family_reason(name: str) -> str | None:
    """Why a key that has no row does nothing, where it belongs to a family that is known."""
    return next((why for prefix, why in FAMILIES if name.startswith(prefix)), None)
