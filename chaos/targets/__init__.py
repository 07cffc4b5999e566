"""What can be put under test? A target is a broker that can be started, stopped, killed and found again.

`make_target(name, directory, ...)` makes one of:

- `refbroker`: this project's broker, as a process.
- `kafka`: Apache Kafka in KRaft combined mode, resolved by Maven when asked for (kafka.py).
- `bootstrap=HOST:PORT`: a broker that somebody else runs; it has an address and nothing else.
- a path that ends in `.toml`: a command line, described in that file (command.py).
"""

import os

from chaos.targets.base import POLICIES, NotAvailable, Policy, Process, Target, TargetError, policy_of
from chaos.targets.bootstrap import Bootstrap
from chaos.targets.command import Command
from chaos.targets.kafka import Kafka
from chaos.targets.refbroker import Refbroker

__all__ = [
    "POLICIES",
    "Bootstrap",
    "Command",
    "Kafka",
    "NotAvailable",
    "Policy",
    "Process",
    "Refbroker",
    "Target",
    "TargetError",
    "make_target",
    "policy_of",
]


def make_target(
    name: str,
    directory: str,
    *,
    policy: Policy | None = None,
    properties: dict[str, str] | None = None,
    wrap: tuple[str, ...] = (),
) -> Target:
    """A target that keeps everything it writes under `directory`. `properties` are Kafka broker keys that go on top of
    the policy's. `wrap` is put before the broker's command line (strace and the like). Raises TargetError for a name
    that means nothing, NotAvailable where a toolchain is missing."""
    kinds = {"refbroker": Refbroker, "kafka": Kafka}
    if name.startswith("bootstrap="):
        target: Target = Bootstrap(name.removeprefix("bootstrap="))
    elif name in kinds:
        target = kinds[name](directory, policy=policy, properties=properties, wrap=wrap)
    elif name.endswith(".toml"):
        name = os.path.abspath(name)
        target = Command.load(name, directory, policy=policy, properties=properties, wrap=wrap)
    else:
        raise TargetError(f"no target {name!r}: say refbroker, kafka, bootstrap=HOST:PORT or a .toml file")
    target.origin = name
    return target
