"""A host name with an empty label, or one of more than 63 letters, ended every command with a traceback and 70, "a bug of ours"."""

import pytest
from click import UsageError

from refbroker.cli import parse_address
from refbroker.config import Config, ConfigError


@pytest.mark.parametrize("host", ["no..host", "x" * 64])
def test_they_are_refused(host):
    with pytest.raises(UsageError, match="expected HOST:PORT"):  # 64
        parse_address(f"{host}:9092")
    with pytest.raises(ConfigError, match="expected NAME://HOST:PORT"):  # 64, too
        Config.load(None, {}, [f"listeners=PLAINTEXT://{host}:9092"])


@pytest.mark.parametrize("host", ["", "localhost", "m\u00fcller.example.org.", "127.0.0.1", "::1", "fe80::1%eth0", "x" * 63])
def test_others_are_not(host):
    assert parse_address(f"{f'[{host}]' if ':' in host else host}:9092") == (host, 9092)
