"""A run of the lab that broke off behind its first layer was reported as one that held: `exit_code` 0 in results.json, a green banner,
and "Every layer that was asked for ran"."""

import json
import signal

import pytest

from chaos import cli
from chaos.network import layer as network


@pytest.fixture(autouse=True)
def signals():
    """A run takes them for itself, to its process's end: here they are those of the next tests, too."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def first_layer_holds(monkeypatch):
    monkeypatch.setattr(cli, "_run_on_simulated_disk", lambda report, *_: report.judge("disk", "P3", "F2", ["C1.3"], [], times=9))


def run(*words) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main(["run", *map(str, words)])
    return left.value.code


@pytest.mark.parametrize("error, code", [(ZeroDivisionError("ours"), 70), (KeyboardInterrupt(), 2)])
def test_the_report_says_so(tmp_path, monkeypatch, first_layer_holds, error, code):
    def fail(*_):
        raise error

    monkeypatch.setattr(network, "run", fail)
    assert run("--layers", "disk,network,process", "--out", tmp_path) == code
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["exit_code"] == 2 and len(results["not_enough"]) == 1
    assert results["not_run"] == ["network: not to its end", "process: not to its end"]
    assert "ran." not in (tmp_path / "report.html").read_text()


def test_a_layer_that_does_not_apply_is_not_said_to_have_run(tmp_path, monkeypatch):
    monkeypatch.setattr(network, "run", lambda report, *_: report.judge("network", "none", "F6", ["C1.2"], []))
    assert run("--layers", "disk,network", "--target", "kafka", "--out", tmp_path) == 0
    assert json.loads((tmp_path / "results.json").read_text())["not_run"] == ["disk: it has refbroker's code on a simulated disk"]


def test_where_no_report_can_be_written_nothing_is_run(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setattr(cli, "_run_on_simulated_disk", lambda *_: pytest.fail("ran for minutes before it looked"))
    assert run("--layers", "disk", "--out", tmp_path / "file") == 64
    assert "--out" in capsys.readouterr().err
