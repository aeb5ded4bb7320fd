"""All fates at each point: ``python -m tests.crash_points --help``."""

from tests.crash_points.cli import main

raise SystemExit(main())
