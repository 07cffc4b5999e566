"""What a fault left on a real disk: files that promise too much, brokers that do not start, do not answer, or hand out what nobody accepts."""

import pytest

from chaos.checks import returned
from chaos.process.observe import NoAnswer, Unreadable, read_all
from chaos.targets import TargetError
from refbroker.log.records import Record, build
from refbroker.testing import broker


@pytest.fixture
def data_dir(tmp_path):
    """Two batches of one record in a-0, the recovery point behind the first."""
    (tmp_path / "a-0").mkdir()
    batches = [bytearray(build([Record(0, 1000, None, b"value", [])])) for _ in range(2)]
    batches[1][0:8] = (1).to_bytes(8, "big")
    (tmp_path / "a-0" / f"{0:020}.log").write_bytes(b"".join(batches))
    (tmp_path / "recovery-point-offset-checkpoint").write_text("0\n1\na 0 1\n")
    return tmp_path


def found(data_dir):
    return [(finding.statement, finding.topic, finding.offset) for finding in returned.check_small_files(data_dir)]


def test_a_recovery_point_within_the_log_is_fine(data_dir):
    assert found(data_dir) == []


@pytest.mark.parametrize("damage, end", [(lambda log: log[:-1], 1), (lambda log: log[:70] + b"?" + log[71:], 0), (lambda log: b"", 0)])
def test_a_recovery_point_ahead_of_the_valid_batches(data_dir, damage, end):
    (data_dir / "recovery-point-offset-checkpoint").write_text("0\n1\na 0 2\n")
    log = data_dir / "a-0" / f"{0:020}.log"
    log.write_bytes(damage(log.read_bytes()))
    assert found(data_dir) == [("C3.1", "a", end)]


def test_half_a_checkpoint(data_dir):
    (data_dir / "recovery-point-offset-checkpoint").write_text("0\n2\na 0 1\n")
    assert found(data_dir) == [("C3.4", "", -1)]


class Target:
    def __init__(self, error=None):
        self.error, self.calls = error, []

    def start(self):
        self.calls.append("start")
        if self.error:
            raise self.error

    def kill(self):
        self.calls.append("kill")


def raises(error):
    raise error


@pytest.mark.parametrize("start, read, whole, statements, calls", [
    (None, lambda: None, True, [], ["start", "kill"]),
    (TargetError("ended with 1"), lambda: None, False, ["C2.10"], ["start"]),
    (None, lambda: raises(NoAnswer("nothing")), False, ["C1.16"], ["start", "kill"]),
    (None, lambda: raises(Unreadable("a", 0, "CRC")), False, ["C2.6"], ["start", "kill"]),
])
def test_what_keeps_a_client_from_reading_is_a_finding(start, read, whole, statements, calls):
    target = Target(start)
    read_all, findings = returned.started_and_read(target, read)
    assert (read_all, [finding.statement for finding in findings], target.calls) == (whole, statements, calls)
    assert set(statements) <= set(returned.STATEMENTS)


def test_a_topic_that_is_gone_holds_nothing():
    with broker(topics={"there": 1}) as running:
        log, ends = read_all(running.bootstrap, {"there": 1, "gone": 2})
    assert log == {("there", 0): [], ("gone", 0): [], ("gone", 1): []} and set(ends.values()) == {0}
