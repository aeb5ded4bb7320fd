"""For each deliberate bug a seed that is known to find it: ``seeds.txt``, a name and a seed a line.

Whatever changes the core or the simulator moves all histories, so a seed that has found a bug for
long may find it no more; then `bin/sim --mutants --record` looks for another one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

FILE = Path(__file__).with_name("seeds.txt")
RECORD: Final = "bin/sim --mutants --record"


def read(file: Path | None = None) -> dict[str, int]:
    file = file or FILE
    if not file.exists():
        return {}
    lines = file.read_text(encoding="ascii").splitlines()
    return {name: int(seed) for name, seed in map(str.split, lines)}


def write(seeds: dict[str, int], file: Path | None = None) -> None:
    """In their order."""
    width = max(map(len, seeds), default=0)
    lines = [f"{name:<{width}} {seed:>4}\n" for name, seed in seeds.items()]
    (file or FILE).write_text("".join(lines), encoding="ascii")
