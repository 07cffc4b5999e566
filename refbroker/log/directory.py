"""Whose data directory is this, what partitions are in it, and how are they opened, made, deleted and closed?

A data directory holds `meta.properties` (whose it is), `.lock` (who has it open), the checkpoint files, the clean
marker, and one directory per partition, `<topic>-<number>`. Deleted ones are called `<topic>-<number>.<id>-delete`
until their files are unlinked, those that no topic claims `...-stray`.

Opening, in this order:
1. it is refused, with one line and nothing changed, if it is not ours: not empty and without `meta.properties`, another
   node's or cluster's, locked, unreadable, or with a file of a newer format (`StartupError`);
2. the checkpoints and the clean marker are read. The marker counts only if its content is right (C3.3);
3. it is removed and the directory is synced, before anything is loaded or written (C2.10);
4. the metadata log is recovered, then all others. One that is damaged is offline, the others are not (C2.5).

Making a partition: its directory, `partition.metadata` and `leader-epoch-checkpoint` (both synced), the first
segment; then its directory is synced, then this one. Nothing can be appended before that, so an append is never in a
directory whose own entry could be lost (C1.3).

Deleting: renamed, this directory synced, then its checkpoint entries are removed: a new partition of that name must not
inherit them (C9.6). What a disk is too full for is done later, at the latest before such a partition is made.

Closing: each partition that is not offline is flushed with indexes, producer snapshot and directory (C1.1); then the
checkpoints; then the marker, only if nothing is offline (C3.3).

Apache Kafka differs: it syncs no directory for a new partition or a removed marker, and takes an empty marker for one.
"""

import logging
import re
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial

from refbroker.config import Config, LogConfig
from refbroker.errors import ErrorCode, KafkaError
from refbroker.log import checkpoints
from refbroker.log.checkpoint_job import Checkpoints
from refbroker.log.checkpoints import InvalidFile, MetaProperties, NewerVersion
from refbroker.log.cuts import begin_seal, finish_seal
from refbroker.log.disk import Disk, Lock, read_file
from refbroker.log.distrust import NOTE, leave_note, remove_note
from refbroker.log.epochs import LEADER_EPOCH_CHECKPOINT, EpochCache, format_epochs
from refbroker.log.content import Content
from refbroker.log.flush import FlushJob
from refbroker.log.partition import TRANSIENT_ERRORS, Partition
from refbroker.log.producers import ProducerStates
from refbroker.log.recovery import recover
from refbroker.log.report import PartitionDamaged, RecoveryReport
from refbroker.log.segment import Segment, file_name

METADATA_TOPIC = "__cluster_metadata"
COMPACTED_TOPICS = ("__consumer_offsets", "__transaction_state")
LOCK_FILE = ".lock"
NAME_BYTES_MAX = 255  # of a file system's names
OWN_FILES = (LOCK_FILE, NOTE, "lost+found", f"{checkpoints.META_PROPERTIES}.tmp")  # may be in a directory of nobody's

_PARTITION = re.compile(r"([a-zA-Z0-9._-]+)-([0-9]{1,10})")
_GOING = re.compile(r"(.+)\.([0-9a-f]{32})-(delete|stray|future)")

logger = logging.getLogger(__name__)

Key = tuple[str, int]


class StartupError(Exception):
    """The data directory cannot be served. One line, for the person who started the broker; nothing was changed."""


class LogDirectory:
    def __init__(
        self, disk: Disk, path: str, config: Config, clock: Callable[[], int], *, accept_loss: bool = False,
        new_uuid: Callable[[], uuid.UUID] = uuid.uuid4,
    ):  # fmt: skip
        self.disk = disk
        self.path = path
        self.config = config
        self.clock = clock
        self.accept_loss = accept_loss
        self.partitions: dict[Key, Partition] = {}
        self.reports: dict[Key, RecoveryReport] = {}
        self.damaged: dict[Key, PartitionDamaged] = {}
        self.offline: str | None = None
        self.node_id: int = config.node_id
        self.cluster_id = ""
        self.directory_id = ""
        self.clean_start = False  # whether the last stop was clean
        self.broker_epoch = -1  # of that stop
        self.on_roll: Callable[[Partition], None] = lambda partition: None  # whoever flushes rolled segments
        self.on_fail: Callable[[], None] = lambda: None  # whoever ends the process
        self._new_uuid = new_uuid
        self._lock: Lock | None = None
        self._distrust = False  # a flush has failed here before
        self._checkpoints = Checkpoints(disk, path)
        self._to_delete: list[tuple[int, str]] = []  # (when, path of a file or a partition's directory)
        self._going: dict[str, tuple[Key, str, int]] = {}  # directory of a deleted partition -> its name to be, and for how long

    # ------------------------------------------------------------ open

    def open(self, configure: Callable[[Partition | None], Callable[[str], LogConfig | None]] | None = None) -> None:
        """Recover everything. `configure` is called with the metadata partition, once that is there, and returns the
        configs of each topic by name. Raises StartupError."""
        try:
            meta = self._whose()
            self._take_lock()
            self._format(meta)
            self._distrust = self.disk.exists(f"{self.path}/{NOTE}")
            self.clean_start = self._take_marker() and not self._distrust
            names = self._partition_names()
            metadata = (METADATA_TOPIC, 0)
            if metadata in names:
                self._load(metadata, names.pop(metadata), self.config.log_config())
            config_of = configure(self.partitions.get(metadata)) if configure else lambda topic: None
            for key, name in names.items():
                self._load(key, name, config_of(key[0]) or self._default_config(key[0]))
            remove_note(self.disk, self.path)
        except OSError as error:
            begun = self._lock is not None and not self.disk.exists(f"{self.path}/{checkpoints.CLEAN_SHUTDOWN}")
            if begun and error.errno not in TRANSIENT_ERRORS:
                leave_note(self.disk, self.path, str(error))  # what recovery wrote may not be there
            self._release()
            raise StartupError(f"{error.filename or self.path}: {error.strerror or error}") from error
        except KafkaError as error:
            self._release()
            raise StartupError(f"{self.path}: {error.message}") from error
        except BaseException:
            self._release()
            raise

    def _whose(self) -> MetaProperties | None:
        """Check that it is ours, and the formats of its files; None where it is new. Changes nothing."""
        disk, path = self.disk, self.path
        if not disk.exists(path):
            return None
        if not disk.is_dir(path):
            raise StartupError(f"{path} is not a directory")
        names = disk.list(path)
        file = f"{path}/{checkpoints.META_PROPERTIES}"
        try:
            meta = checkpoints.read_meta_properties(disk, file)
            if meta is None and any(name not in OWN_FILES for name in names):
                name = checkpoints.META_PROPERTIES
                raise StartupError(f"{path} is not a data directory: it has files, but no {name}")
            for name in checkpoints.OFFSET_CHECKPOINTS:
                file = f"{path}/{name}"
                self._checkpoints.read(name)
        except NewerVersion as error:
            raise StartupError(f"{file}: written by a newer version: {error}") from None
        except InvalidFile as error:
            raise StartupError(f"{file} is damaged: {error}") from None
        if meta is not None and meta.node_id != self.config.node_id:
            raise StartupError(f"{path} belongs to node.id={meta.node_id}, this broker has {self.config.node_id}")
        return meta

    def _take_lock(self) -> None:
        if not self.disk.exists(self.path):
            self.disk.mkdir(self.path)
            self.disk.sync_dir(self.path.rpartition("/")[0] or ("/" if self.path.startswith("/") else "."))
        try:
            self._lock = self.disk.lock(f"{self.path}/{LOCK_FILE}")
        except BlockingIOError:
            raise StartupError(f"{self.path} is in use by another process") from None

    def _format(self, meta: MetaProperties | None) -> None:
        """Whose it is from now on."""
        if meta is None:
            cluster_id = checkpoints.format_uuid(self._new_uuid())
            meta = MetaProperties(self.config.node_id, cluster_id, checkpoints.format_uuid(self._new_uuid()))
            checkpoints.write_meta_properties(self.disk, f"{self.path}/{checkpoints.META_PROPERTIES}", meta)
        self.cluster_id = meta.cluster_id
        self.directory_id = meta.directory_id or ""

    def _take_marker(self) -> bool:
        """Whether the last stop was clean. The marker is durably gone on return (C3.3); so no crash from now on looks
        like a clean stop. The sync also makes durable what a killed process left in this directory."""
        path = f"{self.path}/{checkpoints.CLEAN_SHUTDOWN}"
        clean = False
        if self.disk.exists(path):
            try:
                data = read_file(self.disk, path, bytes_max=checkpoints.SMALL_FILE_BYTES_MAX)
                self.broker_epoch = checkpoints.parse_clean_shutdown(data)
                clean = bool(data)
            except NewerVersion as error:
                raise StartupError(f"{path}: written by a newer version: {error}") from None
            except ValueError as error:
                logger.warning("%s is no clean marker, all logs are checked: %s", path, error)
            self.disk.unlink(path)
        self.disk.sync_dir(self.path)
        return clean

    def _partition_names(self) -> dict[Key, str]:
        """The partitions' directories; what is only waiting to be deleted goes."""
        found = {}
        for name in self.disk.list(self.path):
            going = _GOING.fullmatch(name)
            if going:
                if going[3] == "delete":
                    self._remove_directory(f"{self.path}/{name}")
                continue
            match = _PARTITION.fullmatch(name)
            if match and self.disk.is_dir(f"{self.path}/{name}"):
                if self._is_unborn(f"{self.path}/{name}"):
                    self._remove_directory(f"{self.path}/{name}")
                    self.disk.sync_dir(self.path)
                else:
                    found[match[1], int(match[2])] = name
        return found

    def _is_unborn(self, directory: str) -> bool:
        """A partition that a crash kept from being made: nobody was told of it, and nothing is in it."""
        names = self.disk.list(directory)
        if not set(names) <= {checkpoints.PARTITION_METADATA, LEADER_EPOCH_CHECKPOINT, file_name(0)}:
            return False
        if file_name(0) in names and self.disk.open(f"{directory}/{file_name(0)}", readonly=True).size:
            return False
        path = f"{directory}/{checkpoints.PARTITION_METADATA}"
        try:
            return checkpoints.read_partition_metadata(self.disk, path) is None
        except InvalidFile:
            return True

    def _default_config(self, topic: str) -> LogConfig:
        return self.config.log_config({"cleanup.policy": "compact"} if topic in COMPACTED_TOPICS else {})

    def _load(self, key: Key, name: str, config: LogConfig) -> None:
        directory = f"{self.path}/{name}"
        recovery_point = self._checkpoints.recovery_points.get(key, 0)
        log_start_offset = self._checkpoints.log_starts.get(key, 0)
        topic_id = None
        try:
            topic_id = checkpoints.read_partition_metadata(self.disk, f"{directory}/{checkpoints.PARTITION_METADATA}")
            content, report = recover(
                self.disk, directory, config=config, recovery_point=recovery_point, log_start_offset=log_start_offset,
                clean=self.clean_start, now_ms=self.clock(), compacted=key in self._checkpoints.cleaned,
                accept_loss=self.accept_loss, distrust=self._distrust,
                lower_recovery_point=partial(self._checkpoints.set_recovery_point, key),
                producer_expiration_ms=self.config.producer_id_expiration_ms,
            )  # fmt: skip
        except (PartitionDamaged, InvalidFile) as error:
            self._offline_partition(key, directory, topic_id, config, str(error), recovery_point, log_start_offset)
            if isinstance(error, PartitionDamaged):
                self.damaged[key] = error
            return
        self.reports[key] = report
        if report.actions:
            logger.log(logging.WARNING if report.lost else logging.INFO, "%s", report)
        self.partitions[key] = Partition(self.disk, directory, *key, topic_id, config, self, content)

    def _offline_partition(
        self, key: Key, directory: str, topic_id: uuid.UUID | None, config: LogConfig, reason: str, recovery_point: int,
        log_start_offset: int,
    ) -> None:  # fmt: skip
        """It is known, and everything about it answers KAFKA_STORAGE_ERROR."""
        logger.error("%s-%d is offline: %s", *key, reason)
        nothing = Segment(self.disk, directory, recovery_point, interval_bytes=config.index_interval_bytes)
        epochs = EpochCache(f"{directory}/{LEADER_EPOCH_CHECKPOINT}")
        content = Content([nothing], epochs, ProducerStates(), min(log_start_offset, recovery_point), recovery_point)
        partition = Partition(self.disk, directory, *key, topic_id, config, self, content)
        partition.go_offline(reason)
        self.partitions[key] = partition

    # ------------------------------------------------------------ make, delete

    def create(self, topic: str, number: int, topic_id: uuid.UUID, config: LogConfig) -> Partition:
        return self.create_many([(topic, number, topic_id, config)])[0]

    def create_many(self, wanted: Iterable[tuple[str, int, uuid.UUID, LogConfig]]) -> list[Partition]:
        """Make partitions, durable on return. Raises KafkaError; then none of them is there."""
        self._check_online()
        made: list[Partition] = []
        directories: list[str] = []
        try:
            self._rename_going()
            for topic, number, topic_id, config in wanted:
                if (topic, number) in self.partitions:
                    raise KafkaError(ErrorCode.TOPIC_ALREADY_EXISTS, f"partition {topic}-{number} exists")
                self._checkpoints.forget((topic, number))
                directory = f"{self.path}/{topic}-{number}"
                self.disk.mkdir(directory)
                directories.append(directory)
                made.append(self._make(directory, topic, number, topic_id, config))
            self.disk.sync_dir(self.path)
        except (OSError, KafkaError) as error:
            for directory in directories:
                self._undo_create(directory)
            raise self.failed("new partition", error) if isinstance(error, OSError) else error
        for partition in made:
            self.partitions[partition.topic, partition.number] = partition
        return made

    def _make(self, directory: str, topic: str, number: int, topic_id: uuid.UUID, config: LogConfig) -> Partition:
        epochs = EpochCache(f"{directory}/{LEADER_EPOCH_CHECKPOINT}", [(0, 0)])
        for path, data in (
            (f"{directory}/{checkpoints.PARTITION_METADATA}", checkpoints.format_partition_metadata(topic_id)),
            (epochs.path, format_epochs(epochs.entries)),
        ):
            file = self.disk.open(path, create=True)
            file.append([data])
            file.sync()
        segment = Segment.create(
            self.disk, directory, 0, interval_bytes=config.index_interval_bytes, created_ms=self.clock()
        )
        self.disk.sync_dir(directory)
        content = Content([segment], epochs, ProducerStates(self.config.producer_id_expiration_ms))
        return Partition(self.disk, directory, topic, number, topic_id, config, self, content)

    def _undo_create(self, directory: str) -> None:
        try:
            self._remove_directory(directory)
        except OSError as error:
            self.fail(f"a partition could be neither made nor removed: {error}")

    def delete(self, topic: str, number: int) -> None:
        """Take a partition away; durably, unless the disk is too full for that. Its files are unlinked later. Raises KafkaError."""
        self._take_away((topic, number), "delete")

    def stray(self, topic: str, number: int) -> None:
        """Put aside a partition that no topic claims: never served, never deleted. Raises KafkaError."""
        self._take_away((topic, number), "stray")

    def _take_away(self, key: Key, suffix: str) -> None:
        self._check_online()
        partition = self.partitions.pop(key)
        ending = f".{self._new_uuid().hex}-{suffix}"
        target = f"{self.path}/{f'{key[0]}-{key[1]}'[: NAME_BYTES_MAX - len(ending)]}{ending}"
        partition.deleted = True
        partition.go_offline(f"{key[0]}-{key[1]} was deleted")
        self._going[partition.directory] = key, target, partition.config.file_delete_delay_ms
        try:
            self._rename_going()
        except KafkaError:
            if self.offline is not None or suffix == "stray":
                raise

    def _rename_going(self) -> None:
        """What directories of deleted partitions are called from now on, durably. Raises KafkaError; the rest is done later."""
        try:
            for directory, (key, target, delay_ms) in tuple(self._going.items()):
                if self.disk.exists(directory):
                    self.disk.rename(directory, target)
                self.disk.sync_dir(self.path)
                del self._going[directory]
                if target.endswith("delete"):
                    self.delete_later(target, self.clock() + delay_ms)
                self._checkpoints.forget(key)
        except OSError as error:
            raise self.failed("deletion", error) from error

    def delete_later(self, path: str, due_ms: int) -> None:
        self._to_delete.append((due_ms, path))

    def sweep(self, now_ms: int) -> int:
        """Unlink what was deleted long enough ago; how many files and directories. A crash before may bring them
        back: the next start unlinks them (C9.5)."""
        due = [entry for entry in self._to_delete if entry[0] <= now_ms]
        for entry in due:
            self._to_delete.remove(entry)  # whatever comes of it: the others' turn comes with the next round
            if self.disk.is_dir(entry[1]):
                self._remove_directory(entry[1])
            elif self.disk.exists(entry[1]):  # else its partition was deleted meanwhile
                self.disk.unlink(entry[1])
        with suppress(KafkaError):
            self._rename_going()
        return len(due)

    def _remove_directory(self, path: str) -> None:
        for name in self.disk.list(path):
            self.disk.unlink(f"{path}/{name}")
        self.disk.rmdir(path)

    # ------------------------------------------------------------ checkpoints, close

    def checkpoint(self) -> None:
        """Write the checkpoint files that have changed: recovery points, log starts, high watermarks. Raises KafkaError."""
        self._check_online()
        try:
            self.begin_checkpoint()()
        except OSError as error:
            raise self.failed("checkpoint", error) from error

    def failed(self, what: str, error: OSError) -> KafkaError:
        """Draw the conclusion: for want of space or descriptors it is done later."""
        if error.errno in TRANSIENT_ERRORS:
            logger.warning("no %s for now: %s", what, error)
        else:
            self.fail(f"{what} failed: {error}")
        return KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, str(error))

    def begin_checkpoint(self) -> Callable[[], None]:
        """The values of now, and a function that writes them: on any thread. What it would write too late, because a truncation
        or deletion has come before it, it does not write (C3.1). It raises OSError: see `failed`."""
        return self._checkpoints.begin(self.partitions)

    def lower_recovery_point(self, partition: Partition) -> None:
        self._checkpoints.set_recovery_point((partition.topic, partition.number), partition.checkpoint_offset)

    def persist_log_start(self, partition: Partition) -> None:
        self._checkpoints.set_log_start((partition.topic, partition.number), partition.log_start_offset)

    def rolled(self, partition: Partition) -> None:
        self.on_roll(partition)

    def fail(self, reason: str) -> None:
        """The whole directory goes offline: no later append, no later acknowledgement that needed its disk (C1.13)."""
        if self.offline is None:
            self.offline = reason
            logger.error("%s is offline: %s", self.path, reason)
            leave_note(self.disk, self.path, reason)
            self.on_fail()
        for partition in self.partitions.values():
            partition.go_offline(self.offline)

    def close(self, clean: bool = True, broker_epoch: int = 0, mapper: Callable = map) -> bool:
        """Let go of the directory. Whether the stop is a clean one, after which the next start has nothing to
        recover. With the `map` of an executor, the partitions are synced in parallel."""
        try:
            return clean and self._seal(broker_epoch, mapper)
        finally:
            self._release()

    def _seal(self, broker_epoch: int, mapper: Callable) -> bool:
        marker = f"{self.path}/{checkpoints.CLEAN_SHUTDOWN}"
        try:
            jobs = [(partition, begin_seal(partition)) for partition in self.partitions.values() if partition.offline is None]
            jobs = [(partition, job) for partition, job in jobs if job is not None]
            for _ in mapper(FlushJob.run, [job for _, job in jobs]):
                pass
            for partition, job in jobs:
                finish_seal(partition, job)
            self.begin_checkpoint()()
            if self.offline is not None or any(partition.offline is not None for partition in self.partitions.values()):
                return False
            checkpoints.write_clean_shutdown(self.disk, marker, broker_epoch)
        except (OSError, KafkaError) as error:
            if isinstance(error, OSError):  # else the partition has drawn the conclusion
                self.failed("clean stop", error)
            self.offline = self.offline or f"no clean stop: {error}"
            with suppress(OSError):  # if it was written at all
                self.disk.unlink(marker)
            return False
        return True

    def _check_online(self) -> None:
        if self.offline is not None:
            raise KafkaError(ErrorCode.KAFKA_STORAGE_ERROR, self.offline)

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None
