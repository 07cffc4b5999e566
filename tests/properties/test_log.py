"""The log, driven in any order, is a plain list of records.

Verified: C1.1, C1.2, C2.1, C2.2, C2.4, C2.8 (epochs), C2.10 (recovering twice), C2.12, C4.1, C4.2, C4.4, C5.4, C5.5, C5.7, C6.1, C6.4, on a real
file system, after clean stops and after kills (the page cache stays). Not verified here: power cuts (tests of the crash
lab), concurrency (test_flush.py).
"""

import shutil
import tempfile
import uuid

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from refbroker.config import Config, LogConfig
from refbroker.errors import ErrorCode, KafkaError
from refbroker.log import index, partition, scan, segment, survey
from refbroker.log.batch import parse_all
from refbroker.log.directory import LogDirectory
from refbroker.log.disk import Disk
from refbroker.log.producers import ProducerStates
from refbroker.log.records import Record, build
from refbroker.log.replay import replay
from refbroker.log.segment import SUFFIXES

START_MS = 1_795_446_000_000
KEY = ("t", 0)

# What only logs of many megabytes reach, or of 2^31 records: small enough for a log of a few batches.
LIMITS = [
    (scan.headers, "__defaults__", (64,)), (scan.checked, "__defaults__", (128,)), (scan.batches, "__defaults__", (128,)),
    (segment, "WALK_CHUNK_BYTES", 70), (survey, "CHECK_CHUNK_BYTES", 50), (survey, "HINT_BYTES", 16), (partition, "TAIL_ENTRIES_MAX", 2),
    (segment, "INDEX_GAP_BYTES_MAX", 200), (segment, "ENTRY_GROUP_BYTES", 150), (segment, "POSITION_MAX", 700),
    (index, "RELATIVE_OFFSET_MAX", 9), (segment, "RELATIVE_OFFSET_MAX", 9), (survey, "RELATIVE_OFFSET_MAX", 9),
]  # fmt: skip


def read_region(region):
    return region.file.pread(region.size, region.position) if region is not None else b""


class LogMachine(RuleBasedStateMachine):
    """The model: `records`, a list of (offset, timestamp, value, leader epoch) of all that was ever kept, `start`, and for
    each producer what it has sent."""

    def __init__(self):
        super().__init__()
        self.root = tempfile.mkdtemp(prefix="refbroker-log-")
        self.patch = pytest.MonkeyPatch()
        self.now_ms = START_MS
        self.records = []
        self.start = 0
        self.end = 0
        self.epochs_used = {0}
        self.batches = []  # (base offset, bytes)
        self.producers = {}  # id -> (epoch, [(base sequence, count, base offset)])
        self.count = 0

    @initialize(
        segment_bytes=st.sampled_from([400, 1000, 5000]),
        interval=st.sampled_from([0, 150, 4096]),
        flush_messages=st.sampled_from([1, 3, 2**63 - 1]),
        small=st.booleans(),
    )
    def create(self, segment_bytes, interval, flush_messages, small):
        for place, name, value in LIMITS if small else []:
            self.patch.setattr(place, name, value)
        self.config = LogConfig(
            segment_bytes=segment_bytes, index_interval_bytes=interval, flush_messages=flush_messages,
            file_delete_delay_ms=1000, retention_ms=-1, segment_ms=60_000, message_timestamp_after_max_ms=2**62,
        )  # fmt: skip
        self.open()
        self.log = self.logs.create(*KEY, uuid.UUID(int=7), self.config)

    def open(self):
        self.logs = LogDirectory(Disk(), f"{self.root}/data", Config(), lambda: self.now_ms)
        self.logs.open(lambda metadata: lambda topic: self.config)

    def teardown(self):
        if hasattr(self, "logs"):
            self.logs.close(clean=False)
        shutil.rmtree(self.root)
        self.patch.undo()

    # ------------------------------------------------------------ rules

    @rule(
        stamps=st.lists(st.integers(-50, 50), min_size=1, max_size=4),
        size=st.integers(0, 60),
        producer=st.sampled_from([None, None, 5, 6]),
    )
    def append(self, stamps, size, producer):
        self.now_ms += 10
        records = []
        for index, stamp in enumerate(stamps):
            self.count += 1
            records.append(Record(index, self.now_ms + stamp, b"k", b"%d." % self.count + b"x" * size))
        settings = {}
        if producer is not None:
            epoch, sent = self.producers.get(producer, (0, []))
            sequence = sent[-1][0] + sent[-1][1] if sent else 0
            settings = {"producer_id": producer, "producer_epoch": epoch, "base_sequence": sequence}
        data = build(records, **settings)
        was = self.log.log_end_offset
        done = self.log.append(data, self.now_ms)
        assert (done.base_offset, done.last_offset, done.duplicate) == (was, was + len(stamps) - 1, False)
        if done.flush_to is not None:
            assert self.config.flush_messages <= self.log.log_end_offset - self.log.recovery_point
            self.log.flush()
            assert self.log.recovery_point == self.log.log_end_offset
        for record in records:
            offset = done.base_offset + record.offset
            self.records.append((offset, record.timestamp, record.value, self.log.leader_epoch))
        self.batches.append((done.base_offset, bytes(data)))
        self.end = self.log.log_end_offset
        if producer is not None:
            self.producers[producer] = (epoch, sent + [(sequence, len(records), done.base_offset)])

    @precondition(lambda self: any(sent for _, sent in self.producers.values()))
    @rule(data=st.data())
    def retry(self, data):
        """C6.4: any of the last five batches is answered with its offsets, and appended no second time."""
        producer = data.draw(st.sampled_from([each for each, (_, sent) in self.producers.items() if sent]))
        epoch, sent = self.producers[producer]
        sequence, count, base_offset = data.draw(st.sampled_from(sent[-5:]))
        again = build(
            [Record(index, self.now_ms, None, b"again") for index in range(count)],
            producer_id=producer, producer_epoch=epoch, base_sequence=sequence,
        )  # fmt: skip
        done = self.log.append(again, self.now_ms)
        assert (done.base_offset, done.last_offset, done.duplicate) == (base_offset, base_offset + count - 1, True)

    @precondition(lambda self: any(sent for _, sent in self.producers.values()))
    @rule(gap=st.integers(1, 3), data=st.data())
    def skip_a_sequence(self, gap, data):
        producer = data.draw(st.sampled_from([each for each, (_, sent) in self.producers.items() if sent]))
        epoch, sent = self.producers[producer]
        batch = build(
            [Record(0, self.now_ms, None, b"gap")], producer_id=producer, producer_epoch=epoch,
            base_sequence=sent[-1][0] + sent[-1][1] + gap,
        )  # fmt: skip
        with pytest.raises(KafkaError) as refused:
            self.log.append(batch, self.now_ms)
        assert refused.value.code is ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER

    @rule()
    def refused(self):
        """What is not valid leaves no trace."""
        data = build([Record(0, self.now_ms, None, b"damaged")])
        data[-3] ^= 1
        with pytest.raises(KafkaError) as error:
            self.log.append(data, self.now_ms)
        assert error.value.code is ErrorCode.CORRUPT_MESSAGE

    @rule()
    def roll(self):
        had = self.log.active.size
        assert self.log.roll(self.now_ms) == bool(had)
        assert self.log.active.size == 0

    @rule(hours=st.integers(0, 2))
    def time_passes(self, hours):
        self.now_ms += 45_000 + 3_600_000 * hours
        self.logs.sweep(self.now_ms)

    @rule()
    def flush(self):
        self.log.flush()
        assert self.log.recovery_point == self.log.checkpoint_offset == self.log.log_end_offset

    @rule()
    def checkpoint(self):
        self.logs.checkpoint()

    @precondition(lambda self: self.end > self.start)
    @rule(part=st.floats(0, 1))
    def truncate(self, part):
        target = self.start + int((self.end - self.start) * part)
        end = self.log.truncate(target)
        assert end <= target
        assert end == max([0, *(base for base, _ in self.batches if base <= target)], default=0) or end == target
        assert self.log.recovery_point <= end and self.log.high_watermark <= end
        self.records = [record for record in self.records if record[0] < end]
        self.batches = [batch for batch in self.batches if batch[0] < end]
        self.end = end
        self.start = min(self.start, end)
        for producer, (epoch, sent) in list(self.producers.items()):
            sent = [each for each in sent if each[2] < end]
            if not sent:  # nothing of it is left: it may begin anywhere
                del self.producers[producer]
            else:
                self.producers[producer] = (epoch, sent)

    @rule(part=st.floats(0, 1))
    def delete_records(self, part):
        high = self.log.high_watermark
        target = int(high * part)
        self.start = max(self.start, target)
        assert self.log.delete_records(target) == self.start
        with pytest.raises(KafkaError) as error:
            self.log.delete_records(high + 1)
        assert error.value.code is ErrorCode.OFFSET_OUT_OF_RANGE

    @rule(keep_bytes=st.integers(0, 3000))
    def retain(self, keep_bytes):
        high = self.log.high_watermark
        self.log.set_config(LogConfig(**{**self.config.__dict__, "retention_bytes": keep_bytes}))
        self.log.retain(self.now_ms)
        self.log.set_config(self.config)
        start = self.log.log_start_offset
        assert self.start <= start <= high  # C4.7
        assert self.log.size_bytes >= min(keep_bytes, sum(len(data) for _, data in self.batches)) or start == self.start
        self.start = start
        self.forget_deleted()

    def forget_deleted(self):
        first = self.log.segments[0].base_offset
        assert first <= self.start
        self.records = [record for record in self.records if record[0] >= first]
        self.batches = [batch for batch in self.batches if batch[0] >= first]

    @rule(clean=st.booleans(), without_indexes=st.booleans(), twice=st.booleans())
    def reopen(self, clean, without_indexes, twice):
        """A clean stop, or a kill: nothing is lost (C1.1, C1.2)."""
        epoch = self.log.leader_epoch
        if not clean:
            self.logs.checkpoint()  # DeleteRecords since the last checkpoint may be undone by a crash (C3.5)
        assert self.logs.close(clean=clean) == clean
        if without_indexes:  # C2.12; of producers whose batches are deleted nothing but a snapshot knows
            derived = (*SUFFIXES[1:], *([] if self.start else [".snapshot"]))
            for name in Disk().list(self.log.directory):
                if name.endswith(derived):
                    Disk().unlink(f"{self.log.directory}/{name}")
        self.open()
        self.log = self.logs.partitions[KEY]
        assert self.logs.clean_start == clean
        if clean:
            assert self.log.leader_epoch == epoch and self.logs.reports[KEY].clean
        else:
            assert self.log.leader_epoch == epoch + 1 or self.log.epoch_unsaved
        if twice:
            before = self.files()
            self.logs.close(clean=False)
            self.open()
            self.log = self.logs.partitions[KEY]
            assert self.files() == before or clean  # C2.10; after a clean stop the first start had recovered nothing
        self.forget_deleted()  # segments wholly below the log start go at a start
        first = self.log.segments[0].base_offset  # of batches that are deleted, a start knows each producer's last one
        for producer, (epoch, sent) in self.producers.items():
            self.producers[producer] = epoch, [one for one in sent[:-1] if one[2] >= first] + sent[-1:]

    def files(self):
        disk = Disk()
        found = {}
        for name in disk.list(self.log.directory):
            file = disk.open(f"{self.log.directory}/{name}", readonly=True)
            found[name] = file.pread(file.size, 0)
        return found

    # ------------------------------------------------------------ invariants

    @precondition(lambda self: hasattr(self, "log"))
    @invariant()
    def offsets_are_in_order(self):
        log = self.log
        assert (log.log_start_offset, log.log_end_offset) == (self.start, self.end)
        assert log.log_start_offset <= log.last_stable_offset <= log.high_watermark <= log.log_end_offset  # C4.1
        assert log.checkpoint_offset <= log.recovery_point <= log.log_end_offset
        assert log.size_bytes == sum(len(data) for _, data in self.batches)
        if self.config.flush_messages == 1:
            assert log.high_watermark <= max(log.recovery_point, self.start)

    @precondition(lambda self: hasattr(self, "log"))
    @invariant()
    def the_whole_log_is_what_was_appended(self):
        """C2.1, C2.2, C4.2: byte for byte, in order, and not beyond the high watermark."""
        offset, data = self.start, b""
        while offset < self.log.high_watermark:
            piece = read_region(self.log.read(offset, 700, min_one=True).regions)
            assert piece
            whole = 0
            for batch in parse_prefix(piece):
                whole += batch.size
                offset = batch.next_offset
            data += piece[:whole]
        visible = [batch for base, batch in self.batches if base < self.log.high_watermark]
        expected = b"".join(batch for batch in visible if next(parse_all(batch)).next_offset > self.start)
        assert data == expected
        if self.log.high_watermark < self.end:
            assert self.log.read(self.log.high_watermark, 100).regions is None

    @precondition(lambda self: hasattr(self, "log"))
    @invariant()
    def lookups_by_time_find_the_earliest(self):
        """C5.4, C5.5."""
        visible = [record for record in self.records if self.start <= record[0] < self.log.high_watermark]
        stamps = sorted({record[1] for record in visible})
        for stamp in stamps[:: max(1, len(stamps) // 4)] + [START_MS - 10**6, self.now_ms + 10**6]:
            first = next(((ts, offset, epoch) for offset, ts, _, epoch in visible if ts >= stamp), None)
            assert self.log.offset_for_time(stamp) == first
        if visible:
            largest = max(stamps)
            assert self.log.offset_of_max_timestamp()[:2] == next((r[1], r[0]) for r in visible if r[1] == largest)

    @precondition(lambda self: hasattr(self, "log"))
    @invariant()
    def epochs_are_those_of_the_batches(self):
        """C4.4: and at most one more, at the end."""
        entries = self.log.epochs.entries
        assert entries == sorted(set(entries))
        expected = {}
        for offset, _, _, epoch in self.records:
            if offset >= self.start:
                expected.setdefault(epoch, offset)
        found = {epoch: start for epoch, start in entries if start < self.end}
        assert set(found) >= set(expected) and all(found[epoch] == start for epoch, start in expected.items())
        assert len(entries) - len(found) <= 1

    @precondition(lambda self: hasattr(self, "log"))
    @invariant()
    def producers_are_what_a_replay_gives(self):
        """C6.1."""
        states = ProducerStates()
        replay(self.log.segments, states, self.log.segments[0].base_offset)
        live = {each.producer_id: (each.epoch, list(each.batches)) for each in self.log.producers.active}
        for each in states.active:
            epoch, batches = live[each.producer_id]
            assert epoch == each.epoch and batches[-len(each.batches) :] == list(each.batches)


def parse_prefix(data):
    """The whole batches at the beginning."""
    position = 0
    while position + 61 <= len(data):
        size = int.from_bytes(data[position + 8 : position + 12], "big") + 12
        if position + size > len(data):
            return
        yield next(parse_all(data[position : position + size]))
        position += size


TestLog = LogMachine.TestCase
TestLog.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), report_multiple_bugs=False
)
