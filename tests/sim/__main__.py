"""Run as ``python -m tests.sim``: what bin/sim does."""

if __name__ == "__main__":  # the children of multiprocessing import this file, too
    from tests.sim.cli import main

    raise SystemExit(main())
