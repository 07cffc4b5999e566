"""How does one ask a broker something? A blocking connection over the schemas of `apis/`, and the topics command on it.

Thin on purpose: one connection, one request at a time, the newest version that both sides speak. For applications
there are real clients; this one is for the command line and for tests of single requests.
"""

import socket
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from refbroker.apis import (
    k03_metadata, k18_api_versions, k19_create_topics, k20_delete_topics, k32_describe_configs,
)  # fmt: skip
from refbroker.errors import ErrorCode
from refbroker.log.checkpoints import format_uuid
from refbroker.protocol import Api, ProtocolError

RESPONSE_BYTES_MAX = 256 << 20  # metadata of a million partitions fits
TIMEOUT_MS = 30_000
TOPIC_RESOURCE = 2  # of DescribeConfigs
DYNAMIC_TOPIC_CONFIG = 1


class ClientError(Exception):
    """The broker cannot be reached, or said no. The text says which."""


class Client:
    """A connection. Use it in a `with`."""

    def __init__(self, address: tuple[str, int], client_id: str = "refbroker", timeout_ms: int = TIMEOUT_MS):
        self._where = f"{address[0]}:{address[1]}"
        self._client_id = client_id
        self._correlation_id = 0
        try:
            self._socket = socket.create_connection(address, timeout=timeout_ms / 1000)
        except OSError as error:
            raise ClientError(f"cannot connect to {self._where}: {error.strerror or error}") from error
        self._served = {k18_api_versions.API.key: (0, 0)}
        self._served = self._ask_versions()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def request(self, api: Api, message: Mapping[str, Any], version: int | None = None) -> dict[str, Any]:
        """The response, in the newest version that both sides speak, or in `version`. Raises ClientError."""
        version = self.version(api) if version is None else version
        self._correlation_id += 1
        try:
            self._socket.sendall(api.request_frame(version, self._correlation_id, self._client_id, message))
            (size,) = struct.unpack(">i", self._receive(4))
            if not 4 <= size <= RESPONSE_BYTES_MAX:
                raise ClientError(f"{self._where} does not speak Kafka's protocol: a response of {size} bytes")
            correlation_id, response = api.read_response(version, self._receive(size))
        except OSError as error:
            raise ClientError(f"{self._where}: {api.name}: {error.strerror or error}") from error
        except ProtocolError as error:
            raise ClientError(f"{self._where} does not speak Kafka's protocol: {api.name}: {error}") from error
        if correlation_id != self._correlation_id:
            raise ClientError(f"{self._where}: {api.name}: the answer to another request")
        return response

    def version(self, api: Api) -> int:
        """The newest version of an API that both sides speak."""
        first, last = self._served.get(api.key, (0, -1))
        newest = min(last, api.versions[1])
        if newest < max(first, api.versions[0]):
            raise ClientError(f"{self._where} does not serve {api.name}")
        return newest

    def _ask_versions(self) -> dict[int, tuple[int, int]]:
        answer = self.request(k18_api_versions.API, {}, version=0)
        return {row["api_key"]: (row["min_version"], row["max_version"]) for row in answer["api_keys"]}

    def _receive(self, count: int) -> bytearray:
        data = bytearray(count)
        view = memoryview(data)
        while view:
            received = self._socket.recv_into(view)
            if not received:
                raise ClientError(f"{self._where} closed the connection")
            view = view[received:]
        return data


def topics_command(
    action: str, address: tuple[str, int], *, topic: str | None, partitions: int | None, configs: tuple[str, ...],
    if_not_exists: bool, if_exists: bool, exclude_internal: bool,
) -> Iterator[str]:  # fmt: skip
    """The lines that `refbroker topics` prints; they read as those of Kafka's own tool. Raises ClientError."""
    with Client(address) as client:
        if action == "create":
            yield from create_topic(client, topic or "", partitions or -1, configs, if_not_exists)
        elif action == "delete":
            yield from delete_topic(client, topic or "", if_exists)
        else:
            found = describe_topics(client, topic, if_exists)
            for row in sorted(found, key=lambda row: row["name"]):
                if exclude_internal and row["is_internal"]:
                    continue
                if action == "list":
                    yield row["name"]
                else:
                    yield from describe_lines(row, topic_configs(client, row["name"]))


def create_topic(
    client: Client, name: str, partitions: int, configs: tuple[str, ...], if_not_exists: bool
) -> list[str]:
    pairs = [config.partition("=") for config in configs]
    if bad := next((key for key, equals, _ in pairs if not equals), None):
        raise ClientError(f"--config {bad}: expected KEY=VALUE")
    wanted = {
        "name": name, "num_partitions": partitions, "replication_factor": -1, "assignments": [],
        "configs": [{"name": key.strip(), "value": value.strip()} for key, _, value in pairs],
    }  # fmt: skip
    (row,) = client.request(k19_create_topics.API, {"topics": [wanted], "timeout_ms": TIMEOUT_MS, "validate_only": False})["topics"]
    if row["error_code"] == ErrorCode.TOPIC_ALREADY_EXISTS and if_not_exists:
        return []
    _check(row["error_code"], row.get("error_message"), f"creating topic {name}")
    return [f"Created topic {name}."]


def delete_topic(client: Client, name: str, if_exists: bool) -> list[str]:
    # Names are in `topics` from version 6 on, in `topic_names` before.
    message = {"topics": [{"name": name}], "topic_names": [name], "timeout_ms": TIMEOUT_MS}
    (row,) = client.request(k20_delete_topics.API, message)["responses"]
    if row["error_code"] == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION and if_exists:
        return []
    _check(row["error_code"], row.get("error_message"), f"deleting topic {name}")
    return [f"Deleted topic {name}."]


def describe_topics(client: Client, name: str | None, if_exists: bool) -> list[dict[str, Any]]:
    """Rows of Metadata: of one topic, or of all."""
    asked = None if name is None else [{"name": name}]
    rows = client.request(k03_metadata.API, {"topics": asked, "allow_auto_topic_creation": False})["topics"]
    for row in rows:
        if row["error_code"] == ErrorCode.UNKNOWN_TOPIC_OR_PARTITION and if_exists:
            return []
        _check(row["error_code"], None, f"topic {row['name']}")
    return rows


def topic_configs(client: Client, name: str) -> str:
    """What was set for this topic itself: key=value,..."""
    resource = {"resource_type": TOPIC_RESOURCE, "resource_name": name, "configuration_keys": None}
    (row,) = client.request(k32_describe_configs.API, {"resources": [resource]})["results"]
    _check(row["error_code"], row["error_message"], f"configs of topic {name}")
    own = [entry for entry in row["configs"] if entry["config_source"] == DYNAMIC_TOPIC_CONFIG]
    return ",".join(f"{entry['name']}={entry['value']}" for entry in own)


def describe_lines(row: Mapping[str, Any], configs: str) -> Iterator[str]:
    replicas = len(row["partitions"][0]["replica_nodes"]) if row["partitions"] else 0
    yield (
        f"Topic: {row['name']}\tTopicId: {format_uuid(row['topic_id'])}\tPartitionCount: {len(row['partitions'])}\t"
        f"ReplicationFactor: {replicas}\tConfigs: {configs}"
    )
    for partition in sorted(row["partitions"], key=lambda partition: partition["partition_index"]):
        leader = partition["leader_id"] if partition["leader_id"] >= 0 else "none"
        yield (
            f"\tTopic: {row['name']}\tPartition: {partition['partition_index']}\tLeader: {leader}\t"
            f"Replicas: {_comma(partition['replica_nodes'])}\tIsr: {_comma(partition['isr_nodes'])}"
        )


def _comma(ids: list[int]) -> str:
    return ",".join(map(str, ids))


def _check(code: int, message: str | None, doing: str) -> None:
    if code != ErrorCode.NONE:
        name = ErrorCode(code).name if code in ErrorCode._value2member_map_ else str(code)
        raise ClientError(f"{doing}: {name}" + (f": {message}" if message and message != name else ""))
