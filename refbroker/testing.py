"""How do I get a real broker in a test? A process of its own, on a free port, gone at the end; well under a second.

    with refbroker.testing.broker(topics={"orders": 3}, config={"log.flush.interval.messages": 1}) as b:
        producer = Producer({"bootstrap.servers": b.bootstrap})
        ...
        b.kill()     # SIGKILL: what was written is in the page cache, nothing else is promised
        b.start()    # same port, same data, recovered

In pytest the fixtures `kafka_broker` and `kafka_bootstrap` do the same (`pytest_plugin`). The data directory is a
temporary one unless `data_dir` says otherwise. KAFKA_ variables of the surrounding environment do not count. Groups
do not wait for further members (group.initial.rebalance.delay.ms=0) unless `config` says so.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

STOP_SECONDS_MAX = 60  # a clean stop flushes every log; after that the broker hangs
READY = re.compile(r"refbroker ready on (\S+):(\d+) ")
TEST_CONFIG = {"group.initial.rebalance.delay.ms": 0, "offsets.topic.num.partitions": 5}


class TestBroker:
    """A broker process. `host`, `port` and `bootstrap` are where clients connect; they stay over a restart."""

    __test__ = False  # pytest: not a test class

    def __init__(self, data_dir: str, topics: Mapping[str, int], config: Mapping[str, Any], listen: str = "127.0.0.1:0"):
        self.data_dir = data_dir
        self._seeds = dict(topics)
        self.config = {**TEST_CONFIG, **config}
        self.host, _, port = listen.rpartition(":")
        self.port = int(port)
        self.process: subprocess.Popen[str] | None = None
        self._log = tempfile.TemporaryFile("w+")  # a file, since a pipe that nobody reads stops the broker

    @property
    def bootstrap(self) -> str:
        return f"{self.host}:{self.port}"

    def start(self) -> None:
        """Returns when clients can connect. Raises RuntimeError with the broker's log where it does not come up."""
        assert self.process is None, "it runs already"
        command = [sys.executable, "-m", "refbroker", "serve", "--data-dir", self.data_dir, "--listen", self.bootstrap]
        for key, value in self.config.items():
            command += ["--override", f"{key}={str(value).lower() if isinstance(value, bool) else value}"]
        for name, partitions in self._seeds.items():
            command += ["--seed-topic", f"{name}:{partitions}"]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("KAFKA_")}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._log, env=environ, text=True)
        line = self.process.stdout.readline()
        if not (ready := READY.match(line)):
            self.process.kill()
            code = self.process.wait()
            self.process = None
            raise RuntimeError(f"the broker did not start, exit code {code}:\n{self.log}")
        self.port = int(ready[2])
        self._seeds = {}  # made once: a topic that the test deletes stays deleted

    def stop(self) -> int:
        """Clean stop (SIGTERM); returns the exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, as an out-of-memory killer or an operator does it."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> int:
        process, self.process = self.process, None
        assert process is not None, "it does not run"
        process.send_signal(number)
        try:
            return process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            process.stdout.close()

    @property
    def log(self) -> str:
        """What the broker has logged so far, over all its lives."""
        self._log.seek(0)
        return self._log.read()

    def close(self) -> None:
        if self.process is not None:
            self.stop()
        self._log.close()


@contextmanager
def broker(
    topics: Mapping[str, int] = {}, config: Mapping[str, Any] = {}, data_dir: str | None = None, listen: str = "127.0.0.1:0"
) -> Iterator[TestBroker]:
    """A running broker with these topics (name -> partitions) and config keys."""
    with tempfile.TemporaryDirectory(prefix="refbroker-") as temporary:
        running = TestBroker(data_dir or os.path.join(temporary, "data"), topics, config, listen)
        running.start()
        try:
            yield running
        finally:
            running.close()
