"""What is a planted bug, and where exactly does it go?

A mutant is data: one text inside one function of the broker, and what stands in its place. The classes are the files beside this
one; `harmless.toml` holds changes that break nothing, for which the lab must not raise an alarm.

| Field | Meaning |
|---|---|
| name | unique over all classes |
| file, function | where: a path from the root of the repository, and the qualified name of a function in it |
| before, after | the exact text, once in that function, and what replaces it |
| statements | at least one of them must fall: what the bug breaks, and named consequences |
| origin | a public report of such a bug, or the reading that suggested it; may be empty |
| shows | the workload and the fault that bring it out, for the reader; the hunt is not told |
| hunt | "disk" (the default): the disk layer must find it; "pytest:<node>": a layer that the simulated disk does not reach |
| known_as | for the broken variants that every lab should find: what they are usually called; may be absent |

A mutant is valid (`locate`) if the file is there, the function is in it, once, its text has `before` exactly once, and what comes
out is Python. So a change of the broker that moves a mutant's ground fails loudly.
"""

import ast
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
HARMLESS = "harmless"
DISK = "disk"
PYTEST = "pytest:"
FIELDS = {"name", "file", "function", "before", "after", "statements", "origin", "shows", "hunt", "known_as"}
_PARSING = threading.Lock()  # CPython 3.11 counts the depth of ast.parse for all threads together, and fails on the sum


class Misplaced(Exception):
    """The mutant's text is not where it says."""


class Mutant(NamedTuple):
    kind: str  # the class: the file's name
    name: str
    file: str
    function: str
    before: str
    after: str
    statements: tuple[str, ...] = ()
    origin: str = ""
    shows: str = ""
    hunt: str = DISK
    known_as: str = ""

    @property
    def is_harmless(self) -> bool:
        return self.kind == HARMLESS


def load(directory: Path = HERE) -> list[Mutant]:
    """All of them, by class, in the order of the files. Raises ValueError for a field that is not known, or is missing."""
    found = []
    for path in sorted(directory.glob("*.toml")):
        for entry in tomllib.loads(path.read_text())["mutant"]:
            if unknown := entry.keys() - FIELDS:
                raise ValueError(f"{path.name}: {entry.get('name')}: no field {sorted(unknown)}")
            try:
                found.append(Mutant(path.stem, **(entry | {"statements": tuple(entry.get("statements", ()))})))
            except TypeError as error:
                raise ValueError(f"{path.name}: {entry.get('name')}: {error}") from None
    return found


def named(name: str | None) -> Mutant | None:
    """Raises Misplaced; None for None, the tree as it is."""
    if name is None:
        return None
    for mutant in load():
        if mutant.name == name:
            return mutant
    raise Misplaced(f"there is no mutant {name!r}")


def planted(mutant: Mutant, root: Path = ROOT) -> str:
    """The text of its file with the bug in it. Raises Misplaced."""
    path = root / mutant.file
    if not path.is_file():
        raise Misplaced(f"{mutant.name}: there is no {mutant.file}")
    text = path.read_text()
    begin, end = _span(text, mutant)
    count = text[begin:end].count(mutant.before)
    if count != 1:
        raise Misplaced(f"{mutant.name}: its text is {count} times in {mutant.function} of {mutant.file}, once expected")
    changed = text[:begin] + text[begin:end].replace(mutant.before, mutant.after) + text[end:]
    try:
        _parse(changed)
    except SyntaxError as error:
        raise Misplaced(f"{mutant.name}: what comes out is not Python: {error}") from None
    return changed


def _parse(text: str) -> ast.Module:
    with _PARSING:
        return ast.parse(text)


def _span(text: str, mutant: Mutant) -> tuple[int, int]:
    """Where the function begins and ends in the text, whole lines."""
    found = [node for name, node in _functions(_parse(text)) if name == mutant.function]
    if len(found) != 1:
        raise Misplaced(f"{mutant.name}: {mutant.function} is {len(found)} times in {mutant.file}, once expected")
    lines = text.splitlines(keepends=True)
    begin = sum(map(len, lines[: found[0].lineno - 1]))
    return begin, begin + sum(map(len, lines[found[0].lineno - 1 : found[0].end_lineno]))


def _functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield prefix + node.name, node
            yield from _functions(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node, f"{prefix}{node.name}.")
        else:
            yield from _functions(node, prefix)
