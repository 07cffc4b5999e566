"""How does one failing run read? What the client did, what was in the page cache, what reached the disk, what recovery made of it."""

from chaos.checks.crash import ROOT
from chaos.disk.ledger import Append
from chaos.disk.model import SYNCS

ROWS_MAX = 24  # of a hexdump: small batches are all there


def tell(result) -> str:
    """The story of a `chaos.plan.Replay`, as plain text."""
    plan, crash = result.plan, result.plan["crash"]
    lines = [f"{plan['statement']} under {plan['policy']}, {crash['fault']} on disk {crash['disk']}, after event {crash['after_events']}", ""]
    lines += ["Constants of the broker", *constants(plan["constants"]), ""] if plan.get("constants") else []
    lines += ["What the client did, and was told", *_operations(result), ""]
    lines += ["What the broker made of it: the write list (* unsynced at the crash)", *events(result), ""]
    lines += ["What the crash made of it", *deviations(crash), ""]
    lines += ["What was on the disk (page cache above, disk below, ~ marks bytes that differ)", *files(result), ""]
    lines += ["What recovery did", *_reports(result), ""]
    lines += ["What broke"] + [f"  {problem.statement}{_where(problem)}: {problem.text}" for problem in result.broken]
    lines += [] if result.broken else ["  nothing"]
    return "\n".join(lines) + "\n"


def _where(problem) -> str:
    topic, number = problem.key
    return f" {topic}-{number} at {problem.offset}" if topic else ""


def constants(constants: dict[str, int]) -> list[str]:
    return [f"  {name} = {value}" for name, value in constants.items()]


def _operations(result) -> list[str]:
    lines = [f"  setup {operation}" for operation in result.plan["setup"]] + [f"  {operation}" for operation in result.plan["operations"]]
    for entry in result.driver.ledger.partitions:
        for step in entry.steps:
            if isinstance(step, Append):
                told = f"acked at event {step.acked}" if step.acked is not None else "not acked"
                lines.append(f"    {entry.topic}-{entry.number}: offsets {step.base_offset} to {step.last_offset}, sent at event {step.began}, {told}")
            else:
                lines.append(f"    {entry.topic}-{entry.number}: {step.kind} {step.offset}, asked at event {step.began}, done {step.done}")
    return lines


def events(result) -> list[str]:
    at = result.plan["crash"]["after_events"]
    events = result.driver.disk.events
    lines = []
    for index, event in enumerate(events[:at]):
        synced = event.kind in SYNCS or any(later.kind in SYNCS and later.inode in (event.inode if event.data or event.kind == "truncate"
                                                                                   else event.directory, event.target_directory or -1)
                                            for later in events[index + 1:at])
        lines.append(f"  {' ' if synced else '*'} #{index} {event}")
    return lines[-60:]


def deviations(crash: dict) -> list[str]:
    lines = [f"  {part} {axis}: {label}" for part, axes in crash["deviations"].items() for axis, label in axes.items()]
    return lines or ["  nothing was lost"]


def files(result) -> list[str]:
    lines: list[str] = []
    view = _view(result)
    for path in sorted(view.keys() | result.crashed.keys()):
        cached, disk = view.get(path), result.crashed.get(path)
        if cached == disk and path in view and path in result.crashed:
            continue
        if path not in result.crashed:
            lines.append(f"  {path}: not there")
        elif path not in view:
            lines.append(f"  {path}: there again")
        if cached is not None or disk is not None:
            lines.append(f"  {path}: {len(cached or b'')} bytes in the page cache, {len(disk or b'')} on the disk")
            lines += _hexdump(cached or b"", disk or b"")
    return lines or ["  the same as in the page cache"]


def _view(result) -> dict:
    from chaos.disk.lab import cache_images

    at = result.plan["crash"]["after_events"]
    return next(image for time, image, cut in cache_images(result.driver.disk, at) if time == at and not cut)


def _hexdump(cached: bytes, disk: bytes) -> list[str]:
    """Rows in which the two differ, both of them, with a line that marks where."""
    lines = []
    for start in range(0, max(len(cached), len(disk)), 16):
        above, below = cached[start:start + 16], disk[start:start + 16]
        if above == below or len(lines) >= 3 * ROWS_MAX:
            continue
        marks = ["~~" if above[place:place + 1] != below[place:place + 1] else "  " for place in range(max(len(above), len(below)))]
        lines += [f"    {start:08x}  {above.hex(' '):<47}  {_text(above)}", f"    {'on disk':>8}  {below.hex(' '):<47}  {_text(below)}",
                  f"    {'':>8}  {' '.join(marks)}".rstrip()]
    return lines


def _text(data: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data)


def _reports(result) -> list[str]:
    if result.recovered.refused:
        return [f"  the broker did not start: {result.recovered.refused}"]
    lines = []
    for key, log in sorted(result.recovered.partitions.items()):
        lines += [f"  {line}" for line in str(log.report or f"{ROOT}/{key[0]}-{key[1]}: offline: {log.offline}").split("\n")]
    return lines
