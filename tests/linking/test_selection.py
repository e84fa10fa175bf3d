"""Nearest wins, and every mistake names its place, what was found and what is valid."""

import os
import re
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from vmcore.cli import main
from vmcore.errors import ConfigurationError, UnitError
from vmcore.kernel import Kernel
from vmcore.linking.registry import Registry
from vmcore.linking.selection import KEYS, Selection, find_file, select
from vmcore.units import Bank


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """Start each test in an empty directory, without VMCORE_ variables."""
    for name in [name for name in os.environ if name.startswith("VMCORE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def refused(**arguments):
    """Return message and notes of the error `select` must raise."""
    with pytest.raises(ConfigurationError) as caught:
        select(**arguments)
    return [str(caught.value), *getattr(caught.value, "__notes__", [])]


def test_defaults_of_what_nobody_chose():
    chosen = select(arch="toy")
    assert chosen == Selection(arch="toy", ram=None, vmalloc=None, platform=None, cpus=1, nodes=1, block=())
    assert (chosen.origin("arch"), chosen.origin("cpus")) == ("from argument arch", "by default")


def test_each_key_comes_from_the_nearest_place(monkeypatch):
    Path("vmcore.toml").write_text(
        'arch = "file"\nram = "1G"\nvmalloc = "1M"\nplatform = "board"\nnodes = 4\nblock = ["x"]\n'
    )
    monkeypatch.setenv("VMCORE_ARCH", "environment")
    monkeypatch.setenv("VMCORE_RAM", "2G")
    monkeypatch.setenv("VMCORE_VMALLOC", "2M")
    chosen = select(arch="argument", ram="3G", cpus=None)
    assert chosen == Selection(
        arch="argument", ram=3 << 30, vmalloc=2 << 20, platform="board", cpus=1, nodes=4, block=("x",)
    )
    assert [chosen.origin(key) for key in KEYS] == [
        "from argument arch",
        "from argument ram",
        "from VMCORE_VMALLOC",
        "from vmcore.toml",
        "by default",
        "from vmcore.toml",
        "from vmcore.toml",
    ]


def test_a_program_says_how_it_calls_its_options():
    assert select(named="--{}", arch="toy").origin("arch") == "from --arch"
    assert refused(named="--{}", cpus="two") == ["--cpus: found 'two', expected a whole number, 1 or more"]


def test_every_variable_is_read(monkeypatch):
    for name, text in [
        ("ARCH", "toy"),
        ("RAM", "0-1M,2M-3M"),
        ("VMALLOC", "64M"),
        ("PLATFORM", "board"),
        ("CPUS", "2"),
        ("NODES", "3"),
        ("BLOCK", "one, two,"),
    ]:
        monkeypatch.setenv(f"VMCORE_{name}", text)
    banks = (Bank(0, 1 << 20), Bank(2 << 20, 3 << 20))
    assert select() == Selection(
        arch="toy", ram=banks, vmalloc=64 << 20, platform="board", cpus=2, nodes=3, block=("one", "two")
    )


def test_an_empty_variable_counts_as_unset(monkeypatch):
    Path("vmcore.toml").write_text('arch = "file"\n')
    monkeypatch.setenv("VMCORE_ARCH", "")
    assert select().arch == "file"


def test_an_empty_list_as_argument_overrides_the_file():
    Path("vmcore.toml").write_text('arch = "file"\nblock = ["x"]\n')
    assert select(block=()).block == ()


def test_banks_may_be_given_as_records():
    banks = (Bank(0, 4096), Bank(8192, 12288))
    assert select(arch="toy", ram=banks).ram == banks


# ---- the file


def test_the_nearest_file_wins_whole(tmp_path, monkeypatch):
    inner = tmp_path / "inner" / "deep"
    inner.mkdir(parents=True)
    (tmp_path / "vmcore.toml").write_text('arch = "outer"\nram = "1G"\n')
    (tmp_path / "inner" / "vmcore.toml").write_text('arch = "inner"\n')
    monkeypatch.chdir(inner)
    chosen = select()
    assert (chosen.arch, chosen.ram) == ("inner", None)
    assert chosen.origin("arch") == f"from {tmp_path}/inner/vmcore.toml"


def test_pyproject_counts_where_it_has_the_table(tmp_path, monkeypatch):
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "pyproject.toml").write_text('[tool.vmcore]\narch = "outer"\n')
    (inner / "pyproject.toml").write_text('[project]\nname = "other"\n[tool.other]\narch = "no"\n')
    monkeypatch.chdir(inner)
    assert select().arch == "outer"
    (inner / "pyproject.toml").write_text('[tool.vmcore]\narch = "inner"\n')
    chosen = select()
    assert (chosen.arch, chosen.origin("arch")) == ("inner", "from pyproject.toml")


def test_vmcore_toml_wins_over_pyproject_beside_it():
    Path("vmcore.toml").write_text('arch = "own"\n')
    Path("pyproject.toml").write_text('[tool.vmcore]\narch = "project"\n')
    assert select().arch == "own"


def test_an_empty_table_ends_the_search(tmp_path, monkeypatch):
    inner = tmp_path / "inner"
    inner.mkdir()
    (tmp_path / "vmcore.toml").write_text('arch = "outer"\n')
    (inner / "pyproject.toml").write_text("[tool.vmcore]\n")
    monkeypatch.chdir(inner)
    assert select(arch="given").sources == {"arch": "argument arch"}


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('arch = "toy"\nram = \n', 2, "Invalid value (at line 2, column 7)"),
        ('arch = "toy"\n\nblock = [', 3, "Invalid value (at end of document)"),
    ],
)
def test_a_syntax_error_names_file_and_line(tmp_path, text, line, message):
    Path("vmcore.toml").write_text(text)
    assert refused() == [f"{tmp_path}/vmcore.toml:{line}: not valid TOML: {message}"]


def test_a_file_that_is_no_text(tmp_path):
    Path("vmcore.toml").write_bytes(b'arch = "\xff"\n')
    (message,) = refused()
    assert message.startswith(f"{tmp_path}/vmcore.toml: not valid TOML: found a byte that is not UTF-8")


def test_tool_vmcore_must_be_a_table(tmp_path):
    Path("pyproject.toml").write_text("[tool]\nvmcore = 3\n")
    assert refused() == [f"{tmp_path}/pyproject.toml: tool.vmcore: found 3, expected a table [tool.vmcore]"]


# ---- files as they are found

BROKEN = [
    pytest.param(b'[project\nname = "x"\n', "not valid TOML", id="bad TOML"),
    pytest.param(b'name = "\xff"\n', "a byte that is not UTF-8", id="not UTF-8"),
    pytest.param('[project]\nname = "x"\n'.encode("utf-16"), "a byte that is not UTF-8", id="UTF-16"),
    pytest.param(b"x = " + b"[" * 5000, "nested too deeply", id="deep"),
    pytest.param(b"x = " + b"9" * 5000, "not valid TOML", id="long number"),
    pytest.param(b"# \n" * (1 << 19), "more than 0x100000 bytes", id="large"),
]


@pytest.mark.parametrize(("data", "reason"), BROKEN)
def test_another_project_s_broken_file_stops_nothing_that_needs_nothing_of_it(tmp_path, monkeypatch, data, reason):
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    Path("pyproject.toml").write_bytes(data)
    chosen = select(arch="toy")
    assert (chosen, chosen.warnings) == (Selection(arch="toy"), ())
    monkeypatch.setenv("VMCORE_ARCH", "toy")
    assert select().arch == "toy"
    monkeypatch.delenv("VMCORE_ARCH")
    message, *notes = refused()
    assert message.startswith("no architecture chosen")
    assert len(notes) == 1
    assert notes[0].startswith(f"a file that may say it was passed over: {inner}/pyproject.toml:")
    assert reason in notes[0]
    (tmp_path / "vmcore.toml").write_text('arch = "outer"\n')
    assert (select().arch, find_file()) == ("outer", tmp_path / "vmcore.toml")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    "text",
    ["[tool.vmcore]\nram = \n", "x = 1\n[ tool . 'vmcore' ]\n=", "tool.vmcore.x = \n", "\t[tool.vmcore.x]\n="],
)
def test_a_broken_file_that_names_vmcore_is_an_error(text, encoding):
    Path("pyproject.toml").write_text(text, encoding=encoding)
    assert "pyproject.toml" in refused(arch="toy")[0]


@pytest.mark.parametrize("text", ["[tool.vmcore-x]\n=", "needs = ['vmcore'\n", "[tool.other.vmcore]\n="])
def test_a_broken_file_that_names_something_similar_is_not(text):
    Path("pyproject.toml").write_text(text)
    assert select(arch="toy").arch == "toy"


@pytest.mark.parametrize("name", ["vmcore.toml", "pyproject.toml"])
def test_a_file_that_may_not_be_read(tmp_path, monkeypatch, name):
    Path(name).write_text("")

    def deny(path, mode):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", deny)
    message = f"{tmp_path}/{name}: cannot be read: Permission denied"
    if name == "vmcore.toml":
        assert refused(arch="toy") == [message]
    else:
        assert select(arch="toy").warnings == (f"{message}; it is left out, whatever it says for vmcore",)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda path: path.mkdir(), "a folder"),
        (lambda path: path.symlink_to("nowhere"), "a link to nothing"),
        (os.mkfifo, "something else"),
    ],
    ids=["folder", "link", "pipe"],
)
def test_a_file_that_is_none(tmp_path, make, kind):
    for name in ("pyproject.toml", "vmcore.toml"):
        assert select(arch="toy").arch == "toy"
        make(tmp_path / name)
    assert refused(arch="toy") == [
        f"{tmp_path}/vmcore.toml: found {kind}, expected a text file; rename or remove it"
    ]


@pytest.mark.parametrize("name", ["vmcore.toml", "pyproject.toml"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_files_of_other_systems(name, bom, newline):
    lines = [b'arch = "toy"', b"cpus = 2", b""]
    head = [b"[tool.vmcore]"] if name == "pyproject.toml" else []
    Path(name).write_bytes(bom + newline.join([*head, *lines]))
    assert select() == Selection(arch="toy", cpus=2)


@pytest.mark.parametrize("text", ["x = " + "[" * 5000, "x = " + "{y=" * 5000, "arch" + ".x" * 5000 + " = 1"])
def test_deep_nesting_is_one_line(text):
    Path("vmcore.toml").write_text(text)
    (message,) = refused(arch="toy")
    assert "vmcore.toml: " in message
    assert len(message) < 400
    assert "\n" not in message


def test_a_directory_that_was_removed_has_no_file(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert select(arch="toy").arch == "toy"


def test_a_long_value_is_shortened():
    Path("vmcore.toml").write_text(f'cpus = "{"x" * 10000}"\n')
    assert len(refused(arch="toy")[0]) < 200


def test_a_long_number_in_a_variable(monkeypatch):
    monkeypatch.setenv("VMCORE_CPUS", "9" * 5000)
    assert refused(arch="toy")[0].startswith("VMCORE_CPUS: found '999")


# ---- what is not valid

NUMBER = "expected a whole number, 1 or more"
SIZE = "expected a number of bytes such as 64K, 1G or 0x100000"
RAM = "expected a size such as 512M or 0x20000000, or banks such as 0-3G,4G-5G"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("arch = 3", "arch: found 3, expected a name"),
        ('arch = " "', "arch: found ' ', expected a name"),
        ("platform = true", "platform: found True, expected a name"),
        ("ram = 1.5", f"ram: found 1.5, {RAM}"),
        ("ram = true", f"ram: found True, {RAM}"),
        ('ram = "4X"', f"ram: found '4X', {SIZE}"),
        ("ram = -1", "ram: found -1, expected a number of bytes that is not negative"),
        ('ram = "3G-1G"', "ram: ram bank '3G-1G': ends at 0x40000000, expected one above 0xc0000000"),
        ('vmalloc = "much"', f"vmalloc: found 'much', {SIZE}"),
        ("vmalloc = false", "vmalloc: found False, expected a number of bytes such as 64K, 1G or 0x100000"),
        ("cpus = 0", f"cpus: found 0, {NUMBER}"),
        ("cpus = -1", f"cpus: found -1, {NUMBER}"),
        ("cpus = true", f"cpus: found True, {NUMBER}"),
        ('cpus = "2"', f"cpus: found '2', {NUMBER}"),
        ("nodes = 1.0", f"nodes: found 1.0, {NUMBER}"),
        ('block = "x"', "block: found 'x', expected a list of plugin names"),
        ("block = [1]", "block: found [1], expected a list of plugin names"),
        ('arhc = "toy"', f"arhc: unknown, did you mean 'arch'? valid: {', '.join(sorted(KEYS))}"),
        ('sources = "me"', f"sources: unknown, did you mean 'nodes'? valid: {', '.join(sorted(KEYS))}"),
    ],
)
def test_a_bad_line_of_a_file(line, message):
    Path("vmcore.toml").write_text(line + "\n")
    assert refused(arch="toy") == [f"vmcore.toml: {message}"]
    Path("vmcore.toml").unlink()
    Path("pyproject.toml").write_text(f"[tool.vmcore]\n{line}\n")
    assert refused(arch="toy") == [f"pyproject.toml: tool.vmcore.{message}"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("CPUS", "two", f"found 'two', {NUMBER}"),
        ("NODES", "-3", f"found -3, {NUMBER}"),
        ("RAM", "big", f"found 'big', {SIZE}"),
        ("VMALLOC", "0.3", "found '0.3', which is not a whole number of bytes"),
    ],
)
def test_a_bad_variable(monkeypatch, name, text, message):
    monkeypatch.setenv(f"VMCORE_{name}", text)
    assert refused(arch="toy") == [f"VMCORE_{name}: {message}"]


def test_a_misspelt_variable_is_an_error_and_a_strangers_is_not(monkeypatch):
    monkeypatch.setenv("VMCORE_DMESG", "/var/crash")
    chosen = select(arch="toy")
    assert chosen.arch == "toy"
    (warning,) = chosen.warnings
    assert warning.startswith("VMCORE_DMESG: unknown environment variable, it is left out; did you mean 'VMCORE_")
    monkeypatch.setenv("VMCORE_ARHC", "toy")
    (message,) = refused(arch="toy")
    assert message.startswith("VMCORE_ARHC: unknown environment variable, did you mean 'VMCORE_ARCH'? valid: ")


def test_the_variables_of_the_tests_are_known(monkeypatch):
    tox = (Path(__file__).parents[2] / "tox.ini").read_text("utf-8")
    names = {word for word in re.findall(r"VMCORE_\w+", tox) if word != "VMCORE_ARCH"}
    assert len(names) > 1
    for name in names:
        monkeypatch.setenv(name, "x")
    assert select(arch="toy").warnings == ()
    monkeypatch.setenv("VMCORE_ORACEL", "x")
    (warning,) = select(arch="toy").warnings
    assert "did you mean 'VMCORE_ORACLE'? valid: " in warning


def test_the_command_line_tells_warnings(monkeypatch):
    monkeypatch.setenv("VMCORE_DEBUG", "1")
    result = CliRunner().invoke(main, ["arches", "i386"])
    assert result.exit_code == 0
    assert result.stderr.startswith("vmcore: warning: VMCORE_DEBUG: unknown environment variable, it is left out;")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("command", [["samples"], ["arches", "i386"], ["demo"], ["walk", "sample:i386-pae-ram"]])
def test_commands_go_on_beside_a_broken_project(command):
    Path("pyproject.toml").write_text("[broken")
    result = CliRunner().invoke(main, command)
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cpu": 2}, f"argument cpu: unknown, did you mean 'cpus'? valid: {', '.join(sorted(KEYS))}"),
        ({"cpus": True}, f"argument cpus: found True, {NUMBER}"),
        ({"cpus": 0}, f"argument cpus: found 0, {NUMBER}"),
        ({"ram": ()}, f"argument ram: found (), {RAM}"),
        ({"vmalloc": -1}, "argument vmalloc: found -1, expected a number of bytes that is not negative"),
    ],
)
def test_a_bad_argument(arguments, message):
    assert refused(arch="toy", **arguments) == [message]


def test_further_mistakes_of_a_place_are_notes():
    assert refused(cpus=0, nodes=0, arhc="toy") == [
        f"argument arhc: unknown, did you mean 'arch'? valid: {', '.join(sorted(KEYS))}",
        f"argument cpus: found 0, {NUMBER}",
        f"argument nodes: found 0, {NUMBER}",
    ]


def test_an_overridden_mistake_is_still_one(monkeypatch):
    monkeypatch.setenv("VMCORE_CPUS", "0")
    assert refused(arch="toy", cpus=2) == [f"VMCORE_CPUS: found 0, {NUMBER}"]


def test_a_configuration_error_is_a_value_error():
    with pytest.raises(ValueError, match="cpus"):
        select(cpus=0)
    assert not issubclass(ConfigurationError, UnitError)


def test_no_architecture_says_how_to_choose_one(monkeypatch):
    loaded = Registry(None, architectures={"toy": None, "other": None})
    monkeypatch.setattr("vmcore.linking.registry.load", lambda block: loaded)
    assert refused(ram="1G") == [
        'no architecture chosen: give the argument arch="...", the option --arch, the variable VMCORE_ARCH, or '
        'arch = "..." in vmcore.toml or [tool.vmcore] of pyproject.toml; installed: other, toy'
    ]
    monkeypatch.setattr("vmcore.linking.registry.load", lambda block: Registry(None))
    assert refused()[0].endswith("installed: none (install the package: pip install .)")


def test_no_architecture_is_needed_where_the_caller_says_so():
    assert select(need_arch=False, ram="1G").arch == ""


@pytest.mark.parametrize("text", [" 3 ", "\x1f3\x1c"])
def test_blanks_around_a_number(text):
    assert select(arch="i386", cpus=text).cpus == 3


@pytest.mark.parametrize("key", ["cpus", "nodes"])
def test_a_count_of_thousands_of_digits_is_refused(key, monkeypatch):
    monkeypatch.setenv(f"VMCORE_{key.upper()}", "9" * 5000)
    with pytest.raises(ConfigurationError, match=f"^VMCORE_{key.upper()}: found '999.*, expected a whole number"):
        select(arch="i386")


@pytest.mark.parametrize("blank", ["\n", " ", "\t", "[ ", "tool ", "tool\n"])
def test_a_broken_project_file_is_searched_in_a_time_that_grows_with_its_length(blank, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("x = \n" + blank * (900_000 // len(blank)))
    before = time.process_time()
    assert select(need_arch=False).arch == ""
    assert time.process_time() - before < 5.0  # a quadratic search took minutes


@pytest.mark.parametrize("key", ["a." * 30000 + "b", "[" + ".".join(["a"] * 65) + "]", '"x"." y".' * 33 + "z"])
def test_a_key_of_very_many_parts_costs_nothing(tmp_path, monkeypatch, key):
    """tomllib takes time and memory with the square of the parts: 5 GiB for 60 KB."""
    monkeypatch.chdir(tmp_path)
    text = key if key.startswith("[") else f"{key} = 1"
    (tmp_path / "vmcore.toml").write_text(f"# a comment\n{text}\n")
    began = time.process_time()
    with pytest.raises(ConfigurationError, match=r"vmcore.toml:2: found a key of more than 64 parts"):
        select()
    assert time.process_time() - began < 2


def test_strings_and_numbers_with_dots_are_no_long_keys(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dots = ".".join(["a"] * 100)
    (tmp_path / "pyproject.toml").write_text(
        f"[project]\nname = \"{dots}\"\nother = '{dots}'\nnumbers = [{', '.join(['1.5'] * 100)}]\n"
        '[tool.vmcore]\nram = "32M"\n'
    )
    assert select(arch="i386").ram == 32 << 20


@pytest.mark.parametrize(
    "text",
    [
        '["tool"."vmcore"]\nram="32M"\n[broken',
        '[tool]\nvmcore.ram="32M"\n[broken',
        '[tool.vmcore]\nram="32M"\n[broken',
    ],
)
def test_a_broken_file_with_keys_for_vmcore_is_an_error_however_they_are_spelt(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(ConfigurationError, match="not valid TOML"):
        select(arch="i386")


def test_a_file_that_is_too_large_and_names_vmcore_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[tool.vmcore]\nram="32M"\n' + "#" * (1 << 20))
    with pytest.raises(ConfigurationError, match="found more than 0x100000 bytes, expected a short text file"):
        select(arch="i386")


def test_a_kernel_logs_the_warnings_of_its_selection(kernel, monkeypatch):
    monkeypatch.setenv("VMCORE_XYZ", "1")
    (line,) = Kernel("i386", ram="64M").dmesg
    assert line.startswith("<4>vmcore: VMCORE_XYZ: unknown environment variable, it is left out")
