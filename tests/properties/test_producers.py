"""Producer state against a model that remembers the whole log, and snapshots that lie.

The decisions on 3,000 random batches of four producers, retries, gaps, wraps and zombies among them, were compared with
a running Kafka 4.4.0 batch by batch; so was the snapshot that it wrote when it stopped.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refbroker.errors import ErrorCode, KafkaError
from refbroker.log.batch import Batch, parse, stamp
from refbroker.log.disk import Disk, replace_file
from refbroker.log.producers import CorruptSnapshot, ProducerStates, decode_snapshot, list_snapshots
from refbroker.log.records import Record, build

T = 1795446000000
WRAP = 2**31
DISK = Disk()


def batch_of(
    sequence: int, count: int = 1, *, offset: int = 0, producer: int = 0, epoch: int = 0, time: int = T, **more
) -> Batch:
    records = [Record(offset + index, time + index, b"k", b"v") for index in range(count)]
    return parse(
        build(
            records,
            base_offset=offset,
            producer_id=producer,
            producer_epoch=epoch,
            base_sequence=sequence % WRAP,
            **more,
        )
    )


def after(*batches: Batch) -> ProducerStates:
    states = ProducerStates()
    for batch in batches:
        states.update(batch)
    return states


def code_of(states: ProducerStates, batch: Batch) -> ErrorCode:
    with pytest.raises(KafkaError) as error:
        states.check(batch)
    return error.value.code


def known(states: ProducerStates, batches: int = 5) -> dict:
    """Everything that decides, for comparison."""
    return {
        each.producer_id: (
            each.epoch,
            each.coordinator_epoch,
            each.last_timestamp,
            each.txn_start_offset,
            list(each.batches)[-batches:],
        )
        for each in states.active
    }


def test_golden_snapshot_of_kafka():
    golden = bytes.fromhex(
        "0001 1003f70e 00000001 0000000000000000 0000 00000002 0000000000000002 00000002 000001a208ebc982 ffffffff"
        "ffffffffffffffff"
    )
    states = after(batch_of(0, 3))
    assert states.encode_snapshot() == golden and states.end_offset == 3
    (producer,) = decode_snapshot(golden)
    assert (producer.producer_id, producer.epoch, producer.last_sequence, producer.last_offset) == (0, 0, 2, 2)
    assert (
        ProducerStates().encode_snapshot() == bytes.fromhex("0001 48674bc7 00000000")
        and decode_snapshot(bytes.fromhex("0001 48674bc7 00000000")) == []
    )


def test_batches_without_a_producer_are_none_of_our_business():
    plain = parse(build([Record(0, T, None, b"v")]))
    states = after(plain)
    assert states.check(plain) is None and states.active == [] and states.end_offset == 1


def test_unknown_producers_may_begin_anywhere():
    assert ProducerStates().check(batch_of(77)) is None


def test_retries_of_the_last_five_are_known_and_older_ones_are_out_of_order():
    """C6.4. Kafka answers the older ones with OUT_OF_ORDER_SEQUENCE_NUMBER."""
    batches = [batch_of(2 * number, 2, offset=100 + 2 * number) for number in range(7)]
    states = after(*batches)
    for batch in batches[2:]:
        assert states.check(batch) == batch.base_offset
        assert states.find_duplicate(batch).timestamp == T + 1
    for batch in batches[:2]:
        assert code_of(states, batch) == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


def test_a_retry_must_match_exactly():
    states = after(batch_of(0, 2), batch_of(2, 2, offset=2))
    for sequence, count in ((2, 1), (3, 1), (2, 3), (1, 2), (0, 4)):
        assert code_of(states, batch_of(sequence, count)) == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


def test_a_gap_is_refused_and_changes_nothing():
    """C6.3, C6.5."""
    states = after(batch_of(0, 3))
    before = known(states)
    assert code_of(states, batch_of(4)) == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    assert known(states) == before and states.check(batch_of(3)) is None and known(states) == before


def test_sequences_wrap():
    """C6.5 (KAFKA-7692)."""
    states = after(batch_of(WRAP - 2, 4))
    assert states.get(0).last_sequence == 1
    assert states.check(batch_of(WRAP - 2, 4)) == 0
    assert states.check(batch_of(2)) is None
    states = after(batch_of(WRAP - 1))
    assert states.check(batch_of(0)) is None and code_of(states, batch_of(1)) == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


def test_epochs_fence():
    """C6.6."""
    states = after(batch_of(0, epoch=3), batch_of(1, offset=1, epoch=3))
    assert code_of(states, batch_of(2, epoch=2)) == ErrorCode.INVALID_PRODUCER_EPOCH
    assert code_of(states, batch_of(0, epoch=2)) == ErrorCode.INVALID_PRODUCER_EPOCH
    assert code_of(states, batch_of(2, epoch=4)) == ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER
    new = batch_of(0, offset=2, epoch=4)
    assert states.check(new) is None
    states.update(new)
    assert code_of(states, batch_of(1, epoch=3)) == ErrorCode.INVALID_PRODUCER_EPOCH
    assert states.check(batch_of(0, epoch=4)) == 2


def test_transactions_of_a_log_that_kafka_wrote():
    """C6.7: an open transaction keeps its producer, and lets no plain batch in between."""
    begin = batch_of(0, 2, transactional=True)
    marker_record = Record(2, T + 500, bytes([0, 0, 0, 1]), bytes([0, 0, 0, 0, 0, 9]))
    marker = parse(
        build([marker_record], base_offset=2, producer_id=0, producer_epoch=0, transactional=True, control=True)
    )
    states = after(begin)
    assert code_of(states, batch_of(2)) == ErrorCode.INVALID_TXN_STATE
    assert states.expire(T + 10 * states.expiration_ms) == 0
    (restored,) = decode_snapshot(states.encode_snapshot())
    assert restored.txn_start_offset == 0
    states.update(marker)
    producer = states.get(0)
    assert (producer.txn_start_offset, producer.coordinator_epoch, producer.last_timestamp) == (None, 9, T + 500)
    assert states.check(batch_of(2)) is None and states.end_offset == 3


def test_expiry():
    states = ProducerStates(expiration_ms=1000)
    states.update(batch_of(0, producer=1, time=T))
    states.update(batch_of(0, producer=2, time=T + 500, offset=1))
    assert states.expire(T + 999) == 0 and states.expire(T + 1000) == 1
    assert [each.producer_id for each in states.active] == [2]


# ---------------------------------------------------------------- laws


@st.composite
def attempts(draw) -> list[tuple[int, int, int, int]]:
    """(producer, epoch rise, sequence step from the next one, count): mostly the next batch; retries, gaps, zombies."""
    return draw(
        st.lists(
            st.tuples(
                st.integers(0, 2),
                st.sampled_from([0, 0, 0, 0, 0, 1, -1]),
                st.sampled_from([0, 0, 0, 0, -1, -2, -3, -4, -6, 1]),
                st.integers(1, 3),
            ),
            max_size=40,
        )
    )


def run(attempts, begin: int) -> tuple[ProducerStates, list[Batch]]:
    """Try each batch on the state and on the model: the list of all that was appended."""
    states, log, offset = ProducerStates(), [], 0
    for producer, rise, step, count in attempts:
        mine = [batch for batch in log if batch.producer_id == producer]
        epoch = max(0, (mine[-1].producer_epoch if mine else 0) + rise)
        expected = (mine[-1].last_sequence + 1 if epoch == mine[-1].producer_epoch else 0) if mine else begin
        batch = batch_of(expected + step, count, producer=producer, epoch=epoch)
        answer = model(mine, batch)
        if isinstance(answer, ErrorCode):
            assert code_of(states, batch) == answer
            continue
        assert states.check(batch) == answer
        if answer is None:
            stamp(batch, offset, 0)
            states.update(batch)
            log.append(batch)
            offset = batch.next_offset
    return states, log


def model(mine: list[Batch], batch: Batch):
    if not mine:
        return None
    last = mine[-1]
    recent = [each for each in mine if each.producer_epoch == last.producer_epoch][-5:]
    for each in recent:
        if (each.producer_epoch, each.base_sequence, each.record_count) == (
            batch.producer_epoch,
            batch.base_sequence,
            batch.record_count,
        ):
            return each.base_offset
    if batch.producer_epoch < last.producer_epoch:
        return ErrorCode.INVALID_PRODUCER_EPOCH
    expected = (last.base_sequence + last.record_count) % WRAP if batch.producer_epoch == last.producer_epoch else 0
    return None if batch.base_sequence == expected else ErrorCode.OUT_OF_ORDER_SEQUENCE_NUMBER


@settings(max_examples=150)
@given(attempts(), st.sampled_from([0, 5, WRAP - 3]), st.data())
def test_decisions_snapshots_and_replays_agree(attempts, begin, data):
    """C6.1, C6.4, C6.5: each decision is that of the model; a full replay gives the live state; a snapshot anywhere and
    the replay from there gives it but for retries older than the snapshot; beginning the replay before the snapshot
    does no harm, and then these are known, too."""
    states, log = run(attempts, begin)
    assert known(after(*log)) == known(states)
    cut = data.draw(st.integers(0, len(log)))
    again = data.draw(st.integers(0, cut))
    for start in (cut, again):
        restored = ProducerStates()
        restored._producers = {each.producer_id: each for each in decode_snapshot(after(*log[:cut]).encode_snapshot())}
        for batch in log[start:]:
            restored.replay(batch)
        assert known(restored, 1) == known(states, 1)
        for batch in log[start:]:
            assert restored.find_duplicate(batch) == states.find_duplicate(batch)


@given(st.binary(max_size=120))
def test_any_bytes_are_a_snapshot_or_corrupt(data):
    for candidate in (data, b"\0\1" + data):
        with pytest.raises(CorruptSnapshot):
            decode_snapshot(candidate)


@pytest.mark.parametrize("position", range(56))
def test_every_flipped_bit_of_a_snapshot_is_found(position):
    """C6.2."""
    good = after(batch_of(0, 3)).encode_snapshot()
    for bit in range(8):
        damaged = bytearray(good)
        damaged[position] ^= 1 << bit
        with pytest.raises(CorruptSnapshot):
            decode_snapshot(bytes(damaged))
    with pytest.raises(CorruptSnapshot):
        decode_snapshot(good[:position])


# ---------------------------------------------------------------- files


def test_the_newest_valid_snapshot_within_the_log_is_taken_and_the_rest_removed(tmp_path):
    """C6.2."""
    directory, states = str(tmp_path), ProducerStates()
    for number in range(5):
        states.update(batch_of(number, offset=number))
        states.write_snapshot(DISK, directory)
    replace_file(DISK, f"{directory}/00000000000000000004.snapshot", b"torn")
    assert [offset for offset, _ in list_snapshots(DISK, directory)] == [1, 2, 3, 4, 5]
    restored = ProducerStates()
    loaded = restored.load(DISK, directory, 2, 4, T)
    assert loaded.offset == restored.end_offset == 3 and loaded.used == "00000000000000000003.snapshot"
    assert [name for name, _ in loaded.removed] == [f"{offset:020d}.snapshot" for offset in (1, 5, 4)]
    assert restored.get(0).last_sequence == 2
    assert [offset for offset, _ in list_snapshots(DISK, directory)] == [2, 3]


def test_without_a_snapshot_the_replay_begins_at_the_log_start(tmp_path):
    states = after(batch_of(0))
    assert states.load(DISK, str(tmp_path), 7, 9, T) == (7, None, []) and states.active == [] and states.end_offset == 7


def test_expired_producers_are_not_loaded(tmp_path):
    states = after(batch_of(0, producer=1), batch_of(0, producer=2, offset=1, time=T + 1000))
    states.write_snapshot(DISK, str(tmp_path))
    states.load(DISK, str(tmp_path), 0, 2, T + states.expiration_ms)
    assert [each.producer_id for each in states.active] == [2]


def test_a_snapshot_may_be_synced_later(tmp_path):
    """C3.2: the caller syncs it before the recovery point passes its offset."""
    states = after(batch_of(0, 3))
    file = states.write_snapshot(DISK, str(tmp_path), sync=False)
    file.sync()
    again = states.write_snapshot(DISK, str(tmp_path), sync=False)
    assert again.size == 56 and DISK.list(str(tmp_path)) == ["00000000000000000003.snapshot"]


def test_other_files_are_no_snapshots(tmp_path):
    for name in ("1.snapshot", "x.snapshot", "00000000000000000001.snapshot.tmp", "-0000000000000000001.snapshot"):
        replace_file(DISK, f"{tmp_path}/{name}", b"")
    assert list_snapshots(DISK, str(tmp_path)) == []
