"""kcat, the command line of librdkafka: it produces, consumes, queries. Topics are made for it through librdkafka, and so
are records with timestamps of long ago, which kcat cannot send; what administration it lacks is skipped."""

import os
import re
import subprocess
import threading

from suite import SECONDS_MAX, Client, KafkaCode, Member, Message, Sender, Suite, equal
from with_librdkafka import Librdkafka

FORMAT = r"%p %o %T %K %S %h\x01%k%s"  # lengths first, so that any bytes can follow; kcat adds no newline to a format
HEAD = re.compile(rb"(\d+) (\d+) (-?\d+) (-?\d+) (-?\d+) ([^\x01]*)\x01")
MESSAGE_END, KEY_END = "<end of message>", "<end of key>"
REFUSALS = {
    "Unknown topic": 3,
    "Message size too large": 10,
    "Offset out of range": 1,
    "Unknown partition": 3,
}


def refuse(output: str) -> None:
    for words, code in REFUSALS.items():
        if words in output:
            raise KafkaCode(code, output.strip()[-200:])


def kcat(bootstrap: str, *arguments: str | bytes, given: bytes = b"") -> bytes:
    done = subprocess.run(["kcat", "-b", bootstrap, *arguments], input=given, capture_output=True, timeout=SECONDS_MAX)
    words = done.stderr.decode(errors="replace")
    refuse(words)
    if done.returncode:
        raise AssertionError(f"kcat ended with {done.returncode}: {words[-300:]}")
    return done.stdout


def messages_of(output: bytes) -> tuple[list[Message], bytes]:
    """The messages in kcat's output, and the start of one that is not whole yet."""
    messages, position = [], 0
    while match := HEAD.match(output, position):
        partition, offset, timestamp_ms, key_size, value_size = map(int, match.groups()[:5])
        key_start = match.end()
        value_start = key_start + max(0, key_size)
        end = value_start + max(0, value_size)
        if end > len(output):
            break
        headers = [tuple(pair.partition(b"=")[::2]) for pair in match[6].split(b",")] if match[6] else []
        messages.append(
            Message(
                None if value_size < 0 else output[value_start:end],
                None if key_size < 0 else output[key_start:value_start],
                [(name.decode(), None if value == b"NULL" else value) for name, value in headers],
                timestamp_ms,
                partition,
                offset,
            )
        )
        position = end
    return messages, output[position:]


class GroupMember(Member):
    """`kcat -G`: commits by itself what it has printed, and says on stderr what it is assigned."""

    def __init__(self, bootstrap: str, group: str, topic: str, *more: str):
        self.process = subprocess.Popen(
            [
                "kcat",
                "-b",
                bootstrap,
                "-G",
                group,
                "-u",
                "-f",
                FORMAT,
                "-X",
                "auto.offset.reset=earliest",
                "-X",
                "heartbeat.interval.ms=200",
                "-X",
                "session.timeout.ms=10000",
                "-X",
                "auto.commit.interval.ms=100",
                *more,
                topic,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        os.set_blocking(self.process.stdout.fileno(), False)
        self.rest = b""
        self.partitions = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        for line in self.process.stderr:
            if b": assigned: " in line:
                self.partitions = line.partition(b": assigned: ")[2].count(b"[")
            elif b": revoked: " in line:
                self.partitions = 0

    def poll(self) -> list[Message]:
        messages, self.rest = messages_of(self.rest + (self.process.stdout.read() or b""))
        return messages

    def assigned(self) -> int:
        return self.partitions

    def commit(self, topic: str, offsets: dict[int, int]) -> None:
        """It has been done, or will be when the member leaves."""

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(SECONDS_MAX)
        self.process.stdout.close()
        self.process.stderr.close()


class IdempotentSender(Sender):
    def __init__(self, bootstrap: str):
        self.bootstrap = bootstrap
        self.process: subprocess.Popen | None = None

    def send(self, topic: str, value: bytes) -> None:
        if self.process is None:
            self.process = subprocess.Popen(
                [
                    "kcat",
                    "-b",
                    self.bootstrap,
                    "-P",
                    "-E",
                    "-t",
                    topic,
                    "-p",
                    "0",
                    "-X",
                    "enable.idempotence=true",
                    "-X",
                    "linger.ms=1",
                    "-X",
                    "batch.num.messages=20",
                    "-X",
                    "message.timeout.ms=120000",
                ],
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        self.process.stdin.write(value + b"\n")
        self.process.stdin.flush()

    def flush(self) -> None:
        _, words = self.process.communicate(timeout=120)
        equal(0, self.process.returncode, f"exit code of kcat ({words.decode(errors='replace')[-200:]})")

    def close(self) -> None:
        self.process = None


class Kcat(Client):
    name = "kcat"
    headers = [
        ("a", b"1"),
        ("a", b"2"),
        ("empty", b""),
        ("\u00fc\u20ac", b"\xff\x80"),
        ("null", None),
    ]  # no zero bytes: they are arguments
    pairs = [pair for pair in Client.pairs if pair not in ((b"", b""), (None, None))]
    lacks = dict.fromkeys(
        ("admin-topics", "admin-configs", "admin-groups", "delete-records", "error-bad-config"),
        "kcat has no administration",
    )

    def __init__(self, bootstrap: str):
        super().__init__(bootstrap)
        self.helper = Librdkafka(bootstrap)

    def create_topic(self, name, partitions):
        self.helper.create_topic(name, partitions)

    def topics(self):
        listed = kcat(self.bootstrap, "-L").decode()
        return set(re.findall(r'^  topic "(.*?)" with', listed, re.MULTILINE))

    def offset_at(self, name, timestamp_ms):
        found = int(kcat(self.bootstrap, "-Q", "-t", f"{name}:0:{timestamp_ms}").decode().rsplit(" ", 1)[1])
        return None if found == -1 else found

    def produce(self, name, messages, codec="none", large=False):
        if any(message.timestamp_ms for message in messages):
            return self.helper.produce(name, messages, codec)
        options = ["-z", codec, "-X", "topic.metadata.propagation.max.ms=500", "-X", "linger.ms=20"]
        options += ["-X", "message.max.bytes=5000000"] if large else []
        # One run of kcat for records that have partition, headers and nulls in common; to keep the order, as they follow each other.
        start = 0
        while start < len(messages):
            kind = self._kind(messages[start])
            end = start + 1
            while end < len(messages) and self._kind(messages[end]) == kind:
                end += 1
            self._produce_alike(name, messages[start:end], options)
            start = end
        return None

    @staticmethod
    def _kind(message: Message) -> tuple:
        return message.partition, tuple(message.headers), message.key is None, message.value is None

    def _produce_alike(self, name: str, messages: list[Message], options: list[str]) -> None:
        first = messages[0]
        options = [*options, "-p", str(first.partition)]
        for header, value in first.headers:
            options += ["-H", header.encode() + (b"" if value is None else b"=" + value)]
        options += ["-Z"] if first.value is None else []  # sends what is empty as null
        lines = [(b"" if one.key is None else one.key + KEY_END.encode()) + (one.value or b"") for one in messages]
        options += [] if first.key is None else ["-K", KEY_END]
        kcat(
            self.bootstrap,
            "-P",
            "-t",
            name,
            "-D",
            MESSAGE_END,
            *options,
            given=MESSAGE_END.encode().join(lines) + MESSAGE_END.encode(),
        )

    def read(self, name, count, start=None):
        output = kcat(
            self.bootstrap,
            "-C",
            "-t",
            name,
            "-p",
            "0",
            "-c",
            str(count),
            "-f",
            FORMAT,
            "-X",
            "check.crcs=true",
            "-o",
            "beginning" if start is None else str(start),
            "-X",
            "topic.auto.offset.reset=error",
        )
        return messages_of(output)[0]

    def member(self, group, name):
        return GroupMember(self.bootstrap, group, name)

    def committed(self, group, name, partition=0):
        return self.helper.committed(group, name, partition)

    def sender(self):
        return IdempotentSender(self.bootstrap)


class KcatSuite(Suite):
    def commit_resume(self) -> None:
        """kcat commits what it prints: the first of the two is told to print 10 and end."""
        topic, group = self.topic("commit"), self.name("commit")
        self.client.produce(topic, [Message(b"v%d" % i) for i in range(20)])
        options = ["-f", FORMAT, "-X", "auto.offset.reset=earliest", "-c", "10"]
        for expected in (range(10), range(10, 20)):
            got, _ = messages_of(kcat(self.client.bootstrap, "-G", group, *options, topic))
            equal(list(expected), [message.offset for message in got], "offsets")
            equal(expected.stop, self.client.committed(group, topic), "committed offset")


def make(bootstrap: str, ask) -> Suite:
    return KcatSuite(Kcat(bootstrap), ask)
