"""Adding a dump format or an architecture touches as few files as docs/CONTRIBUTING.md says.

Each is added twice. A user's program adds it from outside. And a copy of the sources gets it as a built-in one:
the changes to the copy are counted, and the copy is run.
"""

import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from attrs import evolve

from tests.support import hooks_page
from vmcore import Host, Kernel, Symbols, open_dump
from vmcore.dump import open as opening
from vmcore.errors import DumpError, PageFault
from vmcore.linking.registry import load

ROOT = Path(__file__).parents[2]
#: All that a symbol may use of its kernel.
MEMBERS = [name for name in vars(Host) if not name.startswith("_")]
#: The complete plugin of docs/hooks.md: a record, its symbol and the hook that brings it.
SOURCE = re.search(r'^"""vmcore_toy32:[^`]*', hooks_page.PAGE.read_text("utf-8"), re.MULTILINE)[0]
#: Its imports, of a built-in architecture, which imports what it uses from where it is defined.
IMPORTS = """from vmcore.architecture import Architecture, Layout, LayoutRequest, Level, Symbols
from vmcore.host import Host
"""

#: A format of one stretch of RAM: a magic, its physical address and its bytes.
FORMAT = '''"""Toy dumps: a magic, the physical address of the first byte, and the bytes."""

from __future__ import annotations

import struct
from mmap import mmap

import numpy as np

from vmcore.dump.segments import Contents
from vmcore.errors import DumpError

MAGIC = b"TOY!"
_HEADER = struct.Struct("<4sQ")


def read_toy(path: str, file: mmap) -> Contents:
    """Return the one segment of a toy dump."""
    if len(file) < _HEADER.size:
        raise DumpError(path, 0, f"{len(file)} bytes", f"a header of {_HEADER.size}; copy the dump again")
    _, start = _HEADER.unpack_from(file)
    columns = ([start], [len(file) - _HEADER.size], [_HEADER.size])
    return Contents(*(np.array(column, np.uint64) for column in columns))
'''
DUMP = struct.pack("<4sQ", b"TOY!", 0x4000) + bytes(range(64))


# ---- from outside


@pytest.fixture
def toy_format(monkeypatch):
    """Add the toy format as one new module and one row."""
    module = ModuleType("toy")
    exec(compile(FORMAT, "toy.py", "exec"), module.__dict__)
    row = opening.Format("toy", module.MAGIC, module.read_toy)
    monkeypatch.setattr(opening, "FORMATS", (*opening.FORMATS, row))
    monkeypatch.setattr(opening, "NAMES", (*opening.NAMES, row.name))


def test_a_dump_of_an_added_format_is_read(toy_format, tmp_path):
    path = tmp_path / "ram.toy"
    path.write_bytes(DUMP)
    for given in ({}, {"format": "toy"}):
        with open_dump(path, **given) as dump:
            assert dump.word(0x4010, 4) == 0x13121110
            assert dump.word(0x4040, 4) is None


def test_an_added_format_is_refused_like_the_others(toy_format, tmp_path):
    path = tmp_path / "ram.toy"
    path.write_bytes(DUMP[:8])
    with pytest.raises(DumpError, match="found 8 bytes, expected a header of 12; copy the dump again"):
        open_dump(path)
    path.write_bytes(DUMP)
    with pytest.raises(DumpError, match="a base or banks for the toy format"):
        open_dump(path, base=0)


def test_without_the_row_the_dump_is_of_no_known_format(tmp_path):
    path = tmp_path / "ram.toy"
    path.write_bytes(DUMP)
    with pytest.raises(DumpError):
        open_dump(path)


def test_an_added_architecture_boots_allocates_and_flushes():
    plugin, handed = ModuleType("vmcore_toy32"), []
    exec(compile(SOURCE, "vmcore_toy32.py", "exec"), plugin.__dict__)

    def flush(kernel: Host, cpu: int, start: int, end: int) -> None:
        handed.append((start, end, [name for name in MEMBERS if not hasattr(kernel, name)]))
        plugin.flush_tlb_kernel_range(kernel, cpu, start, end)

    plugin.TOY32 = evolve(plugin.TOY32, symbols=Symbols(flush_tlb_kernel_range=flush))
    registry = load(points=[])
    registry.add(plugin, "toy32")
    k = Kernel("toy32", registry=registry, ram="64M", cpus=2)
    area = k.vmalloc(3 * 4096)
    k.cpu.store(area, b"toy")
    assert k.cpu.load(area, 3) == b"toy"
    k.vfree(area)
    assert handed == [(area, area + 4 * 4096, [])]
    assert k.flush_log[-1].symbol == "flush_tlb_kernel_range"
    assert [(did.unit, did.scope, did.dropped) for did in k.flush_log[-1].actions] == [("tlb", "pages", 1)]
    with pytest.raises(PageFault):
        k.cpu.load(area, 1)


# ---- as a built-in one


@pytest.fixture
def clone(tmp_path):
    """Return a copy of the sources that a program in it imports in place of those installed."""
    for folder in ("vmcore", "arches", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "data"))
    for name in ("tox.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "vmcore_arches").symlink_to("arches")
    return tmp_path


def replace(path, old, new):
    """Change one place of a file."""
    text = path.read_text("utf-8")
    assert text.count(old) == 1, f"{path}: found {old!r} {text.count(old)} times, expected once"
    path.write_text(text.replace(old, new), "utf-8")


def changes(clone):
    """Return the files of a copy that are new, and those that are changed."""
    files = [
        path.relative_to(clone)
        for path in sorted(clone.rglob("*"))
        if path.is_file() and path.suffix in (".py", ".pyi", ".ini", ".toml") and "vmcore_arches" not in path.parts
    ]
    new = [str(path) for path in files if not (ROOT / path).exists()]
    changed = [str(p) for p in files if str(p) not in new and (ROOT / p).read_bytes() != (clone / p).read_bytes()]
    return new, changed


def run(clone, *arguments):
    """Run Python in a copy."""
    environment = os.environ | {"PYTHONPATH": str(clone), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=clone, capture_output=True, text=True, check=False
    )


def run_tests(clone, *arguments):
    """Run tests in a copy."""
    return run(clone, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)


def test_a_copy_without_a_change_has_none(clone):
    assert changes(clone) == ([], [])
    assert run(clone, "-c", "import vmcore; print(vmcore.__file__)").stdout == f"{clone}/vmcore/__init__.py\n"
    assert "toy32" not in run(clone, "-m", "vmcore", "arches").stdout


def test_a_built_in_format_is_one_new_file_and_one_row(clone):
    (clone / "vmcore" / "dump" / "formats" / "toy.py").write_text(FORMAT)
    opener = clone / "vmcore" / "dump" / "open.py"
    replace(opener, "import elf, lime, raw\n", "import elf, lime, raw, toy\n")
    replace(opener, '    Format("raw",', '    Format("toy", toy.MAGIC, toy.read_toy),\n    Format("raw",')
    (clone / "ram.toy").write_bytes(DUMP)
    program = "from vmcore import open_dump; print(hex(open_dump('ram.toy').word(0x4010, 4)))"
    result = run(clone, "-c", program)
    assert (result.stdout, result.stderr) == ("0x13121110\n", "")
    help_text = run(clone, "-m", "vmcore", "walk", "--help").stdout
    assert "toy" in help_text
    assert changes(clone) == (["vmcore/dump/formats/toy.py"], ["vmcore/dump/open.py"])


def test_a_built_in_architecture_is_one_new_file_and_rows_in_two(clone):
    record = SOURCE.partition("@hookimpl")[0].replace("vmcore_api = (1, 2)\n", "")
    path = clone / "arches" / "toy32.py"
    path.write_text(record)
    replace(path, re.search(r"^from vmcore import .*\n", record, re.MULTILINE)[0], IMPORTS)
    arches = clone / "arches" / "__init__.py"
    replace(arches, "from .x86.i386 import", "from .toy32 import TOY32\nfrom .x86.i386 import")
    replace(arches, "    return I386,", "    return TOY32, I386,")
    replace(clone / "tox.ini", "    i386, i386-highmem,", "    toy32, i386, i386-highmem,")

    listed = run(clone, "-m", "vmcore", "arches", "toy32")
    assert listed.returncode == 0, listed.stderr
    assert "A made-up 32-bit machine" in listed.stdout
    house = ("tests/house/test_floors.py", "tests/house/test_packaging.py")
    named = "use_the_contract_only or for_every_built_in_architecture"
    rules = run_tests(clone, *house, "-k", named)
    assert rules.returncode == 0, rules.stdout
    assert "2 passed" in rules.stdout
    machine = run_tests(clone, "tests/port/test_vmalloc.py", "-k", "toy32")
    assert machine.returncode == 0, machine.stdout
    assert re.search(r"[1-9]\d* passed", machine.stdout)
    assert changes(clone) == (["arches/toy32.py"], ["arches/__init__.py", "tox.ini"])


def test_an_architecture_that_tox_does_not_name_is_noticed(clone):
    replace(clone / "tox.ini", " armv5,", "")
    result = run_tests(clone, "tests/house/test_packaging.py", "-k", "tox")
    assert result.returncode == 1
    assert "test_tox_has_an_environment_for_every_built_in_architecture" in result.stdout
