"""A clean stop with nothing appended since the last roll wrote the snapshot of that roll once more, in place. The recovery
point had passed it: a crash in between left a torn one, and what producers had sent into segments that retention deleted
was known from nowhere (C3.2)."""

from chaos.checks.snapshots import check_image
from chaos.disk.driver import POLICIES, Driver
from chaos.disk.lab import cache_images
from chaos.disk.workloads import operations


def test_a_clean_stop_leaves_the_snapshot_of_the_last_roll_as_it_is():
    driver = Driver(POLICIES["P3"])
    driver.start()
    driver.run(operations(("idempotent", "roll", "checkpoint")))
    begin = driver.at
    driver.run(operations(("restart",)))
    assert driver.at > begin
    assert [problem for _, image, _ in cache_images(driver.disk, begin) for problem in check_image(image)] == []


def test_a_snapshot_that_says_something_else_now_is_replaced_whole():
    driver = Driver(POLICIES["P3"])
    driver.start()
    driver.run(operations(("idempotent", "roll", "checkpoint")))
    log = driver.logs.partitions["a", 0]
    before, begin = driver.disk.view(), driver.at
    assert log.producers.expire(2**62) == 1
    file = log.producers.write_snapshot(driver.disk, log.directory, sync=False)
    assert driver.disk.view()[file.path] != before[file.path]
    assert [problem for _, image, _ in cache_images(driver.disk, begin) for problem in check_image(image)] == []
