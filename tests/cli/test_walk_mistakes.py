"""vmcore walk and audit where the user, the file or the machine they run on is at fault."""

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from tests.support.dumps import capture, core
from vmcore.cli import main

SAMPLE = "sample:i386-pae-ram"
HEX = "expected an address in hexadecimal with 0x, such as "


def run(*arguments, **options):
    return CliRunner().invoke(main, list(map(str, arguments)), **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["f7841000"], f"ADDR: found 'f7841000', {HEX}0xf7841000"),
        (["0xf784_1000"], f"ADDR: found '0xf784_1000', {HEX}0xf7841000"),
        (["--", "-1"], f"ADDR: found '-1', {HEX}0xc0000000"),
        (["--root", "1f16000"], f"--root: found '1f16000', {HEX}0x1f16000"),
        (["--root", "40204000"], f"--root: found '40204000', {HEX}0xc0000000"),
        (["--root", f"{1 << 64:#x}"], f"--root: found {1 << 64:#x}, expected at most 0xffffffffffffffff"),
        (
            ["--root", "0x" + "f" * 5000],
            f"--root: found 0x{'f' * 38}..., expected at most 0xffffffffffffffff",
        ),
        (["--range", "-0xf7"], "--range: found '-0xf7', expected START-END such as 0xf8000000-0xfe000000"),
    ],
)
def test_an_address_that_may_be_meant_otherwise_is_refused_with_its_spelling(arguments, message):
    result = run("walk", SAMPLE, *arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", f"vmcore: error: {message}\n")


def test_a_capital_x_is_hexadecimal_too():
    assert run("walk", SAMPLE, "0XF7841000").stdout.splitlines()[-1] == "  physical address 0x17fc0d000"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            "nowhere/x.npz",
            "cannot be written: No such file or directory, expected a file in a directory with room",
        ),
        (".", "is a directory, expected a new name, or a file to replace"),
    ],
)
def test_arrays_that_cannot_be_written(target, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("walk", SAMPLE, "--npz", target)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"vmcore: error: {target}: {message}\n"


def test_stdin_is_no_dump():
    result = run("walk", "-", "--arch", "i386", input="x")
    assert result.exit_code == 2
    assert result.stderr == (
        "vmcore: error: -: found nothing that can be read (No such file or directory), expected a file's name: "
        "stdin cannot be mapped, save it\n"
    )


def test_a_small_dump_whose_compression_is_cut_is_read_up_to_there(tmp_path):
    path = tmp_path / "cut.xz"
    path.write_bytes(capture("i386-pae").core.read_bytes()[:5000])
    result = run("walk", path, "--arch", "i386-pae", "--root", "0x1f16000", "0xf7841000")
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "  physical address 0x17fc0d000")
    first, *others = result.stderr.splitlines()
    assert first.startswith(f"vmcore: warning: {path}: the compression is damaged or cut after 0x14")
    assert len(others) == 7
    assert all(" at file offset " in other for other in others)


def test_a_given_root_and_another_machine_are_walked_with_a_warning():
    arguments = ("walk", capture("i386-pae").core, "--arch", "armv7", "--root", "0x1f16000", "0xf7841000")
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[0] == (
        f"vmcore: warning: {capture('i386-pae').core}: does not look like 'armv7': ELF e_machine is 3, expected 40"
    )
    assert json.loads(run(*arguments, "--json").stdout)["problems"] == [
        "does not look like 'armv7': ELF e_machine is 3, expected 40"
    ]


def test_a_given_root_and_tables_of_another_kind_are_walked_with_a_warning():
    result = run("walk", SAMPLE, "--arch", "i386", "--root", "0x1f16000", "0xf7841000")
    assert "does not look like 'i386': CONFIG_X86_PAE is y, expected no such line\n" in result.stderr


def test_one_mapping_is_one(tmp_path):
    page = bytearray(0x1000)
    page[0xC00:0xC04] = bytes.fromhex("e3010000")
    path = tmp_path / "one.elf"
    path.write_bytes(core([(0x1000, bytes(page))], machine=3))
    lines = run("walk", path, "--arch", "i386", "--root", "0x1000").stdout.splitlines()
    assert lines[1] == "1 mapping in 1 run"


def test_an_empty_list_says_what_may_be_wrong():
    result = run("walk", SAMPLE, "--range", "0x0-0x10000000")
    assert (result.exit_code, result.stdout.splitlines()[1:]) == (
        0,
        [
            "0 mappings in 0 runs",
            "nothing is mapped here; if that cannot be, the root or the architecture is not the right one",
        ],
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("form", ["--json", "--csv"])
def test_a_reader_that_goes_away_ends_a_large_output(form, unbuffered):
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-m", "vmcore", "walk", "sample:x86_64-l4-ram", form]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141
