"""The enumeration from the command line: as thorough as it is told to be."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence

from tests.crash_points.stories import STORIES
from tests.crash_points.story import enumerate_crashes, every, say, some, tell


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.crash_points",
        description="Crashes at each operation on files, of all stories, or of those named.",
    )
    parser.add_argument("stories", nargs="*", metavar="TITLE", help="a part of the title will do")
    parser.add_argument(
        "--seeds", type=int, default=1, help="how often each fate; they differ where it tears (1)"
    )
    parser.add_argument(
        "--second",
        type=int,
        default=0,
        metavar="COUNT",
        help="another crash at each of the first COUNT operations of the start (0)",
    )
    parser.add_argument("--quick", action="store_true", help="what the unit tests do")
    parser.add_argument("--failures", type=int, default=5, help="of each story, then stop (5)")
    options = parser.parse_args(argv)
    logging.disable(logging.CRITICAL)  # each crash is news to whoever starts
    failed = False
    total_points = total_crashes = 0
    for kind in STORIES:
        if options.stories and not any(part in kind.title for part in options.stories):
            continue
        began_s = time.process_time()
        told = tell(kind)
        crashes = some(told) if options.quick else every(told, range(options.seeds), options.second)
        tally = enumerate_crashes(told, crashes, options.failures)
        total_points += len(told.points)
        total_crashes += tally.crashes
        failed = failed or bool(tally.failures)
        elapsed_s = time.process_time() - began_s
        say(f"{told.line(tally)}, {elapsed_s:.1f} s")
        for failure in tally.failures:
            say(f"    {failure}")
    say(f"{total_points} points, {total_crashes} crashes")
    return int(failed)
