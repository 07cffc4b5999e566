"""How is the broker run with every effect on its disk recorded? `python -m chaos.process.broker RECORD serve ...`:
the command line is refbroker's own; only the disk is another one."""

import sys

from chaos.process.recording import RecordingDisk
from refbroker import cli, serve

if __name__ == "__main__":
    disk, sys.argv = RecordingDisk(sys.argv[1]), ["refbroker", *sys.argv[2:]]
    run = serve.run
    serve.run = lambda **options: run(**options, disk=disk)
    cli.main()
