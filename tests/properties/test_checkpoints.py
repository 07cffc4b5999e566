"""The small files of a data directory: Kafka's bytes, round trips, and everything that they must not hold."""

import uuid

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refbroker.config import Config
from refbroker.log import checkpoints
from refbroker.log.checkpoints import InvalidFile, MetaProperties, NewerVersion
from refbroker.log.directory import LogDirectory
from refbroker.log.disk import Disk, replace_file

TOPIC_ID = uuid.UUID("54f13067-b517-4f57-906f-adca8b7c4cc6")
topics = st.text("abcXYZ019._-", min_size=1, max_size=20)
offsets = st.dictionaries(st.tuples(topics, st.integers(0, 2**31 - 1)), st.integers(0, 2**63 - 1), max_size=8)


def test_golden_files_of_kafka():
    assert checkpoints.parse_offsets(b"0\n2\ntiny 0 3\ntinyidx 0 9\n") == {("tiny", 0): 3, ("tinyidx", 0): 9}
    assert checkpoints.format_offsets({("tinyidx", 0): 9, ("tiny", 0): 3}) == b"0\n2\ntiny 0 3\ntinyidx 0 9\n"
    assert checkpoints.format_clean_shutdown(17) == b'{"version":0,"brokerEpoch":17}'
    assert checkpoints.parse_clean_shutdown(b'{"version":0,"brokerEpoch":17}') == 17
    assert checkpoints.parse_meta_properties(
        b"#\n#Mon Nov 23 15:04:06 UTC 2026\nnode.id=1\ndirectory.id=s0YchDHmdto4nVCYRL8e3w\nversion=1\n"
        b"cluster.id=peerpeerpeerpeerpeerpA\n"
    ) == MetaProperties(1, "peerpeerpeerpeerpeerpA", "s0YchDHmdto4nVCYRL8e3w")
    text = b"version: 0\ntopic_id: VPEwZ7UXT1eQb63Ki3xMxg"
    assert checkpoints.format_partition_metadata(TOPIC_ID) == text
    assert checkpoints.parse_partition_metadata(text) == TOPIC_ID


@given(offsets)
@example({})
def test_offsets_round_trip(expected):
    assert checkpoints.parse_offsets(checkpoints.format_offsets(expected)) == expected


@given(st.uuids())
def test_ids_round_trip(value):
    assert checkpoints.parse_uuid(checkpoints.format_uuid(value)) == value
    assert checkpoints.parse_partition_metadata(checkpoints.format_partition_metadata(value)) == value


@given(st.integers(0, 2**31 - 1), topics, st.none() | topics)
def test_meta_properties_round_trip(node_id, cluster_id, directory_id):
    meta = MetaProperties(node_id, cluster_id, directory_id)
    assert checkpoints.parse_meta_properties(checkpoints.format_meta_properties(meta)) == meta


def test_meta_properties_of_an_older_kafka():
    assert checkpoints.parse_meta_properties(b"broker.id=3\ncluster.id=c\nversion=0\n") == MetaProperties(
        3, "c", None, 0
    )


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "0",
        "0\nx\n",
        "0\n-1\n",
        "0\n1\n",
        "0\n0\nt 0 1\n",
        "0\n2\nt 0 1\n",
        "0\n1\nt 0\n",
        "0\n1\nt 0 1 2\n",
        "0\n1\nt -1 1\n",
        "0\n1\nt 0 -1\n",
        "0\n1\nt 0 1.5\n",
        "0\n1\nt 0 9223372036854775808\n",
        "0\n1\nt 2147483648 1\n",
        "0\n2\nt 0 1\nt 0 1\n",
        "0\n1\nt 0 ٣\n",
        "0\n1\n\n",
        "\n",
        "\0" * 40,
    ],
)
def test_broken_offset_checkpoints(text):
    with pytest.raises(InvalidFile) as error:
        checkpoints.parse_offsets(text.encode())
    assert not isinstance(error.value, NewerVersion)


@pytest.mark.parametrize(
    ("parse", "data"),
    [
        (checkpoints.parse_clean_shutdown, b"{}"),
        (checkpoints.parse_clean_shutdown, b"[0]"),
        (checkpoints.parse_clean_shutdown, b'{"version":"0","brokerEpoch":1}'),
        (checkpoints.parse_clean_shutdown, b"[" * 60_000),
        (checkpoints.parse_meta_properties, b""),
        (checkpoints.parse_meta_properties, b"version=1\nnode.id=1\n"),
        (checkpoints.parse_meta_properties, b"version=1\ncluster.id=c\n"),
        (checkpoints.parse_meta_properties, b"version=1\ncluster.id=c\nnode.id=-1\n"),
        (checkpoints.parse_meta_properties, b"version=1\nnonsense\n"),
        (checkpoints.parse_partition_metadata, b""),
        (checkpoints.parse_partition_metadata, b"version: 0\n"),
        (checkpoints.parse_partition_metadata, b"version: 0\ntopic_id: VPEwZ7UXT1eQb63Ki3xMx\n"),
        (checkpoints.parse_partition_metadata, b"version: 0\ntopic_id: VPEwZ7UXT1eQb63Ki3xM!!\n"),
    ],
)
def test_other_broken_files(parse, data):
    with pytest.raises(InvalidFile):
        parse(data)


@pytest.mark.parametrize(
    ("parse", "data"),
    [
        (checkpoints.parse_offsets, b"1\n0\n"),
        (checkpoints.parse_clean_shutdown, b'{"version":1,"brokerEpoch":1}'),
        (checkpoints.parse_meta_properties, b"version=2\nnode.id=1\ncluster.id=c\n"),
        (checkpoints.parse_partition_metadata, b"version: 1\ntopic_id: VPEwZ7UXT1eQb63Ki3xMxg"),
    ],
)
def test_a_newer_version_is_told_from_damage(parse, data):
    with pytest.raises(NewerVersion):
        parse(data)


@given(st.binary(max_size=60))
def test_any_bytes_are_parsed_or_refused(data):
    for parse in (
        checkpoints.parse_offsets,
        checkpoints.parse_clean_shutdown,
        checkpoints.parse_meta_properties,
        checkpoints.parse_partition_metadata,
    ):
        try:
            parse(data)
        except InvalidFile:
            pass


def test_files_are_written_read_and_absent(tmp_path):
    """C3.4: the writers go through `replace_file`."""
    disk = Disk()
    assert checkpoints.read_offsets(disk, f"{tmp_path}/a") == {}
    assert checkpoints.read_meta_properties(disk, f"{tmp_path}/b") is None
    assert checkpoints.read_partition_metadata(disk, f"{tmp_path}/c") is None
    meta = MetaProperties(1, "c", "d")
    checkpoints.write_offsets(disk, f"{tmp_path}/a", {("t", 0): 5})
    checkpoints.write_meta_properties(disk, f"{tmp_path}/b", meta)
    replace_file(disk, f"{tmp_path}/c", checkpoints.format_partition_metadata(TOPIC_ID))
    assert checkpoints.read_offsets(disk, f"{tmp_path}/a") == {("t", 0): 5}
    assert checkpoints.read_meta_properties(disk, f"{tmp_path}/b") == meta
    assert checkpoints.read_partition_metadata(disk, f"{tmp_path}/c") == TOPIC_ID
    assert disk.list(str(tmp_path)) == ["a", "b", "c"]


def test_a_file_longer_than_its_limit_is_not_read(tmp_path):
    replace_file(Disk(), f"{tmp_path}/meta.properties", bytes(checkpoints.SMALL_FILE_BYTES_MAX + 1))
    with pytest.raises(InvalidFile, match="at most 65536 expected"):
        checkpoints.read_meta_properties(Disk(), f"{tmp_path}/meta.properties")


def test_the_clean_marker_is_gone_and_its_directory_synced(tmp_path):
    """C3.3: the removal is durable before anything else is done."""

    class Watching(Disk):
        def __init__(self):
            self.calls = []

        def unlink(self, path):
            self.calls.append("unlink")
            super().unlink(path)

        def sync_dir(self, path):
            self.calls.append("sync_dir")
            super().sync_dir(path)

    for clean in (False, True):
        disk = Watching()
        logs = LogDirectory(disk, f"{tmp_path}/data", Config(), lambda: 0)
        logs.open()
        assert logs.clean_start is clean and (disk.calls[:2] == ["unlink", "sync_dir"]) is clean
        assert checkpoints.CLEAN_SHUTDOWN not in disk.list(f"{tmp_path}/data")
        disk.calls.clear()
        assert logs.close()
