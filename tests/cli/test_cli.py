"""The command line: quick to start, one line for a mistake, tables that hold at 80 columns."""

import json
import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import click
import pytest
from attrs import frozen
from click.testing import CliRunner

import vmcore
from vmcore import errors, hookimpl
from vmcore.architecture import Architecture, Layout, Leaf, Level, Window, cut_banks
from vmcore.cli import COMMANDS, main
from vmcore.cli.options import machine_options
from vmcore.errors import KernelOops, LayoutError, PluginError, UnitError
from vmcore.linking.registry import load

ROOT = Path(__file__).parents[2]
FRAME = [(12, 20, 12)]
ALL_ONES = 0xFFFF_FFFF


def toy_layout(request):
    if request.vmalloc is not None:
        raise LayoutError("toy: vmalloc= is refused, the window is fixed")
    banks, notes = cut_banks(request.banks(0), 0x4000_0000, "it is a toy")
    return Layout(
        page_offset=0xC000_0000, phys_offset=0, lowmem_end=0x2000_0000, vmalloc_start=0xE080_0000,
        vmalloc_end=0xFFBF_FFFF, swapper_pg_dir=0x1000, kernel_end=0x40_0000, first_kernel_pgd=768, banks=banks,
        notes=notes, modules=Window(0xBF00_0000, 0xC000_0000),
        regions=(("fixmap", Window(0xFFF0_0000, 0xFFFF_F000)),),
    )  # fmt: skip


def toy(name="toy", **changes):
    large = Leaf("4 MiB page", 0x80, 0x80, 22, [(22, 10, 22)])
    levels = [
        Level(name="pgd", shift=22, bits=10, entry_bytes=4, frame=FRAME, none_mask=ALL_ONES, table_flags=0x3,
              bad_mask=0xFFF, good_value=0x3, leaves=[large], flag_names={"P": 1, "RW": 2}),
        Level(name="pte", shift=12, bits=10, entry_bytes=4, frame=FRAME, none_mask=ALL_ONES),
    ]  # fmt: skip
    values = {"layout": toy_layout, "description": "A made-up machine."} | changes
    return Architecture(
        name=name, word_bits=32, page_shift=12, levels=levels, page_kernel=0x3, protections={"IOREMAP": 0x13},
        zones=["NORMAL", "HIGHMEM"], platforms=["board", "other"], **values,
    )  # fmt: skip


def wide(name):
    """A machine whose addresses fill the columns."""
    levels = [
        Level(name="pgd", shift=39, bits=9, entry_bytes=8, frame=[(12, 40, 12)], none_mask=1, table_flags=1),
        Level(name="pud", shift=30, bits=9, entry_bytes=8, frame=[(12, 40, 12)], none_mask=1, table_flags=1),
        Level(name="pmd", shift=21, bits=9, entry_bytes=8, frame=[(12, 40, 12)], none_mask=1, table_flags=1),
        Level(name="pte", shift=12, bits=9, entry_bytes=8, frame=[(12, 40, 12)], none_mask=1),
    ]

    def layout(request):
        return Layout(
            page_offset=0xFFFF_8100_0000_0000, phys_offset=0, lowmem_end=request.ram,
            vmalloc_start=0xFFFF_C200_0000_0000, vmalloc_end=0xFFFF_E1FF_FFFF_FFFF, swapper_pg_dir=0x1000,
            kernel_end=0x40_0000, first_kernel_pgd=256, banks=request.banks(0),
        )  # fmt: skip

    return Architecture(
        name=name, description="hyphen-ated " * 20, word_bits=64, page_shift=12, levels=levels, page_kernel=0x1,
        zones=["NORMAL"], layout=layout,
    )  # fmt: skip


class Plugin:
    """A plugin that brings records."""

    vmcore_api = (1, 0)

    def __init__(self, *records):
        self.records = records

    @hookimpl
    def vmcore_architectures(self):
        return self.records


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """No variables, no file, a terminal of 80 columns."""
    for name in [name for name in os.environ if name.startswith("VMCORE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def installed(monkeypatch):
    """Return a function that makes records, and nothing else, the installed architectures."""

    def install(*records, broken=()):
        def fake(block=()):
            registry = load(points=[])
            registry.add(Plugin(*records), "toys")
            registry.broken.update({error.plugin: error for error in broken})
            return registry

        monkeypatch.setattr("vmcore.cli.arches.load", fake)

    return install


def run(*arguments, **options):
    return CliRunner().invoke(main, list(arguments), **options)


def lines(result):
    return click.unstyle(result.output).splitlines()


# ---- the group


def test_help_lists_every_command_without_importing_one(monkeypatch):
    monkeypatch.setattr("vmcore.cli.import_module", lambda name: pytest.fail(f"imported {name}"))
    result = run("--help")
    assert result.exit_code == 0
    for name, text in COMMANDS.items():
        assert f"  {name}" in result.output
        assert text in result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_says_of_a_command_what_its_own_help_says(name):
    command = import_module(f"vmcore.cli.{name.replace('-', '_')}").command
    assert isinstance(command, click.Command)
    assert command.get_short_help_str(200) == COMMANDS[name]
    assert run(name, "--help").exit_code == 0


def test_an_unknown_command_names_the_nearest():
    result = run("arch")
    assert result.exit_code == 2
    assert "unknown command 'arch': did you mean 'arches'? valid: arches" in result.stderr


def test_an_unknown_option_of_the_group():
    result = run("--colour")
    assert result.exit_code == 2
    assert "No such option" in result.stderr


def test_version():
    assert run("--version").output == f"vmcore {vmcore.__version__}\n"


def add_command(monkeypatch, function):
    command = click.command(name="try")(function)
    monkeypatch.setitem(COMMANDS, "try", "Try.")
    monkeypatch.setattr("vmcore.cli.import_module", lambda name: type("Module", (), {"command": command}))


def test_a_vmcore_error_is_one_line_and_its_notes_and_status_2(monkeypatch):
    def fail():
        error = UnitError("ram: found 'x', expected a number")
        error.add_note("from vmcore.toml")
        raise error

    add_command(monkeypatch, fail)
    result = run("try")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "vmcore: error: ram: found 'x', expected a number\nvmcore: note: from vmcore.toml\n"


def test_a_kernel_that_dies_is_a_vmcore_error_too(monkeypatch):
    def fail():
        raise KernelOops(0xF000_0000, "read")

    add_command(monkeypatch, fail)
    assert run("try").stderr == "vmcore: error: kernel oops: read at 0xf0000000\n"


def test_an_error_of_the_program_itself_is_not_hidden(monkeypatch):
    def fail():
        raise KeyError("a bug")

    add_command(monkeypatch, fail)
    result = run("try")
    assert isinstance(result.exception, KeyError)


def test_interrupted(monkeypatch):
    def fail():
        raise KeyboardInterrupt

    add_command(monkeypatch, fail)
    result = run("try")
    assert (result.exit_code, result.stderr) == (130, "vmcore: interrupted\n")


# ---- as a process of its own


def process(*arguments, stdout=subprocess.PIPE):
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    return subprocess.run(
        [sys.executable, *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        check=False,
    )


def test_help_starts_quickly():
    best = 60.0
    for _ in range(3):
        before = time.perf_counter()
        result = process("-m", "vmcore", "--help")
        best = min(best, time.perf_counter() - before)
        assert (result.returncode, result.stderr) == (0, "")
    assert best < 1.0


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom vmcore.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit:\n    pass\n"
        "print('heavy:', sorted({'numpy', 'attr', 'attrs', 'cattrs', 'rich', 'pluggy'} & set(sys.modules)))\n"
    )
    result = process("-c", code)
    assert result.stdout.splitlines()[-1] == "heavy: []", result.stderr


def test_module_and_mistake_as_a_process():
    result = process("-m", "vmcore", "arches", "--ram", "3X")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "vmcore: error: --ram: found '3X', expected a number of bytes such as 64K, 1G or 0x100000\n"
    )


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device"), "reading or writing failed: No space left on device"),
        (PermissionError(13, "Permission denied", "a.txt"), "a.txt: Permission denied"),
        (OSError("odd"), "reading or writing failed: odd"),
        (MemoryError(), "out of memory: ask for less, a smaller trace or --ram"),
        (MemoryError("1 TiB"), "out of memory: 1 TiB"),
    ],
)
def test_what_the_machine_refuses_is_one_line_and_status_2(monkeypatch, error, message):
    def fail():
        raise error

    add_command(monkeypatch, fail)
    result = run("try")
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"vmcore: error: {message}\n")


COMMAND_LINES = [
    ["arches", "--json"], ["arches"], ["samples"], ["--help"], ["--version"], ["replay", "--help"],
    ["replay", "sample:riscv64-sv39", "--arch", "x86_64"],
]  # fmt: skip


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", COMMAND_LINES)
def test_a_full_disk_is_one_line_and_status_2(arguments):
    with open("/dev/full", "w", encoding="utf-8") as full:
        result = process("-m", "vmcore", *arguments, stdout=full)
    assert result.stderr == "vmcore: error: reading or writing failed: No space left on device\n"
    assert result.returncode == 2


@pytest.mark.parametrize("arguments", COMMAND_LINES)
def test_a_broken_pipe_is_quiet(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = process("-m", "vmcore", *arguments, stdout=writer)
    finally:
        os.close(writer)
    assert result.stderr == ""
    assert result.returncode == 141


# ---- the lazy package


def test_the_package_exports_what_it_says():
    assert vmcore.Architecture is Architecture
    assert vmcore.flags.GFP.WAIT == 0x10
    assert vmcore.hookimpl is hookimpl
    assert vmcore.KernelBug is errors.KernelBug
    assert set(vmcore.__all__) <= set(dir(vmcore))
    with pytest.raises(AttributeError, match="module 'vmcore' has no attribute 'Kernle'"):
        _ = vmcore.Kernle


def test_the_package_exports_every_error():
    own = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and value.__module__ == "vmcore.errors"
    }
    assert own <= set(vmcore.__all__)


def test_importing_the_package_imports_nothing_else():
    code = "import sys, vmcore; print([n for n in sys.modules if n.startswith('vmcore.') or n == 'numpy'])"
    assert process("-c", code).stdout == "[]\n"


# ---- options


def shown(*arguments, names=()):
    seen = []

    @click.command()
    @machine_options(*names)
    @click.option("--own")
    def command(selection, own):
        seen.append((selection, own))

    result = CliRunner().invoke(command, list(arguments), standalone_mode=False)
    if result.exception:
        raise result.exception
    return seen[0]


def test_all_options_arrive_as_one_selection():
    selection, own = shown(
        *("--arch", "toy", "--ram", "1G", "--vmalloc", "64M", "--platform", "board", "--cpus", "2"),
        *("--nodes", "3", "--block", "a", "--block", "b,c", "--own", "x"),
    )
    assert (selection.arch, selection.ram, selection.vmalloc, selection.platform) == (
        "toy",
        1 << 30,
        64 << 20,
        "board",
    )
    assert (selection.cpus, selection.nodes, selection.block, own) == (2, 3, ("a", "b", "c"), "x")
    assert selection.origin("cpus") == "from --cpus"


def test_an_option_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("VMCORE_ARCH", "environment")
    monkeypatch.setenv("VMCORE_BLOCK", "x")
    selection, _ = shown("--arch", "option")
    assert (selection.arch, selection.block) == ("option", ("x",))


def test_an_option_that_is_wrong_is_named_as_an_option():
    with pytest.raises(
        errors.ConfigurationError, match=r"^--cpus: found 'many', expected a whole number, 1 or more$"
    ):
        shown("--cpus", "many")


def test_a_command_may_take_some_of_the_options():
    selection, _ = shown("--ram", "1G", names=("ram", "block"))
    assert (selection.ram, selection.arch) == (1 << 30, "")
    with pytest.raises(click.NoSuchOption):
        shown("--cpus", "2", names=("ram",))


# ---- arches


def test_the_list(installed):
    installed(toy())
    assert lines(run("arches")) == [
        "architecture  bits levels        size  vmalloc window",
        "toy             32      2     500 MiB  0xe0800000-0xffbfffff",
        "    A made-up machine; from plugin 'toys'",
        "    4 KiB pages, IOREMAP_MAX_ORDER 19, lowmem 512 MiB, highmem 512 MiB",
    ]


def test_the_list_for_another_ram(installed):
    installed(toy())
    assert lines(run("arches", "--ram", "256M"))[-1].endswith("lowmem 256 MiB, highmem 0 B")


def test_a_layout_that_refuses_shows_its_reason(installed):
    installed(toy(), wide("wide"))
    result = run("arches", "--vmalloc", "1G")
    assert result.exit_code == 0
    assert lines(result)[1].split() == ["toy", "32", "2", "-", "-"]
    assert "    no layout: toy: vmalloc= is refused, the window is fixed" in lines(result)
    assert "0xffffc20000000000-0xffffe1ffffffffff" in result.output


def test_a_layout_function_that_fails_hides_nothing_else(installed):
    installed(toy("bad", layout=lambda request: {}["x"]), toy())
    found = lines(run("arches"))
    assert "    no layout: bad: the layout function raised KeyError: 'x', expected a Layout" in found
    assert any(line.startswith("toy ") and "0xe0800000-0xffbfffff" in line for line in found)


def test_broken_plugins_are_listed_below(installed):
    error = PluginError("bad", "bad-plugin 0.1", "bad_module", "cannot be imported: no")
    installed(toy(), broken=[error])
    assert lines(run("arches"))[-1] == f"cannot be used: {error}"


def test_nothing_installed(monkeypatch):
    monkeypatch.setattr("vmcore.cli.arches.load", lambda block: load(points=[]))
    assert lines(run("arches"))[-1] == "none: install the package (pip install .)"


def test_a_terminal_of_80_columns_holds_every_value_whole(installed, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    installed(
        wide("wide-with-16-abc"), toy(), broken=[PluginError("bad", "dist 1", "module", "it " + "failed " * 30)]
    )
    for arguments in (["arches"], ["arches", "wide-with-16-abc", "toy"]):
        result = run(*arguments)
        assert "\x1b[" in result.output
        assert max(len(line.rstrip()) for line in lines(result)) <= 80
        assert not any(line.endswith("hyphen-") for line in lines(result))
        assert any("0xffffc20000000000-0xffffe1ffffffffff" in line for line in lines(result))


def test_without_a_terminal_nothing_is_coloured_or_wrapped(installed):
    installed(wide("wide"))
    result = run("arches")
    assert "\x1b" not in result.output
    assert len(lines(result)) == 4
    assert len(lines(result)[2]) > 80


def test_everything_of_one(installed):
    installed(toy(), wide("other"))
    assert (
        lines(run("arches", "toy", "--ram", "2G"))
        == """\
name                   toy
plugin                 toys
aliases                none
description            A made-up machine.
era                    2.6.24
word_bits              32
page_size              4 KiB
ioremap_max_order      19
default_ram            1 GiB
max_cpus               32
platforms              board, other
zones                  NORMAL the rest, HIGHMEM the rest
protections
  PAGE_KERNEL            0x3
  IOREMAP                0x13
levels
  pgd    shift 22, 1,024 entries of 4 bytes
         bits 31:12 are address bits 31:12
         none: & 0xffffffff == 0; present: & 0x1 != 0
         missing (a table is made): & 0xffffffff == 0
         bad: & 0xfff != 0x3
         entry of a table: address | 0x3
         leaf 4 MiB page: & 0x80 == 0x80, maps 4 MiB
         flags: P=0x1 RW=0x2
  pte    shift 12, 1,024 entries of 4 bytes
         bits 31:12 are address bits 31:12
         none: & 0xffffffff == 0; present: & 0x1 != 0
         missing (a table is made): & 0xffffffff == 0
hardware
  canonical_bits         0
  cache                  none
  mirror                 none
  levels                 as above
layout
  vmalloc                0xe0800000-0xffbfffff (500 MiB)
  modules                0xbf000000-0xc0000000 (16 MiB)
  regions
    fixmap                 0xfff00000-0xfffff000 (1020 KiB)
  page_offset            0xc0000000
  phys_offset            0x0
  high_memory            0xe0000000
  swapper_pg_dir         0x1000
  kernel_end             0x400000
  first_kernel_pgd       768
  banks                  0x0-0x40000000
  lowmem                 512 MiB
  highmem                512 MiB
  notes                  <4>Warning: 1 GiB of RAM above 0x40000000 cannot be used: it is a toy.""".splitlines()
    )


def test_an_unknown_name(installed):
    installed(toy())
    result = run("arches", "tyo")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(
        "vmcore: error: unknown architecture 'tyo': did you mean 'toy'? installed: toy."
    )


def test_json(installed):
    installed(toy(), wide("wide"), broken=[PluginError("bad", "dist 1", "module", "no")])
    answer = json.loads(run("arches", "--json", "--vmalloc", "1M").stdout)
    assert list(answer) == ["schema", "architectures", "broken", "blocked"]
    assert answer["schema"] == "vmcore.arches/1"
    assert answer["broken"] == [{"plugin": "bad", "distribution": "dist 1", "module": "module", "cause": "no"}]
    refused, laid_out = answer["architectures"]
    assert refused["refused"] == "toy: vmalloc= is refused, the window is fixed"
    assert "layout" not in refused
    assert laid_out["layout"]["vmalloc"] == {
        "start": "0xffffc20000000000",
        "end": "0xffffe1ffffffffff",
        "size": 0x1FFF_FFFF_FFFF,
    }
    assert refused["levels"][0] == {
        "name": "pgd", "shift": 22, "entries": 1024, "entry_bytes": 4, "offset": 0, "frame": [[12, 20, 12]],
        "none_mask": "0xffffffff", "present_mask": "0x1", "missing_mask": "0xffffffff", "bad_mask": "0xfff",
        "good_value": "0x3", "table_flags": "0x3", "repeat": [], "prebuilt": False,
        "leaves": {"4 MiB page": {"mask": "0x80", "value": "0x80", "size": 4 << 20}},
        "flags": {"P": "0x1", "RW": "0x2"},
    }  # fmt: skip
    assert [facts["name"] for facts in json.loads(run("arches", "wide", "--json").stdout)["architectures"]] == [
        "wide"
    ]


NONE = [pytest.param("", marks=pytest.mark.skip(reason="no architecture is installed"))]


@pytest.mark.parametrize("name", list(load().architectures) or NONE)
def test_every_installed_architecture_is_described(name):
    (facts,) = json.loads(run("arches", name, "--json").stdout)["architectures"]
    assert facts["name"] == name
    assert facts["layout"]["vmalloc"]["size"] > 0
    assert run("arches", name).exit_code == 0


# ---- samples


@frozen
class Sample:
    name: str
    description: str
    kernel: str
    architecture: tuple[str, ...]
    events: int
    source: str


@frozen
class DumpSample:
    name: str
    description: str
    kernel: str
    record: str
    pages: int
    areas: int
    source: str


def test_samples(monkeypatch):
    records = {
        "long-name": Sample("long-name", "A machine.", "Linux 6.1", ("a", "b"), 12, "made up"),
        "x": Sample("x", "Another.", "Linux 6.2", ("c",), 123456, "made up"),
    }
    monkeypatch.setattr("vmcore.samples.names", lambda: list(records), raising=False)
    monkeypatch.setattr("vmcore.samples.describe", records.__getitem__, raising=False)
    dump = DumpSample("ram", "A third.", "Linux 6.3", "pdp11", 3, 45, "made up")
    monkeypatch.setattr("vmcore.samples.dumps", lambda: ["ram"])
    monkeypatch.setattr("vmcore.samples.describe_dump", {"ram": dump}.__getitem__)
    assert run("samples").output.splitlines() == [
        "traces, for vmcore replay",
        "long-name      12 events  Linux 6.1",
        "    A machine.",
        "x          123,456 events  Linux 6.2",
        "    Another.",
        "",
        "RAM dumps, for vmcore walk and vmcore audit",
        "ram      45 areas  Linux 6.3, read by pdp11",
        "    A third.",
    ]
    answer = json.loads(run("samples", "--json").stdout)
    assert answer["schema"] == "vmcore.samples/1"
    assert answer["samples"][0] == {
        "name": "long-name",
        "description": "A machine.",
        "kernel": "Linux 6.1",
        "architecture": ["a", "b"],
        "events": 12,
        "source": "made up",
    }
    assert answer["dumps"] == [
        {
            "name": "ram",
            "description": "A third.",
            "kernel": "Linux 6.3",
            "record": "pdp11",
            "pages": 3,
            "areas": 45,
            "source": "made up",
        }
    ]
