"""Is this state one that a profile allows? The disk model's promises, asked the other way round.

`chaos/disk/spaces.py` enumerates representatives of the states that a profile allows after a power cut. Here a state is given, what a real
file system showed, and the question is whether the profile's rules (chaos/disk/profiles.py) explain it: by some choice of pending
effects, cut at any byte, not at representatives alone. A state that nothing explains means that the model promises too much.

1. Every name must be there that is durable and that no pending effect takes away; a name may be there only if it is durable or if a
   pending effect puts it there. Under ordered entries the pending ones are done up to one of them.
2. What a name leads to is an inode; its content must be one that the profile allows for it:
   - prefix: what the file held at some byte of its history since it was durable;
   - sectors: each sector as it was after some effect, and a size that the file has had after some call or at a page's end;
   - ranges: a size that it had at some byte of its history; anything in what was written since, elsewhere what was durable.
3. Under independent entries, effects that share no name are decided apart from each other; those that do, together.

Not known here: the strict profile, and renames from one directory to another (the broker makes none). More than `TOGETHER_MAX` pending
effects of one name are not decided: an error, never a pass.
"""

from collections.abc import Iterable
from itertools import product

from chaos.disk.model import Event
from chaos.disk.parts import PAGE_BYTES
from chaos.disk.profiles import Platters, Profile, apply_to_content, apply_to_dirs, tree_of

Image = dict[str, bytes | None]  # path from "/" of the data directory -> content, None for a directory
Binding = tuple[int, str]  # directory, name
TOGETHER_MAX = 14


def outside(profile: Profile, platters: Platters, image: Image) -> list[str]:
    """Why the profile does not allow this state, one line for each thing that it cannot explain; empty where it does."""
    if profile.files == "strict":
        raise ValueError("the strict profile is not known here")
    check = _Check(profile, platters, image)
    return check.ordered() if profile.entries == "ordered" else check.directory(0, "", _components(platters))


class _Check:
    def __init__(self, profile: Profile, platters: Platters, image: Image):
        self._profile = profile
        self._platters = platters
        self._image = image
        self._below: dict[str, set[str]] = {"": set()}
        for path, content in image.items():
            head, _, name = path.rpartition("/")
            self._below.setdefault(head, set()).add(name)
            if content is None:
                self._below.setdefault(path, set())

    def ordered(self) -> list[str]:
        """Some number of the pending entries is done, from the first on."""
        dirs = {number: dict(names) for number, names in self._platters.dirs.items()}
        best: list[str] | None = None
        for done in range(len(self._platters.entries) + 1):
            if done:
                apply_to_dirs(dirs, self._platters.entries[done - 1][1])
            wrong = self._tree(tree_of(dirs))
            if not wrong:
                return []
            if best is None or len(wrong) < len(best):
                best = [f"{line} (at best, with {done} of {len(self._platters.entries)} pending entries done)" for line in wrong]
        return best

    def _tree(self, tree: dict[str, int]) -> list[str]:
        wrong = [f"{path} is there, and should not" for path in self._image.keys() - tree.keys()]
        wrong += [f"{path} is not there" for path in tree.keys() - self._image.keys()]
        return wrong or [line for path, inode in tree.items() if (line := self._content(inode, path))]

    def directory(self, number: int, path: str, components: dict[Binding, "_Component"]) -> list[str]:
        """Entries independent of each other: what is wrong in this directory and below it."""
        there = self._below.get(path, set())
        durable = self._platters.dirs.get(number, {})
        pending = {name: component for (directory, name), component in components.items() if directory == number}
        wrong = [f"{path}/{name} is there, and nobody made it" for name in there - durable.keys() - pending.keys()]
        for name in durable.keys() - pending.keys():
            wrong += self._leads(durable[name], f"{path}/{name}", components) if name in there else [f"{path}/{name} is not there"]
        for component in {id(component): component for component in pending.values()}.values():
            wrong += self._component(component, path, there, components)
        return wrong

    def _component(self, component: "_Component", path: str, there: set[str], components) -> list[str]:
        best: list[str] = []
        for outcome in component.outcomes(self._platters.dirs):
            wrong = []
            for (_, name), inode in outcome.items():
                if (inode is not None) != (name in there):
                    wrong.append(f"{path}/{name} is {'not ' if inode is not None else ''}there")
                elif inode is not None:
                    wrong += self._leads(inode, f"{path}/{name}", components)
            if not wrong:
                return []
            best = min(best or wrong, wrong, key=len)
        return best

    def _leads(self, inode: int, path: str, components: dict[Binding, "_Component"]) -> list[str]:
        line = self._content(inode, path)
        if line is None and inode not in self._platters.base:
            return self.directory(inode, path, components)
        return [line] if line else []

    def _content(self, inode: int, path: str) -> str | None:
        content, base = self._image[path], self._platters.base.get(inode)
        if (content is None) != (base is None):
            return f"{path} is a {'directory' if content is None else 'file'}"
        if content is None:
            return None
        pending = [event for _, event in self._platters.pending.get(inode, ()) if not event.lost]
        if content == base or fits(self._profile, base, pending, content):
            return None
        return f"{path}: {len(content)} bytes that it never held; {len(base)} durable, {_describe(pending)} since; {_first_difference(base, pending, content)}"


class _Component:
    """Pending effects that share names, and all that may come of them."""

    def __init__(self):
        self.events: list[Event] = []
        self.bindings: list[Binding] = []

    def outcomes(self, durable: dict[int, dict[str, int]]) -> Iterable[dict[Binding, int | None]]:
        if len(self.events) > TOGETHER_MAX:
            raise ValueError(f"{len(self.events)} pending effects share the name {self.bindings[0][1]}: too many to decide")
        seen = set()
        for choice in product((True, False), repeat=len(self.events)):
            dirs: dict[int, dict[str, int]] = {}
            for directory, name in self.bindings:
                names = dirs.setdefault(directory, {})
                if name in durable.get(directory, {}):
                    names[name] = durable[directory][name]
            for event, done in zip(self.events, choice, strict=True):
                if done:
                    apply_to_dirs(dirs, event)
            outcome = tuple(dirs[directory].get(name) for directory, name in self.bindings)
            if outcome not in seen:
                seen.add(outcome)
                yield dict(zip(self.bindings, outcome, strict=True))


def _components(platters: Platters) -> dict[Binding, _Component]:
    """The component of each name that a pending effect touches."""
    found: dict[Binding, _Component] = {}
    for _, event in platters.entries:
        bindings = [(event.directory, event.name)]
        if event.kind == "rename":
            if event.target_directory != event.directory:
                raise ValueError(f"{event}: renames from one directory to another are not known here")
            bindings.append((event.target_directory, event.target_name))
        joined = _Component()
        for component in {id(found[binding]): found[binding] for binding in bindings if binding in found}.values():
            joined.events += component.events
            joined.bindings += component.bindings
        joined.events.append(event)
        joined.bindings += [binding for binding in bindings if binding not in joined.bindings]
        for binding in joined.bindings:
            found[binding] = joined
    order = {id(event): index for index, (_, event) in enumerate(platters.entries)}
    for component in found.values():
        component.events.sort(key=lambda event: order[id(event)])
    return found


# ---------------------------------------------------------------- contents


def fits(profile: Profile, base: bytes, pending: list[Event], content: bytes) -> bool:
    """Whether a file that durably held `base` may hold `content` after these effects."""
    if profile.files == "prefix":
        return _is_prefix(base, pending, content)
    versions = [base]
    for event in pending:
        versions.append(apply_to_content(versions[-1], event))
    known = len(content) in {len(version) for version in versions}
    passed = any(event.position < len(content) < event.position + len(event.data) for event in pending)  # in the middle of a write
    if profile.files == "sectors":
        return (known or passed and len(content) % PAGE_BYTES == 0) and _sectors_fit(versions, content, profile.sector_bytes)
    return (known or passed) and _untouched_fit(base, pending, content)


def _is_prefix(base: bytes, pending: list[Event], content: bytes) -> bool:
    held = base
    for event in pending:
        if content == held:
            return True
        after = apply_to_content(held, event)
        if event.kind != "truncate" and _is_torn(held, event, content):
            return True
        held = after
    return content == held


def _is_torn(held: bytes, event: Event, content: bytes) -> bool:
    """Whether the first bytes of one write were put over `held`, the others not."""
    start, data = event.position, event.data
    if start >= len(held):
        return start < len(content) < start + len(data) and content.startswith(held) and not any(
            content[len(held):start]) and data.startswith(content[start:])
    return any(content == held[:start] + data[:cut] + held[start + cut:] for cut in range(1, len(data)))


def _sectors_fit(versions: list[bytes], content: bytes, sector_bytes: int) -> bool:
    for start in range(0, len(content), sector_bytes):
        sector = content[start:start + sector_bytes]
        if not any(version[start:start + sector_bytes].ljust(sector_bytes, b"\0").startswith(sector) for version in versions):
            return False
    return True


def _untouched_fit(base: bytes, pending: list[Event], content: bytes) -> bool:
    """Outside of all writes since: the old bytes, and zeros behind them."""
    position = 0
    for start, end in sorted((event.position, event.position + len(event.data)) for event in pending if event.kind != "truncate"):
        if position < start and content[position:start] != base[position:start].ljust(min(start, len(content)) - position, b"\0"):
            return False
        position = max(position, end)
    rest = content[position:]
    return rest == base[position:position + len(rest)].ljust(len(rest), b"\0")


def _describe(pending: list[Event]) -> str:
    writes = [event for event in pending if event.kind != "truncate"]
    cuts = [event.size for event in pending if event.kind == "truncate"]
    return f"{sum(len(event.data) for event in writes)} written" + (f", cut to {cuts}" if cuts else "")


def _first_difference(base: bytes, pending: list[Event], content: bytes) -> str:
    latest = base
    for event in pending:
        latest = apply_to_content(latest, event)
    same = next((place for place, (one, other) in enumerate(zip(content, latest, strict=False)) if one != other), min(len(content), len(latest)))
    rest = content[same:]
    return f"as the page cache had it up to byte {same} of {len(latest)}, then {len(rest)} {'zeros' if rest and not any(rest) else 'other bytes'}"
