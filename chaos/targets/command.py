"""How is any other broker run as a target? By a command line, described in a TOML file.

```toml
name = "mine"
start = ["mybroker", "--data", "{data}", "--listen", "127.0.0.1:{port}"]    # required
prepare = ["mybroker", "format", "{data}"]      # before the first start, that is while {data} does not exist
ready = "listening on .*"                       # a regular expression in its output; without it: the port accepts
stop_signal = "SIGTERM"
property = ["--set", "{key}={value}"]           # appended for each broker key; without it: such keys are refused

[policies."messages=1"]                         # the broker's own keys for a flush policy; without: Kafka's
fsync = "always"
```

In every string `{data}`, `{directory}`, `{port}` and `{bootstrap}` are filled in. An unknown key is an error.
"""

import os
import re
import signal
import subprocess
import tomllib

from chaos.targets.base import Policy, Process, TargetError

KEYS = {"name", "start", "prepare", "ready", "stop_signal", "property", "policies"}


class Command(Process):
    clean_exits = (0, 143)  # some say by which signal they were asked

    def __init__(
        self,
        description: dict,
        directory: str,
        *,
        policy: Policy | None = None,
        properties: dict[str, str] | None = None,
        wrap: tuple[str, ...] = (),
    ):
        self.name = description.get("name", "command")
        unknown = set(description) - KEYS
        if unknown or not description.get("start"):
            raise TargetError(
                f"target {self.name}: " + (f"unknown key {sorted(unknown)[0]!r}" if unknown else "`start` is missing")
            )
        super().__init__(directory, policy=policy, properties=properties, wrap=wrap)
        self.description = description
        own_policies = description.get("policies", {})
        if self.policy.name in own_policies:
            self.properties = {**own_policies[self.policy.name], **(properties or {})}
        if self.properties and "property" not in description:
            raise TargetError(
                f"target {self.name}: no `property` template, so {sorted(self.properties)[0]!r} cannot be set"
            )
        stop_signal = description.get("stop_signal", "SIGTERM")
        if stop_signal not in signal.Signals.__members__:
            raise TargetError(f"target {self.name}: no signal {stop_signal!r}")
        self.stop_signal = signal.Signals[stop_signal]

    @classmethod
    def load(cls, path: str, directory: str, **options) -> "Command":
        try:
            with open(path, "rb") as file:
                description = tomllib.load(file)
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise TargetError(f"target {path}: {error}") from None
        return cls(description, directory, **options)

    def _fill(self, parts: list[str], **more: str) -> list[str]:
        values = {
            "data": self.data_directory,
            "directory": self.directory,
            "port": self.port,
            "bootstrap": self.bootstrap,
            **more,
        }
        return [part.format_map(values) for part in parts]

    def command(self) -> list[str]:
        template = self.description.get("property", [])
        settings = [
            part for key, value in self.properties.items() for part in self._fill(template, key=key, value=value)
        ]
        return self._fill(self.description["start"]) + settings

    def prepare(self) -> None:
        if "prepare" in self.description and not os.path.exists(self.data_directory):
            done = subprocess.run(self._fill(self.description["prepare"]), capture_output=True, text=True, timeout=120)
            if done.returncode:
                raise TargetError(f"{self.name}: prepare failed:\n{done.stdout}{done.stderr}")

    def is_ready(self) -> bool:
        pattern = self.description.get("ready")
        return super().is_ready() and (pattern is None or bool(re.search(pattern, self.output())))
