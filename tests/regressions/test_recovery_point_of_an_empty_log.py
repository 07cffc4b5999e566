"""A log that restarts empty at its log start had a recovery point there, but 0 after the next recovery (C2.10, found by `busy`)."""

from chaos.checks.crash import ROOT
from chaos.disk.driver import POLICIES, Driver, quietly
from chaos.disk.recovering import Recoverer
from chaos.disk.workloads import operations


def test_recovering_twice_gives_the_same_recovery_point():
    driver = Driver(POLICIES["P0"])
    driver.start()
    driver.run(operations(("append", "append", "append", "delete-records")))
    image = driver.disk.view() | {f"{ROOT}/log-start-offset-checkpoint": b"0\n1\na 0 3\n", f"{ROOT}/a-0/{0:020d}.log": b""}
    recoverer = Recoverer(driver.config)
    with quietly():
        first = recoverer.recover(image)
        second = recoverer.recover(first.parts[0].after)
    assert [problem for problem in first.problems if problem.statement == "C2.10"] == []
    for recovered in (first, second):
        log = recovered.partitions["a", 0]
        assert (log.log_start_offset, log.log_end_offset, log.recovery_point) == (3, 3, 3)
