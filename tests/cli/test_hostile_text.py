"""Control characters and markup, in every field that a command repeats, reach no terminal as they are."""

import ast
import gzip
import json
import lzma
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import vmcore
from tests.test_wording import HOSTILE
from vmcore import samples
from vmcore.cli import main
from vmcore.testing import golden
from vmcore.wording import printable

SAMPLE = "i386-pae-ram"
#: As a file may have it: no newline, no NUL and no slash.
EVIL = "\x1b" + "".join(c for c in HOSTILE if c not in "\n\0") + "[red]:red_circle:"
RAW = os.fsencode("".join(c for c in EVIL if not "\ud800" <= c <= "\udc7f"))
SHOWN = r"\x1b"


def run(*args):
    """Run a command; return its exit status, stdout and stderr, checked to be safe lines."""
    done = CliRunner().invoke(main, list(args), prog_name="vmcore")
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    for text in (done.stdout, done.stderr):
        for line in text.split("\n"):
            assert line == printable(line)
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def evil_file(tmp_path, monkeypatch):
    """Return how to write a file whose name is hostile; the folder is the current one."""
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(RAW)[:100]

    def write(data, name=name):
        Path(name).write_bytes(data)
        return name

    return write


TRACE = (
    b"           <...>-1       [000] .....     6.094433: alloc_vmap_area: va_start: 4152426496 size=20480 "
    b"align=16384 vstart=0xf77fe000 vend=0xfeffe000 failed=0\n"
)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x1b[31m\n",
        TRACE + RAW.replace(b"\r", b"") + b"\n",
        TRACE.replace(b"size", b"\x1bize"),
        TRACE.replace(b"<...>", b"\xff"),
        gzip.compress(TRACE)[:-4],
        b"BZh",
    ],
    ids=["empty", "no line", "torn", "field", "bytes", "cut", "bzip2"],
)
def test_trace_that_is_refused(evil_file, data):
    code, _, err = run("replay", evil_file(data), "--arch", "i386")
    assert code == 2
    assert err.startswith("vmcore: error: ")
    assert SHOWN in err
    assert err.count("\n") == 1


def test_trace_with_events_that_are_skipped(evil_file):
    event = b"           ev-1  [000] .....  6.095: \x1b[31mevil[red]\x9b\x07: x=1\n".replace(b"\x9b", b"\xc2\x9b")
    name = evil_file(TRACE + event)
    code, out, _ = run("replay", name, "--arch", "i386", "--ram", "64M")
    assert code == 0
    assert "event \\x1b[31mevil[red]" in out
    code, out, _ = run("replay", name, "--arch", "i386", "--ram", "64M", "--json")
    assert list(json.loads(out)["source"]["foreign"]) == ["\x1b[31mevil[red]?\x07"]


def audit(evil_file, caller):
    with samples.open_vmallocinfo(SAMPLE) as stream:
        text = lzma.decompress(stream.read())
    lines = text.split(b"\n")
    lines.insert(5, b"0xf7ffe000-0xf8000000    8192 " + caller + b"+0x1/0x2 pages=1 vmalloc")
    return run("audit", f"sample:{SAMPLE}", "--vmallocinfo", evil_file(b"\n".join(lines)))


def test_callers_of_areas(evil_file):
    code, out, _ = audit(evil_file, b"\x1b[31m[red]:red_circle:\x07\x9b\xe2\x80\xae")
    assert code == 1
    assert r"\x1b[31m[red]:red_circle:\x07" in out


@pytest.mark.parametrize("text", [b"\x1b[2J\n", b"0x1-0x2 \x1b\n", RAW], ids=["escape", "caller", "all"])
def test_vmallocinfo_that_is_refused(evil_file, text):
    code, _, err = run("audit", f"sample:{SAMPLE}", "--vmallocinfo", evil_file(text))
    assert code == 2
    assert SHOWN in err


def core(note_name, note, paddr=0x1000):
    """Return an ELF core of one page with one note."""
    name = note_name + b"\0"
    name += bytes(-len(name) % 4)
    data = struct.pack("<III", len(note_name) + 1, len(note), 0) + name + note + bytes(-len(note) % 4)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    head += struct.pack("<IIQQQQQQ", 4, 0, 176, 0, 0, len(data), len(data), 0)
    head += struct.pack("<IIQQQQQQ", 1, 7, 176 + len(data), 0, paddr, 4096, 4096, 0)
    return head + data + bytes(4096)


@pytest.mark.parametrize(
    "note", [b"OSRELEASE=\x1b[31m\nSYMBOL(swapper_pg_dir)=\x1b\x9b\n", b"PAGESIZE=\x1b[2J", b"\x1b=\x1b"]
)
def test_notes_of_a_dump(evil_file, note):
    name = evil_file(core(b"VMCOREINFO\x1b", note + b"\nSYMBOL(swapper_pg_dir)=ffffffff82000000\n"))
    for root in ([], ["--root", "0x1000"]):
        code, out, err = run("walk", name, "--arch", "x86_64", *root)
        assert code in (0, 1, 2)
        assert SHOWN in out + err


@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"], ["0xc0000000"], ["0xc0000000", "--csv"]], ids=str)
def test_dump_with_a_hostile_name(evil_file, form):
    name = evil_file(core(b"CORE", b"")[:-100])
    code, out, err = run("walk", name, "--arch", "x86_64", "--root", "0x1000", *form)
    assert code in (0, 1)
    assert SHOWN in err
    assert "[red]" in (out + err) or len(name) < len(EVIL)


def test_vmcoreinfo_beside_a_dump(evil_file):
    code, _, err = run("walk", f"sample:{SAMPLE}", "--vmcoreinfo", evil_file(b"SYMBOL(swapper_pg_dir)=\x1b[1m\n"))
    assert code == 2
    assert SHOWN in err


@pytest.mark.parametrize(
    "args",
    [
        (EVIL,),
        ("--" + EVIL,),
        ("replay", "-", "--arch", EVIL),
        ("replay", EVIL, "--arch", "i386"),
        ("replay", "sample:" + EVIL, "--arch", "i386"),
        ("replay", "-", "--arch", "i386", "--ram", EVIL),
        ("replay", "-", "--arch", "i386", "--cpus", EVIL),
        ("replay", "-", "--arch", "i386", "--platform", EVIL),
        ("replay", "-", "--arch", "i386", "--block", EVIL),
        ("replay", "-", EVIL),
        ("walk", EVIL, "--arch", "i386"),
        ("walk", f"sample:{SAMPLE}", EVIL),
        ("walk", f"sample:{SAMPLE}", "--root", EVIL),
        ("walk", f"sample:{SAMPLE}", "--bank", EVIL),
        ("walk", f"sample:{SAMPLE}", "--format", EVIL),
        ("walk", f"sample:{SAMPLE}", "--limit", EVIL),
        ("walk", f"sample:{SAMPLE}", "--addresses", EVIL),
        ("walk", f"sample:{SAMPLE}", "--npz", f"no/{EVIL}"),
        ("audit", f"sample:{SAMPLE}", "--vmallocinfo", EVIL),
        ("audit", f"sample:{SAMPLE}", "--vmallocinfo", "-", "--range", EVIL),
        ("demo", EVIL),
        ("arches", EVIL),
        ("samples", EVIL),
    ],
    ids=lambda args: " ".join(args[:-1])[:60],
)
def test_arguments(args):
    args = tuple("".join(c for c in arg if c != "\0" and not "\ud800" <= c <= "\udc7f") for arg in args)
    code, out, err = run(*args)
    assert code == 2
    assert out == ""
    assert SHOWN in err


def test_configuration_and_environment(evil_file, monkeypatch):
    evil_file(f'"{SHOWN[1:]}" = 1\n"\\u001b[31m" = 2\n'.encode(), "vmcore.toml")
    assert SHOWN in run("arches")[2]
    Path("vmcore.toml").unlink()
    monkeypatch.setenv("VMCORE_ARCH", "\x1b[31m")
    assert SHOWN in run("replay", "-")[2]


def test_golden_bundle(evil_file, capsys):
    name = evil_file(b"\x1b[31m\n")
    with pytest.raises(SystemExit):
        golden.main([name], standalone_mode=False)
    out, err = capsys.readouterr()
    for line in (out + err).split("\n"):
        assert line == printable(line)
    assert SHOWN in err


def test_a_stdout_that_lacks_characters():
    environment = os.environ | {"PYTHONIOENCODING": "latin-1:strict"}
    command = [sys.executable, "-m", "vmcore", "replay", "größe日本", "--arch", "i386"]
    done = subprocess.run(command, capture_output=True, env=environment, encoding="latin-1", check=False)
    assert (done.returncode, done.stderr.split(": ")[2]) == (2, r"größe\u65e5\u672c")


# ---- the door

PACKAGE = Path(vmcore.__file__).parent
DOORS = {"cli/output.py", "cli/console.py", "testing/golden.py"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_is_printed_but_through_the_door(path):
    if str(path.relative_to(PACKAGE)) in DOORS:
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            assert name not in ("print", "click.echo", "click.secho"), f"{path}:{node.lineno}"
            assert not name.endswith(("stdout.write", "stderr.write", "console.print")), f"{path}:{node.lineno}"
