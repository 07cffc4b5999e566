"""Does the containment check say yes to all that the disk model allows, and no to what it does not?"""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_disk_model import FLAT, play

from chaos.device.containment import outside
from chaos.device.effects import Effects, Walk
from chaos.disk.model import SimDisk
from chaos.disk.profiles import BY_NAME, PROFILES, Platters
from chaos.disk.spaces import Space
from chaos.process.recording import RecordingDisk

KNOWN = [profile for profile in PROFILES if profile.files != "strict"]


def fed(sim, profile):
    platters = Platters(sim, profile.commit)
    for event in sim.events:
        platters.feed(event)
    return platters


@settings(max_examples=200, deadline=None)
@given(FLAT, st.sampled_from(KNOWN))
def test_every_state_of_a_profile_is_contained_in_it(steps, profile):
    sim, _ = play(steps)
    platters = fed(sim, profile)
    for state in Space(profile, platters, random.Random(0)).states(200):
        assert outside(profile, platters, state.image()) == [], (profile.name, sim.events, state.deviations())


@settings(max_examples=200, deadline=None)
@given(FLAT, st.sampled_from(KNOWN), st.randoms(use_true_random=False))
def test_a_byte_or_a_name_that_no_effect_explains_is_outside(steps, profile, rng):
    sim, _ = play(steps)
    platters = fed(sim, profile)
    image = rng.choice(list(Space(profile, platters, random.Random(0)).states(50))).image()
    assert outside(profile, platters, {**image, "/r/stranger": b""})
    assert outside(profile, platters, {**image, "/r": b"a file"})
    for path, content in image.items():
        if content is not None:
            assert outside(profile, platters, {**image, path: content + bytes(300)}), path
            assert outside(profile, platters, {**image, path: None})
    for path, inode in platters.tree().items():
        durable = platters.base.get(inode)
        if not platters.pending.get(inode) and image.get(path) == durable and not platters.entries:
            assert outside(profile, platters, {key: value for key, value in image.items() if key != path})
            if durable:
                assert outside(profile, platters, {**image, path: durable[:-1]})
                assert outside(profile, platters, {**image, path: b"\xfe" + durable[1:]})


def disk_with(*steps) -> SimDisk:
    """f durably holds "old!"; then the steps: appends, truncations, and creations of files by name."""
    sim = SimDisk({"/f": b"old!"})
    file = sim.open("/f")
    for step in steps:
        if isinstance(step, bytes):
            file.append([step])
        elif isinstance(step, int):
            file.truncate(step)
        elif step == "sync":
            file.sync()
        else:
            sim.open(step, create=True)
    return sim


PLANTED = [  # profile, what was done, what is there, whether that is allowed
    ("posix", (b"new",), {"/f": b"old!\0\0\0"}, True),
    ("posix", (b"new",), {"/f": b"old!ZZZ"}, True),
    ("posix", (b"new",), {"/f": b"olD!new"}, False),
    ("posix", (b"new",), {"/f": b"old"}, False),
    ("posix", (b"new",), {}, False),
    ("posix", ("/a", "/b"), {"/f": b"old!", "/b": b""}, True),
    ("posix", ("/a", "/b"), {"/f": b"old!", "/c": b""}, False),
    ("posix", (b"new", "sync"), {"/f": b"old!ne"}, False),
    ("sector512", (b"n" * 600,), {"/f": b"old!" + bytes(508) + b"n" * 92}, True),
    ("sector512", (b"n" * 600,), {"/f": b"old!" + bytes(300) + b"n" * 300}, False),
    ("sector512", (b"new",), {"/f": b"old!n"}, False),
    ("append-prefix", (b"new",), {"/f": b"old!n"}, True),
    ("append-prefix", (b"new",), {"/f": b"old!\0\0\0"}, False),
    ("append-prefix", ("/a", "/b"), {"/f": b"old!", "/b": b""}, True),
    ("ordered", ("/a", "/b"), {"/f": b"old!", "/b": b""}, False),
    ("ordered", ("/a", "/b"), {"/f": b"old!", "/a": b""}, True),
    ("ordered", ("/a", b"new", "sync"), {"/f": b"old!new"}, True),
    ("journal", ("/a", b"new", "sync"), {"/f": b"old!new"}, False),
    ("journal", ("/a", b"new", "sync"), {"/f": b"old!new", "/a": b""}, True),
    ("size-first", ("/a", b"n" * 600, "sync"), {"/f": b"old!" + b"n" * 600}, False),
    ("size-first", ("/a", b"n" * 5000), {"/f": b"old!" + bytes(5000)}, True),
    ("size-first", ("/a", b"n" * 5000), {"/f": b"old!" + bytes(4092)}, True),
    ("size-first", ("/a", b"n" * 5000), {"/f": b"old!" + bytes(4091)}, False),
    ("append-prefix", (2, b"new"), {"/f": b"old!"}, True),
    ("append-prefix", (2, b"new"), {"/f": b"olne"}, True),
    ("append-prefix", (2, b"new"), {"/f": b"old!w"}, False),
]


@pytest.mark.parametrize("name,steps,image,allowed", PLANTED)
def test_planted_states(name, steps, image, allowed):
    profile = BY_NAME[name]
    assert (outside(profile, fed(disk_with(*steps), profile), image) == []) is allowed


def test_names_that_belong_together_are_decided_together():
    sim = SimDisk({"/a": b"A", "/b": b"B"})
    sim.rename("/a", "/b")
    platters = fed(sim, BY_NAME["posix"])
    assert outside(BY_NAME["posix"], platters, {"/b": b"A"}) == []
    assert outside(BY_NAME["posix"], platters, {"/a": b"A", "/b": b"B"}) == []
    assert outside(BY_NAME["posix"], platters, {"/b": b"B"})
    assert outside(BY_NAME["posix"], platters, {"/a": b"A", "/b": b"A"})


def test_a_real_run_becomes_events_in_their_times(tmp_path):
    """A sync covers what was recorded before it began, once it has returned; later effects are not there yet."""
    (tmp_path / "data").mkdir()
    root = f"{tmp_path}/data"
    disk = RecordingDisk(f"{tmp_path}/record")
    disk.mkdir(f"{root}/t-0")
    file = disk.open(f"{root}/t-0/log", create=True)
    file.append([b"one"])
    file.sync()
    disk.sync_dir(f"{root}/t-0")
    disk.sync_dir(root)
    file.append([b"two"])
    disk.rename(f"{root}/t-0/log", f"{root}/t-0/log2")
    effects = Effects(f"{tmp_path}/record", root)
    posix = BY_NAME["posix"]

    def allowed(time, image):
        return outside(posix, Walk(effects, {"file"}).at(time)["file"], image) == []

    times = [(began, ended) for _, began, ended, _ in effects.list]
    assert allowed(times[0][0] - 1, {}) and not allowed(times[0][0] - 1, {"/t-0": None})
    assert allowed(times[-1][1], {"/t-0": None, "/t-0/log": b"one"})
    assert allowed(times[-1][1], {"/t-0": None, "/t-0/log2": b"onetwo"})
    assert not allowed(times[-1][1], {"/t-0": None, "/t-0/log": b"on"})
    assert not allowed(times[-1][1], {"/t-0": None})
    in_the_sync = next(began for _, began, _, event in effects.list if event.kind == "sync")
    assert allowed(in_the_sync, {"/t-0": None, "/t-0/log": b"on"})


def test_ascending_moments_are_the_same_as_fresh_ones(tmp_path):
    Path(tmp_path / "data").mkdir()
    root, rng = f"{tmp_path}/data", random.Random(3)
    disk, files = RecordingDisk(f"{tmp_path}/record"), []
    for number in range(60):
        if not files or rng.random() < 0.2:
            files.append(disk.open(f"{root}/{number}", create=True))
        rng.choice(files).append([bytes([number]) * 5])
        if rng.random() < 0.3:
            rng.choice(files).sync()
        if rng.random() < 0.1:
            disk.sync_dir(root)
    effects = Effects(f"{tmp_path}/record", root)
    walk = Walk(effects, {"file", "journal"})
    for moment in sorted(time for _, began, ended, _ in effects.list for time in (began, ended)):
        fresh = Walk(effects, {"file", "journal"}).at(moment)
        for commit, platters in walk.at(moment).items():
            assert (platters.base, platters.dirs, platters.pending.keys()) == (
                fresh[commit].base, fresh[commit].dirs, fresh[commit].pending.keys())
