"""What did the file system make of a power cut, what does the broker make of that, and what had clients been told?

For each cut (cuts.py), in this order:

1. the image is mounted, so that the file system recovers itself, and the data directory is read: what a broker would find;
2. does the simulated disk tell the truth? What is there must be explained by the profile that stands for this file system, and by the
   weakest one (containment.py), from the broker's own record of its effects and syncs;
3. the broker's recovery runs on what was read, with every checker of a recovered directory (chaos/disk/recovering.py), and for every
   `IN_PLACE_EVERY`-th image on the mount itself, through the real disk: both must come to the same log;
4. the recovered log is judged by the contract against the history as it stood at the moment of the cut.

Images of equal content are mounted once, and equal directories recovered once. A broker process on the mount, asked by a real client, is
the layer's business: `served`.
"""

import struct
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from kafka.record.default_records import DefaultRecordBatch

from chaos.checks import history as checks
from chaos.checks.crash import ROOT, Recovered, RecoveredPartition, longest_run, segments_in
from chaos.checks.history.case import ANY, Case, Finding, Kept
from chaos.device.containment import outside
from chaos.device.disk import FileSystem
from chaos.device.effects import Effects, Walk
from chaos.device.load import Loaded
from chaos.disk.driver import quietly
from chaos.disk.profiles import BY_NAME, WEAKEST, Platters
from chaos.disk.recovering import Recoverer
from chaos.history import identify, resembles
from chaos.process.load import GROUP
from chaos.process.rounds import FLUSH_WINDOW_SLACK_MS
from refbroker.config import Config
from refbroker.log.directory import LogDirectory, StartupError
from refbroker.log.disk import Disk

MODEL = "S4"
OFFSETS = ("__consumer_offsets", 0)
IN_PLACE_EVERY = 8  # a recovery on the mount waits for fsyncs, one in memory does not
# Statements that every recovered directory is judged by, whatever the clients were told.
RECOVERED = ("C2.2", "C2.3", "C2.4", "C2.6", "C2.9", "C2.10", "C2.11", "C2.12", "C3.1", "C3.4", "C3.5", "C4.1", "C4.2", "C4.4", "C5.1",
             "C5.2", "C5.3", "C5.4", "C5.5", "C6.1")


@dataclass
class Tally:
    """What was tried. `lost`: acked records that are gone, over all states, by policy; `judged` and `findings` by policy; `broken_cuts`:
    after how many cuts a statement was broken."""

    cuts: int = 0
    mounted: int = 0
    in_place: int = 0
    served: int = 0
    outside: Counter = field(default_factory=Counter)
    lost: Counter = field(default_factory=Counter)
    broken_cuts: int = 0
    judged: dict[str, Counter] = field(default_factory=dict)
    findings: dict[str, list[Finding]] = field(default_factory=dict)

    def add(self, policy: str, statements, findings: list[Finding]) -> bool:
        """Whether something is broken."""
        pairs = {(each, ANY) if isinstance(each, str) else each for each in statements}
        self.judged.setdefault(policy, Counter()).update(pairs | {(finding.statement, finding.acks) for finding in findings})
        self.findings.setdefault(policy, []).extend(findings)
        return any(not finding.allowed for finding in findings)


@dataclass
class State:
    """What one image showed: the directory as a broker would find it, as it was recovered, and what differs where that was done in place."""

    image: dict[str, bytes | None]
    recovered: Recovered
    difference: str | None

    def log(self, partitions: dict[str, int], records: "Records") -> tuple[dict, dict, dict]:
        """(records, log ends, committed offsets), as `load.served` gives them."""
        logs = self.recovered.partitions
        keys = [(topic, number) for topic, count in partitions.items() for number in range(count)]
        return ({key: records.of(logs.get(key)) for key in keys}, {key: logs[key].log_end_offset if key in logs else 0 for key in keys},
                committed_in(logs.get(OFFSETS)))


class Records:
    """The records of recovered logs, as kafka-python reads them; each batch once."""

    def __init__(self):
        self._known: dict[bytes, list[Kept]] = {}

    def of(self, log: RecoveredPartition | None) -> list[Kept]:
        found: list[Kept] = []
        for batch in log.run.batches if log is not None and log.offline is None else ():
            records = self._known.get(batch.data)
            if records is None:
                records = self._known[batch.data] = [_kept(batch.leader_epoch, *record) for record in batch.records]
            found += records
        return found


def _kept(leader_epoch: int, offset: int, timestamp: int, value: bytes | None) -> Kept:
    identity = identify(value or b"")
    return Kept(offset, identity, leader_epoch, timestamp, None if identity else resembles(value or b""))


class Judge:
    """Judges the cuts of one load of our broker; `config` is the broker's."""

    def __init__(self, system: FileSystem, loaded: Loaded, config: Config, tally: Tally):
        self.system, self.loaded, self.tally = system, loaded, tally
        self.profiles = (BY_NAME[system.profile], WEAKEST)
        self._effects = Effects(loaded.record, loaded.root)
        self._config, self._recoverer = config, Recoverer(config)
        self._histories = {topic: loaded.of_topic(topic) for topic in loaded.policies}
        self._contents: dict[bytes, bytes] = {}
        self.records = Records()

    def begin(self) -> Walk:
        """A new pass over the load, in ascending order of time."""
        self._contents.clear()
        return Walk(self._effects, {profile.commit for profile in self.profiles})

    def look(self, mountpoint: Path) -> State:
        """Read the data directory of a mounted image, and recover it, from memory and in place."""
        root = mountpoint / "data"
        image = self._read(root)
        self.tally.mounted += 1
        with quietly():
            recovered = self._recoverer.recover({ROOT + path: content for path, content in image.items()} | {ROOT: None})
            in_place = self.tally.mounted % IN_PLACE_EVERY == 0 and root.is_dir()
            difference = self._in_place(root, recovered) if in_place else None
        return State(image, recovered, difference)

    def _read(self, root: Path) -> dict[str, bytes | None]:
        """Equal contents share their memory: most files are the same in most states."""
        image: dict[str, bytes | None] = {}
        for path in root.rglob("*"):
            content = None if path.is_dir() else path.read_bytes()
            image[f"/{path.relative_to(root)}"] = content if content is None else self._contents.setdefault(content, content)
        return image

    def _in_place(self, root: Path, recovered: Recovered) -> str | None:
        """Recovery through the real disk; where it comes to something else than it does in memory: what."""
        self.tally.in_place += 1
        logs = LogDirectory(Disk(), str(root), self._config, lambda: int(time.time() * 1000))
        try:
            logs.open(lambda metadata: lambda topic: self._recoverer.log_config)
            found = {key: (log.offline is None, log.log_start_offset, log.log_end_offset) for key, log in logs.partitions.items()}
        except StartupError as error:
            return None if recovered.refused else f"in place it is refused: {error}"
        finally:
            logs.close(clean=False)
        same = {key: (log.offline is None, log.log_start_offset, log.log_end_offset) for key, log in recovered.partitions.items()}
        return None if found == same and not recovered.refused else f"in place {found}, in memory {same} {recovered.refused or ''}"

    def judge(self, state: State | OSError, platters: dict[str, Platters], time_ns: int, where: str) -> None:
        """Everything that is owed at that moment, into the tally. `where` names the cut."""
        self.tally.cuts += 1
        if isinstance(state, OSError):
            self.tally.outside["mount"] += 1
            text = f"it does not mount: {state} {where}"
            broken = self.tally.add("disk model", [MODEL], [Finding(MODEL, "no file system", "", -1, -1, text)])
        else:
            broken = self._contained(state, platters, where)
            broken |= self._recovered(state, where)
            log = state.log(self.loaded.partitions, self.records)
            broken |= self.contract(log, platters, time_ns, time_ns, where)
        self.tally.broken_cuts += broken

    def _contained(self, state: State, platters: dict[str, Platters], where: str) -> bool:
        broken = False
        for profile in self.profiles:
            wrong = outside(profile, platters[profile.commit], state.image)
            self.tally.outside[profile.name] += bool(wrong)
            found = [Finding(MODEL, f"outside of profile {profile.name}", "", -1, -1, f"{'; '.join(wrong[:3])} {where}")] if wrong else []
            broken |= self.tally.add("disk model", [MODEL], found)
        return broken

    def _recovered(self, state: State, where: str) -> bool:
        found = [Finding(problem.statement, "broken", *problem.key, problem.offset, f"{problem.text} {where}", problem.allowed)
                 for problem in state.recovered.problems]
        if state.recovered.refused:
            found.append(Finding("C2.10", "does not start", "", -1, -1, f"{state.recovered.refused} {where}"))
        if state.difference:
            found.append(Finding("C2.10", "another recovery in place", "", -1, -1, f"{state.difference} {where}"))
        found += [Finding("C2.4", "offline", *key, -1, f"{log.offline} {where}") for key, log in state.recovered.partitions.items() if log.offline]
        return self.tally.add("any", RECOVERED, found)

    def contract(self, log: tuple[dict, dict, dict], platters: dict[str, Platters], time_ns: int, struck: int, where: str,
                 fault: str = "F2") -> bool:
        """What clients were told by `time_ns` against (records, log ends, committed offsets); what was acked `struck` ns or later is as
        young as can be."""
        records, log_ends, offsets = log
        durable, broken = self._durable_ends(platters[WEAKEST.commit]), False
        for topic in self.loaded.policies:
            case = case_of(self.loaded, topic, self._histories[topic].until(time_ns), struck, fault, records, log_ends, offsets)
            case.durable_end = {key: durable[key] for key in case.log_end}
            found = checks.check_all(case)
            found += [Finding("C2.4", "durable and gone", *key, end, f"durable to {durable[key]}, the log ends at {end}")
                      for key, end in case.log_end.items() if end < durable[key]]
            self.tally.lost[case.policy.name] += len(checks.lost.missing(case))
            broken |= self.tally.add(case.policy.name, checks.judged(case), [replace(each, evidence=f"{each.evidence} {where}") for each in found])
        return broken

    def _durable_ends(self, platters: Platters) -> dict[tuple[str, int], int]:
        """D of each partition: how far its log lies in what completed syncs cover, under the weakest profile."""
        image = {ROOT + path: platters.base.get(inode) for path, inode in platters.tree().items()}
        return {(topic, number): longest_run(segments_in(image, f"{ROOT}/{topic}-{number}"), 0).end_offset
                for topic, count in self.loaded.partitions.items() for number in range(count)}


def case_of(loaded: Loaded, topic: str, history, struck: int, fault: str, records: dict, log_ends: dict, offsets: dict) -> Case:
    """One topic's part of what was recovered, as its policy's case."""
    policy = loaded.policies[topic]
    return Case(policy, fault, struck, history, {key: kept for key, kept in records.items() if key[0] == topic},
                {key: end for key, end in log_ends.items() if key[0] == topic}, {},
                {key: offset for key, offset in offsets.items() if key[1] == topic},
                flush_window_ns=((policy.ms or 0) * 3 // 2 + FLUSH_WINDOW_SLACK_MS) * 1_000_000)


def committed_in(log: RecoveredPartition | None) -> dict[tuple[str, str, int], int]:
    """{(group, topic, partition): offset} that the last commit records of __consumer_offsets say, read by hand."""
    found: dict[tuple[str, str, int], int] = {}
    for batch in log.run.batches if log is not None else ():
        for record in DefaultRecordBatch(batch.data):
            version, size = struct.unpack_from(">hh", record.key)
            if version > 1:  # of the group, not of an offset
                continue
            group, rest = record.key[4:4 + size].decode(), record.key[4 + size:]
            topic = rest[2:2 + int.from_bytes(rest[:2], "big")].decode()
            if record.value is None:
                found.pop((group, topic, int.from_bytes(rest[-4:], "big")), None)
            elif group == GROUP:
                found[group, topic, int.from_bytes(rest[-4:], "big")] = int.from_bytes(record.value[2:10], "big")
    return found
