"""vmcore replay: the report for people, JSON as documented, one line for bad input, exit statuses."""

import gzip
import json
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from click.testing import CliRunner

from tests.support import json_page
from vmcore import hookimpl
from vmcore.cli import COMMANDS, main
from vmcore.cli.replay import _Bar
from vmcore.coherence.facts import REPORT
from vmcore.linking import registry
from vmcore.replay.result import SCHEMA
from vmcore.scenes.catalogue import leave_out
from vmcore.units import format_size
from vmcore.views import replay as replay_view

DOCS = Path(__file__).parents[2] / "docs" / "replay.md"
START, MODULES = 0xFFFFC90000000000, 0xFFFFFFFFC0000000
WINDOW = "vstart=0xffffc90000000000 vend=0xffffe8ffffffffff"
MODULE_WINDOW = "vstart=0xffffffffc0000000 vend=0xffffffffff000000"
TASK = "          <idle>-0       [000] d..1.     0.000000: "
KIB, MIB = 1 << 10, 1 << 20


def alloc(offset=0, size=8 * KIB, align=1, failed=0):
    return (
        f"{TASK}alloc_vmap_area: va_start: {START + offset} size={size} align={align} {WINDOW} failed={failed}\n"
    )


def module(offset, size):
    return f"{TASK}alloc_vmap_area: va_start: {MODULES + offset} size={size} align=1 {MODULE_WINDOW} failed=0\n"


def free(offset=0):
    return f"{TASK}free_vmap_area_noflush: va_start={START + offset:#x} nr_lazy=2 nr_lazy_max=32768\n"


PURGE = f"{TASK}purge_vmap_area_lazy: start=0xffffc90000000000 end=0xffffc90000002000 num_purged=1\n"
MARK = f"{TASK}tracing_mark_write: hello\n"
FITS = alloc() + alloc(0x3000, 12 * KIB) + free() + PURGE + MARK
FAILS = (
    "CPU:0 [LOST 7 EVENTS]\n" + alloc() + alloc(0x10000000, 40 * MIB, align=4096) + module(0, 8 * KIB)
    + free(0x10000000) + free(0x9000) + alloc(0x20000000, 12 * KIB, failed=1) + alloc(0x30000000, 40 * MIB)
)  # fmt: skip
SMALL = ["--arch", "i386", "--vmalloc", "32M"]


def run(*arguments, **options):
    return CliRunner().invoke(main, ["replay", *arguments], **options)


@pytest.fixture
def trace(tmp_path, monkeypatch):
    """Write a text to ``trace.txt`` in the current directory."""
    monkeypatch.chdir(tmp_path)
    return lambda text: Path("trace.txt").write_bytes(text if isinstance(text, bytes) else text.encode())


def test_it_is_listed():
    assert "replay" in COMMANDS
    assert "replay " in CliRunner().invoke(main, ["--help"]).output


def test_everything_fits(trace):
    trace(FITS)
    result = run("trace.txt", "--arch", "i386")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[:6] == [
        "trace.txt on i386: all 2 allocations fit",
        "",
        "read            5 lines, 4 vmalloc events, 4 KiB pages",
        "from            0xffffc90000000000-0xffffe8ffffffffff (32 TiB)",
        "replayed        2 allocations, 1 free; 1 purge, nothing to do here",
        "skipped         1 line of event tracing_mark_write",
    ]
    table = lines[lines.index("the space at                peak             end") :][:7]
    assert table[1:4] == [
        "line                           2               4",
        "live areas                     2               1",
        "their bytes               20 KiB          12 KiB",
    ]
    assert "page tables     1 page made (1 pte), 4 KiB" in lines
    assert "flushes         flush_cache_vmap: 2 calls, 3 pages" in lines
    assert not any(line.startswith(("failed", "try", "warning")) for line in lines)
    assert max(map(len, lines)) <= 80


def test_the_graph_of_live_areas(trace):
    trace("".join(alloc(n * 0x4000, 16 * KIB) for n in range(8)) + "".join(free(n * 0x4000) for n in range(8)))
    lines = run("trace.txt", "--arch", "i386", "--source-page", "4K").output.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("live areas, bytes"))
    assert lines[at + 1 : at + 9] == [
        "       128 KiB |      ▂█▂",
        "               |     ▄███▄",
        "               |    ▆█████▆",
        "               |  ▂█████████▂",
        "               | ▄███████████▄",
        "               |▆█████████████▆",
        "             0 +----------------",
        "                line 1        16",
    ]


def test_the_graph_of_one_event_has_one_label(trace):
    trace(alloc())
    lines = run("trace.txt", "--arch", "i386", "--source-page", "4K").output.splitlines()
    at = next(n for n, line in enumerate(lines) if line.endswith(" +-"))
    assert lines[at + 1] == "                line 1"


@pytest.mark.parametrize("columns", [24, 40, 80, 200])
def test_the_graph_fits_the_terminal_and_marks_the_failure(columns):
    """The mark stands below the column that has the failure, and no line is wider than the terminal."""
    events = 300
    samples = [(n + 1, 1, 4096 * (n % 7 + 1)) for n in range(events)]
    for failed in range(0, events, 7):
        report = SimpleNamespace(
            samples=samples,
            peak=SimpleNamespace(bytes=4096 * 7),
            failures=[SimpleNamespace(line=samples[failed][0])],
        )
        most = max(min(60, columns - 17), 1)
        *_, mark, scale = (line for _, line in replay_view._graph(report, " ....####", most))
        column = mark.index("^") - 16
        assert column * events // most <= failed < (column + 1) * events // most
        assert scale.startswith(f"{'':16}line 1")
        assert scale.endswith(" 300")


def test_failures_are_named_with_the_state_of_the_space(trace):
    trace(FAILS)
    result = run("trace.txt", *SMALL)
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert lines[0] == "trace.txt on i386: 2 of 4 allocations failed, the first at line 3"
    assert "warning         7 events lost in 1 place, first at line 1" in lines
    assert "skipped         1 free of an allocation that failed here" in lines
    assert "                1 free of an address without an area" in lines
    at = lines.index("failed          2: no hole fits (space)")
    assert lines[at + 2 : at + 4] == [
        "          3  vmalloc      40 MiB      4 KiB     23.69 MiB  space",
        "          8  vmalloc      40 MiB        1 B     23.68 MiB  space",
    ]
    (hint,) = (line for line in lines if line.startswith("try "))
    assert hint.startswith("try             --vmalloc 64M, a window of 55.7 MiB, or more: ")
    assert max(map(len, lines)) <= 80


def test_the_hint_says_why_there_is_no_larger_window(trace):
    trace(alloc(0, 5 << 30) + alloc(6 << 30))
    lines = " ".join(run("trace.txt", "--arch", "x86_64", "--ram", "64M").output.split())
    assert "try give more --ram try give --vmallocinfo: areas of ioremap" in lines
    trace(alloc(0, 200 * MIB) + alloc(200 * MIB, 200 * MIB))
    lines = " ".join(run("trace.txt", "--arch", "armv7", "--source-page", "4K").output.split())
    assert "try another --arch: no vmalloc= gives this one a window of 400 MiB: armv7: vmalloc= is" in lines


def test_impossible_sizes_hint_at_the_page_size(trace):
    trace(alloc() + alloc(0x10000))
    lines = run("trace.txt", "--arch", "i386").output.splitlines()
    assert "failed          2: the size is none this machine can be asked for (size)" in lines
    assert any(line.startswith("try             --source-page, if the pages of the traced kernel are not 8 KiB")
               for line in lines)  # fmt: skip
    assert run("trace.txt", "--arch", "i386", "--source-page", "4K").exit_code == 0


def test_a_window_of_modules_that_ran_out(trace):
    trace(alloc() + "".join(module(n * MIB, MIB) for n in range(20)))
    lines = run("trace.txt", "--arch", "armv7", "--source-page", "4K").output.splitlines()
    assert "failed          4: no hole fits (space)" in lines
    assert "(free, hole and fragmentation at the failure: of the window modules)" in lines
    assert any(line.startswith("try             the window of modules is fixed") for line in lines)


def test_more_failures_than_are_shown(trace):
    trace("".join(alloc(n * 64 * MIB, 40 * MIB) for n in range(9)))
    lines = run("trace.txt", *SMALL, "--source-page", "4K").output.splitlines()
    assert "  ... and 4 more; --json has them all" in lines
    assert len(json.loads(run("trace.txt", *SMALL, "--json", "--source-page", "4K").stdout)["failures"]) == 9


def test_stop(trace):
    trace(FAILS)
    result = run("trace.txt", *SMALL, "--stop")
    assert result.exit_code == 1
    assert "stopped at line 3: the first failure; " in result.output
    assert "5 events after the end of the replay" in result.output


# ---- input


def test_stdin_and_compression(trace):
    result = run("-", "--arch", "i386", input=FITS.encode())
    assert (result.exit_code, result.output.splitlines()[0]) == (0, "<stdin> on i386: all 2 allocations fit")
    trace(gzip.compress(FITS.encode()))
    assert run("trace.txt", "--arch", "i386").exit_code == 0


def test_a_sample_with_its_vmallocinfo():
    result = run("sample:riscv64-sv39", "--vmallocinfo", "sample:riscv64-sv39", "--arch", "x86_64")
    assert result.exit_code == 0
    assert "11 ioremap, given physical addresses" in " ".join(result.output.split())
    assert "vmallocinfo: it has 277 of 277 areas live at the end" in " ".join(result.output.split())


@pytest.mark.parametrize(("arch", "given", "stand_in"), [("i386", 0, 1), ("x86_64", 1, 0)])
def test_physical_addresses_that_do_not_fit_are_said_to_be_assumed(trace, arch, given, stand_in):
    trace(alloc())
    entry = f"{START:#x}-{START + 8 * KIB:#x} 8192 pci+0x1/0x2 phys=0x800000000 ioremap\n"
    Path("info.txt").write_text(entry, "ascii")
    options = ["trace.txt", "--arch", arch, "--source-page", "4K", "--vmallocinfo", "info.txt"]
    text = " ".join(run(*options).stdout.split())
    said = "ioremap: 1 of 1 physical address does not fit this machine, or is not given; a stand-in frame"
    assert (said in text) is bool(stand_in)
    assert ("1 ioremap, given a physical address" in text) is bool(given)
    assert ("1 ioremap, a stand-in frame for a physical address" in text) is bool(stand_in)
    report = json.loads(run(*options, "--json").stdout)
    assert (report["backing"]["ioremap"], report["backing"]["stand_in"]) == (given, stand_in)
    assert any(said in sentence for sentence in report["assumptions"]) is bool(stand_in)


BAD = [
    (b"", "trace.txt: the file is empty, expected a trace"),
    (
        b"# tracer: nop\n",
        "trace.txt: 0 events in 1 line, none of them alloc_vmap_area; enable events/vmalloc before",
    ),
    (FITS.encode()[:-60], "trace.txt:5: found"),
    (FITS.encode().replace(b"size=12288", b"size=122"), "trace.txt:2: alloc_vmap_area: found size=122, expected"),
    (b"\x7fELF\xd0\x00" + FITS.encode(), "trace.txt:1: "),
    (gzip.compress(FITS.encode())[:-9], "trace.txt"),
    (alloc().encode() * 2, "trace.txt:2: alloc_vmap_area: found 0x"),
]


@pytest.mark.parametrize(("data", "message"), BAD)
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_bad_input_is_one_line_with_file_and_line(trace, data, message, options):
    trace(data)
    result = run("trace.txt", "--arch", "i386", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"vmcore: error: {message}")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch", "--arch", "i386"], "nosuch: cannot be read: No such file or directory"),
        (["sample:nosuch", "--arch", "i386"], "no sample 'nosuch', expected one of arm-short"),
        (["trace.txt", "--arch", "i368"], "unknown architecture 'i368': did you mean 'i386'?"),
        (["trace.txt", "--arch", "x86_64", "--vmalloc", "1G"], "x86_64: vmalloc="),
        (
            ["trace.txt", "--arch", "i386", "--source-page", "5000"],
            "trace.txt: source page of 5000 bytes, expected",
        ),
        (["trace.txt", "--arch", "i386", "--source-page", "x"], "--source-page: found 'x', expected"),
        (["trace.txt", "--arch", "i386", "--vmallocinfo", "nosuch"], "nosuch: cannot be read"),
        (["trace.txt", "--arch", "i386", "--vmallocinfo", "trace.txt"], "trace.txt:1: found"),
        (
            ["trace.txt", "--arch", "i386", "--vmallocinfo", "sample:x86_64-l4"],
            "trace.txt: 0 of 1 area live at its end found in vmallocinfo",
        ),
        (["trace.txt", "--arch", "i386", "--cpus", "0"], "--cpus: "),
        (["-", "--arch", "i386", "--vmallocinfo", "-"], "--vmallocinfo: found - for both files"),
    ],
)
def test_bad_options(trace, arguments, message):
    trace(FITS)
    result = run(*arguments, input=FITS.encode())
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"vmcore: error: {message}")


# ---- JSON and its page


def test_every_key_of_json_is_documented_and_the_other_way_round(trace):
    trace(FAILS + MARK)
    report, used = json.loads(run("trace.txt", "--arch", "armv7", "--vmalloc", "32M", "--json").stdout), set()
    assert list(json_page.mismatches(SCHEMA, report, used)) == []
    assert {name for shape, name in used if shape == SCHEMA.name} == {key.name for key in SCHEMA.keys}
    assert report["coherence"] is None


def test_every_key_of_coherence_is_documented_and_the_other_way_round(trace, dropping):
    trace(BUSY)
    result = run("trace.txt", *SMALL, "--check", "--json")
    assert result.exit_code == 1
    used = set()
    assert list(json_page.mismatches(SCHEMA, json.loads(result.stdout), used)) == []
    assert {name for shape, name in used if shape == REPORT.name} == {key.name for key in REPORT.keys}


def test_json_has_the_larger_window_of_the_hint(trace):
    trace(FAILS)
    found = json.loads(run("trace.txt", *SMALL, "--json").stdout)["larger_window"]
    hints = " ".join(run("trace.txt", *SMALL).output.split())
    assert found["vmalloc"] == 64 * MIB
    assert found["window"] >= found["need"]
    assert f"try --vmalloc 64M, a window of {format_size(found['window'])}, or more" in hints
    trace(FITS)
    assert json.loads(run("trace.txt", *SMALL, "--json").stdout)["larger_window"] is None


def test_reasons_and_skips_are_documented():
    from vmcore.replay.result import REASONS, SKIPPED  # noqa: PLC0415  # only this one needs it

    text = DOCS.read_text("utf-8")
    for key in [*REASONS, *SKIPPED]:
        assert f"`{key}`" in text, key


def test_values_of_json(trace):
    trace(FAILS)
    report = json.loads(run("trace.txt", *SMALL, "--json").stdout)
    assert list(report)[:2] == ["schema", "source"]
    assert report["schema"] == "vmcore.replay/1"
    assert report["arch"] == "i386"
    assert report["source"]["windows"][0] == {
        "start": "0xffffc90000000000", "end": "0xffffe8ffffffffff", "size": 0x1FFFFFFFFFFF,
    }  # fmt: skip
    assert (report["source"]["lost"], report["source"]["lost_lines"]) == (7, [1])
    assert report["events"] == {
        "read": 7, "alloc": 4, "free": 0, "purge": 0,
        "skipped": {"failed_here": 1, "unknown_address": 1, "failed_on_source": 1},
    }  # fmt: skip
    window = report["layout"]["vmalloc"]["size"]
    first = report["failures"][0]
    assert first.pop("message").startswith("out of vmalloc space: no hole of 0x2800000 bytes")
    assert first == {
        "line": 3, "window": "vmalloc", "size": 40 * MIB, "align": 4096, "reason": "space", "areas": 1,
        "bytes": 8 * KIB, "free": window - 8 * KIB, "largest_hole": window - 8 * KIB, "fragmentation": 0.0,
    }  # fmt: skip
    assert report["samples"] == [[2, 1, 8192], [3, 1, 8192], [4, 2, 16384], [5, 2, 16384], [6, 2, 16384],
                                 [7, 2, 16384], [8, 2, 16384]]  # fmt: skip
    assert report["rate"] > 0


# ---- --check

BUSY = alloc() + free() + alloc() + alloc(0x4000, 12 * KIB)


@pytest.fixture
def dropping(monkeypatch):
    """Install a distribution's plugin that drops the TLB flush."""
    module = ModuleType("vmcore_test_drop")
    module.vmcore_api = (1, 0)
    plugin = leave_out("flush_tlb_kernel_range")
    module.vmcore_flush_tlb_kernel_range = hookimpl(wrapper=True)(
        lambda arch: (yield from plugin.vmcore_flush_tlb_kernel_range(arch))
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    point = EntryPoint("drop", module.__name__, "vmcore")
    real = registry.entry_points(group="vmcore")
    monkeypatch.setattr("vmcore.linking.registry.entry_points", lambda group: [*real, point])


@pytest.mark.parametrize("arch", ["i386", "i386-pae", "x86_64", "armv5", "armv7", "armv7-highmem"])
def test_with_all_flushes_there_is_nothing_to_report(trace, arch):
    trace(BUSY)
    result = run("trace.txt", "--arch", arch, "--check")
    assert result.exit_code == 0, result.output
    assert "coherence       3 areas touched: nothing to report" in result.output.splitlines()
    report = json.loads(run("trace.txt", "--arch", arch, "--check", "--json").stdout)
    assert report["coherence"] == {"touched": 3, "reports": [], "repeated": 0}


def test_without_the_option_nothing_is_checked(trace):
    trace(BUSY)
    assert json.loads(run("trace.txt", *SMALL, "--json").stdout)["coherence"] is None
    assert "coherence" not in run("trace.txt", *SMALL).output


def test_a_plugin_that_drops_a_flush_is_found_out(trace, dropping):
    trace(BUSY)
    result = run("trace.txt", *SMALL, "--check")
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert lines[0] == "trace.txt on i386: all 3 allocations fit; 1 report of the coherence checker"
    assert "coherence       3 areas touched: 1 report" in lines
    start = lines.index("   - frame in use, CPU 0, 0xfe800000")
    assert lines[start + 1 : start + 4] == [
        "       frame 0x1000 is handed out again, and the TLB translates to it;",
        "       flush_tlb_kernel_range on cpu 0: nothing to do",
        "       missing: flush_tlb_kernel_range for 0xfe800000..0xfe801000",
    ]
    found = json.loads(run("trace.txt", *SMALL, "--check", "--json").stdout)["coherence"]
    (report,) = found["reports"]
    assert (report["kind"], report["cpu"], report["address"]) == ("frame in use", 0, "0xfe800000")
    assert (report["missing"], report["start"], report["end"], report["reached"]) == (
        "flush_tlb_kernel_range", "0xfe800000", "0xfe801000", None,
    )  # fmt: skip
    assert (found["touched"], found["repeated"]) == (3, 0)
    assert run("trace.txt", *SMALL, "--check", "--block", "drop").exit_code == 0


def test_many_reports_are_cut_short(trace, dropping):
    pages = "".join(alloc(n << 16) for n in range(9))
    trace(pages + "".join(free(n << 16) for n in range(9)) + "".join(alloc((n + 10) << 16) for n in range(9)))
    result = run("trace.txt", *SMALL, "--check", "--source-page", "4K")
    assert "coherence       18 areas touched: 17 reports, and 16 more of the same" in result.output.splitlines()
    assert "  ... and 12 more; --json has them all" in result.output.splitlines()
    assert result.output.count("missing: flush_tlb_kernel_range") == 5


# ---- on a terminal


def test_a_terminal_has_colours(trace, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    trace(FAILS)
    assert "\x1b[" in run("trace.txt", *SMALL).stdout
    assert "\x1b" not in run("trace.txt", *SMALL, "--json").stdout


def test_progress_appears_only_on_a_terminal_and_after_a_second(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr("vmcore.cli.replay.monotonic", lambda: now)
    with _Bar() as bar:
        now = 5.0
        bar(1, 2)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    with _Bar() as bar:
        now = 5.9
        bar(1, 2)
        assert capsys.readouterr().err == ""
        now = 6.1
        bar(1, 2)
        bar(2, 2)
    assert "replaying" in capsys.readouterr().err
