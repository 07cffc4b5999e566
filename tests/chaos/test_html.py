"""Are the pages what a reader needs, in a real browser and without one?

The pages are made of a hand-written report and of a plan that breaks a statement (on a disk that forgets syncs). Headless Chromium opens them
and gives back the document that it made; a parser of its own checks that every element is closed and nothing is loaded from outside.
"""

import json
import re
import struct
import zlib
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from chaos import plan
from chaos.checks.history.case import Finding
from chaos.cli import cli
from chaos.contract import STATEMENTS
from chaos.disk.driver import POLICIES
from chaos.disk.lab import Lab, Limits
from chaos.disk.model import SimFile
from chaos.history import Commit, History, Seen, Send
from chaos.html import chart, fates, github, story
from chaos.html import report as report_page
from chaos.process.timeline import Strike, timeline
from chaos.report import Kept, Report

VOID = {"meta", "br", "hr", "img", "link", "input"}
HOSTILE = "<script>document.title='gone'</script> & \"quoted\" 'x' ]]> --> %\n::error::"


# ------------------------------------------------------------ what the pages are made of


def sample_report(broken: bool = True) -> Report:
    report = Report(42, "make chaos SEED=42 MINUTES=4")
    for policy in ("P0", "P1", "P2", "P3"):
        for fault in ("F1", "F2"):
            statements = ["C1.2", "C2.1", "C2.2", "C2.3", "C2.4", "C4.1", "C5.1"]
            report.judge("disk", policy, fault, statements, [], times=123_456)
        report.judge("disk", policy, "F3", ["C1.13", "C1.14"], [], times=77)
    report.judge("disk", "P0", "F2", ["C1.6"], [Finding("C1.6", "acked offsets lost", "", -1, -1, "", allowed=True)] * 17, times=5000)
    for policy in ("none", "messages=10", "ms=200", "messages=1"):
        report.judge("process", policy, "F1", ["C1.2", "C2.2"], [], times=12)
    if broken:
        report.judge("disk", "P3", "F2", ["C1.3"], [Finding("C1.3", "broken", "a", 0, 7, HOSTILE)], times=9)
        report.judge("process", "none", "F1", ["C2.8"], [Finding("C2.8", "two values", "orders", 1, 40, "read twice")], times=12)
    report.figures += [{"layer": "disk", "words": 12_345, "states possible": "1.2e+09", "distinct": 120_345, "judged": 654_321, "seconds": 240},
                       *({"layer": "process", "policy": policy, "fault": "F1", "sent": 4000, "acked": 3990, "slowest_restart_s": 0.41}
                         for policy in ("none", "messages=10"))]
    report.coverage += [{"site": "segment.Segment.append", "kind": "log", "deviation": kind, "states": 1000 + len(kind)}
                        for kind in ("lost", "torn", "garbage", "zeros")]
    report.coverage.append({"site": "disk.replace_file", "kind": "checkpoint", "deviation": "rename undone", "states": 12})
    report.coverage.append({"site": "disk.replace_file", "kind": "checkpoint", "deviation": "torn", "states": 0, "why": "it's whole"})
    report.coverage.append({"site": "disk.replace_file", "kind": "checkpoint", "deviation": "lost", "states": 0, "why": ""})
    report.not_run.append("device: needs root and /dev/loop-control")
    report.unchecked = ["C7.1", "C9.1"]
    acked = [0 if 31 <= step <= 36 or step % 17 == 16 else 18 + step * 7 % 11 for step in range(90)]
    report.timelines.append({"layer": "process", "policy": "none", "fault": "F1", "step_ms": 100, "acked": acked, "seen": [count // 2 for count in acked],
                             "faults": [{"what": "SIGKILL", "ms": 3110, "until_ms": 3480}, {"what": "SIGKILL", "ms": 6900, "until_ms": 7100}]})
    return report


@pytest.fixture(scope="module")
def failing_plan(tmp_path_factory):
    """A plan that breaks C1.3, and its replay: made, kept and followed where a file's sync does nothing."""
    patch = pytest.MonkeyPatch()
    patch.setattr(SimFile, "sync", lambda self: None)
    lab = Lab(POLICIES["P3"], 1, Limits(60, 0))
    with plan.quietly():
        lab.explore(("append", "fill"))
    found = next(failure for failure in lab.tally.failures if failure.problem.statement == "C1.3" and "torn" in str(failure) or failure.labels)
    made = plan.plan_of(found, 1)
    path = plan.save(made, tmp_path_factory.mktemp("plans"))
    yield path, plan.replay(plan.load(path))
    patch.undo()


# ------------------------------------------------------------ without a browser


class Document(HTMLParser):
    """Checks nesting, and collects text, ids, attributes."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.outside: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == [], f"not closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            self.ids += [value] if name == "id" else []
            if name == "href":
                self.links.append(value)
            if name in ("src", "srcset", "data", "action") or (tag == "link"):
                self.outside.append(f"{tag} {name}={value}")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data


def check_page(text: str) -> Document:
    document = Document(text)
    assert document.outside == []
    assert "http://" not in text and "https://" not in text and "url(" not in text and "@import" not in text
    assert len(document.ids) == len(set(document.ids))
    assert {link[1:] for link in document.links if link.startswith("#")} <= set(document.ids)
    assert "prefers-color-scheme:dark" in text and "width=device-width" in text
    return document


def test_the_report_page_has_everything_that_the_report_says():
    document = check_page(report_page.render(sample_report()))
    for words in ("2 statements broken: C1.3, C2.8", "make chaos SEED=42 MINUTES=4", "seed 42", STATEMENTS["C1.3"].title, "+17 allowed", "a-0 at offset 7",
                  "orders-1 at offset 40", "device: needs root", f"C7.1 {STATEMENTS['C7.1'].title}", "segment.Segment.append", "rename undone", "123,456",
                  "refbroker-chaos run --layers process --seed 42", "faults: 2; gaps in service of 300 ms or more: 1, the longest 600 ms"):
        assert words in document.text, words


def test_nothing_that_a_run_says_becomes_markup():
    text = report_page.render(sample_report())
    assert HOSTILE not in text and "<script>document.title" not in text
    assert HOSTILE.split("\n")[0] in Document(text).text


def test_a_run_that_held_and_one_without_evidence_say_so():
    assert "All statements that were judged held" in Document(report_page.render(sample_report(broken=False))).text
    empty = Report(1)
    empty.not_enough.append("P0: nothing was ever unsynced")
    document = check_page(report_page.render(empty))
    assert "Not enough evidence" in document.text and "Nothing was judged" in document.text


def test_a_report_with_too_much_to_say_stays_small_and_says_what_is_missing():
    report = sample_report()
    for number in range(40):
        report.judge(f"layer{number}", "P0", "F2", [*STATEMENTS], [], times=1)
        report.judge(f"layer{number}", "P0", "F2", [], [Finding("C2.1", "broken", "a", 0, 1, HOSTILE * 200)] * 9)
        report.timelines.append({**report.timelines[0], "acked": [5] * 40_000, "seen": []})
        report.coverage += [{"site": f"f{number}.g{each}", "kind": "log", "deviation": "lost", "states": 1} for each in range(60)]
    text = report_page.render(report)
    assert len(text.encode()) < report_page.BYTES_MAX
    document = check_page(text)
    assert "that held without a loss are in results.json" in document.text and "more rows are broken" in document.text


def test_writing_a_report_writes_the_page_and_that_of_each_plan(failing_plan, tmp_path):
    path, _ = failing_plan
    report = sample_report()
    report.figures.append({"plan": str(path), "replay": f"refbroker-chaos replay {path}"})
    report.write(tmp_path)
    document = check_page((tmp_path / "report.html").read_text())
    assert f"refbroker-chaos replay {path}" in document.text and "What the client did" in document.text
    assert "What recovery did" in check_page(path.with_suffix(".html").read_text()).text
    assert json.loads((tmp_path / "results.json").read_text())["timelines"] == report.timelines


def test_the_page_of_a_plan_tells_the_whole_story(failing_plan):
    path, replay = failing_plan
    statement = replay.broken[0].statement
    document = check_page(story.render(replay, path.name))
    for words in (f"{statement} is broken: {STATEMENTS[statement].title}", "client is told", "power lost", "segment.Segment.append", "a-0/0.log",
                  "What recovery did", f"refbroker-chaos replay {path.name}", replay.plan["digest"], replay.broken[0].text):
        assert words in document.text, words
    assert any(link.startswith("#e") for link in document.links)


def test_each_byte_is_what_the_three_contents_say(failing_plan):
    _, replay = failing_plan
    known = fates.facts_of(replay)
    taken = 0
    for path in known.cached.keys() | replay.crashed.keys():
        file = fates.bytes_of(path, known, replay.crashed)
        cached, left = file.cached or b"", file.left or b""
        assert len(file.states) == len(file.shown) == max(len(cached), len(left))
        for place, state in enumerate(file.states):
            assert (state == "l") == (place >= len(left)), path
            assert state not in "dk" or left[place] == cached[place]
            assert state != "t" or left[place] != cached[place]
        taken += file.states.count("l") + file.states.count("t")
    assert taken, "a crash that breaks a statement took bytes"
    assert sum(fate.state in (fates.LOST, fates.TORN) for fate in known.fates)
    assert all((fate.state == fates.NEVER) == (index >= replay.plan["crash"]["after_events"]) for index, fate in enumerate(known.fates))


def test_what_was_told_belongs_to_the_operation_that_asked(failing_plan):
    """Also where an operation made no effect at all, as a deletion within the first segment."""
    made = {**failing_plan[1].plan, "setup": [], "operations": [{"op": "append"}, {"op": "idempotent"}, {"op": "delete_records"}, {"op": "checkpoint"}],
            "crash": {"fault": "F1", "disk": "any", "after_events": 0, "deviations": {}}}
    whole = plan.replay(made).driver.at
    found = fates.facts_of(plan.replay({**made, "crash": {**made["crash"], "after_events": whole}}))
    told = {operation.name: [(each.text, each.at is not None) for each in operation.told] for operation in found.operations}
    assert told == {"start": [], "append": [("a-0 offset 0", True)], "idempotent": [("a-0 offset 1", True)],
                    "delete_records": [("a-0 delete below 1", True)], "checkpoint": []}
    assert fates.NEVER not in {fate.state for fate in found.fates}
    assert not any(operation.told for operation in fates.facts_of(plan.replay(made)).operations)


@pytest.mark.parametrize("cached, durable, left, states", [
    (b"abcdef", b"abc", b"abcdef", "dddkkk"), (b"abcdef", b"abc", b"abcd", "dddkll"), (b"abcdef", b"", b"\0\0cdef", "ttkkkk"),
    (b"ab", b"abcd", b"abcd", "ddxx"), (b"", b"", b"", ""), (b"abc", b"abc", b"", "lll")])
def test_states_of_bytes(cached, durable, left, states):
    file = fates.bytes_of("f", fates.Facts([], [], [], {"f": cached}, {"f": durable}, {}), {"f": left})
    assert file.states == states


def test_gaps_are_stretches_without_an_ack_between_acks():
    line = {"step_ms": 100, "acked": [0, 0, 0, 0, 5, 0, 0, 5, 0, 0, 0, 5, 0, 0, 0, 0]}
    assert chart.gaps(line) == [(800, 1100)]
    assert chart.gaps({"step_ms": 100, "acked": []}) == []


def test_a_time_line_counts_from_the_first_request():
    ms = 1_000_000
    history = History()
    for number, (asked, told) in enumerate([(1000, 1010), (1020, 1149), (1150, 1350), (1200, None)]):
        history.sends["p", number] = Send("p", number, "t", "all", True, asked * ms, "acked" if told else "unknown", told and told * ms)
    line = timeline("process", "none", "F1", history, [Strike("SIGKILL", 1160 * ms, 1300 * ms)])
    assert (line["acked"], line["seen"]) == ([1, 1, 0, 1], [0, 0, 0, 0])
    assert line["faults"] == [{"what": "SIGKILL", "ms": 160, "until_ms": 300}]
    assert timeline("process", "none", "F1", History(), [])["acked"] == [0]


def test_a_time_line_has_a_strip_for_each_client():
    ms = 1_000_000
    history = History(clients={"p": {"library": "librdkafka 2", "idempotent": True}, "c": {"library": "aiokafka 1", "group": "g"}, "idle": {}})
    history.sends["p", 0] = Send("p", 0, "t", "all", True, 0, "acked", 150 * ms, 0, 0)
    history.sends["p", 1] = Send("p", 1, "t", "all", True, 10 * ms, "unknown", 260 * ms)
    history.seen.append(Seen("c", "t", 0, 0, 310 * ms, ("p", 0)))
    history.commits.append(Commit("c", "g", "t", 0, 1, 300 * ms, "acked", 320 * ms))
    history.assignments.append(("c", 120 * ms))
    line = timeline("process", "none", "F1", history, [Strike("SIGKILL", 200 * ms, 330 * ms)])
    assert line["lanes"] == [
        {"name": "c", "what": "aiokafka 1, member of a group", "counts": [0, 0, 0, 1], "marks": [[120, "rebalance"], [320, "commit"]]},
        {"name": "p", "what": "librdkafka 2, idempotent", "counts": [0, 1, 0, 0], "marks": [[260, "no answer"]]}]
    document = check_page(report_page.render(replace(sample_report(False), timelines=[line])))
    for words in ("aiokafka 1, member of a group: 1 records, commit 1, rebalance 1", "librdkafka 2, idempotent: 1 records, no answer 1"):
        assert words in document.text


def test_what_is_told_nothing_may_be_the_last_that_was_sent():
    ms = 1_000_000
    history = History(clients={"silent": {"library": "kafka-python"}})
    for number, moment in enumerate((0, 50, 900)):
        history.sends["silent", number] = Send("silent", number, "t", "0", False, moment * ms)
    line = timeline("process", "none", "F2", history, [Strike("power cut", 100 * ms)])
    assert sum(line["lanes"][0]["counts"]) == 3 and sum(line["acked"]) == 0


def test_another_broker_is_told_apart_from_a_broken_one(tmp_path):
    """What breaks only a stricter statement is labelled and kept; the same finding counts where that was asked for."""
    for strict, exit_code in ((False, 0), (True, 1)):
        report = Report(3, "refbroker-chaos run --target kafka", target="kafka", strict=strict)
        report.judge("process", "none", "F1", [("C1.2", "all"), "C2.4"], [Finding("C2.4", "over-truncation", "t", 0, 7, "two of three batches kept")])
        report.kept.append(Kept("process", "none", "F1", "build/chaos/process/none-kill", "refbroker-chaos replay build/x", "Once upon a time"))
        report.write(tmp_path)
        results = json.loads((tmp_path / "results.json").read_text())
        assert results["exit_code"] == report.exit_code == exit_code
        assert [(row["statement"], row["acks"], row["verdict"]) for row in results["rows"]] == [
            ("C1.2", "all", "held"), ("C2.4", "any", "BROKEN" if strict else "weaker")]
        document = check_page((tmp_path / "report.html").read_text())
        assert ("Weaker than refbroker's contract" in document.text) == (not strict)
        for words in ("two of three batches kept", "refbroker-chaos replay build/x", "Once upon a time", "kafka", "acks=all"):
            assert words in document.text
        assert ("stricter than kafka" in github.summary(report).lower()) == (not strict)


def test_junit_has_a_case_for_each_row_and_for_what_was_not_run(tmp_path):
    report = sample_report()
    report.write(tmp_path)
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot().find("testsuite")
    cases = suite.findall("testcase")
    assert len(cases) == len(report.rows) + 1 == int(suite.get("tests"))
    assert {case.get("name") for case in cases if case.find("failure") is not None} == {"C1.3 P3", "C2.8 none"}
    assert int(suite.get("failures")) == 2 and int(suite.get("skipped")) == 1
    assert [case.find("skipped").get("message") for case in cases if case.find("skipped") is not None] == ["device: needs root and /dev/loop-control"]


def test_an_interrupted_run_has_a_report_of_what_was_done(tmp_path):
    """From nothing at all to a part; with a line that XML could not hold."""
    for report in (Report(5), Report(5, not_enough=["interrupted: this is the report of what was done so far"], not_run=["device: \x00\x1b[1m"]),
                   sample_report(False)):
        report.write(tmp_path)
        check_page((tmp_path / "report.html").read_text())
        ElementTree.parse(tmp_path / "junit.xml")
        assert json.loads((tmp_path / "results.json").read_text())["seed"] == report.seed


# ------------------------------------------------------------ commands and CI


def test_replay_and_explain_print_the_story_and_their_exit_codes_tell(failing_plan, tmp_path):
    path, replay = failing_plan
    told = CliRunner().invoke(cli, ["replay", str(path)])
    assert told.exit_code == 1 and replay.story() in told.output and "just as the plan says" in told.output
    page = tmp_path / "out.html"
    told = CliRunner().invoke(cli, ["explain", str(path), "--html", str(page)])
    assert told.exit_code == 0 and replay.story() in told.output
    assert page.read_text() == story.render(replay, str(path))
    undisturbed = {**replay.plan, "crash": {**replay.plan["crash"], "deviations": {}}}
    (tmp_path / "p.json").write_text(json.dumps(undisturbed))
    told = CliRunner().invoke(cli, ["replay", str(tmp_path / "p.json")])
    assert told.exit_code == 0 and "not as the plan says" in told.output
    assert "Every statement holds" in check_page(story.render(plan.replay(undisturbed))).text
    (tmp_path / "p.json").write_text('{"format": 9}')
    assert CliRunner().invoke(cli, ["replay", str(tmp_path / "p.json")]).exit_code == 2  # click's own; the program turns it into 64


def test_github_gets_an_annotation_for_each_broken_row_and_a_summary(tmp_path):
    lines: list[str] = []
    path = tmp_path / "summary.md"
    environ = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": str(path)}
    github.tell(sample_report(), environ, lines.append)
    assert len(lines) == 2 and all(line.startswith("::error title=C") and "\n" not in line for line in lines)
    assert lines[0].startswith("::error title=C1.3 broken%3A disk%2C F2%2C P3::broken, a-0 at offset 7: ") and "%25%0A::error::" in lines[0]
    summary = path.read_text()
    assert "## refbroker chaos: a statement is broken" in summary and "<script>" not in summary
    assert "| disk | F2 | 9 |" in summary and "device: needs root" in summary
    github.tell(sample_report(), {}, lines.append)
    assert len(lines) == 2


# ------------------------------------------------------------ in a real browser


PROBE = """<script>addEventListener('load',()=>{const d=document.documentElement,b=document.body,all=q=>[...document.querySelectorAll(q)];
const f={overflow:d.scrollWidth-d.clientWidth,width:innerWidth,background:getComputedStyle(b).backgroundColor,color:getComputedStyle(b).color,
svgs:all('svg').filter(s=>s.getBoundingClientRect().height>5).length,text:b.innerText,title:document.title};
const n=document.querySelector('button[data-news]'),rows=()=>all('.verdicts tr').filter(r=>r.offsetHeight).length;
if(n){f.news=rows();n.click();f.rows=rows()}
parent.postMessage(f,'*')})</script>"""
# A window is never narrower than 500 pixels, a frame is; what it finds out about itself comes as a message.
HOST = """<!DOCTYPE html><meta name="color-scheme" content="light dark"><pre id="facts"></pre><script>
addEventListener('message',e=>{document.getElementById('facts').textContent=JSON.stringify(e.data)})</script><iframe src="page.html" width="%d" height="800"
style="border:0"></iframe>"""


def probed(browser, tmp_path, text: str, *arguments: str, width: int = 360) -> dict:
    """What the page measures of itself in a frame of this width."""
    (tmp_path / "page.html").write_text(text.replace("</body>", PROBE + "</body>"))
    (tmp_path / "host.html").write_text(HOST % width)
    dom = browser("--dump-dom", "--virtual-time-budget=5000", "--window-size=1400,900", *arguments, (tmp_path / "host.html").as_uri())
    return json.loads(unescape(re.search(r'<pre id="facts">(.*?)</pre>', dom, re.DOTALL)[1]))


@pytest.mark.parametrize("width", [360, 1280])
def test_pages_in_chromium_fit_the_screen(browser, tmp_path, failing_plan, width):
    seen = probed(browser, tmp_path, report_page.render(sample_report()), width=width)
    assert seen["width"] == width and seen["overflow"] <= 0, seen
    assert seen["svgs"] == 2 and seen["news"] < seen["rows"]
    assert "2 statements broken: C1.3, C2.8" in seen["text"] and seen["title"].startswith("refbroker chaos: 2 statements")
    seen = probed(browser, tmp_path, story.render(failing_plan[1]), width=width)
    assert seen["width"] == width and seen["overflow"] <= 0, seen
    assert "power lost" in seen["text"] and seen["svgs"] >= 2


def test_chromium_makes_the_same_document_of_the_pages(browser, tmp_path, failing_plan):
    for text in (report_page.render(sample_report()), story.render(failing_plan[1])):
        (tmp_path / "page.html").write_text(text)
        dom = browser("--dump-dom", (tmp_path / "page.html").as_uri())
        assert " ".join(Document(dom).text.split()) == " ".join(Document(text).text.split())
        assert Document(dom).ids == Document(text).ids


def test_dark_mode_in_chromium(browser, tmp_path):
    text = report_page.render(sample_report())
    light = probed(browser, tmp_path, text, "--blink-settings=preferredColorScheme=1")
    dark = probed(browser, tmp_path, text, "--blink-settings=preferredColorScheme=0")
    assert brightness(light["background"]) > 200 > 100 > brightness(light["color"])
    assert brightness(dark["color"]) > 200 > 60 > brightness(dark["background"])


def brightness(colour: str) -> float:
    parts = [int(part) for part in re.findall(r"\d+", colour)[:3]]
    return sum(parts) / 3


def test_a_screenshot_is_not_blank(browser, tmp_path, failing_plan):
    page, picture = tmp_path / "page.html", tmp_path / "page.png"
    page.write_text(story.render(failing_plan[1]))
    browser(f"--screenshot={picture}", "--window-size=360,800", page.as_uri())
    data = picture.read_bytes()
    assert struct.unpack(">II", data[16:24]) == (360, 800)
    pixels = zlib.decompress(b"".join(chunks(data, b"IDAT")))
    assert len(set(pixels[::97])) > 20


def chunks(png: bytes, kind: bytes):
    position = 8
    while position < len(png):
        length = int.from_bytes(png[position:position + 4], "big")
        if png[position + 4:position + 8] == kind:
            yield png[position + 8:position + 8 + length]
        position += 12 + length
