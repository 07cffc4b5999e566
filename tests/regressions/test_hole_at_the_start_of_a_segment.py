"""The lab's look at a broker's files did not see that a segment began with a later offset than its name says: C2.2 held."""

import struct

from chaos.bench import raw
from chaos.logfile import read_partition, valid_prefix
from chaos.process.rounds import check_files


def batch(offset: int, count: int) -> bytes:
    data = bytearray(raw.batch(count, 10))
    struct.pack_into(">q", data, 0, offset)  # the checksum does not cover it
    return bytes(data)


def test_it_is_found(tmp_path):
    place = tmp_path / "t-0"
    place.mkdir()
    (place / f"{0:020}.log").write_bytes(batch(0, 10))
    (place / f"{10:020}.log").write_bytes(batch(15, 5))
    holes = [finding for finding in check_files(tmp_path, {"t": 1}) if finding.statement == "C2.2"]
    assert [(hole.anomaly, hole.offset) for hole in holes] == [("hole", 10)]
    assert [each.base_offset for each in valid_prefix(read_partition(place))] == [0]
    (place / f"{10:020}.log").write_bytes(batch(10, 5))
    assert [finding for finding in check_files(tmp_path, {"t": 1}) if finding.statement == "C2.2"] == []
    assert [each.base_offset for each in valid_prefix(read_partition(place))] == [0, 10]
