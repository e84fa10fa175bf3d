"""Ctrl-C, SIGTERM and SIGHUP end every command at once: one line, no traceback, nothing half-written."""

import fcntl
import os
import pty
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vmcore.cli import COMMANDS

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}
SAMPLE = "sample:x86_64-l4-ram"
#: A long job of each command; those with a file write it too.
JOBS = {
    "arches": [["arches", "--json"]],
    "samples": [["samples"]],
    "replay": [
        ["replay", "sample:riscv64-sv39", "--arch", "i386", "--check"],
        ["replay", "sample:arm-short", "--arch", "armv7-highmem", "--save-ram", "out"],
    ],
    "verify": [["verify", "sample:riscv64-sv39", "sample:riscv64-sv39"]],
    "walk": [["walk", SAMPLE, "--csv"], ["walk", SAMPLE, "--npz", "out"]],
    "audit": [["audit", SAMPLE, "--vmallocinfo", SAMPLE, "--json"]],
    "demo": [["demo", "missing-tlb-flush", "--arch", "i386"], ["demo"]],
}
ALL = [pytest.param(job, id=" ".join([*job[:1], *job[3:]])) for jobs in JOBS.values() for job in jobs]


def start(*arguments, script="from vmcore.__main__ import run; run()", **options):
    command = [sys.executable, "-c", script, *arguments]
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "preexec_fn": heed_all} | options
    return subprocess.Popen(command, **options)


def heed_all():
    """Let a child heed the signals that the tests' own process ignores: SIGHUP under nohup, for example."""
    for number in WORDS:
        signal.signal(number, signal.SIG_DFL if number != signal.SIGINT else signal.default_int_handler)


def wait_until_ready(process, seconds=60):
    """Return once the process handles SIGTERM: what Python does before our first line is not ours."""
    bit = 1 << signal.SIGTERM - 1
    for _ in range(seconds * 2000):
        if process.poll() is not None:
            return
        try:
            status = Path(f"/proc/{process.pid}/status").read_text("ascii")
        except OSError:
            return
        if any(int(line.split()[1], 16) & bit for line in status.splitlines() if line.startswith("SigCgt:")):
            return
        time.sleep(0.0005)
    pytest.fail("the handler was not installed")


def end(process, number):
    """Send a signal and return the lines on stderr, the exit status, and how long that took."""
    began = time.monotonic()
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    return stderr.decode().splitlines(), process.returncode, time.monotonic() - began


def is_whole(path):
    return path.read_bytes()[:4] in (b"\x7fELF", b"PK\x03\x04") and path.stat().st_size > 1000


def test_every_command_has_a_job():
    assert list(JOBS) == list(COMMANDS)


@pytest.mark.parametrize("job", ALL)
def test_a_signal_at_any_moment(job, tmp_path):
    began = time.monotonic()
    assert start(*job, cwd=tmp_path, stderr=None).wait(120) in (0, 1)
    whole = time.monotonic() - began
    for path in tmp_path.iterdir():
        path.unlink()
    moments = random.Random(f"{job}")
    for number in (*WORDS, signal.SIGINT):
        process = start(*job, cwd=tmp_path)
        wait_until_ready(process)
        time.sleep(moments.uniform(0, whole))
        ended(number, *end(process, number)[:2])
        assert set(os.listdir(tmp_path)) <= {"out"}
        assert not (tmp_path / "out").exists() or is_whole(tmp_path / "out")


def ended(number, lines, status):
    """Check the end of a command; its last moments, after all work, are Python's, which dies of the signal."""
    if status not in (0, 1):
        assert (status, lines) in ((128 + number, [f"vmcore: {WORDS[number]}"]), (-number, []))


HALT = "import sys, time; from vmcore.system import output, signals; signals.end_on_signals(); "


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize("number", WORDS, ids=lambda number: number.name)
def test_a_signal_while_a_file_is_written(tmp_path, number, old, named):
    if old is not None:
        (tmp_path / "out").write_text(old)
    without = "output.os.O_TMPFILE = output.os.O_DIRECTORY; "  # EISDIR, as of a system without O_TMPFILE
    script = (
        f"{HALT}{without if named else ''}\n"
        "with output.Output('out').writing() as file:\n"
        "    file.write(b'half' * 100000); file.flush(); print('.', flush=True); time.sleep(60)\n"
    )
    process = start(script=script, cwd=tmp_path, stdout=subprocess.PIPE)
    assert process.stdout.read(1) == b"."
    assert len(os.listdir(tmp_path)) == (old is not None) + named
    lines, status, _ = end(process, number)
    assert (lines, status) == ([f"vmcore: {WORDS[number]}"], 128 + number)
    assert os.listdir(tmp_path) == ([] if old is None else ["out"])
    assert old is None or (tmp_path / "out").read_text() == old


def test_a_signal_that_cannot_be_handled_leaves_no_half_file(tmp_path):
    script = (
        "import time; from vmcore.system.output import Output\n"
        "with Output('out').writing() as file:\n"
        "    file.write(b'half' * 100000); file.flush(); print('.', flush=True); time.sleep(60)\n"
    )
    process = start(script=script, cwd=tmp_path, stdout=subprocess.PIPE)
    assert process.stdout.read(1) == b"."
    nameless = os.listdir(tmp_path) == []
    process.kill()
    process.communicate()
    assert not (tmp_path / "out").exists()
    if nameless:
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_signal_while_nobody_reads_the_pipe(number):
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    for streams in ({"stdout": writer}, {"stdout": writer, "stderr": writer}):  # as of: 2>&1 | less
        process = start("walk", SAMPLE, "--csv", **streams)
        wait_until_ready(process)
        deadline = time.monotonic() + 60
        while "pipe_write" not in wait_channel(process) and time.monotonic() < deadline:
            time.sleep(0.01)
        began = time.monotonic()
        process.send_signal(number)
        _, stderr = process.communicate(timeout=30)
        assert process.returncode == 128 + number
        assert time.monotonic() - began < 5
        assert stderr in (None, f"vmcore: {WORDS[number]}\n".encode())
        os.set_blocking(reader, False)
        os.read(reader, 1 << 16)
    os.close(reader)
    os.close(writer)


def wait_channel(process):
    """Return where in the kernel a process waits; or where that is not told, guess by its state."""
    found = Path(f"/proc/{process.pid}/wchan").read_text("ascii")
    state = Path(f"/proc/{process.pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]
    return found if found.strip("0") else "pipe_write" if state == "S" else ""


def test_during_imports():
    """Each import of the command line takes a moment in which the signal may arrive."""
    for delay in (0.0, 0.01, 0.03, 0.08):
        process = start("arches")
        wait_until_ready(process)
        time.sleep(delay)
        ended(signal.SIGINT, *end(process, signal.SIGINT)[:2])


def test_where_an_exception_would_be_lost():
    script = (
        f"{HALT}\nclass Slow:\n    def __del__(self):\n        print('.', flush=True); time.sleep(60)\nSlow()\n"
    )
    process = start(script=script, stdout=subprocess.PIPE)
    assert process.stdout.read(1) == b"."
    lines, status, took = end(process, signal.SIGINT)
    assert (lines, status) == (["vmcore: interrupted"], 130)
    assert took < 5


def test_a_signal_that_the_parent_ignores_is_ignored():
    script = (
        "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); "
        "os.execv(sys.executable, [sys.executable, '-c', 'from vmcore.__main__ import run; run()', 'samples'])"
    )
    process = start(script=script, stdout=subprocess.PIPE)
    wait_until_ready(process)
    lines, status, _ = end(process, signal.SIGHUP)
    assert (lines, status) == ([], 0)


def test_stderr_may_be_closed():
    process = start("walk", SAMPLE, "--csv", stderr=None, preexec_fn=lambda: os.close(2))
    wait_until_ready(process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143


def test_the_bar_gives_the_cursor_back():
    leader, follower = pty.openpty()
    script = "import vmcore.cli.replay as r; r._PATIENCE = 0; from vmcore.__main__ import run; run()"
    process = start("replay", "sample:arm-short", "--arch", "armv7-highmem", script=script, stderr=follower)
    os.close(follower)
    shown = b""
    while b"\x1b[?25l" not in shown:
        shown += os.read(leader, 1 << 12)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    try:
        while data := os.read(leader, 1 << 12):
            shown += data
    except OSError:  # EIO: the other end is closed
        pass
    os.close(leader)
    assert shown.rstrip().endswith(b"\x1b[?25hvmcore: interrupted")


def test_the_module_and_the_script_handle_signals(tmp_path):
    for command in ([sys.executable, "-m", "vmcore"], [str(Path(sys.executable).with_name("vmcore"))]):
        if not Path(command[0]).exists():
            continue
        with subprocess.Popen(
            [*command, "walk", SAMPLE, "--csv"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as process:
            wait_until_ready(process)
            lines, status, _ = end(process, signal.SIGTERM)
        assert (lines, status) == (["vmcore: terminated"], 143)


def test_a_program_that_imports_the_command_line_keeps_its_handlers():
    script = (
        "import signal\nbefore = [signal.getsignal(n) for n in (1, 2, 15)]\n"
        "import vmcore.cli, vmcore.__main__, vmcore.kernel, vmcore.system.output\n"
        "assert before == [signal.getsignal(n) for n in (1, 2, 15)]\n"
    )
    process = start(script=script)
    assert (process.communicate(timeout=60)[1], process.returncode) == (b"", 0)
