"""Which partitions does a fetch request mean, when it names only those that changed? (KIP-227)

A consumer of a thousand partitions would name them all in each request, and be told of each that nothing happened. In a
*session* both sides say only what is new. A request has a session id and an epoch:

| Id | Epoch | Means | Names |
|---|---|---|---|
| any | 0 | full: forget the session `id`, open one if there is room | all partitions |
| any | -1 | full: forget the session `id`, open none | all partitions |
| known | the expected one | incremental | what changed, and partitions to forget |

The expected epoch begins at 1 and rises with each request; after 2^31-1 comes 1 again.

1. An id that is not known: FETCH_SESSION_ID_NOT_FOUND. Another epoch: INVALID_FETCH_SESSION_EPOCH. Both at the top of
   the response; the client then begins anew.
2. A session that was made with topic names takes no requests with topic ids, nor the reverse:
   FETCH_SESSION_TOPIC_ID_ERROR.
3. An incremental response has the partitions with records, errors, a diverging epoch, or a high watermark or log
   start offset other than last time. After an error the next response has the partition in any case.
4. Partitions that gave records go to the end of the list: where max_bytes ends the response early, others are first
   next time.
5. A session that has lost all its partitions is forgotten.

There are at most max.incremental.fetch.session.cache.slots sessions. A new one evicts the one that was used longest
ago, if that was more than STALE_MS ago; else the smallest of those older than that, if it is not larger than the new one;
else there is no session (id 0), and the client sends full requests.
"""

import random
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from refbroker.errors import ErrorCode, KafkaError

STALE_MS = 120_000  # Kafka's figure too
INITIAL_EPOCH, FINAL_EPOCH = 0, -1
EPOCH_MAX = SESSION_ID_MAX = 2**31 - 1
TOPIC_IDS_VERSION = 13  # from here on, fetch requests name topics by id

Key = tuple[str | UUID, int]


class Wanted:
    """A partition as a client wants it read, and what the session told it last."""

    __slots__ = (
        "topic", "partition", "fetch_offset", "max_bytes", "leader_epoch", "fetched_epoch",
        "told_high_watermark", "told_start",
    )  # fmt: skip

    def __init__(self, topic: str | UUID, entry: Mapping[str, Any]):
        self.topic = topic
        self.partition: int = entry["partition"]
        self.told_high_watermark = self.told_start = -1
        self.update(entry)

    def update(self, entry: Mapping[str, Any]) -> None:
        self.fetch_offset: int = entry["fetch_offset"]
        self.max_bytes: int = entry["partition_max_bytes"]
        self.leader_epoch: int = entry["current_leader_epoch"]
        self.fetched_epoch: int = entry["last_fetched_epoch"]

    @property
    def key(self) -> Key:
        return self.topic, self.partition

    def tell(self, result: Mapping[str, Any]) -> bool:
        """Note what the client is told; False if that is nothing new."""
        news = bool(result["records"])
        if result["error_code"]:
            self.told_high_watermark = -1
            return True
        if result["high_watermark"] != self.told_high_watermark or result["log_start_offset"] != self.told_start:
            self.told_high_watermark, self.told_start = result["high_watermark"], result["log_start_offset"]
            news = True
        return news or "diverging_epoch" in result


class FetchSession:
    def __init__(self, session_id: int, partitions: dict[Key, Wanted], uses_topic_ids: bool, now_ms: int):
        self.id = session_id
        self.partitions = partitions  # in the order in which they are read
        self.uses_topic_ids = uses_topic_ids
        self.epoch = 1  # of the next request
        self.created_ms = self.used_ms = now_ms

    def update(self, entries: Mapping[Key, Mapping[str, Any]], forgotten: Iterable[Key]) -> None:
        for key, entry in entries.items():
            known = self.partitions.get(key)
            if known is None:
                self.partitions[key] = Wanted(key[0], entry)
            else:
                known.update(entry)
        for key in forgotten:
            self.partitions.pop(key, None)

    def to_end(self, key: Key) -> None:
        item = self.partitions.pop(key, None)
        if item is not None:
            self.partitions[key] = item


class Plan:
    """What to read for one request, in order; the session to tell the results through (None: tell everything)."""

    def __init__(self, partitions: list[Wanted], session: FetchSession | None = None, opens_session: bool = False):
        self.partitions = partitions
        self.session = session
        self.epoch = session.epoch if session else 0
        self.opens_session = opens_session

    def news(self, results: list[tuple[Wanted, dict[str, Any]]]) -> list[tuple[Wanted, dict[str, Any]]]:
        """The results that go into the response. Raises KafkaError if another request has used the session meanwhile."""
        session = self.session
        if session is None:
            return results
        if session.epoch != self.epoch:
            raise KafkaError(ErrorCode.INVALID_FETCH_SESSION_EPOCH)
        told = [(item, result) for item, result in results if item.tell(result)]
        for item, result in told:
            if result["records"]:
                session.to_end(item.key)
        return told


class FetchSessions:
    def __init__(self, slots: int):
        self.slots = slots
        self._sessions: dict[int, FetchSession] = {}  # in the order of their use, the latest last

    def __len__(self) -> int:
        return len(self._sessions)

    def plan(self, request: Mapping[str, Any], version: int, now_ms: int) -> Plan:
        """What this request asks for. Raises KafkaError, for the top of the response."""
        session_id, epoch = request["session_id"], request["session_epoch"]
        by_id = version >= TOPIC_IDS_VERSION
        topic_key = "topic_id" if by_id else "topic"
        topics, forgotten = request["topics"], request["forgotten_topics_data"]
        entries = {(topic[topic_key], one["partition"]): one for topic in topics for one in topic["partitions"]}
        if epoch in (INITIAL_EPOCH, FINAL_EPOCH):
            self._sessions.pop(session_id, None)
            wanted = [Wanted(topic, entry) for (topic, _), entry in entries.items()]
            return Plan(wanted, opens_session=epoch == INITIAL_EPOCH)
        session = self._sessions.get(session_id)
        if session is None:
            raise KafkaError(ErrorCode.FETCH_SESSION_ID_NOT_FOUND)
        if session.epoch != epoch:
            raise KafkaError(ErrorCode.INVALID_FETCH_SESSION_EPOCH)
        if session.uses_topic_ids != by_id:
            raise KafkaError(ErrorCode.FETCH_SESSION_TOPIC_ID_ERROR)
        session.update(entries, [(topic[topic_key], one) for topic in forgotten for one in topic["partitions"]])
        if not session.partitions:
            del self._sessions[session_id]
            return Plan([])
        session.epoch = session.epoch + 1 if session.epoch < EPOCH_MAX else 1
        session.used_ms = now_ms
        self._sessions[session_id] = self._sessions.pop(session_id)
        return Plan(list(session.partitions.values()), session)

    def open(self, results: list[tuple[Wanted, dict[str, Any]]], version: int, now_ms: int) -> int:
        """A new session over the partitions of a full request; its id, or 0 where there is no room."""
        if not self._make_room(len(results), now_ms):
            return 0
        for item, result in results:
            item.tell(result)
        session_id = random.randint(1, SESSION_ID_MAX)
        while session_id in self._sessions:
            session_id = random.randint(1, SESSION_ID_MAX)
        partitions = {item.key: item for item, _ in results}
        self._sessions[session_id] = FetchSession(session_id, partitions, version >= TOPIC_IDS_VERSION, now_ms)
        return session_id

    def _make_room(self, size: int, now_ms: int) -> bool:
        if len(self._sessions) < self.slots:
            return True
        if not self._sessions:
            return False
        victim = next(iter(self._sessions.values()))
        if now_ms - victim.used_ms <= STALE_MS:
            old = [session for session in self._sessions.values() if now_ms - session.created_ms > STALE_MS]
            victim = min(old, key=lambda session: len(session.partitions), default=None)
            if victim is None or len(victim.partitions) > size:
                return False
        del self._sessions[victim.id]
        return True
