"""The distribution: its metadata, its entry points, what its wheel holds, what nobody may import."""

import ast
import configparser
import re
import tomllib
from importlib.metadata import distribution, entry_points
from pathlib import Path

import pytest

import vmcore
from vmcore import samples

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
SOURCES = sorted(
    path
    for folder in ("vmcore", "arches", "plugins", "tests")
    for path in (ROOT / folder).rglob("*.py")
    if "build" not in path.parts
)


def installed_files():
    """Return the files of the installed wheel; skip where it is a checkout on the path or an editable install."""
    record = distribution("vmcore").read_text("RECORD") or ""
    if "\nvmcore/__init__.py," not in record:
        pytest.skip("vmcore is not installed from a wheel")
    files = [str(file) for file in distribution("vmcore").files]
    return [file for file in files if "__pycache__" not in file]


def test_the_built_in_architectures_are_one_entry_point_among_others():
    found = [(point.name, point.value) for point in entry_points(group="vmcore") if point.dist.name == "vmcore"]
    assert found == [("builtin", "vmcore_arches")]


def test_versions_agree():
    installed_files()
    assert vmcore.__version__ == distribution("vmcore").version == PROJECT["project"]["version"]


def test_the_wheel_holds_every_source_and_every_sample():
    files = set(installed_files())
    sources = {path.relative_to(ROOT) for path in SOURCES if path.is_relative_to(ROOT / "vmcore")}
    assert {str(path) for path in sources} <= files
    arches = {path.relative_to(ROOT / "arches") for path in SOURCES if path.is_relative_to(ROOT / "arches")}
    assert {f"vmcore_arches/{name}" for name in arches} <= files
    assert {"vmcore/__init__.pyi", "vmcore/py.typed", "vmcore_arches/py.typed"} <= files
    assert "vmcore/samples/data/samples.toml" in files
    assert {
        f"vmcore/samples/data/{n}.{kind}.xz" for n in samples.names() for kind in ("trace", "vmallocinfo")
    } <= files
    assert "vmcore/samples/data/dumps.toml" in files
    kinds = ("elf.xz", "vmallocinfo.xz", "vmcoreinfo.txt")
    assert {f"vmcore/samples/data/{n}.{kind}" for n in samples.dumps() for kind in kinds} <= files


def test_the_wheel_holds_nothing_else():
    tops = {file.split("/")[0] for file in installed_files() if not file.startswith("..")}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"vmcore", "vmcore_arches"}


def test_the_licence_comes_along():
    assert any(file.endswith("licenses/LICENSE") for file in installed_files())
    text = (ROOT / "LICENSE").read_text("utf-8")
    assert text.lstrip().startswith("GNU GENERAL PUBLIC LICENSE\n                       Version 2, June 1991")
    assert PROJECT["project"]["license"] == distribution("vmcore").metadata["License-Expression"] == "GPL-2.0-only"


def test_every_folder_of_sources_is_a_package():
    folders = {path.parent for path in SOURCES if path.relative_to(ROOT).parts[0] in ("vmcore", "arches")}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_tox_has_an_environment_for_every_built_in_architecture():
    from vmcore.linking.registry import load  # noqa: PLC0415  # only this test looks at plugins

    text = (ROOT / "tox.ini").read_text("utf-8")
    tox = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    tox.read_string(text)
    named = re.split(r"[,\s]+", re.sub(r"\{.*?\}", "", tox["tox"]["env_list"].strip()))
    sections = {name.removeprefix("testenv:") for name in tox.sections()}
    assert "VMCORE_ARCH = {env_name}" in tox["testenv"]["set_env"].splitlines()
    assert tox["testenv"]["commands"] == "pytest -n auto -q -k {env_name} {posargs}"
    for name in (n for n, plugin in load().origin.items() if plugin == "builtin"):
        assert named.count(name) == 1
        assert len(re.findall(rf"(?<![\w-]){name}(?![\w-])", text)) == 1, f"tox.ini names {name} more than once"
        assert name not in sections, f"[testenv:{name}] hides [testenv], which runs the tests of {name}"


def test_public_hosting_runs_environments_of_tox_on_every_python():
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    pythons = re.findall(r'\{python: "([\d.]+)", environments: "([\w,-]+)"\}', text)
    classified = [line.split(" :: ")[-1] for line in PROJECT["project"]["classifiers"] if "Python :: 3." in line]
    assert [python for python, _ in pythons] == classified
    tox = (ROOT / "tox.ini").read_text("utf-8")
    known = {
        *re.findall(r"^\[testenv:([\w-]+)\]", tox, re.MULTILINE),
        *(f"py{n.replace('.', '')}" for n in classified),
    }
    assert f"[testenv:py{{{','.join(n.replace('.', '') for n in classified)}}}]" in tox
    assert {name for _, names in pythons for name in names.split(",")} <= known
    assert "tox run -e lint" in text


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nobody_imports_the_folder_arches(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        assert not [name for name in names if name.split(".")[0] == "arches"]
