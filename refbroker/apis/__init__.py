"""Which APIs does this broker serve? Those that have a file here: `ls refbroker/apis`.

Each `kNN_name.py` has `API` (its versions and schemas) and `handle(broker, request, context)`, which gives the response
as a dict, or None where the client wants none; a coroutine that gives it, in most cases by being an `async def`; or
a `Later`. Where requests that come together can be handled together, there is `handle_all(broker, contexts)` too, with each
request as `message` of its context, which gives a list of the same, or of an exception where a request raises one. Where requests
are often like the one before, `template_of` gives what spares decoding them (see produce_template.py).
`context` is a `Request` of connections.py; of it handlers know `version`, `client_id`, `client_host`, `listener`, `served` and
`fetch_sessions`. A handler turns every `KafkaError` into the code of the topic or partition concerned;
one that escapes costs the client its connection.
"""

import asyncio
import re
from collections.abc import Callable, Coroutine
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, NamedTuple

from refbroker.errors import ErrorCode, KafkaError
from refbroker.protocol import Api, RequestHeader


class Served(NamedTuple):
    api: Api
    handle: Callable[[Any, dict[str, Any], Any], "dict[str, Any] | None | Coroutine | Later"]
    handle_all: Callable[[Any, list[Any]], list[Any]] | None = None
    template_of: Callable[[RequestHeader, memoryview, dict[str, Any]], Any] | None = None


class Later(NamedTuple):
    """An answer that waits for one thing: when `future` is done, however it ended, `response()` is the answer. It spares
    the task that a coroutine needs, a quarter of the processor time of a durable request."""

    future: asyncio.Future
    response: Callable[[], dict[str, Any]]


class Disconnect(Exception):
    """What a handler raises where Kafka's only answer is to close the connection. Its text is the reason in our log."""


@cache
def load() -> dict[int, Served]:
    """API key -> its schemas and its handler, by key."""
    served = {}
    for module_info in sorted(iter_modules(__path__), key=lambda info: info.name):
        if re.fullmatch(r"k\d\d_\w+", module_info.name):
            module = import_module(f"{__name__}.{module_info.name}")
            assert module.API.key == int(module_info.name[1:3]), module_info.name
            served[module.API.key] = Served(module.API, module.handle, getattr(module, "handle_all", None),
                                               getattr(module, "template_of", None))
    return served


def partition_for_client(broker: Any, topic: str, number: int) -> Any:
    """A partition that clients may know of: of any topic, but not the metadata log. Raises KafkaError."""
    if topic not in broker.metadata.topics:
        raise KafkaError(ErrorCode.UNKNOWN_TOPIC_OR_PARTITION)
    return broker.partition(topic, number)


def check_leader_epoch(partition: Any, current_leader_epoch: int) -> None:
    """Hold the epoch that a client believes in (-1: it does not say) against ours (C4.3). Raises KafkaError."""
    if current_leader_epoch >= 0 and current_leader_epoch != partition.leader_epoch:
        if current_leader_epoch < partition.leader_epoch:
            raise KafkaError(ErrorCode.FENCED_LEADER_EPOCH)
        raise KafkaError(ErrorCode.UNKNOWN_LEADER_EPOCH)
