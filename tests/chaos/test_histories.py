"""Does each history checker see what it is named for, and nothing else (contract S3)? Hand-made histories, good and bad.

Every anomaly has several bad histories, each of which must be flagged with its anomaly and statement, and good ones beside them that
look like it and are not: retries with an unknown outcome, reading again after a rebalance, loss that the policy allows.
"""

from dataclasses import replace

import pytest

from chaos.checks.history import CHECKERS, Case, Kept, Policy, check_all, judged
from chaos.checks.history.unavailable import longest_gap
from chaos.contract import STATEMENTS
from chaos.history import Answer, Commit, History, Recorder, Seen, Send, identify, load, resembles, value_of

P0, P1, P2, P3 = Policy("none"), Policy("messages=3", messages=3), Policy("ms=200", ms=200), Policy("messages=1", messages=1)
STRUCK, BOUND = 10_000_000_000, 1_000_000_000


def send(number, offset=None, *, outcome="acked", client="p", idempotent=True, topic="t", completed=1_000, acks="all"):
    known = outcome != "unknown"
    return Send(client, number, topic, acks, idempotent, 500, outcome, completed if known else None,
                0 if outcome == "acked" else None, offset if outcome == "acked" else None)


def case(sends, log, *, policy=P0, fault="F1", end=None, durable=0, seen=(), commits=(), offsets=None, offsets_durable=True,
         epochs=None, answers=(), seeks=None, clients=None, **more):
    """`log`: the numbers of client p's records by offset, or (client, number), None for a value that nobody made, "p:1" for one
    that only begins as p's record 1."""
    kept = []
    for offset, each in enumerate(log):
        identity = ("p", each) if isinstance(each, int) else each if isinstance(each, tuple) else None
        like = (each.split(":")[0], int(each.split(":")[1])) if isinstance(each, str) else None
        kept.append(Kept(offset, identity, epochs[offset] if epochs else 0, 100 + 10 * offset, like))
    history = History({(s.client, s.number): s for s in sends}, list(commits), list(seen), answers=list(answers), seeks=seeks or {},
                      clients=clients or {})
    return Case(policy, fault, STRUCK, history, {("t", 0): kept}, {("t", 0): len(log) if end is None else end},
                {("t", 0): durable}, offsets or {}, offsets_durable, flush_window_ns=1_000_000_000, **more)


def saw(offset, number, client="c", epoch=None, stretch=0, like=None):
    return Seen(client, "t", 0, offset, 2_000, None if number is None else ("p", number), epoch, stretch, like)


def saw_all(*offsets, client="c", stretch=0):
    """Offsets that hold the record of the same number."""
    return [saw(offset, offset, client, stretch=stretch) for offset in offsets]


def commit(offset, invoked, completed, outcome="acked", group="g"):
    return Commit("c", group, "t", 0, offset, invoked, outcome, completed)


def ask(what, offset, asked, told=None, *, time_ms=None, group=None):
    return Answer("c", what, "t", 0, offset, asked, told or asked + 10, time_ms, group)


def later(sent, *completed):
    return [replace(each, completed=time) for each, time in zip(sent, completed, strict=True)]


ACKED3 = [send(0, 0), send(1, 1), send(2, 2)]
G = ("g", "t", 0)
UNKNOWN = [send(0, outcome="unknown"), send(1, outcome="unknown")]
SERVED = {"load": (0, 10 * BOUND), "service_bound_ns": 3 * BOUND}


def acked_at(*seconds):
    return [send(number, number, completed=int(second * BOUND)) for number, second in enumerate(seconds)]


GOOD = {
    "all there": case(ACKED3, [0, 1, 2]),
    "nothing at all": case([], []),
    "an unknown record survived": case([*ACKED3, send(3, outcome="unknown")], [0, 1, 2, 3]),
    "an unknown record did not survive": case([*ACKED3, send(3, outcome="unknown")], [0, 1, 2]),
    "an unknown record lies behind later ones of others": case([send(0, 1), send(0, client="q", outcome="unknown")], [("q", 0), 0]),
    "a refused record is absent": case([*ACKED3, send(3, outcome="failed")], [0, 1, 2]),
    "without acks nothing is owed": case([send(0, outcome="unknown", acks="0"), send(1, 0)], [1]),
    "handed out and there": case(UNKNOWN, [0, 1], fault="F2", policy=P3, durable=2, seen=saw_all(0, 1)),
    "P3 after a power cut, all there": case(ACKED3, [0, 1, 2], fault="F2", policy=P3, durable=3),
    "P3 after a power cut, the unknown gone": case([*ACKED3, send(3, outcome="unknown")], [0, 1, 2], fault="F2", policy=P3, durable=3),
    "two clients interleaved": case([send(0, 0), send(0, 1, client="q"), send(1, 2)], [0, ("q", 0), 1]),
    "a gap in a producer's numbers": case([send(0, 0), send(5, 1), send(9, 2)], [0, 5, 9]),
    "plain producers may pass themselves": case([send(0, 1, idempotent=False), send(1, 0, idempotent=False)], [1, 0]),
    "epochs rise along the log": case(ACKED3, [0, 1, 2], epochs=[0, 0, 4], seen=[saw(2, 2, epoch=4)]),
    "one record under one epoch for two consumers": case(ACKED3, [0, 1, 2], seen=[saw(0, 0, epoch=0), saw(0, 0, "d", epoch=0)]),
    "committed is the last acked": case(ACKED3, [0, 1, 2], seen=saw_all(0, 1), commits=[commit(1, 10, 20), commit(2, 30, 40)], offsets={G: 2}),
    "a commit without an answer counts": case(ACKED3, [0, 1, 2], seen=saw_all(0, 1), offsets={G: 2},
                                              commits=[commit(1, 10, 20), commit(2, 30, None, "unknown")]),
    "a commit without an answer does not count": case(ACKED3, [0, 1, 2], seen=saw_all(0, 1), offsets={G: 1},
                                                      commits=[commit(1, 10, 20), commit(2, 30, None, "unknown")]),
    "a commit without an answer came late": case(ACKED3, [0, 1, 2], seen=saw_all(0, 1), offsets={G: 1},
                                                 commits=[commit(1, 10, None, "unknown"), commit(2, 30, 40)]),
    "two commits at once, either wins": case(ACKED3, [0, 1, 2], seen=saw_all(0, 1), offsets={G: 1},
                                             commits=[commit(1, 10, 50), commit(2, 30, 40)]),
    "a group commits backwards on purpose": case(ACKED3, [0, 1, 2], seen=saw_all(0, 1), offsets={G: 1},
                                                 commits=[commit(2, 10, 20), commit(1, 30, 40)]),
    "nobody has committed": case(ACKED3, [0, 1, 2], commits=[commit(1, 10, None, "unknown")], seen=saw_all(0)),
    "committed at the log's end": case(ACKED3, [0, 1, 2], seen=saw_all(0, 1, 2), commits=[commit(3, 10, 20)], offsets={G: 3}),
    "a member asks while a commit is under way": case(ACKED3, [0, 1, 2], seen=saw_all(0, 1), offsets={G: 2}, commits=[
        commit(1, 10, 20), commit(2, 30, 60)], answers=[ask("committed", 1, 40, 50, group="g")]),
    "a member asks before the first commit": case(ACKED3, [0, 1, 2], seen=saw_all(0), offsets={G: 1}, commits=[commit(1, 10, 20)],
                                                  answers=[ask("committed", -1, 5, 15, group="g")]),
    "read twice by two members": case(ACKED3, [0, 1, 2], seen=saw_all(0) + saw_all(0, client="d")),
    "read again after a rebalance": case(ACKED3, [0, 1, 2], seen=saw_all(0, 1, 2) + saw_all(1, 2, stretch=1)),
    "a rebalance begins at the other's commit": case(ACKED3, [0, 1, 2], seen=saw_all(0) + saw_all(2, stretch=1) + saw_all(1, client="d"),
                                                     commits=[commit(3, 10, 20)], offsets={G: 3}),
    "a seek back, and on from there": case(ACKED3, [0, 1, 2], seen=saw_all(0, 1, 2) + saw_all(1, 2, stretch=1), seeks={("c", "t", 0, 1): 1}),
    "a seek beyond the end waits": case(ACKED3, [0, 1, 2], seen=saw_all(0), seeks={("c", "t", 0, 1): 3}),
    "another group is behind": case(ACKED3, [0, 1, 2], seen=saw_all(0, 1, 2), commits=[commit(3, 10, 20), commit(1, 10, 20, group="h")],
                                    offsets={G: 3, ("h", "t", 0): 1}),
    "offsets that no record has": case(ACKED3[:1], [0], end=4, seen=saw_all(0)),
    "all read to the end": case(ACKED3, [0, 1, 2], seen=saw_all(0, 1) + saw_all(2, client="d"), read_on_ns=BOUND),
    "an unknown record need not be read": case([*ACKED3, send(3, outcome="unknown")], [0, 1, 2], seen=saw_all(0, 1, 2), read_on_ns=BOUND),
    "the log end while an ack is under way": case(later(ACKED3, 100, 200, 300), [0, 1, 2], answers=[ask("end", 2, 250), ask("end", 3, 400)]),
    "the log end counts what nobody acked": case([send(0, outcome="unknown")], [0], answers=[ask("end", 0, 5), ask("end", 1, 30)]),
    "overlapping questions may be answered in any order": case(ACKED3, [0, 1, 2], answers=[ask("end", 3, 10, 90), ask("end", 2, 20, 80)]),
    "the earliest of a time": case(ACKED3, [0, 1, 2], answers=[ask("time", 1, 2_000, time_ms=105), ask("time", 0, 2_000, time_ms=100)]),
    "no record of that time": case(ACKED3, [0, 1, 2], answers=[ask("time", -1, 2_000, time_ms=500)]),
    "a record of that time came at that moment": case(ACKED3, [0, 1, 2], answers=[ask("time", -1, 900, time_ms=105)]),
    "served all the time": case(acked_at(1, 3, 5, 7, 9), [0, 1, 2, 3, 4], **SERVED),
    "a long outage is no lack of service": case(acked_at(1, 8, 9), [0, 1, 2], outages=[(2 * BOUND, 7 * BOUND)], **SERVED),
}
ALLOWED = {
    "P0 loses above the durable end": ("C1.6", case(ACKED3, [0], fault="F2", durable=1)),
    "P0 loses everything": ("C1.6", case(ACKED3, [], fault="F2")),
    "P1(3) loses two": ("C1.4", case(ACKED3, [0], fault="F2", policy=P1)),
    "P2 loses the young": ("C1.5", case([send(0, 0), send(1, 1, completed=STRUCK - 500_000_000)], [0], fault="F2", policy=P2)),
    "a plain producer's retry": ("C6.4", case([send(0, 1, idempotent=False)], [0, 0])),
    "a plain producer's retry, read": ("C6.4", case([send(0, 1, idempotent=False)], [0, 0], seen=[saw(0, 0), saw(1, 0)])),
    "commits lost with their log": ("C8.2", case(ACKED3, [0, 1, 2], fault="F2", seen=[saw(0, 0)], commits=[commit(1, 10, 20)],
                                                 offsets_durable=False)),
    "the later commit lost": ("C8.2", case(ACKED3, [0, 1, 2], fault="F2", seen=saw_all(0, 1), offsets={G: 1}, offsets_durable=False,
                                           commits=[commit(1, 10, 20), commit(2, 30, 40)])),
    "committed beyond what P0 has left": ("C8.4", case(ACKED3, [0], fault="F2", seen=saw_all(0, 1, 2), commits=[commit(3, 10, 20)],
                                                       offsets={G: 3})),
    "handed out above the durable end, and gone": ("C4.3", case(UNKNOWN, [0], fault="F2", durable=1, seen=saw_all(0, 1))),
    "an offset above the durable end reused": ("C4.3", case([send(0, outcome="unknown"), send(1, 0)], [1], fault="F2",
                                                            seen=[saw(0, 0)])),
    "reused under a higher epoch": ("C4.3", case([send(0, outcome="unknown"), send(1, 0)], [1], fault="F2", epochs=[2],
                                                 seen=[saw(0, 0, epoch=1)])),
}
BAD = {
    "lost at the end": ("lost acked record", "C1.2", case(ACKED3, [0, 1])),
    "lost at the end, of a client without idempotence": ("lost acked record", "C1.2", case([send(0, 0, idempotent=False, acks="1")], [])),
    "lost in the middle": ("lost acked record", "C1.2", case([send(0, 0), send(2, 1), send(3, 2)], [0, 3])),
    "lost by the network": ("lost acked record", "C1.2", case(ACKED3, [0, 1], fault="F6")),
    "lost, and a consumer had it": ("lost acked record", "C1.2", case(ACKED3, [0, 1], seen=saw_all(0, 1, 2))),
    "P3 loses one": ("lost acked record", "C1.3", case(ACKED3, [0, 1], fault="F2", policy=P3)),
    "P1(3) loses three": ("lost acked record", "C1.4", case(ACKED3, [], fault="F2", policy=P1)),
    "P1(3) loses one that is no suffix": ("lost acked record", "C1.4", case([*ACKED3[:2], send(7, 2)], [0, ("x", 1), 7], fault="F2", policy=P1)),
    "P2 loses the old": ("lost acked record", "C1.5", case(ACKED3, [0, 1], fault="F2", policy=P2)),
    "P0 loses below the durable end": ("lost acked record", "C1.6", case(ACKED3, [0], fault="F2", durable=3)),
    "P0 loses out of the middle": ("lost acked record", "C1.6", case([*ACKED3[:1], send(9, 1)], [0, ("x", 1), 2], fault="F2")),
    "a kill and a power cut together, P3": ("lost acked record", "C1.3", case(ACKED3, [0, 1], fault="F1+F2", policy=P3)),
    "the log holds the head of a record": ("torn", "C2.1", case([*ACKED3, send(3, outcome="unknown")], [0, 1, 2, "p:3"])),
    "a consumer is handed the head of a record": ("torn", "C2.1", case(ACKED3, [0, 1, 2], seen=[saw(2, None, like=("p", 2))])),
    "an acked record is torn": ("torn", "C2.1", case(ACKED3, [0, 1, "p:2"])),
    "a value that nobody made": ("invented", "C2.1", case(ACKED3, [0, 1, 2, None])),
    "a value that claims to be what nobody sent": ("invented", "C2.1", case(ACKED3, [0, 1, 2, "p:9"])),
    "a record that was never sent": ("invented", "C2.1", case(ACKED3, [0, 1, 2, 77])),
    "a record of another topic": ("invented", "C2.1", case([*ACKED3, send(3, outcome="unknown", topic="u")], [0, 1, 2, 3])),
    "a refused record appears": ("invented", "C1.14", case([*ACKED3, send(3, outcome="failed")], [0, 1, 2, 3])),
    "a refused record is read": ("invented", "C1.14", case([*ACKED3, send(3, outcome="failed")], [0, 1, 2], seen=[saw(3, 3)])),
    "a consumer is handed an invention": ("invented", "C2.1", case(ACKED3, [0, 1, 2], seen=[saw(3, 99)])),
    "an idempotent record twice": ("duplicated", "C6.4", case(ACKED3, [0, 1, 2, 1])),
    "an idempotent record without an answer twice": ("duplicated", "C6.4", case([send(0, 0), send(1, outcome="unknown")], [0, 1, 1])),
    "handed at one offset, kept at another": ("duplicated", "C6.4", case([send(0, 0), send(1, outcome="unknown")], [0, 1], seen=[saw(2, 1)])),
    "twice after a power cut": ("duplicated", "C6.4", case(ACKED3, [0, 1, 2, 2], fault="F2", policy=P3)),
    "out of order": ("reordered", "C2.1", case([send(0, 1), send(1, 0)], [1, 0])),
    "an unknown record out of order": ("reordered", "C2.1", case([send(0, outcome="unknown"), send(1, 0)], [1, 0])),
    "told out of order, and the log is gone": ("reordered", "C2.1", case([send(0, 1), send(1, 0)], [], fault="F2")),
    "handed one, kept another": ("two values at one offset", "C4.3", case(UNKNOWN, [1], seen=[saw(0, 0)])),
    "two consumers, two values": ("two values at one offset", "C2.8", case(UNKNOWN, [0], seen=[saw(0, 0), saw(0, 1, "d")])),
    "two producers were told one offset": ("two values at one offset", "C2.8", case([send(0, 0), send(0, 0, client="q")], [0])),
    "handed out and gone after a kill": ("vanished", "C4.3", case([*ACKED3, send(3, outcome="unknown")], [0, 1, 2], seen=saw_all(2, 3))),
    "handed out and gone below the durable end": ("vanished", "C4.3", case(UNKNOWN, [0], fault="F2", durable=2, seen=saw_all(0, 1))),
    "handed out before it was durable under P3": ("vanished", "C4.2", case(UNKNOWN, [0], fault="F2", policy=P3, durable=1, seen=saw_all(0, 1))),
    "below the durable end another value": ("two values at one offset", "C4.3", case(
        UNKNOWN, [1], fault="F2", durable=1, seen=[saw(0, 0)])),
    "reused under the same epoch after a power cut": ("offset reused within one epoch", "C2.8", case(
        UNKNOWN, [1], fault="F2", epochs=[3], seen=[saw(0, 0, epoch=3)])),
    "two consumers, two values, one epoch": ("offset reused within one epoch", "C2.8", case(
        UNKNOWN, [], fault="F2", seen=[saw(0, 0, epoch=3), saw(0, 1, "d", epoch=3)])),
    "the epoch falls along the log": ("offset reused within one epoch", "C4.4", case(ACKED3, [0, 1, 2], epochs=[2, 2, 1])),
    "passed over by the group": ("unseen", "C8.5", case(ACKED3, [0, 1, 2], seen=[saw(0, 0), saw(2, 2)], commits=[commit(3, 10, 20)],
                                                        offsets={G: 3})),
    "seen by somebody else only": ("unseen", "C8.5", case(ACKED3, [0, 1, 2], seen=saw_all(0) + saw_all(1, client="x"), offsets={G: 2}, commits=[
        commit(2, 10, 20)], clients={"x": {"kind": "seeker", "group": None}})),
    "never handed to anybody": ("unseen", "C4.9", case(ACKED3, [0, 1, 2], seen=saw_all(0, 1), read_on_ns=BOUND)),
    "acked, and nobody was handed anything": ("unseen", "C4.9", case(ACKED3, [0, 1, 2], read_on_ns=BOUND)),
    "left out between two polls": ("poll skip", "C4.8", case(ACKED3, [0, 1, 2], seen=saw_all(0, 2))),
    "left out, and the log has lost it": ("poll skip", "C4.8", case(ACKED3, [0], seen=saw_all(0, 2), fault="F2")),
    "left out behind a seek": ("poll skip", "C4.8", case(ACKED3, [0, 1, 2], seen=saw_all(2, stretch=1), seeks={("c", "t", 0, 1): 1})),
    "another consumer got what lies between": ("poll skip", "C4.8", case(UNKNOWN, [], seen=[saw(0, 0), saw(5, 1), saw(3, 0, "d")], fault="F2")),
    "back within one assignment": ("poll goes back", "C4.8", case(ACKED3, [0, 1, 2], seen=saw_all(0, 1, 0))),
    "the same offset again": ("poll goes back", "C4.8", case(ACKED3, [0, 1, 2], seen=saw_all(1, 1))),
    "below the offset that was sought": ("poll goes back", "C4.8", case(ACKED3, [0, 1, 2], seen=saw_all(0, stretch=1), seeks={("c", "t", 0, 1): 1})),
    "a commit undone": ("committed offset regressed", "C8.2", case(
        ACKED3, [0, 1, 2], seen=saw_all(0, 1), commits=[commit(1, 10, 20), commit(2, 30, 40)], offsets={G: 1})),
    "all commits gone": ("committed offset regressed", "C8.2", case(ACKED3, [0, 1, 2], commits=[commit(1, 10, 20)])),
    "a commit that nobody asked for": ("committed offset regressed", "C8.2", case(
        ACKED3, [0, 1, 2], seen=saw_all(0, 1), commits=[commit(1, 10, 20)], offsets={G: 2})),
    "a refused commit counts": ("committed offset regressed", "C8.2", case(
        ACKED3, [0, 1, 2], seen=saw_all(0, 1), commits=[commit(1, 10, 20), commit(2, 30, 40, "failed")], offsets={G: 2})),
    "a member is told an older commit during the run": ("committed offset regressed", "C8.2", case(
        ACKED3, [0, 1, 2], seen=saw_all(0, 1), commits=[commit(1, 10, 20), commit(2, 30, 40)], offsets={G: 2},
        answers=[ask("committed", 1, 50, group="g")])),
    "a member is told that there is no commit": ("committed offset regressed", "C8.2", case(
        ACKED3, [0, 1, 2], seen=saw_all(0), commits=[commit(1, 10, 20)], offsets={G: 1}, answers=[ask("committed", -1, 50, group="g")])),
    "told before the power cut, so not lost in it": ("committed offset regressed", "C8.2", case(
        ACKED3, [0, 1, 2], fault="F2", offsets_durable=False, seen=saw_all(0, 1), commits=[commit(1, 10, 20), commit(2, 30, 40)],
        offsets={G: 2}, answers=[ask("committed", 1, 50, group="g")])),
    "committed beyond the log after a kill": ("committed offset beyond the log", "C8.4", case(
        ACKED3, [0, 1, 2], commits=[commit(4, 10, 20)], offsets={G: 4})),
    "committed beyond the log under P3": ("committed offset beyond the log", "C8.4", case(
        ACKED3, [0, 1], fault="F2", policy=P3, commits=[commit(3, 10, 20)], offsets={G: 3})),
    "committed beyond the log by the network": ("committed offset beyond the log", "C8.4", case(
        [], [], fault="F6", commits=[commit(1, 10, None, "unknown")], offsets={G: 1})),
    "the log end misses an acked record": ("stale", "C4.9", case(later(ACKED3, 100, 200, 300), [0, 1, 2], answers=[ask("end", 2, 350)])),
    "the log end goes back": ("stale", "C4.1", case([send(0, outcome="unknown")], [0], answers=[ask("end", 1, 5), ask("end", 0, 30)])),
    "the log end after the kill is below one told before": ("stale", "C4.1", case(ACKED3, [0, 1, 2], answers=[ask("end", 4, 2_000)])),
    "not the earliest of a time": ("lookup by time", "C5.4", case(ACKED3, [0, 1, 2], answers=[ask("time", 2, 2_000, time_ms=105)])),
    "too early for a time": ("lookup by time", "C5.4", case(ACKED3, [0, 1, 2], answers=[ask("time", 0, 2_000, time_ms=105)])),
    "none of a time, and there is one": ("lookup by time", "C5.4", case(ACKED3, [0, 1, 2], answers=[ask("time", -1, 2_000, time_ms=105)])),
    "no acks for too long": ("unavailable", "C1.16", case(acked_at(1, 2, 9), [0, 1, 2], **SERVED)),
    "no acks at the end": ("unavailable", "C1.16", case(acked_at(1, 2, 3), [0, 1, 2], **SERVED)),
    "up now and then, and never an ack": ("unavailable", "C1.16", case(
        acked_at(1, 9), [0, 1], outages=[(2 * BOUND, 3 * BOUND), (4 * BOUND, 5 * BOUND), (6 * BOUND, 7 * BOUND)], **SERVED)),
    "acks, and no records for consumers": ("unavailable", "C1.16", case(
        acked_at(1, 3, 5, 7, 9), [0, 1, 2, 3, 4], seen=[replace(saw(0, 0), time=BOUND)], **SERVED)),
}


def broken(planted):
    return {(finding.anomaly, finding.statement) for finding in check_all(planted) if not finding.allowed}


@pytest.mark.parametrize("name", GOOD)
def test_no_good_history_is_flagged(name):
    assert check_all(GOOD[name]) == []


@pytest.mark.parametrize("name", ALLOWED)
def test_what_the_contract_allows_is_counted_and_not_flagged(name):
    statement, planted = ALLOWED[name]
    assert statement in {finding.statement for finding in check_all(planted)}
    assert broken(planted) == set()


@pytest.mark.parametrize("name", BAD)
def test_every_bad_history_is_flagged_with_its_statement(name):
    anomaly, statement, planted = BAD[name]
    assert (anomaly, statement) in broken(planted)
    assert all(finding.statement in STATEMENTS and finding.evidence for finding in check_all(planted))


@pytest.mark.parametrize("anomaly", CHECKERS)
def test_every_anomaly_has_bad_histories(anomaly):
    """At least three for each, so that no checker passes by one lucky example."""
    assert sum(planted == anomaly for planted, _, _ in BAD.values()) >= 3


def test_the_count_that_is_published(record_property):
    """Contract S3, in figures: flagged of planted, and false alarms."""
    flagged = sum((anomaly, statement) in broken(planted) for anomaly, statement, planted in BAD.values())
    alarms = sum(bool(broken(planted)) for planted in [*GOOD.values(), *(planted for _, planted in ALLOWED.values())])
    figures = f"bad histories flagged: {flagged} of {len(BAD)}; good ones: {len(GOOD) + len(ALLOWED)}, false alarms: {alarms}"
    record_property("histories", figures)
    print(figures)
    assert (flagged, alarms) == (len(BAD), 0), figures


def test_verdicts_tell_acks_apart():
    lost = case([send(0, 0, acks="1"), send(1, 1), send(2, outcome="unknown", acks="0")], [0])
    assert {("C1.2", "1"), ("C1.2", "all")} <= judged(lost) and ("C1.2", "0") not in judged(lost)
    assert [finding.acks for finding in check_all(lost) if finding.statement == "C1.2"] == ["all"]


def test_gaps_are_counted_without_the_outages():
    assert longest_gap([10, 20, 90], [(30, 80)], (0, 100)) == (20, 90, 20)
    assert longest_gap([], [(30, 80)], (0, 100)) == (0, 100, 50)
    assert longest_gap([50], [], (0, 100))[2] == 50


# ------------------------------------------------------------ the file


@pytest.mark.parametrize("size", [0, 40, 1500])
def test_a_value_names_its_record_and_a_torn_one_does_not(size):
    value = value_of("p", 17, size)
    assert identify(value) == resembles(value) == ("p", 17)
    assert all(identify(value[:cut]) is None for cut in range(len(value)))
    assert identify(value[:-1] + bytes([value[-1] ^ 1])) is None
    assert resembles(value[:20] + b"\0\0\0") == ("p", 17) and resembles(b"\0" * 40) is None is resembles(b"\xff:1:2:")


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


def test_a_line_that_is_no_event_is_named(tmp_path):
    (tmp_path / "c.jsonl").write_text('{"e":"client","t":1,"kind":"x","group":null}\n{"e":"guessed","t":2}\n')
    with pytest.raises(ValueError, match=r"c\.jsonl, line 2: ValueError: unknown event 'guessed'"):
        load(str(tmp_path))


def test_reading_begins_anew_with_each_assignment_and_seek(tmp_path):
    recorder = Recorder(str(tmp_path / "c.jsonl"))
    recorder.write("client", kind="librdkafka-consumer", group="g", library="x")
    recorder.write("assigned", partitions=[["t", 0], ["t", 1]])
    recorder.write("seen", topic="t", partition=0, offset=0, id=["p", 0], epoch=2)
    recorder.write("seek", topic="t", partition=0, offset=7)
    recorder.write("seen", topic="t", partition=0, offset=7, id=None, like=["p", 3])
    recorder.write("seen", topic="t", partition=1, offset=0, id=["p", 1])
    recorder.write("answer", what="end", topic="t", partition=0, offset=8, asked=1)
    history = load(str(tmp_path))
    assert [(s.partition, s.offset, s.stretch, s.epoch, s.like) for s in history.seen] == [
        (0, 0, 1, 2, None), (0, 7, 2, None, ("p", 3)), (1, 0, 1, None, None)]
    assert history.seeks == {("c", "t", 0, 2): 7}
    assert [(a.what, a.offset, a.asked) for a in history.answers] == [("end", 8, 1)]
    assert history.members("g") == history.seen and history.members("h") == []
