"""Who is in a consumer group, and on which protocol do they agree? No time, no I/O.

A *member* has an id that the broker gave it, and optionally a group.instance.id that its owner gave it (a *static*
member, KIP-345: it keeps its place over a restart). It lists the protocols that it can speak, best first, each with
metadata that only the clients understand. A *pending* member has been given an id and has not come back with it yet.

What holds at all times:

1. the members of a group share one protocol type, and there is at least one protocol that all of them speak;
2. an instance id belongs to at most one member;
3. no id is both a member and pending; the leader, where there is one, is a member.

The protocol of a generation is the one with most votes among those that all members speak; each member votes for the
first on its list. Apache Kafka does the same; where two protocols have equally many votes it takes one by chance of
hashing, here it is the one that the longest-standing member voted for.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from refbroker.errors import ErrorCode, KafkaError

CONSUMER_PROTOCOL_TYPE = "consumer"  # the one whose metadata the broker can look into: which topics are subscribed to
Protocols = tuple[tuple[str, bytes], ...]
Reply = Callable[[dict[str, Any]], None]


class Join(NamedTuple):
    """What a JoinGroup request asks for."""

    member_id: str
    instance_id: str | None
    client_id: str
    client_host: str
    session_timeout_ms: int
    rebalance_timeout_ms: int
    protocol_type: str
    protocols: Protocols
    must_know_member_id: bool = True  # version 4 and later: an unknown member is first sent away with an id
    can_skip_assignment: bool = True  # version 9 and later


class Member:
    """One member. `join_reply` and `sync_reply` are set while its JoinGroup or SyncGroup waits for an answer. `is_new`
    until it has got its first one: it cannot send heartbeats before."""

    __slots__ = (
        "member_id", "instance_id", "client_id", "client_host", "session_timeout_ms", "rebalance_timeout_ms",
        "protocols", "assignment", "join_reply", "sync_reply", "is_new",
    )  # fmt: skip

    def __init__(self, member_id: str, join: Join, assignment: bytes = b""):
        self.member_id = member_id
        self.instance_id = join.instance_id
        self.client_id = join.client_id
        self.client_host = join.client_host
        self.session_timeout_ms = join.session_timeout_ms
        self.rebalance_timeout_ms = join.rebalance_timeout_ms
        self.protocols = join.protocols
        self.assignment = assignment
        self.join_reply: Reply | None = None
        self.sync_reply: Reply | None = None
        self.is_new = False

    def metadata(self, protocol: str | None) -> bytes:
        for name, metadata in self.protocols:
            if name == protocol:
                return metadata
        raise AssertionError(f"{self.member_id} does not speak {protocol}")

    def answer_join(self, response: dict[str, Any]) -> None:
        """Answer the waiting JoinGroup, if there is one."""
        reply, self.join_reply = self.join_reply, None
        if reply is not None:
            reply(response)

    def answer_sync(self, response: dict[str, Any]) -> bool:
        """Answer the waiting SyncGroup; says whether there was one."""
        reply, self.sync_reply = self.sync_reply, None
        if reply is not None:
            reply(response)
        return reply is not None

    @property
    def is_waiting(self) -> bool:
        """A member whose request the broker holds is alive, except for a new one, which may never have got its id."""
        return not self.is_new and (self.join_reply is not None or self.sync_reply is not None)


class Members:
    """The members, in the order in which they joined."""

    def __init__(self) -> None:
        self._by_id: dict[str, Member] = {}
        self._static: dict[str, str] = {}
        self._speakers: dict[str, int] = {}  # protocol -> how many members speak it
        self.pending: set[str] = set()
        self.leader: str | None = None

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._by_id.values())

    def __contains__(self, member_id: object) -> bool:
        return member_id in self._by_id

    def __getitem__(self, member_id: str) -> Member:
        return self._by_id[member_id]

    def with_instance(self, instance_id: str | None) -> Member | None:
        return self._by_id[self._static[instance_id]] if instance_id in self._static else None

    @property
    def waiting_to_join(self) -> int:
        return sum(member.join_reply is not None for member in self)

    @property
    def all_joined(self) -> bool:
        return not self.pending and all(member.join_reply is not None for member in self)

    @property
    def rebalance_timeout_ms(self) -> int:
        return max((member.rebalance_timeout_ms for member in self), default=0)

    def validate(self, member_id: str, instance_id: str | None) -> Member:
        """The member that a request speaks for. Raises UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID."""
        if instance_id is not None:
            owner = self.with_instance(instance_id)
            if owner is None:
                raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID)
            if owner.member_id != member_id:
                raise KafkaError(ErrorCode.FENCED_INSTANCE_ID)
        if member_id not in self._by_id:
            raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID)
        return self._by_id[member_id]

    def add(self, member: Member) -> None:
        assert member.member_id not in self._by_id and member.instance_id not in self._static
        self._by_id[member.member_id] = member
        if member.instance_id is not None:
            self._static[member.instance_id] = member.member_id
        self._count(member, 1)
        self.pending.discard(member.member_id)
        self.leader = self.leader or member.member_id

    def remove(self, member_id: str) -> None:
        """Forget a member or a pending one; another member leads where it did."""
        self.pending.discard(member_id)
        member = self._by_id.pop(member_id, None)
        if member is not None:
            self._count(member, -1)
            if member.instance_id is not None:
                del self._static[member.instance_id]
        if self.leader == member_id:
            self.leader = next(iter(self._by_id), None)

    def replace_static(self, old: Member, member_id: str) -> Member:
        """The same static member under a new id: it was restarted. Whoever holds the old id is fenced from now on."""
        new = Member(member_id, Join(
            member_id, old.instance_id, old.client_id, old.client_host, old.session_timeout_ms,
            old.rebalance_timeout_ms, "", old.protocols,
        ), old.assignment)  # fmt: skip
        self._by_id = {new.member_id if key == old.member_id else key: new if key == old.member_id else member
                       for key, member in self._by_id.items()}  # fmt: skip
        self._static[new.instance_id] = new.member_id
        if self.leader == old.member_id:
            self.leader = new.member_id
        return new

    def elect_joined_leader(self) -> bool:
        """Let a member that has joined lead, where the leader has not. False if nobody has joined."""
        if self.leader is not None and self._by_id[self.leader].join_reply is None:
            joined = next((member.member_id for member in self if member.join_reply is not None), None)
            if joined is None:
                return False
            self.leader = joined
        return self.leader is not None

    def set_protocols(self, member: Member, protocols: Protocols) -> None:
        self._count(member, -1)
        member.protocols = protocols
        self._count(member, 1)

    def _count(self, member: Member, by: int) -> None:
        for name in {name for name, _ in member.protocols}:  # a client may name one twice
            count = self._speakers.get(name, 0) + by
            if count:
                self._speakers[name] = count
            else:
                del self._speakers[name]

    def common_protocols(self) -> set[str]:
        """What all members speak."""
        return {name for name, count in self._speakers.items() if count == len(self._by_id)}

    def select_protocol(self) -> str:
        common = self.common_protocols()
        votes: dict[str, int] = {}
        for member in self:
            vote = next(name for name, _ in member.protocols if name in common)
            votes[vote] = votes.get(vote, 0) + 1
        return max(votes, key=votes.__getitem__)

    def subscribed_topics(self, protocol: str | None) -> frozenset[str] | None:
        """The topics that the members' metadata names; None where it is not what consumers write."""
        topics: set[str] = set()
        for member in self:
            subscribed = parse_subscription(member.metadata(protocol))
            if subscribed is None:
                return None
            topics.update(subscribed)
        return frozenset(topics)


def parse_subscription(metadata: bytes) -> Sequence[str] | None:
    """The topics in a consumer's metadata: int16 version, int32 count, int16-prefixed strings; what follows differs by
    version and is none of the broker's business. None where the bytes are not that."""
    topics = []
    try:
        version, count = struct.unpack_from(">hi", metadata)
        position = 6
        if version < 0 or not 0 <= count <= len(metadata):
            return None
        for _ in range(count):
            (size,) = struct.unpack_from(">h", metadata, position)
            topic = metadata[position + 2 : position + 2 + size] if size >= 0 else b""
            if size < 0 or len(topic) != size:
                return None
            topics.append(topic.decode())
            position += 2 + size
    except (struct.error, UnicodeDecodeError):
        return None
    return topics
