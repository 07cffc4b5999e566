"""An fsync that failed while a topic was made left the log directory online (found by the disk layer's sweep of failing calls, C1.13)."""

import uuid

import pytest

from chaos.disk.driver import POLICIES, Driver, quietly
from chaos.disk.faults import Fault, Injector
from refbroker.errors import ErrorCode, KafkaError


@pytest.mark.parametrize("kind,offline", [("sync-eio-kept", True), ("write-enospc", False), ("open-emfile", False)])
def test_a_failed_fsync_takes_the_directory_offline_and_a_full_disk_does_not(kind, offline):
    driver = Driver(POLICIES["P0"])
    driver.start()
    driver.disk.injector = Injector(Fault(kind, 1, lasting=True))
    with quietly(), pytest.raises(KafkaError) as refused:
        driver.logs.create("b", 0, uuid.UUID(int=9), driver.config.log_config())
    assert refused.value.code == ErrorCode.KAFKA_STORAGE_ERROR
    assert (driver.logs.offline is not None) == offline
    assert ("b", 0) not in driver.logs.partitions
