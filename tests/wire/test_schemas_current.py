"""Are the versions that we serve those of Apache Kafka 4.4.0, and what do the newest ones look like in bytes?"""

from refbroker import apis

# API -> (key, first version, last version, first flexible version), from the message definitions of Apache Kafka 4.4.0.
# InitProducerId v6 is there too, but unstable.
VERSIONS = {
    "Produce": (0, 3, 13, 9),
    "Fetch": (1, 4, 18, 12),
    "ListOffsets": (2, 1, 11, 6),
    "Metadata": (3, 0, 13, 9),
    "OffsetCommit": (8, 2, 10, 8),
    "OffsetFetch": (9, 1, 10, 6),
    "FindCoordinator": (10, 0, 6, 3),
    "JoinGroup": (11, 0, 9, 6),
    "Heartbeat": (12, 0, 4, 4),
    "LeaveGroup": (13, 0, 5, 4),
    "SyncGroup": (14, 0, 5, 4),
    "DescribeGroups": (15, 0, 6, 5),
    "ListGroups": (16, 0, 5, 3),
    "ApiVersions": (18, 0, 5, 3),
    "CreateTopics": (19, 2, 7, 5),
    "DeleteTopics": (20, 1, 6, 4),
    "DeleteRecords": (21, 0, 2, 2),
    "InitProducerId": (22, 0, 5, 2),
    "OffsetForLeaderEpoch": (23, 2, 4, 4),
    "DescribeConfigs": (32, 1, 4, 4),
    "AlterConfigs": (33, 0, 2, 2),
    "DescribeLogDirs": (35, 1, 5, 2),
    "CreatePartitions": (37, 0, 3, 2),
    "DeleteGroups": (42, 0, 3, 2),
    "IncrementalAlterConfigs": (44, 0, 1, 1),
    "OffsetDelete": (47, 0, 0, None),
    "DescribeCluster": (60, 0, 2, 0),
    "DescribeProducers": (61, 0, 0, 0),
    "DescribeTopicPartitions": (75, 0, 0, 0),
}


def test_versions_are_kafkas():
    served = {
        served.api.name: (
            served.api.key,
            *served.api.versions,
            served.api.flexible if served.api.flexible <= served.api.versions[1] else None,
        )
        for served in apis.load().values()
    }
    assert served == VERSIONS


def test_api_versions_v5_in_bytes():
    """No oracle knows v5 (KIP-1242): cluster id and node id follow the client's name and version."""
    api = apis.load()[18].api
    value = {"client_software_name": "n", "client_software_version": "1", "cluster_id": "cl", "node_id": 7}
    data = b"\x02n" b"\x021" b"\x03cl" b"\x00\x00\x00\x07" b"\x00"
    assert api.request.encode(5, value, flexible=api.is_flexible(5)) == data
    assert api.decode_request(5, data) == value
    unset = {**value, "cluster_id": None, "node_id": -1}
    assert api.decode_request(5, b"\x02n" b"\x021" b"\x00" b"\xff\xff\xff\xff" b"\x00") == unset
    response = b"\x00\x00" b"\x02" b"\x00\x12\x00\x00\x00\x05\x00" b"\x00\x00\x00\x09" b"\x00"
    rows = [{"api_key": 18, "min_version": 0, "max_version": 5}]
    assert api.response.encode(5, {"error_code": 0, "api_keys": rows, "throttle_time_ms": 9}, flexible=api.is_flexible(5)) == response
    assert api.decode_response(5, response)["api_keys"] == rows


def test_delete_groups_v3_in_bytes():
    """No oracle knows v3, which adds an error message to each result."""
    api = apis.load()[42].api
    assert api.request.encode(3, {"groups_names": ["g"]}, flexible=api.is_flexible(3)) == b"\x02\x02g\x00"
    results = [{"group_id": "g", "error_code": 69, "error_message": "no"}, {"group_id": "h", "error_code": 0}]
    response = b"\x00\x00\x00\x00" b"\x03" b"\x02g\x00\x45\x03no\x00" b"\x02h\x00\x00\x00\x00" b"\x00"
    assert api.response.encode(3, {"results": results}, flexible=api.is_flexible(3)) == response
    assert [result["error_message"] for result in api.decode_response(3, response)["results"]] == ["no", None]
