"""File systems of a test's own: small ones to fill, and ones that can be frozen.

::

    with Volume(node.data, size_bytes=48 << 20) as volume:      # a tmpfs
        volume.fill(leave_bytes=0)
        volume.empty()
    with Volume(node.data, size_bytes=64 << 20, image=path) as volume:    # ext4 on a loop device
        with volume.frozen():
            ...

Needs root; :meth:`Volume.why_not` says what is missing.

A process that is killed leaves its mounts behind, and a frozen file system makes whoever writes to
it wait for ever.  So the source of a mount, or its image, tells whose it is, and the next one thaws
and removes what nobody owns any more.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Final

from tests.cluster.harness import wait_until

BALLAST: Final = "ballast"
PROGRAM_S_MAX: Final = 30.0
STEP_BYTES: Final = 1 << 20
_OWNER: Final = re.compile(r"polyraft-test-(\d+)")


def _name() -> str:
    return f"polyraft-test-{os.getpid()}"


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=PROGRAM_S_MAX)


def _must(*command: str) -> str:
    done = _run(*command)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout


def _remove_orphans() -> None:
    for line in Path("/proc/mounts").read_text().splitlines():
        source, directory, kind = line.split()[:3]
        if source.startswith("/dev/loop"):
            source = _run("losetup", "-n", "-O", "BACK-FILE", source).stdout
        found = _OWNER.search(source)
        if found and not os.path.exists(f"/proc/{found[1]}"):
            if kind == "ext4":
                _run("fsfreeze", "-u", directory)
            _run("umount", "-l", directory)


class Volume:
    """Mounted on ``directory`` from ``with`` on; ``image``: a directory for the file of an ext4."""

    def __init__(self, directory: Path, *, size_bytes: int, image: Path | None = None) -> None:
        self.directory = directory
        self._size_bytes = size_bytes
        self._image = None if image is None else image / f"{_name()}-{directory.name}.img"

    @staticmethod
    def why_not(directory: Path) -> str:
        """Why nothing can be mounted below ``directory``; empty if it can."""
        if os.geteuid() != 0:
            return "mounting needs root"
        missing = [name for name in ("mount", "umount") if shutil.which(name) is None]
        if missing:
            return f"there is no {' and no '.join(missing)}"
        _remove_orphans()
        place = directory / "probe"
        place.mkdir()
        made = _run("mount", "-t", "tmpfs", "-o", "size=64k", _name(), str(place))
        if made.returncode == 0:
            _must("umount", str(place))
        return f"nothing can be mounted: {made.stderr.strip()}" if made.returncode else ""

    @staticmethod
    def why_not_frozen(directory: Path) -> str:
        """Why there can be no file system to freeze; empty if there can."""
        missing = [it for it in ("fsfreeze", "mkfs.ext4", "losetup") if shutil.which(it) is None]
        if missing:
            return f"there is no {' and no '.join(missing)}"
        probe = Volume(directory / "frozen", size_bytes=8 << 20, image=directory)
        try:
            with probe, probe.frozen():
                return ""
        except AssertionError as error:
            return str(error)

    # ------------------------------------------------------------------ life

    def __enter__(self) -> Volume:
        self.directory.mkdir(exist_ok=True)
        if self._image is None:
            options = f"size={self._size_bytes}"
            _must("mount", "-t", "tmpfs", "-o", options, _name(), str(self.directory))
            return self
        with self._image.open("wb") as image:
            image.truncate(self._size_bytes)
        _must("mkfs.ext4", "-q", "-F", "-m", "0", str(self._image))
        _must("mount", "-o", "loop", str(self._image), str(self.directory))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if self._image is not None:
            _run("fsfreeze", "-u", str(self.directory))
        try:
            wait_until(
                lambda: _run("umount", str(self.directory)).returncode == 0,
                f"{self.directory} can be unmounted",
            )
        finally:
            if os.path.ismount(self.directory):
                _run("umount", "-l", str(self.directory))
            if self._image is not None:
                self._image.unlink()

    # ------------------------------------------------------------------ room

    @property
    def free_bytes(self) -> int:
        told = os.statvfs(self.directory)
        return told.f_bavail * told.f_frsize

    def fill(self, leave_bytes: int = 0) -> None:
        """Take what is free, but for so much; what is given back meanwhile, too."""
        descriptor = os.open(self.directory / BALLAST, os.O_RDWR | os.O_CREAT)
        try:
            while (count := min(STEP_BYTES, self.free_bytes - leave_bytes)) > 0:
                with contextlib.suppress(OSError):  # somebody else was faster
                    os.posix_fallocate(descriptor, os.fstat(descriptor).st_size, count)
        finally:
            os.close(descriptor)

    def empty(self) -> None:
        (self.directory / BALLAST).unlink()

    # ------------------------------------------------------------------ time

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Whoever writes to it waits, and cannot even be killed, until it thaws."""
        _must("fsfreeze", "-f", str(self.directory))
        try:
            yield
        finally:
            _must("fsfreeze", "-u", str(self.directory))
