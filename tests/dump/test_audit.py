"""The areas of real kernels against their tables, and what is found where something is wrong."""

import io
import json
import lzma
import zlib

import numpy as np
import pytest
from click.testing import CliRunner

from tests.support.dumps import RECORDS, capture, core
from vmcore.cli import COMMANDS, main
from vmcore.dump import open_dump
from vmcore.dump.audit.audit import AuditWindow, audit
from vmcore.errors import ArgumentError
from vmcore.flags import VM
from vmcore.paging.mmu import Mmu
from vmcore.texts.vmallocinfo import read_vmallocinfo

PAGE = 0x1000
WINDOWS = {
    "x86_64-l4": [
        (0xFFFFC90000000000, 0xFFFFE8FFFFDFFFFF, "VMALLOC_START to the end of the last percpu chunk"),
        (0xFFFFFFFFC0000000, 0xFFFFFFFFC0AF9FFF, "spanned by listed areas"),
    ],
    "i386-2level": [(0xF73FE000, 0xFEBFDFFF, "spanned by listed areas")],
    "i386-pae": [(0xF77FE000, 0xFEFFDFFF, "spanned by listed areas")],
    "arm-short": [
        (0xBF000000, 0xBF60BFFF, "spanned by listed areas"),
        (0xF0800000, 0xFF7FFFFF, "VMALLOC_START to the end of the last percpu chunk"),
    ],
    "riscv64-sv39": [
        (0xFFFFFFC600000000, 0xFFFFFFD5FFFFFFFF, "VMALLOC_START to VMALLOC_END"),
        (0xFFFFFFFF01E6B000, 0xFFFFFFFF04D6BFFF, "spanned by listed areas"),
    ],
}
READ_BY = [*RECORDS.items(), ("i386-2level", "i386-highmem"), ("i386-pae", "i386-pae-highmem")]


def run(name, arch, *arguments, info=None):
    folder = capture(name).folder
    given = ["--vmcoreinfo", capture(name).vmcoreinfo, "--vmallocinfo", str(info or folder / "vmallocinfo.txt")]
    return CliRunner().invoke(main, ["audit", str(capture(name).core), "--arch", arch, *given, *arguments])


def entries(text):
    return read_vmallocinfo(io.BytesIO(text.encode()), "info")


def installed(registry, arch):
    if arch not in registry.architectures:
        pytest.skip(f"no plugin for {arch} is installed")


@pytest.mark.parametrize(("name", "arch"), READ_BY)
def test_every_irregular_area_of_a_real_kernel_is_explained_and_nothing_else_found(name, arch, registry):
    installed(registry, arch)
    result = run(name, arch, "--json")
    answer = json.loads(result.stdout)
    assert (result.exit_code, result.stderr, answer["partial"]) == (0, "", [])
    assert answer["areas"] == capture(name).meta["areas"]
    found = [(int(f["start"], 16), int(f["last"], 16)) for f in answer["findings"]]
    irregular = [int(address, 16) for _, address, _ in capture(name).meta["irregular_areas"]]
    assert {next(area for area in found if area[0] <= at <= area[1]) for at in irregular} == set(found)
    assert all(f["problem"] == "pages" and f["why"] for f in answer["findings"])
    windows = [(int(w["start"], 16), int(w["last"], 16), w["how"]) for w in answer["windows"]]
    assert windows == WINDOWS[name]


def test_the_report_for_people():
    result = run("arm-short", "armv7-highmem")
    lines = result.stdout.splitlines()
    assert "audit" in COMMANDS
    assert lines[0].startswith(f"{capture('arm-short').core} as armv7-highmem, root 0x40204000 (")
    assert lines[1:] == [
        "window 0xbf000000-0xbf60bfff: spanned by listed areas",
        "window 0xf0800000-0xff7fffff: VMALLOC_START to the end of the last percpu chunk",
        "mappings outside the windows were not looked at; --range START-END looks there instead",
        "256 areas, 2 of them not regular; 0 findings are odd",
        "",
        "irregular, as it should be",
        "0xfee00000-0xfeffffff  pci_reserve_io+0x0/0x38 ioremap",
        "    pages: 16 of 511 pages mapped",
        "    a reservation (get_vm_area): it names no pages, its owner maps pages when they are needed",
        "0xff7ec000-0xff7fffff  pcpu_get_vm_areas+0x0/0x108c vmalloc",
        "    pages: 9 of 19 pages mapped",
        "    a percpu chunk: populated when needed, without a guard page (mm/percpu-vm.c)",
    ]


@pytest.fixture
def edited(tmp_path):
    """Return a function that edits the vmallocinfo of i386-2level, and audits it."""

    def audited(*replacements, more="", options=()):
        text = (capture("i386-2level").folder / "vmallocinfo.txt").read_text()
        for old, new in replacements:
            assert text.count(old) == 1
            text = text.replace(old, new)
        path = tmp_path / "info"
        path.write_text(text + more)
        result = run("i386-2level", "i386", "--json", *options, info=path)
        odd = [f for f in json.loads(result.stdout)["findings"] if f["why"] is None]
        assert result.exit_code == int(bool(odd))
        return [(f["start"], f["last"], f["problem"], f["found"]) for f in odd]

    return audited


HPET = "0xf7403000-0xf7405000    8192 hpet_enable+0xaf/0x464 phys=0xfed00000 ioremap\n"


def test_an_area_that_is_left_out_leaves_mappings_without_an_owner(edited):
    assert edited((HPET, "")) == [
        ("0xf7403000", "0xf7404fff", "stray", "4 KiB mapped that no area owns, the first at 0xf7403000")
    ]


def test_a_wrong_physical_address(edited):
    assert edited((HPET, HPET.replace("0xfed00000", "0xfed01000"))) == [
        ("0xf7403000", "0xf7404fff", "physical", "0xf7403000 maps 0xfed00000, expected 0xfed01000")
    ]
    assert edited((HPET, HPET.replace("0xfed00000", "0xffffffffffffffff"))) == [
        ("0xf7403000", "0xf7404fff", "physical", "phys=0xffffffffffffffff, expected a physical address")
    ]


def test_wrong_counts_of_pages(edited):
    module = "0xf740b000-0xf740e000   12288 load_module+0x5e5/0x1c2c pages=2 vmalloc\n"
    assert edited((module, module.replace("pages=2", "pages=1"))) == [
        ("0xf740b000", "0xf740dfff", "count", "it owns 1 page, and has room for 2 and a guard page")
    ]


def test_an_area_over_a_hole_and_one_over_another(edited):
    hole = "0xf740e000-0xf740f000    4096 a+0x0/0x1 pages=1 vmalloc\n"
    assert edited(more=hole)[0][:3] == ("0xf740e000", "0xf740efff", "count")
    line = "0xf7404000-0xf7406000    8192 b+0x0/0x1 vmalloc\n"
    other, last = "0xf7403000-0xf7405000 of hpet_enable+0xaf/0x464", "0xf7404000-0xf7406000 of b+0x0/0x1"
    assert edited(more=line) == [
        ("0xf7404000", "0xf7404fff", "overlap", f"overlaps the area {other}"),
        ("0xf7404000", "0xf7405fff", "pages", "no page mapped, and the last one, where the guard page should be"),
        ("0xf7405000", "0xf7405fff", "overlap", f"overlaps the area {last}"),
    ]


def test_pages_in_a_freed_area_and_none_in_a_live_one(edited):
    line = "0xf7405000-0xf7407000    8192 bpf_prog_alloc_no_stats+0x36/0x214 pages=1 vmalloc\n"
    freed = "0xf7405000-0xf7407000    8192 unpurged vm_area\n"
    assert edited((line, freed)) == [("0xf7405000", "0xf7406fff", "pages", "1 of 1 page mapped")]
    gap = "0xff300000-0xff303000   12288 c+0x0/0x1 pages=2 vmalloc\n"
    assert edited(more=gap) == [("0xff300000", "0xff302fff", "pages", "no page mapped")]
    assert edited(more="0xff300000-0xff303000   12288 unpurged vm_area\n") == []


def test_the_window_that_is_given(edited):
    assert edited(options=("--range", "0xf7403000-0xf7405000")) == []
    odd = edited(options=("--range", "0xff400000-0xff402000"))
    assert odd == [
        ("0xff400000", "0xff401fff", "stray", "8 KiB mapped that no area owns, the first at 0xff400000")
    ]


def test_a_guard_page_that_is_mapped_and_who_may_have_one(kernel):
    k = kernel("x86_64", ram="64M")
    addr = k.vmap(np.arange(0x1000, 0x1008), 8, int(VM.MAP), k.arch.page_kernel)
    m = Mmu(k.arch, k.memory, k.init_mm.root)

    def odd(line):
        report = audit(m, entries(line), bounds=(addr, addr + 8 * PAGE))
        return [(f.problem, f.found) for f in report.odd], [f.why for f in report.explained]

    area = f"{addr:#x}-{addr + 8 * PAGE:#x} {8 * PAGE} "
    guard = [("guard", "7 of 7 pages mapped, and the last one, where the guard page should be")]
    assert odd(area + "a+0x1/0x2 vmap\n") == (guard, [])
    assert odd(area + "a+0x1/0x2 pages=7 vmalloc\n") == (guard, [])
    full = ["it owns as many pages as it is long: an area without a guard page"]
    assert odd(area + "a+0x1/0x2 pages=8 vmalloc\n") == ([], full)
    for excused in ("paging_init+0x1/0x2 phys=0x1000000 vmap", "iotable_init+0x1/0x2 phys=0x1000000 ioremap",
                    "vm_map_ram", "pcpu_get_vm_areas+0x0/0x1 vmalloc", "x+0x1/0x2 sparse"):  # fmt: skip
        problems, why = odd(area + excused + "\n")
        assert (problems, len(why)) == ([], 1)
    problems, why = odd(area + "paging_init+0x1/0x2 phys=0x1001000 vmap\n")
    assert problems == [("physical", f"{addr:#x} maps 0x1000000, expected 0x1001000; 6 more mappings are wrong")]


def test_a_large_page_in_an_ioremap_area(registry, tmp_path):
    root = bytearray(0x1000)
    root[0xF80:0xF84] = (0xFD0001F3 & ~0x3FFFFF | 0x1F3).to_bytes(4, "little")
    path = tmp_path / "core"
    path.write_bytes(core([(0x1000, bytes(root))]))
    m = Mmu(registry.get("i386"), open_dump(path), 0x1000)
    area = "0xf8000000-0xf8401000 4198400 x+0x1/0x2 phys=0xfd000000 ioremap\n"
    assert audit(m, entries(area)).findings == ()
    half = "0xf8200000-0xf8401000 2101248 x+0x1/0x2 phys=0xfd200000 ioremap\n"
    report = audit(m, entries(half), bounds=(0xF8000000, 0xF8800000))
    assert [(f.start, f.last, f.problem, f.found) for f in report.findings] == [
        (0xF8000000, 0xF81FFFFF, "stray", "2 MiB mapped that no area owns, the first at 0xf8000000")
    ]


def test_an_area_whose_table_is_not_in_the_dump_cannot_be_checked(tmp_path, registry):
    found = capture("i386-2level")
    with open_dump(found.core) as dump:
        lost = Mmu(registry.get("i386"), dump, found.root).walk(0xF7403000).steps[1].entry_address & -PAGE
        kept = [(at, dump.read(at, PAGE)) for b in dump.banks for at in range(b.start, b.end, PAGE) if at != lost]
    path = tmp_path / "core"
    path.write_bytes(core(kept, machine=3))
    report = CliRunner().invoke(
        main, ["audit", str(path), "--arch", "i386", "--root", hex(found.root), "--json",
               "--vmallocinfo", str(found.folder / "vmallocinfo.txt")]
    )  # fmt: skip
    answer = json.loads(report.stdout)
    assert report.exit_code == 1
    assert answer["partial"] == [f"1 table is not in memory, the first at {lost:#x}"]
    assert report.stderr == f"vmcore: partial: 1 table is not in memory, the first at {lost:#x}\n"
    odd = [f for f in answer["findings"] if f["why"] is None]
    assert {f["problem"] for f in odd} == {"not in the dump"}
    assert {int(f["last"], 16) >> 22 for f in odd} | {0xF7400000 >> 22} == {0xF7400000 >> 22}
    assert odd[0]["found"] == f"its page table at {lost:#x} is not in the dump"


def test_a_limit_leaves_areas_unchecked(registry):
    found = capture("i386-2level")
    with open_dump(found.core) as dump:
        m = Mmu(registry.get("i386"), dump, found.root)
        report = audit(m, read_vmallocinfo(found.folder / "vmallocinfo.txt"), limit=1000)
    assert report.partial[0].startswith("a limit was reached: nothing at and above 0x")
    stopped = int(report.partial[0].split()[8], 16)
    assert {f.problem for f in report.odd} == {"not in the dump"}
    assert all(f.last >= stopped for f in report.odd)


# ---- windows


def area(start, size=2, caller="a+0x0/0x1", kind="vmalloc"):
    return f"{start:#x}-{start + size * PAGE:#x} {size * PAGE} {caller} {kind}\n"


@pytest.mark.parametrize(
    ("vmalloc", "expected"),
    [
        ((None, None), [(0x10000, 0x20001FFF), (0x90000000, 0x90001FFF), (0xE0000000, 0xE0001FFF)]),
        ((0x8000, None), [(0x8000, 0x20001FFF), (0x90000000, 0x90001FFF), (0xE0000000, 0xE0001FFF)]),
        ((0x8000, 0xA0000000), [(0x8000, 0x9FFFFFFF), (0xE0000000, 0xE0001FFF)]),
        ((0x20000000, 0x20004000), [(0x10000, 0x11FFF), (0x20000000, 0x20003FFF), (0x90000000, 0x90001FFF),
                                    (0xE0000000, 0xE0001FFF)]),
        ((1 << 70, 1 << 71), [(0x10000, 0x20001FFF), (0x90000000, 0x90001FFF), (0xE0000000, 0xE0001FFF)]),
        ((0x8000, 0x4000), [(0x8000, 0x20001FFF), (0x90000000, 0x90001FFF), (0xE0000000, 0xE0001FFF)]),
    ],
)  # fmt: skip
def test_windows(kernel, vmalloc, expected):
    k = kernel("i386", ram="64M")
    lines = area(0x10000) + area(0x90000000) + area(0x20000000) + area(0xE0000000)
    report = audit(Mmu(k.arch, k.memory, k.init_mm.root), entries(lines), vmalloc=vmalloc)
    assert [(w.start, w.last) for w in report.windows] == expected


def test_the_last_percpu_chunk_is_the_top_of_the_window(kernel):
    k = kernel("i386", ram="64M")
    lines = area(0x10000) + area(0xE0000000) + area(0x90000000, caller="pcpu_get_vm_areas+0x0/0x1")
    report = audit(Mmu(k.arch, k.memory, k.init_mm.root), entries(lines), vmalloc=(0x8000, None))
    assert report.windows[0] == AuditWindow(
        0x8000, 0x90001FFF, "VMALLOC_START to the end of the last percpu chunk"
    )
    assert len(report.windows) == 2


MISSING = [
    ("arm-short", "armv7-highmem", "0xbf000000", (0xBF000000, 0xBF001FFF)),
    ("arm-short", "armv7-highmem", "0xff7ec000", (0xFF7EC000, 0xFF7F4FFF)),
    ("i386-2level", "i386", "0xf73fe000", (0xF73FE000, 0xF73FFFFF)),
    ("i386-2level", "i386", "0xfebdd000", (0xFEBDD000, 0xFEBE8FFF)),
    ("i386-pae", "i386-pae", "0xf77fe000", (0xF77FE000, 0xF77FFFFF)),
    ("i386-pae", "i386-pae", "0xfefdd000", (0xFEFDD000, 0xFEFE8FFF)),
    ("x86_64-l4", "x86_64", "0xffffc90000000000", (0xFFFFC90000000000, 0xFFFFC90000004FFF)),
    ("x86_64-l4", "x86_64", "0xffffe8ffffc00000", (0xFFFFE8FFFFC00000, 0xFFFFE8FFFFC0EFFF)),
    ("x86_64-l4", "x86_64", "0xffffffffc0a73000", (0xFFFFFFFFC0A73000, 0xFFFFFFFFC0AF8FFF)),
]


@pytest.mark.parametrize(("name", "arch", "start", "found"), MISSING)
def test_the_first_and_the_last_area_of_a_window_are_missed(name, arch, start, found, registry, tmp_path):
    installed(registry, arch)
    lines = (capture(name).folder / "vmallocinfo.txt").read_text().splitlines(keepends=True)
    left = [line for line in lines if not line.startswith(start + "-")]
    assert len(left) == len(lines) - 1
    path = tmp_path / "info"
    path.write_text("".join(left))
    result = run(name, arch, "--json", info=path)
    answer = json.loads(result.stdout)
    odd = [(f["problem"], int(f["start"], 16), int(f["last"], 16)) for f in answer["findings"] if f["why"] is None]
    assert (result.exit_code, odd) == (1, [("stray", *found)])
    assert answer["outside"].startswith("mappings outside the windows were not looked at")


def tables(registry, tmp_path, pages, large=()):
    """Return an i386 with pages of 4 KiB and of 4 MiB at some addresses."""
    root, parts = bytearray(PAGE), {}
    for at in pages:
        table, where = parts.setdefault(at >> 22, (bytearray(PAGE), 0x2000 + len(parts) * PAGE))
        root[(at >> 22) * 4 : (at >> 22) * 4 + 4] = (where | 0x63).to_bytes(4, "little")
        slot = (at >> 12 & 1023) * 4
        table[slot : slot + 4] = (0x100163).to_bytes(4, "little")
    for at in large:
        root[(at >> 22) * 4 : (at >> 22) * 4 + 4] = (0x4001E3).to_bytes(4, "little")
    path = tmp_path / "core"
    path.write_bytes(core([(0x1000, bytes(root)), *((where, bytes(table)) for table, where in parts.values())]))
    return Mmu(registry.get("i386"), open_dump(path), 0x1000)


CHUNK = area(0xF8800000, caller="pcpu_get_vm_areas+0x0/0x1")


@pytest.mark.parametrize(
    ("pages", "large", "lines", "expected"),
    [
        ([0xF8000000, 0xF7F01000], [], area(0xF8000000) + CHUNK, (0xF7F01000, 0xF8801FFF)),
        ([0xF8000000, 0xF7EFF000], [], area(0xF8000000) + CHUNK, (0xF8000000, 0xF8801FFF)),
        ([0xF8000000, 0xF7F01000, 0xF7E02000], [], area(0xF8000000) + CHUNK, (0xF7E02000, 0xF8801FFF)),
        ([0xF8000000], [0xF7C00000], area(0xF8000000) + CHUNK, (0xF8000000, 0xF8801FFF)),
        ([0xF8800000, 0xF8802000], [], area(0xF8000000) + CHUNK, (0xF8000000, 0xF8801FFF)),
        ([0xF8003000], [0xF8400000], area(0xF8000000), (0xF8000000, 0xF8003FFF)),
        ([0xFE000000, 0xFE003000, 0xFF000000], [], area(0xF8000000), (0xF8000000, 0xFE003FFF)),
        ([], [0xFE000000], area(0xF8000000), (0xF8000000, 0xF8001FFF)),
        ([0xFE000000], [], area(0xF8000000) + area(0x10000000), (0xF8000000, 0xF8001FFF)),
        ([0x0, 0xFFFFF000], [], area(0x1000) + area(0xFFFFD000), (0xFFFFD000, 0xFFFFFFFF)),
    ],
)
def test_how_far_a_window_grows(registry, tmp_path, pages, large, lines, expected):
    report = audit(tables(registry, tmp_path, pages, large), entries(lines))
    assert report.windows[-1][:2] == expected


# ---- a simulated kernel, and bad input


def test_the_areas_of_a_simulated_kernel(arch, kernel):
    k = kernel(arch, ram=64 << 20)
    for pages in (1, 5, 70):
        k.vmalloc(pages * arch.page_size)
    k.vfree(k.vmalloc(3 * arch.page_size))
    k.ioremap(k.layout.phys_offset + 0x100000, 3 * arch.page_size)
    window = (k.layout.vmalloc_start, k.layout.vmalloc_end)
    report = audit(Mmu(arch, k.memory, k.init_mm.root), entries(k.vmallocinfo()), vmalloc=window)
    assert (report.areas, report.findings, report.partial) == (4, (), ())


@pytest.mark.parametrize("line", ["0x10800-0x12800 8192 a+0x0/0x1 vmalloc\n",
                                  "0x10000-0x10800 2048 a+0x0/0x1 vmalloc\n",
                                  "0xffffe000-0x100001000 12288 a+0x0/0x1 vmalloc\n"])  # fmt: skip
def test_areas_of_another_machine_are_refused(line, kernel, tmp_path):
    k = kernel("i386", ram="64M")
    with pytest.raises(ArgumentError, match=r"is it of the machine that was dumped\?"):
        audit(Mmu(k.arch, k.memory, k.init_mm.root), entries(line))
    path = tmp_path / "info"
    path.write_text(line)
    result = run("i386-2level", "i386", info=path)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("vmcore: error: vmallocinfo: found the area 0x")


def test_bad_lines_and_missing_files(tmp_path):
    path = tmp_path / "info"
    path.write_text("hello\n")
    result = run("i386-2level", "i386", info=path)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"vmcore: error: {path}:1: found 'hello', ")
    assert run("i386-2level", "i386", info=tmp_path / "none").exit_code == 2
    assert run("i386-2level", "i386", "--range", "1-2").exit_code == 2
    assert CliRunner().invoke(main, ["audit", "x", "--arch", "i386"]).exit_code == 2


def test_an_area_at_either_end_of_the_address_space(kernel):
    k = kernel("i386", ram="64M")
    lines = area(0, 1) + area(0xFFFFE000)
    report = audit(Mmu(k.arch, k.memory, k.init_mm.root), entries(lines))
    assert [(f.start, f.last, f.found) for f in report.findings] == [(0xFFFFE000, 0xFFFFFFFF, "no page mapped")]


def test_a_last_line_without_a_newline_is_read_if_it_is_complete(tmp_path):
    text = (capture("i386-2level").folder / "vmallocinfo.txt").read_text().rstrip()
    path = tmp_path / "info"
    path.write_text(text)
    assert run("i386-2level", "i386", info=path).exit_code == 0
    path.write_text(text[: text.rindex("-") + 4])
    result = run("i386-2level", "i386", info=path)
    assert result.exit_code == 2
    assert "the line is torn" in result.stderr


def huge_dictionary():
    """Return an xz file whose header asks for a dictionary of 4 GiB - 1."""
    data = bytearray(lzma.compress(b"x" * 100, check=lzma.CHECK_NONE))
    assert data[12:16] == bytes([2, 0, 0x21, 1])
    data[16] = 40
    data[20:24] = zlib.crc32(data[12:20]).to_bytes(4, "little")
    return bytes(data)


def test_an_xz_file_that_takes_too_much_memory_is_named(tmp_path):
    path = tmp_path / "huge.xz"
    path.write_bytes(huge_dictionary())
    result = run("i386-2level", "i386", info=path)
    problem = "xz data with a dictionary that takes more than 128 MiB"
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"vmcore: error: {path}: {problem}, expected less")
    result = CliRunner().invoke(main, ["walk", str(path), "--arch", "i386", "--root", "0x1000"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert problem in result.stderr
