"""Hostile input: thousands of generated frames over many connections, and a well-behaved client that must never notice.

A frame is made from a seed in one of these ways:

1. *noise*: a size and random bytes;
2. *lie*: a size that is negative, too large, or not what follows, and then the end of the connection or silence;
3. *mutant*: a valid request of some API and version, cut, with bytes changed, with a hostile number written over it, or
   with garbage behind it;
4. *nonsense*: a valid request of some API and version with random values: unknown names, absurd numbers;
5. *bad batch*: a Produce request to a topic that is there, whose batch has a wrong CRC, count, size, magic or offset.

Verified: the broker answers or closes, and stays; its memory keeps within MEMORY_BYTES_MAX above what it was; it has logged
no error of its own; the side client's records all come back, in order, and no answer takes longer than PATIENCE_S; and
afterwards everything that was appended has the right CRC. Not verified: that each single answer is the right one.

HOSTILE_FRAMES=100000 runs the full figure, HOSTILE_SEED repeats a run.
"""

import asyncio
import multiprocessing
import os
import random
import struct
import time
from pathlib import Path

import pytest
from fakes import Client, batch
from schema_values import Values

from refbroker import apis, testing
from refbroker.errors import ErrorCode
from refbroker.log.batch import check, parse

FRAMES = int(os.environ.get("HOSTILE_FRAMES", "3000"))
SEED = int(os.environ.get("HOSTILE_SEED", "1"))
CONNECTIONS = 40
FRAMES_PER_CONNECTION_MAX = 6
MEMORY_BYTES_MAX = 96 << 20
PATIENCE_S = 10.0
HOSTILE_NUMBERS = (-1, -2, 0, 1, 2**31 - 1, -(2**31), 0x7FFF, -0x8000, 104857600)

SERVED = apis.load()
PRODUCE, FETCH = SERVED[0].api, SERVED[1].api
# An answer to these may take as long as the request says, and random requests say anything.
TIMEOUTS = ("max_wait_ms", "timeout_ms", "session_timeout_ms", "rebalance_timeout_ms")


class Frames:
    """Frames made from one seed."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.values = Values(seed)
        self.counts = {}

    def make(self):
        kind = self.random.choice((self.noise, self.lie, self.mutant, self.mutant, self.nonsense, self.bad_batch))
        self.counts[kind.__name__] = self.counts.get(kind.__name__, 0) + 1
        return kind()

    def noise(self):
        body = self.random.randbytes(self.random.choice((0, 1, 7, 8, 13, 60, 500, 5000)))
        if len(body) > 8 and self.random.random() < 0.7:  # behind a header that is right
            api = self._api()
            version = self.random.randint(*api.versions)
            body = struct.pack(">hhih", api.key, version, 1, -1) + b"\x00" * api.is_flexible(version) + body
        return struct.pack(">i", len(body)) + body

    def lie(self):
        size = self.random.choice((*HOSTILE_NUMBERS, 50, 5000, 10_000_000, 104857601))
        return struct.pack(">i", size) + self.random.randbytes(self.random.choice((0, 3, 40, 3000)))

    def _api(self):
        return self.random.choice(list(SERVED.values())).api

    def nonsense(self):
        api = self._api()
        version = self.random.randint(*api.versions)
        value = self.values.message(api.request, version)
        for name in TIMEOUTS:
            if name in value:
                value[name] = self.random.choice((-1, 0, 1, 10))
        return api.request_frame(version, self.random.getrandbits(31), self.random.choice((None, "", "hostile")), value)

    def mutant(self):
        body = bytearray(self.nonsense()[4:])
        change = self.random.randrange(4)
        if change == 0:
            del body[self.random.randrange(len(body)) :]
        elif change == 1:
            for _ in range(self.random.randint(1, 4)):
                body[self.random.randrange(len(body))] = self.random.randrange(256)
        elif change == 2:
            number = struct.pack(">i", self.random.choice(HOSTILE_NUMBERS))
            position = self.random.randrange(len(body))
            body[position : position + 4] = number
        else:
            body += self.random.randbytes(self.random.randint(1, 200))
        return struct.pack(">i", len(body)) + body

    def bad_batch(self):
        records = bytearray(batch(self.random.randint(1, 5)) * self.random.choice((1, 1, 2)))
        for _ in range(self.random.randint(1, 3)):
            if self.random.random() < 0.5:
                position = self.random.choice((8, 12, 16, 17, 21, 23, 27, 35, 43, 51, 53, 57))
                number = struct.pack(">i", self.random.choice(HOSTILE_NUMBERS))
                records[position : position + 4] = number
            else:
                records[self.random.randrange(len(records))] ^= 1 << self.random.randrange(8)
        if self.random.random() < 0.3:
            del records[self.random.randrange(len(records)) :]
        data = [{"index": self.random.choice((0, 0, 0, 1, -1)), "records": bytes(records)}]
        topics = [{"name": "t", "partition_data": data}]
        request = {"acks": self.random.choice((-1, 1, 0, 7)), "timeout_ms": 1, "topic_data": topics}
        return PRODUCE.request_frame(self.random.randint(3, 12), 1, "hostile", request)


async def attack(address, frames, budget):
    """One connection after the other, each with a few frames, until the budget is spent."""
    while budget:
        try:
            reader, writer = await asyncio.open_connection(*address)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        try:
            for _ in range(frames.random.randint(1, FRAMES_PER_CONNECTION_MAX)):
                if budget:
                    budget.pop()
                    writer.write(frames.make())
            await writer.drain()
            ending = frames.random.randrange(4)
            if ending == 0:
                writer.write_eof()
            if ending != 1:  # 1: it hangs up without looking
                async with asyncio.timeout(frames.random.choice((0.002, 0.02, 0.1))):
                    while await reader.read(65536):
                        pass
        except (OSError, TimeoutError):  # the broker has hung up, as it should
            pass
        finally:
            writer.close() if frames.random.random() < 0.7 else writer.transport.abort()


async def behave(address, ready, done):
    """Each record that it is told is written, it reads again. Returns (records, longest wait)."""
    client = Client(*await asyncio.open_connection(*address))
    count, longest_s = 0, 0.0
    while not done.is_set():
        started = time.monotonic()
        value = struct.pack(">q", count)
        data = [{"index": 0, "records": batch(1, value)}]
        request = {"acks": -1, "timeout_ms": 1000, "topic_data": [{"name": "side", "partition_data": data}]}
        answer = await client.call(PRODUCE, 9, request)
        (told,) = answer["responses"][0]["partition_responses"]
        assert (ErrorCode(told["error_code"]), told["base_offset"]) == (ErrorCode.NONE, count)
        entry = {"partition": 0, "fetch_offset": count, "partition_max_bytes": 1 << 20}
        topics = [{"topic": "side", "partitions": [entry]}]
        answer = await client.call(FETCH, 12, {"max_wait_ms": 0, "min_bytes": 1, "max_bytes": 1 << 20, "topics": topics})
        (found,) = answer["responses"][0]["partitions"]
        assert found["high_watermark"] == count + 1 and value in bytes(found["records"])
        longest_s = max(longest_s, time.monotonic() - started)
        count += 1
        ready.set()
        await asyncio.sleep(0.005)
    client.close()
    return count, longest_s


def well_behaved(address, ready, done, results):
    """The process of the client on the side."""
    try:
        results.put((*asyncio.run(behave(address, ready, done)), None))
    except BaseException as error:
        results.put((0, 0.0, repr(error)))


def resident_bytes(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


async def watch_memory(pid, done):
    most = 0
    while not done.is_set():
        most = max(most, resident_bytes(pid))
        await asyncio.sleep(0.1)
    return most


@pytest.mark.timeout(3600 if FRAMES > 10_000 else 300)
def test_hostile_frames(tmp_path, capsys):
    with testing.broker({"t": 2, "side": 1}, data_dir=str(tmp_path / "data")) as broker:
        frames = Frames(SEED)
        before = resident_bytes(broker.process.pid)

        address = (broker.host, broker.port)

        async def siege():
            done = asyncio.Event()
            memory = asyncio.ensure_future(watch_memory(broker.process.pid, done))
            budget = list(range(FRAMES))
            await asyncio.gather(*(attack(address, frames, budget) for _ in range(CONNECTIONS)))
            done.set()
            return await memory

        processes = multiprocessing.get_context("spawn")  # its own: what disturbs the attackers is not to disturb it
        ready, done, results = processes.Event(), processes.Event(), processes.Queue()
        side = processes.Process(target=well_behaved, args=(address, ready, done, results), daemon=True)
        side.start()
        assert ready.wait(60), "the client on the side does not get to its first record"
        started = time.monotonic()
        most = asyncio.run(siege())
        seconds = time.monotonic() - started
        done.set()
        records, longest_s, error = results.get(timeout=60)
        side.join()
        assert error is None, error
        assert broker.process.poll() is None, broker.log
        log = broker.log
        assert "Traceback" not in log, log[log.index("Traceback") - 500 :][:5000]
        assert broker.stop() == 0, broker.log
    with capsys.disabled():
        print(
            f"\n{FRAMES} hostile frames {frames.counts} in {seconds:.0f} s, seed {SEED}: memory {before >> 20} -> {most >> 20} MiB, "
            f"side client {records} records, longest wait {longest_s * 1000:.0f} ms, {log.count('closed ')} lines of log"
        )
    assert most - before < MEMORY_BYTES_MAX
    assert records > 10 and longest_s < PATIENCE_S
    assert log.count("closed ") > 0
    for name in ("t-0", "t-1", "side-0"):
        data = (tmp_path / "data" / name / "00000000000000000000.log").read_bytes()
        position = 0
        while position < len(data):
            found = parse(data, position)
            check(found)
            position += found.size
