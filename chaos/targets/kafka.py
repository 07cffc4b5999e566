"""How is Apache Kafka run as a target? From Maven's jars, one node that is broker and controller (KRaft combined).

`fetch_kafka()` and `fetch_kafka_tools()` give class paths: of the broker with the Java client, and of the
console tools.
Maven resolves them into build/kafka, once, and only when these are called: by the first start of this target, by
`make test-clients`, by the benchmark. Nothing else in the project needs them.

The JVM flags are for a quick start and a small heap (serial collector, first compiler only). A benchmark hands in its
own `jvm_flags`, since these cost throughput.

The data directory is formatted by Kafka's own tool at the first start. Its cluster id is fixed and means nothing.
"""

import os
import pathlib
import shutil
import subprocess

from chaos.targets.base import NotAvailable, Policy, Process, TargetError, accepts_connections, free_port

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "kafka"
BROKER_POM = pathlib.Path(__file__).with_name("kafka-pom.xml")
TOOLS_POM = pathlib.Path(__file__).with_name("kafka-tools-pom.xml")
CLUSTER_ID = "refbrokerRefbrokerRefb"  # 22 characters of base64url: any 16 bytes
QUICK_JVM_FLAGS = (
    "-Xms64m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-Xshare:auto",
)
LOG4J = """\
appenders=out
appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=[%d] %p %m (%c)%n
rootLogger.level=INFO
rootLogger.appenderRef.out.ref=out
"""
MAVEN_SECONDS_MAX = 600


def java_program(name: str = "java") -> str:
    """The path of `java` or `javac`. Raises NotAvailable."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which(name, path=os.path.join(home, "bin") if home else None) or shutil.which(name)
    if not found:
        raise NotAvailable("JDK missing")
    return found


def fetch_kafka() -> str:
    """The class path of the broker and the Java client; resolves it unless that is done. Raises NotAvailable."""
    return _fetch(BROKER_POM, BUILD / "libs")


def fetch_kafka_tools() -> str:
    """The class path of the console tools; resolves it unless that is done. Raises NotAvailable."""
    return _fetch(TOOLS_POM, BUILD / "tools-libs")


def _fetch(pom: pathlib.Path, libs: pathlib.Path) -> str:
    java_program()
    stamp = libs / "pom.xml"
    if not stamp.exists() or stamp.read_bytes() != pom.read_bytes():
        maven = shutil.which("mvn")
        if not maven:
            raise NotAvailable("Maven missing")
        shutil.rmtree(libs, ignore_errors=True)
        result = subprocess.run(
            [
                maven,
                "-q",
                "-B",
                "-f",
                str(pom),
                "dependency:copy-dependencies",
                f"-DoutputDirectory={libs}",
                "-DincludeScope=runtime",
            ],
            capture_output=True,
            text=True,
            timeout=MAVEN_SECONDS_MAX,
        )
        if result.returncode:
            raise NotAvailable(
                f"Maven could not resolve Apache Kafka: {(result.stdout + result.stderr).strip()[-300:]}"
            )
        shutil.copyfile(pom, stamp)
    return str(libs / "*")


class Kafka(Process):
    name = "kafka"
    clean_exits = (0, 143)  # a JVM says by which signal it was asked

    def __init__(
        self,
        directory: str,
        *,
        policy: Policy | None = None,
        properties: dict[str, str] | None = None,
        wrap: tuple[str, ...] = (),
        jvm_flags: tuple[str, ...] = QUICK_JVM_FLAGS,
    ):
        super().__init__(directory, policy=policy, properties=properties, wrap=wrap)
        self.jvm_flags = jvm_flags
        self.controller_port = free_port()
        self.properties_path = os.path.join(self.directory, "server.properties")

    def java(self, main_class: str, *arguments: str) -> list[str]:
        """A command line that runs a class of Kafka's with our flags and logging."""
        log4j = os.path.join(self.directory, "log4j2.properties")
        return [
            java_program(),
            *self.jvm_flags,
            f"-Dlog4j2.configurationFile={log4j}",
            "-cp",
            fetch_kafka(),
            main_class,
            *arguments,
        ]

    def command(self) -> list[str]:
        return self.java("kafka.Kafka", self.properties_path)

    def prepare(self) -> None:
        pathlib.Path(self.directory, "log4j2.properties").write_text(LOG4J)
        pathlib.Path(self.properties_path).write_text(
            "".join(f"{key}={value}\n" for key, value in self.all_properties().items())
        )
        if not os.path.exists(os.path.join(self.data_directory, "meta.properties")):
            done = subprocess.run(
                self.java("kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", self.properties_path),
                capture_output=True,
                text=True,
                timeout=120,
            )
            if done.returncode:
                raise TargetError(f"formatting {self.data_directory} failed:\n{done.stdout}{done.stderr}")

    def all_properties(self) -> dict[str, str]:
        return {
            "node.id": "1",
            "process.roles": "broker,controller",
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://127.0.0.1:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.voters": f"1@127.0.0.1:{self.controller_port}",
            "log.dirs": self.data_directory,
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "broker.session.timeout.ms": "3000",  # only then is a restarted broker let in
            "broker.heartbeat.interval.ms": "500",
            **self.properties,
        }

    def is_ready(self) -> bool:
        return "Kafka Server started" in self.output() and accepts_connections(self.port)
