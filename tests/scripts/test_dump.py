"""`refbroker dump-log`: the words of Kafka's DumpLogSegments, line by line, and what it says of damaged files.

`SEGMENT` and the lines of `LOG_LINES` are from a run of Apache Kafka 4.4.0 and its tool.
"""

import io
import json

import pytest

from refbroker.dump import dump_files
from refbroker.log import checkpoints
from refbroker.log.batch import parse, stamp
from refbroker.log.disk import Disk, replace_file
from refbroker.log.index import OffsetIndex, TimeIndex
from refbroker.log.producers import ProducerStates
from refbroker.log.records import Record, build

T = 1795446000000
DISK = Disk()
SEGMENT = bytes.fromhex(
    "0000000000000000 0000005a 00000000 02 bd1015b7 0000 00000002 000001a208ebc980 000001a208ebc982"
    "ffffffffffffffff ffff ffffffff 00000003 1a000000046b310a68656c6c6f00"
    "22000202010e776f726c642121020268027810000404046b330100"
)
LOG_LINES = """\
Log starting offset: 0
baseOffset: 0 lastOffset: 2 count: 3 baseSequence: -1 lastSequence: -1 producerId: -1 producerEpoch: -1 \
partitionLeaderEpoch: 0 isTransactional: false isControl: false deleteHorizonMs: OptionalLong.empty position: 0 \
CreateTime: 1795446000002 size: 102 magic: 2 compresscodec: none crc: 3171947959 isvalid: true
| offset: 0 CreateTime: 1795446000000 keySize: 2 valueSize: 5 sequence: -1 headerKeys: [] key: k1 payload: hello
| offset: 1 CreateTime: 1795446000001 keySize: -1 valueSize: 7 sequence: -1 headerKeys: [h] payload: world!!
| offset: 2 CreateTime: 1795446000002 keySize: 2 valueSize: -1 sequence: -1 headerKeys: [] key: k3
"""
NAME = "00000000000000000000"


def dump(*paths: str) -> tuple[int, str]:
    out = io.StringIO()
    return dump_files(DISK, list(paths), as_json=False, out=out), out.getvalue()


def dump_json(*paths: str) -> tuple[int, list[dict]]:
    out = io.StringIO()
    status = dump_files(DISK, list(paths), as_json=True, out=out)
    return status, [json.loads(line) for line in out.getvalue().splitlines()]


def write(directory, name: str, data: bytes) -> str:
    path = f"{directory}/{name}"
    replace_file(DISK, path, data)
    return path


def test_a_log_of_kafka_in_the_words_of_its_tool(tmp_path):
    path = write(tmp_path, f"{NAME}.log", SEGMENT)
    assert dump(path) == (0, f"Dumping {path}\n{LOG_LINES}")


def test_every_codec_producers_log_append_time_and_control_records(tmp_path):
    data, offset = b"", 0
    for codec in range(5):
        data += build(
            [Record(offset, T, b"k", b"v")],
            base_offset=offset,
            codec=codec,
            producer_id=7,
            producer_epoch=1,
            base_sequence=(codec + 2**31 - 3) % 2**31,
        )
        offset += 1
    stamped = build([Record(0, T, None, None)])
    stamp(parse(stamped), 5, 0, log_append_time_ms=T + 9)
    marker = build(
        [Record(6, T, bytes([0, 0, 0, 1]), bytes([0, 0, 0, 0, 0, 3]))],
        base_offset=6,
        transactional=True,
        control=True,
        producer_id=7,
        producer_epoch=1,
    )
    status, text = dump(write(tmp_path, f"{NAME}.log", data + stamped + marker))
    assert status == 0
    assert [codec for codec in ("none", "gzip", "snappy", "lz4", "zstd") if f"compresscodec: {codec} " in text] == [
        "none",
        "gzip",
        "snappy",
        "lz4",
        "zstd",
    ]
    assert [f"sequence: {number} headerKeys" in text for number in (2**31 - 3, 2**31 - 1, 0, 1)] == [True] * 4
    assert f"| offset: 5 LogAppendTime: {T + 9} keySize: -1 valueSize: -1 sequence: -1 headerKeys: []\n" in text
    assert text.endswith(
        "keySize: 4 valueSize: 6 sequence: -1 headerKeys: [] endTxnMarker: COMMIT coordinatorEpoch: 3\n"
    )


def test_indexes_and_snapshot_of_a_segment(tmp_path):
    log, states = b"", ProducerStates()
    offsets, times = (
        OffsetIndex(DISK, f"{tmp_path}/{NAME}.index", 0),
        TimeIndex(DISK, f"{tmp_path}/{NAME}.timeindex", 0),
    )
    for number in range(3):
        batch = parse(
            build(
                [Record(number, T + number, None, b"v")],
                base_offset=number,
                producer_id=0,
                producer_epoch=0,
                base_sequence=number,
            )
        )
        if number:
            offsets.append(number, len(log))
        times.append(batch.max_timestamp, number)
        states.update(batch)
        log += batch.view
    write(tmp_path, f"{NAME}.log", log)
    offsets.write()
    times.write()
    states.write_snapshot(DISK, str(tmp_path))
    size = len(log) // 3
    names = [f"{tmp_path}/{name}" for name in (f"{NAME}.index", f"{NAME}.timeindex", "00000000000000000003.snapshot")]
    assert dump(*names) == (
        0,
        f"Dumping {names[0]}\noffset: 1 position: {size}\noffset: 2 position: {2 * size}\n"
        f"Dumping {names[1]}\ntimestamp: {T} offset: 0\ntimestamp: {T + 1} offset: 1\ntimestamp: {T + 2} offset: 2\n"
        f"Dumping {names[2]}\n"
        "producerId: 0 producerEpoch: 0 coordinatorEpoch: -1 currentTxnFirstOffset: OptionalLong.empty "
        f"lastTimestamp: {T + 2} firstSequence: 2 lastSequence: 2 lastOffset: 2 offsetDelta: 0 timestamp: {T + 2}\n",
    )
    offsets.rewrite([(1, size), (2, 2 * size - 1)])
    times.rewrite([(T + 5, 1), (T + 6, 7)])
    status, text = dump(*names)
    assert status == 1
    assert f"invalid: index offset 2, but no batch at {2 * size - 1}\n" in text
    assert f"invalid: index timestamp {T + 5}, but up to offset 1 the log has {T + 1}\n" in text
    assert "invalid: indexed offset 7 is not the last one of a batch in the log\n" in text
    offsets.rewrite([(2, size)])
    assert f"invalid: index offset 2, but log offset 1 at {size}\n" in dump(names[0])[1]


def test_indexes_of_a_killed_kafka_and_without_their_log(tmp_path):
    path = write(tmp_path, f"{NAME}.index", bytes(10 << 20))
    assert dump(path) == (0, f"Dumping {path}\n{path} is empty.\n")
    write(tmp_path, f"{NAME}.index", bytes.fromhex("00000005 00000066") + bytes(800))
    assert dump(path) == (0, f"Dumping {path}\noffset: 5 position: 102\n")
    path = write(
        tmp_path,
        f"{NAME}.txnindex",
        bytes.fromhex("0000 0000000000000001 0000000000000004 0000000000000007 0000000000000008"),
    )
    assert dump(path) == (
        0,
        f"Dumping {path}\nversion: 0 producerId: 1 firstOffset: 4 lastOffset: 7 lastStableOffset: 8\n",
    )


def test_the_small_files(tmp_path):
    meta = checkpoints.format_meta_properties(checkpoints.MetaProperties(1, "c", "d"))
    snapshot_lines = LOG_LINES.replace("Log starting offset: 0", "Snapshot end offset: 0, epoch: 5")
    files = [
        ("leader-epoch-checkpoint", b"0\n2\n0 0\n2 3\n", "epoch: 0 startOffset: 0\nepoch: 2 startOffset: 3\n"),
        ("recovery-point-offset-checkpoint", b"0\n1\ntiny 0 3\n", "topic: tiny partition: 0 offset: 3\n"),
        ("cleaner-offset-checkpoint", b"", ""),
        (
            "partition.metadata",
            b"version: 0\ntopic_id: " + b"VPEwZ7UXT1eQb63Ki3xMxg",
            "topicId: VPEwZ7UXT1eQb63Ki3xMxg\n",
        ),
        ("meta.properties", meta, "version: 1 clusterId: c nodeId: 1 directoryId: d\n"),
        (".kafka_cleanshutdown", b'{"version":0,"brokerEpoch":17}', "brokerEpoch: 17\n"),
        (f"{NAME}-0000000005.checkpoint", SEGMENT, snapshot_lines),
        (f"{NAME}.log.deleted", SEGMENT, LOG_LINES),
        ("quorum-state", b"{}", f"Ignoring unknown file {tmp_path}/quorum-state\n"),
    ]
    paths = [write(tmp_path, name, data) for name, data, _ in files]
    expected = "".join(f"Dumping {path}\n{lines}" for path, (_, _, lines) in zip(paths, files))
    assert dump(*paths) == (0, expected)


def test_json_has_the_same_content(tmp_path):
    path = write(
        tmp_path, f"{NAME}.log", SEGMENT + build([Record(3, T, b"\xff", b"\xfe", [("h", None)])], base_offset=3)
    )
    status, lines = dump_json(path, f"{tmp_path}/none.log")
    assert status == 1 and [line["kind"] for line in lines] == [
        "file",
        "note",
        "batch",
        *["record"] * 3,
        "batch",
        "record",
        "file",
        "invalid",
    ]
    assert lines[2]["crc"] == 3171947959 and lines[2]["isvalid"] is True and lines[2]["deleteHorizonMs"] is None
    assert lines[4] == {
        "file": path, "kind": "record", "offset": 1, "CreateTime": T + 1, "keySize": -1, "valueSize": 7, "sequence": -1,
        "headers": [{"key": "h", "value": "x"}], "key": None, "payload": "world!!",
    }  # fmt: skip
    assert (lines[7]["keyBase64"], lines[7]["payloadBase64"], lines[7]["headers"]) == (
        "/w==",
        "/g==",
        [{"key": "h", "value": None}],
    )


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("cut", [1, 11, 40, 61, 101])
def test_a_torn_tail(tmp_path, cut):
    """C2.3."""
    status, text = dump(write(tmp_path, f"{NAME}.log", SEGMENT + bytes([*range(7), 3]) + SEGMENT[8:cut]))
    left = len(SEGMENT[8:cut]) + 8
    assert status == 1 and LOG_LINES in text
    assert f"Found {left} invalid bytes at the end of {NAME}.log\ninvalid: position 102: " in text


def test_zeros_behind_the_last_batch_are_room(tmp_path):
    """C2.7."""
    path = write(tmp_path, f"{NAME}.log", SEGMENT + bytes(4096))
    assert dump(path) == (0, f"Dumping {path}\n{LOG_LINES}Found 4096 zero bytes at the end of {NAME}.log\n")


def test_a_flipped_bit_is_told_and_the_rest_is_shown(tmp_path):
    """C2.5."""
    second = build([Record(3, T, b"k", b"v")], base_offset=3)
    damaged = bytearray(SEGMENT)
    damaged[71] ^= 1
    status, text = dump(write(tmp_path, f"{NAME}.log", damaged + second))
    assert status == 1 and "isvalid: false\ninvalid: position 0: stored CRC 3171947959, computed " in text
    assert "baseOffset: 3" in text and "isvalid: true" in text


def test_records_that_do_not_decode_under_a_right_crc(tmp_path):
    batch = bytearray(SEGMENT)
    batch[57:61] = (4).to_bytes(4, "big")
    stamp(parse(batch), 0, 0, log_append_time_ms=T)  # computes the CRC anew
    status, text = dump(write(tmp_path, f"{NAME}.log", batch))
    assert status == 1 and "isvalid: true" in text and "invalid: position 0: record 3 of 4: varint is cut off\n" in text


@pytest.mark.parametrize(
    ("offset", "epoch", "line", "expected"),
    [
        (1, 0, "invalid: position 102: base offset 1 behind 2\n", 1),
        (9, 0, "Non-consecutive offsets: 2 is followed by 9\n", 0),
        (3, 5, "", 0),
    ],
)
def test_offsets_between_batches(tmp_path, offset, epoch, line, expected):
    """C2.2."""
    behind = build([Record(offset, T, None, None)], base_offset=offset, leader_epoch=epoch)
    status, text = dump(write(tmp_path, f"{NAME}.log", SEGMENT + behind))
    assert status == expected and line in text and ("invalid" in text) == bool(expected)


def test_leader_epochs_that_go_back_and_a_batch_below_the_files_name(tmp_path):
    """C2.6, C2.11."""
    two = build([Record(3, T, None, None)], base_offset=3, leader_epoch=4) + build(
        [Record(4, T, None, None)], base_offset=4, leader_epoch=3
    )
    status, text = dump(write(tmp_path, "00000000000000000004.log", two))
    assert status == 1 and "invalid: position 0: base offset 3 behind 3\n" in text
    assert "leader epoch 3 behind 4\n" in text


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (f"{NAME}.index", b"1234567"),
        (f"{NAME}.timeindex", b"\xff" * 24),
        ("strange.index", b""),
        (f"{NAME}.txnindex", b"\0" * 35),
        (f"{NAME}.snapshot", b"\0\1"),
        ("leader-epoch-checkpoint", b"0\n2\n1 1\n"),
        ("replication-offset-checkpoint", b"9\n"),
        ("partition.metadata", b"version: 0"),
        ("meta.properties", b"version=1"),
        (".kafka_cleanshutdown", b"x"),
        (f"{NAME}.log", b"\xff" * 100),
        (f"{NAME}.log", b"\0\0\0\0\0\0\0\0\x7f\xff\xff\xff" + SEGMENT[12:]),
    ],
)
def test_invalid_files_and_the_status(tmp_path, name, data):
    path = write(tmp_path, name, data)
    status, text = dump(path)
    assert status == 1 and text.startswith(f"Dumping {path}\n") and text.count("invalid: ") == 1
    good = write(tmp_path, "cleaner-offset-checkpoint", b"")
    assert dump(path, good)[0] == dump(good, path)[0] == 1 and dump(good)[0] == 0


@pytest.mark.parametrize(
    "name",
    [
        f"{NAME}.log",
        f"{NAME}.index",
        f"{NAME}.snapshot",
        "leader-epoch-checkpoint",
        "log-start-offset-checkpoint",
        "meta.properties",
    ],
)
def test_files_that_are_not_there_or_are_directories(tmp_path, name):
    assert dump(f"{tmp_path}/{name}")[0] == 1
    DISK.mkdir(f"{tmp_path}/{name}")
    status, text = dump(f"{tmp_path}/{name}")
    assert status == 1 and "invalid: " in text
