"""Who coordinates the consumer groups?

The only broker there is: this one. `GroupCoordinator` owns all groups (`group_state.py`), the committed offsets
(`offsets.py`) and their log (`group_log.py`), and is what the handlers of the group APIs talk to.

The rule that everything here keeps: between looking at a group and changing it, or handing its records to the log,
there is no `await`. The event loop is the lock.

A group exists from the first accepted JoinGroup, or from the first offset committed in its name. It ends by
DeleteGroups, or when it is empty and none of its offsets is left, which is looked at every
offsets.retention.check.interval.ms.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import uuid4

from refbroker.errors import ErrorCode, KafkaError
from refbroker.group_core import GroupCore, Outside, Settings, State
from refbroker.group_log import GroupLog, Parsed
from refbroker.group_members import Join
from refbroker.group_records import Committed, GroupRecord, group_key, group_value, offset_key, offset_value
from refbroker.group_state import Group, join_response, sync_response
from refbroker.offsets import Offsets, Position

logger = logging.getLogger(__name__)

GROUP_TYPE = "classic"
MS_PER_MINUTE = 60_000
JOIN_BYTES_MAX = 1 << 20  # of a member's protocols: they are kept, and what is larger fits no record of the log


class Commit(NamedTuple):
    topic: str
    partition: int
    committed: Committed


class GroupCoordinator:
    def __init__(self, broker, new_id: Callable[[], str] = lambda: str(uuid4())):
        self._broker = broker
        self._new_id = new_id
        self._groups: dict[str, Group] = {}
        self._offsets = Offsets()
        self._log = GroupLog(broker, self._apply, self._replay)
        self._outside: Outside | None = None
        self._load_task: asyncio.Task | None = None
        self._expiry_timer: asyncio.TimerHandle | None = None

    # Start and stop

    async def start(self) -> None:
        """Begin to load; requests are answered from now on, if with COORDINATOR_LOAD_IN_PROGRESS."""
        loop, config = asyncio.get_running_loop(), self._broker.config
        settings = Settings(config.group_initial_rebalance_delay_ms, config.group_max_size)
        self._outside = Outside(settings, loop.call_later, self._broker.clock, self._new_id, self._store, self._forget)
        self._log.begin_loading()
        self._load_task = loop.create_task(self._load())
        self._schedule_expiry()

    async def loaded(self) -> None:
        """Wait until everything is loaded."""
        await asyncio.shield(self._load_task)

    async def stop(self) -> None:
        """No timer rings, no record is written any more."""
        if self._expiry_timer:
            self._expiry_timer.cancel()
        if self._load_task:
            self._load_task.cancel()
            await asyncio.gather(self._load_task, return_exceptions=True)
        for group in self._groups.values():
            group.stop()
        await self._log.stop()

    async def _load(self) -> None:
        await self._log.load(self._partition_loaded)
        if self._groups:
            logger.info("%d groups loaded", len(self._groups))
        committed_for = {topic for group in self._offsets for topic, _ in self._offsets.of(group)}
        for topic in committed_for - self._broker.metadata.topics.keys():  # deleted just before the broker stopped
            await self.topic_deleted(topic)

    def _partition_loaded(self, number: int) -> None:
        for group_id in self._offsets:
            if group_id not in self._groups and self._log.partition_of(group_id) == number:
                self._groups[group_id] = Group(group_id, self._outside)
        for group in self._groups.values():
            if self._log.partition_of(group.group_id) == number:
                group.wake()

    def _replay(self, record: Parsed | None) -> None:
        """A record of the log, at start."""
        if record is None:
            return
        if not isinstance(record, GroupRecord):
            self._offsets.apply(record)
        elif record.value is None:
            self._groups.pop(record.group, None)
        else:
            group = self._groups.setdefault(record.group, Group(record.group, self._outside))
            group.restore(record.value)

    def _apply(self, record: Parsed) -> None:
        """A record that was written just now. Groups have changed before theirs was: only offsets follow it."""
        if isinstance(record, GroupRecord):
            return
        self._offsets.apply(record)
        if record.committed is not None and record.group not in self._groups:
            self._groups[record.group] = Group(record.group, self._outside)
        elif record.committed is None and record.group in self._groups:
            self._forget(self._groups[record.group])

    def _forget(self, group: GroupCore) -> None:
        """Drop a group of which nothing was ever stored, or is left."""
        group_id = group.group_id
        if group.is_forgettable and not self._offsets.of(group_id) and self._groups.get(group_id) is group:
            self._groups.pop(group_id).stop()

    # Reaching a group

    async def ready(self, group_id: str) -> None:
        """Before a request that may write: the topic is there, and the group's partition serves. Raises KafkaError."""
        self._check(group_id)
        if not self._log.partitions:
            await self._log.create()
            self._check(group_id)

    async def find(self, group_id: str) -> None:
        """Raises KafkaError where the group has no coordinator now; one that is loading is one."""
        try:
            await self.ready(group_id)
        except KafkaError as error:
            if error.code is not ErrorCode.COORDINATOR_LOAD_IN_PROGRESS:
                raise KafkaError(ErrorCode.COORDINATOR_NOT_AVAILABLE, error.message) from error

    def _check(self, group_id: str) -> None:
        if not self._log.is_current():
            self._start_over()
        self._log.check(group_id)

    def _start_over(self) -> None:
        """The topic was deleted: so are all groups and offsets."""
        for group in self._groups.values():
            group.stop()
        self._groups.clear()
        self._offsets = Offsets()
        self._log.attach()

    def _known(self, group_id: str, otherwise: ErrorCode) -> Group:
        self._check(group_id)
        if group_id not in self._groups:
            raise KafkaError(otherwise, f"Group {group_id} not found.")
        return self._groups[group_id]

    # Membership

    async def join(self, group_id: str, join: Join) -> dict[str, Any]:
        config = self._broker.config
        sizes = (len(name) + len(metadata) for name, metadata in join.protocols)
        try:
            check_group_id(group_id)
            low_ms, high_ms = config.group_min_session_timeout_ms, config.group_max_session_timeout_ms
            if not low_ms <= join.session_timeout_ms <= high_ms:
                raise KafkaError(ErrorCode.INVALID_SESSION_TIMEOUT)
            if sum(sizes) > JOIN_BYTES_MAX:
                raise KafkaError(ErrorCode.UNKNOWN_SERVER_ERROR, "member metadata too large")
            await self.ready(group_id)
        except KafkaError as error:
            return join_response(join.member_id, error.code)
        group = self._groups.get(group_id)
        if group is None:
            if join.member_id != "":
                return join_response(join.member_id, ErrorCode.UNKNOWN_MEMBER_ID)
            group = Group(group_id, self._outside)
        answer, reply = _answer()
        group.join(join, reply)
        if group.members or group.members.pending:
            self._groups[group_id] = group
        return await answer

    async def sync(
        self, group_id: str, member_id: str, instance_id: str | None, generation: int, protocol_type: str | None,
        protocol: str | None, assignments: Mapping[str, bytes],
    ) -> dict[str, Any]:  # fmt: skip
        try:
            check_group_id(group_id)
            group = self._known(group_id, ErrorCode.UNKNOWN_MEMBER_ID)
        except KafkaError as error:
            return sync_response(error.code)
        answer, reply = _answer()
        group.sync(member_id, instance_id, generation, protocol_type, protocol, assignments, reply)
        return await answer

    def heartbeat(self, group_id: str, member_id: str, instance_id: str | None, generation: int) -> None:
        """Raises KafkaError."""
        check_group_id(group_id)
        try:
            group = self._known(group_id, ErrorCode.UNKNOWN_MEMBER_ID)
        except KafkaError as error:
            if error.code is ErrorCode.COORDINATOR_LOAD_IN_PROGRESS:
                return  # its session begins anew when the group is loaded
            raise
        group.heartbeat(member_id, instance_id, generation)

    def leave(self, group_id: str, members: Sequence[tuple[str, str | None]]) -> list[ErrorCode]:
        """Takes (member id, instance id); gives an error for each. Raises KafkaError for all of them."""
        check_group_id(group_id)
        try:
            group = self._known(group_id, ErrorCode.UNKNOWN_MEMBER_ID)
        except KafkaError as error:
            if error.code is ErrorCode.UNKNOWN_MEMBER_ID:
                return [error.code] * len(members)
            raise
        errors, size = [], len(group.members)
        for member_id, instance_id in members:
            try:
                group.leave(member_id, instance_id)
                errors.append(ErrorCode.NONE)
            except KafkaError as error:
                if error.code is ErrorCode.COORDINATOR_NOT_AVAILABLE:
                    raise
                errors.append(error.code)
        if len(group.members) < size:
            group.left()
        self._forget(group)
        return errors

    def _store(self, group: GroupCore, value: dict[str, Any], then: Callable[[ErrorCode], None]) -> None:
        def stored(future: asyncio.Future) -> None:
            error = future.result()
            then(ErrorCode.UNKNOWN_SERVER_ERROR if error is ErrorCode.MESSAGE_TOO_LARGE else error)

        records = [(group_key(group.group_id), group_value(value))]
        self._log.write(group.group_id, records).add_done_callback(stored)

    # Offsets

    async def commit(
        self, group_id: str, member_id: str, instance_id: str | None, generation: int, commits: Sequence[Commit], *,
        version: int,
    ) -> ErrorCode:  # fmt: skip
        """All of them or none. NONE is an acknowledgement under the flush policy of __consumer_offsets (C8.1)."""
        try:
            await self.ready(group_id)
            group = self._groups.get(group_id)
            if group is None and generation >= 0:
                return ErrorCode.GROUP_ID_NOT_FOUND if version >= 9 else ErrorCode.ILLEGAL_GENERATION
            member = group.validate_commit(member_id, instance_id, generation) if group else None
        except KafkaError as error:
            return error.code
        if member is not None:
            group.heard_from(member)
        records = [(offset_key(group_id, c.topic, c.partition), offset_value(c.committed)) for c in commits]
        error = await self._log.write(group_id, records)
        return ErrorCode.INVALID_COMMIT_OFFSET_SIZE if error is ErrorCode.MESSAGE_TOO_LARGE else error

    async def committed(self, group_id: str, *, stable: bool) -> Mapping[Position, Committed]:
        """All offsets of a group; `stable`: including those that are on their way to the disk. Raises KafkaError."""
        self._check(group_id)
        if stable:
            await self._log.drain(group_id)
        return self._offsets.of(group_id)

    async def delete_offsets(self, group_id: str, positions: Collection[Position]) -> dict[Position, ErrorCode]:
        """Raises KafkaError: GROUP_ID_NOT_FOUND, NON_EMPTY_GROUP, ..."""
        check_group_id(group_id)
        group = self._known(group_id, ErrorCode.GROUP_ID_NOT_FOUND)
        group.check_offsets_deletable()
        offsets = self._offsets.of(group_id)
        kept = {position for position in positions if group.is_subscribed_to(position[0])}
        await _written(self._log.write_all(group_id, _tombstones(group_id, (offsets.keys() & set(positions)) - kept)))
        return {position: ErrorCode.GROUP_SUBSCRIBED_TO_TOPIC if position in kept else ErrorCode.NONE for position in positions}

    async def topic_deleted(self, topic: str) -> None:
        """Forget what was committed for it, before anybody can make another one of that name."""
        if not self._log.is_current():
            self._start_over()
        commits = [(group, *position) for group in self._offsets for position in self._offsets.of(group)]
        commits += [(record.group, record.topic, record.partition) for record in self._unapplied_commits()]
        by_group: dict[str, list[Position]] = {}
        for group, name, partition in commits:
            if name == topic:
                by_group.setdefault(group, []).append((topic, partition))
        for group, positions in by_group.items():
            try:
                self._check(group)
                self._log.write_all(group, _tombstones(group, positions))
            except KafkaError as error:
                logger.warning("group %s keeps its offsets of the deleted topic %s: %s", group, topic, error)
        for group in by_group:
            await self._log.drain(group)

    def _unapplied_commits(self) -> Iterable[Any]:
        return (r for r in self._log.unapplied() if not isinstance(r, GroupRecord) and r.committed is not None)

    # Administration

    def describe(self, group_id: str) -> dict[str, Any]:
        """Raises KafkaError: GROUP_ID_NOT_FOUND, ..."""
        return self._known(group_id, ErrorCode.GROUP_ID_NOT_FOUND).describe()

    def listed(self, states: Collection[str] = (), types: Collection[str] = ()) -> list[dict[str, Any]]:
        """Filters are in any case; an empty one lets all through. Raises KafkaError(COORDINATOR_LOAD_IN_PROGRESS)."""
        if self._log.is_loading:
            raise KafkaError(ErrorCode.COORDINATOR_LOAD_IN_PROGRESS)
        states = {state.strip().lower() for state in states}
        if types and GROUP_TYPE not in {name.strip().lower() for name in types}:
            return []
        return [
            {
                "group_id": group.group_id,
                "protocol_type": group.protocol_type or "",
                "group_state": group.state.value,
                "group_type": GROUP_TYPE,
            }
            for group in self._groups.values()
            if not states or group.state.value.lower() in states
        ]

    async def delete(self, group_id: str) -> None:
        """Raises KafkaError: NON_EMPTY_GROUP, GROUP_ID_NOT_FOUND, ..."""
        group = self._known(group_id, ErrorCode.GROUP_ID_NOT_FOUND)
        group.check_deletable()
        await _written(self._drop(group))

    def _drop(self, group: Group) -> asyncio.Future:
        """The group is gone, and the log is told so. A new group of its name begins at generation 0, behind that in the
        log; where offsets are left since it could not be written there is one at once, which can be deleted or expire."""
        group_id = group.group_id
        group.stop()
        self._groups.pop(group_id)
        positions = set(self._offsets.of(group_id))
        positions.update((r.topic, r.partition) for r in self._unapplied_commits() if r.group == group_id)
        written = self._log.write_all(group_id, [*_tombstones(group_id, positions), (group_key(group_id), None)])

        def check(_: asyncio.Future) -> None:
            if self._offsets.of(group_id):
                self._groups.setdefault(group_id, Group(group_id, self._outside))

        written.add_done_callback(check)
        return written

    # Expiry

    def _schedule_expiry(self) -> None:
        interval_ms = self._broker.config.offsets_retention_check_interval_ms
        self._expiry_timer = asyncio.get_running_loop().call_later(interval_ms / 1000, self._expire_and_go_on)

    def _expire_and_go_on(self) -> None:
        self._schedule_expiry()
        self.expire()

    def expire(self) -> None:
        """Forget offsets whose time is over, and empty groups that have none left."""
        now_ms = self._broker.clock()
        retention_ms = self._broker.config.offsets_retention_minutes * MS_PER_MINUTE
        busy = {record.group for record in self._unapplied_commits()}  # a tombstone would be behind their commits
        for group in [group for group in self._groups.values() if group.group_id not in busy]:
            try:
                self._check(group.group_id)
            except KafkaError:
                continue
            expired = self._offsets.expired(group, now_ms, retention_ms)
            self._forget(group)
            if group.state is State.EMPTY and not expired.leaves_some and not group.members.pending:
                self._drop(group)
            elif expired.positions:
                self._log.write_all(group.group_id, _tombstones(group.group_id, expired.positions))


def _tombstones(group_id: str, positions: Iterable[Position]) -> list[tuple[bytes, None]]:
    return [(offset_key(group_id, *position), None) for position in positions]


async def _written(writes: asyncio.Future) -> None:
    """Wait for a `write_all`. Raises KafkaError where any of it failed."""
    for error in await writes:
        if error is not ErrorCode.NONE:
            raise KafkaError(error)


def check_group_id(group_id: str) -> None:
    """Groups with members have names; the empty one may only commit, for the sake of very old clients."""
    if group_id == "":
        raise KafkaError(ErrorCode.INVALID_GROUP_ID)


def _answer() -> tuple[asyncio.Future, Callable[[dict[str, Any]], None]]:
    future = asyncio.get_running_loop().create_future()

    def reply(response: dict[str, Any]) -> None:
        if not future.done():  # the client may be gone
            future.set_result(response)

    return future, reply
