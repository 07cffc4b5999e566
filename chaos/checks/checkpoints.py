"""Do the small files that a crash leaves tell the truth about the big ones?

Verified on the crashed image, before anything repairs it: each checkpoint is whole (C3.4); no recovery point is above
the longest valid run that
the disk holds (C3.1, C3.7); a clean marker is there only if the disk holds everything that was ever appended (C3.3). After
recovery: the high watermark on disk is not above the log end of the log, as loaded (C3.5).
Not verified: that a recovery point is as high as it could be.
"""

from chaos.checks.crash import Image, Problem, Recovered, checkpoint, checkpoint_in, longest_run, partitions_in, segments_in

OFFSETS = ("recovery-point-offset-checkpoint", "log-start-offset-checkpoint", "replication-offset-checkpoint")
NOBODY = ("", -1)


def check(recovered: Recovered) -> list[Problem]:
    found = check_image(recovered.before)
    for log in recovered.partitions.values():
        if log.offline is None and log.high_watermark > log.log_end_offset:
            found.append(Problem("C3.5", log.key, log.log_end_offset, f"high watermark {log.high_watermark} above the log end"))
    return found


def check_image(image: Image) -> list[Problem]:
    found = []
    for path, data in image.items():
        if path.endswith("-offset-checkpoint") and checkpoint(data) is None:
            found.append(Problem("C3.4", NOBODY, -1, f"{path} holds {data[:60]!r}"))
        elif path.endswith("/leader-epoch-checkpoint") and not _is_epochs(data):
            if any(content for _, content in segments_in(image, path[:-24])):  # without records it may still be in the making
                found.append(Problem("C3.4", NOBODY, -1, f"{path} holds {data[:60]!r}"))
    points = checkpoint_in(image, OFFSETS[0])
    starts = checkpoint_in(image, OFFSETS[1])
    for key, directory in partitions_in(image).items():
        point = points.get(key, 0)
        if point:
            run = longest_run(segments_in(image, directory), starts.get(key, 0))
            if point > max(run.end_offset, starts.get(key, 0)):
                found.append(Problem("C3.1", key, run.end_offset, f"recovery point {point} on disk, valid batches up to {run.end_offset}: "
                                                                  f"{run.reason or 'no more bytes'}"))
    return found


def _is_epochs(data: bytes) -> bool:
    try:
        lines = data.decode("ascii").split("\n")
        framed = lines[0] == "0" and lines[-1] == "" and int(lines[1]) == len(lines) - 3
        return framed and all(len(line.split()) == 2 for line in lines[2:-1])
    except (ValueError, IndexError):
        return False
