"""A log cut back to its log start "rebuilt" its leader epochs at every clean start: the last batch on disk lies below the start
(C1.1, found by longer histories)."""

from chaos.disk.driver import POLICIES, Driver, quietly
from chaos.disk.workloads import operations


def test_a_clean_start_of_a_log_that_was_emptied_recovers_nothing():
    driver = Driver(POLICIES["P0"])
    driver.start()
    with quietly():
        driver.run(operations(("append", "append", "delete-records", "truncate", "restart")))
    log = driver.logs.partitions["a", 0]
    assert (log.log_start_offset, log.log_end_offset) == (1, 1)
    assert driver.complaints == []
    assert driver.logs.reports["a", 0].actions == []
