"""What does the broker make of a crashed image? Recovery run on a disk made from it, straight from memory.

One `Recoverer` serves one configuration. Work is shared, since most crash states differ in one file only:

1. An image is taken apart into one piece for each partition: its directory with the files of the root. A piece is
   recovered on its own, by the
   broker's own `LogDirectory.open`, and remembered by its digest. What the pieces of an image give together is what the whole
   gives, if partitions do not meddle with each other; every `WHOLE_EVERY`-th image is also recovered whole, and compared.
2. The questions to a recovered log (reads, lookups, indexes) are asked once for each distinct result.
3. Second recoveries, and those without indexes, start from few distinct images, and are mostly remembered.
"""

import gc
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from chaos.checks import checkpoints, deletion, epochs, idempotence, lookups, producers, shape, snapshots
from chaos.checks.crash import ROOT, Image, Problem, Recovered, RecoveredPartition, longest_run, segments_in
from chaos.disk.driver import DAY_MS, START_MS
from chaos.disk.model import SimDisk
from chaos.disk.spaces import DIGEST_MASK, digest_of, piece_name
from refbroker.config import Config
from refbroker.log import checkpoints as small_files
from refbroker.log.directory import LogDirectory, StartupError

REMEMBERED_MAX = 12_000  # recoveries kept; each holds two small images
WHOLE_EVERY = 64
LATER_MS = START_MS + 20 * DAY_MS  # the power comes back after every workload's end


class Recoverer:
    """Recoveries under one configuration, remembered."""

    def __init__(self, config: Config):
        self.config = config
        self.log_config = config.log_config()
        self.pieces: dict[int, Recovered] = {}
        self.plain: dict[int, Recovered] = {}
        self.asked: dict[tuple, list[Problem]] = {}
        self.recoveries = 0
        self.images = 0
        self.inside: dict[tuple, list] = {}  # what chaos/disk/inside.py found in these recoveries

    def recover(self, image: Image) -> Recovered:
        """The result for this image, with the problems that it has in itself."""
        return self.recover_state(_Whole(image))

    def recover_state(self, state) -> Recovered:
        """The same for a crash state, of which an image is made only of those pieces that are new."""
        whole = Recovered({}, {})
        for value, which in state.pieces():
            recovered = self.pieces.get(value)
            if recovered is None:
                recovered = self._judged(state.piece(which), value)
            whole.partitions.update(recovered.partitions)
            if recovered.problems:
                whole.problems = whole.problems + recovered.problems
            whole.refused = whole.refused or recovered.refused
            whole.clean = recovered.clean
            whole.parts.append(recovered)
        self.images += 1
        if self.images % WHOLE_EVERY == 0:
            self._compare(state.image(), whole)
        return whole

    def attempt(self, image: Image) -> SimDisk:
        """Recover, and return the disk with its write list: where a nested crash strikes."""
        return self._open(image, True)[1]

    def _compare(self, image: Image, whole: Recovered) -> None:
        """The pieces together are what the whole is."""
        other = self._open(image, False)[0]
        if other.refused != whole.refused or other.partitions.keys() != whole.partitions.keys():
            whole.problems = [*whole.problems, Problem("C2.10", ("", -1), -1, "recovered whole it is another directory than in pieces: "
                                                       f"{other.refused}, {sorted(other.partitions)}, {sorted(whole.partitions)}")]
            return
        for key, log in whole.partitions.items():
            if idempotence.numbers(log) != idempotence.numbers(other.partitions[key]):
                whole.problems = [*whole.problems, Problem("C2.10", key, log.log_end_offset, "recovered beside others it is another log")]

    def _judged(self, image: Image, value: int) -> Recovered:
        recovered, _, logs = self._open(image, False)
        if len(self.pieces) >= REMEMBERED_MAX:
            self.pieces.clear()
        self.pieces[value] = recovered
        found = recovered.problems
        found += checkpoints.check(recovered)
        found += deletion.metadata_before_records(recovered)
        found += snapshots.check_image(image)
        if recovered.refused is not None:
            return recovered
        found += shape.check(recovered)
        for key, log in recovered.partitions.items():
            if log.offline is None:
                found += self._ask(key, log, recovered, logs)
        again = self._plain(recovered.after, recovered.digest_after)
        found += idempotence.same_again(recovered, again)
        bare = idempotence.without_derived(image)
        if len(bare) != len(image):
            found += idempotence.same_without_derived(recovered, self._plain(bare, digest_of(bare)))
        return recovered

    def _ask(self, key, log: RecoveredPartition, recovered: Recovered, logs: LogDirectory) -> list[Problem]:
        """What can be asked of the result alone; once for each distinct one."""
        identity = (key, recovered.digest_after, recovered.clean, log.leader_epoch, *idempotence.numbers(log), str(log.producers))
        found = self.asked.get(identity)
        if found is None:
            found = epochs.check_partition(log, recovered.clean) + producers.check_partition(log)
            found += lookups.check(logs.partitions[key], log, recovered.after)
            if len(self.asked) >= REMEMBERED_MAX:
                self.asked.clear()
            self.asked[identity] = found
        return found

    def _plain(self, image: Image, value: int) -> Recovered:
        """The result without its problems: for comparisons."""
        recovered = self.pieces.get(value) or self.plain.get(value)
        if recovered is None:
            recovered = self._open(image, False)[0]
            if len(self.plain) >= REMEMBERED_MAX:
                self.plain.clear()
            self.plain[value] = recovered
        return recovered

    def _open(self, image: Image, sites: bool) -> tuple[Recovered, SimDisk, LogDirectory]:
        self.recoveries += 1
        disk = SimDisk(image, sites=sites)
        logs = LogDirectory(disk, ROOT, self.config, lambda: LATER_MS, new_uuid=_no_uuid)
        refused = None
        try:
            logs.open(lambda metadata: lambda topic: self.log_config)
        except StartupError as error:
            refused = str(error)
        except Exception as error:  # recovery must not fail in any other way, whatever the disk holds
            refused = f"{type(error).__name__}: {error}"
        recovered = Recovered(image, disk.view(), refused)
        recovered.clean = logs.clean_start
        recovered.effects = len(disk.events)
        recovered.digest_after = digest_of(recovered.after)
        if refused is None:
            for key, partition in logs.partitions.items():
                recovered.partitions[key] = observe(key, partition, logs, recovered.after)
        return recovered, disk, logs


class _Whole:
    """An image that stands for itself, as a crash state."""

    def __init__(self, image: Image):
        self._image = image
        self._pieces: dict[str, dict[str, bytes | None]] = {}
        for path, data in image.items():
            self._pieces.setdefault(piece_name(path, data is None), {})[path] = data

    def image(self) -> Image:
        return self._image

    def pieces(self) -> list[tuple[int, str]]:
        root = self._pieces.get("", {})
        value = digest_of(root)
        found = [((value + digest_of(files)) & DIGEST_MASK, name) for name, files in self._pieces.items() if name]
        return found or [(value, "")]

    def piece(self, which: str) -> Image:
        return self._pieces.get("", {}) | self._pieces.get(which, {})


@contextmanager
def sharing_work() -> Iterator[None]:
    """For explorations of many states. The small files are mostly the same in the next image, and the broker's parsers of them are
    functions of their bytes: what they gave is remembered meanwhile (a tenth of the time). What is remembered makes full garbage
    collections dear, and few of them are needed (another tenth)."""
    parse_offsets = lru_cache(REMEMBERED_MAX)(small_files.parse_offsets)
    remembered = {"parse_offsets": lambda data: dict(parse_offsets(data))}  # the caller changes it
    for name in ("parse_meta_properties", "parse_partition_metadata"):
        remembered[name] = lru_cache(REMEMBERED_MAX)(getattr(small_files, name))
    real = {name: getattr(small_files, name) for name in remembered}
    thresholds = gc.get_threshold()
    vars(small_files).update(remembered)
    gc.set_threshold(20_000, 20, 100)
    try:
        yield
    finally:
        vars(small_files).update(real)
        gc.set_threshold(*thresholds)


def _no_uuid() -> uuid.UUID:
    return uuid.UUID(int=1)


def observe(key, partition, logs: LogDirectory, after: Image) -> RecoveredPartition:
    """Everything that can be asked of a partition, with its batches as they lie in `after`."""
    run = longest_run(segments_in(after, partition.directory), partition.log_start_offset)
    return RecoveredPartition(
        key, partition.topic_id, partition.offline, partition.log_start_offset, partition.last_stable_offset, partition.high_watermark,
        partition.log_end_offset, partition.recovery_point, partition.leader_epoch, list(partition.epochs.entries),
        {known.producer_id: (known.epoch, [(batch.base_sequence, batch.last_sequence, batch.base_offset) for batch in known.batches])
         for known in partition.producers.active},
        run, logs.reports.get(key))

