"""Is the benchmark's own arithmetic right, does its noise rule bite, and does it notice a broker that loses records?"""

import json
import statistics
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.bench import alone, brokers, cli, drive, goals, java, machine, null, profile, raw, report, rounds, workloads
from chaos.bench.goals import Goal, judge
from chaos.bench.rounds import OUTSIDE_CORES_MAX, REPEATS_MAX, SPREAD_MAX, Round, Row
from refbroker.testing import broker

FACTS = {"cores": 2, "loopback send MiB/s": 1000.0, "CRC-32C MiB/s": 1000.0, "sequential write, page cache MiB/s": 500.0,
         "loopback sendfile MiB/s": 2000.0, "fdatasync rate 1/s": 1000.0, "loopback round trip, p50 us": 20.0}


def scripted(*told):
    """(figure of a, figure of b, outside cores) for each round that is asked for."""
    left = list(told)
    return lambda: Round({"a": {"x": left[0][0]}, "b": {"x": left[0][1]}}, left.pop(0)[2]), left


def run(script, count=3):
    said = []
    once, left = scripted(*script)
    return *rounds.in_rounds(once, count, said.append), said, left


def test_quiet_rounds_are_kept_as_they_are():
    kept, repeats, noisy, said, left = run([(10, 5, 0), (11, 5, 0), (10, 5, 0)])
    assert [one.figures["a"]["x"] for one in kept] == [10, 11, 10]
    assert (repeats, noisy, said, left) == (0, False, [], [])


def test_a_round_in_which_others_were_at_work_is_done_again_and_said_so():
    kept, repeats, noisy, said, left = run([(10, 5, 0), (2, 5, OUTSIDE_CORES_MAX + 0.01), (10, 5, 0), (10, 5, 0)])
    assert [one.figures["a"]["x"] for one in kept] == [10, 10, 10]
    assert repeats == 1 and not noisy and not left
    assert "others used" in said[0]


def test_the_round_furthest_from_the_median_is_done_again_where_the_figures_spread():
    kept, repeats, noisy, said, _ = run([(10, 5, 0), (10, 9, 0), (10, 5, 0), (10, 5.1, 0)])
    assert [one.figures["b"]["x"] for one in kept] == [5, 5, 5.1]
    assert repeats == 1 and not noisy and "figures of b" in said[0]


def test_what_stays_noisy_is_called_noisy():
    kept, repeats, noisy, said, left = run([(10, 5, 1.5)] * (3 + REPEATS_MAX))
    assert len(kept) == 3 and repeats == REPEATS_MAX == len(said) and noisy and not left
    *_, noisy, _, _ = run([(10 * number, 5, 0) for number in range(1, 4 + REPEATS_MAX)])
    assert noisy


def test_the_repeats_of_a_whole_run_are_bounded():
    often = [Row(str(number), "x", True, repeated=REPEATS_MAX) for number in range(rounds.REPEATS_IN_ALL_MAX // REPEATS_MAX)]
    assert rounds.repeats_left(often[1:]) == REPEATS_MAX and rounds.repeats_left(often) == 0
    once, left = scripted((10, 5, 9), (10, 5, 9))
    assert rounds.in_rounds(once, 1, [].append, repeats_max=0)[1:] == (0, True) and len(left) == 1


@given(st.lists(st.floats(1, 100), min_size=2, max_size=6))
def test_spread_is_relative_to_the_median(values):
    assert rounds.spread(values) == pytest.approx(rounds.spread([value * 7 for value in values]))
    assert (rounds.spread(values) > SPREAD_MAX) == (max(values) - min(values) > SPREAD_MAX * statistics.median(values))


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    row = Row("w", "MiB/s", True, {"refbroker": [100, 10, 30], "kafka": [50, 5, 60]})
    assert row.ratio("refbroker", "kafka") == 2  # of 2, 2, 0.5; the medians' own ratio is 0.6
    assert row.ratio("refbroker", "nobody") is None


def test_the_fraction_of_raw_is_at_most_one_for_the_best_broker():
    assert Row("w", "MiB/s", True, {"refbroker": [500]}, raw=1000).of_raw("refbroker") == 0.5
    assert Row("w", "us", False, {"refbroker": [40]}, raw=20).of_raw("refbroker") == 0.5
    assert Row("w", "us", False, {"refbroker": [40]}).of_raw("refbroker") is None
    assert machine.in_turn(FACTS) == pytest.approx(250)


def test_goals_are_judged_in_the_right_direction():
    more, less = Goal(1.2, 2.0), Goal(0.6, 0.4)
    assert judge(more, True, ours=1, ratio=1.2, of_raw=None) == ("yes (1.2x)", "NO (2x)")
    assert judge(more, True, ours=1, ratio=1.19, of_raw=None)[0] == "NO (1.2x)"
    assert judge(less, False, ours=1, ratio=0.39, of_raw=None) == ("yes (0.6x)", "yes (0.4x)")
    assert judge(less, False, ours=1, ratio=0.61, of_raw=None) == ("NO (0.6x)", "NO (0.4x)")
    assert judge(Goal(1 / 15, value=0.2), False, ours=0.19, ratio=0.07, of_raw=None) == ("NO (1/15x)", "yes (0.2)")
    assert judge(Goal(8.0, of_raw=0.5), True, ours=1, ratio=9, of_raw=0.4) == ("yes (8x)", "NO (0.5 of raw)")
    assert judge(more, True, ours=1, ratio=None, of_raw=None) == ("", "")


def test_every_goal_is_about_a_row_that_is_measured():
    measured = {workload.name for workload in workloads.WORKLOADS}
    measured |= {alone.START, alone.IDLE, alone.RECOVERY, alone.CROWD, goals.LOADED}
    assert {workload for workload, _ in goals.GOALS} <= measured
    assert len(measured) == len(workloads.WORKLOADS) + 5
    assert len(goals.GOALS) == 17


def some_rows():
    fast = Row(workloads.PRODUCE_1M, "MiB/s", True, {"refbroker": [600, 620, 610], "kafka": [400, 410, 405]}, raw=1000, limit=2000)
    slow = Row(workloads.ONE_RECORD, "p50 us", False, {"refbroker": [90], "kafka": [100]}, repeated=1, noisy=True)
    return [fast, slow]


def test_the_table_shows_spread_ratio_and_what_must_be_reached():
    lines = report.table(some_rows(), "kafka").splitlines()
    assert {line.count("|") for line in lines} == {10}
    assert lines[2] == "| produce, 1 MB batches | MiB/s | 610 (600 to 620) | 405 (400 to 410) | 1.51 | 0.61 | 2,000 | yes (1.2x) | NO (2x) |"
    assert "(noisy)" in lines[3] and "NO (0.6x)" in lines[3]
    assert report.verdict(some_rows(), "kafka").startswith("1 of 2 goals")
    assert "must" not in report.table(some_rows(), None).splitlines()[0]


def test_the_json_has_every_round(tmp_path):
    text = report.as_json(FACTS, some_rows(), "kafka", {"Java": "JDK missing"}, {"rounds": 3})
    found = json.loads(text)
    assert found["results"][0]["values"]["kafka"] == [400, 410, 405]
    assert found["results"][0]["must"] == "yes (1.2x)" and found["not run"] == {"Java": "JDK missing"}
    assert any("JDK missing" in line for line in report.notes(some_rows(), {"Java": "JDK missing"}, 3))


def test_the_readme_keeps_what_is_around_the_table(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.README_BEGIN}\nold\n{report.README_END}\nafter\n")
    for text in ("new", "newer"):
        report.put_into_readme(readme, text)
        assert readme.read_text() == f"before\n{report.README_BEGIN}\n{text}\n{report.README_END}\nafter\n"
    readme.write_text("no marks")
    with pytest.raises(ValueError, match="lacks the lines"):
        report.put_into_readme(readme, "new")


def test_limits_go_to_the_first_figure_of_their_workload():
    found = [Row(workloads.ONE_RECORD, figure, False, {"refbroker": [1.0]}) for figure in ("p50 us", "p99 us")]
    rounds.add_limits(found, FACTS, {workloads.ONE_RECORD: {"p50 us": 5.0, "p99 us": 9.0}})
    assert [(row.raw, row.limit) for row in found] == [(20.0, 5.0), (None, 9.0)]


FRAMES = st.lists(st.binary(max_size=40), min_size=1, max_size=8)


@given(FRAMES, st.integers(1, 50))
def test_the_null_server_counts_frames_however_they_arrive(bodies, step):
    stream = b"".join(len(body).to_bytes(4, "big") + body for body in bodies if body)
    client, whole = null.Client(None), 0
    for position in range(0, len(stream), step):
        piece = bytearray(stream[position : position + step])
        whole += client.frames(piece, len(piece))
    assert whole == sum(bool(body) for body in bodies)


def test_a_broker_that_answers_but_does_not_append_is_found_out():
    frame = drive.Frame(raw.produce_frame("t", raw.batch(3, 100)), 3)
    with null.null_server(raw.produce_answer("t")) as address:
        idle = drive.Place(address, "t", counts=False)
        assert drive.pipelined(idle, frame, 0.05) > 0 and drive.latencies(idle, frame, 0.05) and drive.many(idle, frame, 3, 0.05) > 0
        for loop in (drive.latencies, drive.pipelined, lambda *args: drive.many(args[0], args[1], 3, args[2])):
            with pytest.raises(raw.Refused, match="are not in the log"):
                loop(idle._replace(counts=True), frame, 0.05)


def test_a_round_appends_no_more_than_the_page_cache_keeps(monkeypatch):
    assert 1 << 20 < machine.cached_bytes_max() <= machine.CACHED_BYTES_MAX
    frame = drive.Frame(raw.produce_frame("t", raw.batch(1, 1000)), 1)
    monkeypatch.setattr(machine, "cached_bytes_max", lambda: 100 * len(frame.data))
    with broker(topics={"t": 1}) as running:
        place, began = drive.Place(running.bootstrap, "t"), time.monotonic()
        assert drive.pipelined(place, frame, 20) > 0
        assert time.monotonic() - began < 10
        assert 101 < raw.check_produced(place.connect().call(frame.data)) < 111


def test_the_loops_measure_a_real_broker():
    with broker(topics={"t": 2}) as running:
        place = drive.Place(running.bootstrap, "t")
        frame = drive.Frame(raw.produce_frame("t", raw.batch(3, 1000), partitions=2), 3)
        assert drive.pipelined(place, frame, 0.1) > 0
        assert drive.many(place, frame, 5, 0.1) > 0
        assert all(seconds > 0 for seconds in drive.latencies(place, frame, 0.1))
        reading = drive.beside(drive.follow, place, 1 << 20, 0.1)
        assert drive.fetch(place, 1 << 20, 0.1) > 0 and reading() > 0
        reader, got = raw.Reader(place.connect(), "t", 1 << 16), 0
        while used := reader.read():
            got += used
        assert got == reader.offset // 3 * len(raw.batch(3, 1000))
        with pytest.raises(raw.Refused, match="error 3"):
            raw.Reader(place.connect(), "elsewhere", 1 << 16).read()
        with pytest.raises(raw.Refused, match="error 36"):
            raw.create_topic(running.bootstrap, "t", 1, {})


def test_a_workload_over_tls(tmp_path):
    side = brokers.makers(None)[brokers.OURS](tmp_path)
    if not side.tls_bootstrap:
        pytest.skip(f"not run: {side.no_tls}")
    workload = next(one for one in workloads.WORKLOADS if one.tls and not one.filled)
    with side.target:
        figures, outside = rounds.turn(side, workload, 0.2)
        assert figures["MiB/s"] > 0 and outside >= 0
        plain = drive.Place(side.tls_bootstrap, "t")
        with pytest.raises((ConnectionError, raw.Refused)):  # no TLS there, no answer
            raw.metadata(plain.connect())


def test_what_runs_beside_us_reports_its_failure():
    with pytest.raises(raw.Refused, match="ConnectionRefusedError"):
        drive.beside(drive.follow, drive.Place("127.0.0.1:1", "t"), 1000, 0.1)()


CONSUMER_TOLD = """\
start.time, end.time, data.consumed.in.MB, MB.sec, data.consumed.in.nMsg, nMsg.sec, rebalance.time.ms, fetch.time.ms, fetch.MB.sec, fetch.nMsg.sec
2026-11-28 03:27:42:017, 2026-11-28 03:27:43:112, 30.5176, 27.8700, 32000, 29223.7443, 591, 504, 60.5508, 63492.0635
"""  # fmt: skip


def test_javas_consumer_must_have_got_everything():
    assert java.consumed_rate(CONSUMER_TOLD, 32000) == 60.5508
    with pytest.raises(raw.Refused, match="32000 of 32001"):
        java.consumed_rate(CONSUMER_TOLD, 32001)


def test_a_profile_counts_samples_by_the_innermost_function():
    collapsed = "run (a.py:1);EpollSelector.select (selectors.py:20) 99\nrun (a.py:1);send (b.py:20) 30\n"
    collapsed += "run (a.py:1);append (c.py:7) 50\nrun (a.py:2);append (c.py:9) 20\n"
    assert profile.own_shares(collapsed) == [("append (c.py)", 0.7), ("send (b.py)", 0.3)]


def test_the_readme_has_a_place_for_the_table():
    text = (cli.ROOT / "README.md").read_text()
    assert text.index(report.README_BEGIN) < text.index(report.README_END)
