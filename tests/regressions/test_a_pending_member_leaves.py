"""Who had been given a member id and left before it joined made a stable group rebalance, in which it had never had a part: all the
others had to stop, join and sync again."""

import asyncio

import pytest

from refbroker.broker import Broker
from refbroker.config import Config
from refbroker.errors import ErrorCode
from refbroker.group_members import Join

KEYS = ["listeners=PLAINTEXT://127.0.0.1:0", "group.initial.rebalance.delay.ms=0"]


def join(member_id=""):
    return Join(member_id, None, "c", "host", 10_000, 60_000, "consumer", (("range", b""),))


async def story(path, leave_together):
    """What the member's heartbeat is answered before and after the other one left."""
    broker = await Broker.start(Config.load(None, {}, [f"log.dirs={path}/data", *KEYS])[0])
    groups = broker.groups
    member = (await groups.join("g", join((await groups.join("g", join()))["member_id"])))["member_id"]
    await groups.sync("g", member, None, 1, None, None, {member: b"all"})
    pending = [(await groups.join("g", join()))["member_id"] for _ in range(2)]
    if leave_together:
        assert groups.leave("g", [(one, None) for one in [*pending, "nobody"]]) == [0, 0, ErrorCode.UNKNOWN_MEMBER_ID]
    else:
        assert [groups.leave("g", [(one, None)]) for one in pending] == [[0], [0]]
    state = groups.describe("g")["group_state"]
    groups.heartbeat("g", member, None, 1)  # raises REBALANCE_IN_PROGRESS where it has to join again
    waiting = asyncio.create_task(groups.join("g", join((await groups.join("g", join()))["member_id"])))
    late = (await groups.join("g", join()))["member_id"]
    again = asyncio.create_task(groups.join("g", join(member)))
    await asyncio.sleep(0.01)
    assert not again.done()  # the late one is waited for
    groups.leave("g", [(late, None)])
    answers = await asyncio.wait_for(asyncio.gather(waiting, again), 30)
    await broker.stop()
    return state, [answer["generation_id"] for answer in answers]


@pytest.mark.parametrize("leave_together", [False, True])
def test_the_others_stay_as_they_are(tmp_path, leave_together):
    assert asyncio.run(story(tmp_path, leave_together)) == ("Stable", [2, 2])
