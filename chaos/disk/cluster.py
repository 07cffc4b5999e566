"""How do tasks get onto a Dask cluster, and when are its results worth anything?

`dask://HOST:PORT` names a scheduler. Its workers must run the code that runs here, on the same Python: a task is a function by its
name and a few words, and what another version makes of it is no part of this run. So each worker is asked for the digest of its sources
before anything begins, and everything that is not as it should be is one clear line.
"""

import hashlib
import sys
from pathlib import Path

PREFIX = "dask://"
CONNECT_SECONDS_MAX = 15
TREES = ("chaos", "refbroker")


class NoWorkers(Exception):
    """There are no such workers, or they are of no use. The text says why, and what to do."""


def connect(address: str):
    """A `distributed.Client`, which the caller closes. Raises NoWorkers."""
    where = address.removeprefix(PREFIX)
    host, _, port = where.rpartition(":")
    if not host or not port.isdecimal():
        raise NoWorkers(f"{address!r}: dask://HOST:PORT of a Dask scheduler is expected")
    try:
        from distributed import Client
    except ImportError:
        raise NoWorkers("Dask is missing: pip install 'refbroker[dask]', here and on the workers") from None
    try:
        client = Client(f"tcp://{where}", timeout=CONNECT_SECONDS_MAX, set_as_default=False)
    except OSError as error:
        raise NoWorkers(f"no Dask scheduler answers at {where}: {error}") from None
    try:
        _check(client, where)
    except BaseException:
        client.close()
        raise
    return client


def _check(client, where: str) -> None:
    mine = code_digest()
    try:
        theirs = client.run(code_digest)
    except (ImportError, AttributeError) as error:
        raise NoWorkers(f"workers of {where} cannot load the lab ({error}): install this refbroker there, too") from None
    if not theirs:
        raise NoWorkers(f"the scheduler at {where} has no workers: start one with `dask worker {where}`")
    if other := sorted(worker for worker, digest in theirs.items() if digest != mine):
        raise NoWorkers(f"{', '.join(other)}: other sources or another Python than here; their results would not be this run's")


def code_digest() -> str:
    """Of the lab, the broker and the Python that run in this process."""
    root = Path(__file__).parent.parent.parent
    digest = hashlib.sha256(sys.version.encode())
    for path in sorted(path for name in TREES for path in (root / name).rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()
