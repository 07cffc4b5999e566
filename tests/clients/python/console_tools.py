"""`console_tools.py HOST:PORT [SCENARIO...]`: Apache Kafka's console tools, as an operator calls them.

One JVM at a time, the tool's own exit code and words are what is checked."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback

from suite import check, equal

from chaos.targets.kafka import QUICK_JVM_FLAGS, fetch_kafka_tools, java_program

TOOL_SECONDS_MAX = 120
JAVA = [java_program(), *QUICK_JVM_FLAGS, "-cp", fetch_kafka_tools()]
TOOLS = "org.apache.kafka.tools."
GROUPS = TOOLS + "consumer.group.ConsumerGroupCommand"
CONSUMER = TOOLS + "consumer.ConsoleConsumer"
SERVER = "--bootstrap-server"
RUN = format(int(time.time() * 1000), "x")


class Tools:
    def __init__(self, bootstrap: str):
        self.bootstrap = bootstrap

    def run(self, tool: str, *arguments: str, given: str = "", exit_code: int = 0, server: str | None = SERVER) -> str:
        """The tool's stdout and stderr; `exit_code` is the one that it must end with."""
        where = [server, self.bootstrap] if server else []
        done = subprocess.run(
            [*JAVA, tool if "." in tool else TOOLS + tool, *where, *arguments],
            input=given,
            capture_output=True,
            text=True,
            timeout=TOOL_SECONDS_MAX,
        )
        output = done.stdout + "".join(line + "\n" for line in done.stderr.splitlines() if not line.startswith("SLF4J"))
        print(f"--- {tool} {' '.join(arguments)}\n{output}", file=sys.stderr)
        equal(exit_code, done.returncode, f"exit code of {tool} ({output.strip()[-200:]})")
        return output

    def has(self, output: str, *patterns: str) -> None:
        for pattern in patterns:
            check(re.search(pattern, output, re.MULTILINE) is not None, f"no {pattern!r} in {output.strip()[-300:]}")

    def topic(self, scenario: str, partitions: int = 1, *configs: str) -> str:
        name = f"tools-{scenario}-{RUN}"
        settings = [part for config in configs for part in ("--config", config)]
        self.has(
            self.run("TopicCommand", "--create", "--topic", name, "--partitions", str(partitions), *settings),
            f"Created topic {name}",
        )
        return name

    def topics(self) -> None:
        name = self.topic("topics", 3, "segment.bytes=2000000")
        self.has(self.run("TopicCommand", "--list"), f"^{name}$")
        self.has(
            self.run("TopicCommand", "--describe", "--topic", name),
            "PartitionCount: 3",
            r"Configs: .*segment\.bytes=2000000",
            r"Partition: 2\s+Leader: \d+\s+Replicas: \d+\s+Isr: \d+",
        )
        self.run("TopicCommand", "--alter", "--topic", name, "--partitions", "5")
        self.has(self.run("TopicCommand", "--describe", "--topic", name), "PartitionCount: 5")
        equal(
            "",
            self.run("TopicCommand", "--describe", "--under-replicated-partitions").strip(),
            "under-replicated partitions",
        )
        self.run("TopicCommand", "--delete", "--topic", name)
        check(name not in self.run("TopicCommand", "--list"), "still listed after its deletion")

    def configs(self) -> None:
        name = self.topic("configs")
        command = "kafka.admin.ConfigCommand"
        entity = ("--entity-type", "topics", "--entity-name", name)
        self.run(command, "--alter", *entity, "--add-config", "retention.ms=123456,segment.bytes=2000000")
        self.has(
            self.run(command, "--describe", *entity),
            r"retention\.ms=123456 .*DYNAMIC_TOPIC_CONFIG:retention\.ms=123456",
            r"segment\.bytes=2000000",
        )
        self.run(command, "--alter", *entity, "--delete-config", "retention.ms")
        self.has(
            self.run(command, "--describe", "--all", *entity),
            r"retention\.ms=604800000",
            r"segment\.bytes=2000000",
            r"max\.message\.bytes=1048588",
        )
        self.has(
            self.run(command, "--describe", "--all", "--entity-type", "brokers", "--entity-name", "1"),
            r"log\.segment\.bytes=1073741824",
        )

    def console(self) -> None:
        name = self.topic("console", 1)
        lines = [f"k{i}\tv{i}" for i in range(50)]
        self.run(
            "ConsoleProducer", "--topic", name, "--reader-property", "parse.key=true", given="\n".join(lines) + "\n"
        )
        got = self.run(
            CONSUMER,
            "--topic",
            name,
            "--from-beginning",
            "--max-messages",
            "50",
            "--formatter-property",
            "print.key=true",
        )
        equal(lines, [line for line in got.splitlines() if line.startswith("k")], "records")

    def consumer_groups(self) -> None:
        name, group = self.topic("groups", 2), f"tools-group-{RUN}"
        self.run("ConsoleProducer", "--topic", name, given="\n".join(map(str, range(30))) + "\n")
        self.run(CONSUMER, "--topic", name, "--group", group, "--from-beginning", "--max-messages", "30")
        self.has(self.run(GROUPS, "--list"), f"^{group}")
        self.has(
            self.run(GROUPS, "--describe", "--group", group),
            "has no active members",
            rf"{group}\s+{name}\s+0\s+\d+\s+\d+\s+0\s",
        )
        self.has(self.run(GROUPS, "--describe", "--group", group, "--state"), "Empty")
        self.run(GROUPS, "--group", group, "--topic", name, "--reset-offsets", "--to-earliest", "--execute")
        self.has(self.run(GROUPS, "--describe", "--group", group), rf"{group}\s+{name}\s+0\s+0\s+\d+\s+\d+\s")
        self.run(GROUPS, "--group", group, "--topic", f"{name}:0", "--delete-offsets")
        self.has(self.run(GROUPS, "--delete", "--group", group), "was successful")
        check(group not in self.run(GROUPS, "--list"), "still listed after its deletion")

    def get_offsets(self) -> None:
        name = self.topic("offsets")
        self.run("ConsoleProducer", "--topic", name, given="a\nb\nc\n")
        for when, offset in (("-1", 3), ("-2", 0), ("latest", 3), ("earliest", 0), ("max-timestamp", r"\d"), ("1", 0)):
            self.has(self.run("GetOffsetShell", "--topic", name, "--time", when), f"^{name}:0:{offset}$")

    def delete_records(self) -> None:
        name = self.topic("delete")
        self.run("ConsoleProducer", "--topic", name, given="\n".join(map(str, range(10))) + "\n")
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "offsets.json")
            with open(path, "w") as file:
                json.dump({"version": 1, "partitions": [{"topic": name, "partition": 0, "offset": 4}]}, file)
            self.has(self.run("DeleteRecordsCommand", "--offset-json-file", path), "low_watermark: 4")
        self.has(self.run("GetOffsetShell", "--topic", name, "--time", "-2"), f"^{name}:0:4$")

    def log_dirs(self) -> None:
        name = self.topic("dirs")
        self.run("ConsoleProducer", "--topic", name, given="hello\n")
        output = self.run("LogDirsCommand", "--describe", "--topic-list", name)
        (described,) = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        (partition,) = [one for directory in described["brokers"][0]["logDirs"] for one in directory["partitions"]]
        equal(f"{name}-0", partition["partition"], "partition")
        check(partition["size"] > 60, f"a size of {partition['size']} bytes")

    def api_versions(self) -> None:
        output = self.run("BrokerApiVersionsCommand")
        self.has(
            output,
            r"Produce\(0\): \d+ to \d+ \[usable: \d+\]",
            r"Fetch\(1\): \d+ to \d+ \[usable: \d+\]",
            r"ApiVersions\(18\): 0 to \d",
        )

    def verifiable(self) -> None:
        name, group = self.topic("verifiable", 2), f"tools-verifiable-{RUN}"
        output = self.run("VerifiableProducer", "--topic", name, "--max-messages", "1000", "--acks", "-1")
        told = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        equal(1000, sum(one["name"] == "producer_send_success" for one in told), "records acknowledged")
        output = self.run(
            "VerifiableConsumer",
            "--topic",
            name,
            "--group-id",
            group,
            "--max-messages",
            "1000",
            "--reset-policy",
            "earliest",
            "--group-protocol",
            "classic",
        )
        told = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        equal(1000, sum(one["count"] for one in told if one["name"] == "records_consumed"), "records consumed")
        check(all(one["success"] for one in told if one["name"] == "offsets_committed"), "a commit failed")

    def perf(self) -> None:
        name = self.topic("perf", 2)
        output = self.run(
            "ProducerPerformance",
            "--topic",
            name,
            "--num-records",
            "50000",
            "--record-size",
            "100",
            "--throughput",
            "-1",
            "--producer-props",
            f"bootstrap.servers={self.bootstrap}",
            server=None,
        )
        self.has(output, r"50000 records sent, [\d.]+ records/sec")
        output = self.run("ConsumerPerformance", "--topic", name, "--num-records", "50000", "--timeout", "30000")
        consumed = [line.split(", ") for line in output.splitlines() if re.match(r"\d{4}-", line)]
        check(int(float(consumed[-1][4])) >= 50000, f"consumed {consumed[-1]}")

    def error_cases(self) -> None:
        name = self.topic("errors")
        self.has(
            self.run("TopicCommand", "--create", "--topic", name, "--partitions", "1", exit_code=1), "already exists"
        )
        self.has(self.run("TopicCommand", "--describe", "--topic", f"nowhere-{RUN}", exit_code=1), "does not exist")
        self.has(
            self.run("TopicCommand", "--create", "--topic", f"{name}2", "--config", "no.such.key=1", exit_code=1),
            "(?i)unknown topic config|no.such.key",
        )
        self.has(
            self.run("TopicCommand", "--create", "--topic", f"{name}2", "--replication-factor", "3", exit_code=1),
            "(?i)replication.factor",
        )
        self.has(
            self.run(
                "kafka.admin.ConfigCommand",
                "--alter",
                "--entity-type",
                "topics",
                "--entity-name",
                name,
                "--add-config",
                "retention.ms=soon",
                exit_code=1,
            ),
            "InvalidConfigurationException",
        )


def main(bootstrap: str, names: list[str]) -> None:
    tools = Tools(bootstrap)
    scenarios = {
        "topics": tools.topics,
        "configs": tools.configs,
        "console-producer-and-consumer": tools.console,
        "consumer-groups": tools.consumer_groups,
        "get-offsets": tools.get_offsets,
        "delete-records": tools.delete_records,
        "log-dirs": tools.log_dirs,
        "broker-api-versions": tools.api_versions,
        "verifiable-producer-and-consumer": tools.verifiable,
        "producer-and-consumer-perf": tools.perf,
        "error-cases": tools.error_cases,
    }
    for name in names or scenarios:
        try:
            scenarios[name]()
            print(f"PASS {name}", flush=True)
        except Exception as problem:  # whatever went wrong is this scenario's failure, and the next one is tried
            traceback.print_exc()
            print(f"FAIL {name}: {type(problem).__name__} {problem}".replace("\n", " "), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
