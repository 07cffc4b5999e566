"""How is this project's broker run as a target? As users run it: `refbroker serve`, by the interpreter that runs us.

It is ready when it has printed its one line; its stdout and stderr go to `refbroker.out` in the target's directory."""

import os
import re
import sys

from chaos.targets.base import Process

READY = re.compile(r"^.*\b(\d+\.\d+\.\d+\.\d+|localhost):(\d+)\b", re.MULTILINE)


class Refbroker(Process):
    name = "refbroker"

    def command(self) -> list[str]:
        properties = {"listeners": f"PLAINTEXT://{self.bootstrap}", **self.properties}
        overrides = [part for key, value in properties.items() for part in ("--override", f"{key}={value}")]
        return [
            sys.executable,
            "-m",
            "refbroker.cli",
            "serve",
            "--data-dir",
            self.data_directory,
            *overrides,
        ]

    def environment(self) -> dict[str, str]:
        # Keys from the environment would change what is under test; without bytecode each start compiles the broker anew.
        inherited = {key: value for key, value in os.environ.items()
                     if not key.startswith("KAFKA_") and key != "PYTHONDONTWRITEBYTECODE"}
        return {**inherited, "PYTHONUNBUFFERED": "1"}

    def is_ready(self) -> bool:
        return bool(READY.search(self.output())) and super().is_ready()
