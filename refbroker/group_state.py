"""What does a consumer group do next? The classic group protocol as a state machine, without I/O.

    Empty --join--> PreparingRebalance --all joined, or time is up--> CompletingRebalance --leader's sync--> Stable
      ^                  |   ^                                           |                                   |
      |                  |   '-------- join, leave, a member that fails, the leader joins again -------------'
      '--nobody left-----'                                                          (Dead: deleted, by any way)

In PreparingRebalance every JoinGroup waits until all known members have joined, or the longest of their rebalance
timeouts is over; who has not joined by then is out (static members stay until their session times out). Then the
generation goes up by one and everybody gets an answer; the leader's has all members in it. In CompletingRebalance the
SyncGroups wait for the leader's, which holds the assignments. They are answered once these are stored (`store`).

1. Every request gets exactly one answer, also where the group is dropped.
2. The generation never goes down, and the members of one generation see the same members, leader and protocol.
3. A heartbeat, sync or commit of another generation is refused, and so is one that names an unknown member or an
   instance id that another member holds.
4. A member that the broker holds no request of, and which has not been heard of for its session timeout, is out.
5. An assignment is handed out only after the record that holds it is stored, and only if no rebalance has come between.

Apache Kafka differs: a JoinGroup or SyncGroup that is overtaken by another one of the same member is never answered
there (here: REBALANCE_IN_PROGRESS), a group may have any number of pending members (here `PENDING_MEMBERS_MAX`), and a
group is stored when its first member asks for an id (here when it has something to remember).
"""

from collections.abc import Mapping
from typing import Any

from refbroker.errors import ErrorCode, KafkaError
from refbroker.group_core import GroupCore, Outside, State
from refbroker.group_members import Join, Member, Reply

NEW_MEMBER_JOIN_TIMEOUT_MS = 300_000  # a new member cannot send heartbeats: it is out if its join takes longer
PENDING_MEMBERS_MAX = 10_000  # ids of a group handed out and not used yet: memory, until their sessions time out
CLIENT_ID_CHARS_MAX = 255  # of a client id or instance id within a member id, which must stay a string of the protocol


def join_response(member_id: str, error: ErrorCode = ErrorCode.NONE, **fields: Any) -> dict[str, Any]:
    return {
        "error_code": error, "generation_id": -1, "protocol_type": None, "protocol_name": None, "leader": "",
        "skip_assignment": False, "member_id": member_id, "members": [], **fields,
    }  # fmt: skip


def sync_response(
    error: ErrorCode, protocol_type: str | None = None, protocol: str | None = None, assignment: bytes = b""
) -> dict[str, Any]:
    return {"error_code": error, "protocol_type": protocol_type, "protocol_name": protocol, "assignment": assignment}


class Group(GroupCore):
    """One group. Requests come in as method calls; `join` and `sync` answer through a callback, at once or later, the
    others raise KafkaError or return."""

    def __init__(self, group_id: str, outside: Outside):
        super().__init__(group_id, outside)
        self._is_initial_rebalance = False
        self._joined_since = False  # a new member came during the initial delay
        self._waiting_for_sync: set[str] = set()
        self._generation_storing = -1  # whose assignments are on their way to the log

    def wake(self) -> None:
        """Begin the sessions of a group that was loaded."""
        for member in self.members:
            self.heard_from(member)
        if len(self.members) > self._outside.settings.max_size:  # which was made smaller meanwhile
            self._prepare_rebalance()

    def stop(self) -> None:
        super().stop()
        for member in self.members:
            member.answer_join(join_response(member.member_id, ErrorCode.COORDINATOR_NOT_AVAILABLE))
            member.answer_sync(sync_response(ErrorCode.COORDINATOR_NOT_AVAILABLE))

    # Joining

    def join(self, join: Join, reply: Reply) -> None:
        member_id = join.member_id
        if not self._has_room_for(member_id):
            self.members.remove(member_id)
            self._cancel(member_id)
            reply(join_response("", ErrorCode.GROUP_MAX_SIZE_REACHED))
            self._complete_if_all_joined()
        elif self.state is State.DEAD:
            reply(join_response(member_id, ErrorCode.COORDINATOR_NOT_AVAILABLE))
        elif not self._speaks_with_us(join):
            reply(join_response(member_id, ErrorCode.INCONSISTENT_GROUP_PROTOCOL))
        elif member_id == "":
            self._join_unknown(join, reply)
        elif member_id in self.members.pending and join.instance_id is None:
            self._add(join, member_id, reply)
        else:
            try:
                member = self.members.validate(member_id, join.instance_id)
            except KafkaError as error:
                reply(join_response(member_id, error.code))
            else:
                self._rejoin(member, join, reply)

    def _has_room_for(self, member_id: str) -> bool:
        """While members join, those who have joined count: so the last ones of a group grown too large are out."""
        size_max = self._outside.settings.max_size
        if member_id == "" and len(self.members.pending) >= PENDING_MEMBERS_MAX:
            return False
        if self.state is State.PREPARING_REBALANCE:
            has_joined = member_id in self.members and self.members[member_id].join_reply is not None
            return has_joined or self.members.waiting_to_join < size_max
        if self.state in (State.COMPLETING_REBALANCE, State.STABLE):
            return member_id in self.members or len(self.members) < size_max
        return True

    def _speaks_with_us(self, join: Join) -> bool:
        if self.state is State.EMPTY:
            return bool(join.protocol_type and join.protocols)
        common = self.members.common_protocols()
        return join.protocol_type == self.protocol_type and (
            any(name in common for name, _ in join.protocols) or (not self.members and bool(join.protocols))
        )

    def _join_unknown(self, join: Join, reply: Reply) -> None:
        name = join.client_id if join.instance_id is None else join.instance_id
        member_id = f"{name[:CLIENT_ID_CHARS_MAX]}-{self._outside.new_id()}"
        former = self.members.with_instance(join.instance_id)
        if former is not None:
            self._replace_static(former, member_id, join, reply)
        elif join.instance_id is None and join.must_know_member_id:
            self.members.pending.add(member_id)
            self._schedule(member_id, join.session_timeout_ms, lambda: self._session_expired(member_id))
            reply(join_response(member_id, ErrorCode.MEMBER_ID_REQUIRED))
        else:
            self._add(join, member_id, reply)

    def _add(self, join: Join, member_id: str, reply: Reply) -> None:
        if not self.members:
            self.protocol_type = join.protocol_type
        member = Member(member_id, join)
        member.is_new = True
        member.join_reply = reply
        self.members.add(member)
        self._joined_since = True
        self.heard_from(member, NEW_MEMBER_JOIN_TIMEOUT_MS)
        self._rebalance_or_complete()

    def _rejoin(self, member: Member, join: Join, reply: Reply) -> None:
        is_same = member.protocols == join.protocols
        if self.state is State.PREPARING_REBALANCE:
            self._update(member, join, reply)
            self._rebalance_or_complete()
        elif is_same and (self.state is State.COMPLETING_REBALANCE or member.member_id != self.members.leader):
            reply(self._joined(member))  # it did not get the answer to its join
            self.heard_from(member)
        else:
            # other metadata; or the leader, which joins again when what it assigns from has changed (more partitions)
            self._update(member, join, reply)
            self._rebalance_or_complete()

    def _update(self, member: Member, join: Join, reply: Reply) -> None:
        self.members.set_protocols(member, join.protocols)
        member.session_timeout_ms = join.session_timeout_ms
        member.rebalance_timeout_ms = join.rebalance_timeout_ms
        member.answer_join(join_response(member.member_id, ErrorCode.REBALANCE_IN_PROGRESS))  # overtaken
        member.join_reply = reply

    def _replace_static(self, former: Member, member_id: str, join: Join, reply: Reply) -> None:
        """A static member was restarted. In a stable group it takes its place again without a rebalance, if it says
        the same as before."""
        was_leader = self.members.leader
        former.answer_join(join_response(former.member_id, ErrorCode.FENCED_INSTANCE_ID))
        former.answer_sync(sync_response(ErrorCode.FENCED_INSTANCE_ID))
        self._cancel(former.member_id)
        member = self.members.replace_static(former, member_id)
        if former.member_id in self._waiting_for_sync:
            self._waiting_for_sync.remove(former.member_id)
            self._waiting_for_sync.add(member_id)
        self.heard_from(member)
        self._update(member, join, reply)
        if self.state is State.COMPLETING_REBALANCE:  # the leader may be assigning to the old id right now
            self._prepare_rebalance()
        elif self.state is State.STABLE and self.members.select_protocol() == self.protocol:
            self._store_replaced(former, member, was_leader, join.can_skip_assignment)
        elif self.state is State.STABLE:
            self._rebalance_or_complete()
        else:
            self._complete_if_all_joined()

    def _store_replaced(self, former: Member, member: Member, was_leader: str | None, can_skip: bool) -> None:
        generation = self.generation

        def stored(error: ErrorCode) -> None:
            if member.join_reply is None or self.generation != generation or self.state is not State.STABLE:
                return  # a rebalance came between and has answered, or will
            if error is not ErrorCode.NONE:
                member.answer_join(join_response("", error))
                self._remove(member)
                self._rebalance_or_complete()
                return
            is_leader = member.member_id == self.members.leader
            response = self._joined(member)
            if not can_skip:  # an old client that was the leader must not assign again: it is not told that it leads
                response |= {"leader": was_leader, "members": []}
            else:
                response["skip_assignment"] = is_leader
            member.answer_join(response)
            self.heard_from(member)  # while its request waited no timer ran

        self._outside.store(self, self.snapshot({m.member_id: m.assignment for m in self.members}), stored)

    def _joined(self, member: Member) -> dict[str, Any]:
        is_leader = member.member_id == self.members.leader
        return join_response(
            member.member_id, generation_id=self.generation, protocol_type=self.protocol_type,
            protocol_name=self.protocol, leader=self.members.leader,
            members=[
                {"member_id": m.member_id, "group_instance_id": m.instance_id, "metadata": m.metadata(self.protocol)}
                for m in self.members
            ] if is_leader else [],
        )  # fmt: skip

    # Rebalancing

    def _rebalance_or_complete(self) -> None:
        if self.state is State.PREPARING_REBALANCE:
            self._complete_if_all_joined()
        else:
            self._prepare_rebalance()

    def _complete_if_all_joined(self) -> None:
        if self.state is State.PREPARING_REBALANCE and not self._is_initial_rebalance and self.members.all_joined:
            self._complete_join()

    def _prepare_rebalance(self) -> None:
        if self.state is State.COMPLETING_REBALANCE:
            for member in self.members:
                member.assignment = b""
            self._answer_syncs(ErrorCode.REBALANCE_IN_PROGRESS)
        self._waiting_for_sync.clear()
        self._cancel("sync timeout")
        self._is_initial_rebalance = self.state is State.EMPTY
        self._move(State.PREPARING_REBALANCE)
        if self._is_initial_rebalance:
            # a group that has just come alive gets time to assemble, or each of its members causes a rebalance
            delay_ms = self._outside.settings.initial_rebalance_delay_ms
            self._joined_since = False
            self._wait_for_more(delay_ms, max(self.members.rebalance_timeout_ms - delay_ms, 0))
        elif self.members.all_joined:
            self._complete_join()
        else:
            self._schedule("join timeout", self.members.rebalance_timeout_ms, self._complete_join)

    def _wait_for_more(self, delay_ms: int, remaining_ms: int) -> None:
        def waited() -> None:
            if self._joined_since and remaining_ms > 0:
                self._joined_since = False
                initial_ms = self._outside.settings.initial_rebalance_delay_ms
                self._wait_for_more(min(initial_ms, remaining_ms), max(remaining_ms - delay_ms, 0))
            else:
                self._complete_join()

        self._schedule("join timeout", delay_ms, waited)

    def _complete_join(self) -> None:
        """The members are known: on to the next generation."""
        assert self.state is State.PREPARING_REBALANCE, self.state
        self._cancel("join timeout")
        for member in [m for m in self.members if m.join_reply is None and m.instance_id is None]:
            self._remove(member)
        if self.members and not self.members.elect_joined_leader():
            # only static members, all silent: wait until one joins or their sessions time out
            self._schedule("join timeout", self.members.rebalance_timeout_ms, self._complete_join)
            return
        self._is_initial_rebalance = False
        self.generation += 1
        if not self.members:
            self._become_empty()
            return
        self.protocol = self.members.select_protocol()
        self.subscribed = self._subscribed_topics()
        self._move(State.COMPLETING_REBALANCE)
        self._waiting_for_sync = {member.member_id for member in self.members}
        for member in self.members:
            self.heard_from(member)
            member.is_new = False
            if member.join_reply is not None:
                member.answer_join(self._joined(member))
        self._schedule("sync timeout", self.members.rebalance_timeout_ms, self._sync_timed_out)

    def _become_empty(self) -> None:
        self.protocol = None
        self.subscribed = self._subscribed_topics()
        self._move(State.EMPTY)
        # If storing it fails the former generation comes back after a restart, and times out: nothing to do about it.
        self._outside.store(self, self.snapshot({}), lambda error: None)

    def _sync_timed_out(self) -> None:
        """Who got a generation and never asked for its assignment is out."""
        if self.state in (State.COMPLETING_REBALANCE, State.STABLE) and self._waiting_for_sync:
            for member_id in list(self._waiting_for_sync):
                self._remove(self.members[member_id])
            self._prepare_rebalance()

    # Assigning

    def sync(self, member_id: str, instance_id: str | None, generation: int, protocol_type: str | None,
             protocol: str | None, assignments: Mapping[str, bytes], reply: Reply) -> None:  # fmt: skip
        try:
            member = self._validate(member_id, instance_id, generation)
        except KafkaError as error:
            reply(sync_response(error.code))
            return
        if protocol_type not in (None, self.protocol_type) or protocol not in (None, self.protocol):
            reply(sync_response(ErrorCode.INCONSISTENT_GROUP_PROTOCOL))
        elif self.state is State.PREPARING_REBALANCE:
            reply(sync_response(ErrorCode.REBALANCE_IN_PROGRESS))
        elif self.state is State.STABLE:
            self._has_synced(member)
            self.heard_from(member)
            reply(sync_response(ErrorCode.NONE, self.protocol_type, self.protocol, member.assignment))
        else:
            member.answer_sync(sync_response(ErrorCode.REBALANCE_IN_PROGRESS))  # overtaken
            member.sync_reply = reply
            self._has_synced(member)
            if member_id == self.members.leader and self._generation_storing != generation:
                self._generation_storing = generation
                self._store_assignments({m.member_id: assignments.get(m.member_id, b"") for m in self.members})

    def _has_synced(self, member: Member) -> None:
        self._waiting_for_sync.discard(member.member_id)
        if not self._waiting_for_sync:
            self._cancel("sync timeout")

    def _store_assignments(self, assignments: dict[str, bytes]) -> None:
        generation = self.generation

        def stored(error: ErrorCode) -> None:
            if self.state is not State.COMPLETING_REBALANCE or self.generation != generation:
                return  # a rebalance came between: those who wait have been told so
            for member in self.members:
                member.assignment = assignments[member.member_id] if error is ErrorCode.NONE else b""
            if error is ErrorCode.NONE:
                self._answer_syncs(ErrorCode.NONE)
                self._move(State.STABLE)
            else:
                self._answer_syncs(error)
                self._prepare_rebalance()

        self._outside.store(self, self.snapshot(assignments), stored)

    def _answer_syncs(self, error: ErrorCode) -> None:
        for member in self.members:
            if error is ErrorCode.NONE:
                response = sync_response(error, self.protocol_type, self.protocol, member.assignment)
            else:
                response = sync_response(error)
            if member.answer_sync(response):
                self.heard_from(member)  # while its request waited no timer ran

    # Staying alive, leaving

    def heartbeat(self, member_id: str, instance_id: str | None, generation: int) -> None:
        """Raises REBALANCE_IN_PROGRESS where the member is to join again."""
        member = self._validate(member_id, instance_id, generation)
        self.heard_from(member)
        if self.state is State.PREPARING_REBALANCE:
            raise KafkaError(ErrorCode.REBALANCE_IN_PROGRESS)

    def leave(self, member_id: str, instance_id: str | None) -> None:
        """Take one member out; `left` must follow when all of a request are out. A pending one has no part in the
        generation: nobody has to join again. An empty member id beside an instance id is an administrator's. Raises
        UNKNOWN_MEMBER_ID, FENCED_INSTANCE_ID, COORDINATOR_NOT_AVAILABLE."""
        if self.state is State.DEAD:
            raise KafkaError(ErrorCode.COORDINATOR_NOT_AVAILABLE)
        if member_id == "":
            member = self.members.with_instance(instance_id)
            if member is None:
                raise KafkaError(ErrorCode.UNKNOWN_MEMBER_ID)
            self._remove(member)
        elif member_id in self.members.pending:
            self.members.remove(member_id)
            self._cancel(member_id)
            self._complete_if_all_joined()
        else:
            self._remove(self.members.validate(member_id, instance_id))

    def left(self) -> None:
        if self.state in (State.STABLE, State.COMPLETING_REBALANCE):
            self._prepare_rebalance()
        else:
            self._complete_if_all_joined()

    def _remove(self, member: Member) -> None:
        """Its waiting requests are answered so that a client that is still there starts anew."""
        member.answer_join(join_response("", ErrorCode.UNKNOWN_MEMBER_ID))
        member.answer_sync(sync_response(ErrorCode.UNKNOWN_MEMBER_ID))
        self._cancel(member.member_id)
        self._waiting_for_sync.discard(member.member_id)
        self.members.remove(member.member_id)

    def _session_expired(self, member_id: str) -> None:
        if member_id in self.members.pending:
            self.members.remove(member_id)
            self._complete_if_all_joined()
            self._outside.forget(self)
        elif member_id in self.members and not self.members[member_id].is_waiting:
            self._remove(self.members[member_id])
            self.left()

    def heard_from(self, member: Member, timeout_ms: int | None = None) -> None:
        """Its session begins anew."""
        member_id = member.member_id
        self._schedule(member_id, timeout_ms or member.session_timeout_ms, lambda: self._session_expired(member_id))
