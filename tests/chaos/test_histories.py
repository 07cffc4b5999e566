"""Does each history checker see what it is named for, and nothing else (contract S3)? Hand-made histories, good and bad."""

import pytest

from chaos.checks.history import CHECKERS, Case, check_all
from chaos.checks.history.case import Kept, Policy
from chaos.history import Commit, History, Recorder, Seen, Send, identify, load, value_of

P0, P1, P2, P3 = Policy("none"), Policy("messages=3", messages=3), Policy("ms=200", ms=200), Policy("messages=1", messages=1)
STRUCK = 10_000_000_000


def send(number, offset=None, *, outcome="acked", client="p", idempotent=True, topic="t", completed=1_000):
    known = outcome != "unknown"
    return Send(client, number, topic, "all", idempotent, 500, outcome, completed if known else None,
                0 if outcome == "acked" else None, offset if outcome == "acked" else None)


def case(sends, log, *, policy=P0, fault="F1", end=None, durable=0, seen=(), commits=(), offsets=None, offsets_durable=True):
    """`log`: the numbers of client p's records by offset, or (client, number), or None for a value that nobody made."""
    kept = [Kept(offset, ("p", each) if isinstance(each, int) else each, 0) for offset, each in enumerate(log)]
    history = History({(s.client, s.number): s for s in sends}, list(commits), list(seen))
    return Case(policy, fault, STRUCK, history, {("t", 0): kept}, {("t", 0): len(log) if end is None else end},
                {("t", 0): durable}, offsets or {}, offsets_durable, flush_window_ns=1_000_000_000)


def saw(offset, number, client="c"):
    return Seen(client, "t", 0, offset, 2_000, ("p", number))


def commit(offset, invoked, completed, outcome="acked"):
    return Commit("c", "g", "t", 0, offset, invoked, outcome, completed)


ACKED3 = [send(0, 0), send(1, 1), send(2, 2)]
GOOD = {
    "all there": case(ACKED3, [0, 1, 2]),
    "an unknown record survived": case([*ACKED3, send(3, outcome="unknown")], [0, 1, 2, 3]),
    "an unknown record did not survive": case([*ACKED3, send(3, outcome="unknown")], [0, 1, 2]),
    "a refused record is absent": case([*ACKED3, send(3, outcome="failed")], [0, 1, 2]),
    "two clients interleaved": case([send(0, 0), send(0, 1, client="q"), send(1, 2)], [0, ("q", 0), 1]),
    "committed is the last acked": case(ACKED3, [0, 1, 2], seen=[saw(0, 0), saw(1, 1)],
                                        commits=[commit(1, 10, 20), commit(2, 30, 40)], offsets={("g", "t", 0): 2}),
    "a commit without an answer counts": case(ACKED3, [0, 1, 2], seen=[saw(0, 0), saw(1, 1)],
                                              commits=[commit(1, 10, 20), commit(2, 30, None, "unknown")],
                                              offsets={("g", "t", 0): 2}),
    "read twice by two members": case(ACKED3, [0, 1, 2], seen=[saw(0, 0), saw(0, 0, "d")]),
}
ALLOWED = {
    "P0 loses above the durable end": ("C1.6", case(ACKED3, [0], fault="F2", durable=1)),
    "P1(3) loses two": ("C1.4", case(ACKED3, [0], fault="F2", policy=P1)),
    "P2 loses the young": ("C1.5", case([send(0, 0), send(1, 1, completed=STRUCK - 500_000_000)], [0], fault="F2", policy=P2)),
    "a plain producer's retry": ("C6.4", case([send(0, 1, idempotent=False)], [0, 0])),
    "commits lost with their log": ("C8.2", case(ACKED3, [0, 1, 2], fault="F2", seen=[saw(0, 0)], commits=[commit(1, 10, 20)],
                                                 offsets_durable=False)),
    "an offset above the durable end reused": ("C4.3", case([send(0, outcome="unknown"), send(1, 0)], [1], fault="F2",
                                                            seen=[saw(0, 0)])),
}
BAD = {
    "lost at the end": ("lost acked record", "C1.2", case(ACKED3, [0, 1])),
    "lost in the middle": ("lost acked record", "C1.2", case([send(0, 0), send(2, 1), send(3, 2)], [0, 3])),
    "P3 loses one": ("lost acked record", "C1.3", case(ACKED3, [0, 1], fault="F2", policy=P3)),
    "P1(3) loses three": ("lost acked record", "C1.4", case(ACKED3, [], fault="F2", policy=P1)),
    "P2 loses the old": ("lost acked record", "C1.5", case(ACKED3, [0, 1], fault="F2", policy=P2)),
    "P0 loses below the durable end": ("lost acked record", "C1.6", case(ACKED3, [0], fault="F2", durable=3)),
    "P0 loses out of the middle": ("lost acked record", "C1.6", case([*ACKED3[:1], send(9, 1)], [0, ("x", 1), 2], fault="F2")),
    "a value that nobody made": ("invented or torn", "C2.1", case(ACKED3, [0, 1, 2, None])),
    "a record that was never sent": ("invented or torn", "C2.1", case(ACKED3, [0, 1, 2, 77])),
    "a record of another topic": ("invented or torn", "C2.1", case([*ACKED3, send(3, outcome="unknown", topic="u")], [0, 1, 2, 3])),
    "a refused record appears": ("invented or torn", "C1.14", case([*ACKED3, send(3, outcome="failed")], [0, 1, 2, 3])),
    "a consumer is handed an invention": ("invented or torn", "C2.1", case(ACKED3, [0, 1, 2], seen=[saw(3, 99)])),
    "an idempotent record twice": ("duplicated", "C6.4", case(ACKED3, [0, 1, 2, 1])),
    "out of order": ("reordered", "C2.1", case([send(0, 1), send(1, 0)], [1, 0])),
    "handed one, kept another": ("two values at one offset", "C4.3", case(
        [send(0, outcome="unknown"), send(1, outcome="unknown")], [1], seen=[saw(0, 0)])),
    "two consumers, two values": ("two values at one offset", "C2.8", case(
        [send(0, outcome="unknown"), send(1, outcome="unknown")], [0], seen=[saw(0, 0), saw(0, 1, "d")])),
    "below the durable end another value": ("two values at one offset", "C4.3", case(
        [send(0, outcome="unknown"), send(1, outcome="unknown")], [1], fault="F2", durable=1, seen=[saw(0, 0)])),
    "passed over by the group": ("unseen", "C8.5", case(ACKED3, [0, 1, 2], seen=[saw(0, 0), saw(2, 2)], commits=[commit(3, 10, 20)],
                                                        offsets={("g", "t", 0): 3})),
    "a commit undone": ("committed offset regressed", "C8.2", case(
        ACKED3, [0, 1, 2], seen=[saw(0, 0), saw(1, 1)], commits=[commit(1, 10, 20), commit(2, 30, 40)], offsets={("g", "t", 0): 1})),
    "all commits gone": ("committed offset regressed", "C8.2", case(ACKED3, [0, 1, 2], commits=[commit(1, 10, 20)])),
    "a commit that nobody asked for": ("committed offset regressed", "C8.2", case(
        ACKED3, [0, 1, 2], seen=[saw(0, 0), saw(1, 1)], commits=[commit(1, 10, 20)], offsets={("g", "t", 0): 2})),
}


@pytest.mark.parametrize("name", GOOD)
def test_no_good_history_is_flagged(name):
    assert check_all(GOOD[name]) == []


@pytest.mark.parametrize("name", ALLOWED)
def test_what_the_contract_allows_is_counted_and_not_flagged(name):
    statement, planted = ALLOWED[name]
    findings = check_all(planted)
    assert statement in {finding.statement for finding in findings}
    assert [finding for finding in findings if not finding.allowed] == []


@pytest.mark.parametrize("name", BAD)
def test_every_bad_history_is_flagged_with_its_statement(name):
    anomaly, statement, planted = BAD[name]
    assert (anomaly, statement) in {(f.anomaly, f.statement) for f in check_all(planted) if not f.allowed}


def test_every_checker_has_a_bad_history_that_it_flags():
    assert {anomaly for anomaly, _, _ in BAD.values()} == set(CHECKERS)


@pytest.mark.parametrize("size", [0, 40, 1500])
def test_a_value_names_its_record_and_a_torn_one_does_not(size):
    value = value_of("p", 17, size)
    assert identify(value) == ("p", 17)
    assert all(identify(value[:cut]) is None for cut in range(len(value)))
    assert identify(value[:-1] + bytes([value[-1] ^ 1])) is None


def test_a_history_survives_a_cut_last_line(tmp_path):
    recorder = Recorder(str(tmp_path / "p.jsonl"))
    recorder.write("send", id=0, topic="t", acks="all", idempotent=True)
    recorder.write("acked", id=0, partition=1, offset=4)
    recorder.write("send", id=1, topic="t", acks="all", idempotent=True)
    with open(tmp_path / "p.jsonl", "ab") as file:
        file.write(b'{"e":"acked","id":1,"par')
    history = load(str(tmp_path))
    assert [(s.number, s.offset) for s in history.acked] == [(0, 4)]
    assert history.sends["p", 1].outcome == "unknown"
    assert history.until(0).sends == {}
