"""What should a Kafka-aware proxy do to which request? Rules are values: TOML in a file, dataclasses here.

    [[rule]]
    api = "Produce"        # name as `ls refbroker/apis` has it (any case, with or without underscores), or the key; "*" for all
    client = "idem*"       # client id, shell pattern; default "*"
    topic = "orders"       # only requests that name this topic (Produce, Fetch, OffsetCommit); default any
    nth = 3                # the third match (counted from 1); without it every match
    times = 1              # how many matches from `nth` on; default 1 with `nth`, else without end
    per_client = true      # count the matches of each client id by themselves; default false
    action = "drop-reply"  # drop-request | drop-reply | delay | duplicate | reset | error
    delay_ms = 200         # for delay
    error = "NOT_LEADER_OR_FOLLOWER"   # for error: the name of a Kafka error code

1. `drop-request`: the broker never sees it. `drop-reply`: the broker does it, and the client never hears. Both then close the
   connection, as a network that loses something does to TCP in the end; with `hang = true` they leave it open and silent.
2. `duplicate`: the broker gets it twice, the client one reply. `reset`: half of the frame goes out, then RST both ways.
3. The first rule that matches acts; each rule counts its own matches.
4. A retry of a request is a request: it counts, too.
"""

import fnmatch
import time
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from refbroker.errors import ErrorCode

ACTIONS = ("drop-request", "drop-reply", "delay", "duplicate", "reset", "error")


class BadRule(Exception):
    """A rule that means nothing; its text says which and why."""


@dataclass
class Rule:
    """One rule; it counts, so a Rule belongs to one proxy. `moments`: when it acted (ns of CLOCK_MONOTONIC) and on whom."""

    action: str
    api: str = "*"
    client: str = "*"
    topic: str | None = None
    nth: int | None = None
    times: int | None = None
    delay_ms: int = 100
    error: str = "UNKNOWN_SERVER_ERROR"
    hang: bool = False
    per_client: bool = False
    matched: int = field(default=0, init=False)
    moments: list[tuple[int, str]] = field(default_factory=list, init=False)
    _counts: Counter = field(default_factory=Counter, init=False)

    def __post_init__(self):
        if self.action not in ACTIONS:
            raise BadRule(f"no action {self.action!r}; there are: {', '.join(ACTIONS)}")
        if self.error not in ErrorCode.__members__:
            raise BadRule(f"no error {self.error!r}; Kafka's names are meant, such as NOT_LEADER_OR_FOLLOWER")
        if (self.nth is not None and self.nth < 1) or (self.times is not None and self.times < 1) or self.delay_ms < 0:
            raise BadRule("nth and times count from 1, delay_ms is not negative")

    @property
    def acted(self) -> int:
        return len(self.moments)

    def applies(self, key: int, name: str, client: str | None, topics: set[str]) -> bool:
        """Whether to act on this request; counts it if it matches."""
        wanted = self.api.replace("_", "").lower()
        if wanted not in ("*", str(key), name.replace("_", "").lower()):
            return False
        if not fnmatch.fnmatchcase(client or "", self.client) or (self.topic is not None and self.topic not in topics):
            return False
        self.matched += 1
        counted = (client or "") if self.per_client else ""
        self._counts[counted] += 1
        first = self.nth or 1
        last = None if self.times is None and self.nth is None else first + (self.times or 1) - 1
        if self._counts[counted] < first or (last is not None and self._counts[counted] > last):
            return False
        self.moments.append((time.monotonic_ns(), client or ""))
        return True


def parse_rules(text: str) -> list[Rule]:
    """Rules from TOML. Raises BadRule with the number of the rule."""
    try:
        entries: list[dict[str, Any]] = tomllib.loads(text).get("rule", [])
    except tomllib.TOMLDecodeError as error:
        raise BadRule(f"not TOML: {error}") from None
    rules = []
    for number, entry in enumerate(entries, 1):
        try:
            rules.append(Rule(**entry))
        except (TypeError, BadRule) as error:
            raise BadRule(f"rule {number}: {str(error).replace('Rule.__init__() ', '')}") from None
    return rules
