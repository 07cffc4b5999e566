"""The simulated disk: what a crash, a power cut or a failing device may leave of a log, state by state."""
