"""Every crash of everything that is written: after each prefix of the operations on files.

    disk.py        the disk as it was before each operation, and what may become of it
    story.py       what a story is, and how it is told again from each of its points
    logs.py        stories of the log of a slot: whole, damaged, on a full disk
    snapshots.py   stories of snapshots: taken, received, brought for a group to come, backed up
    node.py        the story of a whole node: real node process, real workers, real groups
    call_sites.py  every place in the code that changes a disk, so that none is left out

``pytest tests/crash_points`` takes some of the fates at each point, by turns;
``python -m tests.crash_points`` takes all of them, as thoroughly as it is told to.
"""
