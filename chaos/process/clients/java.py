"""How is Apache Kafka's own client run? `ChaosClient.java`, compiled once, one process for each client, on Kafka's jars from Maven.

The jars are fetched by the target `kafka` (chaos/targets/kafka.py); without it nothing is fetched, and the Java client takes part only
where they are there already.
"""

import subprocess
from pathlib import Path

from chaos.targets import NotAvailable
from chaos.targets.kafka import BUILD, QUICK_JVM_FLAGS, fetch_kafka, java_program

SOURCE = Path(__file__).with_name("ChaosClient.java")
CLASSES = BUILD / "chaos-client"
KINDS = ("java-producer", "java-consumer")
COMPILE_SECONDS_MAX = 120


def why_not(fetch: bool) -> str | None:
    """Why there is no Java client here, in one line; None where there is. `fetch`: whether Maven may be asked for the jars."""
    if not fetch and not (BUILD / "libs" / "pom.xml").exists():
        return "Java client: Kafka's jars are not here; a run with --target kafka fetches them (JDK and Maven needed)"
    try:
        _compile()
    except NotAvailable as error:
        return f"Java client: {error}"
    return None


def _compile() -> None:
    stamp = CLASSES / SOURCE.name
    if stamp.exists() and stamp.read_bytes() == SOURCE.read_bytes():
        return
    compiler, class_path = java_program("javac"), fetch_kafka()
    CLASSES.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([compiler, "-d", str(CLASSES), "-cp", class_path, str(SOURCE)], capture_output=True, text=True,
                          timeout=COMPILE_SECONDS_MAX)
    if done.returncode:
        raise NotAvailable(f"{SOURCE.name} does not compile here: {done.stderr.strip()[-300:]}")
    stamp.write_bytes(SOURCE.read_bytes())


def command(spec: dict) -> list[str]:
    """The command line of a client. Raises NotAvailable."""
    _compile()
    class_path = fetch_kafka()
    version = next(Path(class_path).parent.glob("kafka-clients-*.jar")).stem.rpartition("-")[2]
    flat = {**spec, "topics": ",".join(spec["topics"]), "library": f"Java client {version}"}
    return [java_program(), *QUICK_JVM_FLAGS, "-cp", f"{CLASSES}:{class_path}", "ChaosClient",
            *(f"{key}={value}" for key, value in flat.items() if value is not None)]
