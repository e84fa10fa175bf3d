"""vmcore demo: the list, both plays for people, JSON, and one line for bad input."""

import json

import pytest
from click.testing import CliRunner

from vmcore.cli import COMMANDS, main
from vmcore.scenes.catalogue import SCENES


def run(*arguments, **options):
    return CliRunner().invoke(main, ["demo", *arguments], **options)


def part(output, first, last):
    """Return the lines from one to another, which is not among them."""
    lines = output.splitlines()
    return lines[lines.index(first) : lines.index(last)]


def test_it_is_listed():
    assert "demo" in COMMANDS
    assert "demo " in CliRunner().invoke(main, ["--help"]).output


def test_without_a_name_the_scenes_are_listed_and_no_architecture_is_needed():
    result = run()
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert [line.split()[0] for line in lines] == list(SCENES)
    assert lines[1] == "vivt-alias          Two addresses of one frame that do not show the same data."
    listed = json.loads(run("--json").stdout)
    assert listed["schema"] == "vmcore.scenes/1"
    assert [scene["name"] for scene in listed["scenes"]] == list(SCENES)
    assert listed["scenes"][3] == {
        "name": "lazy-sync",
        "title": "A new kernel mapping that processes learn of when they first touch it.",
        "symbol": "vmalloc_fault",
    }


def test_a_scene_step_by_step():
    result = run("vivt-alias", "--arch", "armv5")
    assert result.exit_code == 0
    assert result.output.splitlines()[:2] == [
        "vivt-alias on armv5, 1 CPU",
        "Two addresses of one frame that do not show the same data.",
    ]
    assert part(result.output, "Without flush_cache_vmap", "With flush_cache_vmap") == [
        "Without flush_cache_vmap",
        "     address  seen by           TLB               tables       cache          frame     a load gives",
        ' 1.  a frame holds "older"; first is its address in the linear map of all low memory',
        '     first    CPU 0             -                 0x401000     -              "older"   "older"',
        " 2.  CPU 0 loads from first",
        '     => "older"',
        '     first    CPU 0             0x401000          0x401000     "older"        "older"   "older"',
        ' 3.  CPU 0 stores "newer" to first',
        "     => stored",
        '     first    CPU 0             0x401000          0x401000     "newer" dirty  "older"   "newer"',
        " 4.  CPU 0: second = vmap(the same frame)",
        "     => second is 0xd0800000",
        "     flush_cache_vmap is left out",
        '     second   CPU 0             -                 0x401000     -              "older"   "older"',
        " 5.  CPU 0 loads from second",
        '     => "older"',
        '     second   CPU 0             0x401000          0x401000     "older"        "older"   "older"',
        "",
    ]
    second = part(result.output, "With flush_cache_vmap", "What flush_cache_vmap makes of it")
    assert second[1] == "     steps 1 to 3 as above"
    assert second[-2] == (
        '     second   CPU 0             0x401000          0x401000     "newer"        "newer"   "newer"'
    )
    assert part(result.output, "What flush_cache_vmap makes of it", "What the coherence checker says") == [
        "What flush_cache_vmap makes of it",
        " 5.  CPU 0 loads from second",
        '     without  "older"',
        '     with     "newer"',
        "",
    ]
    lines = result.output.splitlines()
    assert lines[lines.index("What the coherence checker says") :] == [
        "What the coherence checker says",
        "without flush_cache_vmap: 1 report",
        "   - stale line, CPU 0, 0xd0800000",
        "       memory gives an old copy at 0xd0800000, the new one is dirty in the cache of cpu 0 at",
        "       0xc0401000; flush_cache_vmap on cpu 0: nothing to do",
        "       missing: flush_cache_vmap for 0xd0800000..0xd0801000",
        "       what happened there:",
        "         mapped 0xd0800000..0xd0801000",
        "         flush_cache_vmap on cpu 0, 0xd0800000..0xd0801000: nothing to do",
        "with flush_cache_vmap: nothing",
    ]


def test_where_nothing_goes_wrong_it_says_why():
    output = run("vivt-alias", "--arch", "x86_64").output
    assert part(output, "With flush_cache_vmap", "What the coherence checker says") == [
        "With flush_cache_vmap",
        "     every step comes out the same",
        "",
        "What flush_cache_vmap makes of it",
        "Nothing: the data caches of this machine find a line by its physical address: a frame is in them",
        "once, whatever address it is used by, and needs no flush.",
        "",
    ]
    assert output.splitlines()[-3:] == [
        "What the coherence checker says", "without flush_cache_vmap: nothing", "with flush_cache_vmap: nothing"
    ]  # fmt: skip
    assert " cache " not in part(output, "Without flush_cache_vmap", "With flush_cache_vmap")[1]


def test_entries_are_shown_when_they_change():
    output = run("lazy-sync", "--arch", "i386-highmem").output
    lines = [line.strip() for line in part(output, "With vmalloc_fault", "What vmalloc_fault makes of it")]
    assert [line for line in lines if "pgd[" in line] == [
        "process 1  pgd[994] at 0x1000f88: 00000000 becomes 01002067",
        "process 2  pgd[994] at 0x1001f88: 00000000 becomes 01002067",
    ]
    assert 'page 1   CPU 0, process 1  0x38000000        0x38000000   "alice"   "alice"' in lines
    assert "page 1   CPU 1, process 2  -                 -            -         a fault" in lines


def test_cpus_that_see_the_same_share_a_row():
    output = run("missing-tlb-flush", "--arch", "i386", "--cpus", "3").output
    assert output.splitlines()[0] == "missing-tlb-flush on i386, 3 CPUs"
    assert "     old      CPU 0-2           0x1000000 stale   -            " in output


@pytest.mark.parametrize("name", SCENES)
def test_every_scene_fits_the_page(arch_name, name):
    result = run(name, "--arch", arch_name)
    assert result.exit_code == 0, result.output
    assert max(len(line) for line in result.output.splitlines()) <= 100
    assert not any(line != line.rstrip() for line in result.output.splitlines())


@pytest.fixture(params=["i386-pae-highmem", "x86_64", "armv5", "armv7-highmem"])
def arch_name(request):
    return request.param


@pytest.mark.parametrize("name", SCENES)
def test_json_tells_the_same(arch_name, name):
    result = run(name, "--arch", arch_name, "--json")
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    assert list(facts) == [
        "schema", "scene", "title", "symbol", "arch", "cpus", "without", "with", "difference", "why"
    ]  # fmt: skip
    assert (facts["schema"], facts["scene"], facts["arch"]) == ("vmcore.demo/1", name, arch_name)
    for play in (facts["without"], facts["with"]):
        assert set(play) == {"steps", "reports", "repeated"}
        for step in play["steps"]:
            assert set(step) == {"text", "outcome", "notes", "views", "entries"}
            assert {view["cpu"] for view in step["views"]} in (set(), set(range(facts["cpus"])))
    for d in facts["difference"]:
        assert facts["without"]["steps"][d["step"] - 1]["outcome"] == d["without"]
        assert facts["with"]["steps"][d["step"] - 1]["outcome"] == d["with"]
    assert bool(facts["why"]) != bool(facts["difference"])


def test_values_of_json():
    facts = json.loads(run("lost-dirty-line", "--arch", "armv5", "--json").stdout)
    gone = facts["without"]["steps"][4]
    assert gone["text"] == "CPU 0: vunmap(second): the page is unmapped"
    assert gone["notes"][0] == "flush_cache_vunmap is left out"
    assert gone["views"][1] == {
        "place": "second", "address": "0xd0800000", "cpu": 0, "process": 0, "tlb": None, "tables": None,
        "line": b"newer".hex(), "dirty": True, "memory": None, "gives": None, "stale": False,
    }  # fmt: skip
    report = facts["without"]["reports"][1]
    assert (report["kind"], report["address"], report["missing"]) == (
        "lost line", "0xd0800000", "flush_cache_vunmap",
    )  # fmt: skip
    assert (report["start"], report["end"], report["reached"]) == ("0xd0800000", "0xd0801000", None)
    facts = json.loads(run("lazy-sync", "--arch", "armv7", "--json").stdout)
    assert facts["with"]["steps"][2]["entries"][1] == {
        "process": 1, "level": "pgd", "index": 1668, "address": "0x403420", "word_bytes": 4,
        "before": ["0x0", "0x0"], "after": ["0x40a011", "0x40a411"],
    }  # fmt: skip


def test_the_machine_is_chosen_as_everywhere(monkeypatch):
    monkeypatch.setenv("VMCORE_ARCH", "i386-pae-highmem")
    assert run("sync-all", "--ram", "1G", "--platform", "paravirt").output.count("pmd[452]") > 3
    assert "pmd[" not in run("sync-all").output
    monkeypatch.setenv("VMCORE_CPUS", "1")
    assert run("sync-all").output.startswith("sync-all on i386-pae-highmem, 1 CPU\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vivt-alias"], "no architecture chosen"),
        (["vivt-alis", "--arch", "i386"], "unknown scene 'vivt-alis': did you mean 'vivt-alias'?"),
        (["vivt-alias", "--arch", "i368"], "unknown architecture 'i368': did you mean 'i386'"),
        (["vivt-alias", "--arch", "armv5", "--cpus", "2"], "armv5: cpus is 2, expected 1 to 1"),
        (["vivt-alias", "--arch", "i386", "--ram", "lots"], "--ram: "),
    ],
)
def test_bad_input_is_one_line(arguments, message):
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"vmcore: error: {message}")
    assert result.stderr.count("\n") == 1


def test_a_terminal_has_colours(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    assert "\x1b[" in run("vivt-alias", "--arch", "armv5").stdout
    assert "\x1b" not in run("vivt-alias", "--arch", "armv5", "--json").stdout
