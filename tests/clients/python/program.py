"""`program.py CLIENT HOST:PORT [SCENARIO...]`: the scenarios with one of the clients that Python can drive."""

import importlib
import sys

from suite import check

CLIENTS = {
    "librdkafka": "with_librdkafka",
    "kafka-python": "with_kafka_python",
    "aiokafka": "with_aiokafka",
    "kcat": "with_kcat",
}


def ask(what: str) -> None:
    """Have the runner do something to the broker; returns when it is done."""
    print(f"DO {what}", flush=True)
    answer = sys.stdin.readline().strip()
    check(answer == "DONE", f"the runner answered {answer!r}")


if __name__ == "__main__":
    client, bootstrap, *names = sys.argv[1:]
    importlib.import_module(CLIENTS[client]).make(bootstrap, ask).perform(names)
    sys.stdout.flush()
