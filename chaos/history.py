"""What did the clients ask for, when, and what were they told?

A history is a file of JSON lines, written by each client process with one `write` per line, so that it survives the
harness, the client and the broker. Times are nanoseconds of CLOCK_MONOTONIC, which all processes of one machine share.

    {"e": "send",   "id": 17, "t": 812, "topic": "a", "acks": "all", "idempotent": true}    before the record is handed over
    {"e": "acked",  "id": 17, "t": 901, "partition": 1, "offset": 40}                        the broker's success arrived
    {"e": "failed", "id": 17, "t": 901, "error": "MSG_SIZE_TOO_LARGE", "sure": true}         sure: it can never appear
    {"e": "seen",   "topic": "a", "partition": 1, "offset": 40, "t": 950, "id": ["p1", 17]}    a consumer got it
    {"e": "commit", "id": 3, "t": 960, "group": "g", "topic": "a", "partition": 1, "offset": 41}
    {"e": "committed", "id": 3, "t": 970}  or  {"e": "uncommitted", "id": 3, "t": 970, "error": "...", "sure": false}

1. `send` and `commit` stand before the request leaves: what has no answer afterwards is *unknown*, and may or may not
   have happened (C1.15).
2. A last line that is cut off (the client was killed) is ignored; any other line that does not parse is an error.
3. A record's value is a function of (client, id, size): a checker can tell an invented or torn value from a real one
   without having kept it.
"""

import hashlib
import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

VALUE_SIZE_MIN = 32


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
    """One record that a consumer was handed."""

    client: str
    topic: str
    partition: int
    offset: int
    time: int
    identity: tuple[str, int] | None


@dataclass
class History:
    """All that the clients of one run saw, in the order in which each wrote it."""

    sends: dict[tuple[str, int], Send] = field(default_factory=dict)
    commits: list[Commit] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def acked(self) -> list[Send]:
        return [send for send in self.sends.values() if send.outcome == "acked"]

    def until(self, time_ns: int) -> "History":
        """The history as it stood at one moment: what was answered later is unknown, what was asked later is absent."""
        cut = History(errors=list(self.errors))
        for key, send in self.sends.items():
            if send.invoked <= time_ns:
                known = send.completed is not None and send.completed <= time_ns
                cut.sends[key] = send if known else Send(
                    send.client, send.number, send.topic, send.acks, send.idempotent, send.invoked)
        for commit in self.commits:
            if commit.invoked <= time_ns:
                known = commit.completed is not None and commit.completed <= time_ns
                cut.commits.append(commit if known else Commit(
                    commit.client, commit.group, commit.topic, commit.partition, commit.offset, commit.invoked))
        cut.seen = [seen for seen in self.seen if seen.time <= time_ns]
        return cut


def load(directory: str) -> History:
    """Read every `*.jsonl` of a directory; the file's stem is the client's name."""
    history = History()
    for path in sorted(Path(directory).glob("*.jsonl")):
        lines = path.read_bytes().split(b"\n")
        open_commits: dict[int, Commit] = {}
        for number, line in enumerate(lines):
            if number == len(lines) - 1:  # nothing, or a line that a kill cut short
                break
            _take(history, open_commits, path.stem, json.loads(line))
    return history


def _take(history: History, open_commits: dict[int, Commit], client: str, event: dict) -> None:
    kind, time_ns = event["e"], event["t"]
    if kind == "send":
        history.sends[client, event["id"]] = Send(
            client, event["id"], event["topic"], event["acks"], event["idempotent"], time_ns)
    elif kind in ("acked", "failed"):
        send = history.sends[client, event["id"]]
        send.completed = time_ns
        if kind == "acked":
            send.outcome, send.partition, send.offset = "acked", event["partition"], event["offset"]
        else:
            send.outcome, send.error = ("failed" if event["sure"] else "unknown"), event["error"]
    elif kind == "seen":
        identity = tuple(event["id"]) if event["id"] else None
        history.seen.append(Seen(client, event["topic"], event["partition"], event["offset"], time_ns, identity))
    elif kind == "commit":
        commit = Commit(client, event["group"], event["topic"], event["partition"], event["offset"], time_ns)
        open_commits[event["id"]] = commit
        history.commits.append(commit)
    elif kind in ("committed", "uncommitted"):
        commit = open_commits.pop(event["id"])
        commit.completed = time_ns
        commit.outcome = "acked" if kind == "committed" else ("failed" if event["sure"] else "unknown")
    elif kind == "error":
        history.errors.append(f"{client}: {event['error']}")
    else:
        raise ValueError(f"unknown event {kind!r} in the history of {client}")
