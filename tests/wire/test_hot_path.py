"""What does one request cost, counted in things that do not depend on the machine? System calls, copies, memory.

The broker is a real process under strace; the client sends one request after the other, so that no call is saved by
chance. The bounds are per request, as the named constants say, with SLACK calls for whatever the broker does by the clock
meanwhile. Copies of record bytes are found by tracemalloc in a broker inside this process: the buffer that a large frame
is received into is anonymous memory, which tracemalloc does not see; a copy of a batch would be a Python object, which it does.
"""

import asyncio
import collections
import gc
import itertools
import re
import shutil
import threading
import time
import tracemalloc
from typing import NamedTuple

import pytest

from chaos.bench import raw
from chaos.targets import Refbroker
from refbroker.broker import Broker
from refbroker.config import Config
from refbroker.frames import SMALL_FRAME_BYTES
from refbroker.log.disk import Disk, File
from refbroker.log.segment import ENTRY_GROUP_BYTES

REQUESTS, FETCHES = 60, 30
SLACK = 25  # calls of the broker's own clockwork in all: sweeps, looking for what is to be flushed
CHECKPOINTS = ("log.flush.offset.checkpoint.interval.ms", "log.flush.start.offset.checkpoint.interval.ms",
               "replica.high.watermark.checkpoint.interval.ms")  # none meanwhile: each is some forty calls
SMALL, MEDIUM, LARGE = 100, 16_000, 1_000_000  # bytes of a batch
LOOPBACK_SEGMENT = 1 << 16  # the loopback's MTU: a receive may find no more than this there

RECEIVE, SEND = {"recvfrom", "recvmsg", "readv"}, {"sendto", "sendmsg", "sendmmsg"}
WRITE = {"write", "writev", "pwritev", "pwritev2", "pwrite64"}
READ = {"read", "readv", "pread64", "preadv", "preadv2"}
POLL = {"epoll_wait", "epoll_pwait", "epoll_ctl", "poll"}

# What one request may cost.
SMALL_RECEIVES = 1  # the frame with its size, and the wish for more than that says that there is no more
LARGE_RECEIVES = 2  # its size with what came along, then the rest, into a buffer of that size
NOTED_SECONDS_MAX = 60
BETWEEN_SECONDS = 0.002  # a client that asks at once is there before the broker looks in vain
LOOKS_IN_VAIN, ROUNDS_MAX = 15, 20  # behind each the processor is offered: on a busy machine others take it, and the waits get too long
EDGE = 2  # calls that strace notes late: the end of what came before the measured time
SPLIT = 5  # small frames in all that the network may cut in two
PRODUCE_WRITES = 1  # one writev for each partition's batch
INDEX_WRITES = 2  # where a log has grown by ENTRY_GROUP_BYTES: entries of the offset index, and of the time index
INDEX_FILES_MADE = 4  # open and fstat of both, once in a segment's life
SENDS = 1  # the answer; of a Fetch all but the records, which follow by sendfile
SENDFILES = 1  # a region of one segment; what the socket does not take at once is another (SOCKET_TAKES)
SOCKET_TAKES = 1 << 15  # bytes at least that a socket takes when it can be written to: a third of its first buffer
HEADER_BYTES_READ = 8 << 10  # of a segment by a Fetch: batch headers between two index entries, and no record
PEAK_BYTES_MAX = 48 << 10  # of Python objects while a megabyte is appended or fetched: decoded request, answer, task
GROWTH_BYTES_MAX = 64  # what stays of a request: its share of the index entries that are kept in memory
GROWTH_SLACK = 16 << 10  # what the clockwork keeps meanwhile
GROWTH_REQUESTS = 300

CALL = re.compile(r"(\d+) +(\w+)\((?:\d+<([^>]*)>)?")
RESULT = re.compile(r" = (-?\d+)[^=]*$")
_numbers = itertools.count()


class Call(NamedTuple):
    name: str
    where: str  # path of a file, or `socket:[...]` and the like
    result: int


def parse(lines):
    """strace's lines as calls, without what was tried in vain. A call that another thread interrupts has two lines."""
    unfinished = {}
    for line in lines:
        found = CALL.match(line)
        if "<unfinished ...>" in line:
            unfinished[found[1]] = found
            continue
        if " resumed>" in line:
            found = unfinished.pop(line.split()[0], None)  # None: it began before we looked
        result = RESULT.search(line)
        if found and result and "EAGAIN" not in line:
            yield Call(found[2], found[3] or "", int(result[1]))


def test_calls_are_read_from_what_strace_writes():
    lines = ["7 recvfrom(9<socket:[1]>, 0x7f, 100, 0, NULL, NULL) = -1 EAGAIN (Resource temporarily unavailable)",
             "7 sendfile(9<socket:[1]>, 8</d/t-0/0.log>, [0], 1048576 <unfinished ...>",
             "8 fdatasync(5</d/a=b.log>)         = 0", "7 <... sendfile resumed> => [900]) = 900", "9 <... futex resumed>) = 0"]
    assert list(parse(lines)) == [Call("fdatasync", "/d/a=b.log", 0), Call("sendfile", "socket:[1]", 900)]


class Patient(Refbroker):
    idle_poll_us = 0

    def command(self):
        return [*super().command(), "--idle-poll-us", str(self.idle_poll_us)]


class Traced:
    """A broker under strace. Without `idle_poll_us` it sleeps whenever it has nothing to do, so that its waits can be counted."""

    def __init__(self, directory, idle_poll_us=0):
        self.path = directory / "calls"
        self.target = Patient(str(directory / "broker"), properties=dict.fromkeys(CHECKPOINTS, "3600000"),
                              wrap=("strace", "-f", "-y", "-qq", "-o", str(self.path)))
        self.target.idle_poll_us = idle_poll_us
        self.target.start()

    def during(self, work) -> list[Call]:
        """What the broker calls while `work` runs, without what was tried in vain (EAGAIN)."""
        self._mark(0)
        self._quiet()
        before = self.path.stat().st_size
        work()
        return list(parse(self._mark(before)))

    def _mark(self, start):
        """The lines from there up to the arrival of a connection that is made now. The last answer is with the client before strace
        has noted its send, on a busy machine long before."""
        deadline = time.monotonic() + NOTED_SECONDS_MAX
        connection = raw.Connection(self.target.bootstrap)
        mark = f"htons({connection.socket.getsockname()[1]})"
        try:
            while True:
                with open(self.path) as file:
                    file.seek(start)
                    lines = file.read().splitlines()
                for number, line in enumerate(lines):
                    if mark in line and "accept" in line:
                        return lines[:number]
                assert time.monotonic() < deadline, "strace does not note what the broker calls"
                time.sleep(0.05)
        finally:
            connection.close()

    def _quiet(self):
        """Until nothing is called any more."""
        size = -1
        while size != (size := self.path.stat().st_size):
            time.sleep(0.2)


def count(calls, names, where=""):
    return sum(call.name in names and where in call.where for call in calls)


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    if not shutil.which("strace"):
        pytest.skip("not run: strace missing (Debian package strace)")
    running = Traced(tmp_path_factory.mktemp("traced"))
    yield running
    running.target.stop()


def ready(traced, size, partitions=1):
    """(a connection that has produced a little, the topic, the frame) of a new topic."""
    topic = f"t-{next(_numbers)}"
    raw.create_topic(traced.target.bootstrap, topic, partitions, {})
    connection, frame = raw.Connection(traced.target.bootstrap), raw.produce_frame(topic, raw.batch(1, size), partitions=partitions)
    for _ in range(5):
        raw.check_produced(connection.call(frame))
    return connection, topic, frame


@pytest.mark.parametrize(("size", "partitions"), [(SMALL, 1), (MEDIUM, 1), (LARGE, 1), (MEDIUM, 16)])
def test_system_calls_of_a_produce_request(traced, size, partitions):
    connection, topic, frame = ready(traced, size, partitions)
    calls = traced.during(lambda: [connection.call(frame) for _ in range(REQUESTS)])
    raw.check_produced(connection.call(frame))
    connection.close()
    large = len(frame) > SMALL_FRAME_BYTES
    receives_max = LARGE_RECEIVES + len(frame) // LOOPBACK_SEGMENT if large else SMALL_RECEIVES
    receives = count(calls, RECEIVE, "socket")
    assert REQUESTS <= receives <= REQUESTS * receives_max + SPLIT
    assert 0 <= count(calls, WRITE, ".log") - REQUESTS * PRODUCE_WRITES * partitions <= EDGE
    groups = min(REQUESTS, 1 + REQUESTS * size // ENTRY_GROUP_BYTES)
    assert count(calls, WRITE, "index") <= groups * INDEX_WRITES * partitions + EDGE
    assert REQUESTS <= count(calls, SEND, "socket") <= REQUESTS * SENDS + EDGE
    assert count(calls, POLL) <= receives + SLACK  # each wait is for something that comes
    assert count(calls, READ, topic) == 0
    assert count(calls, {"fsync", "fdatasync"}, ".log") == 0
    known = RECEIVE | WRITE | SEND | POLL | {"futex"}  # the interpreter's lock, where there is another thread
    others_max = SLACK + INDEX_FILES_MADE * partitions
    assert sum(call.name not in known for call in calls) <= others_max, collections.Counter(call.name for call in calls)


@pytest.mark.parametrize("size", [MEDIUM, LARGE])
def test_system_calls_of_a_fetch_request(traced, size):
    connection, topic, frame = ready(traced, size)
    for _ in range(LARGE // size):
        raw.check_produced(connection.call(frame))
    reader, got = raw.Reader(connection, topic, 1 << 20), []
    reader.read()

    def read():
        for _ in range(FETCHES):
            reader.offset = 0
            got.append(reader.read())

    calls = traced.during(read)
    connection.close()
    assert len(got) == FETCHES and min(got) >= LARGE - size
    takes = max(got) // SOCKET_TAKES
    receives, sends = count(calls, RECEIVE, "socket"), count(calls, {"sendfile"})
    assert FETCHES <= receives <= FETCHES * SMALL_RECEIVES + SPLIT
    assert FETCHES <= count(calls, SEND, "socket") <= FETCHES * SENDS + EDGE
    assert FETCHES <= sends <= FETCHES * (SENDFILES + takes) + EDGE
    sent = sum(call.result for call in calls if call.name == "sendfile")
    assert sum(got) <= sent <= FETCHES << 20
    assert sum(call.result for call in calls if call.name in SEND) <= FETCHES * 200  # no record is among what is sent otherwise
    assert sum(call.result for call in calls if call.name in READ and topic in call.where) <= FETCHES * HEADER_BYTES_READ
    assert count(calls, POLL) <= receives + 2 * (sends - FETCHES) + SLACK
    assert count(calls, WRITE, topic) == 0


def test_a_consumer_that_waits_costs_nothing_until_something_comes(traced):
    connection, topic, frame = ready(traced, SMALL)
    waiting = raw.Connection(traced.target.bootstrap)
    end = raw.check_produced(connection.call(frame)) + 1
    waiting.socket.sendall(raw.fetch_frame(topic, end, 1 << 20, wait_ms=30_000))
    calls = traced.during(lambda: time.sleep(1.5))
    assert count(calls, POLL | SEND | RECEIVE) <= SLACK  # a broker that polls every 10 ms would have 150
    connection.call(frame)
    assert raw.check_fetched(waiting.answer())


def test_a_broker_that_looks_before_it_sleeps_does_not_look_for_long(tmp_path):
    """--idle-poll-us: nothing but looking is done more often, and with nothing to do it sleeps."""
    if not shutil.which("strace"):
        pytest.skip("not run: strace missing (Debian package strace)")
    looking = Traced(tmp_path, idle_poll_us=10_000)
    try:
        connection, _, frame = ready(looking, SMALL)
        for _ in range(ROUNDS_MAX):
            calls = looking.during(lambda: [(connection.call(frame), time.sleep(BETWEEN_SECONDS)) for _ in range(REQUESTS)])
            if count(calls, {"sched_yield"}) >= LOOKS_IN_VAIN:
                break
        assert count(calls, {"sched_yield"}) >= LOOKS_IN_VAIN
        assert sum(call.name not in POLL | {"futex", "sched_yield"} for call in calls) <= REQUESTS * (SMALL_RECEIVES + PRODUCE_WRITES + SENDS) + SLACK
        assert count(looking.during(lambda: time.sleep(1.5)), POLL) <= SLACK
    finally:
        looking.target.stop()


@pytest.fixture
def inside(tmp_path):
    """The address of a broker in this process, on another thread."""
    loop, started = asyncio.new_event_loop(), []
    config, _ = Config.load(None, {}, (f"log.dirs={tmp_path}", "listeners=PLAINTEXT://127.0.0.1:0"))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        started.append(asyncio.run_coroutine_threadsafe(Broker.start(config, Disk()), loop).result(30))
        yield "%s:%d" % started[0].server.address[:2]
        asyncio.run_coroutine_threadsafe(started[0].stop(), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def peak_and_growth(work, times):
    """(bytes at most at one time in any of the calls, bytes that stay after all of them) of Python objects."""
    for _ in range(10):
        work()
    gc.collect()
    tracemalloc.start()
    try:
        work()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        for _ in range(times):
            work()
        peak = tracemalloc.get_traced_memory()[1] - before
        gc.collect()
        return peak, tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("size", "times"), [(SMALL, GROWTH_REQUESTS), (LARGE, 20)])
def test_no_copy_of_a_batch_is_made_when_it_is_appended(inside, size, times):
    raw.create_topic(inside, "t", 1, {})
    connection, frame = raw.Connection(inside), raw.produce_frame("t", raw.batch(1, size))
    peak, growth = peak_and_growth(lambda: connection.call(frame), times)
    raw.check_produced(connection.call(frame))
    connection.close()
    assert peak <= PEAK_BYTES_MAX
    assert growth <= GROWTH_BYTES_MAX * times + GROWTH_SLACK


def test_no_record_becomes_a_python_object_when_it_is_fetched(inside):
    raw.create_topic(inside, "t", 1, {})
    connection, frame = raw.Connection(inside), raw.produce_frame("t", raw.batch(1, LARGE))
    raw.check_produced(connection.call(frame))
    reader = raw.Reader(connection, "t", 1 << 20)

    def read():
        reader.offset = 0
        assert reader.read() > LARGE

    peak, growth = peak_and_growth(read, times=20)
    connection.close()
    assert peak <= PEAK_BYTES_MAX
    assert growth <= GROWTH_SLACK


def test_a_copy_would_be_found(inside, monkeypatch):
    """The measure itself: one copy on the way to the file shows."""
    straight = File.append
    monkeypatch.setattr(File, "append", lambda self, buffers: straight(self, [bytes(buffer) for buffer in buffers]))
    raw.create_topic(inside, "t", 1, {})
    connection, frame = raw.Connection(inside), raw.produce_frame("t", raw.batch(1, LARGE))
    peak, _ = peak_and_growth(lambda: connection.call(frame), times=5)
    connection.close()
    assert peak >= LARGE
