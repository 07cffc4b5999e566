"""What is a target, and what is a flush policy to it?

A `Target` has an address (`bootstrap`), may have a data directory, and may be started, stopped cleanly (F0) and killed
(F1). The address is drawn once and kept over restarts, so that clients find the broker again; the data directory is
kept too. `generation` counts the starts.

A `Policy` is the pair of key sets that select one of the contract's flush policies: broker keys, which apply to every
topic and to the internal ones, and topic keys, to be given when a topic is created. Both use Kafka's names. In Apache
Kafka `flush.ms` does nothing by itself, since the flusher's own period is infinite by default; the policies therefore
set that period as well, and a target for which that is unnecessary ignores it.
"""

import atexit
import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field

from chaos import leftovers

START_SECONDS_MAX = 60  # a JVM on two busy cores takes up to half of it
STOP_SECONDS_MAX = 60
PORTS = range(20_000, 32_768)  # below net.ipv4.ip_local_port_range as Linux has it


class TargetError(Exception):
    """The target did not do what it was told: it did not start, or there is nothing to kill."""


class NotAvailable(TargetError):
    """The target cannot be used on this machine, and why, in one line."""


@dataclass(frozen=True)
class Policy:
    """A flush policy (contract, C0): `broker` and `topic` keys that select it."""

    name: str
    broker: dict[str, str] = field(default_factory=dict)
    topic: dict[str, str] = field(default_factory=dict)


def policy_of(text: str) -> Policy:
    """`none`, `messages=N` or `ms=T`."""
    kind, _, number = text.partition("=")
    if text == "none":
        return Policy("none")
    if kind == "messages" and number.isdecimal() and int(number) > 0:
        return Policy(text, {"log.flush.interval.messages": number}, {"flush.messages": number})
    if kind == "ms" and number.isdecimal() and int(number) > 0:
        period = str(max(1, int(number) // 2))
        return Policy(
            text, {"log.flush.interval.ms": number, "log.flush.scheduler.interval.ms": period}, {"flush.ms": number}
        )
    raise TargetError(f"no flush policy {text!r}: say none, messages=N or ms=T")


POLICIES = {name: policy_of(name) for name in ("none", "ms=200", "messages=10", "messages=1")}


class Target:
    """A broker by its address. What only a process can do raises TargetError here. `origin` is what `make_target` makes another
    one of its kind from."""

    name = "target"
    origin: str | None = None
    can_kill = False  # also: can be restarted
    data_directory: str | None = None
    bootstrap: str
    generation = 0

    def start(self) -> None:
        """Start and return when the broker answers. Raises TargetError with the end of its output."""

    def stop(self) -> None:
        """Stop cleanly (F0) and return when the process is gone. Does nothing where none runs."""

    def kill(self) -> None:
        """SIGKILL (F1), and return when the process is gone."""
        raise TargetError(f"{self.name} cannot be killed from here")

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()


class Process(Target):
    """A target that is a process of ours. A subclass says how it is started: `command()` and `is_ready()`."""

    can_kill = True
    stop_signal = signal.SIGTERM
    clean_exits: tuple[int, ...] = (0,)  # exit codes of a clean stop

    def __init__(
        self,
        directory: str,
        *,
        policy: Policy | None = None,
        properties: dict[str, str] | None = None,
        wrap: tuple[str, ...] = (),
    ):
        self.directory = os.path.abspath(directory)
        self.data_directory = os.path.join(self.directory, "data")
        self.output_path = os.path.join(self.directory, f"{self.name}.out")
        self.policy = policy or POLICIES["none"]
        self.properties = {**self.policy.broker, **(properties or {})}
        self.wrap = wrap
        self.port = free_port()
        self.bootstrap = f"127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None
        self._output_start = 0
        os.makedirs(self.directory, exist_ok=True)

    def command(self) -> list[str]:
        """The command line, without `wrap`."""
        raise TargetError(f"{self.name} has no command line")

    def prepare(self) -> None:
        """What must be there before each start; the first one too."""

    def is_ready(self) -> bool:
        """Whether the broker answers; asked again and again after the start."""
        return accepts_connections(self.port)

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def start(self) -> None:
        assert self.process is None, f"{self.name} is already running"
        leftovers.mark()
        self.prepare()
        with open(self.output_path, "ab") as output:
            self._output_start = output.tell()
            self.process = subprocess.Popen(
                [*self.wrap, *self.command()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self.environment(),
                start_new_session=True,
            )
        atexit.register(self._end, signal.SIGKILL)
        self.generation += 1
        deadline = time.monotonic() + START_SECONDS_MAX
        while not self.is_ready():
            if self.process.poll() is not None:
                code, self.process = self.process.returncode, None
                raise TargetError(f"{self.name} ended with {code} instead of starting; its last words:\n{self.tail()}")
            if time.monotonic() > deadline:
                self._end(signal.SIGKILL)
                raise TargetError(
                    f"{self.name} was not ready after {START_SECONDS_MAX} s; its last words:\n{self.tail()}"
                )
            time.sleep(0.02)

    def stop(self) -> None:
        self._end(self.stop_signal)

    def kill(self) -> None:
        if self.process is None:
            raise TargetError(f"{self.name} does not run: nothing to kill")
        self._end(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """To the broker, if it has not ended by itself: another fault may have struck it."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def _end(self, how: int) -> None:
        process, self.process = self.process, None
        atexit.unregister(self._end)
        if process is None:
            return
        try:
            os.killpg(process.pid, how)  # the session that `start` made: the broker and what wraps it, nothing else
            process.wait(STOP_SECONDS_MAX)
        except ProcessLookupError:
            process.wait()
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise TargetError(
                f"{self.name} did not stop within {STOP_SECONDS_MAX} s; its last words:\n{self.tail()}"
            ) from None

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process else None

    def output(self) -> str:
        """What the broker has printed since its last start."""
        with open(self.output_path, "rb") as output:
            output.seek(self._output_start)
            return output.read().decode(errors="replace")

    def tail(self, lines: int = 20) -> str:
        return "\n".join(self.output().splitlines()[-lines:])


def free_port() -> int:
    """A loopback port that nobody listens on now. It stays the target's over its restarts, so it is not one of those that the
    kernel gives to outgoing connections: while the broker is down, a client could get it for its own end (and reach itself)."""
    for _ in range(100):
        with socket.socket() as probe:
            port = PORTS.start + int.from_bytes(os.urandom(4), "big") % len(PORTS)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise TargetError(f"no free port among {PORTS.start} to {PORTS.stop - 1}")


def accepts_connections(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
