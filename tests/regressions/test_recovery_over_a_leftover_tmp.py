"""The broker did not start where a crash had left `leader-epoch-checkpoint.tmp` and the epochs had to be saved: the new file
took that name and was renamed, then recovery unlinked the leftover that it had listed before (C2.4, found by crashes of `busy`)."""

from chaos.checks.crash import ROOT
from chaos.disk.driver import POLICIES, Driver, quietly
from chaos.disk.recovering import Recoverer
from chaos.disk.workloads import operations


def test_a_leftover_that_recovery_itself_replaces_is_no_obstacle():
    driver = Driver(POLICIES["P0"])
    driver.start()
    driver.run(operations(("append", "kill", "append", "flush")))
    image = driver.disk.view() | {f"{ROOT}/a-0/leader-epoch-checkpoint.tmp": b"0\n1\n", f"{ROOT}/a-0/leader-epoch-checkpoint": b"0\n"}
    with quietly():
        recovered = Recoverer(driver.config).recover(image)
    assert recovered.refused is None
    assert recovered.partitions["a", 0].log_end_offset == 2
    assert f"{ROOT}/a-0/leader-epoch-checkpoint.tmp" not in recovered.parts[0].after
