"""How a program of bin/ comes by a Python with what it needs.

The checkout here is a small one, whose only requirement is a package made on the spot: no network.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

BOOTSTRAP = Path(__file__).resolve().parent.parent / "bin" / "bootstrap.py"
PROGRAM = """
import sys
import bootstrap
bootstrap.enter()
import polyraft_probe
print(polyraft_probe.TEXT, sys.argv[1:], sys.prefix)
"""
WAIT_S_MAX = 120


class Checkout:
    def __init__(self, directory: Path) -> None:
        self.root = directory / "checkout"
        self.venv = self.root / ".venv"
        self.wheels = directory / "wheels"
        (self.root / "bin").mkdir(parents=True)
        self.wheels.mkdir()
        shutil.copy(BOOTSTRAP, self.root / "bin")
        (self.root / "bin" / "hello").write_text(PROGRAM)
        self.require("1.0")

    def require(self, version: str) -> None:
        """Raise the requirement, with a wheel that satisfies it."""
        (self.root / "setup.cfg").write_text(
            f"[options]\ninstall_requires =\n    polyraft-probe>={version}\n"
            "[options.extras_require]\ntest =\n"
        )
        info = f"polyraft_probe-{version}.dist-info"
        about = f"Metadata-Version: 2.1\nName: polyraft-probe\nVersion: {version}\n"
        wheel = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        path = self.wheels / f"polyraft_probe-{version}-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("polyraft_probe.py", f"TEXT = 'probe {version}'\n")
            archive.writestr(f"{info}/METADATA", about)
            archive.writestr(f"{info}/WHEEL", wheel)
            archive.writestr(f"{info}/RECORD", "")

    def start(self, cwd: Path) -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON"))}
        environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels)}
        return subprocess.Popen(
            [sys.executable, str(self.root / "bin" / "hello"), "a", "b c"],
            cwd=cwd,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, cwd: Path) -> tuple[str, str]:
        return self.finish(self.start(cwd))

    def finish(self, process: subprocess.Popen[str]) -> tuple[str, str]:
        output, progress = process.communicate(timeout=WAIT_S_MAX)
        assert process.returncode == 0, progress
        return output, progress

    def expected(self, version: str) -> str:
        return f"probe {version} ['a', 'b c'] {self.venv}\n"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.mark.cluster
def test_two_first_starts_at_once_make_one_environment(checkout: Checkout, tmp_path: Path) -> None:
    both = [checkout.start(tmp_path), checkout.start(checkout.root)]
    finished = [checkout.finish(process) for process in both]
    assert [output for output, _ in finished] == [checkout.expected("1.0")] * 2
    progress = "".join(text for _, text in finished)
    assert progress.count(".venv is ready") == 1

    output, progress = checkout.run(tmp_path)
    assert (output, progress) == (checkout.expected("1.0"), "")


@pytest.mark.cluster
def test_an_environment_that_was_never_finished_is_made_again(
    checkout: Checkout, tmp_path: Path
) -> None:
    (checkout.venv / "bin").mkdir(parents=True)
    (checkout.venv / "polyraft-unfinished").touch()
    (checkout.venv / "bin" / "python").symlink_to(sys.executable)
    (checkout.venv / "rest").touch()
    output, progress = checkout.run(tmp_path)
    assert output == checkout.expected("1.0")
    assert "removing a .venv that was never finished" in progress
    assert not (checkout.venv / "rest").exists()
    assert not (checkout.venv / "polyraft-unfinished").exists()


@pytest.mark.cluster
def test_an_environment_is_kept_and_what_it_lacks_is_installed(
    checkout: Checkout, tmp_path: Path
) -> None:
    checkout.run(tmp_path)
    (checkout.venv / "mine").touch()
    checkout.require("2.0")
    output, progress = checkout.run(tmp_path)
    assert output == checkout.expected("2.0")
    assert "installing 1 packages" in progress
    assert (checkout.venv / "mine").exists()


def test_what_cannot_be_installed_is_said_and_leaves_no_complete_environment(
    checkout: Checkout, tmp_path: Path
) -> None:
    (checkout.venv / "bin").mkdir(parents=True)
    python = checkout.venv / "bin" / "python"
    python.write_text("#!/bin/sh\n[ $# = 1 ] && echo 'polyraft-probe>=1.0' || exit 7\n")
    python.chmod(0o755)
    process = checkout.start(tmp_path)
    _, progress = process.communicate(timeout=WAIT_S_MAX)
    assert process.returncode == 1
    assert "this failed with exit code 7" in progress
    assert not (checkout.venv / "polyraft-complete").exists()


def test_programs_are_thin_and_alike() -> None:
    for name in ("node", "ctl", "bench", "demo", "check"):
        path = BOOTSTRAP.parent / name
        assert os.access(path, os.X_OK), name
        text = path.read_text()
        assert len(text.splitlines()) < 15, name
        assert text.index("bootstrap.enter(") < text.index("import main"), name
