"""Every decision, as pure functions: no I/O, clock, randomness or platform."""
