"""Files are written whole or not at all, never over an input, and in one place."""

import ast
import errno
import io
import lzma
import os
import pickle
import pty
import resource
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from importlib import import_module
from itertools import combinations
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from tests.support.dumps import capture
from vmcore import samples
from vmcore.cli import COMMANDS, main
from vmcore.dump import open_dump
from vmcore.dump.save import write_core
from vmcore.errors import OutputError
from vmcore.memory.physical import PhysicalMemory
from vmcore.system.output import Output
from vmcore.units import Bank

ROOT = Path(__file__).parents[2]
NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")


@pytest.fixture(params=["nameless", "named"])
def place(request, tmp_path, monkeypatch):
    """A directory on a file system that has O_TMPFILE, and on one that has not."""
    if request.param == "named":
        real = os.open

        def refuse(path, flags, *args, **options):
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
            return real(path, flags, *args, **options)

        monkeypatch.setattr(os, "open", refuse)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextmanager
def umask(mask):
    old = os.umask(mask)
    try:
        yield
    finally:
        os.umask(old)


@contextmanager
def somebody_else():
    """Be a user without rights, in a directory that this user can reach."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        try:
            os.setegid(NOBODY)
            os.seteuid(NOBODY)
            yield Path(folder)
        finally:
            os.seteuid(0)
            os.setegid(0)


@contextmanager
def root():
    os.seteuid(0)
    try:
        yield
    finally:
        os.seteuid(NOBODY)


def write(path, data=b"new", **options):
    with Output(path, **options).writing() as file:
        file.write(data)


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def refused(path, *inputs, **options):
    with pytest.raises(OutputError) as caught:
        Output(path, inputs, **options)
    return str(caught.value)


# ---- what is written


@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_new_file_has_the_rights_that_the_umask_leaves(place, mask, expected):
    with umask(mask):
        write("new")
    assert (Path("new").read_bytes(), mode("new")) == (b"new", expected)
    assert os.listdir() == ["new"]


@pytest.mark.parametrize("rights", [0o640, 0o600, 0o666, 0o755])
def test_a_file_that_is_replaced_keeps_its_mode(place, rights):
    Path("file").write_text("old")
    os.chmod("file", rights)
    os.utime("file", (1, 1))
    with umask(0o077):
        write("file")
    assert (Path("file").read_bytes(), mode("file")) == (b"new", rights)
    assert os.stat("file").st_mtime > 1
    assert os.listdir() == ["file"]


def test_a_file_that_is_replaced_keeps_its_attributes(place):
    Path("file").write_text("old")
    try:
        os.setxattr("file", "user.where", b"from")
    except OSError:
        pytest.skip("this file system has no extended attributes")
    write("file")
    assert os.getxattr("file", "user.where") == b"from"


@needs_root
def test_a_file_that_is_replaced_keeps_its_owner(place):
    Path("file").write_text("old")
    os.chown("file", 1234, 5678)
    write("file")
    assert (os.stat("file").st_uid, os.stat("file").st_gid) == (1234, 5678)


@needs_root
def test_where_the_owner_cannot_be_kept_no_other_group_gets_rights(monkeypatch):
    with somebody_else() as folder:
        with root():
            (folder / "file").write_text("old")
            os.chmod(folder / "file", 0o666)
            os.chmod(folder, 0o777)
        write(folder / "file")
        assert (folder / "file").read_bytes() == b"new"
        assert (os.stat(folder / "file").st_uid, mode(folder / "file")) == (NOBODY, 0o606)


def test_a_link_stays_and_its_target_is_replaced(place):
    (place / "below").mkdir()
    Path("below/file").write_text("old")
    os.symlink("below/file", "link")
    os.symlink("link", "second")
    write("second")
    assert (os.readlink("second"), os.readlink("link")) == ("link", "below/file")
    assert Path("below/file").read_bytes() == b"new"
    os.symlink("below/none", "dangling")
    write("dangling")
    assert (Path("below/none").read_bytes(), os.path.islink("dangling")) == (b"new", True)
    assert sorted(os.listdir("below")) == ["file", "none"]


def test_another_name_of_the_file_keeps_the_old_contents(place):
    Path("file").write_text("old")
    os.link("file", "evidence")
    write("file")
    assert (Path("file").read_text(), Path("evidence").read_text()) == ("new", "old")


def test_what_is_skipped_is_a_hole(place):
    Path("file").write_bytes(b"x" * 4096)
    with Output("file").writing() as file:
        file.seek(1 << 30)
        file.write(b"end")
    found = os.stat("file")
    assert found.st_size == (1 << 30) + 3
    assert found.st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, MemoryError])
@pytest.mark.parametrize("old", [None, "old"])
def test_a_block_that_raises_leaves_everything_as_it_was(place, error, old):
    if old is not None:
        Path("file").write_text(old)
    before = {name: os.stat(name) for name in os.listdir()}

    def block(file):
        file.write(b"half" * 100_000)
        raise error

    with pytest.raises(error), Output("file").writing() as file:
        block(file)
    assert {name: os.stat(name).st_ino for name in os.listdir()} == {n: s.st_ino for n, s in before.items()}
    assert old is None or Path("file").read_text() == old


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize("size", [5000, 1 << 20])
def test_a_full_disk_leaves_everything_as_it_was(place, old, size):
    if old is not None:
        Path("file").write_text(old)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        with pytest.raises(OutputError) as caught:
            write("file", b"x" * size)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value) == "file: cannot be written: File too large, expected a file in a directory with room"
    assert os.listdir() == ([] if old is None else ["file"])
    assert old is None or Path("file").read_text() == old


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_an_end_that_fails_leaves_everything_as_it_was(place, monkeypatch, failing):
    Path("file").write_text("old")

    def fail(*args):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OutputError, match=r"^file: cannot be written: Input/output error, expected"):
        write("file")
    assert os.listdir() == ["file"]
    assert Path("file").read_text() == "old"


def test_a_saved_kernel_fits_or_leaves_the_old_one(kernel, place):
    Path("ram.elf").write_text("old")
    k = kernel("armv7", ram=64 << 20)
    k.vwrite(k.vmalloc(8192), b"x" * 8192)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
        with pytest.raises(OutputError, match=r"^ram\.elf: cannot be written: File too large"):
            k.save("ram.elf")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (os.listdir(), Path("ram.elf").read_text()) == (["ram.elf"], "old")


# ---- what is not a file


def test_a_directory_is_refused(place):
    os.mkdir("folder")
    os.symlink("folder", "link")
    for name in ("folder", "folder/", "link", "."):
        assert refused(name) == f"{name}: is a directory, expected a new name, or a file to replace"


def test_a_socket_is_refused(place):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        assert refused("socket") == "socket: is a socket, expected a new name, or a file to replace"


@needs_root
def test_a_disk_is_refused(place):
    try:
        os.mknod("disk", stat.S_IFBLK | 0o666, os.makedev(240, 255))
    except OSError:
        pytest.skip("no device may be made here")
    assert refused("disk") == "disk: is a block device, expected a new name, or a file to replace"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "No such file or directory"),
        ("none/file", "No such file or directory"),
        ("new/", "No such file or directory"),
        ("file/x", "Not a directory"),
        ("loop", "Too many levels of symbolic links"),
        ("x" * 300, "File name too long"),
        ("a\0b", "embedded null"),
    ],
)
def test_a_name_that_cannot_be(place, name, reason):
    Path("file").write_text("old")
    os.symlink("loop", "loop")
    shown = name.replace("\0", "\\x00") or "an empty name"
    found = refused(name)
    assert found.startswith(f"{shown}: cannot be written: ")
    assert reason in found
    assert found.endswith(", expected a file in a directory with room")


def test_a_directory_that_was_removed(place):
    os.mkdir("gone")
    os.chdir("gone")
    os.rmdir("../gone")
    try:
        assert "cannot be written: No such file or directory" in refused("file")
    finally:
        os.chdir(place)


@needs_root
def test_a_file_that_is_read_only_is_not_replaced():
    with somebody_else() as folder:
        with root():
            os.chown(folder, NOBODY, NOBODY)
            (folder / "file").write_text("old")
            os.chown(folder / "file", NOBODY, NOBODY)
            os.chmod(folder / "file", 0o440)
        name = folder / "file"
        assert refused(name) == (
            f"{name}: cannot be written to: its mode is 0440, expected another file, or chmod u+w"
        )


@needs_root
@pytest.mark.parametrize("exists", [False, True])
def test_a_directory_that_is_read_only(exists):
    with somebody_else() as folder:
        name = folder / "file"
        if exists:
            with root():
                name.write_text("old")
                os.chmod(name, 0o666)
        assert refused(name) == (
            f"{name}: no file can be made in {folder}, and this one is made there whole before it is renamed, "
            "expected a file in another directory"
        )


def test_devices_are_written_to():
    write("/dev/null")
    with pytest.raises(OutputError, match=r"^/dev/full: cannot be written: No space left on device"):
        write("/dev/full", b"x" * 100_000)
    with pytest.raises(OutputError, match=r"^/dev/full: cannot be written: No space left on device"):
        write("/dev/full", b"x")


def test_a_terminal_is_refused():
    leader, follower = pty.openpty()
    try:
        with pytest.raises(OutputError, match=": is a terminal, expected a file or a pipe"):
            write(os.ttyname(follower))
    finally:
        os.close(leader)
        os.close(follower)


def test_a_pipe_gets_everything_in_order(tmp_path):
    memory = PhysicalMemory([Bank(0, 1 << 20), Bank(4 << 20, 6 << 20)], 12)
    memory.write(0x5000, b"first")
    memory.write(5 << 20, b"last")
    write_core(tmp_path / "file", memory)
    os.mkfifo(tmp_path / "pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_core(tmp_path / "pipe", memory)
    reader.join(10)
    assert got == [(tmp_path / "file").read_bytes()]
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)


def test_a_pipe_cannot_be_gone_back_in(tmp_path):
    with Output("/dev/null").writing() as file:
        assert not file.seekable()
        for move in (file.tell, lambda: file.seek(0)):
            with pytest.raises(io.UnsupportedOperation):
                move()


def test_a_reader_that_has_gone_is_told_as_such(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)

    def write_to_nobody():
        with Output(tmp_path / "pipe").writing() as file:
            os.close(reader)
            file.write(b"x" * 100_000)

    with pytest.raises(BrokenPipeError):
        write_to_nobody()


# ---- inputs


@pytest.fixture
def evidence(tmp_path, monkeypatch):
    """A file with a symbolic and a hard link to it."""
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("old")
    os.symlink("file", "soft")
    os.link("file", "hard")
    return "file"


def test_an_input_under_any_name_is_refused(evidence):
    names = ("file", "soft", "hard", "./file", os.path.abspath("file"))
    for output in names:
        for given in names:
            also = "" if given == output else f", as {given}"
            assert refused(output, "none", given) == (
                f"{output}: is an input of this job too{also}, expected another file to write to"
            )
    with open("file", "rb") as file:
        assert ", as " in refused("soft", file.fileno())
    Output("other", ["file", "none", -1])
    Output("/dev/null", ["/dev/null"])


def test_an_input_is_looked_for_again_before_it_is_written(evidence):
    output = Output("new", ["file"])
    os.link("file", "new")
    with pytest.raises(OutputError, match=r"^new: is an input of this job too, as file"):
        output.writing().__enter__()
    assert Path("file").read_text() == "old"


@pytest.mark.parametrize("packed", [False, True])
def test_a_dump_that_is_open_is_not_replaced(kernel, tmp_path, packed):
    k, path = kernel("armv7", ram=1 << 24), tmp_path / "dump"
    if packed:
        path.write_bytes(capture("i386-pae").core.read_bytes())
    else:
        k.save(path)
    before = path.read_bytes()
    with open_dump(path):
        with pytest.raises(OutputError, match=": is open as a dump in this program, expected another file"):
            k.save(path)
        assert path.read_bytes() == before
    k.save(path)
    assert packed == (path.read_bytes() != before)


def test_the_error_travels_between_processes():
    error = OutputError("a", "b", "c")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.file, again.problem, again.expected) == ("a: b, expected c", "a", "b", "c")


# ---- the command line


def process(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "vmcore", *map(str, arguments)], capture_output="stdout" not in options,
        cwd=options.pop("cwd", None), check=False, text=True, timeout=120, **options,
    )  # fmt: skip


def run(*arguments, **options):
    return CliRunner().invoke(main, list(map(str, arguments)), **options)


WALK = ("walk", "dump", "--arch", "i386-pae", "--vmcoreinfo", "info", "--addresses", "list", "--npz")
REPLAY = ("replay", "trace", "--arch", "i386", "--vmallocinfo", "info", "--save-ram")


@pytest.mark.parametrize(
    ("arguments", "inputs"),
    [(WALK, ("dump", "info", "list")), (REPLAY, ("trace", "info"))],
    ids=["walk", "replay"],
)
def test_an_input_of_a_command_is_not_written_over(tmp_path, monkeypatch, arguments, inputs):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(inputs):
        Path(name).write_text(f"not read {number}")  # whoever reads it finds that it is neither a trace nor a dump
        os.link(name, f"{name}-hard")
        os.symlink(name, f"{name}-soft")
    for number, name in enumerate(inputs):
        for output in (name, f"{name}-hard", f"{name}-soft"):
            also = "" if output == name else f", as {name}"
            result = run(*arguments, output)
            assert (result.exit_code, result.stdout) == (2, "")
            assert result.stderr == (
                f"vmcore: error: {output}: is an input of this job too{also}, expected another file to write to\n"
            )
        assert Path(name).read_text() == f"not read {number}"


def test_the_configuration_is_an_input_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("vmcore.toml").write_text('arch = "i386"\n')
    result = run("replay", "sample:i386-pae", "--save-ram", "vmcore.toml")
    assert (result.exit_code, "vmcore.toml: is an input of this job too" in result.stderr) == (2, True)


def test_a_sample_is_an_input_too(tmp_path):
    dump, trace = (
        next(p for p in samples.paths(name) if p.name.endswith(kind))
        for name, kind in (("i386-pae-ram", ".elf.xz"), ("i386-pae", ".trace.xz"))
    )
    os.symlink(dump, tmp_path / "dump")
    os.symlink(trace, tmp_path / "trace")
    for arguments in (
        ("walk", "sample:i386-pae-ram", "--npz", tmp_path / "dump"),
        ("replay", "sample:i386-pae", "--arch", "i386", "--save-ram", tmp_path / "trace"),
    ):
        result = run(*arguments)
        assert (result.exit_code, "is an input of this job too, as " in result.stderr) == (2, True)


def test_stdin_and_stdout_may_be_the_input(tmp_path):
    trace = tmp_path / "trace"
    trace.write_text("x")
    with open(trace, encoding="ascii") as stdin:
        result = process("replay", "-", "--arch", "i386", "--save-ram", trace, stdin=stdin)
    assert result.stderr == (
        f"vmcore: error: {trace}: is an input of this job too, as stdin, expected another file to write to\n"
    )
    for command in ("replay", "walk", "audit"):
        with open(trace, "a", encoding="ascii") as stdout:
            more = ["--vmallocinfo", "none"] if command == "audit" else []
            result = process(command, trace, "--arch", "i386", *more, stdout=stdout, stderr=subprocess.PIPE)
        assert (result.returncode, trace.read_text()) == (2, "x")
        assert result.stderr == (
            f"vmcore: error: {trace}: stdout is redirected to this input, expected another file\n"
        )


def test_nothing_is_written_to_an_input_that_stderr_is_redirected_to(tmp_path):
    trace = tmp_path / "trace"
    trace.write_text("x")
    with open(trace, "a", encoding="ascii") as stderr:
        result = process("replay", trace, "--arch", "i386", stderr=stderr, stdout=subprocess.PIPE)
    assert (result.returncode, result.stdout, trace.read_text()) == (2, "", "x")


def test_arrays_may_go_to_stdout_and_a_report_may_not_go_with_a_core(tmp_path):
    sample = "sample:i386-pae-ram"
    assert process("walk", sample, "--npz", tmp_path / "file").returncode == 0
    with np.load(tmp_path / "file") as file:
        expected = dict(file)
    for name in ("-", "/dev/stdout", tmp_path / "out"):
        with open(tmp_path / "out", "wb") as stdout:
            stdout.write(b"head")
            stdout.flush()
            assert process("walk", sample, "--npz", name, stdout=stdout).returncode == 0
        data = (tmp_path / "out").read_bytes()
        assert data[:4] == b"head"
        with np.load(io.BytesIO(data[4:])) as found:
            assert all((found[key] == array).all() for key, array in expected.items())
    result = process("replay", "sample:i386-pae", "--arch", "i386", "--save-ram", "-")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "vmcore: error: /dev/stdout: is stdout, which text is written to, expected another file\n"
    )


def test_a_full_disk_is_one_line_of_a_command(tmp_path):
    (tmp_path / "dump").write_bytes(lzma.decompress(capture("i386-pae").core.read_bytes()))
    (tmp_path / "old").write_text("old")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "
    command = [sys.executable, "-B", "-c", f"{limit}from vmcore.__main__ import run; run()"]
    for arguments in (
        ["walk", "dump", "--arch", "i386-pae", "--root", "0x1f16000", "--npz", "old"],
        ["replay", "sample:i386-pae", "--arch", "i386", "--save-ram", "old"],
    ):
        result = subprocess.run(
            [*command, *arguments], capture_output=True, cwd=tmp_path, check=False, text=True, timeout=120
        )
        assert (result.returncode, result.stdout) == (2, "")
        assert result.stderr == (
            "vmcore: error: old: cannot be written: File too large, expected a file in a directory with room\n"
        )
        assert (sorted(os.listdir(tmp_path)), (tmp_path / "old").read_text()) == (["dump", "old"], "old")


FORMS = ("--json", "--csv", "--npz")


@pytest.mark.parametrize("name", COMMANDS)
def test_two_forms_of_output_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = import_module(f"vmcore.cli.{name}").command
    options = {opt: p for p in command.params if isinstance(p, click.Option) for opt in p.opts}
    required = [p for p in command.params if p.required]
    given = [word for p in required for word in ([p.opts[0], "x"] if isinstance(p, click.Option) else ["x"])]
    found = [opt for opt in FORMS if opt in options]
    assert "--json" in found
    for pair in combinations(found, 2):
        words = [word for opt in pair for word in ([opt] if options[opt].is_flag else [opt, "x"])]
        for order in (words, words[::-1] if len(words) == 2 else words):
            result = run(name, *given, *order)
            assert (result.exit_code, result.stdout, os.listdir()) == (2, "", [])
            assert result.stderr == f"vmcore: error: {pair[1]}: found {pair[0]} too, expected one of them\n"


# ---- one home

SOURCES = [
    path
    for folder in ("vmcore", "arches", "plugins")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not {"build", "tests"} & set(path.parts)
]
#: Calls that make or change files, whatever they are called on.
MAKERS = {
    "write_text", "write_bytes", "touch", "tofile", "savetxt", "mkstemp", "mkdtemp", "NamedTemporaryFile",
    "symlink", "copy2", "copyfile", "copyfileobj", "mkdir", "makedirs", "open_file", "memmap",
}  # fmt: skip
OPENERS = {"open", "fdopen", "FileIO", "GzipFile", "LZMAFile", "BZ2File", "ZipFile", "TarFile"}
SAVERS = {"savez", "savez_compressed"}


def called(node):
    """Return the name of the function that a call is of, and of the module or object before the point."""
    function = node.func
    if isinstance(function, ast.Attribute):
        return function.attr, function.value.id if isinstance(function.value, ast.Name) else "?"
    return (function.id, "") if isinstance(function, ast.Name) else ("?", "?")


def writes(node):
    """Tell whether a call opens a file for writing, or makes one in another way."""
    name, owner = called(node)
    if name in OPENERS:
        words = [a.value for a in [*node.args, *(k.value for k in node.keywords)] if isinstance(a, ast.Constant)]
        modes = [w for w in words if isinstance(w, str) and set(w) <= set("rwaxbt+U") and set(w) & set("wax+")]
        flags = {n.attr for a in node.args for n in ast.walk(a) if isinstance(n, ast.Attribute)}
        devnull = "devnull" in flags
        return bool(modes) or (bool(flags & {"O_WRONLY", "O_RDWR", "O_CREAT"}) and not devnull)
    if name in ("copy", "replace", "truncate", "move", "link", "rename"):  # text and arrays have these too
        return owner in ("os", "shutil")
    return name in MAKERS or (name == "save" and owner in ("np", "numpy"))


def writers(tree):
    """Yield the line of each call that writes a file, but not of those inside ``with x.writing() as ...``."""
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.With)]
    calls = [(block, item.context_expr) for block in blocks for item in block.items]
    ours = [block for block, call in calls if isinstance(call, ast.Call) and called(call)[0] == "writing"]
    inside = {id(node) for block in ours for node in ast.walk(block)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            saver = called(node)[0] in SAVERS and id(node) not in inside
            if saver or writes(node):
                yield node.lineno


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_else_writes_files(path):
    found = list(writers(ast.parse(path.read_text("utf-8"))))
    if path == ROOT / "vmcore" / "system" / "output.py":
        assert found
    else:
        assert found == [], f"{path.relative_to(ROOT)}: write by vmcore.system.output"


@pytest.mark.parametrize(
    "line",
    [
        "open(p, 'wb')", "open(p, mode='a')", "p.open('x')", "p.open('r+b')", "gzip.open(p, 'wt')",
        "os.open(p, os.O_WRONLY | os.O_CREAT)", "os.replace(a, b)", "np.save(p, a)", "np.savez(p, a=a)",
        "a.tofile(p)", "p.write_text(t)", "click.open_file(p, 'wb')",
        "shutil.copy(a, b)", "tempfile.NamedTemporaryFile()", "io.FileIO(p, 'wb')",
        "zipfile.ZipFile(p, 'w')", "json.dump(x, open(p, 'w'))",
    ],
)  # fmt: skip
def test_the_search_finds_every_kind_of_writer(line):
    assert list(writers(ast.parse(line))) == [1]


@pytest.mark.parametrize(
    "line",
    [
        "open(p)", "p.open('rb')", "text.replace('a', 'b')", "os.open(os.devnull, os.O_WRONLY)", "a.copy()",
        "with o.writing() as f:\n    np.savez(f, a=a)",
    ],
)  # fmt: skip
def test_the_search_leaves_readers_alone(line):
    assert list(writers(ast.parse(line))) == []
