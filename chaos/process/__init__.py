"""Faults on the real process: killed at any moment, or at a chosen system call, while real clients write to it."""
