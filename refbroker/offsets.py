"""Which offset did a group commit last, and may it be forgotten?

The live map from (group, topic, partition) to the committed offset. It changes only by `apply`, with records that are
in __consumer_offsets and acknowledged, in the order of the log; loading after a start is the same `apply` from the
beginning. So the live map is the replay of the log, always (C8.3).

An offset may be forgotten where

1. its group does not read its topic (any more), and
2. the retention time of its commit, which old clients name, is over, else offsets.retention.minutes have gone by since
   the group became empty, or since the commit where the group never had members, or has members that read other topics.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID as UUIDValue

from refbroker.group_core import GroupCore
from refbroker.group_records import Committed, OffsetRecord
from refbroker.protocol import ZERO_UUID

Position = tuple[str, int]  # topic, partition
_NONE: Mapping[Position, Committed] = MappingProxyType({})


class Expired(NamedTuple):
    positions: list[Position]
    leaves_some: bool  # the group has offsets that are not expired


class Offsets:
    """The live map."""

    def __init__(self) -> None:
        self._groups: dict[str, dict[Position, Committed]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def apply(self, record: OffsetRecord) -> None:
        position = record.topic, record.partition
        if record.committed is not None:
            self._groups.setdefault(record.group, {})[position] = record.committed
            return
        group = self._groups.get(record.group, {})
        if group.pop(position, None) is not None and not group:
            del self._groups[record.group]

    def of(self, group: str) -> Mapping[Position, Committed]:
        return self._groups.get(group, _NONE)

    def expired(self, group: GroupCore, now_ms: int, retention_ms: int) -> Expired:
        positions = []
        offsets = self.of(group.group_id)
        for (topic, partition), committed in offsets.items():
            since_ms = group.expires_after(committed.commit_timestamp_ms)
            if since_ms is None or group.is_subscribed_to(topic):
                continue
            if committed.expire_timestamp_ms >= 0:
                is_over = now_ms >= committed.expire_timestamp_ms
            else:
                is_over = now_ms - since_ms >= retention_ms
            if is_over:
                positions.append((topic, partition))
        return Expired(positions, len(positions) < len(offsets))


def lookup(offsets: Mapping[Position, Committed], topic: str, partition: int, topic_id: UUIDValue) -> Committed | None:
    """The committed offset, if it was committed for the topic with this id. A zero id on either side is any topic."""
    committed = offsets.get((topic, partition))
    if committed is None or (ZERO_UUID not in (committed.topic_id, topic_id) and committed.topic_id != topic_id):
        return None
    return committed
