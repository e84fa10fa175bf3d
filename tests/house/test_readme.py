"""What the README says is so: its Python session, its tables, its commands and its excerpt."""

import doctest
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from vmcore.architecture import LayoutRequest
from vmcore.cli import COMMANDS, main
from vmcore.linking.registry import load
from vmcore.units import format_size

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text("utf-8")


def blocks(kind):
    return re.findall(rf"^```{kind}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def run(arguments):
    return CliRunner().invoke(main, arguments, prog_name="vmcore", env={"COLUMNS": "100"})


def commands(pattern):
    """Return the blocks whose one line matches a pattern."""
    return [block.strip() for block in blocks("console") if re.fullmatch(pattern, block.strip())]


@pytest.mark.parametrize(("number", "examples"), [(0, 9), (1, 5)])
def test_the_python_sessions_print_what_they_show(number, examples):
    assert len(blocks("pycon")) == 2
    test = doctest.DocTestParser().get_doctest(blocks("pycon")[number], {}, "README.md", "README.md", 0)
    assert len(test.examples) == examples
    report: list[str] = []
    assert doctest.DocTestRunner(verbose=False).run(test, out=report.append).failed == 0, "".join(report)


def test_the_session_is_ten_lines_at_most():
    assert blocks("pycon")[0].count(">>> ") <= 10


def test_the_second_session_is_the_first_with_one_word_changed():
    first, second = (
        [line for line in session.splitlines() if line.startswith(">>> ")] for session in blocks("pycon")
    )
    changed = [(a, b) for a, b in zip(first, second, strict=False) if a != b]
    assert changed == [(first[1], second[1])]
    ((a, b),) = [(a, b) for a, b in zip(first[1].split('"'), second[1].split('"'), strict=True) if a != b]
    assert {a, b} <= set(load().architectures)


def test_the_table_has_every_built_in_architecture():
    rows = dict(re.findall(r"^\| `([\w-]+)` \| .* \| (.* \| .*) \|$", TEXT, re.MULTILINE))
    built_in = {name for name, plugin in load().origin.items() if plugin == "builtin"}
    assert set(rows) == built_in
    for name, row in rows.items():
        arch = load().architectures[name]
        layout = arch.lay_out(LayoutRequest(ram=arch.default_ram))
        assert row == f"{format_size(arch.default_ram)} | {format_size(layout.vmalloc.size)}"


def test_the_first_screen_says_what_it_is_before_how_to_test_it():
    """A sentence, a picture, two sessions, three users; then to install, then to test."""
    marks = [
        TEXT.index(mark) for mark in ("vmcore runs", "![", "```pycon", "## Who uses it", "## Install", "## Test")
    ]
    assert marks == sorted(marks)
    assert TEXT[: TEXT.index("## Test")].count("\n") < 100


def test_the_command_that_tests_is_one_line_and_stands_once():
    (second,) = commands(r"python3 -m venv .*tox run")
    assert second.endswith(".venv/bin/tox run")
    assert re.findall(r"^python3 -m venv .*tox run$", TEXT, re.MULTILINE) == [second]
    assert TEXT.index("## Test") < TEXT.index(second) < TEXT.index("## Machines")


def test_each_of_three_users_has_one_command(monkeypatch):
    monkeypatch.delenv("VMCORE_ARCH", raising=False)
    told = TEXT[TEXT.index("## Who uses it") : TEXT.index("## Install")]
    lines = [command for command in commands(r"vmcore .*") if command in told]
    assert told.count("**You ") == len(lines) == 3
    assert [run(shlex.split(line)[1:]).exit_code for line in lines] == [1, 0, 0]


def test_the_first_command_replays_a_sample_that_fits():
    (line,) = commands(r"python3 -m venv .*vmcore replay .*")
    command = line.split("&&")[-1]
    program, *arguments = shlex.split(command)
    assert program == ".venv/bin/vmcore"
    result = run(arguments)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("sample:x86_64-l4 on i386-highmem: all 7,877 allocations fit\n")


def test_the_excerpt_of_a_replay_is_what_it_prints():
    excerpt = next(block for block in blocks("console") if block.startswith("$ vmcore replay"))
    command, *lines = excerpt.splitlines()
    result = run(shlex.split(command)[2:])
    assert result.exit_code == 1
    printed, at = result.output.splitlines(), 0
    for line in lines:
        if line != "...":
            at = printed.index(line, at) + 1


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", TEXT))))
def test_links_lead_somewhere(target):
    assert (ROOT / target).exists()


def test_the_walk_and_the_audit_of_a_sample_are_what_they_print(monkeypatch):
    monkeypatch.delenv("VMCORE_ARCH", raising=False)
    excerpt = next(block for block in blocks("console") if block.startswith("$ vmcore walk"))
    for part in excerpt.split("$ ")[1:]:
        command, dots, *lines = part.splitlines()
        result = run(shlex.split(command)[1:])
        assert (result.exit_code, dots) == (0, "...")
        assert result.output.splitlines()[-len(lines) :] == lines


def test_the_table_of_commands_has_each():
    assert re.findall(r"^\| `vmcore (\w+)", TEXT, re.MULTILINE) == list(COMMANDS)
