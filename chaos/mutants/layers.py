"""Do the layers that attack the real process find a planted bug by themselves, with the simulated disk off?

In the planted tree `refbroker-chaos run --layers LAYER` is run for one layer after the other, as anybody would run it, and what it wrote
down is read. A layer found the bug if a statement that the mutant names is broken there. One that could not be run on this
machine has found nothing, and says why.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from chaos.mutants.catalogue import ROOT, Mutant
from chaos.mutants.trees import command, planted_tree, run_there

WALL_FACTOR, WALL_SECONDS = 8, 300  # a run takes about the time given, on a crowded machine so much longer at most
SHARED = Path("build/toxiproxy")  # built once, not for each tree


@dataclass
class Attempt:
    """What one layer said about one mutant. `statements`: named by the mutant, and broken; `others`: broken besides."""

    mutant: str
    layer: str
    statements: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    evidence: str = ""
    seconds: float = 0.0
    trouble: str = ""

    def line(self) -> str:
        told = f"found by {', '.join(self.statements)}: {self.evidence}" if self.statements else self.trouble or "not found"
        more = f" (also broken: {', '.join(self.others)})" if self.others else ""
        return f"{self.mutant}, {self.layer} layer, {self.seconds:.0f} s: {told}{more}"


def run(mutants: list[Mutant], layers: list[str], seconds: float, seed: int, out: Path, say: Callable[[str], None]) -> list[Attempt]:
    """Every mutant under every layer for about `seconds` each. Raises Misplaced."""
    attempts = []
    for mutant in mutants:
        with planted_tree(mutant) as tree:
            if (ROOT / SHARED).exists():
                (tree / SHARED).parent.mkdir()
                (tree / SHARED).symlink_to(ROOT / SHARED)
            for layer in layers:
                say(f"{mutant.name}: {layer} layer, about {seconds:.0f} s")
                attempts.append(_attempt(mutant, layer, tree, seconds, seed, (out / mutant.name / layer).absolute()))
                say(attempts[-1].line())
    return attempts


def _attempt(mutant: Mutant, layer: str, tree: Path, seconds: float, seed: int, out: Path) -> Attempt:
    attempt, began = Attempt(mutant.name, layer), time.monotonic()
    (out / "results.json").unlink(missing_ok=True)
    lab = command("chaos.cli", "run", "--layers", layer, "--seed", seed, "--minutes", max(0.5, seconds / 60), "--out", out)
    code, _, err = run_there(lab, tree, seconds * WALL_FACTOR + WALL_SECONDS)
    attempt.seconds = round(time.monotonic() - began, 1)
    if not (out / "results.json").exists():
        attempt.trouble = f"exit {code}: {err.strip()[-300:]}"
        return attempt
    results = json.loads((out / "results.json").read_text())
    broken = [row for row in results["rows"] if row["verdict"] == "BROKEN"]
    attempt.statements = sorted({row["statement"] for row in broken} & set(mutant.statements))
    attempt.others = sorted({row["statement"] for row in broken} - set(mutant.statements))
    examples = [f"{row['policy']}, {row['fault']}: {row['examples'][0]['evidence']}" for row in broken if row["statement"] in attempt.statements]
    attempt.evidence = examples[0][:200] if examples else ""
    if not attempt.statements and results["not_run"]:
        attempt.trouble = f"not found; not run: {'; '.join(results['not_run'])}"
    if code not in (0, 1, 2):
        attempt.trouble = f"exit {code}: {err.strip()[-300:]}"
    return attempt


def table(attempts: list[Attempt]) -> str:
    """In Markdown: which layer found which bug, by which statement."""
    lines = ["| Planted bug | Layer | Broken statements | Seconds |", "|---|---|---|---|"]
    lines += [f"| {each.mutant} | {each.layer} | {', '.join(each.statements) or each.trouble or 'none'} | {each.seconds:.0f} |" for each in attempts]
    return "\n".join(lines)


def missed(attempts: list[Attempt]) -> list[str]:
    """The mutants that no layer found."""
    found = {each.mutant for each in attempts if each.statements}
    return sorted({each.mutant for each in attempts} - found)
