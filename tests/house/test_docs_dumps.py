"""docs/dumps.md is so: every command prints what it shows, every snippet runs, every name exists."""

import doctest
import re
import shlex
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from vmcore.cli import COMMANDS, main
from vmcore.dump.audit.rules import RULES

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "dumps.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
PYTHON = [body for kind, body in BLOCKS if kind == "python"]


def run(line):
    program, command, *arguments = shlex.split(line)
    assert (program, command) in {("vmcore", name) for name in COMMANDS}
    return CliRunner().invoke(main, [command, *arguments], prog_name="vmcore", env={"COLUMNS": "100"})


def steps(body):
    """Return each command of a block, the lines shown below it, and the exit status shown or 0."""
    found = []
    for line in body.splitlines():
        if line == "$ echo $?":
            found.append(("?", []))
        elif line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    statuses = [int(after[1][0]) if after[0] == "?" else 0 for after in [*found[1:], ("", [])]]
    return [(*step, status) for step, status in zip(found, statuses, strict=True) if step[0] != "?"]


def same(shown, printed):
    """Compare lines; ``...`` stands for any."""
    pattern = "".join(r"(?:.*\n)*" if line == "..." else re.escape(line) + r"\n" for line in shown)
    return re.fullmatch(pattern, printed if printed.endswith("\n") or not printed else printed + "\n") is not None


def test_commands_and_sessions_print_what_is_shown_in_their_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VMCORE_ARCH", raising=False)
    commands = 0
    for kind, body in BLOCKS:
        if kind == "console":
            for line, shown, status in steps(body):
                result, commands = run(line), commands + 1
                assert same(shown, result.output), f"{line}\n{result.output[:2000]}"
                assert result.exit_code == status, line
        elif kind == "pycon":
            test = doctest.DocTestParser().get_doctest(body, {}, "dumps.md", None, 0)
            report: list[str] = []
            assert doctest.DocTestRunner(verbose=False).run(test, out=report.append).failed == 0, "".join(report)
    assert commands == 14


@pytest.mark.parametrize("body", PYTHON, ids=["drgn", "unicorn"])
def test_a_snippet_for_another_tool_runs(body, tmp_path, monkeypatch):
    for module in set(re.findall(r"^(?:import|from) (drgn|unicorn)", body, re.MULTILINE)):
        pytest.importorskip(module, reason=f"{module} is not installed (pip install vmcore[interop])")
    monkeypatch.chdir(tmp_path)
    exec(compile(body, "dumps.md", "exec"), {})


@pytest.mark.parametrize("line", sorted(set(re.findall(r"`(vmcore (?:walk|audit) [^`]* --[^`]*)`", TEXT))))
def test_a_command_that_is_only_named_has_options_that_exist(line):
    _, name, *arguments = shlex.split(line)
    command = import_module(f"vmcore.cli.{name}").command
    known = {option for parameter in command.params for option in parameter.opts}
    assert isinstance(command, click.Command)
    assert {argument for argument in arguments if argument.startswith("--")} <= known


def test_every_problem_and_every_function_that_is_excused_is_listed():
    source = (Path(__file__).parents[2] / "vmcore" / "dump" / "audit" / "result.py").read_text("utf-8")
    (listed,) = re.findall(r'problem: ((?:"[a-z ]+"(?:, | or |\.))+)', source)
    rows = re.findall(
        r"^\| ([a-z ]+) \| ", TEXT[TEXT.index("| finding |") : TEXT.index("A window is")], re.MULTILINE
    )
    assert sorted(rows) == sorted(["finding", *re.findall(r'"([a-z ]+)"', listed)])
    excused = TEXT[TEXT.index("| area | may have |") :]
    assert len(RULES) == 7
    for name in ("unpurged vm_area", "vm_map_ram", "sparse", "pcpu_get_vm_areas", "paging_init", "iotable_init"):
        assert f"`{name}`" in excused


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", TEXT))))
def test_links_lead_somewhere(target):
    assert (DOCS / target).exists()
