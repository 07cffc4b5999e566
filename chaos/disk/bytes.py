"""How does the lab make a record batch? By hand, with `struct`: none of the broker's code, so that a mistake there cannot hide."""

import struct
import zlib

import crc32c

HEADER = struct.Struct(">qiibIhiqqqhii")
GZIP = 1


def varint(value: int) -> bytes:
    """Zigzag, seven bits a byte, the lowest first."""
    value = (value << 1) ^ (value >> 63)
    out = bytearray()
    while value >= 0x80:
        out.append((value & 0x7F) | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def record(delta: int, value: bytes, timestamp_delta: int) -> bytes:
    body = b"\0" + varint(timestamp_delta) + varint(delta) + varint(-1) + varint(len(value)) + value + varint(0)
    return varint(len(body)) + body


def batch(values: list[bytes], timestamp: int, *, producer: tuple[int, int, int] | None = None, gzip: bool = False,
          base_offset: int = 0, leader_epoch: int = -1) -> bytes:
    """A v2 batch of these values, one millisecond apart; `producer` is (id, epoch, base sequence)."""
    payload = b"".join(record(delta, value, delta) for delta, value in enumerate(values))
    if gzip:
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        payload = packer.compress(payload) + packer.flush()
    producer_id, producer_epoch, sequence = producer or (-1, -1, -1)
    count = len(values)
    covered = struct.pack(">hiqqqhii", GZIP if gzip else 0, count - 1, timestamp, timestamp + count - 1, producer_id,
                          producer_epoch, sequence, count) + payload
    return struct.pack(">qiibI", base_offset, len(covered) + 9, leader_epoch, 2, crc32c.crc32c(covered)) + covered


def placed(data: bytes, base_offset: int, leader_epoch: int) -> bytes:
    """The batch as a log keeps it: base offset and leader epoch are the broker's to set, and no CRC covers them."""
    return struct.pack(">q", base_offset) + data[8:12] + struct.pack(">i", leader_epoch) + data[16:]


def sized(size: int, timestamp: int) -> bytes:
    """A batch of one record that is exactly `size` bytes long (at least 100). Where a longer varint makes that size impossible
    for one value, two records make it."""
    for values in ([], [b""], [b"x"]):
        around = len(batch([*values, b""], timestamp))
        for length in range(size - around, size - around - 4, -1):
            made = batch([*values, b"f" * length], timestamp)
            if len(made) == size:
                return made
    raise AssertionError(f"no batch of {size} bytes")
