"""When does the event loop look again instead of sleeping, and when does it stop?"""

import selectors
import socket
from types import SimpleNamespace

import pytest

from refbroker import idle_poll
from refbroker.idle_poll import IdlePollSelector
from refbroker.log.disk import Disk

LIMIT_S = 0.05


@pytest.fixture
def clock(monkeypatch):
    """Time as the selector sees it: a look at the clock takes a millisecond, a sleep what was asked for, and a busy machine nothing."""
    now_s = [0.0]

    def perf_counter():
        now_s[0] += 0.001
        return now_s[0]

    monkeypatch.setattr(idle_poll, "time", SimpleNamespace(perf_counter=perf_counter))
    return now_s


@pytest.fixture
def looked(monkeypatch, clock):
    """The timeouts that the kernel is asked with."""
    asked, straight = [], selectors.DefaultSelector.select

    def select(self, timeout=None):
        asked.append(timeout)
        ready = straight(self, timeout)
        clock[0] += 0 if ready else timeout
        return ready

    monkeypatch.setattr(selectors.DefaultSelector, "select", select)
    return asked


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def selector(pair):
    with IdlePollSelector(LIMIT_S, SimpleNamespace(at_work=0)) as made:
        made.register(pair[0], selectors.EVENT_READ)
        yield made


def served(selector, pair, looked):
    """One byte is there at once: a short wait."""
    pair[1].send(b"x")
    assert [key.fileobj for key, _ in selector.select(1)] == [pair[0]]
    pair[0].recv(1)
    looked.clear()


def test_after_a_short_wait_it_looks_until_the_limit_and_then_sleeps(selector, pair, looked, clock):
    served(selector, pair, looked)
    began_s = clock[0]
    assert selector.select(0.1) == []
    assert LIMIT_S + 0.1 <= clock[0] - began_s <= LIMIT_S + 0.1 + 0.005
    assert len(looked) > 10 and set(looked[:-1]) == {0} and looked[-1] == 0.1


def test_after_a_long_wait_it_sleeps_at_once(selector, pair, looked):
    served(selector, pair, looked)
    selector.select(0.1)
    looked.clear()
    selector.select(0.1)
    assert looked == [0.1]
    served(selector, pair, looked)
    selector.select(0.1)
    assert len(looked) > 10


def test_what_comes_while_it_looks_is_found_without_sleeping(selector, pair, looked):
    served(selector, pair, looked)
    pair[1].send(b"x")
    assert selector.select(None) and looked == [0]


def test_it_leaves_the_interpreter_to_threads_that_wait_for_the_disk(pair, looked):
    with IdlePollSelector(LIMIT_S, SimpleNamespace(at_work=1)) as selector:
        selector.register(pair[0], selectors.EVENT_READ)
        served(selector, pair, looked)
        selector.select(0.1)
        assert looked == [0.1]


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_a_loop_that_has_something_to_do_soon_is_not_kept(selector, pair, looked, timeout):
    served(selector, pair, looked)
    selector.select(timeout)
    assert looked == [timeout]


@pytest.mark.parametrize(("processors", "cpu_max", "looks"), [
    (1, None, False), (2, None, True), (8, b"max 100000\n", True), (8, b"200000 100000\n", True), (8, b"150000 100000\n", False),
    (1, b"200000 100000\n", False), (2, b"", True)])
def test_with_less_than_two_processors_they_are_the_clients(monkeypatch, tmp_path, processors, cpu_max, looks):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(processors)))
    monkeypatch.setattr(idle_poll, "CPU_MAX", f"{tmp_path}/cpu.max")
    if cpu_max is not None:
        (tmp_path / "cpu.max").write_bytes(cpu_max)
    assert (idle_poll.default_limit_us(Disk()) > 0) == looks
