"""The command line where the other side is not what it should be: each time one line that says so, and an exit code."""

import socket
import struct
import subprocess
import sys
import threading

import pytest
from test_cli import refbroker

from refbroker import testing
from refbroker.apis import k03_metadata, k18_api_versions
from refbroker.client import Client, ClientError, topics_command
from refbroker.errors import ErrorCode

VERSIONS = [{"api_key": key, "min_version": 0, "max_version": 9} for key in (3, 18)]


def frame(api, version, correlation_id, response):
    parts = api.response_frame(version, correlation_id, response)
    return b"".join(bytes(part) for part in parts)


HELLO = frame(k18_api_versions.API, 0, 1, {"error_code": 0, "api_keys": VERSIONS})

SILENCE = b""
OPTIONS = {"topic": None, "partitions": None, "configs": (), "if_not_exists": False, "if_exists": False, "exclude_internal": False}


@pytest.fixture
def answering():
    """A server that gives these answers, whatever it is asked; then it closes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(*answers):
        def run():
            connection, _ = listener.accept()
            with connection:
                for answer in answers:
                    connection.recv(65536)
                    connection.sendall(answer)
                    if answer is SILENCE:
                        connection.recv(65536)  # until the client has lost its patience

        threading.Thread(target=run, daemon=True).start()
        return listener.getsockname()

    with listener:
        yield serve


@pytest.mark.parametrize("answers, complaint", [
    ([], "closed the connection|ApiVersions: Connection reset"),
    ([SILENCE], "ApiVersions: timed out"),
    ([struct.pack(">i", 2)], "does not speak Kafka's protocol: a response of 2 bytes"),
    ([struct.pack(">ii", 5, 1) + b"\0"], "does not speak Kafka's protocol: ApiVersions"),
    ([HELLO[:4] + struct.pack(">i", 77) + HELLO[8:]], "ApiVersions: the answer to another request"),
    ([HELLO, SILENCE], "Metadata: timed out"),
    ([frame(k18_api_versions.API, 0, 1, {"error_code": 0, "api_keys": VERSIONS[1:]})], "does not serve Metadata"),
    ([HELLO[:-3]], "closed the connection"),
])  # fmt: skip
def test_who_does_not_answer_as_a_broker(answering, answers, complaint):
    where = answering(*answers)
    with pytest.raises(ClientError, match=complaint) as error, Client(where, timeout_ms=300) as client:
        client.request(k03_metadata.API, {"topics": None, "allow_auto_topic_creation": False})
    assert f"{where[0]}:{where[1]}" in str(error.value) and "\n" not in str(error.value)


def test_topics_that_are_kafkas_own_and_topics_that_are_not_there(answering):
    def row(name, internal, code=0):
        return {"error_code": code, "name": name, "is_internal": internal, "partitions": []}

    def told(*rows):
        return frame(k03_metadata.API, 9, 2, {"brokers": [], "controller_id": 1, "topics": rows})

    metadata = told(row("__consumer_offsets", True), row("t", False))
    assert list(topics_command("list", answering(HELLO, metadata), **OPTIONS | {"exclude_internal": True})) == ["t"]
    gone = told(row("u", False, ErrorCode.UNKNOWN_TOPIC_OR_PARTITION))
    assert list(topics_command("describe", answering(HELLO, gone), **OPTIONS | {"topic": "u", "if_exists": True})) == []
    with pytest.raises(ClientError, match="u"):
        list(topics_command("describe", answering(HELLO, gone), **OPTIONS | {"topic": "u"}))


@pytest.mark.parametrize("words, complaint", [
    (["--seed-topic", "no good:1"], "--seed-topic: INVALID_TOPIC"),
    (["--metrics", "TAKEN"], "--metrics: error while attempting to bind"),
    (["--override", "listeners=SSL://127.0.0.1:0"], "ssl.keystore"),
    (["--override", "listeners=SSL://127.0.0.1:0", "--override", "ssl.enabled.protocols="], "ssl.enabled.protocols"),
])  # fmt: skip
def test_a_broker_that_cannot_serve_what_it_is_asked_to(tmp_path, words, complaint):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = [word.replace("TAKEN", f"127.0.0.1:{taken.getsockname()[1]}") for word in words]
        listen = [] if "listeners" in " ".join(words) else ["--listen", "127.0.0.1:0"]
        code, out, err = refbroker("serve", "--data-dir", tmp_path / "data", *listen, *words)
    assert (code, "Traceback" in err) == (64 if "ssl" in complaint else 1, False)
    assert complaint in err.splitlines()[-1], err


def test_a_reader_that_has_seen_enough(tmp_path):
    with testing.broker(topics={f"topic-{number}" * 20: 1 for number in range(100)}) as broker:
        command = [sys.executable, "-m", "refbroker", "topics", "list", "--bootstrap-server", broker.bootstrap]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.close()
        assert (process.stderr.read(), process.wait(60)) == (b"", 1)
