"""Fixtures of the client tests: the broker under test, and each client's outcomes, had by one run of its program.

`CLIENTS_TARGET` names the broker (chaos/targets): `refbroker` by default; `kafka` proves the scenarios themselves, since
what fails there is a wrong scenario; `bootstrap=HOST:PORT` is a broker that runs already."""

import collections
import os

import pytest
import runner
import scenarios
from programs import PROGRAMS

from chaos.targets import NotAvailable, make_target

OUTCOMES = pytest.StashKey[dict]()


def pytest_configure(config):
    config.stash[OUTCOMES] = {}


@pytest.fixture(scope="session")
def target(tmp_path_factory):
    name = os.environ.get("CLIENTS_TARGET", "refbroker")
    try:
        made = make_target(name, str(tmp_path_factory.mktemp("broker")), properties=scenarios.BROKER_PROPERTIES)
        made.start()
    except NotAvailable as missing:
        pytest.skip(f"not run: {missing}")
    yield made
    made.stop()


@pytest.fixture(scope="session")
def outcomes(request, target):
    """`outcomes(client)`: scenario -> Outcome; the program runs at the first call. A string says why it could not."""
    known = request.config.stash[OUTCOMES]

    def of(client: str):
        if client not in known:
            program = next(one for one in PROGRAMS if one.name == client)
            try:
                command = program.prepare()
                known[client] = runner.run(
                    client, command, target, program.scenarios, {**os.environ, **program.environment}
                )
            except NotAvailable as missing:
                known[client] = f"not run: {missing}"
        return known[client]

    return of


def pytest_terminal_summary(terminalreporter, config):
    known = config.stash.get(OUTCOMES, {})
    if known:
        terminalreporter.section("clients")
    for client, result in known.items():
        if isinstance(result, str):
            terminalreporter.write_line(f"{client}: {result}")
            continue
        counts = collections.Counter(outcome.verdict for outcome in result.values())
        skipped = f", {counts['SKIP']} that this client cannot do" if counts["SKIP"] else ""
        terminalreporter.write_line(f"{client}: {counts['PASS']} passed, {counts['FAIL']} failed{skipped}")
