"""Which clients are there, and how is each one's program built and started?

Nothing is built or fetched before it is asked for; what is, stays in build/clients. A missing toolchain is `NotAvailable`
with the one line that says what is missing."""

import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from runner import BUILD
from scenarios import SCENARIOS

from chaos.targets import NotAvailable
from chaos.targets.kafka import QUICK_JVM_FLAGS, fetch_kafka, fetch_kafka_tools, java_program

HERE = pathlib.Path(__file__).resolve().parent
BUILD_SECONDS_MAX = 600
CONSOLE_SCENARIOS = (
    "topics",
    "configs",
    "console-producer-and-consumer",
    "consumer-groups",
    "get-offsets",
    "delete-records",
    "log-dirs",
    "broker-api-versions",
    "verifiable-producer-and-consumer",
    "producer-and-consumer-perf",
    "error-cases",
)


@dataclass(frozen=True)
class Program:
    name: str
    prepare: Callable[[], list[str]]  # builds what must be built; the command line, without its arguments
    scenarios: tuple[str, ...] = SCENARIOS
    environment: dict[str, str] = field(default_factory=dict)


def _built(command: list[str], what: str, **options) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_SECONDS_MAX, **options)
    assert done.returncode == 0, f"building {what} failed:\n{done.stdout}{done.stderr}"


def _tool(name: str, what: str) -> str:
    found = shutil.which(name)
    if not found:
        raise NotAvailable(f"{what} missing")
    return found


def _is_current(target: pathlib.Path, sources: list[pathlib.Path]) -> bool:
    return target.exists() and all(source.stat().st_mtime <= target.stat().st_mtime for source in sources)


def java() -> list[str]:
    compiler = java_program("javac")
    classpath = fetch_kafka()
    classes, sources = BUILD / "java", sorted((HERE / "java").glob("*.java"))
    if not _is_current(classes / "Scenarios.class", sources):
        classes.mkdir(parents=True, exist_ok=True)
        _built([compiler, "-d", str(classes), "-cp", classpath, *map(str, sources)], "the Java client's scenarios")
    return [java_program(), *QUICK_JVM_FLAGS, "-cp", f"{classes}:{classpath}", "Scenarios"]


def franz() -> list[str]:
    go = _tool("go", "Go")
    sources, program = [*(HERE / "go").glob("*.go"), HERE / "go" / "go.mod"], BUILD / "franz"
    if not _is_current(program, sources):
        _built(
            [go, "build", "-o", str(program), "."],
            "the franz-go scenarios",
            cwd=HERE / "go",
            env={**os.environ, "GOTOOLCHAIN": "local"},
        )
    return [str(program)]


def kafkajs() -> list[str]:
    node, npm = _tool("node", "Node.js"), _tool("npm", "npm")
    place = BUILD / "node"
    sources = [HERE / "node" / name for name in ("package.json", "package-lock.json")]
    if not _is_current(place / "node_modules" / ".package-lock.json", sources):
        place.mkdir(parents=True, exist_ok=True)
        for source in sources:
            shutil.copyfile(source, place / source.name)
        _built([npm, "ci", "--no-audit", "--no-fund", "--prefix", str(place)], "the kafkajs scenarios")
    return [node, str(HERE / "node" / "scenarios.js")]


def kcat() -> list[str]:
    if not shutil.which("kcat") and shutil.which("apt-get") and os.geteuid() == 0:
        subprocess.run(
            "apt-get update -qq && apt-get install -y -qq --no-install-recommends kcat",
            shell=True,
            capture_output=True,
            timeout=BUILD_SECONDS_MAX,
        )
    _tool("kcat", "kcat")
    return python("kcat")


def python(client: str) -> list[str]:
    return [sys.executable, str(HERE / "python" / "program.py"), client]


def console_tools() -> list[str]:
    fetch_kafka_tools()
    return [sys.executable, str(HERE / "python" / "console_tools.py")]


PROGRAMS = (
    Program("java", java),
    Program("java-tools", console_tools, CONSOLE_SCENARIOS),
    Program("librdkafka", lambda: python("librdkafka")),
    Program("kcat", kcat),
    Program("franz-go", franz),
    Program("kafkajs", kafkajs, environment={"NODE_PATH": str(BUILD / "node" / "node_modules")}),
    Program("kafka-python", lambda: python("kafka-python")),
    Program("aiokafka", lambda: python("aiokafka")),
)
