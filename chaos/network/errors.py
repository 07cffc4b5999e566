"""What does a reply look like that carries nothing but an error code? Built from the request, so that a client finds what it
asked for in it: every topic and partition of a Produce or OffsetCommit with the code, else the code at the top."""

from typing import Any

from refbroker.errors import ErrorCode
from refbroker.protocol import Api, RequestHeader


class NoErrorReply(Exception):
    """The API has no place for an error code at its top, and none of its own here."""


def error_response(api: Api, header: RequestHeader, frame: bytes, error: str) -> list[Any]:
    """The frame of a reply to the request in `frame` that says `error`. Raises NoErrorReply."""
    view, code = memoryview(frame)[4:], ErrorCode[error]
    request = api.read_request(header, view)
    if api.key == 0:
        reply: dict[str, Any] = {"responses": [
            {"name": topic["name"], "topic_id": topic["topic_id"], "partition_responses": [
                {"index": part["index"], "error_code": code, "base_offset": -1} for part in topic["partition_data"]]}
            for topic in request["topic_data"]]}
    elif api.key == 8:
        reply = {"topics": [
            {"name": topic["name"], "topic_id": topic.get("topic_id"), "partitions": [
                {"partition_index": part["partition_index"], "error_code": code} for part in topic["partitions"]]}
            for topic in request["topics"]]}
    else:
        reply = _empty(api, code)
    return api.response_frame(header.version, header.correlation_id, reply)


def _empty(api: Api, code: ErrorCode) -> dict[str, Any]:
    names = [field.name for field in api.response.fields]
    if "error_code" not in names:
        raise NoErrorReply(f"{api.name} has no error code of its own: Produce, OffsetCommit and APIs with one at the top can be refused")
    return {field.name: code if field.name == "error_code" else field.fallback() for field in api.response.fields}
