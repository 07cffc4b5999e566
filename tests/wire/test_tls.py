"""TLS: real certificates, real clients, and everybody who does it wrong."""

import asyncio
import contextlib
import gc
import logging
import socket
import ssl

import pytest
import trustme
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from confluent_kafka import Consumer, Producer
from cryptography.hazmat.primitives import serialization
from fakes import Client, batch

from chaos.targets import Refbroker
from chaos.targets.base import free_port
from refbroker import apis
from refbroker.broker import Broker
from refbroker.config import Config, ConfigError
from refbroker.connections import Connection
from refbroker.tls import TlsStream

SERVED = apis.load()
PRODUCE, FETCH, METADATA = (SERVED[key].api for key in (0, 1, 3))
RECORDS, RECORD_BYTES = 20, 900_000


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """An authority, a key for 127.0.0.1 in a file, and one for a client."""
    directory, authority = tmp_path_factory.mktemp("keys"), trustme.CA()
    server, client = authority.issue_cert("127.0.0.1", "localhost"), authority.issue_cert("client@example.org")
    server.private_key_and_cert_chain_pem.write_to_path(str(directory / "server.pem"))
    client.private_key_and_cert_chain_pem.write_to_path(str(directory / "client.pem"))
    authority.cert_pem.write_to_path(str(directory / "authority.pem"))
    return directory


@contextlib.asynccontextmanager
async def running(directory, keys, **settings):
    given = {"listeners": "PLAINTEXT://127.0.0.1:0,SSL://127.0.0.1:0", "log.dirs": str(directory), "ssl.keystore.type": "PEM",
             "ssl.keystore.location": str(keys / "server.pem"), "offsets.topic.num.partitions": "1"}
    given |= {key.replace("_", "."): value for key, value in settings.items()}
    broker = await Broker.start(Config.load(None, {}, [f"{key}={value}" for key, value in given.items()])[0])
    try:
        await broker.metadata.create_topic("t", 1, {}, 1)
        yield broker
    finally:
        await broker.stop()


async def connect(broker, keys, certificate=None, **options):
    context = ssl.create_default_context(cafile=str(keys / "authority.pem"))
    if certificate:
        context.load_cert_chain(str(keys / certificate))
    for name, value in options.items():
        setattr(context, name, value)
    host, port = broker.server.addresses["SSL"]
    return Client(*await asyncio.open_connection(host, port, ssl=context, limit=1 << 26))


async def produce(client, value=b"v"):
    response = await client.call(PRODUCE, 9, {"acks": -1, "timeout_ms": 1000, "topic_data": [
        {"name": "t", "partition_data": [{"index": 0, "records": batch(1, value)}]}]})
    return response["responses"][0]["partition_responses"][0]["base_offset"]


def fetch_request(max_bytes):
    return {"max_wait_ms": 0, "min_bytes": 1, "max_bytes": max_bytes, "topics": [
        {"topic": "t", "partitions": [{"partition": 0, "fetch_offset": 0, "partition_max_bytes": max_bytes}]}]}


def test_large_requests_and_a_slow_reader(tmp_path, keys):
    async def story():
        async with running(tmp_path, keys) as broker:
            client, other = await connect(broker, keys), await connect(broker, keys)
            for number in range(RECORDS):
                assert await produce(client, bytes([number]) * RECORD_BYTES) == number
            client.writer.transport.pause_reading()
            await client.send(FETCH, 12, fetch_request(40_000_000))
            await asyncio.sleep(0.05)
            assert await produce(other) == RECORDS  # nobody else waits
            client.writer.transport.resume_reading()
            _, response = await client.receive(FETCH, 12)
            records = response["responses"][0]["partitions"][0]["records"]
            size = len(batch(1, bytes(RECORD_BYTES)))
            values = [bytes(records[n * size + size - RECORD_BYTES - 1 : n * size + size - 1]) for n in range(RECORDS)]
            assert values == [bytes([number]) * RECORD_BYTES for number in range(RECORDS)]

    asyncio.run(story())


def test_requests_sent_ahead_come_out_of_openssl(tmp_path, keys):
    """What OpenSSL has decrypted does not show in the socket: 200 requests in a few TLS records."""

    async def story():
        async with running(tmp_path, keys) as broker:
            client = await connect(broker, keys)
            sent = [await client.send(FETCH, 12, fetch_request(100)) for _ in range(200)]
            assert [(await client.receive(FETCH, 12))[0] for _ in sent] == sent

    asyncio.run(story())


def test_nothing_of_a_closed_connection_waits_for_the_collector(tmp_path, keys):
    """It looks rarely, and a connection has buffers of Python's and of OpenSSL's."""

    async def story():
        async with running(tmp_path, keys) as broker:
            client = await connect(broker, keys)
            await produce(client)
            reader, writer = await asyncio.open_connection(*broker.server.addresses["SSL"])
            writer.write(b"no TLS at all\n")
            with contextlib.suppress(ConnectionError):
                await reader.read()
            client.close()
            while broker.server.connections:
                await asyncio.sleep(0.001)
        return [type(one).__name__ for one in gc.get_objects() if type(one) in (Connection, TlsStream, ssl.SSLSocket)]

    gc.collect()
    gc.disable()
    try:
        assert asyncio.run(story()) == []
    finally:
        gc.enable()


def test_clients_are_told_the_address_of_the_listener_that_they_came_through(tmp_path, keys):
    async def story():
        async with running(tmp_path, keys) as broker:
            plain = await Client.connect(broker)
            for client, name in ((await connect(broker, keys), "SSL"), (plain, "PLAINTEXT")):
                (told,) = (await client.call(METADATA, 9, {"topics": []}))["brokers"]
                assert (told["host"], told["port"]) == broker.server.addresses[name]

    asyncio.run(story())


@pytest.mark.parametrize(
    ("settings", "wrong", "reason"),
    [
        ({}, {"plain": True}, "does the client speak TLS?"),
        ({}, {"authority": False}, "unknown ca"),
        ({"ssl.client.auth": "required"}, {}, "peer did not return a certificate"),
        ({"ssl.enabled.protocols": "TLSv1.3"}, {"options": {"maximum_version": ssl.TLSVersion.TLSv1_2}}, "unsupported protocol"),
        ({"connections.max.idle.ms": "300"}, {"silent": True}, "connections.max.idle.ms"),
    ],
)  # fmt: skip
def test_who_does_it_wrong_is_told_in_one_line_and_costs_one_connection(tmp_path, keys, caplog, settings, wrong, reason):
    async def story():
        trusted = {"ssl.truststore.type": "PEM", "ssl.truststore.location": str(keys / "authority.pem")}
        async with running(tmp_path, keys, **trusted, **settings) as broker:
            host, port = broker.server.addresses["SSL"]
            caplog.clear()
            with contextlib.suppress(OSError):
                if wrong.get("plain") or wrong.get("silent"):
                    reader, writer = await asyncio.open_connection(host, port)
                    if wrong.get("plain"):
                        writer.write(METADATA.request_frame(9, 1, "c", {"topics": []}))
                    await asyncio.wait_for(reader.read(), 60)
                elif wrong.get("authority", True):
                    client = await connect(broker, keys, **wrong.get("options", {}))
                    assert await client.closed()
                else:
                    await asyncio.to_thread(_trusts_nobody, host, port)
            while broker.server.connections:
                await asyncio.sleep(0.01)
            lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
            if "connections.max.idle.ms" not in settings:
                good = await connect(broker, keys, certificate="client.pem")
                assert await produce(good) == 0
            return lines

    (line,) = asyncio.run(story())
    assert reason in line and line.startswith("closed 127.0.0.1:")


def _trusts_nobody(host, port):
    """A client that does not know our authority, and says so, as most do."""
    with socket.create_connection((host, port)) as connection:
        ssl.create_default_context().wrap_socket(connection, server_hostname=host)


def test_a_key_in_the_configuration_itself(tmp_path, keys):
    """As text, and encrypted."""
    key = serialization.load_pem_private_key((keys / "server.pem").read_bytes(), None)
    encrypted = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                  serialization.BestAvailableEncryption(b"secret")).decode()
    chain = (keys / "server.pem").read_text().partition("-----BEGIN CERTIFICATE-----")
    given = {"ssl.keystore.location": "", "ssl.keystore.key": encrypted, "ssl.keystore.certificate.chain": "".join(chain[1:])}

    async def story(**password):
        async with running(tmp_path, keys, **given, **password) as broker:
            assert await produce(await connect(broker, keys)) == 0

    asyncio.run(story(ssl_key_password="secret"))
    for wrong in ({}, {"ssl_key_password": "sesame"}):
        with pytest.raises(ConfigError, match="ssl.keystore.key: .*ssl.key.password"):
            asyncio.run(story(**wrong))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"ssl.keystore.location": "/nowhere.pem"}, "ssl.keystore.location: /nowhere.pem: expected a PEM file"),
        ({"ssl.keystore.location": ""}, "needs ssl.keystore.location, or ssl.keystore.key"),
        ({"ssl.keystore.type": "JKS"}, "ssl.keystore.type: JKS is not read, only PEM"),
        ({"ssl.truststore.type": "PEM", "ssl.truststore.certificates": "none"}, "ssl.truststore: expected certificates"),
        ({"ssl.truststore.location": "/some.jks"}, "ssl.truststore.type: JKS is not read"),
    ],
)  # fmt: skip
def test_keys_that_cannot_be_used_are_refused_at_the_start(tmp_path, keys, settings, complaint):
    async def story():
        async with running(tmp_path, keys, **settings):
            pass

    with pytest.raises(ConfigError, match=complaint):
        asyncio.run(story())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("client_auth", ["none", "required"])
def test_real_clients(tmp_path, keys, client_auth):
    address, plain = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    target = Refbroker(str(tmp_path), properties={
        "ssl.keystore.type": "PEM", "ssl.keystore.location": str(keys / "server.pem"), "ssl.client.auth": client_auth,
        "ssl.truststore.type": "PEM", "ssl.truststore.location": str(keys / "authority.pem")})
    target.properties["listeners"] = f"PLAINTEXT://{target.bootstrap or plain},SSL://{address}"
    target.start()
    try:
        _with_librdkafka(address, keys)
        asyncio.run(_with_aiokafka(address, keys))
    finally:
        target.stop()


def _with_librdkafka(address, keys):
    common = {"bootstrap.servers": address, "security.protocol": "ssl", "ssl.ca.location": str(keys / "authority.pem"),
              "ssl.certificate.location": str(keys / "client.pem"), "ssl.key.location": str(keys / "client.pem")}
    producer, values = Producer(common), [str(number).encode() * 100 for number in range(2000)]
    for value in values:
        producer.produce("rdkafka", value, partition=0)
    assert producer.flush(30) == 0
    consumer, got = Consumer(common | {"group.id": "g", "auto.offset.reset": "earliest"}), []
    consumer.subscribe(["rdkafka"])
    while len(got) < len(values):
        messages = consumer.consume(1000, 20)
        assert messages
        got += [message.value() for message in messages]
    consumer.close()
    assert got == values


async def _with_aiokafka(address, keys):
    context = ssl.create_default_context(cafile=str(keys / "authority.pem"))
    context.load_cert_chain(str(keys / "client.pem"))
    common = {"bootstrap_servers": address, "security_protocol": "SSL", "ssl_context": context}
    async with AIOKafkaProducer(**common) as producer:
        for number in range(200):
            await producer.send("aio", b"%d" % number)
    async with AIOKafkaConsumer("aio", group_id="h", auto_offset_reset="earliest", **common) as consumer:
        got = [(await asyncio.wait_for(consumer.getone(), 30)).value for _ in range(200)]
    assert got == [b"%d" % number for number in range(200)]
