"""Faults of the disk, the process and the network together, in one run, from one plan."""
