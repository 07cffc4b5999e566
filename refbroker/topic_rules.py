"""May this topic be created, or grow, as it is asked for?

Apache Kafka's rules, codes and messages, applied to a cluster of one broker:

1. Names: 1 to 249 characters of a-z A-Z 0-9 . _ -, neither "." nor ".." (INVALID_TOPIC_EXCEPTION). Two names that
   differ in "." against "_" only collide, since metrics write both as "_". `__cluster_metadata` is not a topic.
2. A replication factor of -1 is one replica, a number of partitions of -1 is `num.partitions`; 0 and less is invalid,
   and more than one replica cannot be placed.
3. A manual assignment names this broker, once.
4. One request makes at most 10,000 partitions (POLICY_VIOLATION).
"""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from refbroker.config import Config
from refbroker.errors import ErrorCode, KafkaError
from refbroker.metadata_records import INTERNAL_TOPICS

CLUSTER_METADATA = "__cluster_metadata"
TOPIC_NAME_LENGTH_MAX = 249  # with "-<partition>" it still fits a file name of 255 bytes
PARTITIONS_PER_CHANGE_MAX = 10_000  # Kafka's MAX_RECORDS_PER_USER_OP

# Authorized operations as Metadata and its relatives answer them where there is no authorizer: a bit for each of
# Kafka's AclOperation codes that the resource has.
AUTHORIZED_TOPIC = sum(1 << code for code in (3, 4, 5, 6, 7, 8, 10, 11))
AUTHORIZED_CLUSTER = sum(1 << code for code in (5, 7, 8, 9, 10, 11, 12))
NOT_ASKED = -(2**31)


class NewTopic(NamedTuple):
    """A topic to create. -1 partitions or replicas: the broker's default."""

    name: str
    partitions: int = -1
    configs: Mapping[str, str] = {}
    replication_factor: int = -1


def is_internal(name: str) -> bool:
    return name in INTERNAL_TOPICS


def check_name(name: str) -> None:
    """Raises KafkaError(INVALID_TOPIC_EXCEPTION) for a name that no topic can have."""
    reason = None
    if not name:
        reason = "the empty string is not allowed"
    elif name in (".", ".."):
        reason = f"'{name}' is not allowed"
    elif len(name) > TOPIC_NAME_LENGTH_MAX:
        reason = f"the length of '{name}' is longer than the max allowed length {TOPIC_NAME_LENGTH_MAX}"
    elif not re.fullmatch(r"[a-zA-Z0-9._-]+", name):
        reason = f"'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
    if reason:
        raise KafkaError(ErrorCode.INVALID_TOPIC_EXCEPTION, f"Topic name is invalid: {reason}")


def check_new_name(name: str, taken: Collection[str]) -> None:
    """Raises KafkaError unless a topic of this name may be created beside those."""
    if name in taken:
        raise KafkaError(ErrorCode.TOPIC_ALREADY_EXISTS, f"Topic '{name}' already exists.")
    check_name(name)
    if name == CLUSTER_METADATA:
        raise KafkaError(ErrorCode.INVALID_REQUEST, f"Creation of internal topic {name} is prohibited.")
    if "." in name or "_" in name:
        other = next((other for other in taken if other.replace(".", "_") == name.replace(".", "_")), None)
        if other:
            raise KafkaError(ErrorCode.INVALID_TOPIC_EXCEPTION, f"Topic '{name}' collides with existing topic: {other}")


def check_assignment(broker_ids: Sequence[int], node_id: int) -> None:
    """Raises KafkaError(INVALID_REPLICA_ASSIGNMENT) unless the only replica is this broker."""
    reason = None
    if not broker_ids:
        reason = "an empty replica list."
    elif unknown := [broker_id for broker_id in broker_ids if broker_id != node_id]:
        reason = f"broker {unknown[0]}, but no such broker is registered."
    elif len(broker_ids) > 1:
        reason = f"the broker {node_id} more than once."
    if reason:
        raise KafkaError(ErrorCode.INVALID_REPLICA_ASSIGNMENT, f"The manual partition assignment includes {reason}")


def partitions_of(new: NewTopic, config: Config) -> int:
    """How many partitions the new topic gets. Raises KafkaError where it cannot be placed."""
    factor = new.replication_factor
    if factor < -1 or factor == 0:
        message = "Replication factor must be larger than 0, or -1 to use the default value."
        raise KafkaError(ErrorCode.INVALID_REPLICATION_FACTOR, message)
    if new.partitions < -1 or new.partitions == 0:
        raise KafkaError(ErrorCode.INVALID_PARTITIONS, "Number of partitions was set to an invalid non-positive value.")
    if factor > 1:
        raise KafkaError(
            ErrorCode.INVALID_REPLICATION_FACTOR, f"Unable to replicate the partition {factor} time(s): The target "
            f"replication factor of {factor} cannot be reached because only 1 broker(s) are registered.",
        )  # fmt: skip
    return config.num_partitions if new.partitions == -1 else new.partitions


def check_change_size(partitions: int) -> None:
    if partitions > PARTITIONS_PER_CHANGE_MAX:
        raise KafkaError(ErrorCode.POLICY_VIOLATION, "Excessively large number of partitions per request.")


def check_growth(name: str, now: int, total: int, assignments: Sequence[Sequence[int]] | None, node_id: int) -> None:
    """Raises KafkaError unless a topic may go from `now` to `total` partitions."""
    if total == now:
        raise KafkaError(ErrorCode.INVALID_PARTITIONS, f"Topic already has {total} partition(s).")
    if total < now:
        message = f"The topic {name} currently has {now} partition(s); {total} would not be an increase."
        raise KafkaError(ErrorCode.INVALID_PARTITIONS, message)
    if assignments is not None and len(assignments) != total - now:
        message = f"Attempted to add {total - now} additional partition(s), but only {len(assignments)} assignment(s) were specified."
        raise KafkaError(ErrorCode.INVALID_REPLICA_ASSIGNMENT, message)
    check_change_size(total - now)
    for broker_ids in assignments or ():
        check_assignment(broker_ids, node_id)
