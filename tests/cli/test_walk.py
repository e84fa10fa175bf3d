"""vmcore walk: steps and results, runs as a table, JSON, CSV and arrays, exit statuses, one line for bad input."""

import csv
import io
import json
import os
import random
import re
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from tests.support.dumps import RECORDS, capture, core
from vmcore.cli import COMMANDS, main

ROWS = [(n, a) for n, a in RECORDS.items() if a != "riscv64"]


def run(*arguments, **options):
    return CliRunner().invoke(main, ["walk", *map(str, arguments)], **options)


def walk(name, *arguments, root=None, arch=None, **options):
    found = capture(name)
    given = ("--vmcoreinfo", found.vmcoreinfo) if root is None else ("--root", hex(root))
    return run(found.core, "--arch", arch or RECORDS[name], *given, *arguments, **options)


@pytest.fixture
def small(tmp_path):
    """A core with a root of i386: a page of 4 MiB at 0xc0000000, a table that is missing, and one not present."""
    page = bytearray(0x1000)
    page[0xC00:0xC0C] = bytes.fromhex("e30100006720000080500000")
    path = tmp_path / "small.elf"
    path.write_bytes(core([(0x1000, bytes(page))], machine=3))
    return path


def test_it_is_listed():
    assert "walk" in COMMANDS
    assert re.search(r"^  walk +Translate addresses", CliRunner().invoke(main, ["--help"]).output, re.M)


def test_the_steps_of_an_address():
    result = walk("i386-pae", "0xf7807123")
    assert (result.exit_code, result.stderr) == (0, "")
    head, *lines = result.stdout.splitlines()
    info = capture("i386-pae").vmcoreinfo
    assert head.startswith(
        f"{capture('i386-pae').core} as i386-pae, root 0x1f16000 ({info}: SYMBOL(swapper_pg_dir)"
    )
    assert (len(lines), lines[0], lines[4]) == (5, "0xf7807123", "  physical address 0x17fc00123")
    assert re.fullmatch(r"  pgd\[3\] at 0x1f16018: [0-9a-f]{16}  table 0x[0-9a-f]+ PRESENT", lines[1])
    assert re.fullmatch(r"  pmd\[444\] at 0x[0-9a-f]+de0: [0-9a-f]{16}  table 0x[0-9a-f]+ PRESENT\|RW.*", lines[2])
    pte = r"  pte\[7\] at 0x[0-9a-f]+038: 800000017fc00161  4 KiB page PRESENT\|ACCESSED\|DIRTY\|GLOBAL\|NX"
    assert re.fullmatch(pte, lines[3])


def test_large_pages_and_every_way_a_walk_ends(small):
    result = run(small, "--arch", "i386", "--root", "0x1000", "0xc0012345", "0xc0400000", "0xc0800000", "0x0")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        f"{small} as i386, root 0x1000 (given)",
        "0xc0012345",
        "  pgd[768] at 0x1c00: 000001e3  4 MiB page PRESENT|RW|ACCESSED|DIRTY|PSE|GLOBAL",
        "  physical address 0x12345",
        "0xc0400000",
        "  pgd[769] at 0x1c04: 00002067  table 0x2000 PRESENT|RW|USER|ACCESSED|DIRTY",
        "  pte[0] at 0x2000: not in the dump",
        "  not in the dump: the pte entry cannot be read",
        "0xc0800000",
        "  pgd[770] at 0x1c08: 00005080  PSE",
        "  not mapped: the pgd entry is not present",
        "0x00000000",
        "  pgd[0] at 0x1000: 00000000  no flags",
        "  not mapped: the pgd entry is not present",
    ]
    assert result.stderr == "vmcore: partial: 1 address leads to what is not in the dump, of 4\n"


def test_an_address_that_no_cpu_has_and_one_that_is_neither_table_nor_page(tmp_path):
    result = walk("x86_64-l4", "0x800000000000")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[1:] == [
        "0x0000800000000000",
        "  not mapped: the address is not sign-extended",
    ]
    path = tmp_path / "arm.elf"
    path.write_bytes(core([(0x4000, b"\x03\0\0\0" + bytes(0x3FFC))]))
    lines = run(path, "--arch", "armv5", "--root", "0x4000", "0x1234").stdout.splitlines()
    assert lines[2:] == [
        "  first[0] at 0x4000: 00000003  table|section",
        "  not mapped: the first entry is neither a table nor a page",
    ]


@pytest.mark.parametrize(("name", "arch"), ROWS)
def test_every_row_of_a_capture_by_file(name, arch, tmp_path):
    rows = capture(name).rows()
    path = tmp_path / "addresses"
    path.write_text("# every row\n\n" + "".join(f"{v:#x}  # {p}\n" for v, p in rows))
    table = list(csv.DictReader(io.StringIO(walk(name, "--addresses", path, "--csv").stdout)))
    assert [(int(r["virtual"], 16), int(r["physical"], 16) if r["physical"] else None) for r in table] == rows
    text = walk(name, "--addresses", path)
    assert text.exit_code == 1
    lines = text.stdout.splitlines()[1:]
    assert [int(line.split()[0], 16) for line in lines] == [v for v, _ in rows]
    assert [line.split("  ")[1] for line, (_, p) in zip(lines, rows, strict=True) if p is not None] == [
        f"{p:#x}" for _, p in rows if p is not None
    ]
    assert all("  not mapped: the " in line for line, (_, p) in zip(lines, rows, strict=True) if p is None)
    npz = tmp_path / "walks.npz"
    assert walk(name, "--addresses", path, "--npz", npz).stdout == ""
    with np.load(npz) as arrays:
        assert arrays["virtual"].tolist() == [v for v, _ in rows]
        assert arrays["physical"].tolist() == [-1 if p is None else p for _, p in rows]
        assert {"end", "depth", "leaf", "entries", "words"} < set(arrays)


def test_steps_as_json(small):
    result = run(small, "--arch", "i386", "--root", "0x1000", "--json", "0xc0012345", "0xc0400000")
    answer = json.loads(result.stdout)
    assert {key: answer[key] for key in ("schema", "dump", "arch", "root", "problems", "partial")} == {
        "schema": "vmcore.walk/1",
        "dump": str(small),
        "arch": "i386",
        "root": {"address": "0x1000", "how": "given"},
        "problems": [],
        "partial": ["1 address leads to what is not in the dump, of 2"],
    }
    assert answer["addresses"] == [
        {
            "virtual": "0xc0012345",
            "physical": "0x12345",
            "end": "mapped",
            "steps": [
                {
                    "level": "pgd",
                    "index": 768,
                    "address": "0x1c00",
                    "word": "0x1e3",
                    "flags": ["PRESENT", "RW", "ACCESSED", "DIRTY", "PSE", "GLOBAL"],
                    "page": "4 MiB page",
                }
            ],
        },
        {
            "virtual": "0xc0400000",
            "physical": None,
            "end": "not in memory",
            "steps": [
                {
                    "level": "pgd",
                    "index": 769,
                    "address": "0x1c04",
                    "word": "0x2067",
                    "flags": ["PRESENT", "RW", "USER", "ACCESSED", "DIRTY"],
                },
                {"level": "pte", "index": 0, "address": "0x2000", "word": None, "flags": []},
            ],
        },
    ]


# ---- all mappings


def test_the_table_of_runs():
    result = walk("arm-short", "--range", "0xbf600000-0xc3000000")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[1:3] == ["59 mappings in 7 runs", ""]
    assert lines[3].split() == ["virtual", "physical", "size", "pages", "of", "bits"]
    assert lines[7:11] == [
        "0xc0000000-0xc02fffff     0x40000000       3 MiB     1 MiB     2",
        "0xc0300000-0xc0efffff     0x40300000      12 MiB     1 MiB     3",
        "0xc0f00000-0xc13fffff     0x40f00000       5 MiB     1 MiB     4",
        "0xc1400000-0xc2ffffff     0x41400000      28 MiB     1 MiB     2",
    ]
    assert lines[12:] == [
        "bits, without the address",
        "   1  second 0x65f XN|B|C|AP0|TEX|APX|S, tables above: first 0x11",
        "   2  first 0x1141e section|B|C|bit 4, tables above: none",
        "   3  first 0x1940e section|B|C, tables above: none",
        "   4  first 0x1941e section|B|C|bit 4, tables above: none",
    ]


def test_a_series_of_clones_is_one_line():
    lines = walk("x86_64-l4", "--range", "0xffffff0000000000-0xffffff8000000000").stdout.splitlines()
    assert lines[1] == "65,536 mappings in 65,536 runs, 1 line"
    assert lines[4].endswith("0x100057000       4 KiB     4 KiB     1  65,536 times, every 64 KiB")
    upper = "tables above: pgd 0x67 pud 0x8000000000000061 pmd 0x8000000000000061"
    assert lines[7] == f"   1  pte 0x8000000000000121 PRESENT|ACCESSED|GLOBAL|NX, {upper}"


@pytest.mark.parametrize(("name", "arch"), ROWS)
def test_json_csv_and_arrays_have_every_mapping(name, arch, tmp_path):
    sizes = {int(size, 16): count for size, count in capture(name).meta["leaf_sizes"].items()}
    answer = json.loads(walk(name, "--json").stdout)
    assert (answer["mappings"], answer["missing"], answer["partial"]) == (sum(sizes.values()), [], [])
    assert {size: sum(r["mappings"] for r in answer["runs"] if r["page_size"] == size) for size in sizes} == sizes
    table = list(csv.DictReader(io.StringIO(walk(name, "--csv").stdout)))
    assert len(table) == len(answer["runs"])
    for line, run_ in list(zip(table, answer["runs"], strict=True))[:200]:
        values = {k: " ".join(v) if isinstance(v, list) else str("" if v is None else v) for k, v in run_.items()}
        assert line == values
    npz = tmp_path / "mappings.npz"
    assert walk(name, "--npz", npz).exit_code == 0
    with np.load(npz) as arrays:
        assert len(arrays["virtual"]) == sum(sizes.values())
        assert (1 << arrays["shift"].astype(np.int64)).sum() == sum(s * n for s, n in sizes.items())
        assert len(arrays["missing_physical"]) == 0
        assert arrays["paths"].shape[1] == len(answer["runs"][0]["tables"]) + 1
    run_ = next(r for r in answer["runs"] if r["page_size"] == max(sizes))
    assert int(run_["last"], 16) - int(run_["virtual"], 16) + 1 == run_["size"] == max(sizes) * run_["mappings"]


def test_a_partial_list_says_so_and_names_the_tables():
    root = int(capture("x86_64-l4").meta["process_root"]["phys"], 16)
    result = walk("x86_64-l4", "--json", "--range", "0x0-0x800000000000", root=root)
    answer = json.loads(result.stdout)
    assert result.exit_code == 1
    assert answer["partial"] == ["2 tables are not in memory, the first at 0x108604000"]
    assert answer["missing"][0] == {
        "physical": "0x108604000", "level": "pud", "start": "0x0", "last": "0x7fffffffff",
    }  # fmt: skip
    assert (answer["mappings"], answer["runs"]) == (0, [])
    assert result.stderr == "vmcore: partial: 2 tables are not in memory, the first at 0x108604000\n"


def test_a_limit_says_where_to_go_on(small):
    result = walk("arm-short", "--limit", "100")
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    why = r"vmcore: partial: a limit was reached: nothing at and above (0x[0-9a-f]+) was looked at; "
    match = re.fullmatch(why + r"give --range (0x[0-9a-f]+)- for it, or a larger --limit", line)
    assert match[1] == match[2]
    rest = json.loads(walk("arm-short", "--range", f"{match[1]}-", "--json").stdout)
    assert rest["mappings"] == 8765 - 100


def test_a_raw_image_with_a_base_and_a_process_root(tmp_path, small):
    image = tmp_path / "ram.raw"
    image.write_bytes(small.read_bytes()[-0x1000:])
    result = run(image, "--arch", "i386", "--base", "0x1000", "--root", "0x1018", "0xc0012345")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].endswith("root 0x1000 (given as 0x1018, without its low bits)")
    assert result.stdout.splitlines()[-1] == "  physical address 0x12345"
    banks = run(image, "--arch", "i386", "--bank", "0x1000-0x2000", "--root", "0x1000", "0xc0012345")
    assert banks.stdout.splitlines()[-1] == "  physical address 0x12345"


def test_a_damaged_file_is_warned_of(tmp_path, small):
    cut = tmp_path / "cut.elf"
    cut.write_bytes(small.read_bytes()[:-0x300])
    result = run(cut, "--arch", "i386", "--root", "0x1000", "0xc0012345")
    assert result.exit_code == 0
    assert result.stderr.startswith(f"vmcore: warning: {cut}: ")
    assert json.loads(run(cut, "--arch", "i386", "--root", "0x1000", "0x0", "--json").stdout)["problems"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0xc00z"], "ADDR: found '0xc00z', expected an address in hexadecimal with 0x, such as 0xc0000000"),
        (["32212"], "ADDR: found '32212', expected an address in hexadecimal with 0x, such as 0xc0000000"),
        (["0x100000000"], "ADDR: found 0x100000000, expected at most 0xffffffff"),
        (["--range", "0xc"], "--range: found '0xc', expected START-END such as 0xf8000000-0xfe000000"),
        (["--range", "0xc-0xb"], "--range: found 0xc-0xb, expected an end above the start"),
        (["--range", "0xc-0xc"], "--range: found 0xc-0xc, expected an end above the start"),
        (["--range", "0x0-0x100000001"], "--range: found 0x100000001, expected at most 0x100000000"),
        (["--range", "0x0-", "0x0"], "--range and --limit are for the list of mappings: leave the addresses out"),
        (["--limit", "many"], "--limit: found 'many', expected a whole number, 1 to 999999999"),
        (["--limit", "0"], "--limit: found '0', expected a whole number, 1 to 999999999"),
        (["--json", "--npz", "x"], "--npz: found --json too, expected one of them"),
        (["--bank", "4G"], "--bank: found '4G', expected START-END such as 0-3G"),
        (["--root", "x"], "--root: found 'x', expected an address in hexadecimal with 0x, such as 0xc0000000"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(small, arguments, message):
    given = [] if "--root" in arguments else ["--root", "0x1000"]
    result = run(small, "--arch", "i386", *given, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"vmcore: error: {message}\n"


def test_a_bad_line_of_a_file_of_addresses_is_named(small, tmp_path):
    path = tmp_path / "list"
    for text, found in (("0xc0000000\n\nhello\n", "'hello'"), ("0x1\n0x2\n0x1234567890\n", "0x1234567890")):
        path.write_text(text)
        result = run(small, "--arch", "i386", "--root", "0x1000", "--addresses", path)
        assert result.exit_code == 2
        assert result.stderr.startswith(f"vmcore: error: {path}:3: found {found}, expected ")
    missing = run(small, "--arch", "i386", "--root", "0x1000", "--addresses", tmp_path / "none")
    assert missing.exit_code == 2
    assert "none" in missing.stderr
    assert run(
        small, "--arch", "i386", "--root", "0x1000", "--addresses", "-", input="0xc0000001\n"
    ).stdout.endswith("0xc0000001  0x1\n")


def test_files_that_are_no_dumps_and_dumps_of_other_machines(tmp_path):
    text = tmp_path / "text"
    text.write_text("hello")
    for path in (text, tmp_path, tmp_path / "none"):
        result = run(path, "--arch", "i386", "--root", "0")
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith("vmcore: error: ")
        assert "Traceback" not in result.stderr
    other = walk("i386-pae", arch="i386")
    assert other.exit_code == 2
    assert "records that fit: i386-pae, i386-pae-highmem" in other.stderr
    assert run(text).exit_code == 2


def test_damaged_vmcoreinfo_is_one_line(tmp_path):
    path = tmp_path / "info"
    path.write_text("OSRELEASE=1\nSYMBOL(swapper_pg_dir)=zzz\n")
    result = run(capture("i386-2level").core, "--arch", "i386", "--vmcoreinfo", path)
    assert result.exit_code == 2
    assert "SYMBOL(swapper_pg_dir) is 'zzz', expected a number" in result.stderr


# ---- damaged dumps

FUZZ = int(os.environ.get("VMCORE_MUTATIONS", "100")) // 5


@pytest.mark.parametrize(("name", "arch"), ROWS)
def test_damaged_dumps_are_errors_of_one_line_or_results(name, arch, tmp_path):
    """Bytes anywhere in the file are changed, or it is cut; walk and audit answer, warn or refuse."""
    found, choice, path = capture(name), random.Random(name), tmp_path / "ram.elf"
    whole, info = found.unpacked(), str(found.folder / "vmallocinfo.txt")
    headers = 64 + 56 * int.from_bytes(whole[56:58], "little")
    for number in range(FUZZ):
        data = bytearray(whole)
        for _ in range(choice.randint(1, 30)):
            at = choice.randrange(headers if choice.random() < 0.3 else len(data))
            data[at] = choice.getrandbits(8)
        path.write_bytes(data[: choice.randrange(len(data))] if number % 5 == 4 else data)
        given = [str(path), "--arch", arch, *choice.choice([("--root", hex(found.root)),
                                                            ("--vmcoreinfo", found.vmcoreinfo)])]  # fmt: skip
        for command in (
            ["walk", *given, hex(choice.choice(found.rows())[0]), "0x0"],
            ["walk", *given, "--range", f"{found.rows()[0][0]:#x}-", "--limit", "20000", "--json"],
            ["audit", *given, "--vmallocinfo", info],
        ):
            result = CliRunner().invoke(main, command)
            assert result.exit_code in (0, 1, 2), (number, command, result.exception)
            assert isinstance(result.exception, (SystemExit, type(None))), (number, command, result.exception)
            assert (result.exit_code == 2) == result.stderr.startswith("vmcore: error: ")


# ---- a simulated kernel


def test_a_saved_kernel_is_read_as_the_model_has_it(arch, kernel, registry, tmp_path):
    if arch.name not in registry.architectures:
        pytest.skip("a record that is not installed has no name for the command line")
    k, page = kernel(arch, ram=64 << 20), arch.page_size
    areas = [(k.vmalloc(n * page), n) for n in (1, 5, 70)]
    k.vfree(areas.pop(1)[0])
    path = tmp_path / "ram.elf"
    k.save(path)
    window = f"{k.layout.vmalloc_start:#x}-{k.layout.vmalloc_end:#x}"
    answer = json.loads(run(path, "--arch", arch.name, "--range", window, "--json").stdout)
    assert answer["root"]["address"] == hex(k.init_mm.root)
    found = {}
    for line in answer["runs"]:
        first, physical = int(line["virtual"], 16), int(line["physical"], 16)
        found |= {first + at: physical + at for at in range(0, line["size"], page)}
    addresses = [start + at * page for start, n in areas for at in range(n)]
    expected = {a: k.vmalloc_to_pfn(a) << arch.page_shift for a in addresses}
    assert {a: found.get(a) for a in expected} == expected
    assert len(found) == len(k.init_mm.entries()[0])
    info = tmp_path / "vmallocinfo"
    info.write_text(k.vmallocinfo())
    audited = CliRunner().invoke(
        main, ["audit", str(path), "--arch", arch.name, "--vmallocinfo", str(info), "--range", window]
    )
    assert (audited.exit_code, audited.stderr) == (0, "")


def test_a_root_that_nothing_confirms_is_a_warning_and_a_problem(tmp_path):
    path, info, areas = tmp_path / "ram.elf", tmp_path / "info", tmp_path / "areas"
    path.write_bytes(core([(0x405000, bytes(0x1000))], machine=3))
    info.write_text(
        "OSRELEASE=5.10\nPAGESIZE=4096\nSYMBOL(swapper_pg_dir)=c0405000\nNUMBER(PAGE_OFFSET)=0xc0000000\n"
    )
    areas.write_text("0xf8000000-0xf8002000    8192 f+0x1/0x2 pages=1 vmalloc\n")
    options = [str(path), "--arch", "i386", "--vmcoreinfo", str(info), "--json"]
    for arguments in (["walk", *options, "0xc0405000"], ["audit", *options, "--vmallocinfo", str(areas)]):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 1
        (problem,) = json.loads(result.stdout)["problems"]
        assert problem.startswith(
            "the root is not confirmed: tables at 0x405000 do not map SYMBOL(swapper_pg_dir)"
        )
        assert result.stderr == f"vmcore: warning: {path}: {problem}\n"


_PEAK = """
import sys
from vmcore.cli import main
try:
    main(sys.argv[1:])
finally:
    peak = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
    print(int(peak[0]) >> 10, file=sys.stderr)
"""


@pytest.mark.parametrize("form", ["--json", "--csv"])
def test_half_a_million_runs_are_written_in_little_memory(form, tmp_path):
    path = tmp_path / "self.elf"
    path.write_bytes(core([(0x1000, (0x1067).to_bytes(8, "little") * 512)]))
    command = ["walk", str(path), "--arch", "x86_64", "--root", "0x1000", "--limit", str(1 << 19), form]
    result = subprocess.run(
        [sys.executable, "-c", _PEAK, *command], capture_output=True, text=True, check=False, timeout=100
    )
    assert result.returncode == 1
    assert result.stderr.startswith("vmcore: partial: a limit was reached: nothing at and above 0x80000000 was ")
    assert int(result.stderr.splitlines()[-1]) < 350  # MiB; 700 as lists
    if form == "--json":
        runs = json.loads(result.stdout)["runs"]
        assert (len(runs), runs[-1]["virtual"], runs[-1]["physical"]) == (1 << 19, "0x7ffff000", "0x1000")
        assert runs[-1]["tables"] == ["0x67"] * 3
    else:
        lines = result.stdout.splitlines()
        assert (len(lines), lines[-1].split(",")[:5]) == (
            (1 << 19) + 1,
            ["0x7ffff000", "0x7fffffff", "0x1000", "4096", "1"],
        )


@pytest.mark.parametrize(("error", "message"), [(MemoryError(), ""), (MemoryError("1 TiB"), "1 TiB; ")])
def test_no_memory_is_answered_with_what_helps_this_command(monkeypatch, error, message):
    def fail(*_):
        raise error

    monkeypatch.setattr("vmcore.dump.walk.find_mappings", fail)
    result = CliRunner().invoke(main, ["walk", "sample:i386-pae-ram"])
    advice = "ask for less: --range, a smaller --limit, or --npz, which takes least"
    assert (result.exit_code, result.stderr) == (2, f"vmcore: error: out of memory; {message}{advice}\n")
