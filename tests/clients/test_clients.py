"""Can real clients not tell the broker from Kafka? Every client does every scenario (scenarios.py says what each shows)."""

import glob
import gzip
import os
import struct

import cramjam
import pytest
from programs import PROGRAMS
from scenarios import CODECS

PACKED = {"gzip": gzip.compress, "snappy": cramjam.snappy.compress_raw, "lz4": cramjam.lz4.compress, "zstd": cramjam.zstd.compress}
SMALL_GAIN = 64  # bytes that two libraries of a codec, with their headers, may differ by on a batch that hardly shrinks

pytestmark = [pytest.mark.clients, pytest.mark.timeout(900)]


@pytest.mark.parametrize(
    "client, scenario", [(program.name, scenario) for program in PROGRAMS for scenario in program.scenarios]
)
def test_scenario(outcomes, client, scenario):
    results = outcomes(client)
    if isinstance(results, str):
        pytest.skip(f"{client} {results}")
    outcome = results[scenario]
    if outcome.verdict == "SKIP":
        pytest.skip(outcome.reason)
    assert outcome.verdict == "PASS", outcome.reason


@pytest.mark.parametrize("client", [program.name for program in PROGRAMS if "codec-none" in program.scenarios])
def test_batches_are_stored_in_the_codec_of_the_client(outcomes, target, client):
    """Read without our own parser: byte 22 of a batch holds its codec.

    Most clients send a batch as it is where it would not shrink: with a slow machine the first record may be one.
    """
    results = outcomes(client)
    if isinstance(results, str):
        pytest.skip(f"{client} {results}")
    if target.data_directory is None:
        pytest.skip("not run: the broker's files are elsewhere")
    prefix = {"franz-go": "franz"}.get(client, client)
    for number, codec in enumerate(CODECS):
        if results[f"codec-{codec}"].verdict != "PASS":
            continue
        (path,) = glob.glob(os.path.join(target.data_directory, f"{prefix}-codec-{codec}-*-0", "0*.log"))
        seen = set()
        with open(path, "rb") as log:
            while header := log.read(61):
                records = log.read(struct.unpack_from(">i", header, 8)[0] + 12 - 61)
                used = header[22] & 7
                seen.add(used)
                if used == 0 and number:
                    gain = len(records) - len(PACKED[codec](records))
                    assert gain < SMALL_GAIN, f"{codec}: not compressed, which would have saved {gain} of {len(records)} bytes"
        assert number in seen and seen <= {0, number}, (codec, seen)
