"""The clients of the lab's whole brokers build their requests, and read their responses, with refbroker's own codec. Two codecs that
this project did not write read the same bytes, both ways: a mistake on both sides of ours would show here."""

import struct

import pytest
from schema_values import ORACLES, plain

from chaos.disk.driver import POLICIES, quietly
from chaos.whole.asking import Asker
from chaos.whole.clients import Session

WORD = ("produce", "both", "gzip", "idempotent", "poll", "commit", "create", "recreate", "delete", "delete-records", "poll")


@pytest.fixture(scope="module")
def frames():
    """(API, version, request, response) of a whole session, and of all that is asked after a crash."""
    with quietly():
        session = Session(POLICIES["P3"])
        assert session.play(WORD) is not None
        asker = Asker(session.node)
        asker.ask_all()
        asker.epoch_end(("a", 0), 0)
        taken = [frame for frames in session.frames for frame in frames] + asker.frames
        session.close()
    return taken


def test_every_kind_of_request_was_made(frames):
    assert {api.name for api, *_ in frames} == {
        "Produce", "Fetch", "ListOffsets", "Metadata", "OffsetCommit", "OffsetFetch", "CreateTopics", "DeleteTopics", "DeleteRecords",
        "InitProducerId", "OffsetForLeaderEpoch"}


@pytest.mark.parametrize("oracle", ORACLES, ids=lambda oracle: oracle.name)
def test_others_read_the_same(frames, oracle):
    for api, version, request, response in frames:
        (size, key, number, _, length) = struct.unpack_from(">ihhih", request)
        assert (size, key, number) == (len(request) - 4, api.key, version)
        begin = 14 + length + api.is_flexible(version)  # an empty set of tagged fields behind the client id
        for side, body in (("request", request[begin:]), ("response", response[8 + api.is_flexible(version):])):
            schema = getattr(api, side)
            ours = plain(schema, version, schema.decode(version, body, flexible=api.is_flexible(version)))
            assert same(oracle.decode(schema, version, body, oracle.find(api, version, side)), ours)


def same(theirs, ours):
    """kio has None for a time of -1."""
    if isinstance(ours, dict):
        return theirs.keys() == ours.keys() and all(same(theirs[key], ours[key]) for key in ours)
    if isinstance(ours, list):
        return len(theirs) == len(ours) and all(map(same, theirs, ours))
    return theirs == ours or (theirs is None and ours == -1)
