"""What do the small files of a data directory say, and how are they replaced?

    recovery-point-offset-checkpoint, log-start-, replication-, cleaner-
        text: line "0" (version), line with the number of entries, then lines "topic partition offset"
    .kafka_cleanshutdown    {"version":0,"brokerEpoch":17}, no line end. While it is there, the last stop was clean
    meta.properties         Java properties: version=1, cluster.id, node.id, directory.id (version 0: broker.id)
    partition.metadata      "version: 0", "topic_id: <22 characters of base64url>", no final line end

A file is valid if
1. it is not longer than the limit below, and UTF-8;
2. its version is known: a newer one is somebody else's, and is never touched (`NewerVersion`);
3. offset checkpoint: as many entries as announced, three fields each, numbers not negative, no partition twice.
   An empty file has no entries: Kafka creates some of them so;
4. meta.properties: `node.id` is a number, `cluster.id` is there.

Writers go through `replace_file`: a reader sees the old file or the new one, whole (C3.4), and it is durable on return.

How Apache Kafka differs: it takes the last of two entries for one partition, and accepts negative offsets.
"""

import base64
import binascii
import json
import uuid
from typing import NamedTuple

from refbroker.log.disk import Disk, read_file, replace_file

RECOVERY_POINT = "recovery-point-offset-checkpoint"
LOG_START = "log-start-offset-checkpoint"
HIGH_WATERMARK = "replication-offset-checkpoint"
CLEANER = "cleaner-offset-checkpoint"
OFFSET_CHECKPOINTS = (RECOVERY_POINT, LOG_START, HIGH_WATERMARK, CLEANER)
CLEAN_SHUTDOWN = ".kafka_cleanshutdown"
META_PROPERTIES = "meta.properties"
PARTITION_METADATA = "partition.metadata"

CHECKPOINT_BYTES_MAX = 64 * 1024 * 1024  # a quarter of a million partitions with the longest names
SMALL_FILE_BYTES_MAX = 64 * 1024  # the marker, meta.properties, partition.metadata: under 200 bytes in practice
OFFSET_MAX = 2**63 - 1
EPOCH_MAX = 2**31 - 1

Offsets = dict[tuple[str, int], int]


class InvalidFile(ValueError):
    """The file is not what its name says."""


class NewerVersion(InvalidFile):
    """The file has a version that we do not know: leave everything as it is."""


class MetaProperties(NamedTuple):
    """Whose data directory this is."""

    node_id: int
    cluster_id: str
    directory_id: str | None = None  # base64url; absent in a directory of before Kafka 3.7
    version: int = 1


# ---------------------------------------------------------------- the text format of checkpoints and epochs


def format_lines(lines: list[str]) -> bytes:
    return "".join(f"{line}\n" for line in ["0", str(len(lines)), *lines]).encode()


def parse_lines(data: bytes) -> list[list[str]]:
    """The fields of each entry of a text checkpoint; rules 1 to 3."""
    if not data:
        return []
    try:
        lines = data.decode().splitlines()
    except UnicodeDecodeError as error:
        raise InvalidFile(f"not UTF-8: {error.reason} at byte {error.start}") from None
    version = parse_number(lines[0], EPOCH_MAX, "version")
    if version != 0:
        raise NewerVersion(f"version {version}, 0 expected")
    if len(lines) < 2:
        raise InvalidFile("no number of entries")
    announced = parse_number(lines[1], CHECKPOINT_BYTES_MAX, "number of entries")
    entries = [line.split() for line in lines[2:]]
    if len(entries) != announced:
        raise InvalidFile(f"{len(entries)} entries, {announced} announced")
    return entries


def parse_number(text: str, largest: int, what: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= largest):
        raise InvalidFile(f"{what} {text[:40]!r}, a number from 0 to {largest} expected")
    return int(text)


# ---------------------------------------------------------------- offset checkpoints


def format_offsets(offsets: Offsets) -> bytes:
    return format_lines([f"{topic} {partition} {offset}" for (topic, partition), offset in sorted(offsets.items())])


def parse_offsets(data: bytes) -> Offsets:
    offsets: Offsets = {}
    for fields in parse_lines(data):
        if len(fields) != 3:
            raise InvalidFile(f"{' '.join(fields)[:80]!r}: topic, partition and offset expected")
        key = fields[0], parse_number(fields[1], EPOCH_MAX, "partition")
        if key in offsets:
            raise InvalidFile(f"{key[0]} {key[1]} is there twice")
        offsets[key] = parse_number(fields[2], OFFSET_MAX, "offset")
    return offsets


def read_offsets(disk: Disk, path: str) -> Offsets:
    """Empty where there is no such file. Raises InvalidFile."""
    return parse_offsets(_read(disk, path, CHECKPOINT_BYTES_MAX)) if disk.exists(path) else {}


def write_offsets(disk: Disk, path: str, offsets: Offsets) -> None:
    replace_file(disk, path, format_offsets(offsets))


# ---------------------------------------------------------------- the clean marker


def format_clean_shutdown(broker_epoch: int) -> bytes:
    return b'{"version":0,"brokerEpoch":%d}' % broker_epoch


def parse_clean_shutdown(data: bytes) -> int:
    """The broker epoch of the stop; -1 where the file is empty, as Kafka before 3.8 left it."""
    if not data:
        return -1
    try:
        marker = json.loads(data)
        version, epoch = marker["version"], marker["brokerEpoch"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidFile(f'{data[:80]!r}: {{"version":0,"brokerEpoch":n}} expected') from error
    if type(version) is not int or type(epoch) is not int:
        raise InvalidFile(f"{data[:80]!r}: numbers expected")
    if version != 0:
        raise NewerVersion(f"version {version}, 0 expected")
    return epoch


def write_clean_shutdown(disk: Disk, path: str, broker_epoch: int) -> None:
    replace_file(disk, path, format_clean_shutdown(broker_epoch))


# ---------------------------------------------------------------- meta.properties


def format_meta_properties(meta: MetaProperties) -> bytes:
    lines = ["#", f"node.id={meta.node_id}"]
    if meta.directory_id is not None:
        lines.append(f"directory.id={meta.directory_id}")
    lines += ["version=1", f"cluster.id={meta.cluster_id}"]
    return "".join(f"{line}\n" for line in lines).encode()


def parse_meta_properties(data: bytes) -> MetaProperties:
    properties = parse_properties(data)
    version = parse_number(properties.get("version", ""), EPOCH_MAX, "version")
    if version > 1:
        raise NewerVersion(f"version {version}, at most 1 expected")
    node_id = parse_number(properties.get("node.id" if version else "broker.id", ""), EPOCH_MAX, "node.id")
    if not properties.get("cluster.id"):
        raise InvalidFile("no cluster.id")
    return MetaProperties(node_id, properties["cluster.id"], properties.get("directory.id"), version)


def parse_properties(data: bytes) -> dict[str, str]:
    """The part of Java's properties format that needs no line continuation: what Kafka writes."""
    try:
        lines = data.decode().splitlines()
    except UnicodeDecodeError as error:
        raise InvalidFile(f"not UTF-8: {error.reason} at byte {error.start}") from None
    properties = {}
    for line in map(str.strip, lines):
        if not line or line[0] in "#!":
            continue
        key, equals, value = line.partition("=")
        if not equals:
            raise InvalidFile(f"{line[:80]!r}: key=value expected")
        properties[key.strip()] = value.strip().replace("\\", "")
    return properties


def read_meta_properties(disk: Disk, path: str) -> MetaProperties | None:
    """None where there is no such file. Raises InvalidFile."""
    return parse_meta_properties(_read(disk, path, SMALL_FILE_BYTES_MAX)) if disk.exists(path) else None


def write_meta_properties(disk: Disk, path: str, meta: MetaProperties) -> None:
    replace_file(disk, path, format_meta_properties(meta))


# ---------------------------------------------------------------- partition.metadata


def format_uuid(value: uuid.UUID) -> str:
    """Kafka's text form: 22 characters of base64url, no padding."""
    return base64.urlsafe_b64encode(value.bytes).rstrip(b"=").decode()


def parse_uuid(text: str) -> uuid.UUID:
    try:
        data = base64.b64decode(text.encode("ascii") + b"==", altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error):
        data = b""
    if len(text) != 22 or len(data) != 16:
        raise InvalidFile(f"id {text[:40]!r}, 22 characters of base64url expected")
    return uuid.UUID(bytes=data)


def format_partition_metadata(topic_id: uuid.UUID) -> bytes:
    return f"version: 0\ntopic_id: {format_uuid(topic_id)}".encode()


def parse_partition_metadata(data: bytes) -> uuid.UUID:
    fields = {}
    for line in data.decode("ascii", "replace").splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    version = parse_number(fields.get("version", ""), EPOCH_MAX, "version")
    if version != 0:
        raise NewerVersion(f"version {version}, 0 expected")
    return parse_uuid(fields.get("topic_id", ""))


def read_partition_metadata(disk: Disk, path: str) -> uuid.UUID | None:
    """None where there is no such file. Raises InvalidFile."""
    return parse_partition_metadata(_read(disk, path, SMALL_FILE_BYTES_MAX)) if disk.exists(path) else None


def _read(disk: Disk, path: str, bytes_max: int) -> bytes:
    try:
        return read_file(disk, path, bytes_max=bytes_max)
    except ValueError as error:  # longer than the limit
        raise InvalidFile(str(error)) from None
