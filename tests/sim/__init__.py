"""Whole clusters in one thread, by seed.  Begin with docs/simulator.md."""
