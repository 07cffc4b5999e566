"""`python -m refbroker` is `refbroker`."""

from refbroker.cli import main

main()
