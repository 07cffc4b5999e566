"""What is left of a broken statement for whoever wants to see it for themselves?

A directory that holds all that the verdict rests on:

    crashed/      the data directory as the fault left it, before anything recovered it
    broker/       what recovery made of it, the broker's output, and its configuration
    history/      what each client asked and was told (chaos/history.py)
    case.json     the fault, the policy, the times: what a checker gets besides
    story.txt     the same in words, with the commands: ours, and the broker's own

`refbroker-chaos replay DIR` starts the same broker on a copy of `crashed` and judges the same history again: what recovery makes
of these files is had again as often as one likes. What is only in the history (a consumer was handed something wrong) is found again
in the history.
"""

import json
import os
import shlex
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

from chaos.checks import history as checks
from chaos.checks.history.case import Case, Finding, Policy
from chaos.contract import STATEMENTS, STRICTER
from chaos.history import load
from chaos.process import observe
from chaos.report import Kept, Report
from chaos.targets import Process, Target, TargetError, make_target, policy_of

FORMAT = 1
FINDINGS_MAX = 20  # told in a story
NEAR = 3  # offsets before and behind a finding that its story tells


class NoCase(ValueError):
    """The directory holds no case that can be judged again; the text says why."""


def verdict_of(error: Exception) -> Finding | None:
    """What a broker has broken that does not come back, or does not answer; None where the error is not about that."""
    if isinstance(error, observe.Unreadable):
        return Finding("C2.6", "unreadable", error.topic, error.partition, -1, str(error))
    if isinstance(error, observe.NoAnswer):
        return Finding("C1.16", "no answer", "", -1, -1, str(error))
    if isinstance(error, TargetError) and ("ended with" in str(error) or "not ready" in str(error)):
        return Finding("C2.10", "does not start again", "", -1, -1, str(error))
    return None


def crashed_copy(target: Process) -> Path:
    """The data directory as it is now, kept beside the target's own; the copy before it goes."""
    place = Path(target.directory).parent / "crashed"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(target.data_directory, place)
    return place


def keep(report: Report, place: Path, layer: str, target: Target, case: Case, findings: list[Finding], more: list[str] = ()) -> None:
    """Write down a case in which something broke; does nothing where nothing did."""
    broken = [finding for finding in findings if not finding.allowed]
    if not broken:
        return
    history = place / "history"
    if not history.exists():  # power cuts share the history of their load
        history = place.parent / "history"
    details = {
        "format": FORMAT, "layer": layer, "target": target.origin or target.name, "seed": report.seed, "again": report.again,
        "policy": asdict(case.policy), "properties": getattr(target, "properties", {}), "history": os.path.relpath(history, place),
        "topics": {topic: 1 + max(p for t, p in case.log_end if t == topic) for topic, _ in case.log_end},
        "groups": sorted({commit.group for commit in case.history.commits}),
        "fault": case.fault, "struck": case.struck, "durable_end": [[*where, end] for where, end in case.durable_end.items()],
        "offsets_durable": case.offsets_durable, "flush_window_ns": case.flush_window_ns, "outages": case.outages, "load": case.load,
        "service_bound_ns": case.service_bound_ns, "read_on_ns": case.read_on_ns,
        "found": [asdict(finding) for finding in broken]}
    (place / "case.json").write_text(json.dumps(details, indent=1) + "\n")
    story = tell(place, details, case, broken, target, list(more))
    (place / "story.txt").write_text(story)
    report.kept.append(Kept(layer, case.policy.name, case.fault, str(place), f"refbroker-chaos replay {place}", story))


def read(place: Path) -> tuple[dict, Case]:
    """The case of a directory, without what the broker has to say. Raises NoCase."""
    try:
        details = json.loads((place / "case.json").read_text())
    except (OSError, ValueError) as error:
        raise NoCase(f"{place}: {error}") from None
    if not isinstance(details, dict) or details.get("format") != FORMAT:
        raise NoCase(f"{place}: an object of format {FORMAT} is expected")
    try:
        return details, _case_of(place, details)
    except (KeyError, TypeError, ValueError) as error:
        raise NoCase(f"{place}: {type(error).__name__}: {error}") from None


def _case_of(place: Path, details: dict) -> Case:
    return Case(Policy(**details["policy"]), details["fault"], details["struck"], load(str(place / details["history"])), {}, {},
                durable_end={(topic, number): end for topic, number, end in details["durable_end"]},
                offsets_durable=details["offsets_durable"], flush_window_ns=details["flush_window_ns"],
                outages=[tuple(each) for each in details["outages"]], load=details["load"] and tuple(details["load"]),
                service_bound_ns=details["service_bound_ns"], read_on_ns=details["read_on_ns"])


def judge_again(place: Path) -> tuple[dict, list[Finding]]:
    """Recover a copy of the crashed directory, and judge the history by it. Raises NoCase, TargetError."""
    details, case = read(place)
    if not (place / "crashed").exists():
        raise NoCase(f"{place}: no crashed data directory: this broker's files were out of reach")
    with tempfile.TemporaryDirectory(prefix="refbroker-replay-") as scratch:
        target = make_target(details["target"], scratch, policy=policy_of(case.policy.name), properties=details["properties"])
        shutil.copytree(place / "crashed", target.data_directory)
        target.start()
        try:
            case.log, case.log_end = observe.read_all(target.bootstrap, details["topics"])
            for group in details["groups"]:
                case.offsets |= observe.committed_offsets(target.bootstrap, group, details["topics"])
        finally:
            target.kill()
    return details, checks.check_all(case)


# ------------------------------------------------------------ in words


def tell(place: Path, details: dict, case: Case, broken: list[Finding], target: Target, more: list[str]) -> str:
    lines = [f"{target.name}, flush policy {case.policy.name}, fault {case.fault}, seed {details['seed']}.",
             f"The run: {details['again']}", ""]
    clients = ", ".join(f"{name} ({each['library']})" for name, each in sorted(case.history.clients.items()))
    lines += [f"Clients: {clients}.",
              f"{len(case.history.sends)} records sent, {len(case.history.acked)} acked, {len(case.history.seen)} handed to consumers; "
              f"{len(case.outages)} outages.", ""]
    for finding in broken[:FINDINGS_MAX]:
        title = STATEMENTS[finding.statement].title + (", stricter than Kafka" if finding.statement in STRICTER else "")
        where = f" at {finding.topic}-{finding.partition}, offset {finding.offset}" if finding.topic else ""
        lines += [f"{finding.statement} ({title}): {finding.anomaly}{where}", f"    {finding.evidence}", *_near(case, finding), ""]
    if len(broken) > FINDINGS_MAX:
        lines += [f"... and {len(broken) - FINDINGS_MAX} more in case.json", ""]
    return "\n".join([*lines, *_by_hand(place, target), *([""] if more else []), *more]) + "\n"


def _near(case: Case, finding: Finding) -> list[str]:
    """What is known of the offsets around a finding, from the log and from what clients were told."""
    if not finding.topic or finding.offset < 0:
        return []
    held = {record.offset: record for record in case.log.get((finding.topic, finding.partition), [])}
    lines = []
    for offset in range(max(0, finding.offset - NEAR), finding.offset + NEAR + 1):
        at = (finding.topic, finding.partition, offset)
        said = [f"the log has {_name(held[offset].identity)}, epoch {held[offset].leader_epoch}"] if offset in held else []
        said += [f"{send.client}:{send.number} acked (acks={send.acks}) at {_ms(case, send.completed)}"
                 for send in case.history.acked if (send.topic, send.partition, send.offset) == at]
        said += [f"{seen.client} was handed {_name(seen.identity)} at {_ms(case, seen.time)}"
                 for seen in case.history.seen if (seen.topic, seen.partition, seen.offset) == at][:4]
        lines.append(f"    offset {offset}: {'; '.join(said) or 'nothing is known of it'}")
    return lines


def _name(identity: tuple[str, int] | None) -> str:
    return f"{identity[0]}:{identity[1]}" if identity else "nobody's value"


def _ms(case: Case, time_ns: int) -> str:
    """A time, counted from the fault that was judged."""
    return f"{(time_ns - case.struck) / 1e6:+.1f} ms"


def _by_hand(place: Path, target: Target) -> list[str]:
    """How to see it with and without us."""
    lines = ["See it again:", f"    refbroker-chaos replay {place}"]
    try:
        command = target.command()
    except (TargetError, AttributeError):
        return lines
    own, crashed = shlex.quote(target.data_directory), shlex.quote(str(place / "crashed"))
    return [*lines, "or by hand: put a copy of the crashed directory in the place of the broker's own, and start the broker:",
            f"    rm -rf {own} && cp -r {crashed} {own}",
            f"    {shlex.join(command)}"]
