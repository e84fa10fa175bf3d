"""The size of classes and functions, and who reaches through an underscore."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(
    path
    for folder in ("vmcore", "arches", "plugins")
    for path in (ROOT / folder).rglob("*.py")
    if not {"build", "tests"} & set(path.parts)
)
LINES, METHODS, FUNCTION = 250, 15, 60
#: C's own file, and the public face of all parts
EXEMPT = {"Vmalloc", "Kernel"}


def lines(node):
    return node.end_lineno - node.lineno + 1


def public(node):
    """Return the public methods of a class; those of a property that is set count once."""
    return {m.name for m in node.body if isinstance(m, ast.FunctionDef) and not m.name.startswith("_")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_class_is_a_part_and_a_function_fits_a_screen(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ClassDef) and node.name not in EXEMPT:
            assert (lines(node) <= LINES, len(public(node)) <= METHODS) == (True, True), node.name
        if isinstance(node, ast.FunctionDef):
            assert lines(node) <= FUNCTION, node.name


def test_the_machine_connects_and_decides_nothing():
    assert len((ROOT / "vmcore" / "machine" / "machine.py").read_text("utf-8").splitlines()) < 150


#: (file, text): names with an underscore that their owner documents
ALLOWED = {("vmcore/system/signals.py", "os._exit"), ("vmcore/machine/locks.py", "RLock._is_owned")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nobody_reaches_through_an_underscore(path):
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            own = ast.unparse(node.value) in ("self", "cls", "super()")
            if not own and node.attr != "_replace":  # of a NamedTuple: public in spite of its name
                found.add((str(path.relative_to(ROOT)), ast.unparse(node)))
    assert found - ALLOWED == set()
