"""How is a broker driven with raw frames? The loops around `raw.Connection`; each measures for a time, after a warm-up.

Each takes a `Place` (an address and a topic), so that the same loop runs against a broker and against `null.py`, which
answers without doing anything: that is what the client can do at most.

No answer is looked into while the clock runs. Afterwards one more request is: its base offset says whether every record
before it was appended. Where that number is wrong the figure is none, and Refused is raised.
"""

import multiprocessing
import select
import ssl
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from chaos.bench import machine, raw

WARM_UP = 0.2  # of the time; a JVM needs more, and gets it before the first round (`rounds.warm_up`)
clock = time.perf_counter


class Place(NamedTuple):
    """Where the work is done. `counts`: the broker's base offsets rise, as they do not at the null server."""

    bootstrap: str
    topic: str
    context: ssl.SSLContext | None = None
    counts: bool = True

    def connect(self) -> raw.Connection:
        return raw.Connection(self.bootstrap, self.context)


class Frame(NamedTuple):
    """A Produce request and the number of records that it appends to its first partition."""

    data: bytes
    records: int


class Meter:
    """The rate of something that is done for `seconds`, without the warm-up at the start."""

    def __init__(self, seconds: float):
        self.now = self._begun = clock()
        self._end = self.now + seconds
        self._warm = self.now + seconds * WARM_UP
        self.done = self._base = 0

    def running(self, done: int) -> bool:
        """Whether to go on; so much is done by now."""
        self.now, self.done = clock(), done
        if self._warm <= self.now < self._end:
            self._begun, self._base, self._warm = self.now, done, self._end
        return self.now < self._end

    def rate(self) -> float:
        return (self.done - self._base) / (self.now - self._begun)


def _account(place: Place, connection: raw.Connection, frame: Frame, first_offset: int, sent: int) -> None:
    """Raises Refused unless the `sent` requests since the one that got `first_offset` are all in the log."""
    last = raw.check_produced(connection.call(frame.data))
    if place.counts and last != first_offset + (sent + 1) * frame.records:
        missing = first_offset + (sent + 1) * frame.records - last
        raise raw.Refused(f"{sent} requests were answered, but {missing} of their records are not in the log")


def latencies(place: Place, frame: Frame, seconds: float) -> list[float]:
    """Seconds of each request, one under way at a time."""
    connection, took = place.connect(), []
    first, size = _first(connection, frame)
    call, receive = connection.socket.sendall, connection.receive
    began = now = clock()
    while now < began + seconds:
        call(frame.data)
        got = receive()
        while got < size:
            got += receive()
        took.append(-now + (now := clock()))
    _account(place, connection, frame, first, len(took))
    connection.close()
    return took[int(len(took) * WARM_UP):]


def _first(connection: raw.Connection, frame: Frame) -> tuple[int, int]:
    """(base offset, size of the answer with its prefix) of one request; every later answer is as long."""
    answer = connection.call(frame.data)
    return raw.check_produced(answer), len(answer) + 4


def pipelined(place: Place, frame: Frame, seconds: float, in_flight: int = 5) -> float:
    """Requests per second of one connection that keeps `in_flight` requests under way."""
    connection = place.connect()
    first, size = _first(connection, frame)
    sent, received, most = in_flight, 0, machine.cached_bytes_max() // len(frame.data)
    meter = Meter(seconds)
    connection.send([frame.data] * sent)
    while sent < most:
        received += connection.receive()
        answered = received // size
        if not meter.running(answered):
            break
        if fresh := answered + in_flight - sent:
            connection.send([frame.data] * fresh)
            sent += fresh
    while received < sent * size:
        received += connection.receive()
    _account(place, connection, frame, first, sent)
    connection.close()
    return meter.rate()


def many(place: Place, frame: Frame, connections: int, seconds: float) -> float:
    """Requests per second of many connections with one request under way each."""
    opened = {(connection := place.connect()).socket.fileno(): connection for _ in range(connections)}
    one, *_ = opened.values()
    first, size = _first(one, frame)
    poller, got, done = select.epoll(), dict.fromkeys(opened, 0), 0
    meter = Meter(seconds)
    for number, connection in opened.items():
        poller.register(number, select.EPOLLIN)
        connection.send([frame.data])
    while meter.running(done):
        for number, _ in poller.poll(1):
            connection = opened[number]
            got[number] += connection.receive()
            if got[number] % size == 0:
                connection.send([frame.data])
                done += 1
    for number, connection in opened.items():
        last = got[number] // size + 1  # each has one request under way
        while got[number] < last * size:
            got[number] += connection.receive()
    _account(place, one, frame, first, connections + done)
    for connection in opened.values():
        connection.close()
    return meter.rate()


def fetch(place: Place, bytes_max: int, seconds: float) -> float:
    """MiB per second of reading a topic from its start, one fetch after the other; at its end again from its start."""
    reader, got = raw.Reader(place.connect(), place.topic, bytes_max, wait_ms=0), 0
    meter = Meter(seconds)
    while meter.running(got):
        used = reader.read()
        got += used
        if not used or not place.counts:
            reader.offset = 0
    reader.connection.close()
    if not got:
        raise raw.Refused(f"{place.topic} is empty")
    return meter.rate() / (1 << 20)


def fill(place: Place, frame: Frame, mib: int) -> None:
    """Append so much, unmeasured."""
    connection = place.connect()
    first, size = _first(connection, frame)
    count, received = mib * (1 << 20) // len(frame.data), 0
    for number in range(count):
        connection.send([frame.data])
        while number - received // size >= 4:
            received += connection.receive()
    while received < count * size:
        received += connection.receive()
    _account(place, connection, frame, first, count)
    connection.close()


def end_to_end(place: Place, frame: Frame, seconds: float) -> list[float]:
    """Seconds from handing a record to the broker until a consumer that waits in a fetch has it, one at a time."""
    producer, consumer, took = place.connect(), place.connect(), []
    offset = raw.check_produced(producer.call(frame.data)) + frame.records
    until = clock() + seconds
    while (now := clock()) < until:
        consumer.socket.sendall(raw.fetch_frame(place.topic, offset, 1 << 20))
        time.sleep(0.002)  # so that the fetch waits before the record comes
        began = clock()
        producer.socket.sendall(frame.data)
        records = raw.check_fetched(consumer.answer())
        took.append(clock() - began)
        raw.check_produced(producer.answer())
        if not records:
            raise raw.Refused("the waiting fetch came back empty")
        offset += frame.records
    producer.close()
    consumer.close()
    return took[int(len(took) * WARM_UP):]


def beside(work: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """Run it in another process; the result is had by calling what this returns. Raises Refused where it failed."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_report, args=(theirs, work, arguments), daemon=True)
    process.start()
    theirs.close()

    def result() -> Any:
        try:
            worked, value = ours.recv()
        except EOFError:
            worked, value = False, f"{work.__name__} beside us ended without a result"
        process.join()
        if not worked:
            raise raw.Refused(value)
        return value

    return result


def _report(pipe: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        pipe.send((True, work(*arguments)))
    except Exception as error:
        pipe.send((False, f"{type(error).__name__}: {error}"))


def follow(place: Place, bytes_max: int, seconds: float) -> float:
    """MiB per second of a consumer that reads from the start while the topic grows; it waits at the end."""
    reader, got, started = raw.Reader(place.connect(), place.topic, bytes_max), 0, clock()
    while (now := clock()) - started < seconds:
        got += reader.read()
    reader.connection.close()
    return got / (1 << 20) / (now - started)
