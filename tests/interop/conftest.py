"""Directories with the same work in them, written by refbroker and by Apache Kafka, as a kill and as a clean stop leave them."""

import dataclasses
import pathlib
import shutil

import interop_workload as workload
import pytest

from chaos.targets import NotAvailable, make_target
from chaos.targets.kafka import fetch_kafka, fetch_kafka_tools


@dataclasses.dataclass(frozen=True)
class Written:
    """`killed` and `clean` are copies of the data directory; `records` is what a consumer was served from it."""

    killed: pathlib.Path
    clean: pathlib.Path
    records: dict


@pytest.fixture(scope="session")
def written(tmp_path_factory):
    """`written("refbroker")`, `written("kafka")`: made at the first call."""
    made: dict[str, Written | None] = {}

    def by(name: str) -> Written:
        if name not in made:
            made[name] = None  # where the writing fails, it is not tried again for each test
            made[name] = _write(name, tmp_path_factory.mktemp(f"by-{name}"))
        assert made[name], f"writing with {name} failed before"
        return made[name]

    try:
        fetch_kafka()
        fetch_kafka_tools()
    except NotAvailable as missing:
        pytest.skip(f"not run: {missing}")
    return by


def _write(name: str, place: pathlib.Path) -> Written:
    target = make_target(name, str(place / "run"), properties=workload.PROPERTIES)
    with target:
        workload.create_topics(target.bootstrap)
        workload.write(target.bootstrap)
        records = workload.read(target.bootstrap)
        target.kill()
        _copy(target.data_directory, place / "killed")
        target.start()
        workload.check_served(workload.read(target.bootstrap), records)
    _copy(target.data_directory, place / "clean")
    return Written(place / "killed", place / "clean", records)


def _copy(source: str, target: pathlib.Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(".lock"))
