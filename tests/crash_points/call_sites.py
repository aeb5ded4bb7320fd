"""Every call in the code that changes a disk, read from the syntax trees.

Such a call is one of an operation of :class:`raft.store.files.Files` that changes something; or one
of a function of ours in which there is such a call, as far as its name tells which function that
is: functions and classes by their names, methods by ``self`` or their class. So each step of the
way is seen, from who wants a file replaced down to each operation of that.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final, NamedTuple

from tests.crash_points.disk import ROOT, Site

OPERATIONS: Final = frozenset(
    ("pwrite", "fdatasync", "fsync", "truncate", "mkdir", "rename", "unlink", "fsync_dir")
)
CREATES: Final = frozenset(("create", "exclusive"))  # of open()
FOLDERS: Final = ("raft/store", "actors")
LAYER: Final = ("raft/store/files.py", "Files")  # below it is the kernel, or raft.store.memory
LEFT_OUT: Final = frozenset(("raft/store/memory.py",))

Name = tuple[str, str]  # module, function or class or Class.method


class Call(NamedTuple):
    site: Site
    function: str  # in which it stands
    text: str
    calls: Name | None  # None: an operation

    def __str__(self) -> str:
        return f"{self.site.path}:{self.site.line} {self.function}: {self.text}"


class _Module:
    """One file: what its names mean, and its calls."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        self.tree = ast.parse((ROOT / path).read_text(encoding="utf-8"), path)
        self.meanings: dict[str, Name] = {}
        self.modules: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                for alias in node.names:
                    name = alias.asname or alias.name
                    self.meanings[name] = (node.module, alias.name)
                    self.modules[name] = f"{node.module}.{alias.name}"
        for each in self.tree.body:
            if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                self.meanings[each.name] = (self.name, each.name)

    def calls(self) -> Iterator[tuple[Name, ast.Call, Name | None, bool]]:
        """(the function in which it is, the call, what it calls, whether that is an operation)"""
        yield from self._calls(self.tree, (), None)

    def _calls(
        self, node: ast.AST, within: tuple[str, ...], owner: str | None
    ) -> Iterator[tuple[Name, ast.Call, Name | None, bool]]:
        for child in ast.iter_child_nodes(node):
            inner, inner_owner = within, owner
            if isinstance(child, ast.ClassDef):
                inner, inner_owner = (*within, child.name), child.name
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                inner = (*within, child.name)
            elif isinstance(child, ast.Call):
                # What a function inside a function does is done by the outer one.
                depth = 1 if within and within[0] != owner else 2
                function = (self.name, ".".join(within[:depth]))
                yield function, child, self._meaning(child, owner), is_operation(child)
            yield from self._calls(child, inner, inner_owner)

    def _meaning(self, call: ast.Call, owner: str | None) -> Name | None:
        func = call.func
        if isinstance(func, ast.Name):
            return self.meanings.get(func.id)
        if not isinstance(func, ast.Attribute) or not isinstance(func.value, ast.Name):
            return None
        base = func.value.id
        if base == "self" and owner is not None:
            return self.name, f"{owner}.{func.attr}"
        if base in self.meanings:
            module, name = self.meanings[base]
            if (ROOT / (self.modules.get(base, "").replace(".", "/") + ".py")).is_file():
                return self.modules[base], func.attr
            return module, f"{name}.{func.attr}"
        return None


def is_operation(call: ast.Call) -> bool:
    func = call.func
    if not isinstance(func, ast.Attribute):
        return False
    if isinstance(func.value, ast.Name) and func.value.id == "os":
        return False  # tests/test_architecture.py has who may
    if func.attr == "open":
        creates = [each.value for each in call.keywords if each.arg in CREATES]
        return any(not isinstance(each, ast.Constant) or each.value for each in creates)
    return func.attr in OPERATIONS


def all_calls() -> list[Call]:
    """That change a disk, by themselves or by what they call."""
    paths = [
        path.relative_to(ROOT).as_posix()
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]
    found = [
        (path, *call) for path in paths if path not in LEFT_OUT for call in _Module(path).calls()
    ]
    changing: set[Name] = set()

    def changes(path: str, function: Name, target: Name | None, is_operation: bool) -> bool:
        if path == LAYER[0] and function[1].startswith(f"{LAYER[1]}."):
            return False
        if is_operation or target in changing:
            return True
        return target is not None and (target[0], f"{target[1]}.__init__") in changing

    count = -1
    while count != len(changing):
        count = len(changing)
        for path, function, _, target, is_operation in found:
            if function[1] and changes(path, function, target, is_operation):
                changing.add(function)
    calls = []
    for path, function, node, target, is_operation in found:
        if changes(path, function, target, is_operation):
            assert node.end_lineno is not None
            assert node.end_col_offset is not None
            site = Site(path, node.lineno, node.col_offset, node.end_lineno, node.end_col_offset)
            text = " ".join(ast.unparse(node).split())
            name = None if is_operation else target
            calls.append(Call(site, function[1], text, name))
    return calls
