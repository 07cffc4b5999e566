"""How does a client's program become results? It is run against a target, and its lines are read as scenarios.py says.

A scenario that was asked for and not spoken of has failed: programs that die or hang do not pass by silence. Everything
that a program prints is kept in build/clients/<client>.log."""

import pathlib
import queue
import subprocess
import threading
import time
from dataclasses import dataclass

from chaos.targets import Target

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "clients"
SILENCE_SECONDS_MAX = 150  # the longest that a healthy program is silent: a kill and a restart on a busy machine


@dataclass(frozen=True)
class Outcome:
    verdict: str  # PASS, FAIL or SKIP
    reason: str = ""


def parse(line: str) -> tuple[str, Outcome] | None:
    """`FAIL name: reason` as (name, outcome); None for a line that is for people."""
    verdict, _, rest = line.strip().partition(" ")
    if verdict not in ("PASS", "FAIL", "SKIP") or not rest:
        return None
    name, _, reason = rest.partition(":")
    return name.strip(), Outcome(verdict, reason.strip())


def run(
    client: str, command: list[str], target: Target, names: tuple[str, ...], environment: dict[str, str]
) -> dict[str, Outcome]:
    """Run the client's program with these scenarios; the outcome of each."""
    BUILD.mkdir(parents=True, exist_ok=True)
    log_path = BUILD / f"{client}.log"
    outcomes: dict[str, Outcome] = {}
    with open(log_path, "w") as log:
        program = subprocess.Popen(
            [*command, target.bootstrap, *names],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            errors="replace",
            env=environment,
        )
        try:
            ending = _listen(program, target, outcomes, log)
        finally:
            program.kill()
            program.wait()
            program.stdin.close()
            program.stdout.close()
    silent = Outcome("FAIL", f"the program said nothing of it ({ending}); see {log_path.relative_to(ROOT)}")
    return {name: outcomes.get(name, silent) for name in names}


def _listen(program: subprocess.Popen, target: Target, outcomes: dict[str, Outcome], log) -> str:
    """Read the program's lines until its end; says how it ended."""
    lines: queue.Queue[str | None] = queue.Queue()

    def pump() -> None:
        for line in program.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=pump, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=SILENCE_SECONDS_MAX)
        except queue.Empty:
            return f"silent for {SILENCE_SECONDS_MAX} s"
        if line is None:
            return f"exit code {program.wait()}"
        log.write(f"{time.strftime('%H:%M:%S')} {line}")
        log.flush()
        if line.startswith("DO "):
            program.stdin.write(act(line.removeprefix("DO ").strip(), target) + "\n")
            program.stdin.flush()
        elif parsed := parse(line):
            outcomes[parsed[0]] = parsed[1]


def act(what: str, target: Target) -> str:
    """Do to the broker what a program asks for; the answer it gets."""
    if what == "kill-restart" and target.can_kill:
        target.kill()
        target.start()
        return "DONE"
    return f"CANNOT {what}"
