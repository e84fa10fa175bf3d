"""Views turn results into lines: they compute nothing, print nothing, and know nothing of the command line."""

import ast
from pathlib import Path

import pytest

import vmcore
from vmcore.cli import COMMANDS
from vmcore.views.lines import wrap

VIEWS = sorted((Path(vmcore.__file__).parent / "views").glob("*.py"))
#: Modules with which a view could compute or print.
FOREIGN = {
    "numpy", "click", "rich", "vmcore.cli", "vmcore.kernel", "vmcore.system", "vmcore.memory", "vmcore.machine",
}  # fmt: skip
#: Jobs, and functions that do their work.
JOBS = {
    "replay", "find_larger_window", "audit", "audit_dump", "translate", "list_mappings", "tabulate", "merge",
    "find_mappings", "repeats", "perform", "list_scenes", "list_samples", "describe_installed", "lay_out",
    "walk_many", "open_dump",
}  # fmt: skip


def imported(tree):
    """Yield the modules that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_every_command_has_a_view():
    assert COMMANDS.keys() <= {path.stem for path in VIEWS}


@pytest.mark.parametrize("path", VIEWS, ids=lambda path: path.stem)
def test_a_view_imports_nothing_to_compute_or_print_with(path):
    for name in imported(ast.parse(path.read_text("utf-8"))):
        assert not any(name == foreign or name.startswith(f"{foreign}.") for foreign in FOREIGN), name


@pytest.mark.parametrize("path", VIEWS, ids=lambda path: path.stem)
def test_a_view_calls_no_job(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            assert name not in JOBS, f"{path.name}:{node.lineno}"


def test_a_text_is_cut_at_spaces_only():
    found = list(wrap("one two-three a-word-longer-than-a-line", 12, indent="- ", hang="   ", style="dim"))
    assert found == [("dim", "- one"), ("dim", "   two-three"), ("dim", "   a-word-longer-than-a-line")]
    assert list(wrap("one two", 5, indent="  ")) == [("", "  one"), ("", "  two")]
