"""Does each broker serve partition directories that the other one wrote?

Two ways. `as it is`: the whole partition directory of a cleanly stopped broker, indexes, snapshots and epochs with it,
under a clean-shutdown marker, so that the receiver must trust it. `recovered`: only the `.log` files of a killed broker,
and no marker, so that the receiver checks every batch and rebuilds all else. Before either, the receiver creates the
topics and stops cleanly; its `partition.metadata` stays, since topic ids are its own."""

import pathlib
import shutil

import interop_workload as workload
import pytest

from chaos.targets import make_target

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]
DERIVED = (".index", ".timeindex", ".txnindex", ".snapshot")
MARKER = ".kafka_cleanshutdown"


@pytest.fixture(scope="module", params=["kafka", "refbroker"])
def receiver(request, tmp_path_factory, written):
    """(name, an empty, cleanly stopped data directory with the topics, the writer's name)."""
    place = tmp_path_factory.mktemp(f"{request.param}-receives")
    target = make_target(request.param, str(place), properties=workload.PROPERTIES)
    with target:
        workload.create_topics(target.bootstrap)
    return target, {"kafka": "refbroker", "refbroker": "kafka"}[request.param]


@pytest.mark.parametrize("way", ["as it is", "recovered"])
def test_served_by_the_other_broker(receiver, written, way, tmp_path):
    target, writer = receiver
    data, kept = target.data_directory, str(tmp_path / "kept")
    shutil.copytree(data, kept)
    try:
        receive(data, written(writer), way)
        with target:
            served = workload.read(target.bootstrap)
            workload.check_served(served, written(writer).records)
            workload.append(target.bootstrap)
            went_on(served, workload.read(target.bootstrap))
    finally:
        shutil.rmtree(data)
        shutil.copytree(kept, data)


@pytest.mark.parametrize("state", ["clean", "killed"])
def test_refbroker_starts_on_a_whole_data_directory_of_kafka(written, state, tmp_path):
    """Topics, their ids and configs, group offsets and records, all from Kafka's own metadata log."""
    target = make_target("refbroker", str(tmp_path), properties=workload.PROPERTIES)
    shutil.copytree(getattr(written("kafka"), state), target.data_directory)
    with target:
        served = workload.read(target.bootstrap)
        workload.check_served(served, written("kafka").records)
        assert workload.committed(target.bootstrap) == 19
        workload.append(target.bootstrap)
        went_on(served, workload.read(target.bootstrap))


def went_on(before: dict, after: dict) -> None:
    """What was there is there, and more behind it."""
    for place, records in before.items():
        assert after[place][: len(records)] == records, place
        assert len(after[place]) > len(records), place


def receive(data: str, written, way: str) -> None:
    """Put the written partitions in the place of the receiver's empty ones."""
    here = pathlib.Path(data)
    source = written.clean if way == "as it is" else written.killed
    for theirs in source.glob("interop-*"):
        ours = here / theirs.name
        for path in ours.iterdir():
            if path.name != "partition.metadata":
                path.unlink()
        for path in theirs.iterdir():
            derived = path.suffix in DERIVED or path.name == "leader-epoch-checkpoint"
            if path.name != "partition.metadata" and not (way == "recovered" and derived):
                shutil.copy2(path, ours)
    if way == "recovered":
        (here / MARKER).unlink()
    else:
        assert (here / MARKER).exists()
