"""What did the clients ask for, when, and what were they told?

A history is a file of JSON lines, written by each client process with one `write` per line, so that it survives the
harness, the client and the broker. Times are nanoseconds of CLOCK_MONOTONIC, which all processes of one machine share.

    {"e": "client", "kind": "librdkafka-consumer", "library": "librdkafka 2.16.0", "group": "g"}   the first line
    {"e": "send",   "id": 17, "t": 812, "topic": "a", "acks": "all", "idempotent": true}    before the record is handed over
    {"e": "acked",  "id": 17, "t": 901, "partition": 1, "offset": 40}                       the broker's success arrived
    {"e": "failed", "id": 17, "t": 901, "error": "MSG_SIZE_TOO_LARGE", "sure": true}        sure: it can never appear
    {"e": "assigned", "t": 930, "partitions": [["a", 1]]}     reading of these begins anew, wherever the group left off
    {"e": "seek",   "t": 940, "topic": "a", "partition": 1, "offset": 38}                   and here it begins at 38
    {"e": "seen",   "topic": "a", "partition": 1, "offset": 40, "t": 950, "id": ["p1", 17], "epoch": 3}   epoch: if told
    {"e": "commit", "id": 3, "t": 960, "group": "g", "topic": "a", "partition": 1, "offset": 41}
    {"e": "committed", "id": 3, "t": 970}  or  {"e": "uncommitted", "id": 3, "t": 970, "error": "...", "sure": false}
    {"e": "answer", "what": "end", "asked": 975, "t": 980, "topic": "a", "partition": 1, "offset": 41}

1. `send` and `commit` stand before the request leaves: what has no answer afterwards is *unknown*, and may or may not
   have happened (C1.15).
2. A last line that is cut off (the client was killed) is ignored; any other line that does not parse is an error.
3. A record's value is a function of (client, id, size): a checker can tell an invented or torn value from a real one
   without having kept it. Where a value is no client's, `like` says whose it claims to be.
4. An answer is to one of three questions: "end" (the log end), "time" (the earliest offset whose timestamp is at least `time` ms),
   "committed" (the offset of `group`). -1: there is none.
"""

import hashlib
import json
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

VALUE_SIZE_MIN = 32
CLAIM_BYTES_MAX = 64  # the head of a value, longer than any that our clients make


def value_of(client: str, number: int, size: int) -> bytes:
    """The bytes of record `number` of `client`: readable name first, then bytes that only this record has."""
    head = f"{client}:{number}:{size}:".encode()
    pattern = hashlib.sha256(head).hexdigest().encode()
    return (head + pattern * (size // len(pattern) + 1))[: max(size, VALUE_SIZE_MIN, len(head))]


def identify(value: bytes) -> tuple[str, int] | None:
    """(client, number) that a value claims to be, or None where it is not what any client of ours could have sent."""
    try:
        client, number, size, _ = value.split(b":", 3)
        name, count = client.decode(), int(number)
        return (name, count) if value_of(name, count, int(size)) == value else None
    except (ValueError, UnicodeDecodeError):
        return None


def resembles(value: bytes) -> tuple[str, int] | None:
    """Whose record a value that nobody made claims to be by its first bytes: a torn record keeps its head."""
    try:
        client, number, _ = value[:CLAIM_BYTES_MAX].split(b":", 2)
        return client.decode(), int(number)
    except (ValueError, UnicodeDecodeError):
        return None


class Recorder:
    """The writing end; one per client process."""

    def __init__(self, path: str):
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, event: str, **fields) -> None:
        line = json.dumps({"e": event, "t": time.monotonic_ns(), **fields}, separators=(",", ":"))
        os.write(self._fd, line.encode() + b"\n")


@dataclass
class Send:
    """One record that a client handed to its producer. `outcome`: "acked", "failed" (it can never appear) or "unknown"."""

    client: str
    number: int
    topic: str
    acks: str
    idempotent: bool
    invoked: int
    outcome: str = "unknown"
    completed: int | None = None
    partition: int | None = None
    offset: int | None = None
    error: str | None = None


@dataclass
class Commit:
    """One offset that a group member asked the coordinator to keep."""

    client: str
    group: str
    topic: str
    partition: int
    offset: int
    invoked: int
    outcome: str = "unknown"
    completed: int | None = None


@dataclass
class Seen:
    """One record that a consumer was handed.

    `stretch` counts, for this client and partition, how often reading began anew (an assignment, a seek): within one
    stretch offsets go up without gaps. `epoch` is the leader epoch, None where the client library does not tell it;
    `like` whose record a value claims to be that is nobody's.
    """

    client: str
    topic: str
    partition: int
    offset: int
    time: int
    identity: tuple[str, int] | None
    epoch: int | None = None
    stretch: int = 0
    like: tuple[str, int] | None = None


@dataclass
class Answer:
    """What the broker said when asked for an offset: `what` is "end", "time" or "committed"."""

    client: str
    what: str
    topic: str
    partition: int
    offset: int
    asked: int
    told: int
    time_ms: int | None = None
    group: str | None = None


@dataclass
class History:
    """All that the clients of one run saw, in the order in which each wrote it. `seeks` says at which offset a stretch of
    reading began; `assignments` who was given partitions when (client, ns); `clients` what each client is."""

    sends: dict[tuple[str, int], Send] = field(default_factory=dict)
    commits: list[Commit] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    seeks: dict[tuple[str, str, int, int], int] = field(default_factory=dict)
    assignments: list[tuple[str, int]] = field(default_factory=list)
    clients: dict[str, dict] = field(default_factory=dict)

    @property
    def acked(self) -> list[Send]:
        return [send for send in self.sends.values() if send.outcome == "acked"]

    def members(self, group: str) -> list[Seen]:
        """What the members of a group were handed; a client that is described nowhere counts as one."""
        return [seen for seen in self.seen if self.clients.get(seen.client, {}).get("group", group) == group]

    def until(self, time_ns: int) -> "History":
        """The history as it stood at one moment: what was answered later is unknown, what was asked later is absent."""
        cut = History(errors=list(self.errors), seeks=dict(self.seeks), clients=dict(self.clients))
        for key, send in self.sends.items():
            if send.invoked <= time_ns:
                cut.sends[key] = send if _known(send, time_ns) else replace(
                    send, outcome="unknown", completed=None, partition=None, offset=None, error=None)
        cut.commits = [commit if _known(commit, time_ns) else replace(commit, outcome="unknown", completed=None)
                       for commit in self.commits if commit.invoked <= time_ns]
        cut.seen = [seen for seen in self.seen if seen.time <= time_ns]
        cut.answers = [answer for answer in self.answers if answer.told <= time_ns]
        return cut


def _known(operation: Send | Commit, time_ns: int) -> bool:
    return operation.completed is not None and operation.completed <= time_ns


def load(directory: str) -> History:
    """Read every `*.jsonl` of a directory; the file's stem is the client's name. Raises ValueError with file and line."""
    history = History()
    for path in sorted(Path(directory).glob("*.jsonl")):
        reader = _Reader(history, path.stem)
        lines = path.read_bytes().split(b"\n")
        for number, line in enumerate(lines[:-1], 1):  # behind the last line end: nothing, or a line that a kill cut short
            try:
                reader.take(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}, line {number}: {type(error).__name__}: {error}") from error
    return history


class _Reader:
    """Takes the lines of one client."""

    def __init__(self, history: History, client: str):
        self.history, self.client = history, client
        self._commits: dict[int, Commit] = {}
        self._stretches: dict[tuple[str, int], int] = {}

    def take(self, event: dict) -> None:
        method = getattr(self, "_" + event["e"], None)
        if method is None:
            raise ValueError(f"unknown event {event['e']!r}")
        method(event, event["t"])

    def _client(self, event: dict, _time: int) -> None:
        self.history.clients[self.client] = {key: value for key, value in event.items() if key not in ("e", "t")}

    def _send(self, event: dict, time_ns: int) -> None:
        self.history.sends[self.client, event["id"]] = Send(
            self.client, event["id"], event["topic"], event["acks"], event["idempotent"], time_ns)

    def _acked(self, event: dict, time_ns: int) -> None:
        send = self.history.sends[self.client, event["id"]]
        send.outcome, send.completed, send.partition, send.offset = "acked", time_ns, event["partition"], event["offset"]

    def _failed(self, event: dict, time_ns: int) -> None:
        send = self.history.sends[self.client, event["id"]]
        send.outcome, send.completed, send.error = ("failed" if event["sure"] else "unknown"), time_ns, event["error"]

    def _assigned(self, event: dict, time_ns: int) -> None:
        self.history.assignments.append((self.client, time_ns))
        for topic, partition in event["partitions"]:
            self._stretches[topic, partition] = self._stretches.get((topic, partition), 0) + 1

    def _seek(self, event: dict, _time: int) -> None:
        where = event["topic"], event["partition"]
        self._stretches[where] = self._stretches.get(where, 0) + 1
        self.history.seeks[self.client, *where, self._stretches[where]] = event["offset"]

    def _seen(self, event: dict, time_ns: int) -> None:
        where = event["topic"], event["partition"]
        identity, like = (tuple(event[key]) if event.get(key) else None for key in ("id", "like"))
        self.history.seen.append(Seen(self.client, *where, event["offset"], time_ns, identity, event.get("epoch"),
                                      self._stretches.get(where, 0), like))

    def _commit(self, event: dict, time_ns: int) -> None:
        commit = Commit(self.client, event["group"], event["topic"], event["partition"], event["offset"], time_ns)
        self._commits[event["id"]] = commit
        self.history.commits.append(commit)

    def _committed(self, event: dict, time_ns: int) -> None:
        self._answered(event, time_ns, "acked")

    def _uncommitted(self, event: dict, time_ns: int) -> None:
        self._answered(event, time_ns, "failed" if event["sure"] else "unknown")

    def _answered(self, event: dict, time_ns: int, outcome: str) -> None:
        commit = self._commits.pop(event["id"])
        commit.completed, commit.outcome = time_ns, outcome

    def _answer(self, event: dict, time_ns: int) -> None:
        self.history.answers.append(Answer(self.client, event["what"], event["topic"], event["partition"], event["offset"],
                                           event["asked"], time_ns, event.get("time"), event.get("group")))

    def _error(self, event: dict, _time: int) -> None:
        self.history.errors.append(f"{self.client}: {event['error']}")
