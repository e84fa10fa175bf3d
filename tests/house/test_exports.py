"""Type checkers see every public name as Python does: a program that uses each is judged in strict mode.

mypy comes with the extra "lint", whose tox environment runs this file. pyright fetches its own program from a
registry of npm when it is used first, so it is asked only where it is installed.
"""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import vmcore

HOME = Path(vmcore.__file__).parents[1]
MODULES = (
    "vmcore",
    "vmcore.architecture",
    "vmcore.errors",
    "vmcore.flags",
    "vmcore.hookspecs",
    "vmcore.host",
    "vmcore.units",
)


def defined(source):
    """Yield the names that a module defines at its top."""
    for node in ast.parse(source).body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            yield node.name
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name))


def public(name):
    """Return the public names of a module: its ``__all__``, or else what it defines without an underscore."""
    module = import_module(name)
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [found for found in defined(Path(module.__file__).read_text("utf-8")) if not found.startswith("_")]


NAMES = [(module, name) for module in MODULES for name in public(module)]


def program(names):
    """Return a program that imports each name, and asks the checker for its type."""
    imports = "".join(f"from {module} import {name} as n{n}\n" for n, (module, name) in enumerate(names))
    return imports + "".join(f"reveal_type(n{n})\n" for n in range(len(names)))


def checked(path, *command):
    """Run a checker in the folder of a file; it finds the package, installed as a wheel or not."""
    environment = os.environ | ({} if "site-packages" in HOME.parts else {"MYPYPATH": str(HOME)})
    return subprocess.run(
        [sys.executable, "-m", *command],
        env=environment,
        cwd=path.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def mypy(path):
    """Return the errors of mypy about a file, and the types that it reveals."""
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed: it is part of the extra lint")
    result = checked(path, "mypy", "--strict", "--config-file=", f"--cache-dir={path.parent}/cache", path.name)
    assert result.stderr == ""
    errors = [line for line in result.stdout.splitlines() if re.match(rf"{path.name}:\d+: error: ", line)]
    return errors, re.findall(r'note: Revealed type is "(.*)"$', result.stdout, re.MULTILINE)


def pyright(path):
    """Return the errors of pyright about a file, and the types that it reveals."""
    if importlib.util.find_spec("pyright") is None:
        pytest.skip("pyright is not installed: it fetches its program at its first use, so no extra brings it")
    settings = {"typeCheckingMode": "strict", "include": [path.name], "extraPaths": [str(HOME)]}
    (path.parent / "pyrightconfig.json").write_text(json.dumps(settings))
    result = checked(path, "pyright", "--outputjson", "--pythonpath", sys.executable)
    found = json.loads(result.stdout)["generalDiagnostics"]
    types = [re.fullmatch(r'Type of "n\d+" is "(.*)"', told["message"], re.DOTALL) for told in found]
    errors = [told["message"] for told in found if told["severity"] == "error"]
    return errors, [told[1] for told in types if told]


@pytest.mark.parametrize("checker", [mypy, pyright], ids=lambda checker: checker.__name__)
def test_a_checker_sees_every_public_name(checker, tmp_path):
    path = tmp_path / "uses_each.py"
    path.write_text(program(NAMES))
    errors, types = checker(path)
    assert errors == []
    assert len(types) == len(NAMES)
    unseen = [name for name, found in zip(NAMES, types, strict=True) if found in ("Any", "Unknown", "Module")]
    assert unseen == []


@pytest.mark.parametrize("checker", [mypy, pyright], ids=lambda checker: checker.__name__)
def test_a_checker_refuses_a_name_that_is_not_there(checker, tmp_path):
    path = tmp_path / "uses_none.py"
    path.write_text(program([("vmcore", "Kernle"), ("vmcore.errors", "PageFalut")]))
    found = " ".join(checker(path)[0])
    assert "Kernle" in found
    assert "PageFalut" in found


def test_the_stub_is_the_table_of_the_package():
    found = {
        alias.asname
        for node in ast.parse((HOME / "vmcore" / "__init__.pyi").read_text("utf-8")).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert {*found, "__version__"} == set(vmcore.__all__)
    assert {"PageFault", "Symbols", "Host", "open_dump"} <= found
    for name in vmcore.__all__:
        assert getattr(vmcore, name) is not None


def test_names_are_found_at_the_top_of_a_module():
    source = "A = 1\nB: int = 2\nC, D = 3, 4\n_E = 5\nimport f\nclass G: h = 1\ndef i(): j = 2\n"
    assert list(defined(source)) == ["A", "B", "C", "D", "_E", "G", "i"]
