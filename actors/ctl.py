"""``bin/ctl`` with everything: what is asked of a cluster, and what is done with files.

What a cluster is asked is in :mod:`transport.client.ctl`, which any client may use without the rest
of polyraft. Here is added what needs to know the files of a node: a log, a backup.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from actors import ctl_backup, ctl_recover, ctl_restore, ctl_wal
from transport.client import ctl


def extend(commands: ctl.Commands[argparse.ArgumentParser]) -> None:
    ctl_wal.add_to(commands)
    ctl_backup.add_to(commands)
    ctl_restore.add_to(commands)
    ctl_recover.add_to(commands)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    return ctl.main(argv, extend)


if __name__ == "__main__":
    raise SystemExit(main())
