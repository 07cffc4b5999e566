"""Which parts of crash space has a run been to, and is there one that it could have been to and was not?

A cell is (call site in the broker, kind of file, deviation): what came of one effect. `facts` says of each effect what it was, by an account of
its own, which does not ask how crash states are made; a deviation needs some of these facts (`NEEDS`). So a cell is

1. reached: a crash state was judged in which such an effect came out so;
2. impossible: no effect of that site on that kind of file was ever such that it could come out so, and the first missing fact says why;
3. a gap: the facts were there, and no state shows it.

A call site that changes the disk and was never met by any workload is a gap too, unless `ELSEWHERE` says why.
"""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from chaos.disk.faults import kind_of
from chaos.disk.model import ENTRIES, Event, SimDisk

BROKER = Path(__file__).parent.parent.parent / "refbroker"
BYTES, TWO_BYTES, LONG, OVER, RESIZED, CHANGED = (
    "it wrote no bytes", "it never wrote more than one byte", "it never wrote more than 16 bytes, which have no second half to come alone",
    "it never wrote where the disk already had bytes", "the size of the file was never another than the durable one",
    "it never changed a byte or a size")
LONG_BYTES = 16
NEEDS: dict[str, tuple[str, ...]] = {  # deviation -> facts that some effect must have
    "lost": (CHANGED,), "garbage": (BYTES,), "torn": (TWO_BYTES,), "tail only": (LONG,), "zeros": (OVER,), "size lost": (RESIZED,),
    "stale sector": (CHANGED,), **{f"{kind} undone": (f"it never did a {kind}",) for kind in ENTRIES}}
DISK_CALLS = ("rename", "unlink", "mkdir", "rmdir")

ELSEWHERE = {
    **dict.fromkeys(("recovery._repair", "leftovers.drop", "producers.ProducerStates.load", "cuts.keep_snapshots"),
                    "only in the recovery of a crashed log: crashes inside recovery strike there (chaos/disk/inside.py), this table has the first"),
    **dict.fromkeys(("distrust.leave_note", "distrust.write_anew"),
                    "only after a call to the disk that failed: chaos/disk/errors.py sweeps those"),
    "distrust.remove_note": "only where a note of a failed call was left: chaos/disk/errors.py",
    "index._Index._read": "only where Apache Kafka left room behind an index: tests/properties/test_index.py",
    "leftovers.finish_swaps": "only where Apache Kafka's cleaner was interrupted: tests/properties/test_recovery.py",
    "leftovers._unlink_segment": "only where Apache Kafka's cleaner was interrupted: tests/properties/test_recovery.py",
}
NESTED_NAMES = ".<locals>"  # what follows is a comprehension or function inside the call site


def facts(disk: SimDisk) -> Counter:
    """(call site, file kind, fact) -> effects, of a whole write list. A fact is named by what is said where it is missing."""
    found: Counter = Counter()
    size = {number: len(inode.data) for number, inode in enumerate(disk.inodes[:disk.born]) if inode.data is not None}
    durable = dict(size)
    for event in disk.events:
        if event.kind == "sync":
            durable[event.inode] = size.get(event.inode, 0)
        else:
            site, kind = event.site, kind_of(event.path)
            for fact in _facts(event, size, durable):
                found[site, kind, fact] += 1
    return found


def _facts(event: Event, size: dict[int, int], durable: dict[int, int]) -> Iterator[str]:
    if event.kind in ENTRIES:
        yield f"it never did a {event.kind}"
        return
    count, before = len(event.data), size.get(event.inode, 0)
    size[event.inode] = event.size if event.kind != "write" else before
    if event.kind != "truncate":
        for fact, least in ((BYTES, 1), (TWO_BYTES, 2), (LONG, LONG_BYTES + 1)):
            if count >= least:
                yield fact
        if count and event.position < durable.get(event.inode, 0):
            yield OVER
    if count or size[event.inode] != before:
        yield CHANGED
    if size[event.inode] != durable.get(event.inode, 0):
        yield RESIZED


def account(coverage: Counter, met: Counter) -> list[dict]:
    """Every cell of the rows that were met, and every site that was not: {"site", "kind", "deviation", "states"}; where there are no states
    "why" explains it, and is empty for a gap."""
    entries = []
    for site, kind in sorted({(site, kind) for site, kind, _ in met}):
        for deviation, needed in NEEDS.items():
            entry = {"site": site, "kind": kind, "deviation": deviation, "states": coverage[site, kind, deviation]}
            if not entry["states"]:
                entry["why"] = next((fact for fact in needed if not met[site, kind, fact]), "")
            entries.append(entry)
    known = {site.partition(NESTED_NAMES)[0] for site, _, _ in met}
    for site in sorted(changing_sites() - known):
        entries.append({"site": site, "kind": "any", "deviation": "never met", "states": 0, "why": ELSEWHERE.get(site, "")})
    return entries


def gaps(entries: list[dict]) -> list[str]:
    return [f"{entry['site']} on {entry['kind']}: {entry['deviation']}" for entry in entries if not entry["states"] and not entry["why"]]


def summary(entries: list[dict]) -> str:
    """One line for a terminal."""
    reached = sum(bool(entry["states"]) for entry in entries)
    missing = gaps(entries)
    line = f"{reached} cells reached, {len(entries) - reached - len(missing)} explained, {len(missing)} unexplained"
    return line + (f": {'; '.join(missing)}" if missing else "")


def changing_sites() -> set[str]:
    """Every function of the broker that changes a disk, by name as the simulated disk knows it, read from its source."""
    found: set[str] = set()
    for path in sorted(BROKER.rglob("*.py")):
        if path.name != "disk.py":
            _sites(ast.parse(path.read_text()), path.stem, found)
    return found


def _sites(node: ast.AST, name: str, found: set[str]) -> None:
    for child in ast.iter_child_nodes(node):
        inner = f"{name}.{child.name}" if isinstance(child, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)) else name
        if isinstance(child, ast.Call) and _changes(child):
            found.add(name)
        _sites(child, inner, found)


def _changes(call: ast.Call) -> bool:
    """Whether a call looks like one that changes a disk: `file.append` takes a list of buffers, `open` makes a file if told to."""
    function = call.func
    if isinstance(function, ast.Name):
        return function.id == "replace_file"
    if not isinstance(function, ast.Attribute):
        return False
    called = ast.unparse(function.value)
    if function.attr == "open":
        return any(keyword.arg == "create" for keyword in call.keywords)
    if function.attr == "append":
        return bool(call.args) and isinstance(call.args[0], ast.List)
    return called.endswith("disk") if function.attr in DISK_CALLS else function.attr == "truncate" and called.endswith(("file", "_open()"))
