"""Which workloads does the lab try? All of them, up to a length, over a small alphabet, from a few starting points.

A workload is a word over `ALPHABET`; a letter is an operation of `driver.py`. The enumeration is a tree: a word's crash
points are those inside its last operation, since those of the others belong to its prefixes. A word in which an operation makes no sense
is cut off with everything below it: what it would show, a shorter one shows.

A starting point is what happened before, on the same disk: nothing (`fresh`); a log of several segments with an unclean
start behind it, part of it durable (`used`); producers, a log start inside a batch and a second topic (`busy`); a log that was cut below a
producer snapshot (`cut`); a topic that was made again, and an unclean stop behind a new segment (`killed`).

Behind a comma, `small` says that the broker's constants are small (chaos/disk/small.py), so that the same operations lead to other
code; `long, small` has a producer at the end of a log that is longer than the broker looks back.
"""

from collections.abc import Iterator
from itertools import product

from chaos.disk.small import SMALL, USUAL, Constants

ALPHABET: dict[str, dict] = {
    "append": {"op": "append"},
    "fill": {"op": "fill"},  # the segment is full to the last byte
    "gzip": {"op": "append", "records": 3, "gzip": True},
    "pair": {"op": "append", "records": 2},
    "both": {"op": "both"},  # two partitions in one request, and a second one for the same flush
    "idempotent": {"op": "idempotent"},
    "retry": {"op": "retry"},
    "roll": {"op": "roll"},
    "flush": {"op": "flush"},
    "background": {"op": "background"},  # the flush of rolled segments
    "wait": {"op": "wait"},  # until flush.ms has been heeded
    "overlap": {"op": "overlap"},  # a flush runs while the log grows
    "overtaken": {"op": "overlap", "then": "truncate"},  # a flush runs while the log is cut and grows again
    "truncate": {"op": "truncate"},
    "truncate-more": {"op": "truncate", "batches": 2},
    "delete-records": {"op": "delete_records"},
    "retention": {"op": "retention"},
    "sweep": {"op": "sweep"},
    "checkpoint": {"op": "checkpoint"},
    "restart": {"op": "restart"},
    "kill": {"op": "kill"},
    "create": {"op": "create"},
    "delete": {"op": "delete"},
    "recreate": {"op": "recreate"},
}

_WITH_SMALL = ", small"
_STARTS: dict[str, tuple] = {
    "fresh": (),
    "used": ("fill", "append", "flush", "append", "kill", "append", "roll", "append", "background", "append"),
    "busy": ("idempotent", "roll", "idempotent", "pair", "delete-records", "create", "checkpoint", "idempotent"),
    "cut": ("idempotent", "idempotent", "roll", "append", "flush", "checkpoint", "truncate-more"),
    "killed": ("create", "recreate", "idempotent", "flush", "roll", "append", "checkpoint", "kill"),
}
_LONG = (*({"op": "append", "bytes": 190},) * 14, "flush", "checkpoint", "idempotent", "idempotent", "roll", "append")
STARTS: dict[str, tuple] = {
    **_STARTS, **{name + _WITH_SMALL: word for name, word in _STARTS.items()}, "long" + _WITH_SMALL: _LONG}


def constants_of(start: str) -> Constants:
    """Those of the broker, behind this starting point."""
    return SMALL if start.endswith(_WITH_SMALL) else USUAL


def operations(word: tuple | list) -> list[dict]:
    """The operations that letters stand for; an operation written out stands for itself. Raises KeyError."""
    return [ALPHABET[letter] if isinstance(letter, str) else letter for letter in word]


def words(length: int) -> Iterator[tuple[str, ...]]:
    """Every word of exactly this length."""
    return product(ALPHABET, repeat=length)


def count(length: int) -> int:
    return len(ALPHABET) ** length
