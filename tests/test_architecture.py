"""The shape of the project, held as tests: who may import whom, what is too long, what is banned.

Read from the syntax trees, nothing is imported.  The lists of exceptions are ratchets: a test also
fails when an exception is not needed any more, so that they only ever get shorter.
"""

from __future__ import annotations

import ast
import configparser
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("actors", "raft", "transport")
PROGRAM_FOLDERS = (*PACKAGES, "bin", "examples", "benchmarks")
FOLDERS = (*PROGRAM_FOLDERS, "tests")
GENERATED = frozenset(("transport/polyraft_pb2.py", "transport/polyraft_pb2.pyi"))

FILE_LINES_MAX = 600  # of code: no blank lines, comments, docstrings
TEST_FILE_LINES_MAX = 800
FUNCTION_LINES_MAX = 70  # of its body, docstring not counted

# What is longer than that, and how long it may be at most.
LONG_FILES: dict[str, int] = {}
LONG_FUNCTIONS: dict[str, int] = {}


# --------------------------------------------------------------------------- reading the code


@cache
def python_files() -> tuple[str, ...]:
    """Every file of ours with Python in it, programs without a suffix included."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    found += [path for path in (ROOT / "bin").iterdir() if path.is_file() and not path.suffix]
    names = {str(path.relative_to(ROOT)) for path in found}
    return tuple(sorted(names - GENERATED))


def files_of(*folders: str) -> list[str]:
    return [name for name in python_files() if name.startswith(tuple(f"{it}/" for it in folders))]


@cache
def source(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(source(name), name)


@cache
def module_file(module: str) -> str | None:
    """The file of one of our modules; None for what is not ours."""
    base = module.replace(".", "/")
    for name in (f"{base}.py", f"{base}/__init__.py"):
        if (ROOT / name).is_file():
            return name
    return None


def _for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not _for_type_checkers(child):
            yield child
            yield from _walk(child)


@dataclass(frozen=True)
class Import:
    module: str
    line: int


@cache
def imports(name: str) -> tuple[Import, ...]:
    """Modules that a file imports when it runs; ``from a import b`` means a.b where that is one."""
    found = []
    for node in _walk(tree(name)):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _whole_name(name, node)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                is_module = module_file(inner) is not None or inner in _FOREIGN_MODULES
                found.append(Import(inner if is_module else base, node.lineno))
    return tuple(found)


def _whole_name(name: str, node: ast.ImportFrom) -> str:
    """What ``from`` names, with the dots of a relative import resolved."""
    if node.level == 0:
        return node.module or ""
    package = Path(name).parent.parts[: len(Path(name).parent.parts) - node.level + 1]
    return ".".join((*package, node.module) if node.module else package)


_FOREIGN_MODULES = frozenset(("zmq.asyncio", "google.protobuf"))


def is_in(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


# --------------------------------------------------------------------------- import directions

_NO_WORLD = ("asyncio", "logging", "os", "random", "select", "socket", "subprocess", "threading")
_NO_CLOCK = ("time", "datetime")


@dataclass(frozen=True)
class Layer:
    """A folder, and what its files may import beyond the standard library."""

    ours: tuple[str, ...]
    foreign: tuple[str, ...] = ()
    not_ours: tuple[str, ...] = ()  # exceptions from ``ours``
    not_standard: tuple[str, ...] = ()  # modules of the standard library that it may not use


# The most specific folder counts.
LAYERS = {
    "raft": Layer(("raft",), not_ours=("raft.store",), not_standard=_NO_WORLD + _NO_CLOCK),
    "raft/store": Layer(("raft",), ("msgpack", "google_crc32c")),
    "actors/machines": Layer(
        ("actors.machines",), ("msgpack",), not_standard=("random", "secrets", "uuid", *_NO_CLOCK)
    ),
    "actors/runtime": Layer(("actors.runtime",), not_standard=("asyncio", "socket")),
    "transport": Layer(
        ("transport", "raft"),
        ("zmq", "msgpack", "google.protobuf", "google_crc32c", "uvloop"),
        not_ours=("raft.store",),
    ),
    "actors": Layer(PACKAGES, ("zmq", "msgpack", "uvloop", "google_crc32c", "sortedcontainers")),
}


def layer_of(name: str) -> Layer:
    folder = max((it for it in LAYERS if name.startswith(it + "/")), key=len)
    return LAYERS[folder]


def may_import(layer: Layer, module: str) -> bool:
    top = module.partition(".")[0]
    if top in PACKAGES:
        return any(is_in(module, it) for it in layer.ours) and not any(
            is_in(module, it) for it in layer.not_ours
        )
    if top in sys.stdlib_module_names:
        return top not in layer.not_standard
    return any(is_in(module, it) for it in layer.foreign)


def test_a_file_imports_only_what_its_layer_may() -> None:
    wrong = [
        f"{name}:{it.line}: may not import {it.module}"
        for name in files_of(*PACKAGES)
        for it in imports(name)
        if not may_import(layer_of(name), it.module)
    ]
    assert not wrong, "\n".join(wrong)


def test_a_wrong_import_would_be_seen() -> None:
    assert not may_import(LAYERS["raft"], "time")
    assert not may_import(LAYERS["raft"], "raft.store.wal")
    assert not may_import(LAYERS["raft"], "msgpack")
    assert not may_import(LAYERS["transport"], "actors.settings")
    assert not may_import(LAYERS["actors/machines"], "actors.settings")
    assert not may_import(LAYERS["actors/runtime"], "raft.messages")
    assert may_import(LAYERS["raft/store"], "raft.messages")
    assert layer_of("raft/store/wal.py") is LAYERS["raft/store"]


def test_generated_protobuf_is_known_to_the_codecs_alone() -> None:
    allowed = ("transport/protocol.py", "transport/client/", "tests/", "benchmarks/", "examples/")
    wrong = [
        f"{name}:{it.line}: only a codec imports polyraft_pb2"
        for name in python_files()
        if not name.startswith(allowed)
        for it in imports(name)
        if is_in(it.module, "transport.polyraft_pb2")
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_imports_programs_or_tests() -> None:
    wrong = [
        f"{name}:{it.line}: imports {it.module}"
        for name in python_files()
        for it in imports(name)
        if is_in(it.module, "bin") or (is_in(it.module, "tests") and not name.startswith("tests/"))
    ]
    assert not wrong, "\n".join(wrong)


def importing_path(start: str, target: str) -> list[str] | None:
    """How ``start`` comes to import ``target``, by packages, too; None if it does not."""
    before: dict[str, str | None] = {start: None}
    queue = [start]
    for name in queue:
        for it in imports(name):
            if is_in(it.module, target):
                way = [f"{name} imports {it.module}"]
                step = before[name]
                while step is not None:
                    way.append(step)
                    step = before[step]
                return way[::-1]
            parts = it.module.split(".")
            for length in range(1, len(parts) + 1):
                inner = module_file(".".join(parts[:length]))
                if inner is not None and inner not in before:
                    before[inner] = name
                    queue.append(inner)
    return None


def test_a_worker_never_imports_zmq() -> None:
    if module_file("actors.worker") is None:
        pytest.skip("there is no worker yet")
    way = importing_path("actors/worker.py", "zmq")
    assert way is None, "a worker has no I/O thread, but:\n" + "\n".join(way or ())


def test_a_way_to_zmq_would_be_found() -> None:
    assert importing_path("transport/sockets.py", "zmq") == ["transport/sockets.py imports zmq"]
    assert importing_path("transport/frames.py", "zmq") is None


_DISTRIBUTION_OF = {"zmq": "pyzmq", "google": "protobuf", "google_crc32c": "google-crc32c"}


def test_every_foreign_import_is_declared_with_a_lower_bound() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    needed = setup["options"]["install_requires"].split()
    tests = setup["options.extras_require"]["test"].split()
    bench = setup["options.extras_require"]["bench"].split()
    assert all(">=" in line for line in needed + tests + bench)
    declared = {line.partition(">=")[0] for line in needed}
    more = {line.partition(">=")[0] for line in tests + bench}
    wrong = []
    for name in python_files():
        fine = declared if name.startswith(PACKAGES) else declared | more
        for it in imports(name):
            top = it.module.partition(".")[0]
            ours = top in PACKAGES or top in ("tests", "bootstrap", "checks")
            known = ours or top in sys.stdlib_module_names
            if not known and _DISTRIBUTION_OF.get(top, top) not in fine:
                wrong.append(f"{name}:{it.line}: {it.module} is not declared in setup.cfg")
    assert not wrong, "\n".join(wrong)


# --------------------------------------------------------------------------- length


def docstring_lines(node: ast.AST) -> set[int]:
    """Lines of the docstrings of a module, class or function and of all inside it."""
    lines: set[int] = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = inner.body[0] if inner.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                lines.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return lines


def code_lines(name: str) -> set[int]:
    documentation = docstring_lines(tree(name))
    return {
        number
        for number, line in enumerate(source(name).splitlines(), 1)
        if line.strip() and not line.lstrip().startswith("#") and number not in documentation
    }


def check_ratchet(
    actual: dict[str, int], limits: dict[str, int], exceptions: dict[str, int]
) -> None:
    """Complains of what is too long, and of exceptions that nothing needs."""
    problems = []
    for name, lines in actual.items():
        limit = exceptions.get(name, limits[name])
        if lines > limit:
            problems.append(f"{name}: {lines} lines of code, at most {limit}")
    for name, allowed in exceptions.items():
        lines = actual.get(name, 0)
        if name not in actual or lines <= limits[name]:
            problems.append(f"{name}: needs no exception any more, remove it")
        elif lines < allowed:
            problems.append(f"{name}: is down to {lines} lines, lower its exception from {allowed}")
    assert not problems, "\n".join(problems)


def test_no_file_is_too_long() -> None:
    actual = {name: len(code_lines(name)) for name in python_files()}
    limits = {
        name: TEST_FILE_LINES_MAX if name.startswith("tests/") else FILE_LINES_MAX
        for name in actual
    }
    check_ratchet(actual, limits, LONG_FILES)


def test_no_function_is_too_long() -> None:
    actual = {}
    for name in python_files():
        lines = code_lines(name)
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = range(node.body[0].lineno, (node.end_lineno or 0) + 1)
                actual[f"{name}:{node.name}"] = len(lines.intersection(body))
    check_ratchet(actual, dict.fromkeys(actual, FUNCTION_LINES_MAX), LONG_FUNCTIONS)


def test_an_exception_that_nothing_needs_is_complained_of() -> None:
    limits = {"a.py": 10}
    check_ratchet({"a.py": 12}, limits, {"a.py": 12})
    for actual, exceptions, complaint in (
        ({"a.py": 12}, {}, "at most 10"),
        ({"a.py": 13}, {"a.py": 12}, "at most 12"),
        ({"a.py": 11}, {"a.py": 12}, "lower its exception"),
        ({"a.py": 10}, {"a.py": 12}, "needs no exception"),
        ({"a.py": 10}, {"b.py": 12}, "b.py: needs no exception"),
    ):
        with pytest.raises(AssertionError, match=complaint):
            check_ratchet(actual, limits, exceptions)


# --------------------------------------------------------------------------- banned


@dataclass(frozen=True)
class Ban:
    name: str  # as it is called or imported, with its whole name
    instead: str
    folders: tuple[str, ...]
    except_in: tuple[str, ...] = ()  # files, or folders with / at the end


COMMAND_LINES = (
    "actors/cli.py",
    "actors/ctl_backup.py",
    "actors/ctl_recover.py",
    "actors/ctl_restore.py",
    "actors/ctl_wal.py",
    "actors/demo.py",
    "actors/dev.py",
    "actors/node.py",
    "transport/client/ctl.py",
    "transport/client/bench.py",
)

BANS = (
    Ban(
        "time.sleep",
        "wait for the condition itself, with a deadline",
        (*PACKAGES, "tests"),
        ("transport/client/", "actors/demo.py"),  # programs of their own, which hold nobody up
    ),
    Ban("pickle", "msgpack with checked types: bytes must never choose code", PROGRAM_FOLDERS),
    Ban("marshal", "msgpack with checked types", PROGRAM_FOLDERS),
    Ban("eval", "a parser for what is expected", PROGRAM_FOLDERS),
    Ban("exec", "a function", PROGRAM_FOLDERS),
    Ban("zmq.asyncio", "transport.sockets.SocketWatcher: callbacks over batches", FOLDERS),
    Ban("asyncio.get_event_loop", "asyncio.get_running_loop", FOLDERS),
    Ban("print", "the log, or the status", PACKAGES, COMMAND_LINES),
    Ban("random.seed", "a generator of one's own, made after the fork (pitfall 9)", PACKAGES),
    Ban("random.random", "a generator that is passed in (pitfall 9)", PACKAGES),
    Ban("random.randint", "a generator that is passed in (pitfall 9)", PACKAGES),
    Ban("random.choice", "a generator that is passed in (pitfall 9)", PACKAGES),
    Ban("random.uniform", "a generator that is passed in (pitfall 9)", PACKAGES),
)


def names_used(name: str) -> Iterator[tuple[str, int]]:
    """Whole names of what a file imports and calls; ``from time import sleep`` is time.sleep."""
    known: dict[str, str] = {}
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                known[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                known[alias.asname or alias.name] = whole
                yield whole, node.lineno
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Call):
            head, dot, rest = ast.unparse(node.func).partition(".")
            yield known.get(head, head) + dot + rest, node.lineno


def banned_in(name: str) -> list[str]:
    bans = [
        ban
        for ban in BANS
        if name.startswith(tuple(f"{it}/" for it in ban.folders))
        and not name.startswith(ban.except_in)
    ]
    return [
        f"{name}:{line}: {used} is banned; instead: {ban.instead}"
        for used, line in names_used(name)
        for ban in bans
        if is_in(used, ban.name)
    ]


def test_nothing_banned_is_used() -> None:
    wrong = [line for name in python_files() for line in banned_in(name)]
    assert not wrong, "\n".join(wrong)


def test_a_banned_call_would_be_seen_under_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = "from time import sleep as rest\nimport pickle as p\nrest(1)\nprint(p.loads(b''))\n"
    monkeypatch.setattr(f"{__name__}.tree", lambda name: ast.parse(hidden))
    found = [line.partition(" is banned")[0] for line in banned_in("transport/peers.py")]
    assert found == [
        "transport/peers.py:1: time.sleep",
        "transport/peers.py:2: pickle",
        "transport/peers.py:3: time.sleep",
        "transport/peers.py:4: print",
        "transport/peers.py:4: pickle.loads",
    ]


# Spelled in halves, so that this file is not found by its own test.
_MARKERS = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")
_TEXTS = (".py", ".md", ".proto", ".cfg", ".toml", ".sh", ".yml")


def test_no_marker_of_unfinished_work_is_left() -> None:
    wrong = []
    for folder in (*FOLDERS, "docs", ".ci"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.is_file() and (path.suffix in _TEXTS or (folder in ("bin", ".ci"))):
                if "__pycache__" in path.parts:
                    continue
                for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                    if _MARKERS.search(line):
                        wrong.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not wrong, "\n".join(wrong)


def test_a_file_opens_with_what_it_is() -> None:
    code = [name for name in python_files() if not name.startswith("tests/") and tree(name).body]
    assert not [name for name in code if not ast.get_docstring(tree(name))]
