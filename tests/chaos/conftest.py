"""Pages are opened in a real browser: headless Chromium, which gives back the document that it made."""

import shutil
import subprocess

import pytest

CHROMIUM = shutil.which("chromium")


@pytest.fixture
def browser(tmp_path):
    if CHROMIUM is None:
        pytest.skip("not run: no browser (Debian package chromium)")

    def run(*arguments: str) -> str:
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
                   "--disable-component-update", "--disable-sync", "--hide-scrollbars", f"--user-data-dir={tmp_path / 'profile'}", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    return run
