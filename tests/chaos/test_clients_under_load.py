"""Do real clients under load write histories that can be judged, and is what broke kept so that it can be judged again?"""

import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from confluent_kafka import Producer

from chaos.checks.history import Case, check_all
from chaos.cli import cli
from chaos.history import Recorder, load, value_of
from chaos.network.rules import Rule
from chaos.process import evidence, observe
from chaos.process.client import KINDS
from chaos.process.load import LIBRARIES, Clients, cast, wait_for_acks
from chaos.process.rounds import POLICIES, PROPERTIES
from chaos.report import Report
from chaos.targets import NotAvailable, Refbroker, make_target, policy_of

RULES = Path(__file__).parents[2] / "chaos/network/examples/drop-third-produce-reply.toml"
TOPIC = {"t": 1}


def test_every_library_plays_every_role_in_one_run():
    for libraries in (LIBRARIES, (*LIBRARIES, "java")):
        for seed in range(5):
            rounds = [cast(seed, turn, libraries) for turn in range(4)]
            for role in range(5):
                assert {each[role]["kind"].rpartition("-")[0] for each in rounds} == set(libraries)
    assert cast(3, 1) == cast(3, 1)
    assert {spec["kind"] for turn in range(3) for spec in cast(1, turn)} == set(KINDS)


def test_a_rule_may_count_each_client_by_itself():
    rule = Rule("drop-reply", api="Produce", nth=3, per_client=True)
    acted = [client for client in ("a", "b", "a", "b", "a", "a", "b", None, None, None) if rule.applies(0, "Produce", client, set())]
    assert acted == ["a", "b", None] and rule.acted == 3 and rule.matched == 10
    assert [client for _, client in rule.moments] == ["a", "b", ""]


def all_took_part(history) -> bool:
    return ({send.client for send in history.acked} == {f"p-{library}" for library in LIBRARIES}
            and bool(history.commits and history.seeks) and {"end", "time"} <= {answer.what for answer in history.answers}
            and any(seen.epoch is not None for seen in history.seen))


@pytest.mark.slow
def test_what_the_clients_write_is_judged_and_holds(tmp_path):
    """All kinds at once against a broker that nobody disturbs: every kind takes part, everything is read, nothing is flagged."""
    players = [{"kind": f"{library}-producer", "name": f"p-{library}", "acks": "all", "idempotent": True, "records_per_second": 40}
               for library in LIBRARIES]
    players += [{"kind": f"{library}-consumer", "name": f"c-{library}", "stay_seconds": 2} for library in LIBRARIES]
    players.append({"kind": "librdkafka-seeker", "name": "seeks"})
    with Refbroker(str(tmp_path / "broker"), properties=PROPERTIES) as target:
        observe.create_topics(target.bootstrap, {"t": 2}, {})
        clients = Clients(tmp_path / "history", target.bootstrap, 1, topics=["t"], specs=players)
        try:
            wait_for_acks(clients)
            time.sleep(5)
            deadline = time.monotonic() + 60
            while not all_took_part(clients.history()) and time.monotonic() < deadline:
                time.sleep(0.5)
            clients.stop()
        finally:
            clients.kill()
        history = clients.history()
        case = Case(POLICIES["none"], "F1", time.monotonic_ns(), history, *observe.read_all(target.bootstrap, {"t": 2}),
                    offsets=observe.committed_offsets(target.bootstrap, clients.group, {"t": 2}), load=(clients.begun, clients.ended),
                    service_bound_ns=20_000_000_000, read_on_ns=clients.read_on_ns)
    assert clients.deserters() == [] and all_took_part(history)
    assert [finding for finding in check_all(case) if not finding.allowed] == []


@pytest.mark.parametrize("target", [pytest.param("refbroker", marks=pytest.mark.slow), pytest.param("kafka", marks=pytest.mark.clients)])
def test_a_lost_reply_makes_duplicates_of_plain_producers_only(target, tmp_path):
    """The same rule, the reply to each client's third Produce is lost, for both kinds of producers in every library. The broker is
    known by its address alone, and is left without the lab's topics."""
    broker = make_target(target, str(tmp_path / "broker"))
    try:
        broker.start()
    except NotAvailable as missing:
        pytest.skip(f"not run: {missing}")
    try:
        told = subprocess.run([sys.executable, "-m", "chaos.cli", "run", "--bootstrap-server", broker.bootstrap, "--rules", str(RULES),
                               "--seed", "7", "--out", str(tmp_path / "out")], capture_output=True, text=True, timeout=240)
        left = observe.topics(broker.bootstrap)
    finally:
        broker.stop()
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert told.returncode == 0, told.stdout + told.stderr
    assert results["again"] == f"refbroker-chaos run --layers network --bootstrap-server {broker.bootstrap} --rules {RULES} --seed 7 --minutes 4"
    by_client = {(each["client"].split(" ")[0], each["idempotent"]): each for each in results["figures"] if "records twice" in each}
    assert {library for library, _ in by_client} >= set(LIBRARIES)
    for (library, idempotent), figures in by_client.items():
        assert figures["met a rule"] == 1 and figures["acked"] > 0, figures
        assert (figures["records twice"] == 0) == (idempotent == "True"), (library, figures)
    row = next(row for row in results["rows"] if row["statement"] == "C6.4")
    assert row["verdict"] == "allowed loss" and row["allowed"] == sum(each["records twice"] for each in by_client.values())
    assert not [topic for topic in left if topic.startswith(("orders-", "events-"))]


# ------------------------------------------------------------ what is kept


@pytest.fixture
def killed_broker(tmp_path):
    """A broker that was killed and has recovered, and the history of the one client that wrote to it."""
    target = Refbroker(str(tmp_path / "case" / "broker"), policy=policy_of("none"), properties=PROPERTIES)
    (tmp_path / "case" / "history").mkdir(parents=True)
    recorder = Recorder(str(tmp_path / "case" / "history" / "p.jsonl"))
    recorder.write("client", kind="librdkafka-producer", library="librdkafka", group=None, idempotent=True)
    target.start()
    try:
        observe.create_topics(target.bootstrap, TOPIC, {})
        producer = Producer({"bootstrap.servers": target.bootstrap, "enable.idempotence": True})
        for number in range(20):
            recorder.write("send", id=number, topic="t", acks="all", idempotent=True)
            producer.produce("t", value_of("p", number, 50))
            producer.flush(10)
            recorder.write("acked", id=number, partition=0, offset=number)
        target.kill()
        evidence.crashed_copy(target)
        target.start()
        yield tmp_path / "case", target, recorder
    finally:
        target.stop()


def test_what_broke_is_kept_told_and_judged_again(killed_broker):
    place, target, recorder = killed_broker
    recorder.write("send", id=20, topic="t", acks="all", idempotent=True)
    recorder.write("acked", id=20, partition=0, offset=20)  # a lie: the broker has never heard of it
    case = Case(POLICIES["none"], "F1", time.monotonic_ns(), load(str(place / "history")), *observe.read_all(target.bootstrap, TOPIC))
    report = Report(9, "make chaos SEED=9")
    findings = check_all(case)
    assert Counter(finding.statement for finding in findings) == {"C1.2": 1}
    evidence.keep(report, place, "process", target, case, findings)
    story = (place / "story.txt").read_text()
    for words in ("C1.2 (A killed process loses no acked record): lost acked record at t-0, offset 20", "offset 19: the log has p:19", "seed 9",
                  f"refbroker-chaos replay {place}", "refbroker.cli serve", "offset 21: nothing is known of it"):
        assert words in story, words
    assert [(kept.layer, kept.fault, kept.story) for kept in report.kept] == [("process", "F1", story)]

    again = CliRunner().invoke(cli, ["replay", str(place)])
    assert again.exit_code == 1, again.output
    assert "BROKEN C1.2 lost acked record: t-0 at 20" in again.output and "All that was found then was found again." in again.output

    lines = (place / "history" / "p.jsonl").read_bytes().splitlines(keepends=True)
    (place / "history" / "p.jsonl").write_bytes(b"".join(lines[:-2]))
    again = CliRunner().invoke(cli, ["replay", str(place)])
    assert again.exit_code == 0 and "not found this time: C1.2 lost acked record" in again.output


def test_nothing_is_kept_where_nothing_broke_and_an_empty_directory_is_refused(killed_broker, tmp_path):
    place, target, _ = killed_broker
    case = Case(POLICIES["none"], "F1", time.monotonic_ns(), load(str(place / "history")), *observe.read_all(target.bootstrap, TOPIC))
    report = Report(9)
    evidence.keep(report, place, "process", target, case, check_all(case))
    assert report.kept == [] and not (place / "case.json").exists()
    with pytest.raises(evidence.NoCase, match=r"case\.json"):
        evidence.read(tmp_path)
