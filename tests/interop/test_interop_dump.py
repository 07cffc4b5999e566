"""Do Kafka's DumpLogSegments and our dump-log say the same, line by line, of directories that either broker wrote?

All segments of all topics, with their indexes and producer snapshots, after a clean stop and after kill -9; then the
internal topics through Kafka's own decoders, which must know every record."""

import io
import json
import pathlib
import re
import subprocess

import pytest

from chaos.targets.kafka import QUICK_JVM_FLAGS, fetch_kafka_tools, java_program
from refbroker.dump import dump_files
from refbroker.log.disk import Disk

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]
WRITERS = pytest.mark.parametrize("writer", ["refbroker", "kafka"])
STATES = pytest.mark.parametrize("state", ["clean", "killed"])
COMPLAINTS = re.compile(
    r"isvalid: false|mismatch|out of order|invalid|error|exception|non-consecutive|corrupt", re.IGNORECASE
)
# Of every segment but a log's first it says that the offset before it was -1.
FIRST_OF_SEGMENT = re.compile(r"^Non-consecutive offsets in (.*/0*(\d+)\.log)\n  -1 is followed by \2\n?", re.MULTILINE)
SPOKEN = re.compile(r"^SLF4J|^WARNING")


def kafka_dump(files: list[pathlib.Path], *options: str) -> list[str]:
    done = subprocess.run(
        [
            java_program(),
            *QUICK_JVM_FLAGS,
            "-cp",
            fetch_kafka_tools(),
            "org.apache.kafka.tools.DumpLogSegments",
            *options,
            "--files",
            ",".join(map(str, files)),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in (done.stdout + done.stderr).splitlines() if not SPOKEN.match(line)]
    return FIRST_OF_SEGMENT.sub("", "\n".join(lines)).splitlines()


def our_dump(files: list[pathlib.Path], *, as_json: bool = False) -> list[str]:
    out = io.StringIO()
    status = dump_files(Disk(), [str(path) for path in files], as_json=as_json, out=out)
    assert status == 0, [line for line in out.getvalue().splitlines() if "invalid" in line][:5]
    return out.getvalue().splitlines()


def partition_files(directory: pathlib.Path, *suffixes: str) -> list[pathlib.Path]:
    return sorted(path for path in directory.glob("interop-*/*") if path.suffix in suffixes)


@STATES
@WRITERS
def test_both_tools_say_the_same_of_logs_and_snapshots(written, writer, state):
    files = partition_files(getattr(written(writer), state), ".log", ".snapshot")
    assert len(files) > 60, "the workload is there to make many segments"
    theirs, ours = kafka_dump(files, "--print-data-log", "--deep-iteration"), our_dump(files)
    assert ours == theirs
    assert not [line for line in theirs if COMPLAINTS.search(line)]


@STATES
@WRITERS
def test_both_tools_say_the_same_of_indexes(written, writer, state):
    files = partition_files(getattr(written(writer), state), ".index", ".timeindex")
    theirs, ours = kafka_dump(files), our_dump(files)
    assert ours == theirs
    assert not [line for line in theirs if COMPLAINTS.search(line)]
    assert sum(line.startswith("offset:") for line in theirs) > 200
    assert sum(line.startswith("timestamp:") for line in theirs) > 60


@STATES
@WRITERS
def test_json_has_what_the_consumer_was_served(written, writer, state):
    directory = getattr(written(writer), state)
    for (topic, number), records in written(writer).records.items():
        files = sorted((directory / f"{topic}-{number}").glob("*.log"))
        lines = [json.loads(line) for line in our_dump(files, as_json=True)]
        dumped = {
            line["offset"]: (line["key"], line["payload"], [header["key"] for header in line["headers"]])
            for line in lines
            if line["kind"] == "record"
        }
        for offset, _, key, value, headers in records:
            text = key and key.decode(), value and value.decode(), [name for name, _ in headers or []]
            assert dumped[offset] == text, (topic, number, offset)


@WRITERS
def test_internal_topics_are_decoded_by_kafka(written, writer):
    directory = written(writer).clean
    offsets = kafka_dump(sorted(directory.glob("__consumer_offsets-0/*.log")), "--offsets-decoder")
    committed = [line for line in offsets if '"group":"interop-group"' in line and '"topic":"interop-plain"' in line]
    assert committed and '"offset":19' in committed[-1], offsets[-5:]
    metadata = kafka_dump(sorted(directory.glob("__cluster_metadata-0/*.log")), "--cluster-metadata-decoder")
    assert not [
        line
        for line in metadata + offsets
        if COMPLAINTS.search(line.partition("payload")[0]) or "could not be decoded" in line
    ]
    named = {match[1] for line in metadata if (match := re.search(r'"type":"TOPIC_RECORD".*?"name":"([^"]+)"', line))}
    assert {"interop-none", "interop-plain", "__consumer_offsets"} <= named
