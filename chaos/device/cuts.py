"""What may a disk hold when its power goes? The recorder's log, turned into images of the disk.

1. What stands above the last flush is on the platters. Of the writes since, which sit in the volatile cache, any may have got there, whole or
   in part: each `how` is one answer.
   - `all` of them, `none` of them, a seeded `subset` of whole writes;
   - `torn512`, `torn4096`: each piece of that size on its own; `tail512`, `tail4096`: all but the last write, and of that the first pieces.
   A disk that writes pages whole is not asked for pieces of 512 bytes: btrfs counts on such a one for its superblock.
2. A cut after entry k lasts until entry k + 1 was received: its time is that, since clients may be told more meanwhile, and the disk has
   heard nothing of it. So acks are owed to the last moment.
3. An interval is what lies between two flushes. Its cuts: at its end, just before the flush returns, in every way; and at a seeded point
   inside.

An image is a set of pages. Two cuts with equal pages are the same crash state, whatever led there: `digest`.
"""

import hashlib
import os
import random
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from chaos.device.recorder import HEADER

PAGE = 4096
DIGEST_MASK = (1 << 128) - 1
BUFFERS_MAX = 512  # for one pwritev; the kernel takes 1024


class Entry(NamedTuple):
    """One request to the disk. `time` in ns; `offset` and `length` in bytes."""

    kind: bytes
    time: int
    offset: int
    length: int
    data: bytes


class Cut(NamedTuple):
    """The power goes after `at` entries, at `time` ns; `how` the disk kept what it had not flushed."""

    at: int
    time: int
    how: str
    seed: int = 0


def hows(sector_bytes: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The ways at the end of an interval, and those inside, for a disk that writes so many bytes whole."""
    torn = tuple(f"torn{size}" for size in sorted({sector_bytes, PAGE}))
    return ("none", "all", "subset", *torn), ("all", f"tail{sector_bytes}", "subset")


def entries_of(log: bytes) -> list[Entry]:
    found, position = [], 0
    while position + HEADER.size <= len(log):
        kind, time, offset, length = HEADER.unpack_from(log, position)
        position += HEADER.size
        data = log[position:position + length] if kind == b"W" else b""
        position += len(data)
        found.append(Entry(kind, time, offset, length, data))
    return found


def moments(entries: list[Entry], since: int, until: int, count: int, rng: random.Random) -> list[Cut]:
    """Up to `count` cuts at seeded points within the times, in order, whether anything was ever flushed or not."""
    inside = [number for number, entry in enumerate(entries) if since <= entry.time <= until]
    return [Cut(at, entries[at].time, how, rng.getrandbits(32)) for at in sorted(rng.sample(inside, min(count, len(inside))))
            for how in ("none", "all", "subset")]


def intervals(entries: list[Entry], since: int, until: int) -> list[tuple[int, int]]:
    """(first, flush) of everything between two flushes that wrote something, within the times."""
    found, first = [], 0
    for number, entry in enumerate(entries):
        if entry.kind == b"F":
            if since <= entry.time <= until and any(each.kind in b"WZ" for each in entries[first:number]):
                found.append((first, number))
            first = number + 1
    return found


def cuts_in(entries: list[Entry], interval: tuple[int, int], sector_bytes: int, rng: random.Random) -> list[Cut]:
    """The cuts of one interval, in the order of their times."""
    first, flush = interval
    at_flush, inside = hows(sector_bytes)
    found = [Cut(flush, entries[flush].time, how, rng.getrandbits(32)) for how in at_flush]
    if flush - first >= 2:
        at = rng.randrange(first + 1, flush)
        found[:0] = [Cut(at, entries[at].time, how, rng.getrandbits(32)) for how in inside]
    return found


class Platter:
    """The pages that are durable after a number of entries; moves forward only."""

    def __init__(self, entries: list[Entry], size: int):
        self._entries = entries
        self._size = size
        self._pages: dict[int, bytes] = {}
        self._digest = 0
        self._applied = 0

    def image(self, cut: Cut) -> "Image":
        """The pages that this cut leaves; cuts in ascending order of `at`."""
        entries = self._entries
        last = next((number for number in range(cut.at - 1, self._applied - 1, -1) if entries[number].kind == b"F"), self._applied)
        durable, self._digest = self._changed(entries[self._applied:last])
        self._pages.update(durable)
        for number in [number for number, page in durable.items() if page == ZEROS]:
            del self._pages[number]
        self._applied = last
        return Image(self._size, self._pages, *self._changed(kept(entries[last:cut.at], cut)))

    def _changed(self, entries: Iterable[Entry]) -> tuple[dict[int, bytes], int]:
        """The pages that these entries change, and the digest of the disk with them."""
        changed: dict[int, bytes] = {}
        for entry in entries:
            _write(changed, self._pages, entry)
        digest = self._digest
        for number, page in changed.items():
            digest += _page_digest(number, page) - _page_digest(number, self._pages.get(number, ZEROS))
        return changed, digest & DIGEST_MASK


class Image(NamedTuple):
    """A disk of `size` bytes. Valid until its `Platter` moves on."""

    size: int
    durable: dict[int, bytes]
    changed: dict[int, bytes]
    digest: int

    def write(self, descriptor: int) -> None:
        """Make the file that `descriptor` names this disk; what is not written reads as zeros and takes no memory."""
        os.ftruncate(descriptor, 0)
        os.ftruncate(descriptor, self.size)
        pages = {number: page for number, page in (self.durable | self.changed).items() if page != ZEROS}
        run: list[bytes] = []
        start = 0
        for number in sorted(pages):
            if run and (number != start + len(run) or len(run) == BUFFERS_MAX):
                os.pwritev(descriptor, run, start * PAGE)
                run = []
            if not run:
                start = number
            run.append(pages[number])
        if run:
            os.pwritev(descriptor, run, start * PAGE)


ZEROS = bytes(PAGE)


def kept(pending: list[Entry], cut: Cut) -> Iterator[Entry]:
    """What of the pending entries got to the platters, in order."""
    rng = random.Random(cut.seed)
    writes = [entry for entry in pending if entry.kind in (b"W", b"Z")]
    if cut.how == "none":
        return
    if cut.how == "all":
        yield from writes
    elif cut.how == "subset":
        yield from (entry for entry in writes if rng.random() < 0.5)
    elif cut.how.startswith("tail"):
        yield from writes[:-1]
        for entry in writes[-1:]:
            pieces = _pieces(entry, int(cut.how[4:]))
            yield from pieces[:rng.randrange(len(pieces))]
    else:
        size = int(cut.how.removeprefix("torn"))
        for entry in writes:
            yield from (piece for piece in _pieces(entry, size) if rng.random() < 0.5)


def _pieces(entry: Entry, size: int) -> list[Entry]:
    """A write in pieces that the disk writes whole; a range of zeros is one."""
    if entry.kind != b"W":
        return [entry]
    return [entry._replace(offset=entry.offset + start, length=min(size, entry.length - start), data=entry.data[start:start + size])
            for start in range(0, entry.length, size)]


def _write(pages: dict[int, bytes], below: dict[int, bytes], entry: Entry) -> None:
    """Put one entry into `pages`, which lie over `below`."""
    if entry.kind not in (b"W", b"Z"):
        return
    first, last = entry.offset // PAGE, (entry.offset + entry.length - 1) // PAGE
    if entry.kind == b"Z" and last - first > len(pages) + len(below):  # most of it is zeros already
        numbers = [number for number in {*pages, *below} if first <= number <= last]
    else:
        numbers = range(first, last + 1)
    for number in numbers:
        start = number * PAGE - entry.offset  # where the page begins in the data
        if start >= 0 and start + PAGE <= entry.length:
            pages[number] = entry.data[start:start + PAGE] if entry.kind == b"W" else ZEROS
            continue
        page = bytearray(pages.get(number, below.get(number, ZEROS)))
        begin, end = max(0, -start), min(PAGE, entry.length - start)
        page[begin:end] = entry.data[start + begin:start + end] if entry.kind == b"W" else bytes(end - begin)
        pages[number] = bytes(page)


_DIGESTS: dict[tuple[int, bytes], int] = {}
_DIGESTS_MAX = 100_000


def _page_digest(number: int, page: bytes) -> int:
    """128 bits that name these bytes at this place; zeros, which an image may leave out, are 0."""
    value = _DIGESTS.get((number, page))
    if value is None:
        if len(_DIGESTS) >= _DIGESTS_MAX:
            _DIGESTS.clear()
        value = 0 if page == ZEROS else int.from_bytes(hashlib.blake2b(page, digest_size=16, salt=number.to_bytes(8, "big")).digest(), "big")
        _DIGESTS[number, page] = value
    return value

