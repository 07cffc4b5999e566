"""What does a message of each API look like, version by version?

A schema is a declaration: a `Struct` of `Field`s, each with the versions that have it, as in Kafka's own message
definitions (4.4.0), with Kafka's names in snake case:

    TOPIC = Struct(
        Field("name", STRING, "0-12"),
        Field("topic_id", UUID, "13+"),
        Field("partitions", Array(PARTITION)),
    )
    API = Api(key=0, name="Produce", versions=(3, 13), flexible=9, request=REQUEST, response=RESPONSE)

Values are plain dicts, both ways. Decoding gives every field of the schema: those that the version does not have, and
tagged fields that are absent, with their defaults (which are shared: what was decoded is not to be changed). It is
strict: see the lists in `primitives.py` and `schema.py`.

Encoding takes a dict; fields that the version does not have are ignored, a missing key takes the `default=` of its
field. A missing key without default, and a key that no version knows, are bugs of ours, and raise.

A frame on the wire is an int32 size, a header, the message. The request header is API key, version, correlation id and
client id (v1), and tagged fields where the version is flexible (v2; the client id is never in the flexible encoding).
The response header is the correlation id (v0), and tagged fields where the version is flexible (v1), except
for ApiVersions, whose client cannot yet know what the broker speaks.
"""

import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from refbroker.primitives import (
    BOOL, BYTES, FLOAT64, INT8, INT16, INT32, INT64, RECORDS, STRING, UINT16, UINT32, UUID, ZERO_UUID,
    ProtocolError, Reader, Writer,
)  # fmt: skip
from refbroker.schema import MALFORMED, VERSION_MAX, Array, Field, Struct, compiled, decode_message, read_tagged

__all__ = [
    "BOOL", "BYTES", "FLOAT64", "INT8", "INT16", "INT32", "INT64", "RECORDS", "STRING", "UINT16", "UINT32", "UUID",
    "ZERO_UUID", "Api", "Array", "Field", "ProtocolError", "RequestHeader", "Struct", "read_request_header",
]  # fmt: skip

API_VERSIONS_KEY = 18

_HEADER = struct.Struct(">hhih")
_SIZE_AND_CORRELATION = struct.Struct(">ii")


def _skip_tagged(view: memoryview, position: int) -> int:
    """Past the tagged fields of a header: there are none that we know."""
    try:
        return read_tagged(Reader(view), position, {}, {})
    except MALFORMED as error:
        raise ProtocolError("header cut short") from error


class RequestHeader(NamedTuple):
    api_key: int
    version: int
    correlation_id: int
    client_id: str | None
    position: int  # of the message, or where the version is flexible of the header's tagged fields


def read_request_header(view: memoryview) -> RequestHeader:
    """The header of a request frame, as far as it can be read without knowing the API. Raises ProtocolError."""
    try:
        api_key, version, correlation_id, length = _HEADER.unpack_from(view)
    except struct.error as error:
        raise ProtocolError(f"request of {len(view)} bytes has no header") from error
    position = _HEADER.size
    if length < 0:
        return RequestHeader(api_key, version, correlation_id, None, position)
    end = position + length
    if end > len(view):
        raise ProtocolError(f"client id of {length} bytes where {len(view) - position} remain")
    return RequestHeader(api_key, version, correlation_id, str(view[position:end], "utf-8", "replace"), end)


class Api:
    """One API: its key, its name, first and last version that we serve, the first flexible version, its two schemas."""

    def __init__(
        self, *, key: int, name: str, versions: tuple[int, int], flexible: int | None, request: Struct, response: Struct
    ):
        self.key = key
        self.name = name
        self.versions = versions
        self.flexible = VERSION_MAX + 1 if flexible is None else flexible
        self.request = request
        self.response = response

    def serves(self, version: int) -> bool:
        return self.versions[0] <= version <= self.versions[1]

    def is_flexible(self, version: int) -> bool:
        return version >= self.flexible

    def decode_request(self, version: int, view: Any, position: int = 0) -> dict[str, Any]:
        """The message from `position` on. Raises ProtocolError."""
        return decode_message(self.request, version, version >= self.flexible, memoryview(view), position)

    def decode_response(self, version: int, view: Any, position: int = 0) -> dict[str, Any]:
        return decode_message(self.response, version, version >= self.flexible, memoryview(view), position)

    def read_request(self, header: RequestHeader, view: memoryview) -> dict[str, Any]:
        """The message of a request frame (without its size), behind the header and its tagged fields. Raises ProtocolError."""
        position, flexible = header.position, header.version >= self.flexible
        if flexible:
            position = position + 1 if position < len(view) and not view[position] else _skip_tagged(view, position)
        return decode_message(self.request, header.version, flexible, view, position)

    def request_frame(
        self, version: int, correlation_id: int, client_id: str | None, value: Mapping[str, Any]
    ) -> bytes:
        """A whole request as a client sends it."""
        name = (client_id or "").encode()
        header = _HEADER.pack(self.key, version, correlation_id, -1 if client_id is None else len(name)) + name
        body = self.request.encode(version, value, flexible=self.is_flexible(version))
        tags = b"\x00" if self.is_flexible(version) else b""
        return b"".join((struct.pack(">i", len(header) + len(tags) + len(body)), header, tags, body))

    def response_frame(self, version: int, correlation_id: int, value: Mapping[str, Any]) -> list[Any]:
        """A whole response in parts, records as they came."""
        writer = Writer()
        writer += bytes(_SIZE_AND_CORRELATION.size)
        flexible = version >= self.flexible
        if flexible and self.key != API_VERSIONS_KEY:
            writer.append(0)
        compiled("write", self.response, version, flexible)(writer, value)
        _SIZE_AND_CORRELATION.pack_into(writer, 0, len(writer) + writer.inserted_bytes - 4, correlation_id)
        return writer.parts()

    def read_response(self, version: int, view: Any) -> tuple[int, dict[str, Any]]:
        """Correlation id and message of a response frame (without its size). Raises ProtocolError."""
        view = memoryview(view)
        if len(view) < 4:
            raise ProtocolError(f"response of {len(view)} bytes has no header")
        (correlation_id,) = struct.unpack_from(">i", view)
        position = 4
        if self.is_flexible(version) and self.key != API_VERSIONS_KEY:
            position = _skip_tagged(view, position)
        return correlation_id, self.decode_response(version, view, position)
