"""``vmcore verify`` on the command line."""

import json

import pytest
from click.testing import CliRunner

from vmcore.cli import main
from vmcore.cli.verify import command

NAME = "sample:riscv64-sv39"


def run(*arguments):
    return CliRunner().invoke(command, arguments)


def test_the_headline_of_a_trace():
    done = run("sample:i386-pae", "sample:i386-pae")
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        "4,806 of 4,806 addresses as on the traced kernel, by the rules of 5.18 (100.0%)",
        "  4,805 at the first look, 1 address more with a purge moved before its line",
        "  as good by the rules of 5.16",
        "  window 0xf77fe000-0xfeffe000, 0 areas from before the trace, 1 percpu chunk, 1 CPU",
    ]


def test_the_wrong_rules():
    done = run(NAME, NAME, "--kernel", "2.6.32")
    assert done.exit_code == 1
    assert " by the rules of 2.6.28 (" in done.output
    assert "  line " in done.output
    assert ", predicted 0x" in done.output


def test_json_has_the_fixed_keys():
    done = run(NAME, NAME, "--json")
    facts = json.loads(done.output)
    assert done.exit_code == 0
    assert (facts["allocations"], facts["exact"], facts["explained"], facts["share"]) == (961, 961, 961, 1.0)
    assert (facts["kernel"], facts["alike"], facts["cpus"]) == ("6.16", ["6.9"], 1)
    assert facts["window"]["start"] == "0xffffffc600000000"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-", "-"), "found - for both files"),
        ((NAME, "--kernel", "six"), "kernel 'six': expected a version such as 6.12"),
        ((NAME, "--source-page", "5x"), "--source-page"),
        (("no-such-file",), "no-such-file"),
    ],
)
def test_a_mistake_is_an_error(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["vmcore", "verify", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
