"""A whole machine with the broker in it loses power: what was acked before is judged, and a disk that lies is noticed."""

import pytest

from chaos.history import load
from chaos.machine import layer
from chaos.machine.guest import extract, make_image, require
from chaos.report import HELD, NOT_ENOUGH, Report
from chaos.targets import NotAvailable


def missing() -> str:
    try:
        require()
    except NotAvailable as error:
        return str(error)
    return ""


needs_a_machine = pytest.mark.skipif(bool(missing()), reason=missing() or "there")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


@needs_a_machine
def test_an_image_that_was_never_mounted_is_empty(tmp_path):
    make_image(tmp_path / "disk.img")
    extract(tmp_path / "disk.img", tmp_path / "files")
    assert [path.name for path in (tmp_path / "files").iterdir()] == ["lost+found"]


@needs_a_machine
def test_fsync_before_ack_survives_and_a_disk_that_forgets_is_noticed(tmp_path):
    import random

    report, rng = Report(7), random.Random(7)
    assert layer._cut(report, rng, "messages=1", tmp_path / "cut", "refbroker", lambda text: None, netem=layer.NETEM) == 0
    assert len(load(str(tmp_path / "cut" / "history")).acked) > 0
    assert report.exit_code == HELD, [row.broken for row in report.rows.values()]
    layer._teeth(report, rng, tmp_path / "lying", "refbroker", lambda text: None)
    assert report.figures[-1]["violations seen"] > 0 and report.exit_code == HELD


def test_without_the_tools_the_layer_says_what_is_missing(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda tool, path=None: None)
    with pytest.raises(NotAvailable, match="user-mode-linux"):
        layer.run(Report(1), 1, 1.0, None, lambda text: None)
    assert Report(1).exit_code == NOT_ENOUGH
