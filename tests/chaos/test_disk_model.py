"""Is the simulated disk a disk? Against the running kernel without a crash, against a simpler model with one."""

import random
import tempfile

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chaos.disk.model import SimDisk
from chaos.disk.profiles import BY_NAME, PROFILES, Platters
from chaos.disk.spaces import Space, digest_of
from refbroker.log.disk import Disk, read_file, replace_file
from simple_disk import SimpleDisk

NAMES = st.sampled_from(["a", "b", "d/a", "d/b", "d", "e"])
DATA = st.binary(max_size=20)
STEPS = st.one_of(
    st.tuples(st.sampled_from(["open", "create", "readonly", "mkdir", "rmdir", "unlink", "list", "sync_dir", "exists", "is_dir", "read"]), NAMES),
    st.tuples(st.sampled_from(["append", "append2", "replace"]), NAMES, DATA),
    st.tuples(st.sampled_from(["truncate", "pread"]), NAMES, st.integers(0, 20)),
    st.tuples(st.just("rename"), NAMES, NAMES),
    st.tuples(st.sampled_from(["sync", "lock"]), NAMES),
)


def perform(disk, root, step, handles):
    """One step on either disk; its result or its error, in a form that both share."""
    kind, path, *rest = step
    path = f"{root}/{path}"
    try:
        if kind in ("open", "create", "readonly"):
            handles[step[1]] = disk.open(path, create=kind == "create", readonly=kind == "readonly")
            return handles[step[1]].size
        if kind in ("append", "append2", "truncate", "pread", "sync"):
            file = handles.get(step[1])
            if file is None:
                return None
            if kind == "truncate":
                return file.truncate(min(rest[0], file.size)), file.size
            if kind == "pread":
                return bytes(file.pread(rest[0], 3))
            if kind == "sync":
                return file.sync()
            return file.append([rest[0]] if kind == "append" else [rest[0], memoryview(b"tail")]), file.size
        if kind == "rename":
            return disk.rename(path, f"{root}/{rest[0]}")
        if kind == "replace":
            return replace_file(disk, path, rest[0])
        if kind == "read":
            return read_file(disk, path, bytes_max=50)
        if kind == "lock":
            return disk.lock(path).release()
        return getattr(disk, kind)(path)
    except OSError as error:
        return type(error), error.errno
    except ValueError:
        return ValueError


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=25))
@example([("create", "a"), ("readonly", "a"), ("append", "a", b"")])
def test_same_view_as_the_kernel(steps):
    with tempfile.TemporaryDirectory() as root:
        real, sim = Disk(), SimDisk({"/r": None})
        real_handles, sim_handles = {}, {}
        for step in steps:
            assert perform(sim, "/r", step, sim_handles) == perform(real, root, step, real_handles), step
        view = {path.removeprefix("/r"): content for path, content in sim.view().items() if path != "/r"}
        assert view == walk(real, root)


def walk(disk, root, prefix=""):
    found = {}
    for name in disk.list(root + prefix):
        path = f"{prefix}/{name}"
        if disk.is_dir(root + path):
            found[path] = None
            found |= walk(disk, root, path)
        else:
            found[path] = read_file(disk, root + path, bytes_max=1 << 20)
    return found


FLAT = st.lists(st.tuples(st.sampled_from(["create", "append", "append", "truncate", "sync", "unlink", "rename", "sync_dir"]),
                          st.sampled_from("abc"), st.sampled_from("abc"), st.integers(0, 40)), max_size=12)


def play(steps):
    """The same steps on the simulated disk and on the simple model; steps that make no sense are left out."""
    sim, simple, files = SimDisk({"/r": None}), SimpleDisk(), {}
    for number, (kind, name, other, amount) in enumerate(steps):
        there = name in files
        if kind == "create" and not there:
            files[name] = sim.open(f"/r/{name}", create=True)
            simple.do("create", name, None)
        elif kind == "append" and there:
            data = bytes([number + 1]) * (amount + 1)
            files[name].append([data])
            simple.do("append", name, data)
        elif kind == "truncate" and there:
            size = min(amount, files[name].size)
            files[name].truncate(size)
            simple.do("truncate", name, size)
        elif kind == "sync" and there:
            files[name].sync()
            simple.do("sync", name, None)
        elif kind == "unlink" and there:
            del files[name]
            sim.unlink(f"/r/{name}")
            simple.do("unlink", name, None)
        elif kind == "rename" and there and name != other:
            files[other] = files.pop(name)
            sim.rename(f"/r/{name}", f"/r/{other}")
            simple.do("rename", name, other)
        elif kind == "sync_dir":
            sim.sync_dir("/r")
            simple.do("sync_dir", None, None)
    return sim, simple


def space_at_end(sim, profile):
    platters = Platters(sim, profile.commit)
    for event in sim.events:
        platters.feed(event)
    return Space(profile, platters, random.Random(0))


def strip(image):
    return {path.removeprefix("/r/"): content for path, content in image.items() if path != "/r"}


@settings(max_examples=150, deadline=None)
@given(FLAT, st.sampled_from(PROFILES))
def test_every_state_lies_within_the_simple_model(steps, profile):
    sim, simple = play(steps)
    space = space_at_end(sim, profile)
    for state in space.states(400):
        image = state.image()
        assert digest_of(image) == state.digest
        assert simple.allows(strip(image)), (profile.name, sim.events, state.deviations(), image)
        again = space.state_of(labels_of(state))
        assert again.digest == state.digest


def labels_of(state):
    labels = {}
    for part, axis, choice in state.deviations():
        labels.setdefault(part, {})[axis] = choice.label
    return labels


@settings(max_examples=100, deadline=None)
@given(FLAT)
def test_the_undisturbed_state_is_the_page_cache_and_no_state_lacks_what_is_durable(steps):
    sim, simple = play(steps)
    for profile in PROFILES:
        space = space_at_end(sim, profile)
        states = list(space.states(200))
        assert states[0].image() == sim.view(), profile.name
        assert states[0].deviations() == []
    durable = {name: file.durable for name, file in simple.durable.items()}
    for state in space_at_end(sim, BY_NAME["posix"]).states(200):
        files = strip(state.image())
        for name, content in durable.items():
            if name not in simple.maybe and not simple.durable[name].dirty and len(simple.durable[name].sizes) == 1:
                assert files[name] == content


STRONGER = [("strict", "journal"), ("journal", "ordered"), ("ordered", "append-prefix"), ("size-first", "sector512")]


@pytest.mark.parametrize("strong,weak", STRONGER)
@settings(max_examples=100, deadline=None)
@given(steps=FLAT)
def test_what_a_stronger_disk_allows_a_weaker_one_allows_too(steps, strong, weak):
    if strong in ("journal", "size-first"):  # a committed truncation clips the writes before it, and so moves where a torn one is cut
        steps = [step for step in steps if step[0] != "truncate"]
    sim, _ = play(steps[:9])
    allowed = {state.digest for state in space_at_end(sim, BY_NAME[weak]).states(100_000)}
    for state in space_at_end(sim, BY_NAME[strong]).states(100_000):
        assert state.digest in allowed, (sim.events, state.deviations())


def test_an_unsynced_append_comes_out_in_every_form():
    sim = SimDisk({"/f": b"old!"})
    sim.open("/f").append([b"0123456789abcdefghij"])
    contents = {state.image()["/f"] for state in space_at_end(sim, BY_NAME["posix"]).states(10_000)}
    assert b"old!" in contents  # nothing
    assert b"old!0123456789abcdefghij" in contents  # everything
    assert b"old!" + bytes(20) in contents  # size without data
    assert b"old!" + b"0123456789ab" + bytes(8) in contents  # torn, size whole
    assert b"old!" + b"0123456789ab" in contents  # torn, and its size
    assert b"old!" + bytes(10) + b"abcdefghij" in contents  # the tail without the head


def test_renames_and_unlinks_are_undone_without_a_directory_sync():
    sim = SimDisk({"/r": None, "/r/a": b"A", "/r/b": b"B"})
    sim.rename("/r/a", "/r/b")
    outcomes = [strip(state.image()) for state in space_at_end(sim, BY_NAME["posix"]).states(100)]
    assert outcomes == [{"b": b"A"}, {"a": b"A", "b": b"B"}]
    sim.sync_dir("/r")
    assert [strip(state.image()) for state in space_at_end(sim, BY_NAME["posix"]).states(100)] == [{"b": b"A"}]


def test_one_fsync_commits_the_journal_but_not_the_data_of_others():
    sim = SimDisk({"/r": None, "/r/f": b"123456"})
    f = sim.open("/r/f")
    f.truncate(2)
    g = sim.open("/r/g", create=True)
    g.append([b"xy"])
    h = sim.open("/r/h", create=True)
    h.sync()
    outcomes = [strip(state.image()) for state in space_at_end(sim, BY_NAME["journal"]).states(100)]
    assert all(files["f"] == b"12" and "h" in files for files in outcomes)
    assert {files["g"] for files in outcomes} == {b"xy", b"x", b""}


def test_a_size_may_run_ahead_of_the_data_up_to_a_page_or_a_call():
    sim = SimDisk({"/r": None, "/r/f": b"x" * 4000})
    sim.open("/r/f").append([b"y" * 200])
    sim.open("/r/g", create=True).sync()  # commits the new size of f, not its data
    contents = {state.image()["/r/f"] for state in space_at_end(sim, BY_NAME["size-first"]).states(1000)}
    assert {b"x" * 4000, b"x" * 4000 + bytes(96), b"x" * 4000 + bytes(200), b"x" * 4000 + b"y" * 200} <= contents
    assert all("/r/g" in state.image() for state in space_at_end(sim, BY_NAME["size-first"]).states(1000))


def test_an_fsync_does_not_commit_what_was_made_after_the_file_had_changed_last():
    sim = SimDisk({"/r": None, "/r/f": b""})
    f = sim.open("/r/f")
    sim.open("/r/before", create=True)
    f.append([b"x"])
    sim.open("/r/after", create=True)
    f.sync()  # the journal has no reason to commit what came later
    f.sync()
    for name in ("journal", "size-first"):
        states = [set(strip(state.image())) for state in space_at_end(sim, BY_NAME[name]).states(100)]
        assert {"f", "before"} in states and {"f", "before", "after"} in states and all("before" in state for state in states)
