"""Which brokers are compared, and how are they set up? Both with their defaults, but for what would make them unequal.

A `Side` is a target (`chaos/targets`) with what a benchmark needs of it beyond: a second listener with TLS, whose key is
made by openssl for this run, where that is installed. Apache Kafka runs with the JVM flags of its own start script.
"""

import shutil
import ssl
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from chaos.targets import Kafka, Process, Refbroker
from chaos.targets.base import free_port
from chaos.targets.kafka import fetch_kafka

OURS = "refbroker"
KAFKA_HEAP = ("-Xms1g", "-Xmx1g", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35",
              "-XX:+ExplicitGCInvokesConcurrent", "-Djava.awt.headless=true")  # Kafka's own start script, with its heap
# One internal partition each, so that neither pays for fifty; no group of one waits for others; a segment that is not
# full before a round ends, so that no figure has the flush at its end by chance.
SAME = {"offsets.topic.num.partitions": "1", "group.initial.rebalance.delay.ms": "0", "log.segment.bytes": str(2**31 - 1),
        "max.connections.per.ip": "20000"}


@dataclass
class Side:
    """A broker under test; where `tls_bootstrap` is "", `no_tls` says why."""

    target: Process
    tls_bootstrap: str = ""
    context: ssl.SSLContext | None = None
    no_tls: str = "openssl missing (Debian package openssl)"

    @property
    def name(self) -> str:
        return self.target.name

    @property
    def bootstrap(self) -> str:
        return self.target.bootstrap

    @property
    def pid(self) -> int:
        return self.target.pid


Maker = Callable[[Path], Side]


def makers(against: str | None) -> dict[str, Maker]:
    """Name -> what makes a stopped broker in a directory. Raises TargetError where the peer cannot be had."""
    found: dict[str, Maker] = {OURS: lambda directory: _with_tls(Refbroker(str(directory), properties=dict(SAME)))}
    if against == "kafka":
        fetch_kafka()
        found["kafka"] = lambda directory: _with_tls(Kafka(str(directory), properties=dict(SAME), jvm_flags=KAFKA_HEAP))
    return found


def _with_tls(target: Process) -> Side:
    """Give it an SSL listener beside its plain one, and a key as PEM, in Kafka's keys."""
    if not shutil.which("openssl"):
        return Side(target)
    pem, certificate = _make_key(Path(target.directory))
    address, plain = f"127.0.0.1:{free_port()}", f"PLAINTEXT://{target.bootstrap}"
    listeners = f"{plain},SSL://{address}"
    target.properties |= {"listeners": listeners, "ssl.keystore.type": "PEM", "ssl.keystore.location": str(pem)}
    if isinstance(target, Kafka):
        target.properties |= {
            "listeners": f"{listeners},CONTROLLER://127.0.0.1:{target.controller_port}", "advertised.listeners": listeners,
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SSL:SSL,CONTROLLER:PLAINTEXT"}
    return Side(target, address, ssl.create_default_context(cafile=str(certificate)))


def _make_key(directory: Path) -> tuple[Path, Path]:
    """(key and certificate in one file, the certificate alone), for 127.0.0.1 and a day."""
    key, certificate, both = directory / "key.pem", directory / "certificate.pem", directory / "keystore.pem"
    if not both.exists():
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=127.0.0.1",
                        "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
                       check=True, capture_output=True)
        both.write_text(key.read_text() + certificate.read_text())
    return both, certificate
