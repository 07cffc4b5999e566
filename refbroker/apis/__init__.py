"""Which APIs does this broker serve? Those that have a file here: `ls refbroker/apis`.

Each `kNN_name.py` has `API` (its versions and schemas) and `async def handle(broker, request, context)`, which gives the
response as a dict, or None where the client wants none.
"""

import re
from collections.abc import Awaitable, Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, NamedTuple

from refbroker.protocol import Api


class Served(NamedTuple):
    api: Api
    handle: Callable[[Any, dict[str, Any], Any], Awaitable[dict[str, Any] | None]]


def load() -> dict[int, Served]:
    """API key -> its schemas and its handler, by key."""
    served = {}
    for module_info in sorted(iter_modules(__path__), key=lambda info: info.name):
        if re.fullmatch(r"k\d\d_\w+", module_info.name):
            module = import_module(f"{__name__}.{module_info.name}")
            assert module.API.key == int(module_info.name[1:3]), module_info.name
            served[module.API.key] = Served(module.API, module.handle)
    return served
