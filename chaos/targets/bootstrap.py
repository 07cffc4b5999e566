"""How is a broker tested that somebody else runs? By its address: it can be asked, and neither stopped nor killed.

Checks that need a crash or the files report that they were not made."""

import socket

from chaos.targets.base import Target, TargetError

ANSWER_SECONDS_MAX = 10


class Bootstrap(Target):
    name = "bootstrap"

    def __init__(self, address: str):
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal():
            raise TargetError(f"{address!r} is not HOST:PORT")
        self.bootstrap = address
        self._address = host.removeprefix("[").removesuffix("]"), int(port)

    def start(self) -> None:
        try:
            socket.create_connection(self._address, timeout=ANSWER_SECONDS_MAX).close()
        except (OSError, UnicodeError) as error:
            raise TargetError(f"nobody answers at {self.bootstrap}: {error}") from None
