"""What do all clients under load have in common? How they stop, how they pace themselves, how members of a group come and go, and
what they write down (chaos/history.py).

One file for each library: librdkafka (confluent-kafka), aiokafka, kafka-python, and Apache Kafka's own in Java. A client does what
its users do: it hands over records, polls, commits what it was handed; a broker that dies is nothing special, the library retries.
"""

import random
import signal
import time
from collections.abc import Iterable, Iterator

from chaos.history import Recorder, identify, resembles, value_of

DRAIN_SECONDS = 20.0
COMMIT_EVERY_SECONDS = 0.3
KEYS = 16
# Errors after which a record can never appear: the broker refused it, or it never left the client.
SURE_FAILURES = {"MSG_SIZE_TOO_LARGE", "MESSAGE_TOO_LARGE", "MessageSizeTooLargeError", "_QUEUE_FULL"}


class Stop:
    """SIGTERM as a flag: the loops look at it, so that what is under way is finished and written down."""

    def __init__(self):
        self.asked = False
        signal.signal(signal.SIGTERM, self._ask)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the harness's business

    def _ask(self, *_):
        self.asked = True


class Pace:
    """Spaces calls evenly, without trying to make up for the time in which the broker was down."""

    def __init__(self, per_second: float):
        self._gap = 1.0 / per_second
        self._next = time.monotonic()

    def wait_seconds(self) -> float:
        now = time.monotonic()
        self._next = max(self._next + self._gap, now - self._gap)
        return max(0.0, self._next - now)


class Writer:
    """The records of one producer, and what becomes of them."""

    def __init__(self, spec: dict, history: Recorder):
        self._spec, self._history = spec, history
        self._random = random.Random(spec["seed"])
        self.number = -1

    def next(self) -> tuple[int, str, bytes, bytes]:
        """(number, topic, key, value) of the next record, written down as handed over."""
        self.number += 1
        topic, size = self._random.choice(self._spec["topics"]), self._random.randrange(40, self._spec["value_bytes"])
        self._history.write("send", id=self.number, topic=topic, acks=self._spec["acks"], idempotent=self._spec["idempotent"])
        return self.number, topic, f"k{self.number % KEYS}".encode(), value_of(self._spec["name"], self.number, size)

    def acked(self, number: int, partition: int, offset: int) -> None:
        if self._spec["acks"] != "0":  # acks=0 is told nothing: it stays unknown
            self._history.write("acked", id=number, partition=partition, offset=offset)

    def failed(self, number: int, error: str) -> None:
        self._history.write("failed", id=number, error=error, sure=error in SURE_FAILURES)


class Reader:
    """What one consumer is handed, commits and asks."""

    def __init__(self, spec: dict, history: Recorder):
        self._group, self._history = spec.get("group"), history
        self._commits = 0
        self._due = time.monotonic() + COMMIT_EVERY_SECONDS
        self.positions: dict[tuple[str, int], int] = {}  # behind what was handed over and is not committed yet

    def assigned(self, partitions: Iterable[tuple[str, int]]) -> None:
        partitions = list(partitions)
        self._history.write("assigned", partitions=partitions)
        self.positions = {}

    def seek(self, topic: str, partition: int, offset: int) -> None:
        self._history.write("seek", topic=topic, partition=partition, offset=offset)

    def seen(self, topic: str, partition: int, offset: int, value: bytes | None, epoch: int | None = None) -> None:
        identity = identify(value or b"")
        more = {} if identity else {"like": resembles(value or b"")}
        if epoch is not None and epoch >= 0:
            more["epoch"] = epoch
        self._history.write("seen", topic=topic, partition=partition, offset=offset, id=identity, **more)
        self.positions[topic, partition] = offset + 1

    def answer(self, what: str, topic: str, partition: int, offset: int, asked: int, **more) -> None:
        self._history.write("answer", what=what, topic=topic, partition=partition, offset=offset, asked=asked, **more)

    def committed_at_start(self, topic: str, partition: int, offset: int | None, asked: int) -> None:
        """What the coordinator answers to a member that has just been given a partition; negative or None: nothing."""
        self.answer("committed", topic, partition, -1 if offset is None or offset < 0 else offset, asked, group=self._group)

    def to_commit(self) -> Iterator[tuple[str, int, int]]:
        """(topic, partition, offset) to commit now; each is written down as asked before it is handed out."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + COMMIT_EVERY_SECONDS
        for (topic, partition), offset in list(self.positions.items()):
            if self.positions.get((topic, partition)) != offset:
                continue  # a rebalance during an earlier commit has taken it away
            del self.positions[topic, partition]
            self._commits += 1
            self._history.write("commit", id=self._commits, group=self._group, topic=topic, partition=partition, offset=offset)
            yield topic, partition, offset

    def committed(self) -> None:
        self._history.write("committed", id=self._commits)

    def uncommitted(self, error: object) -> None:
        """No answer, or a refusal: the commit may have happened all the same."""
        self._history.write("uncommitted", id=self._commits, error=str(error), sure=False)

    def error(self, what: str, error: BaseException) -> None:
        self._history.write("error", error=f"{what}: {type(error).__name__}: {error}")


class Visits:
    """A member that comes and goes: `stay_seconds` in the group, then as long out of it as it likes. Without the key it stays."""

    def __init__(self, spec: dict, stop: Stop):
        self._stay, self._stop = spec.get("stay_seconds"), stop
        self._random = random.Random(f"{spec['seed']}/visits")
        self._until = 0.0

    def __iter__(self) -> Iterator[None]:
        """One turn for each visit."""
        while not self._stop.asked:
            self._until = time.monotonic() + self._random.uniform(0.5, 1.5) * self._stay if self._stay else float("inf")
            yield
            away = time.monotonic() + self._random.uniform(0.2, 1.0)
            while time.monotonic() < away and not self._stop.asked:
                time.sleep(0.05)

    @property
    def over(self) -> bool:
        return self._stop.asked or time.monotonic() > self._until
