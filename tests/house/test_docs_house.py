"""docs/house.md is so: each floor, each file and each function that it names is there."""

import ast
import re
from pathlib import Path

import pytest

from tests.house.test_floors import FLOORS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "house.md").read_text("utf-8")
#: (function, file) of every step of the walks.
STEPS = re.findall(r"^ *([\w.]+) {2,}((?:vmcore|arches)/\S+\.py) {2,}\S", TEXT, re.MULTILINE)


def definitions(path):
    """Return every function, class and method of a file, methods by their class."""
    found = set()
    for node in ast.parse((ROOT / path).read_text("utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


def test_the_table_has_every_folder_on_its_floor():
    rows = re.findall(r"^\| (\d+) \| (`.*?`) \| \S", TEXT, re.MULTILINE)
    told = [(int(floor), name) for floor, names in rows for name in re.findall(r"`(\w+)`", names)]
    assert sorted(told) == sorted((number, name) for number, floor in enumerate(FLOORS) for name in floor)
    assert [int(floor) for floor, _ in rows] == sorted((int(floor) for floor, _ in rows), reverse=True)


def test_both_walks_are_drawn():
    assert len(re.findall(r"^```text$", TEXT, re.MULTILINE)) == 2
    assert len(STEPS) == 37  # a step that is not parsed is not checked


@pytest.mark.parametrize(("function", "path"), sorted(set(STEPS)))
def test_each_step_of_a_walk_is_defined_in_its_file(function, path):
    assert function in definitions(path)


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:vmcore|arches|plugins|tests|docs)/[\w./-]*)`", TEXT)))
)
def test_each_file_and_folder_that_is_named_exists(path):
    assert (ROOT / path).exists()


def named(kind):
    """Return (name, file) of the sentences that say ``name`` in ``file``."""
    return re.findall(rf"`({kind})`(?: [a-z ]+)? in `((?:vmcore|arches)/\S+\.py)`", TEXT)


@pytest.mark.parametrize(("name", "path"), named(r"[\w.]+"))
def test_each_name_is_in_the_file_that_is_told(name, path):
    assert re.search(rf"\b{re.escape(name.split('.')[-1])}\b", (ROOT / path).read_text("utf-8"))


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)", TEXT))))
def test_links_lead_somewhere(target):
    assert (ROOT / "docs" / target).exists()
