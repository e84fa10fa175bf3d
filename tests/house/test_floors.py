"""The core's floors: a module imports from its own floor or below, and knows no architecture by name."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "vmcore"
#: What stands directly in vmcore/, and each folder, on its floor.
FLOORS = (
    {"errors", "flags", "units", "wording", "arrays", "facts", "events", "samples", "system"},
    {"architecture", "placement"},
    {"texts", "host"},
    {"hookspecs", "memory"},
    {"linking", "paging"},
    {"cpu", "dump"},
    {"machine"},
    {"port", "coherence"},
    {"kernel"},
    {"replay", "scenes", "study", "testing"},
    {"views"},
    {"cli", "__init__", "__main__", "golden"},
)
LEVEL = {name: number for number, floor in enumerate(FLOORS) for name in floor}


def home(path):
    """Return the folder in vmcore/, or the module directly there, that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


MODULES = sorted(PACKAGE.rglob("*.py"))


class Imports(ast.NodeVisitor):
    """Collect the modules of the package that a file imports, but for type checkers only."""

    def __init__(self):
        self.names = set()

    def visit_If(self, node):
        test = node.test
        if not (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"):
            self.generic_visit(node)

    def visit_Import(self, node):
        for alias in node.names:
            parts = alias.name.split(".")
            if parts[0] == "vmcore":
                self.names.add(parts[1] if len(parts) > 1 else "__init__")

    def visit_ImportFrom(self, node):
        assert node.level == 0, f"line {node.lineno}: relative import"
        parts = (node.module or "").split(".")
        if parts[0] != "vmcore":
            return
        if len(parts) > 1:
            self.names.add(parts[1])
            return
        found = {alias.name for alias in node.names}
        modules = {name for name in found if (PACKAGE / f"{name}.py").exists() or (PACKAGE / name).is_dir()}
        self.names |= modules or {"__init__"}


def imports(path):
    collected = Imports()
    collected.visit(ast.parse(path.read_text(encoding="utf-8")))
    return collected.names - {home(path)}


GRAPH = {}
for _path in MODULES:
    GRAPH.setdefault(home(_path), set()).update(imports(_path))


@pytest.mark.parametrize("module", sorted(GRAPH))
def test_every_module_has_a_floor_and_imports_nothing_above_it(module):
    assert module in LEVEL, f"{module}: put it on a floor"
    if module == "__init__":  # what it names is imported when it is asked for
        assert imports(PACKAGE / "__init__.py") <= set()
        return
    above = {name: LEVEL[name] for name in GRAPH[module] if LEVEL[name] > LEVEL[module]}
    assert above == {}


def module(path):
    """Return the dotted name of a file of the package."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module(path): path for path in MODULES}


def imported(path):
    """Return the modules of the package that a file imports by name, but for type checkers only."""
    found = set()
    for node in runtime(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & FILES.keys() or {node.module}
    return (found & FILES.keys()) - {module(path)}


def runtime(tree):
    """Yield every node that is not for type checkers only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from runtime(node)


def test_no_module_imports_itself_through_others():
    """A package's own ``__init__`` is a door: what lies behind it does not import it."""
    graph, done = {name: imported(path) for name, path in FILES.items()}, set()

    def visit(name, path):
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for below in sorted(graph[name]):
                visit(below, [*path, name])
            done.add(name)

    for name in sorted(graph):
        visit(name, [])


def test_no_folder_is_crowded():
    folders = {path.parent for path in MODULES}
    crowded = {folder.name: n for folder in folders if (n := len(list(folder.glob("*.py")))) > 15}
    assert crowded == {}
    assert len({name for name in LEVEL if (PACKAGE / name).is_dir()}) <= 20
    assert {home(path) for path in MODULES} == LEVEL.keys()


def words(tree):
    """Yield (line, text) of every identifier and every string that is not a docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
        elif isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.alias, ast.arg, ast.keyword)):
            yield getattr(node, "lineno", 0), getattr(node, "name", getattr(node, "arg", None)) or ""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_architecture_is_known_by_name(path, registry):
    names = {n for name in registry.architectures for n in (name, name.replace("-", "_"), name.upper())}
    names |= {name.replace("-", "_").upper() for name in registry.architectures}
    allowed = {name.name.split(".")[0] for name in (PACKAGE / "samples" / "data").glob("*.xz")}
    for line, text in words(ast.parse(path.read_text(encoding="utf-8"))):
        for sample in sorted(allowed, key=len, reverse=True):
            text = text.replace(sample, "")  # noqa: PLW2901  # samples are named after where they were recorded
        hits = [name for name in sorted(names) if name in text]
        assert hits == [], f"{path.name}:{line}: {text!r}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nobody_imports_the_built_in_architectures(path):
    text = path.read_text(encoding="utf-8")
    assert "vmcore_arches" not in text
    for node in ast.walk(ast.parse(text)):
        found = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
        found.append(getattr(node, "module", None) or "")
        assert not any(name.split(".")[0] == "arches" for name in found), f"{path.name}:{node.lineno}"


def test_the_built_in_architectures_use_the_contract_only():
    allowed = {"architecture", "host", "hookspecs", "events", "errors", "units", "flags"}
    for path in (PACKAGE.parent / "arches").rglob("*.py"):
        collected = Imports()
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                node.level, node.module = 0, "here"
        collected.visit(tree)
        assert collected.names <= allowed, f"{path.name}: {collected.names - allowed}"
