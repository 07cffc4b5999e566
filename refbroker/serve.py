"""How does a broker run as a process? Configuration, limits, signals, the ready line, and the way out.

1. A refusal to start is one line on stderr and exit code 1 (64 for a bad configuration value); nothing was changed.
2. Ready is one line on stdout: `refbroker ready on HOST:PORT ...`. Nothing else is ever written there.
3. The first SIGTERM or SIGINT is a clean stop, exit code 0; the next one ends the process there and then, which the
   log must survive like any kill.
4. A data directory that goes offline while we run (C1.13) ends the process with exit code 1, as Apache Kafka halts
   when its last log directory has failed: what is durable is known again only after a recovery.
"""

import asyncio
import gc
import logging
import os
import resource
import signal
import sys
from typing import Any

from refbroker import idle_poll
from refbroker.broker import Broker
from refbroker.cli import USAGE, Failure, parse_address
from refbroker.config import Config, ConfigError
from refbroker.errors import KafkaError
from refbroker.log.directory import StartupError
from refbroker.log.disk import Disk, read_file
from refbroker.log.threads import Threads

PROPERTIES_BYTES_MAX = 1 << 20  # a longer server.properties is some other file
logger = logging.getLogger("refbroker")


def run(
    *, properties: str | None, data_dir: str | None, listen: str | None, overrides: tuple[str, ...],
    seeds: tuple[str, ...], metrics: str | None, accept_loss: bool = False, idle_poll_us: int | None = None,
    disk: Disk | None = None,
) -> None:  # fmt: skip
    """Until a signal. `idle_poll_us` None: what suits this machine. `disk`: another implementation of the seam. Raises
    Failure."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    disk = disk or Disk()
    config = load_config(disk, properties, data_dir, listen, overrides)
    scrape = parse_address(metrics) if metrics else None
    topics = [parse_seed(seed) for seed in seeds]
    raise_descriptor_limit()
    gc.set_threshold(20_000)  # objects more than at the last look for cycles; requests leave none, and 700 costs durable producers a tenth
    threads = Threads()
    limit_us = idle_poll.default_limit_us(disk) if idle_poll_us is None else idle_poll_us
    idle_poll.run(_serve(config, disk, topics, scrape, accept_loss=accept_loss, threads=threads), limit_us, threads)


def load_config(
    disk: Disk, properties: str | None, data_dir: str | None, listen: str | None, overrides: tuple[str, ...]
) -> Config:
    """What the command line says (an --override most of all), over the environment, over the file; warnings go to the
    log."""
    if data_dir is not None:
        overrides = (f"log.dirs={data_dir}", *overrides)
    if listen is not None:
        host, port = parse_address(listen)
        overrides = (f"listeners=PLAINTEXT://{f'[{host}]' if ':' in host else host}:{port}", *overrides)
    try:
        text = read_file(disk, properties, bytes_max=PROPERTIES_BYTES_MAX).decode() if properties else None
        config, warnings = Config.load(text, os.environ, overrides)
    except (ConfigError, UnicodeDecodeError) as error:
        raise Failure(str(error), USAGE) from error
    except (OSError, ValueError) as error:
        raise Failure(f"--config: {error}", USAGE) from error
    for warning in warnings:
        logger.warning(warning)
    return config


def parse_seed(text: str) -> tuple[str, int]:
    """NAME:PARTITIONS."""
    name, colon, count = text.rpartition(":")
    if not (name and colon and count.isascii() and count.isdigit() and int(count)):
        raise Failure(f"--seed-topic {text!r}: expected NAME:PARTITIONS", USAGE)
    return name, int(count)


def raise_descriptor_limit() -> None:
    """Each connection and each segment that is read is a descriptor: take all that we are allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(
    config: Config, disk: Disk, topics: list[tuple[str, int]], scrape: tuple[str, int] | None, **options: Any
) -> None:
    stop = asyncio.Event()
    _stop_on_signals(asyncio.get_running_loop(), stop)
    try:
        broker = await Broker.start(config, disk, **options)
    except StartupError as error:
        raise Failure(str(error)) from error
    except ConfigError as error:
        raise Failure(str(error), USAGE) from error
    except OSError as error:
        raise Failure(f"{error.filename or config.listener}: {error.strerror or error}") from error
    scraper = None
    try:
        for name, partitions in topics:
            if name not in broker.metadata.topics:
                await broker.metadata.create_topic(name, partitions, {}, 1)
        if scrape:
            from refbroker import metrics

            scraper = await metrics.serve(broker, *scrape)
        host, port = broker.server.address
        print(f"refbroker ready on {host}:{port} node {broker.node_id} cluster {broker.cluster_id} "
              f"data {config.data_dir} pid {os.getpid()}", flush=True)  # fmt: skip
        broker.logs.on_fail = stop.set
        if broker.logs.offline is None:
            await stop.wait()
        logger.info("stopping")
    except KafkaError as error:
        raise Failure(f"--seed-topic: {error}") from error
    except OSError as error:
        raise Failure(f"--metrics: {error.strerror or error}") from error
    finally:
        if scraper:
            scraper.close()
        await broker.stop()
    if broker.logs.offline:
        raise Failure(f"{config.data_dir} is offline: {broker.logs.offline}")


def _stop_on_signals(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Plain signal handlers, since those of asyncio wait for the loop, which a long recovery keeps busy."""
    seen: list[int] = []

    def on_signal(number: int, _frame: object) -> None:
        if seen:
            os._exit(128 + number)
        seen.append(number)
        loop.call_soon_threadsafe(stop.set)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
