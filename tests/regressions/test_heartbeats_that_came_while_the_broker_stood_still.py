"""A broker that had stood still for a while (stopped, swapped out, a slow write) threw out members whose heartbeats had come in time and
were waiting in its sockets: the sessions were looked at first. Each heartbeat was answered by a task, a turn of the event loop later,
and timers that are due when a stopped process goes on ring before any socket is looked at."""

import os
import signal
import threading
import time

from refbroker import apis
from refbroker.client import Client
from refbroker.errors import ErrorCode
from refbroker.testing import broker

SESSION_MS, STILL_S = 2_000, 3.0
JOIN, HEARTBEAT, SYNC = 11, 12, 14


def test_they_count():
    name = {"group_id": "g", "member_id": "", "group_instance_id": "i"}
    with broker(config={"group.min.session.timeout.ms": SESSION_MS}) as running:
        host, port = running.bootstrap.rsplit(":", 1)
        with Client((host, int(port))) as client:

            def ask(key, message):
                return client.request(apis.load()[key].api, message)

            asked = {"session_timeout_ms": SESSION_MS, "rebalance_timeout_ms": 5_000, "protocol_type": "consumer"}
            joined = ask(JOIN, name | asked | {"protocols": [{"name": "range", "metadata": b""}], "reason": None})
            name |= {"member_id": joined["member_id"], "generation_id": joined["generation_id"]}
            ask(SYNC, name | {"protocol_type": "consumer", "protocol_name": "range", "assignments": []})
            ask(HEARTBEAT, name)
            os.kill(running.process.pid, signal.SIGSTOP)
            threading.Timer(STILL_S, os.kill, (running.process.pid, signal.SIGCONT)).start()
            time.sleep(SESSION_MS / 4000)  # in time
            assert ask(HEARTBEAT, name)["error_code"] == ErrorCode.NONE
