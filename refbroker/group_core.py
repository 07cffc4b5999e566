"""What is a consumer group: its fields, the checks that a request must pass, how it is stored, described and expired.

`group_state.py` has the other half: what it does when. Between two rebalances a group is a *generation*: a number, a
protocol, members, an assignment for each. A group of whose members nobody is left is Empty and stays, for its offsets.
A *simple* group never had members: it exists because offsets were committed in its name; it has no protocol type.

A group is stored as a GroupMetadataValue (`group_records.py`) in its partition of __consumer_offsets; the last one in
the log is what it comes back as after a restart: Empty where it has no members, else Stable, with all sessions begun
anew.
"""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, NamedTuple

from refbroker.errors import ErrorCode, KafkaError
from refbroker.group_members import CONSUMER_PROTOCOL_TYPE, Join, Member, Members
from refbroker.protocol import ProtocolError


class State(Enum):
    EMPTY = "Empty"
    PREPARING_REBALANCE = "PreparingRebalance"
    COMPLETING_REBALANCE = "CompletingRebalance"
    STABLE = "Stable"
    DEAD = "Dead"


class Settings(NamedTuple):
    initial_rebalance_delay_ms: int
    max_size: int


class Outside(NamedTuple):
    """What a group needs of the world. `call_later` is an event loop's: seconds, callback; a handle with `cancel()`.
    `store` takes a GroupMetadataValue and says when it is stored, or why not; never before it has returned."""

    settings: Settings
    call_later: Callable[[float, Callable[[], None]], Any]
    clock_ms: Callable[[], int]
    new_id: Callable[[], str]  # unique
    store: Callable[["GroupCore", dict[str, Any], Callable[[ErrorCode], None]], None]
    forget: Callable[["GroupCore"], None]  # told when nothing may be left of a group that was never stored


class GroupCore:
    """The fields of a group and all that does not change them, except for loading."""

    def __init__(self, group_id: str, outside: Outside):
        self.group_id = group_id
        self.state = State.EMPTY
        self.state_timestamp_ms = outside.clock_ms()  # -1: unknown
        self.generation = 0
        self.protocol_type: str | None = None  # None: a simple group
        self.protocol: str | None = None
        self.subscribed: frozenset[str] | None = None  # topics; None: unknown
        self.members = Members()
        self._outside = outside
        self._timers: dict[str, Any] = {}

    # Checks

    def _validate(self, member_id: str, instance_id: str | None, generation: int) -> Member:
        if self.state is State.DEAD:
            raise KafkaError(ErrorCode.COORDINATOR_NOT_AVAILABLE)
        member = self.members.validate(member_id, instance_id)
        if generation != self.generation:
            raise KafkaError(ErrorCode.ILLEGAL_GENERATION)
        return member

    def validate_commit(self, member_id: str, instance_id: str | None, generation: int) -> Member | None:
        """The member that commits; None for a commit from outside, which only an empty group takes. Raises
        UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID, ILLEGAL_GENERATION, REBALANCE_IN_PROGRESS."""
        if self.state is State.DEAD:
            raise KafkaError(ErrorCode.COORDINATOR_NOT_AVAILABLE)
        if generation < 0 and self.state is State.EMPTY:
            return None
        if generation < 0 and member_id == "" and instance_id is None:
            raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID)
        member = self._validate(member_id, instance_id, generation)
        if self.state is State.COMPLETING_REBALANCE:
            raise KafkaError(ErrorCode.REBALANCE_IN_PROGRESS)
        return member

    def check_deletable(self) -> None:
        """Raises NON_EMPTY_GROUP, GROUP_ID_NOT_FOUND."""
        if self.state is State.DEAD:
            raise KafkaError(ErrorCode.GROUP_ID_NOT_FOUND, f"Group {self.group_id} is in dead state.")
        if self.state is not State.EMPTY:
            raise KafkaError(ErrorCode.NON_EMPTY_GROUP, f"The group {self.group_id} is not empty.")

    def check_offsets_deletable(self) -> None:
        """A group with members loses offsets only of topics that it does not read, and only consumers say which they
        read. Raises NON_EMPTY_GROUP, GROUP_ID_NOT_FOUND."""
        if self.state in (State.EMPTY, State.DEAD) or self.protocol_type != CONSUMER_PROTOCOL_TYPE:
            self.check_deletable()

    def is_subscribed_to(self, topic: str) -> bool:
        """Where members' metadata could not be read a consumer group counts as subscribed to everything."""
        if self.subscribed is None:
            return self.protocol_type == CONSUMER_PROTOCOL_TYPE
        return topic in self.subscribed

    def expires_after(self, commit_timestamp_ms: int) -> int | None:
        """From when offsets.retention.minutes count for an offset committed then; None: it does not expire."""
        if self.protocol_type is None:
            return commit_timestamp_ms
        if self.state is State.EMPTY:
            return self.state_timestamp_ms if self.state_timestamp_ms >= 0 else commit_timestamp_ms
        if self.state is State.STABLE and self.protocol_type == CONSUMER_PROTOCOL_TYPE and self.subscribed is not None:
            return commit_timestamp_ms
        return None

    @property
    def is_forgettable(self) -> bool:
        """Nothing was ever stored about it: it had pending members at most, and they did not come back."""
        return self.state is State.EMPTY and self.generation == 0 and not self.members.pending

    # Storing, describing

    def snapshot(self, assignments: Mapping[str, bytes]) -> dict[str, Any]:
        """A GroupMetadataValue."""
        return {
            "protocol_type": self.protocol_type or "",
            "generation": self.generation,
            "protocol": self.protocol,
            "leader": self.members.leader,
            "current_state_timestamp": self.state_timestamp_ms,
            "members": [
                {
                    "member_id": member.member_id,
                    "group_instance_id": member.instance_id,
                    "client_id": member.client_id,
                    "client_host": member.client_host,
                    "rebalance_timeout": member.rebalance_timeout_ms,
                    "session_timeout": member.session_timeout_ms,
                    "subscription": member.metadata(self.protocol),
                    "assignment": assignments[member.member_id],
                }
                for member in self.members
            ],
        }

    def restore(self, value: Mapping[str, Any]) -> None:
        """Become what a GroupMetadataValue says. The timers are begun by `Group.wake`, when all is loaded. Raises
        ProtocolError where the value contradicts itself."""
        for key in ("member_id", "group_instance_id"):
            names = [stored[key] for stored in value["members"] if stored[key] is not None]
            if len(names) != len(set(names)):
                raise ProtocolError(f"group {self.group_id} has a {key} twice")
        self.members = Members()
        self.generation = value["generation"]
        self.protocol_type = value["protocol_type"] or None
        self.protocol = value["protocol"] if not value["members"] else value["protocol"] or ""
        self.state_timestamp_ms = value["current_state_timestamp"]
        for stored in value["members"]:
            session_ms, rebalance_ms = stored["session_timeout"], stored["rebalance_timeout"]
            join = Join(
                stored["member_id"], stored["group_instance_id"], stored["client_id"], stored["client_host"],
                session_ms, session_ms if rebalance_ms < 0 else rebalance_ms, value["protocol_type"],
                ((self.protocol, stored["subscription"]),),
            )  # fmt: skip
            self.members.add(Member(stored["member_id"], join, stored["assignment"]))
        if value["leader"] in self.members:
            self.members.leader = value["leader"]
        self.state = State.STABLE if self.members else State.EMPTY
        self.subscribed = self._subscribed_topics()

    def _subscribed_topics(self) -> frozenset[str] | None:
        return self.members.subscribed_topics(self.protocol) if self.protocol_type == CONSUMER_PROTOCOL_TYPE else None

    def describe(self) -> dict[str, Any]:
        """A DescribedGroup. Metadata and protocol only of a stable group: else they are about to change."""
        is_stable = self.state is State.STABLE
        return {
            "error_code": ErrorCode.NONE,
            "group_id": self.group_id,
            "group_state": self.state.value,
            "protocol_type": self.protocol_type or "",
            "protocol_data": (self.protocol or "") if is_stable else "",
            "members": [
                {
                    "member_id": member.member_id,
                    "group_instance_id": member.instance_id,
                    "client_id": member.client_id,
                    "client_host": member.client_host,
                    "member_metadata": member.metadata(self.protocol) if is_stable else b"",
                    "member_assignment": member.assignment,
                }
                for member in self.members
            ],
        }

    # Time

    def _move(self, state: State) -> None:
        self.state = state
        self.state_timestamp_ms = self._outside.clock_ms()

    def _schedule(self, name: str, delay_ms: int, callback: Callable[[], None]) -> None:
        """Call back after the delay; a second timer of the same name replaces the first. What has come while everything
        stood still is heard first: that takes the event loop one more turn."""

        def ring() -> None:
            del self._timers[name]
            callback()

        def is_due() -> None:
            self._timers[name] = self._outside.call_later(0, ring)

        self._cancel(name)
        self._timers[name] = self._outside.call_later(delay_ms / 1000, is_due)

    def _cancel(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def stop(self) -> None:
        """No timer rings any more; every request is refused from now on."""
        for name in list(self._timers):
            self._cancel(name)
        self.state = State.DEAD
