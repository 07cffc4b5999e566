"""A recovery wrote a producer snapshot at a segment's end, and the next recovery dropped the one that the first had kept (C2.10,
found by crashes of longer histories)."""

from chaos.checks.crash import ROOT
from chaos.disk.driver import POLICIES, Driver, quietly
from chaos.disk.recovering import Recoverer
from chaos.disk.workloads import operations


def test_recovering_twice_leaves_the_same_files():
    driver = Driver(POLICIES["P0"])
    driver.start()
    driver.run(operations(("append", "append", "restart", "append", "roll", "append")))
    image = {path: data for path, data in driver.disk.view().items() if path != f"{ROOT}/a-0/{3:020d}.snapshot"}
    with quietly():
        recovered = Recoverer(driver.config).recover(image)
    assert recovered.problems == []
    files = recovered.parts[0].after
    assert f"{ROOT}/a-0/{2:020d}.snapshot" in files and f"{ROOT}/a-0/{3:020d}.snapshot" in files
