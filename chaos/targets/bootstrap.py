"""How is a broker tested that somebody else runs? By its address: it can be asked, and neither stopped nor killed.

Checks that need a crash or the files report that they were not made."""

from chaos.targets.base import Target, TargetError


class Bootstrap(Target):
    name = "bootstrap"

    def __init__(self, address: str):
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal():
            raise TargetError(f"{address!r} is not HOST:PORT")
        self.bootstrap = address
