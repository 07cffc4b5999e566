"""How does the lab get to code that begins behind a limit of mebibytes, with logs of a few hundred bytes? It makes the limits small.

The broker has constants that are sizes and counts: how much is read at once, how far back a start looks, when a gap in an index is
too long. A log of the lab never crosses them, and what lies behind them was never run: a broker that had more than 8 MiB in a segment before a
producer snapshot could not start again, and no crash state was large enough to show it. `SMALL` gives each of them a value in the
middle of what the lab's batches, segments and requests are, so that both sides are met.

1. Constants are data: {"log.replay.REMEMBER_BYTES_MAX": 2400, ...}, the module below `refbroker`, a dot, the name. A plan names them,
   unless they are those that the lab has otherwise (`USUAL`).
2. `applied` sets them wherever the broker has them: in the modules that import them, and where they are a function's default. One thread of
   a process at a time, since they are the process's; every exploration goes through it, so that none sees those of another.
3. What a small value would make the broker refuse or forget, though the contract owes it, stays as it is (`ELSEWHERE`).
   tests/chaos/test_small.py holds both tables against the broker: a new constant needs a place in one of them.
"""

import importlib
import inspect
import pkgutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import NamedTuple

import refbroker

Constants = Mapping[str, int]
BROKER = "refbroker"
NO_BROKER = ("refbroker.__main__", "refbroker.pytest_plugin")  # modules that are for others to run
_APPLYING = threading.RLock()


class Small(NamedTuple):
    constant: str
    value: int
    why: str  # what is met behind it


TABLE = (
    Small("log.scan.LOOKUP_CHUNK_BYTES", 100, "a lookup that takes several reads: a chunk is one small batch and the beginning of the next"),
    Small("log.scan.WALK_CHUNK_BYTES", 150, "a walk over headers from chunk to chunk, some of which end inside a header"),
    Small("log.scan.CHECK_CHUNK_BYTES", 90, "recovery from chunk to chunk; batches of several records that are longer than one, whose CRC is computed "
          "in pieces and which are read once more to be opened; zeros and rests that are longer"),
    Small("log.survey.HINT_BYTES", 16, "a durable segment of which only what lies behind the last index entry is looked at"),
    Small("log.segment.INDEX_GAP_BYTES_MAX", 200, "an index whose last entry is too far from the end of the log is rebuilt"),
    Small("log.index.RELATIVE_OFFSET_MAX", 4, "a segment that is rolled because its index could not express the next offset"),
    Small("log.segment.ENTRY_GROUP_BYTES", 150, "index entries that are in memory only, two or three of them, and go to their files together"),
    Small("log.partition.TAIL_ENTRIES_MAX", 2, "positions of the latest batches are forgotten, and looked up"),
    Small("log.appends.RUN_BATCHES_MAX", 2, "batches that come together, and are more than one write takes"),
    Small("log.replay.REMEMBER_BYTES_MAX", 2400, "a look back from a snapshot that ends inside a segment; it is more than five batches of a "
          "producer are spread over in any word that is tried, since what lies further back is forgotten"),
    Small("metadata.PRODUCER_ID_BLOCK", 2, "producer ids run out, and the next block is reserved in the metadata log"),
    Small("metadata.DIRECTORIES_AT_ONCE", 1, "topics whose directories are made and removed with other requests in between"),
    Small("group_log.CHUNK_BYTES", 100, "tombstones in several batches, of which a crash takes some"),
    Small("group_log.RECORDS_PER_TURN", 1, "offsets are loaded while requests come in"),
    Small("server.REQUESTS_PER_WAKEUP", 1, "requests of one connection that wait for the others"),
    Small("server.RESPONSES_PER_SEND", 1, "responses that wait for company"),
    Small("frames.SMALL_FRAME_BYTES", 128, "frames in buffers that are used again: whatever keeps a view of one too long finds other bytes there"),
    Small("frames.POOL_BYTES_MAX", 512, "buffers that are not kept, since enough are"),
    Small("frames.POOLED_BUFFER_BYTES_MAX", 256, "buffers that are not kept, since they are too large"),
)
SMALL: Constants = {small.constant: small.value for small in TABLE}
# The broker's own but for one: in logs as short as the lab's no index entry would reach its file before the segment is rolled.
USUAL: Constants = {"log.segment.ENTRY_GROUP_BYTES": 0}

_DAMAGE = "a guard: what is larger is damage and refused, and the broker writes nothing that large; tests/properties feeds it to the parsers"
_PEER = "a guard against peers: tests/wire sends what exceeds it"
_FORMAT = "a property of the format"
_SOCKETS = "of real sockets and processes, which the simulated disk does not have: tests/wire, and the layers that run the real broker"
_COST = "how much is remembered or done at once by code that gives the same without: it has no other side"
_OWED = "the contract owes it: a smaller one is another contract"
ELSEWHERE: dict[str, str] = {
    **dict.fromkeys((
        "log.index.INDEX_BYTES_MAX", "log.checkpoints.CHECKPOINT_BYTES_MAX", "log.checkpoints.SMALL_FILE_BYTES_MAX",
        "log.producers.SNAPSHOT_BYTES_MAX", "log.producers.MARKER_BYTES_MAX", "log.directory.NAME_BYTES_MAX", "dump.BATCH_BYTES_MAX",
        "dump.RECORDS_BYTES_MAX", "group_log.BATCH_BYTES_MAX", "metadata_replay.SNAPSHOT_BYTES_MAX", "metadata_replay.BATCH_BYTES_MAX",
        "serve.PROPERTIES_BYTES_MAX", "tls.PEM_BYTES_MAX"), _DAMAGE),
    **dict.fromkeys((
        "frames.QUEUED_BYTES_DEFAULT", "groups.JOIN_BYTES_MAX", "group_state.PENDING_MEMBERS_MAX", "group_state.CLIENT_ID_CHARS_MAX",
        "primitives.ELEMENTS_MAX", "primitives.STRING_BYTES_MAX", "client.RESPONSE_BYTES_MAX", "metrics.REQUEST_BYTES_MAX", "produce_template.HEAD_BYTES_MAX",
        "topic_rules.TOPIC_NAME_LENGTH_MAX", "topic_rules.PARTITIONS_PER_CHANGE_MAX"), _PEER),
    **dict.fromkeys((
        "log.batch.SEQUENCE_MAX", "log.batch.RECORD_BYTES_MIN", "log.batch._LEGACY_LENGTH_MIN", "log.records.VARINT_BYTES_MAX",
        "log.records.VARLONG_BYTES_MAX", "log.records.XERIAL_BLOCK_BYTES", "log.checkpoints.OFFSET_MAX", "log.checkpoints.EPOCH_MAX",
        "log.partition.LONG_MAX", "config_keys.INT_MAX", "config_keys.LONG_MAX", "fetch_sessions.EPOCH_MAX",
        "fetch_sessions.SESSION_ID_MAX", "group_records.VALUE_VERSION_MAX", "primitives.VARINT_SHIFT_MAX", "primitives.INT32_MAX", "schema.VERSION_MAX",
        "apis.k00_produce.ZSTD_VERSION_MIN",
        "produce_template.KIND_BYTES", "produce_template.FLEXIBLE_VERSION_MIN", "produce_template.SIZE_BYTES_MAX"), _FORMAT),
    **dict.fromkeys((
        "streams.BACKLOG_MIN", "streams.ACCEPTS_PER_WAKEUP", "idle_poll.CPU_MAX_BYTES", "server.SWEEPS_PER_IDLE_TIME", "frames.LINES_PER_SECOND", "tls.REGION_BYTES",
        "log.threads.THREADS_MAX", "metrics.STATM_BYTES_MAX"), _SOCKETS),
    **dict.fromkeys(("primitives.UUIDS_CACHED", "dump.ZEROS_CHUNK_BYTES", "group_log.RECORD_OVERHEAD_BYTES"), _COST),
    "log.producers.BATCHES_KEPT": _OWED,
    "log.times.LOOKUP_BYTES_MAX": "a batch that is larger when opened is answered by its first offset, which C5.4 allows only for what nobody "
                                  "can open: tests/properties/test_log.py",
    "log.records.OUTPUT_BYTES_FIRST": "of codecs that the lab's clients do not use: tests/properties/test_records.py",
    "log.segment.POSITION_MAX": "a second limit beside segment.bytes, for the same roll; the lab's segments are as small as that",
    **dict.fromkeys(("log.flush.PERIOD_MS_MAX", "log.flush.STEP_MS_MIN", "log.partition.HIDDEN_MS_MAX"),
                    "a time, and the clock of the lab is its own"),
    **dict.fromkeys(("metrics.REQUEST_SECONDS_MAX", "server.SWEEP_INTERVAL_MAX_S", "testing.STOP_SECONDS_MAX"), "a time, of real clocks"),
}


def checked(constants: object) -> Constants:
    """What somebody wrote down. Raises ValueError for what are no constants of the broker."""
    if not isinstance(constants, dict) or not all(isinstance(value, int) and value >= 0 for value in constants.values()):
        raise ValueError(f"constants: numbers by their names are expected, not {constants!r}")
    for name in constants:
        _places(str(name))
    return constants


@contextmanager
def applied(constants: Constants) -> Iterator[None]:
    """Run the broker's code with these constants. Raises ValueError for one that the broker does not have."""
    with _APPLYING:
        before = [(put, put(constants[name])) for name in constants for put in _places(name)]
        try:
            yield
        finally:
            for put, value in before:
                put(value)


@lru_cache(None)
def _places(constant: str) -> tuple[Callable[[int], int], ...]:
    """Setters of everything that holds a constant; each returns what was there."""
    module_name, _, name = constant.rpartition(".")
    modules = _modules()
    home = modules.get(f"{BROKER}.{module_name}")
    usual = getattr(home, name, None)
    if not isinstance(usual, int):
        raise ValueError(f"the broker has no constant {constant}")
    places = [_name_of(module, name) for module in modules.values() if getattr(module, name, None) is usual]
    for function in vars(home).values():
        if inspect.isfunction(function) and any(default is usual for default in function.__defaults__ or ()):
            places.append(_default_of(function, usual))
    return tuple(places)


@lru_cache(None)
def _modules() -> dict:
    """The broker's modules, all of them: one that is imported later would keep a small value."""
    names = [found.name for found in pkgutil.walk_packages(refbroker.__path__, f"{BROKER}.") if found.name not in NO_BROKER]
    return {name: importlib.import_module(name) for name in names}


def _name_of(module, name: str) -> Callable[[int], int]:
    def put(value: int) -> int:
        before = getattr(module, name)
        setattr(module, name, value)
        return before

    return put


def _default_of(function, usual: int) -> Callable[[int], int]:
    slot = next(slot for slot, default in enumerate(function.__defaults__) if default is usual)

    def put(value: int) -> int:
        before = function.__defaults__
        function.__defaults__ = (*before[:slot], value, *before[slot + 1:])
        return before[slot]

    return put
