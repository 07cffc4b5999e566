"""The stories in `scripts/*.console` and in the README are true: each is run, line by line, and must print what it says.

    $ command            run by bash in a directory of the story's own, stdout and stderr together
    expected output      exactly; what differs from run to run is written <cluster>, <id>, <pid>, <time>, ...
    [exit 1]             where the exit code is not 0

A command that ends with `&` goes to the background; its first line on stdout is its output, the rest goes to stderr.log.
`kill -9 %1` and `kill %1` end it. Port 9092 stands for a free one. `UPDATE_SCRIPTS=1 pytest tests/test_scripts.py`
writes what happened into the stories: read the diff.
"""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STORIES = sorted((ROOT / "tests" / "scripts").glob("*.console"))
README_STORY = re.compile(r"```console\n(.*?)```", re.DOTALL)

VARYING = (
    (re.compile(r"cluster [\w-]{22}\b"), "cluster <cluster>"),
    (re.compile(r"pid \d+"), "pid <pid>"),
    (re.compile(r"(?i)(topic_?id: )[\w-]{22}"), r"\1<id>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"), "<date>"),
    (re.compile(r"\b1[789]\d{11}\b"), "<time>"),
    (re.compile(r"\bcrc: \d+"), "crc: <crc>"),
    (re.compile(r"\.[0-9a-f]{32}-delete"), ".<id>-delete"),
)


class Story:
    def __init__(self, directory: Path):
        self.directory = directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = str(probe.getsockname()[1])
        scripts = Path(sys.executable).parent
        kept = {name: value for name, value in os.environ.items() if not name.startswith("KAFKA_")}
        self.environ = {
            **kept,
            "PATH": f"{scripts}:{os.environ['PATH']}",
            "KAFKA_LISTENERS": f"PLAINTEXT://127.0.0.1:{self.port}",  # for those that do not say where to listen
        }
        self.background: subprocess.Popen | None = None

    def run(self, command: str) -> str:
        """What the command printed, as the story writes it."""
        command = command.replace("9092", self.port)
        if command.startswith("kill "):
            return self.kill(signal.SIGKILL if "-9" in command else signal.SIGTERM)
        if command.endswith("&"):
            return self.tell(self.start(command.removesuffix("&")))
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.directory, env=self.environ, text=True, timeout=60,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        return self.tell(done.stdout) + (f"[exit {done.returncode}]\n" if done.returncode else "")

    def start(self, command: str) -> str:
        with open(self.directory / "stderr.log", "a") as log:
            self.background = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=self.directory, env=self.environ, text=True, stdout=subprocess.PIPE, stderr=log
            )
        line = self.background.stdout.readline()
        assert line, (self.directory / "stderr.log").read_text()
        return line

    def kill(self, number: int) -> str:
        process, self.background = self.background, None
        process.send_signal(number)
        process.communicate(timeout=60)
        return ""

    def tell(self, text: str) -> str:
        text = re.sub(rf"\b{self.port}\b", "9092", text).replace(str(self.directory), "<here>")
        for pattern, name in VARYING:
            text = pattern.sub(name, text)
        return text


def play(text: str, directory: Path) -> str:
    """The story as it really goes."""
    story, told = Story(directory), ""
    try:
        for line in text.splitlines(keepends=True):
            if line.startswith(("#", "\n")):
                told += line
            elif line.startswith("$ "):
                told += line + story.run(line[2:].strip())
    finally:
        if story.background:
            story.kill(signal.SIGKILL)
    return told


def blocks(text: str) -> list[str]:
    """A story by paragraphs; inside of one every line counts, empty ones between them do not."""
    return [line.rstrip() for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_story(path, tmp_path):
    told = play(path.read_text(), tmp_path)
    if os.environ.get("UPDATE_SCRIPTS"):
        path.write_text(told)
    assert blocks(told) == blocks(path.read_text())


def test_there_are_stories():
    assert len(STORIES) >= 4


def test_the_readme_tells_the_truth(tmp_path):
    (story,) = README_STORY.findall((ROOT / "README.md").read_text())
    assert blocks(play(story, tmp_path)) == blocks(story)
