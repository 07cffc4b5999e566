"""How is the broker run with every effect on its disk recorded? `python -m chaos.process.broker RECORD serve ...`:
the command line is refbroker's own; only the disk is another one."""

import sys

from chaos.process.recording import RecordingDisk
from refbroker import cli

if __name__ == "__main__":
    cli.main(args=sys.argv[2:], obj=RecordingDisk(sys.argv[1]))
