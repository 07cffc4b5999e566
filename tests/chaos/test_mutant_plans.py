"""The crash that finds a planted bug is a plan: short, the same on another checkout, and a page that a browser shows."""

import json
import os
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
from click.testing import CliRunner

from chaos.cli import cli
from chaos.mutants import catalogue, trees
from chaos.plan import load

OPERATIONS_MAX = 5
NAMES = ("recovery-checks-no-crc", "epoch-zero-does-not-count", "marker-stays")  # three classes
BROKEN, USAGE = 1, 64


@pytest.fixture(scope="module")
def plans(tmp_path_factory):
    """What `refbroker-chaos mutants --plans` writes for the three."""
    directory = tmp_path_factory.mktemp("plans")
    told = CliRunner().invoke(cli, ["mutants", "--plans", str(directory), "--out", str(directory / "score"), *NAMES])
    assert told.exit_code == 0, told.output
    return directory


@pytest.fixture(scope="module")
def second_checkout():
    with trees.planted_tree(None) as tree:
        yield tree


def command(tree: Path, hash_seed: int, *arguments) -> tuple[int, bytes]:
    """(exit code, stdout) of a command of the lab in that tree."""
    there = trees.environment(tree) | {"PYTHONHASHSEED": str(hash_seed)}
    done = subprocess.run(trees.command("chaos.cli", *arguments), env=there, cwd=os.sep, stdout=subprocess.PIPE)
    return done.returncode, done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_a_kill_is_short_and_the_same_on_a_second_checkout(plans, second_checkout, name, tmp_path):
    mutant = catalogue.named(name)
    plan = load(plans / name / "plan.json")
    assert plan["mutant"] == name and plan["statement"] in mutant.statements
    assert 1 <= len(plan["setup"]) + len(plan["operations"]) <= OPERATIONS_MAX
    code, here = command(catalogue.ROOT, 1, "replay", plans / name / "plan.json")
    assert (code, here) == command(second_checkout, 2, "replay", plans / name / "plan.json")
    assert code == BROKEN and b"just as the plan says" in here
    assert here.startswith((plans / name / "story.txt").read_bytes())
    page = tmp_path / "page.html"
    assert command(second_checkout, 3, "explain", plans / name / "plan.json", "--html", page)[0] == 0
    assert _without_paths(page.read_text(), plans / name) == (plans / name / "page.html").read_text()


def _without_paths(page: str, directory: Path) -> str:
    return page.replace(f"{directory}{os.sep}", "")


@pytest.mark.parametrize("name", NAMES)
def test_its_page_in_chromium(plans, browser, name):
    statement = load(plans / name / "plan.json")["statement"]
    dom = unescape(browser("--dump-dom", (plans / name / "page.html").as_uri()))
    assert f"{statement} is broken" in dom and "<svg" in dom and "replay plan.json" in dom


def test_without_the_bug_the_plan_breaks_nothing(plans, tmp_path):
    plan = json.loads((plans / NAMES[0] / "plan.json").read_text())
    (tmp_path / "sound.json").write_text(json.dumps({key: value for key, value in plan.items() if key != "mutant"}))
    code, told = command(catalogue.ROOT, 1, "replay", tmp_path / "sound.json")
    assert code == 0 and b"not as the plan says" in told


def test_a_plan_of_an_unknown_bug_says_so(plans, tmp_path):
    plan = json.loads((plans / NAMES[0] / "plan.json").read_text())
    (tmp_path / "odd.json").write_text(json.dumps({**plan, "mutant": "nobody-knows-it"}))
    done = subprocess.run([sys.executable, "-m", "chaos.cli", "replay", str(tmp_path / "odd.json")], capture_output=True, text=True)
    assert done.returncode == USAGE and "there is no mutant 'nobody-knows-it'" in done.stderr
