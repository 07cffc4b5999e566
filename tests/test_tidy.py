"""The house rules, checked on the source: layers, the disk seam, sizes, links and statement numbers."""

import ast
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PRODUCT = sorted(ROOT.glob("refbroker/**/*.py"))
LAB = sorted(ROOT.glob("chaos/**/*.py"))
TESTS = sorted(ROOT.glob("tests/**/*.py"))

FILE_LINES_MAX = 450
FUNCTION_LINES_MAX = 70
BROKER_CODE_LINES_MAX = 10_570  # what a person can read; TLS; and what speed took: runs of batches, threads, the idle poll, the template
LINE_LENGTH_MAX = 140  # of code; 120 is the aim, a row of a table may be a little longer

# What of `os` is no file access. Everything else of it belongs in log/disk.py.
OS_ALLOWED = {"sched_getaffinity", "sched_yield", "_exit", "environ", "getpid", "sendfile", "uname", "path.basename", "path.dirname", "path.join", "path.abspath"}
FILE_MODULES = {"pathlib", "shutil", "tempfile", "glob", "fileinput", "fcntl", "sqlite3", "shelve", "dbm", "io"}
# The helper for tests runs in the test's process; of the data directory it knows only the name.
SEAM_EXEMPT = {"log/disk.py": "is the seam", "tls.py": "hands keys to OpenSSL, in memory that looks like a file", "testing.py": "makes a temporary directory for its broker process"}
PARSERS = (
    "config.py", "config_keys.py", "primitives.py", "protocol.py", "group_records.py", "metadata_records.py",
    "log/batch.py", "log/records.py", "log/index.py", "log/checkpoints.py", "log/producers.py", "log/epochs.py", "log/scan.py",
)  # fmt: skip
SOCKET_USERS = {"server.py", "streams.py", "tls.py", "client.py"}  # who listens, the stream seam; and the client's


def name(path: Path) -> str:
    return str(path.relative_to(ROOT / "refbroker")) if path in PRODUCT else str(path.relative_to(ROOT))


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(path: Path) -> set[str]:
    """Every module that is imported, anywhere in the file, in full: for `from a import b` both a and a.b."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_there_is_something_to_check():
    assert len(PRODUCT) > 40 and len(LAB) > 5 and len(TESTS) > 5


@pytest.mark.parametrize("path", PRODUCT, ids=name)
def test_layers(path):
    found = imports(path)
    ours = {module for module in found if module.split(".")[0] == "refbroker"}
    assert not {module for module in found if module.split(".")[0] in ("chaos", "tests")}
    if name(path).startswith("log/"):
        allowed = ("refbroker.log", "refbroker.errors", "refbroker.config", "refbroker.config_keys")
        assert {m for m in ours if m != "refbroker" and not m.startswith(allowed)} == set()
    if name(path) in PARSERS:
        assert not {module.split(".")[0] for module in found} & {"socket", "asyncio", "os"}
    if name(path) not in SOCKET_USERS:
        assert "socket" not in found
    if name(path).startswith("apis/"):
        assert "refbroker.server" not in ours and "refbroker.broker" not in ours


def test_every_parser_is_there():
    assert {ROOT / "refbroker" / parser for parser in PARSERS} <= set(PRODUCT)


@pytest.mark.parametrize("path", PRODUCT, ids=name)
def test_no_file_access_but_through_the_disk_seam(path):
    if name(path) in SEAM_EXEMPT:
        return
    assert not {module.split(".")[0] for module in imports(path)} & FILE_MODULES
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "open", f"{path}:{node.lineno}: open()"
        if isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            if dotted == "os.path":
                continue
            allowed = any((dotted + ".").startswith((f"os.{ok}.", f"os.{ok}().")) for ok in OS_ALLOWED)
            assert allowed or not dotted.startswith("os."), f"{path}:{node.lineno}: {dotted}"
        if isinstance(node, ast.ImportFrom):
            assert node.module != "os", f"{path}:{node.lineno}: from os import"


@pytest.mark.parametrize("path", PRODUCT + LAB, ids=name)
def test_sizes(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= FILE_LINES_MAX
    for node in ast.walk(tree(path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = node.end_lineno - node.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{path}:{node.lineno}: {node.name} has {length} lines"
    too_long = [number for number, line in code_lines(path).items() if len(line) > LINE_LENGTH_MAX]
    assert path in LAB or not too_long  # the lab has templates of HTML in it


def code_lines(path: Path) -> dict[int, str]:
    """The lines that hold code, by number: neither blank nor only comment nor docstring."""
    prose = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            prose |= set(range(node.lineno, node.end_lineno + 1))
    lines = enumerate(path.read_text().splitlines(), 1)
    return {n: line for n, line in lines if n not in prose and line.strip() and not line.lstrip().startswith("#")}


def test_the_whole_broker_can_be_read():
    assert sum(len(code_lines(path)) for path in PRODUCT) <= BROKER_CODE_LINES_MAX


@pytest.mark.parametrize("path", [path for path in PRODUCT + LAB if path.read_text()], ids=name)
def test_every_file_opens_with_a_docstring(path):
    assert ast.get_docstring(tree(path)), "what question does this file answer?"


def test_nothing_is_left_to_do():
    words = re.compile(r"\b(TO" + "DO|FIX" + "ME|XX" + "X|NotImplemented" + r"Error|type: ig" + r"nore)\b")
    for path in PRODUCT + LAB + TESTS:
        found = words.search(path.read_text())
        assert not found, f"{path}: {found[0]}"


# statement numbers

STATEMENT = re.compile(r"\bC(?:[1-9]|1[01])\.(?:[1-9][0-9]?)\b")


def defined_statements() -> set[str]:
    text = (ROOT / "specs" / "contract.md").read_text()
    return set(re.findall(r"(?m)^(?:#+ |- |\*\*|- \*\*)?(C[0-9]+\.[0-9]+)\b", text))


def cited_statements(paths) -> dict[str, Path]:
    return {number: path for path in paths for number in STATEMENT.findall(path.read_text())}


def test_every_cited_statement_is_in_the_contract():
    cited = cited_statements(PRODUCT + LAB + TESTS)
    unknown = {number: str(path) for number, path in cited.items() if number not in defined_statements()}
    assert len(cited) > 20
    assert not unknown


# the README


README = ROOT / "README.md"
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")


def local_links() -> list[tuple[str, str]]:
    return [(text, target) for text, target in LINK.findall(README.read_text()) if "://" not in target]


def test_readme_links_lead_somewhere():
    assert local_links()
    for text, target in local_links():
        path, _, anchor = target.partition("#")
        assert (ROOT / path).exists(), f"[{text}]({target})"
        assert not anchor or re.fullmatch("L[0-9]+", anchor), f"[{text}]({target}): only lines can be checked"


def definitions(path: Path) -> dict[str, int]:
    """Line of each function and class, by its name with that of its class."""
    found = {}

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found[prefix + child.name] = child.lineno
                visit(child, f"{prefix}{child.name}.")

    visit(tree(path), "")
    return found


def test_follow_one_record_points_at_the_functions_that_it_names():
    """[`name`](file.py#L12): line 12 of the file is where `name` is defined; the walk visits these files in order.
    `UPDATE_SCRIPTS=1 pytest tests/test_tidy.py` corrects the line numbers."""
    text = README.read_text()
    section = text.split("## Follow one record")[1].split("\n## ")[0]
    corrected, files = section, []
    for name, target in LINK.findall(section):
        path = target.partition("#L")[0]
        files.append(path.removeprefix("refbroker/"))
        line = definitions(ROOT / path)[name.strip("`")]
        corrected = corrected.replace(f"[{name}]({target})", f"[{name}]({path}#L{line})")
    if os.environ.get("UPDATE_SCRIPTS"):
        README.write_text(text.replace(section, corrected))
    else:
        assert corrected == section
    assert [file for number, file in enumerate(files) if files[number - 1 : number] != [file]] == [
        "server.py", "produce_template.py", "apis/k00_produce.py", "log/batch.py", "log/appends.py", "log/partition.py", "log/segment.py", "log/disk.py", "log/flush.py",
        "log/recovery.py", "apis/k01_fetch.py", "streams.py",
    ]  # fmt: skip


def test_readme_names_every_command_and_make_target():
    text = README.read_text()
    targets = re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text())
    assert {f"make {target}" for target in targets if target not in ("setup", "clean")} <= set(re.findall(r"make [a-z-]+", text))
    from refbroker.cli import cli

    assert all(f"refbroker {command}" in text for command in cli.commands)
