"""The command line: usage, exit codes, start, stop, refusals. Brokers here are real processes."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.metadata import EntryPoint, version
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from chaos.bench import raw
from refbroker import cli, testing
from refbroker.client import Client, ClientError, topics_command


def refbroker(*words, timeout=60, environ=None):
    """(exit code, stdout, stderr) of a command that ends by itself."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KAFKA_")}
    done = subprocess.run(
        [sys.executable, "-m", "refbroker", *map(str, words)], capture_output=True, text=True, timeout=timeout, env={**clean, **(environ or {})}
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def inside(monkeypatch, capsys):
    """The same, without a process of its own: many of them would take long."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["refbroker", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        captured = capsys.readouterr()
        return stopped.value.code, captured.out, captured.err

    return run


def tree_of(directory: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(directory)): None if path.is_dir() else path.read_bytes() for path in sorted(directory.rglob("*"))}


@pytest.fixture(scope="module")
def running():
    with testing.broker(topics={"seeded": 2}, config={"num.partitions": 3}) as broker:
        yield broker


# usage


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["srve"], "No such command"),
        (["serve", "--bogus"], "No such option"),
        (["serve", "--listen", "9092"], "expected HOST:PORT"),
        (["serve", "--listen", "h:99999"], "expected HOST:PORT"),
        (["serve", "--metrics", "9092"], "expected HOST:PORT"),
        (["serve", "--override", "num.partitions"], "expected key=value"),
        (["serve", "--override", "num.partitions=x"], "num.partitions = 'x': expected a whole number"),
        (["serve", "--seed-topic", "t"], "expected NAME:PARTITIONS"),
        (["serve", "--seed-topic", "t:0"], "expected NAME:PARTITIONS"),
        (["serve", "--config", "/nonexistent/file"], "No such file"),
        (["topics", "create", "--bootstrap-server", "h:1"], "needs --topic"),
        (["topics", "shred", "--bootstrap-server", "h:1"], "is not one of"),
        (["dump-log"], "Missing argument"),
    ],
)
def test_bad_usage_is_64_and_says_what_is_wrong(words, complaint, tmp_path, inside):
    code, out, err = inside(*words, *(["--data-dir", str(tmp_path / "d")] if words[0] == "serve" else []))
    assert (code, out) == (64, "")
    assert complaint in err and "Traceback" not in err
    assert not (tmp_path / "d").exists()


def test_help_and_version(inside):
    code, out, _ = inside("--help")
    assert code == 0 and all(command in out for command in ("serve", "topics", "dump-log"))
    assert inside("--version") == (0, f"refbroker, version {version('refbroker')}\n", "")
    code, out, _ = inside("serve", "--help")
    assert code == 0 and "--seed-topic" in out


def test_an_error_of_ours_is_70(monkeypatch, inside):
    def boom(**_):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(cli.cli.commands["serve"], "callback", boom)
    code, _, err = inside("serve")
    assert code == 70 and "ZeroDivisionError" in err


def test_plugins_that_cannot_be_imported_are_left_out(monkeypatch):
    points = [
        EntryPoint("gone", "no.such.module:command", "refbroker.commands"),
        EntryPoint("also-gone", "refbroker.cli:no_such_name", "refbroker.commands"),
        EntryPoint("there", "refbroker.cli:topics", "refbroker.commands"),
    ]
    monkeypatch.setattr(cli, "_plugins", lambda: points)
    names = cli.cli.list_commands(None)
    assert "there" in names and "gone" not in names and "also-gone" not in names
    assert cli.cli.get_command(None, "gone") is None


# start and stop


def test_one_line_on_stdout_when_ready_and_a_clean_stop(tmp_path):
    data = tmp_path / "data"
    process = subprocess.Popen(
        [sys.executable, "-m", "refbroker", "serve", "--data-dir", str(data), "--listen", "127.0.0.1:0", "--seed-topic", "t:2"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    line = process.stdout.readline()
    port = int(re.match(rf"refbroker ready on 127\.0\.0\.1:(\d+) node 1 cluster \S{{22}} data {re.escape(str(data))} pid {process.pid}\n", line)[1])
    with socket.create_connection(("127.0.0.1", port)):
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert "Traceback" not in err
    assert (data / ".kafka_cleanshutdown").exists()
    assert (data / "t-0").is_dir() and (data / "t-1").is_dir()


def test_sigint_is_a_clean_stop_too(tmp_path):
    broker = testing.TestBroker(str(tmp_path / "data"), {}, {})
    broker.start()
    assert broker._end(signal.SIGINT) == 0
    assert (tmp_path / "data" / ".kafka_cleanshutdown").exists()
    broker.close()


def test_a_second_signal_ends_it_at_once(tmp_path):
    """The stop is held up by a request in hand: a consumer that waits for records."""
    broker = testing.TestBroker(str(tmp_path / "data"), {"t": 1}, {})
    broker.start()
    consumer = raw.Connection(broker.bootstrap)
    consumer.socket.sendall(raw.fetch_frame("t", 0, 1 << 20, wait_ms=300_000))
    with Client((broker.host, broker.port)):
        pass  # who came later has its answer: the Fetch is in hand
    process = broker.process
    process.send_signal(signal.SIGTERM)
    while " stopping" not in broker.log:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    consumer.close()
    broker.process = None
    process.stdout.close()
    broker.close()


def test_it_starts_on_what_it_left_clean_or_killed(tmp_path):
    broker = testing.TestBroker(str(tmp_path / "data"), {"t": 1}, {})
    broker.start()
    assert broker.stop() == 0
    broker.start()
    broker.kill()
    broker.start()
    with Client((broker.host, broker.port)) as client:
        assert client.version is not None
    names = list(topics_command("list", (broker.host, broker.port), topic=None, partitions=None, configs=(), if_not_exists=False,
                                if_exists=False, exclude_internal=False))  # fmt: skip
    assert names == ["t"]
    broker.close()


def test_a_disk_that_fails_ends_the_process(tmp_path):
    """C1.13: what the disk has is unknown until a recovery; the next start is one. The limit makes writes fail with EFBIG."""
    from confluent_kafka import Producer
    from kafka import KafkaConsumer

    command = f"ulimit -f 200; exec {sys.executable} -m refbroker serve --data-dir {tmp_path}/data --listen 127.0.0.1:0 --seed-topic t:1"
    process = subprocess.Popen(["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    bootstrap = re.search(r"ready on (\S+)", process.stdout.readline())[1]
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "retries": 0})
    answers = []
    while len(answers) < 100 and not (answers and answers[-1]):
        producer.produce("t", b"x" * 10_000, on_delivery=lambda error, _: answers.append(error and error.name()))
        producer.flush(10)
    assert answers[-1] == "KAFKA_STORAGE_ERROR" and not any(answers[:-1])
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "is offline" in err.splitlines()[-1]
    assert not (tmp_path / "data" / ".kafka_cleanshutdown").exists()
    broker = testing.TestBroker(str(tmp_path / "data"), {}, {})
    broker.start()
    consumer = KafkaConsumer("t", bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest", consumer_timeout_ms=60_000)
    assert len([next(consumer) for _ in answers[:-1]]) >= 10
    consumer.close()
    broker.close()


# refusals to start: one line, exit code 1, nothing changed


def refusal(*words):
    code, out, err = refbroker("serve", "--listen", "127.0.0.1:0", *words)
    lines = [line for line in err.splitlines() if not re.match(r"\d{4}-\d\d-\d\d .* (INFO|WARNING)", line)]
    assert (code, out) == (1, ""), err
    assert len(lines) == 1, err
    return lines[0]


def test_a_directory_that_is_in_use(running):
    assert "refbroker: " in refusal("--data-dir", running.data_dir)


@pytest.mark.parametrize(
    "contents",
    [
        {"important.txt": "mine"},
        {"meta.properties": "version=9\nnode.id=1\ncluster.id=abc\n"},
        {"meta.properties": "version=1\nnode.id=77\ncluster.id=q1Sh-9_ISia_zwGINzRvyQ\ndirectory.id=s0YchDHmdto4nVCYRL8e3w\n"},
        {"meta.properties": "\x00\xff not properties"},
    ],
    ids=["not ours", "newer format", "another node's", "garbage"],
)
def test_a_directory_that_is_not_ours(tmp_path, contents):
    for name, text in contents.items():
        (tmp_path / name).write_text(text, encoding="latin-1")
    before = tree_of(tmp_path)
    line = refusal("--data-dir", tmp_path)
    assert str(tmp_path) in line
    assert tree_of(tmp_path) == before


def test_a_file_where_the_directory_should_be(tmp_path):
    (tmp_path / "data").write_text("x")
    assert str(tmp_path / "data") in refusal("--data-dir", tmp_path / "data")


def test_an_address_that_is_taken(running, tmp_path):
    code, _, err = refbroker("serve", "--listen", running.bootstrap, "--data-dir", tmp_path / "data")
    assert code == 1
    assert f"refbroker: PLAINTEXT://{running.bootstrap}: Address already in use" in err


def test_warnings_are_on_stderr_and_the_environment_counts(tmp_path):
    (tmp_path / "server.properties").write_text("num.io.threads=8\nlog.retension.hours=5\n")
    code, _, err = refbroker(
        "serve", "--config", tmp_path / "server.properties", "--data-dir", tmp_path / "d", environ={"KAFKA_LISTENERS": "SSL://:9093"}
    )
    assert code == 64
    assert "needs ssl.keystore.location" in err
    with testing.broker(config={"num.io.threads": 8, "log.retension.hours": 5}) as broker:
        assert "unknown key log.retension.hours is ignored (did you mean log.retention.hours?)" in broker.log
        assert "no effect here: num.io.threads" in broker.log


# topics


@pytest.fixture
def topics(running, inside):
    return lambda *words: inside("topics", "--bootstrap-server", running.bootstrap, *words)


def test_topics_create_list_describe_delete(topics):
    assert topics("create", "--topic", "a", "--config", "retention.ms=5", "--config", "flush.messages=1") == (0, "Created topic a.\n", "")
    code, out, err = topics("create", "--topic", "a")
    assert (code, out) == (1, "") and "TOPIC_ALREADY_EXISTS" in err
    assert topics("create", "--topic", "a", "--if-not-exists") == (0, "", "")
    code, out, _ = topics("list")
    assert code == 0 and {"a", "seeded"} <= set(out.splitlines())
    code, out, _ = topics("describe", "--topic", "a")
    lines = out.splitlines()
    assert code == 0 and len(lines) == 4
    assert re.match(r"Topic: a\tTopicId: \S{22}\tPartitionCount: 3\tReplicationFactor: 1\tConfigs: ", lines[0])
    assert set(lines[0].split("Configs: ")[1].split(",")) == {"retention.ms=5", "flush.messages=1"}
    assert lines[1] == "\tTopic: a\tPartition: 0\tLeader: 1\tReplicas: 1\tIsr: 1"
    assert topics("delete", "--topic", "a") == (0, "Deleted topic a.\n", "")
    code, _, err = topics("delete", "--topic", "a")
    assert code == 1 and "UNKNOWN_TOPIC_OR_PARTITION" in err
    assert topics("delete", "--topic", "a", "--if-exists") == (0, "", "")
    code, _, err = topics("describe", "--topic", "a")
    assert code == 1 and "UNKNOWN_TOPIC_OR_PARTITION" in err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--topic", "a/b"], "INVALID_TOPIC_EXCEPTION"),
        (["--topic", "b", "--config", "retention.m=5"], "INVALID_CONFIG.*retention.ms"),
        (["--topic", "b", "--config", "retention.ms"], "expected KEY=VALUE"),
    ],
)
def test_topics_that_cannot_be_created(topics, words, complaint):
    code, out, err = topics("create", *words)
    assert (code, out) == (1, "")
    assert re.search(complaint, err)


def test_nobody_listens_and_somebody_else_listens(free_port, inside):
    code, _, err = inside("topics", "list", "--bootstrap-server", f"127.0.0.1:{free_port}")
    assert (code, err) == (1, f"refbroker: cannot connect to 127.0.0.1:{free_port}: Connection refused\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        child = os.fork()
        if child == 0:
            connection, _ = server.accept()
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            time.sleep(1)
            os._exit(0)
        with pytest.raises(ClientError, match="does not speak Kafka's protocol"):
            Client(("127.0.0.1", port))
        os.waitpid(child, 0)


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# metrics


def test_metrics_are_prometheus_text(tmp_path, free_port, inside):
    process = subprocess.Popen(
        [sys.executable, "-m", "refbroker", "serve", "--data-dir", str(tmp_path / "data"), "--listen", "127.0.0.1:0",
         "--seed-topic", 'a.b-c_d:2', "--metrics", f"127.0.0.1:{free_port}"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        bootstrap = re.search(r"ready on (\S+)", process.stdout.readline())[1]
        from kafka import KafkaProducer

        producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all")
        for _ in range(7):
            producer.send("a.b-c_d", b"x", partition=1)
        producer.close()
        inside("topics", "describe", "--bootstrap-server", bootstrap, "--topic", "nope")
        with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/metrics") as response:
            assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            text = response.read().decode()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{free_port}/other")
        with socket.create_connection(("127.0.0.1", free_port)) as rude:
            rude.sendall(b"x" * 20_000)
            rude.settimeout(60)
            assert rude.recv(100) == b""
    finally:
        process.terminate()
        process.communicate(timeout=60)
    samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            samples[sample.name, *sorted(sample.labels.items())] = sample.value
    assert samples["kafka_server_brokertopicmetrics_messagesin_total",] == 7
    assert samples["kafka_log_log_logendoffset", ("partition", "1"), ("topic", "a.b-c_d")] == 7
    assert samples["kafka_network_requestmetrics_requests_total", ("request", "Produce")] >= 1
    assert samples["kafka_network_requestmetrics_totaltime_seconds_total", ("request", "Produce")] > 0
    assert samples["kafka_server_brokertopicmetrics_bytesin_total",] > 7
    assert samples["kafka_server_socketservermetrics_connections_opened_total",] >= 1
    assert samples["process_resident_memory_bytes",] < 80 << 20
    assert samples["kafka_log_logflushstats_logflush_total",] >= 1  # the metadata log's
    assert samples["kafka_log_logflushstats_logflush_seconds_total",] > 0
    assert samples["kafka_network_requestmetrics_errors_total", ("error", "UNKNOWN_TOPIC_OR_PARTITION"), ("request", "Metadata")] == 1
