"""Are the records of the metadata log Kafka's, byte for byte, and what do topic names have to look like?"""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refbroker.errors import KafkaError
from refbroker.metadata_records import (
    ABORT_TRANSACTION,
    BEGIN_TRANSACTION,
    CONFIG,
    END_TRANSACTION,
    KINDS,
    PARTITION,
    PRODUCER_IDS,
    REMOVE_TOPIC,
    TOPIC,
    Image,
    MetadataError,
    decode,
    encode,
)  # fmt: skip
from refbroker.topic_rules import check_name, check_new_name

# ---------------------------------------------------------------- records


UUIDS = st.uuids()
INT32S = st.integers(-(2**31), 2**31 - 1)
ENTRIES = st.one_of(
    st.tuples(st.just(TOPIC), st.fixed_dictionaries({"name": st.text(max_size=20), "topic_id": UUIDS})),
    st.tuples(st.just(PARTITION), st.fixed_dictionaries({
        "partition_id": INT32S, "topic_id": UUIDS,
        "replicas": st.lists(INT32S, max_size=3), "isr": st.lists(INT32S, max_size=3),
        "leader": INT32S, "leader_epoch": INT32S, "partition_epoch": INT32S, "directories": st.lists(UUIDS, max_size=2),
        "leader_recovery_state": st.integers(0, 1),
    })),
    st.tuples(st.just(CONFIG), st.fixed_dictionaries({
        "resource_type": st.integers(0, 127), "resource_name": st.text(max_size=9), "name": st.text(max_size=9),
        "value": st.none() | st.text(max_size=9),
    })),
    st.tuples(st.just(REMOVE_TOPIC), st.fixed_dictionaries({"topic_id": UUIDS})),
    st.tuples(st.just(PRODUCER_IDS), st.fixed_dictionaries({
        "broker_id": INT32S, "broker_epoch": st.integers(-1, 2**63 - 1), "next_producer_id": st.integers(0, 2**63 - 1),
    })),
)  # fmt: skip


@given(ENTRIES)
def test_records_come_back_as_they_were(entry):
    kind, fields = entry
    decoded_kind, decoded = decode(encode(kind, fields))
    assert decoded_kind is kind
    assert {name: decoded[name] for name in fields} == fields


@given(st.binary(max_size=80))
def test_any_bytes_decode_or_are_refused(value):
    try:
        decode(value)
    except MetadataError:
        return


GZIP_ID = uuid.UUID("4f9c4a07-134e-452b-88af-13294ae6a043")
KAFKA_RECORDS = [  # values out of a log that Apache Kafka 4.4.0 wrote
    ("010200196a6176612d636f6465632d677a69702d6d77746c32776d344f9c4a07134e452b88af13294ae6a04300",
     TOPIC, {"name": "java-codec-gzip-mwtl2wm4", "topic_id": GZIP_ID}),
    ("010302000000004f9c4a07134e452b88af13294ae6a0430200000001020000000101010000000100000000000000000"
     "2a0d2c7fe27f779bbda60f71f2052e5c400",
     PARTITION, {"partition_id": 0, "topic_id": GZIP_ID, "replicas": [1], "isr": [1], "leader": 1, "leader_epoch": 0,
                 "partition_epoch": 0, "directories": [uuid.UUID("a0d2c7fe-27f7-79bb-da60-f71f2052e5c4")]}),
    ("01040002135f5f636f6e73756d65725f6f66667365747311636f6d7072657373696f6e2e747970650970726f647563657200",
     CONFIG,
     {"resource_type": 2, "resource_name": "__consumer_offsets", "name": "compression.type", "value": "producer"}),
    ("0104000401146d696e2e696e73796e632e7265706c69636173023100",
     CONFIG, {"resource_type": 4, "resource_name": "", "name": "min.insync.replicas", "value": "1"}),
    ("010900b15302699a9b47639618ba344666178200",
     REMOVE_TOPIC, {"topic_id": uuid.UUID("b1530269-9a9b-4763-9618-ba3446661782")}),
    ("010f0000000001000000000000000c00000000000003e800",
     PRODUCER_IDS, {"broker_id": 1, "broker_epoch": 12, "next_producer_id": 1000}),
    ("01170001001212426f6f747374726170207265636f726473", BEGIN_TRANSACTION, {"name": "Bootstrap records"}),
    ("01180000", END_TRANSACTION, {}),
]  # fmt: skip


@pytest.mark.parametrize(("text", "kind", "expected"), KAFKA_RECORDS)
def test_records_are_kafkas_bytes(text, kind, expected):
    decoded_kind, fields = decode(bytes.fromhex(text))
    assert decoded_kind is kind
    assert {name: fields[name] for name in expected} == expected
    assert encode(kind, fields).hex() == text


@pytest.mark.parametrize(
    "value",
    [None, b"", b"\x01", b"\x00\x02\x00", b"\x02\x02\x00", b"\x01\x02\x01", b"\x01\x02\x00\xff", b"\xff\xff\xff\x01"],
)
def test_frames_that_are_refused(value):
    with pytest.raises(MetadataError):
        decode(value)


def test_unknown_types_are_skipped():
    assert 27 not in KINDS
    assert decode(bytes((1, 27, 0)) + b"whatever") is None


def test_an_aborted_metadata_transaction_never_happened():
    def topic(name: str):
        return TOPIC, {"name": name, "topic_id": uuid.uuid4()}

    image = Image()
    image.replay([(BEGIN_TRANSACTION, {}), topic("gone"), (ABORT_TRANSACTION, {}), topic("plain")])
    image.replay(
        [(BEGIN_TRANSACTION, {}), topic("kept"), (END_TRANSACTION, {}), (BEGIN_TRANSACTION, {}), topic("open")]
    )
    assert set(image.topics) == {"plain", "kept"}


# ---------------------------------------------------------------- names


@given(st.text(alphabet="ab.-_é/ \x00", max_size=6) | st.sampled_from(["a" * 249, "a" * 250]))
def test_topic_names(name):
    legal = 0 < len(name) <= 249 and set(name) <= set("ab.-_") and name not in (".", "..")
    if legal:
        check_name(name)
    else:
        with pytest.raises(KafkaError, match="INVALID_TOPIC_EXCEPTION"):
            check_name(name)


def test_names_that_metrics_cannot_tell_apart_collide():
    for taken, new in (("a.b", "a_b"), ("a_b.c", "a.b_c")):
        with pytest.raises(KafkaError, match="collides with existing topic"):
            check_new_name(new, [taken])
    check_new_name("a-b", ["a.b", "a_b"])
