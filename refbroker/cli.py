"""What can be asked of refbroker on the command line? `serve`, `topics`, `dump-log`, and what plug-ins add.

Thin: each command parses its words, then imports and calls what does the work. Imports are inside of the commands,
so that a broker starts within 0.3 s and a usage error is answered at once.

Exit codes: 0 done; 1 it could not be done, and one line on stderr says why; 64 usage, a bad configuration value
included; 70 internal error (a bug of ours, with a traceback).
Plug-ins are entry points of the group `refbroker.commands`, each a click command; one that cannot be imported is left
out.
"""

import errno
import os
import sys

import click

FAILED = 1
USAGE = 64
INTERNAL = 70


class Failure(click.ClickException):
    """One clear line on stderr, and out."""

    def __init__(self, message: str, exit_code: int = FAILED):
        super().__init__(message)
        self.exit_code = exit_code

    def show(self, file=None) -> None:
        click.echo(f"refbroker: {self.message}", err=True)


class Commands(click.Group):
    """Our commands, and those of plug-ins, which are imported only when asked for."""

    def list_commands(self, context: click.Context) -> list[str]:
        found = {point.name for point in _plugins() if self.get_command(context, point.name)}
        return sorted({*super().list_commands(context), *found})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if own := super().get_command(context, name):
            return own
        for point in _plugins():
            if point.name == name:
                try:
                    return point.load()
                except (ImportError, AttributeError):  # its package, or something that it needs, is not installed
                    return None
        return None


def _plugins() -> list:
    from importlib.metadata import entry_points

    return list(entry_points(group="refbroker.commands"))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="refbroker")
def cli() -> None:
    """A Kafka-compatible broker whose crash behaviour is its specification."""


@cli.command()
@click.option("--config", "properties", metavar="FILE", help="A server.properties file, as Apache Kafka's.")
@click.option("--data-dir", metavar="DIR", help="As --override log.dirs=DIR.")
@click.option("--listen", metavar="HOST:PORT", help="As --override listeners=PLAINTEXT://HOST:PORT; port 0: a free one.")
@click.option("--override", "overrides", multiple=True, metavar="KEY=VALUE", help="A config key, repeatable.")
@click.option("--seed-topic", "seeds", multiple=True, metavar="NAME:PARTITIONS", help="Create it if it is not there.")
@click.option("--accept-loss", is_flag=True, help="Cut a log that is damaged where it was durable, and say what is lost.")
@click.option("--metrics", metavar="HOST:PORT", help="Serve Prometheus text on http://HOST:PORT/metrics.")
@click.option("--idle-poll-us", type=click.IntRange(0, 10_000), metavar="N",
              help="While busy, look for new requests for N us before sleeping. [default: 200; 0 with less than two processors]")
def serve(**options) -> None:
    """Run the broker until SIGTERM (clean stop; a second one stops at once).

    Prints one line on stdout when clients can connect; everything else goes to stderr. KAFKA_ environment variables
    are read as in Kafka's container image (KAFKA_LOG_DIRS is log.dirs)."""
    from refbroker.serve import run

    run(**options)


@cli.command("dump-log")
@click.argument("files", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def dump_log(files: tuple[str, ...], as_json: bool) -> None:
    """Show what is in FILES of a Kafka data directory: .log .index .timeindex .snapshot and checkpoints."""
    from refbroker.dump import dump_files
    from refbroker.log.disk import Disk

    sys.exit(dump_files(Disk(), list(files), as_json=as_json, out=sys.stdout))


ACTIONS = ("create", "list", "describe", "delete")


@cli.command()
@click.argument("action", type=click.Choice(ACTIONS))
@click.option("--bootstrap-server", required=True, metavar="HOST:PORT")
@click.option("--topic", metavar="NAME", help="create, delete: which one; describe: only this one.")
@click.option("--partitions", type=click.IntRange(1), help="create: how many; the broker's num.partitions by default.")
@click.option("--config", "configs", multiple=True, metavar="KEY=VALUE", help="create: a topic config; repeatable.")
@click.option("--if-not-exists", is_flag=True, help="create: no error where the topic is there.")
@click.option("--if-exists", is_flag=True, help="delete, describe: no error where the topic is not there.")
@click.option("--exclude-internal", is_flag=True, help="list, describe: without Kafka's own topics.")
def topics(action: str, **options) -> None:
    """Create, list, describe or delete topics of a running broker, ours or Kafka's."""
    from refbroker.client import ClientError, topics_command

    if action in ("create", "delete") and not options["topic"]:
        raise click.UsageError(f"topics {action} needs --topic NAME")
    try:
        for line in topics_command(action, parse_address(options.pop("bootstrap_server")), **options):
            click.echo(line)
    except ClientError as error:
        raise Failure(str(error)) from error


def parse_address(text: str) -> tuple[str, int]:
    """HOST:PORT, an IPv6 address in brackets. Raises a usage error."""
    from refbroker.config import HOST

    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535 or not HOST.fullmatch(host):
        raise click.UsageError(f"{text!r}: expected HOST:PORT")
    return host, int(port)


def main() -> None:
    """The console script."""
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except click.UsageError as error:
        error.show()
        sys.exit(USAGE)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.ENOSPC):  # of what we print to
            if error.errno == errno.ENOSPC:  # else whoever read it has seen enough
                print(f"refbroker: {error.filename or 'output'}: {error.strerror}", file=sys.stderr, flush=True)
            os._exit(FAILED)  # without another try to print the rest
        import traceback

        traceback.print_exc()
        sys.exit(INTERNAL)


if __name__ == "__main__":
    main()
