"""One real client under load, as a process of its own: `python -m chaos.process.client SPEC`.

SPEC is JSON: {"kind": "librdkafka-producer", "name": "p1", "bootstrap": "127.0.0.1:9092", "history": "DIR", "topics": ["a"],
"acks": "all", "idempotent": true, "seed": 7, "records_per_second": 200, "value_bytes": 900, "codec": "gzip", "group": "g",
"stay_seconds": 3}. A kind is a library and what is done with it; `KINDS` has all. The Java client is a program of its own
with the same specification and the same history: chaos/process/clients/java.py.

It runs until SIGTERM, then waits a bounded time for what is under way, and leaves. What it asked and was told is in
`DIR/<name>.jsonl` (chaos/history.py).
"""

import asyncio
import importlib
import json
import logging
import sys

from chaos.history import Recorder
from chaos.process.clients import Stop

MODULES = {"librdkafka": "librdkafka", "aiokafka": "aio", "kafka-python": "kafka_python"}
KINDS = (
    "librdkafka-producer", "librdkafka-consumer", "librdkafka-seeker", "aiokafka-producer", "aiokafka-consumer",
    "kafka-python-producer", "kafka-python-consumer",
)


def main(spec: dict) -> None:
    logging.disable(logging.CRITICAL)  # the libraries report each reconnect; the history has what counts
    assert spec["kind"] in KINDS, spec["kind"]
    library, _, role = spec["kind"].rpartition("-")
    history, stop = Recorder(f"{spec['history']}/{spec['name']}.jsonl"), Stop()
    module = importlib.import_module(f"chaos.process.clients.{MODULES[library]}")  # the others' libraries need not be there
    group = spec["group"] if role == "consumer" else None
    history.write("client", kind=spec["kind"], library=module.LIBRARY, group=group, idempotent=spec.get("idempotent"))
    running = getattr(module, role)({**spec, "group": group}, history, stop)
    if asyncio.iscoroutine(running):
        asyncio.run(running)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
