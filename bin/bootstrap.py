"""Gives the programs in this folder a Python that can import what they need.

The active Python is used when it has every requirement of setup.cfg in a version that is new
enough. Otherwise ``.venv`` in the checkout is, and is made first when it is missing or
half-made.  Rules:

* only one process makes or changes ``.venv``: whoever holds the lock on ``.venv.lock``.  The
  programs that it starts (venv, pip) inherit the lock, so that killing the one in charge does not
  let a second one in while pip still writes;
* a stamp inside, written last and by rename, says for which requirements ``.venv`` is complete.
  With the right stamp nothing is locked or looked at, the program is simply replaced;
* ``.venv`` with the mark of an unfinished run, or without a Python, is removed and made again.
  One that somebody made by hand is never removed; what is missing is installed into it.

Runs on any Python 3 up to the point where it refuses the old ones: no newer syntax than 3.6 here.
"""

import configparser
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from typing import NoReturn

OLDEST = (3, 11)
ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
VENV = os.path.join(ROOT, ".venv")
VENV_PYTHON = os.path.join(VENV, "bin", "python")
STAMP = os.path.join(VENV, "polyraft-complete")
UNFINISHED = os.path.join(VENV, "polyraft-unfinished")
LOCK = os.path.join(ROOT, ".venv.lock")
ATTEMPT = "POLYRAFT_BOOTSTRAP_ATTEMPT"  # how often this program has been replaced already


def enter(test: bool = False) -> None:
    """Return in a Python with all requirements; ``test``: those of the tests, too."""
    if sys.version_info < OLDEST:
        _fail("Python 3.11 or newer is needed, this is " + sys.version.split()[0])
    attempt = int(os.environ.pop(ATTEMPT, "0"))
    if not _missing(_requirements(test)):
        _use_checkout()
        return
    if attempt >= 2:
        _fail(f"{VENV} still lacks {_missing(_requirements(test))[0]}; remove it and try again")
    if attempt == 1 or not _is_complete():
        _make()
    os.environ[ATTEMPT] = str(attempt + 1)
    os.execv(VENV_PYTHON, [VENV_PYTHON, os.path.realpath(sys.argv[0]), *sys.argv[1:]])


def _use_checkout() -> None:
    """Import from the checkout, here and in every Python that this one starts, wherever it runs."""
    sys.path.insert(0, ROOT)
    inherited = os.environ.get("PYTHONPATH")
    if ROOT not in (inherited or "").split(os.pathsep):
        os.environ["PYTHONPATH"] = ROOT + (os.pathsep + inherited if inherited else "")


# ----------------------------------------------------------------------- what is needed


def _requirements(test: bool) -> "list[str]":
    setup = configparser.ConfigParser()
    setup.read(os.path.join(ROOT, "setup.cfg"))
    lines = setup.get("options", "install_requires")
    if test:
        lines += "\n" + setup.get("options.extras_require", "test")
    return [line.strip() for line in lines.splitlines() if line.strip()]


def _missing(requirements: "list[str]") -> "list[str]":
    """What this Python lacks, as lines for pip.  Looks at metadata only, imports nothing."""
    from importlib import metadata

    missing = []
    for requirement in requirements:
        name, _, least = requirement.partition(">=")
        try:
            present = metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(requirement)
            continue
        if _numbers(present) < _numbers(least):
            missing.append(requirement)
    return missing


def _numbers(version: str) -> "tuple[int, ...]":
    """``7.35.1rc2`` -> (7, 35, 1): fine for comparing with a plain lower bound."""
    match = re.match(r"[0-9]+(\.[0-9]+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else (0,)


def _wanted_stamp() -> str:
    return hashlib.sha256("\n".join(_requirements(test=True)).encode()).hexdigest() + "\n"


def _is_complete() -> bool:
    try:
        with open(STAMP) as file:
            return file.read() == _wanted_stamp() and os.access(VENV_PYTHON, os.X_OK)
    except OSError:
        return False


# ----------------------------------------------------------------------- making it


def _make() -> None:
    try:
        lock = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        _fail(f"this Python lacks {_missing(_requirements(False))}, and {LOCK}: {error.strerror}")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _say("waiting for another program that is making .venv")
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        if not _is_complete() or _probe():
            _make_locked(lock)
    finally:
        os.close(lock)


def _make_locked(lock: int) -> None:
    began = time.monotonic()
    if os.path.exists(UNFINISHED) or not os.access(VENV_PYTHON, os.X_OK):
        if os.path.exists(VENV):
            _say("removing a .venv that was never finished")
            shutil.rmtree(VENV)
        _say(f"making .venv with Python {sys.version.split()[0]} (once, about a minute)")
        os.mkdir(VENV)
        with open(UNFINISHED, "w"):
            pass
        _run(lock, sys.executable, "-m", "venv", VENV)
    wanted = _probe()
    if wanted:
        _say(f"installing {len(wanted)} packages into .venv: {' '.join(wanted)}")
        quiet = [] if sys.stderr.isatty() else ["--quiet"]
        pip = [VENV_PYTHON, "-m", "pip", "--disable-pip-version-check", "install"]
        _run(lock, *pip, *quiet, *wanted)
    with open(STAMP + ".new", "w") as file:
        file.write(_wanted_stamp())
    os.replace(STAMP + ".new", STAMP)
    if os.path.exists(UNFINISHED):
        os.unlink(UNFINISHED)
    _say(f".venv is ready ({time.monotonic() - began:.0f} s)")


def _probe() -> "list[str]":
    """What the Python in ``.venv`` lacks: this file, run by it, says so."""
    try:
        output = subprocess.check_output([VENV_PYTHON, os.path.realpath(__file__)], text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        _fail(f"{VENV_PYTHON} does not run ({error}); remove {VENV} and try again")
    return output.splitlines()


def _run(lock: int, *command: str) -> None:
    code = subprocess.call(command, stdout=sys.stderr, cwd=ROOT, pass_fds=(lock,))
    if code:
        _fail(f"this failed with exit code {code}: {' '.join(command)}")


def _say(line: str) -> None:
    print("polyraft: " + line, file=sys.stderr, flush=True)


def _fail(line: str) -> NoReturn:
    _say(line)
    sys.exit(1)


if __name__ == "__main__":
    for requirement in _missing(_requirements(test=True)):
        print(requirement)
