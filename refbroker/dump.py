"""What is in these files of a Kafka data directory, and is it valid?

One line for each batch, record, index entry, producer or checkpoint entry, in the words of Kafka's own DumpLogSegments
(`--print-data-log`), so that the two can be compared line by line; or, as JSON, one object a line with the same
content. The kind of a file is told from its name, so it must still have the one that the broker gave it:

    <base offset>.log  .index  .timeindex  .txnindex  <offset>.snapshot  <offset>-<epoch>.checkpoint (KRaft's snapshot)
    leader-epoch-checkpoint  *-offset-checkpoint  partition.metadata  meta.properties  .kafka_cleanshutdown

also with .deleted, .swap or .cleaned behind it. What is wrong is told in a line "invalid: ..." where it is found, and
makes the exit status 1:

1. a log: a batch that does not parse, with its position and how many bytes are left from there; a wrong CRC (isvalid:
   false); records that do not decode; offsets or leader epochs that go back; a first batch below the file's name;
2. an index: what `log/index.py` calls corrupt; with the .log beside it, an entry that does not name the last offset and
   the position of one of its batches (C5.1), or whose timestamp is not that batch's, the largest so far (C5.3);
3. any other file: what its module refuses; a file that cannot be read.

Gaps between offsets are told and not held against the file, which may be compacted; nor are zeros at its end, which
are room (C2.7).

How Apache Kafka's tool differs: it stops with an exception at the first batch that does not parse, has no exit status
for what is invalid, knows none of the text files, and decodes KRaft's control records.
"""

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TextIO

from refbroker.log import checkpoints, epochs, producers
from refbroker.log.batch import CODECS, NO_SEQUENCE, SEQUENCE_MAX, Batch, CorruptBatch, parse
from refbroker.log.disk import Disk, File, read_file
from refbroker.log.index import INDEX_BYTES_MAX, OFFSET_ENTRY, TIME_ENTRY, CorruptIndex
from refbroker.log.index import parse_offset_index, parse_time_index, parse_transaction_index, strip_room
from refbroker.log.records import CONTROL_ABORT, CONTROL_COMMIT, CodecMissing, InvalidRecords, Record, iterate
from refbroker.log.scan import header_at

BATCH_BYTES_MAX = 256 * 1024 * 1024  # a length beyond it is taken for damage: message.max.bytes is 1 MiB in practice
RECORDS_BYTES_MAX = 256 * 1024 * 1024  # one batch, decompressed
ZEROS_CHUNK_BYTES = 1 << 20
RETIRED_SUFFIXES = (".deleted", ".swap", ".cleaned")
CONTROL_TYPES = {CONTROL_ABORT: "ABORT", CONTROL_COMMIT: "COMMIT", 2: "LEADER_CHANGE", 3: "SNAPSHOT_HEADER",
                 4: "SNAPSHOT_FOOTER", 5: "KRAFT_VERSION", 6: "KRAFT_VOTERS"}  # fmt: skip


class Item(NamedTuple):
    """One line of the dump."""

    kind: str  # file, batch, record, offset, timestamp, producer, transaction, checkpoint, note or invalid
    text: str
    fields: dict[str, Any]


def dump_files(disk: Disk, paths: list[str], *, as_json: bool, out: TextIO) -> int:
    """Write what the files hold to `out`. The exit status: 0, or 1 where anything is invalid or unreadable."""
    status = 0
    for path in paths:
        for item in _dump(disk, path):
            if item.kind == "invalid":
                status = 1
            if as_json:
                line = json.dumps({"file": path, "kind": item.kind, **item.fields}, ensure_ascii=False)
            else:
                line = item.text
            out.write(line + "\n")
    out.flush()
    return status


def _dump(disk: Disk, path: str) -> Iterator[Item]:
    yield Item("file", f"Dumping {path}", {})
    dump = _dumper(_name(path))
    if dump is None:
        yield _note(f"Ignoring unknown file {path}")
        return
    try:
        yield from dump(disk, path)
    except (CorruptIndex, producers.CorruptSnapshot, CodecMissing, ValueError, OSError) as error:
        yield _invalid(str(error))


def _dumper(name: str) -> Callable[[Disk, str], Iterator[Item]] | None:
    if name in checkpoints.OFFSET_CHECKPOINTS:
        return _dump_offsets
    by_name = {
        epochs.LEADER_EPOCH_CHECKPOINT: _dump_epochs,
        checkpoints.PARTITION_METADATA: _dump_partition_metadata,
        checkpoints.META_PROPERTIES: _dump_meta_properties,
        checkpoints.CLEAN_SHUTDOWN: _dump_clean_shutdown,
    }
    by_suffix = {
        "log": _dump_log,
        "checkpoint": _dump_log,
        "index": _dump_offset_index,
        "timeindex": _dump_time_index,
        "txnindex": _dump_transaction_index,
        "snapshot": _dump_snapshot,
    }
    return by_name.get(name) or by_suffix.get(name.rpartition(".")[2])


def _note(text: str, **fields) -> Item:
    return Item("note", text, {"note": text, **fields})


def _invalid(reason: str, **fields) -> Item:
    return Item("invalid", f"invalid: {reason}", {"reason": reason, **fields})


def _name(path: str) -> str:
    name = path.rpartition("/")[2]
    for suffix in RETIRED_SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def _base_offset(path: str) -> int | None:
    stem = _name(path).partition(".")[0]
    return int(stem) if stem.isascii() and stem.isdigit() else None


# ---------------------------------------------------------------- logs


def _dump_log(disk: Disk, path: str) -> Iterator[Item]:
    file = disk.open(path, readonly=True)
    yield from _log_title(path)
    base_offset = _base_offset(path)
    last_offset = base_offset - 1 if base_offset is not None else None
    last_epoch = position = 0
    while position < file.size:
        try:
            batch = _read_batch(file, position)
        except CorruptBatch as error:
            yield from _dump_tail(file, position, _name(path), error.reason)
            return
        yield _batch_item(batch, position)
        if batch.computed_crc() != batch.crc:
            yield _invalid(f"position {position}: stored CRC {batch.crc}, computed {batch.computed_crc()}")
        if last_offset is not None and batch.base_offset <= last_offset:
            yield _invalid(f"position {position}: base offset {batch.base_offset} behind {last_offset}")
        elif last_offset is not None and position and batch.base_offset != last_offset + 1:
            yield _note(f"Non-consecutive offsets: {last_offset} is followed by {batch.base_offset}")
        if 0 <= batch.leader_epoch < last_epoch:
            yield _invalid(f"position {position}: leader epoch {batch.leader_epoch} behind {last_epoch}")
        yield from _dump_records(batch, position)
        last_offset, last_epoch = batch.last_offset, max(last_epoch, batch.leader_epoch)
        position += batch.size


def _log_title(path: str) -> Iterator[Item]:
    name = _name(path)
    if name.endswith(".checkpoint"):
        offset, _, epoch = name.removesuffix(".checkpoint").partition("-")
        if offset.isdigit() and epoch.isdigit():
            yield _note(f"Snapshot end offset: {int(offset)}, epoch: {int(epoch)}")
    elif _base_offset(path) is not None:
        yield _note(f"Log starting offset: {_base_offset(path)}")


def _read_batch(file: File, position: int) -> Batch:
    header = header_at(file, position, file.size)
    if header.size > BATCH_BYTES_MAX:
        raise CorruptBatch(position, f"batch of {header.size} bytes, at most {BATCH_BYTES_MAX} expected")
    return parse(file.pread(header.size, position))


def _dump_tail(file: File, position: int, name: str, reason: str) -> Iterator[Item]:
    count = file.size - position
    if _is_zero(file, position):
        yield _note(f"Found {count} zero bytes at the end of {name}", position=position, size=count)
    else:
        yield _note(f"Found {count} invalid bytes at the end of {name}", position=position, size=count)
        yield _invalid(f"position {position}: {reason}", position=position, size=count)


def _is_zero(file: File, position: int) -> bool:
    while position < file.size:
        chunk = file.pread(ZEROS_CHUNK_BYTES, position)
        if not chunk or chunk.strip(b"\0"):
            return False
        position += len(chunk)
    return True


def _batch_item(batch: Batch, position: int) -> Item:
    fields = {
        "baseOffset": batch.base_offset,
        "lastOffset": batch.last_offset,
        "count": batch.record_count,
        "baseSequence": batch.base_sequence,
        "lastSequence": batch.last_sequence,
        "producerId": batch.producer_id,
        "producerEpoch": batch.producer_epoch,
        "partitionLeaderEpoch": batch.leader_epoch,
        "isTransactional": batch.is_transactional,
        "isControl": batch.is_control,
        "deleteHorizonMs": batch.delete_horizon_ms,
        "position": position,
        _timestamp_type(batch): batch.max_timestamp,
        "size": batch.size,
        "magic": batch.magic,
        "compresscodec": CODECS[batch.codec] if batch.codec < len(CODECS) else str(batch.codec),
        "crc": batch.crc,
        "isvalid": batch.computed_crc() == batch.crc,
    }
    shown = {**fields, "deleteHorizonMs": _optional_long(batch.delete_horizon_ms)}
    return Item("batch", _pairs(shown), fields)


def _timestamp_type(batch: Batch) -> str:
    return "LogAppendTime" if batch.is_log_append_time else "CreateTime"


def _optional_long(value: int | None) -> str:
    """As Java prints it."""
    return "OptionalLong.empty" if value is None else f"OptionalLong[{value}]"


def _pairs(fields: dict[str, Any]) -> str:
    return " ".join(
        f"{key}: {str(value).lower() if isinstance(value, bool) else value}" for key, value in fields.items()
    )


def _dump_records(batch: Batch, position: int) -> Iterator[Item]:
    try:
        for record in iterate(batch, bytes_max=RECORDS_BYTES_MAX):
            yield _record_item(batch, record)
    except InvalidRecords as error:
        yield _invalid(f"position {position}: {error}")


def _record_item(batch: Batch, record: Record) -> Item:
    if batch.base_sequence == NO_SEQUENCE:
        sequence = NO_SEQUENCE
    else:
        sequence = (batch.base_sequence + record.offset - batch.base_offset) & SEQUENCE_MAX
    fields = {
        "offset": record.offset,
        _timestamp_type(batch): record.timestamp,
        "keySize": -1 if record.key is None else len(record.key),
        "valueSize": -1 if record.value is None else len(record.value),
        "sequence": sequence,
    }
    text = f"| {_pairs(fields)} headerKeys: [{','.join(name for name, _ in record.headers)}]"
    if batch.is_control:
        control = _control_fields(record)
        return Item("record", f"{text} {_pairs(control)}", {**fields, **control})
    for title, data in (("key", record.key), ("payload", record.value)):
        if data is not None:
            text += f" {title}: {data.decode('utf-8', 'replace')}"
    fields["headers"] = [{"key": name, **_json_bytes("value", value)} for name, value in record.headers]
    return Item("record", text, {**fields, **_json_bytes("key", record.key), **_json_bytes("payload", record.value)})


def _json_bytes(title: str, data: bytes | None) -> dict[str, str | None]:
    """Text where it is UTF-8, else base64 under another name."""
    try:
        return {title: None if data is None else data.decode()}
    except UnicodeDecodeError:
        return {f"{title}Base64": base64.b64encode(data).decode()}


def _control_fields(record: Record) -> dict[str, Any]:
    """Key: version int16, type int16. Value of a transaction marker: version int16, coordinator epoch int32."""
    number = int.from_bytes((record.key or b"")[2:4], "big", signed=True)
    name = CONTROL_TYPES.get(number, "UNKNOWN")
    if number in (CONTROL_ABORT, CONTROL_COMMIT):
        epoch = int.from_bytes((record.value or b"")[2:6], "big", signed=True)
        return {"endTxnMarker": name, "coordinatorEpoch": epoch}
    return {"controlType": f"{name}({number})"}


# ---------------------------------------------------------------- indexes


def _read_index(disk: Disk, path: str, entry_bytes: int) -> tuple[bytes, int]:
    """(entries, base offset)."""
    base_offset = _base_offset(path)
    if base_offset is None:
        raise CorruptIndex(f"{path}: the name does not give the base offset")
    return strip_room(read_file(disk, path, bytes_max=INDEX_BYTES_MAX), entry_bytes)[0], base_offset


def _dump_offset_index(disk: Disk, path: str) -> Iterator[Item]:
    data, base_offset = _read_index(disk, path, OFFSET_ENTRY.size)
    entries = [(base_offset + offset, position) for offset, position in parse_offset_index(data, path)]
    if not entries:
        yield _note(f"{path} is empty.")
    batches = _batches_beside(disk, path)
    by_position = None if batches is None else {position: batch.last_offset for position, batch in batches}
    for offset, position in entries:
        yield Item("offset", f"offset: {offset} position: {position}", {"offset": offset, "position": position})
        if by_position is not None and by_position.get(position) != offset:
            found = by_position.get(position)
            yield _invalid(
                f"index offset {offset}, but "
                + ("no batch" if found is None else f"log offset {found}")
                + f" at {position}"
            )


def _dump_time_index(disk: Disk, path: str) -> Iterator[Item]:
    data, base_offset = _read_index(disk, path, TIME_ENTRY.size)
    entries = [(timestamp, base_offset + offset) for timestamp, offset in parse_time_index(data, path)]
    batches = _batches_beside(disk, path)
    largest_at = None if batches is None else _largest_timestamps(batches)
    for timestamp, offset in entries:
        yield Item("timestamp", f"timestamp: {timestamp} offset: {offset}", {"timestamp": timestamp, "offset": offset})
        if largest_at is None:
            continue
        if offset not in largest_at:
            yield _invalid(f"indexed offset {offset} is not the last one of a batch in the log")
        elif largest_at[offset] != timestamp:
            yield _invalid(f"index timestamp {timestamp}, but up to offset {offset} the log has {largest_at[offset]}")


def _largest_timestamps(batches: Iterator[tuple[int, Batch]]) -> dict[int, int]:
    """Last offset of each batch -> the largest timestamp up to it."""
    largest = -1
    found = {}
    for _, batch in batches:
        largest = max(largest, batch.max_timestamp)
        found[batch.last_offset] = largest
    return found


def _batches_beside(disk: Disk, path: str) -> Iterator[tuple[int, Batch]] | None:
    """(position, header) of the batches in the .log beside an index, as far as they parse; None where there is none."""
    directory, slash, _ = path.rpartition("/")
    log_path = f"{directory}{slash}{_name(path).partition('.')[0]}.log"
    return _headers(disk.open(log_path, readonly=True)) if disk.exists(log_path) else None


def _headers(file: File) -> Iterator[tuple[int, Batch]]:
    position = 0
    while position < file.size:
        try:
            batch = header_at(file, position, file.size)
        except CorruptBatch:  # the dump of the log says so
            return
        yield position, batch
        position += batch.size


def _dump_transaction_index(disk: Disk, path: str) -> Iterator[Item]:
    for entry in parse_transaction_index(read_file(disk, path, bytes_max=INDEX_BYTES_MAX), path):
        fields = {
            "version": entry.version,
            "producerId": entry.producer_id,
            "firstOffset": entry.first_offset,
            "lastOffset": entry.last_offset,
            "lastStableOffset": entry.last_stable_offset,
        }
        yield Item("transaction", _pairs(fields), fields)


# ---------------------------------------------------------------- producer snapshots and the small files


def _dump_snapshot(disk: Disk, path: str) -> Iterator[Item]:
    for producer in producers.decode_snapshot(read_file(disk, path, bytes_max=producers.SNAPSHOT_BYTES_MAX)):
        fields: dict[str, Any] = {
            "producerId": producer.producer_id,
            "producerEpoch": producer.epoch,
            "coordinatorEpoch": producer.coordinator_epoch,
            "currentTxnFirstOffset": producer.txn_start_offset,
            "lastTimestamp": producer.last_timestamp,
        }
        shown = {**fields, "currentTxnFirstOffset": _optional_long(producer.txn_start_offset)}
        batch = {}
        if producer.batches:
            last = producer.batches[-1]
            batch = {
                "firstSequence": last.base_sequence,
                "lastSequence": last.last_sequence,
                "lastOffset": last.last_offset,
                "offsetDelta": last.offset_delta,
                "timestamp": last.timestamp,
            }
        yield Item("producer", f"{_pairs(shown)} {_pairs(batch)}", {**fields, **batch})


def _dump_offsets(disk: Disk, path: str) -> Iterator[Item]:
    data = read_file(disk, path, bytes_max=checkpoints.CHECKPOINT_BYTES_MAX)
    for (topic, partition), offset in checkpoints.parse_offsets(data).items():
        yield _checkpoint({"topic": topic, "partition": partition, "offset": offset})


def _dump_epochs(disk: Disk, path: str) -> Iterator[Item]:
    for epoch, start_offset in epochs.parse_epochs(read_file(disk, path, bytes_max=checkpoints.CHECKPOINT_BYTES_MAX)):
        yield _checkpoint({"epoch": epoch, "startOffset": start_offset})


def _dump_partition_metadata(disk: Disk, path: str) -> Iterator[Item]:
    topic_id = checkpoints.parse_partition_metadata(_read_small(disk, path))
    yield _checkpoint({"topicId": checkpoints.format_uuid(topic_id)})


def _dump_meta_properties(disk: Disk, path: str) -> Iterator[Item]:
    meta = checkpoints.parse_meta_properties(_read_small(disk, path))
    yield _checkpoint(
        {
            "version": meta.version,
            "clusterId": meta.cluster_id,
            "nodeId": meta.node_id,
            "directoryId": meta.directory_id,
        }
    )


def _dump_clean_shutdown(disk: Disk, path: str) -> Iterator[Item]:
    yield _checkpoint({"brokerEpoch": checkpoints.parse_clean_shutdown(_read_small(disk, path))})


def _read_small(disk: Disk, path: str) -> bytes:
    return read_file(disk, path, bytes_max=checkpoints.SMALL_FILE_BYTES_MAX)


def _checkpoint(fields: dict[str, Any]) -> Item:
    return Item("checkpoint", _pairs(fields), fields)
