"""What does the broker owe, by number? The register of `specs/contract.md`, and the form of a verdict.

The words are in the spec; here are the numbers, the titles and the fault classes, for tables and for the tidy test that ties
spec, code, tests and checkers together. Which statements are judged is not written down here but read off the checkers: a number in
the "Verified" part of a checker's opening words is judged by it (`judged_by`).
"""

import ast
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

NUMBER = re.compile(r"\bC\d+\.\d+\b")


class Statement(NamedTuple):
    number: str
    title: str
    faults: str


STATEMENTS = {statement.number: statement for statement in (
    Statement("C1.1", "A clean stop loses nothing", "F0"),
    Statement("C1.2", "A killed process loses no acked record", "F1"),
    Statement("C1.3", "Fsync before the reply survives power loss", "F2"),
    Statement("C1.4", "Every N messages: fewer than N offsets are lost", "F2"),
    Statement("C1.5", "Every S milliseconds: what is older survives", "F2"),
    Statement("C1.6", "Page cache only: the durable end survives", "F2"),
    Statement("C1.7", "No acks, no claim", "F1 F2"),
    Statement("C1.8", "acks=1 with replicas", "F1 F2"),
    Statement("C1.9", "acks=all with clean elections", "F1 F2"),
    Statement("C1.10", "acks=all and P3 everywhere", "F1 F2"),
    Statement("C1.11", "The last replica standing", "F1 F2"),
    Statement("C1.12", "Unclean election", "F1 F2"),
    Statement("C1.13", "A failed fsync is final", "F3"),
    Statement("C1.14", "A failed append leaves nothing", "F4"),
    Statement("C1.15", "A reply in flight counts as maybe", "F1 F2"),
    Statement("C1.16", "Service comes back", "F1 F2 F3 F4 F6"),
    Statement("C2.1", "A prefix of what was appended", "F0 F1 F2 F3 F4"),
    Statement("C2.2", "No holes", "F0 F1 F2 F3 F4"),
    Statement("C2.3", "A torn tail ends the log", "F0 F1 F2 F3 F4"),
    Statement("C2.4", "Nothing valid and durable is dropped", "F0 F1 F2 F3 F4"),
    Statement("C2.5", "Decay is never hidden", "F5"),
    Statement("C2.6", "Every batch is checked whole", "F0 F1 F2 F3 F4"),
    Statement("C2.7", "Zeros are the end", "F0 F1 F2 F3 F4"),
    Statement("C2.8", "An offset names one record", "F0 F1 F2 F3 F4"),
    Statement("C2.9", "Not below the log start", "F0 F1 F2 F3 F4"),
    Statement("C2.10", "Recovery is idempotent and survives itself", "F0 F1 F2 F3 F4"),
    Statement("C2.11", "No litter", "F0 F1 F2 F3 F4"),
    Statement("C2.12", "Derived files are derived", "F0 F1 F2 F3 F4"),
    Statement("C3.1", "The recovery point is never ahead of the disk", "F0 F1 F2 F3 F4"),
    Statement("C3.2", "Snapshot before recovery point", "F0 F1 F2 F3 F4"),
    Statement("C3.3", "The clean marker tells the truth", "F0 F1 F2 F3 F4"),
    Statement("C3.4", "Checkpoints are replaced whole", "F0 F1 F2 F3 F4"),
    Statement("C3.5", "Stale is allowed, ahead is not", "F0 F1 F2 F3 F4"),
    Statement("C3.6", "A flush that overlaps a truncation", "F0 F1 F2 F3 F4"),
    Statement("C3.7", "Truncation lowers the recovery point first", "F0 F1 F2 F3 F4"),
    Statement("C4.1", "Order of the four offsets", "F1 F2"),
    Statement("C4.2", "Nothing above the high watermark", "F1 F2"),
    Statement("C4.3", "Seen stays seen, or the epoch tells", "F1 F2"),
    Statement("C4.4", "The epoch cache equals the log", "F1 F2"),
    Statement("C4.5", "Followers truncate by epoch", "F1 F2"),
    Statement("C4.6", "Joining the ISR", "F1 F2"),
    Statement("C4.7", "Retention stays below the high watermark", "F1 F2"),
    Statement("C4.8", "A consumer reads on where it is", "F1 F6"),
    Statement("C4.9", "What is acked can be read", "F1 F6"),
    Statement("C5.1", "An offset index entry points at its batch", "F1 F2"),
    Statement("C5.2", "Offset index entries increase", "F1 F2"),
    Statement("C5.3", "A time index entry is the maximum so far", "F1 F2"),
    Statement("C5.4", "A lookup by time finds the earliest", "F1 F2"),
    Statement("C5.5", "An accepted index answers like a rebuilt one", "F1 F2"),
    Statement("C5.6", "The transaction index", "F1 F2"),
    Statement("C5.7", "Truncation trims the indexes first", "F1 F2"),
    Statement("C5.8", "A rolled index is durable", "F1 F2"),
    Statement("C6.1", "Producer state is a function of the log", "F1 F2"),
    Statement("C6.2", "Bad snapshots are skipped", "F1 F2"),
    Statement("C6.3", "State follows the append", "F1 F2"),
    Statement("C6.4", "A retry is recognised", "F1 F2"),
    Statement("C6.5", "A gap is refused", "F1 F2"),
    Statement("C6.6", "An old epoch stays fenced", "F1 F2"),
    Statement("C6.7", "Expiry spares open transactions", "F1 F2"),
    Statement("C7.1", "read_committed shows committed records only", "F1 F2"),
    Statement("C7.2", "The last stable offset", "F1 F2"),
    Statement("C7.3", "Atomic over partitions", "F1 F2"),
    Statement("C7.4", "An open transaction stays open", "F1 F2"),
    Statement("C7.5", "Offsets of a transaction", "F1 F2"),
    Statement("C7.6", "InitProducerId fences", "F1 F2"),
    Statement("C7.7", "Compaction keeps markers", "F1 F2"),
    Statement("C8.1", "A commit is a record", "F1 F2"),
    Statement("C8.2", "The last surviving commit", "F1 F2"),
    Statement("C8.3", "Replay gives the live map", "F1 F2"),
    Statement("C8.4", "A commit beyond the log end", "F1 F2"),
    Statement("C8.5", "Process before commit", "F1 F2"),
    Statement("C9.1", "Old or new, never a mixture", "F1 F2"),
    Statement("C9.2", "New segments are durable before the swap", "F1 F2"),
    Statement("C9.3", "The latest value per key survives", "F1 F2"),
    Statement("C9.4", "Cleaner checkpoint within the log", "F1 F2"),
    Statement("C9.5", "Deleted stays deleted", "F1 F2"),
    Statement("C9.6", "A re-created topic starts empty", "F1 F2"),
)}


# What the lab owes itself and a run can break: a sanity condition of the contract that has a row of its own.
SANITY = {"S4": Statement("S4", "The disk model allows what a real file system shows", "F2")}

# Rules that Kafka's own code does not keep by our reading, or not in full; where another broker is judged they can be switched off.
STRICTER = frozenset({"C2.2", "C2.4", "C2.6", "C2.8", "C3.3", "C3.6", "C6.7"})


# What a statement is about that this broker does not have: nothing can break it, and nothing judges it.
ABSENT = {
    "no replication": ("C1.8", "C1.9", "C1.10", "C1.11", "C1.12", "C4.5", "C4.6"),
    "no transactions": ("C5.6", "C7.1", "C7.2", "C7.3", "C7.4", "C7.5", "C7.6"),
    "no compaction": ("C7.7", "C9.1", "C9.2", "C9.3", "C9.4"),
}


@dataclass(frozen=True)
class Verdict:
    """One thing that a checker saw: a loss that is allowed, or a statement broken. `disk` is the strongest profile on which it
    happens ("any" where the disk has no part in it), `offset` the first that differs, `evidence` names the unsynced byte
    ranges or directory entries that took the record."""

    statement: str
    fault: str
    policy: str
    disk: str
    allowed: bool
    topic: str
    partition: int
    offset: int
    text: str
    acks: str = "all"
    evidence: tuple[str, ...] = ()

    def __post_init__(self):
        assert self.statement in STATEMENTS, self.statement

    def to_json(self) -> dict:
        return asdict(self)

    def line(self) -> str:
        """One line for a person."""
        verdict = "allowed loss" if self.allowed else "BROKEN"
        where = f" {self.topic}-{self.partition} at offset {self.offset}" if self.topic else ""
        because = f"; taken by {', '.join(self.evidence)}" if self.evidence else ""
        return (f"{self.statement} {verdict}: {self.text}{where} [{self.fault}, {self.policy}, acks={self.acks}, "
                f"disk {self.disk}{because}]")


@cache
def judged_by() -> dict[str, list[str]]:
    """Statement number -> the checkers whose "Verified" part names it."""
    judges: dict[str, list[str]] = {}
    root = Path(__file__).parent / "checks"
    for path in sorted(root.rglob("*.py")):
        words = ast.get_docstring(ast.parse(path.read_text())) or ""
        verified = words.partition("Verified")[2].partition("Not verified")[0]
        for number in sorted(set(NUMBER.findall(verified))):
            judges.setdefault(number, []).append(str(path.relative_to(root).with_suffix("")))
    return judges


def unjudged() -> list[str]:
    """Statements that nothing checks yet, in order."""
    return [number for number in STATEMENTS if number not in judged_by()]


def by_reason(numbers: Iterable[str]) -> dict[str, list[str]]:
    """Why nothing checks them -> the statements."""
    reasons = {number: reason for reason, absent in ABSENT.items() for number in absent}
    found: dict[str, list[str]] = {}
    for number in numbers:
        found.setdefault(reasons.get(number, "no checker yet"), []).append(number)
    return found
