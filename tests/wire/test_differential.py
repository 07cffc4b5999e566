"""Every API and version that is served, against two codecs that this project did not write, both ways.

For each message: what we encode the oracle decodes to the same values, and what the oracle encodes we decode to the
same values. Values are generated from our schema. An API without an oracle for some version is named in
WITHOUT_ORACLE, and nothing else may be without.
"""

import random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from schema_values import ORACLES, Values, plain

from refbroker import apis
from refbroker.protocol import ProtocolError

SETTINGS = settings(max_examples=15, deadline=None, database=None, phases=[Phase.generate])
SEEDS = st.integers(0, 2**32 - 1)
CUTS = 10
SIDES = ("request", "response")

# (API, version): neither kio nor kafka-python has it; bytes written by hand stand in, in test_schemas_current.py
WITHOUT_ORACLE = {("ApiVersions", 5), ("DeleteGroups", 3)}


def served_versions():
    for served in apis.load().values():
        first, last = served.api.versions
        for version in range(first, last + 1):
            yield served.api, version


CASES = [
    pytest.param(api, version, side, oracle, id=f"{api.name}-v{version}-{side}-{oracle.name}")
    for api, version in served_versions()
    for side in SIDES
    for oracle in ORACLES
    if oracle.find(api, version, side) is not None
]


@pytest.mark.parametrize("api, version, side, oracle", CASES)
def test_both_ways(api, version, side, oracle):
    schema = getattr(api, side)
    flexible = api.is_flexible(version)
    theirs = oracle.find(api, version, side)

    @SETTINGS
    @given(SEEDS)
    def check(seed):
        value = oracle.values(seed, schema, version, theirs)
        ours = schema.encode(version, value, flexible=flexible)
        assert oracle.decode(schema, version, ours, theirs) == value
        foreign = oracle.encode(schema, version, value, theirs)
        assert plain(schema, version, schema.decode(version, foreign, flexible=flexible)) == value

    check()


def test_nothing_else_is_without_oracle():
    without = {
        (api.name, version)
        for api, version in served_versions()
        for side in SIDES
        if not any(oracle.find(api, version, side) for oracle in ORACLES)
    }
    served = {api.name for api, _ in served_versions()}
    assert without == {(name, version) for name, version in WITHOUT_ORACLE if name in served}


@pytest.mark.parametrize("api, version", [pytest.param(api, v, id=f"{api.name}-v{v}") for api, v in served_versions()])
def test_cut_anywhere_it_is_refused(api, version):
    """Every proper prefix of a request is a ProtocolError, and so is one byte too many."""
    flexible = api.is_flexible(version)

    @SETTINGS
    @given(SEEDS)
    def check(seed):
        whole = api.request.encode(version, Values(seed).message(api.request, version), flexible=flexible)
        for cut in random.Random(seed).sample(range(len(whole)), min(CUTS, len(whole))):
            with pytest.raises(ProtocolError):
                api.decode_request(version, whole[:cut])
        with pytest.raises(ProtocolError):
            api.decode_request(version, whole + b"\0")

    check()
