"""Roots of dumps: given, from VMCOREINFO, from CPU notes; and whose tables they are."""

import re
import struct
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.dumps import RECORDS, capture, core, note
from vmcore.architecture import KernelImage
from vmcore.dump import open_dump
from vmcore.dump import root as dump_root
from vmcore.dump.identify import fitting
from vmcore.dump.root import find_root, read_vmcoreinfo
from vmcore.errors import ArchitectureError, RootError
from vmcore.texts.vmcoreinfo import VmcoreInfo

PAGE = 0x1000


def record(registry, name):
    if name not in registry.architectures:
        pytest.skip(f"no plugin for {name} is installed")
    return registry.get(name)


def with_info(text, segments, **options):
    return core(segments, note("VMCOREINFO", 0, text.encode()), **options)


def cpu_note(cr3, cr4=0x20, size=440):
    desc = bytearray(size)
    struct.pack_into("<II", desc, 0, 1, size)
    struct.pack_into("<QQ", desc, 416, cr3, cr4)
    return note("QEMU", 0, bytes(desc))


# ---- captures

HOW = {
    "x86_64-l4": r"SYMBOL\(init_top_pgt\) 0xffffffff82c22000 - 0xffffffff80000000 \+ 0x0 \(NUMBER\(phys_base\)\)",
    "i386-2level": r"SYMBOL\(swapper_pg_dir\) 0xc1efc000 - 0xc0000000 \+ 0x0",
    "i386-pae": r"SYMBOL\(swapper_pg_dir\) 0xc1f16000 - 0xc0000000 \+ 0x0",
    "arm-short": r"SYMBOL\(swapper_pg_dir\) 0xc0204000 - 0xc0000000 \+ 0x40000000 \(where RAM may begin\)",
    "riscv64-sv39": r"SYMBOL\(swapper_pg_dir\) 0xffffffff81dca000 - 0xffffffff80000000 \+ 0x80200000",
}


@pytest.mark.parametrize("name", RECORDS)
def test_captures_lead_to_their_roots_by_vmcoreinfo(name, registry):
    found, arch = capture(name), record(registry, RECORDS[name])
    with open_dump(found.core) as dump:
        root = find_root(dump, arch, vmcoreinfo=read_vmcoreinfo(found.vmcoreinfo))
        assert root.address == found.root
        assert re.search(HOW[name] + ".*, which the tables map so$", root.how)
        assert root.how.startswith(found.vmcoreinfo)
        assert find_root(dump, arch, root=found.root) == (found.root, "given", ())


@pytest.mark.parametrize("name", RECORDS)
def test_captures_are_refused_by_every_record_but_those_that_fit(name, registry):
    found = capture(name)
    info = read_vmcoreinfo(found.vmcoreinfo)
    records = tuple(registry.architectures.values())
    family = {
        "x86_64-l4": ["x86_64"],
        "i386-2level": ["i386", "i386-highmem"],
        "i386-pae": ["i386-pae", "i386-pae-highmem"],
        "arm-short": ["armv5", "armv7", "armv7-highmem"],
        "riscv64-sv39": [n for n in ("riscv64",) if n in registry.architectures],
    }[name]
    with open_dump(found.core) as dump:
        assert [a.name for a in fitting(dump, info, records)] == family
        fit = "records that fit: " + ", ".join(family) if family else "no installed record fits"
        if "armv5" in family:
            fit += ", whose entries differ: take that of the machine's CPU"
        for arch in records:
            if arch.name in family:
                assert find_root(dump, arch, vmcoreinfo=info).address == found.root
                continue
            with pytest.raises(RootError, match=f"not a kernel of {arch.name!r}: .*; {fit}$"):
                find_root(dump, arch, vmcoreinfo=info, records=records)


@pytest.mark.parametrize(
    ("name", "line", "arch", "message"),
    [
        ("x86_64-l4", "NUMBER(pgtable_l5_enabled)=1", "x86_64",
         r"NUMBER\(pgtable_l5_enabled\) is 1, expected 0 or no such line; no installed record fits"),
        ("x86_64-l4", "NUMBER(sme_mask)=140737488355328", "x86_64", r"NUMBER\(sme_mask\) is 140737488355328"),
        ("i386-2level", "CONFIG_X86_PAE=y", "i386",
         "CONFIG_X86_PAE is y, expected no such line; records that fit: i386-pae, i386-pae-highmem"),
        ("arm-short", "CONFIG_ARM_LPAE=y", "armv7-highmem",
         "CONFIG_ARM_LPAE is y, expected no such line; no installed record fits"),
        ("arm-short", "PAGESIZE=16384", "armv7-highmem", "PAGESIZE is 16384, expected 4096"),
        ("arm-short", "SYMBOL(swapper_pg_dir)=ffffffff82c22000", "armv7-highmem",
         "is 0xffffffff82c22000, expected an address of 32 bits"),
        ("i386-pae", "SYMBOL(swapper_pg_dir)=what", "i386-pae", "is 'what', expected a number"),
        ("i386-pae", "SYMBOL(swapper_pg_dir)=c1f16010", "i386-pae", "it is below every base, or not aligned"),
        ("i386-pae", "SYMBOL(swapper_pg_dir)=c1f17000", "i386-pae",
         "0x1f17000 is not in the dump; 0x11f17000 is not in the dump"),
        ("x86_64-l4", "NUMBER(phys_base)=-16777216", "x86_64", r"0x1c22000 is not in the dump; give the root"),
    ],
)  # fmt: skip
def test_one_line_of_vmcoreinfo_tells_another_machine(name, line, arch, message, registry, tmp_path):
    found = capture(name)
    beside = tmp_path / "info"
    key = line.partition("=")[0]
    text = [old for old in Path(found.vmcoreinfo).read_text().splitlines() if not old.startswith(f"{key}=")]
    if key == "SYMBOL(swapper_pg_dir)":
        text = [old for old in text if "init_top_pgt" not in old]
    beside.write_text("\n".join([*text, line]))
    records, info = tuple(registry.architectures.values()), read_vmcoreinfo(str(beside))
    with open_dump(found.core) as dump, pytest.raises(RootError, match=message):
        find_root(dump, registry.get(arch), vmcoreinfo=info, records=records)


# ---- where VMCOREINFO may be


def table(arch, virtual, physical):
    """Return the bytes of a root of two-level tables whose large page maps a virtual address to itself."""
    words = np.zeros(1024, "<u4")
    words[virtual >> 22] = physical & -(4 << 20) | 0x1E3
    return words.tobytes()


INFO = "OSRELEASE=5.10\nPAGESIZE=4096\nSYMBOL(swapper_pg_dir)=c0405000\nSYMBOL(_stext)=c0400000\n"


@pytest.mark.parametrize("name", ["VMCOREINFO", "other"])
def test_vmcoreinfo_in_a_note(opened, registry, name):
    root = table(None, 0xC0405000, 0x405000)
    with opened(core([(0x405000, root)], note(name, 0, INFO.encode()), machine=3)) as dump:
        found = find_root(dump, registry.get("i386"))
        assert found.address == 0x405000
        assert found.how.startswith(f"VMCOREINFO, ELF note {name!r} of ")


def test_vmcoreinfo_text_in_the_memory_of_a_raw_image(opened, registry):
    root = table(None, 0xC0405000, 0x405000)
    image = bytearray(8 << 20)
    image[0x405000:0x406000] = root
    image[0x123456 : 0x123456 + 20] = b"OSRELEASE=in a file\n"
    image[0x500100 : 0x500100 + len(INFO)] = INFO.encode()
    with opened(bytes(image), base=0) as dump:
        found = find_root(dump, registry.get("i386"))
        assert found.address == 0x405000
        assert found.how.startswith("VMCOREINFO text found in memory at physical 0x500100: SYMBOL(swapper_pg_dir)")


def test_the_virtual_base_of_another_split_is_found_by_what_the_tables_map(opened, registry):
    text = INFO.replace("c040", "8040")
    with opened(with_info(text, [(0x405000, table(None, 0x80405000, 0x405000))], machine=3)) as dump:
        found = find_root(dump, registry.get("i386"))
        assert found.address == 0x405000
        assert "0x80405000 - 0x80000000 + 0x0" in found.how


def test_tables_that_map_the_root_elsewhere_are_not_its(opened, registry):
    with (
        opened(with_info(INFO, [(0x405000, table(None, 0xC0405000, 0x1405000))], machine=3)) as dump,
        pytest.raises(RootError, match="0x405000 has tables that map it to 0x1405000"),
    ):
        find_root(dump, registry.get("i386"))


def sections(virtual, physical):
    """Return the 16 KiB of a first-level table whose section maps a virtual address to a physical one."""
    words = np.zeros(4096, "<u4")
    words[virtual >> 20] = physical & -(1 << 20) | 0x1140E
    return words.tobytes()


def test_where_ram_begins_is_found_far_below_the_root(opened, registry):
    text = INFO.replace("c0405000", "c8004000")
    root = sections(0xC8004000, 0x48004000)
    with opened(with_info(text, [(0x48004000, root)], machine=40)) as dump:
        assert find_root(dump, registry.get("armv7")).address == 0x48004000


def test_a_guess_that_the_tables_do_not_confirm_is_no_root(opened, registry):
    text = INFO.replace("c0405000", "c0004000")
    with (
        opened(with_info(text, [(0x40004000, bytes(0x4000))], machine=40)) as dump,
        pytest.raises(RootError, match=r"0x40004000 has tables that do not map it.*give the root table"),
    ):
        find_root(dump, registry.get("armv7"))


def test_nothing_to_go_by(opened, registry):
    with opened(core([(0, bytes(PAGE))], machine=40)) as dump:
        with pytest.raises(RootError, match=r"found neither a VMCOREINFO nor .*--root\), or .*--vmcoreinfo\)"):
            find_root(dump, registry.get("armv7"))
        with pytest.raises(RootError, match=r"e_machine is 40, expected 3; .*: armv5, armv7, armv7-highmem"):
            find_root(dump, registry.get("i386"), records=registry.architectures.values())
    bare = evolve(registry.get("i386"), name="bare", image=None)
    with (
        opened(with_info(INFO, [(0, bytes(PAGE))], machine=3)) as dump,
        pytest.raises(RootError, match="bare: the record does not say what its kernels print"),
    ):
        find_root(dump, bare)


@pytest.mark.parametrize("text", ["-1", f"1{'0' * 17}", "9" * 5000, "", "c0"], ids=lambda t: t[:18])
def test_a_symbol_or_page_size_of_vmcoreinfo_that_is_no_number_of_64_bits(text):
    info = VmcoreInfo("v", {"SYMBOL(a)": text, "PAGESIZE": f"{text}000", "NUMBER(a)": text})
    if text == "c0":
        assert info.symbol("a") == 0xC0
    else:
        with pytest.raises(RootError, match=r"^v: SYMBOL\(a\) is '.{0,40}', expected a number of 64 bits; give"):
            info.symbol("a")
    if text not in ("", "c0"):
        with pytest.raises(RootError, match=r"^v: PAGESIZE is '.{0,40}', expected a number of 64 bits; give"):
            info.page_size()


def test_a_number_of_vmcoreinfo_has_64_bits_with_or_without_a_sign():
    info = VmcoreInfo("v", {f"NUMBER({n})": str(n) for n in (-(1 << 63), (1 << 64) - 1, -(1 << 63) - 1, 1 << 64)})
    assert [info.number(str(n)) for n in (-(1 << 63), (1 << 64) - 1)] == [-(1 << 63), (1 << 64) - 1]
    for number in (-(1 << 63) - 1, 1 << 64):
        with pytest.raises(RootError, match="expected a number of 64 bits"):
            info.number(str(number))


def test_a_vmcoreinfo_file_that_is_none(tmp_path):
    with pytest.raises(RootError, match="cannot be read: No such file"):
        read_vmcoreinfo(str(tmp_path / "none"))
    (tmp_path / "text").write_bytes(b"hello\n\0\xff")
    with pytest.raises(RootError, match="found no line KEY=value, expected a VMCOREINFO text"):
        read_vmcoreinfo(str(tmp_path / "text"))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_text_for_vmcoreinfo_gives_a_root_that_is_there_or_an_error(data, registry):
    arch = registry.get(data.draw(st.sampled_from(["i386", "i386-pae", "x86_64", "armv7"])))
    symbols, numbers = (
        ("swapper_pg_dir", "init_top_pgt"),
        ("phys_base", "PAGE_OFFSET", "PHYS_OFFSET", "vmcore_root"),
    )
    keys = ["PAGESIZE", "CONFIG_X86_PAE", "NUMBER(__START_KERNEL_map)", *(f"SYMBOL({s})" for s in symbols)]
    keys += [f"NUMBER({n})" for n in numbers]
    values = st.one_of(
        st.text(max_size=20), st.integers(-(1 << 70), 1 << 70).map("{:x}".format), st.integers().map(str),
        st.sampled_from(["c1efc000", "ffffffff81efc000", "4096", "y", "0", "0xc0000000", "9" * 5000, "f" * 4000]),
    )  # fmt: skip
    text = "\n".join(f"{k}={v}" for k, v in data.draw(st.lists(st.tuples(st.sampled_from(keys), values))))
    info = VmcoreInfo.parse(text.encode("utf-8", "replace"), "text")
    with open_dump(capture("i386-2level").core) as dump:
        try:
            root = find_root(dump, arch, vmcoreinfo=info)
        except RootError:
            return
        assert dump.word(root.address & -8, 4) is not None


# ---- texts that are old, or of somebody else


def memory(*texts, tables=((0xC0405000, 0x405000),)):
    """Return a raw image of 8 MiB with texts at 0x100000, 0x110000 and so on, and roots that map themselves."""
    image = bytearray(8 << 20)
    for number, text in enumerate(texts):
        at = 0x100000 + 0x10000 * number
        image[at : at + len(text)] = text.encode()
    for virtual, physical in tables:
        image[physical : physical + PAGE] = table(None, virtual, physical)
    return bytes(image)


STALE = INFO.replace("c0405000", "c0505000")
SPLIT = "NUMBER(PAGE_OFFSET)=0xc0000000\n"  # so that there is one base to try
PAE = INFO + "CONFIG_X86_PAE=y\n"


@pytest.mark.parametrize(
    "stale", [STALE, INFO.replace("c0405000", "d0405000"), PAE, INFO.replace("c0405000", "zz")]
)
def test_a_stale_text_below_the_right_one_is_passed_over(opened, registry, stale):
    with opened(memory(stale, INFO, INFO), base=0) as dump:
        root = find_root(dump, registry.get("i386"))
        assert (root.address, root.doubts) == (0x405000, ())
        assert root.how.startswith("VMCOREINFO text found in memory at physical 0x110000: ")
        assert root.how.endswith("which the tables map so; other texts there: 1")


def test_of_texts_that_nothing_confirms_the_first_counts_with_a_warning(opened, registry):
    with opened(memory(STALE + SPLIT, INFO + SPLIT, tables=()), base=0) as dump:
        root = find_root(dump, registry.get("i386"))
        assert root.address == 0x505000
        assert root.how.endswith("which the tables do not map; other texts there: 1")
        (doubt,) = root.doubts
        assert doubt.startswith(
            "the root is not confirmed: tables at 0x505000 do not map SYMBOL(swapper_pg_dir) 0xc0505000, expected "
        )
    with (
        opened(memory(PAE, INFO, tables=()), base=0) as dump,
        pytest.raises(RootError, match="0x100000: not a kernel of 'i386': CONFIG_X86_PAE is y"),
    ):
        find_root(dump, registry.get("i386"))


def test_two_texts_that_the_tables_confirm_are_a_doubt(opened, registry):
    both = ((0xC0405000, 0x405000), (0xC0505000, 0x505000))
    with opened(memory(STALE, INFO, tables=both), base=0) as dump:
        root = find_root(dump, registry.get("i386"))
        assert root.address == 0x505000
        (doubt,) = root.doubts
        assert doubt.startswith(
            "the tables confirm another root too, 0x405000 (VMCOREINFO text found in memory at "
        )


def test_no_more_texts_are_tried_than_the_bound(opened, registry, monkeypatch):
    monkeypatch.setattr(dump_root, "_TEXTS_MOST", 2)
    texts = [INFO.replace("c0405000", f"c050{n}000") + SPLIT for n in range(3)]
    with opened(memory(*texts[:1], INFO, *texts[1:]), base=0) as dump:
        root = find_root(dump, registry.get("i386"))
        assert (root.address, root.how[-22:]) == (0x405000, "; other texts there: 1")
    with opened(memory(*texts, INFO), base=0) as dump:
        assert find_root(dump, registry.get("i386")).address == 0x500000


def test_a_root_that_the_tables_do_not_confirm_is_doubted(opened, registry):
    with opened(with_info(INFO + SPLIT, [(0x405000, bytes(PAGE))], machine=3)) as dump:
        root = find_root(dump, registry.get("i386"))
        assert root.address == 0x405000
        assert len(root.doubts) == 1


@pytest.mark.parametrize("name", ["i386", "i386-pae-highmem", "x86_64", "armv5", "armv7-highmem"])
def test_saved_cores_have_no_doubts(kernel, tmp_path, name):
    k = kernel(name)
    k.save(tmp_path / "core")
    with open_dump(tmp_path / "core") as dump:
        assert find_root(dump, k.arch).doubts == ()


# ---- notes that lead nowhere


@pytest.mark.parametrize("text", [b"", bytes(4096), b"OSRELEASE=5.10\nPAGESIZE=4096\nSYMBOL(_stext)=c0400000\n"])
def test_a_note_without_the_root_is_left_out(opened, registry, text):
    empty = note("VMCOREINFO", 0, text)
    where = [(0, memory(INFO))]
    for notes, how in (
        (empty + cpu_note(0x405000, 0x690), "CPU 0's register 0x405000 in a QEMU note"),
        (empty, "VMCOREINFO text found in memory at physical 0x100000"),
        (empty + note("VMCOREINFO", 0, INFO.encode()), "VMCOREINFO, ELF note 'VMCOREINFO'"),
    ):
        with opened(core(where, notes, machine=3)) as dump:
            root = find_root(dump, registry.get("i386"))
            assert root.address == 0x405000
            assert root.how.startswith(how)
            told = [
                f"VMCOREINFO, ELF note 'VMCOREINFO' of {dump.name}: found no symbol of the root, it was left out"
            ]
            assert list(root.doubts) == ([] if how.endswith("ELF note 'VMCOREINFO'") else told)
    with (
        opened(core([(0, bytes(PAGE))], empty, machine=3)) as dump,
        pytest.raises(RootError, match="found neither"),
    ):
        find_root(dump, registry.get("i386"))


def test_a_note_without_the_root_that_contradicts_the_record_refuses(opened, registry):
    notes = note("VMCOREINFO", 0, b"CONFIG_X86_PAE=y\n") + cpu_note(0x405000, 0x690)
    with opened(core([(0, memory())], notes, machine=3)) as dump:
        with pytest.raises(RootError, match="not a kernel of 'i386': CONFIG_X86_PAE is y, expected no such line"):
            find_root(dump, registry.get("i386"))
        with pytest.raises(RootError, match=r"CR4\.PAE is 0"):
            find_root(dump, registry.get("i386-pae"))


# ---- CPU notes


def roots(**tables):
    """Return a page for each root of four-level tables with (index, table) entries, and three tables."""
    pages = {}
    for number, entries in enumerate(tables.values()):
        words = np.zeros(512, "<u8")
        for index, below in entries:
            words[index] = below | 0x67
        pages[0x1000 * (number + 1)] = words.tobytes()
    for at, count in ((0x10000, 300), (0x11000, 4), (0x12000, 2)):
        words = np.zeros(512, "<u8")
        words[:count] = 0x20067
        pages[at] = words.tobytes()
    return list(pages.items())


USER = (0, 0x11000)
KERNEL = [(273, 0x10000), (511, 0x12000)]
LAZY = "; a process's table: vmalloc entries it has not taken over from init_mm yet are missing"
MOST = ", of {} roots the one with most of the kernel's entries"


@pytest.mark.parametrize(
    ("tables", "cpu", "more"),
    [
        ({"user": [(0, 0x10000), (511, 0x11000)], "process": [*KERNEL, USER]}, 1, MOST.format(2) + LAZY),
        ({"process": [*KERNEL, USER], "init_mm": KERNEL}, 1, MOST.format(2)),
        ({"old": [*KERNEL, USER], "new": [*KERNEL, (400, 0x11000), USER]}, 1, MOST.format(2) + LAZY),
        ({"trampoline": [(511, 0x11000)], "process": [*KERNEL, USER]}, 1, MOST.format(2) + LAZY),
        ({"init_mm": KERNEL, "other": KERNEL}, 0, MOST.format(2)),
        ({"process": [*KERNEL, (255, 0x11000)]}, 0, LAZY),
        ({"init_mm": KERNEL}, 0, ""),
    ],
)  # fmt: skip
def test_the_cpu_whose_tables_have_most_of_the_kernel_counts(opened, registry, tables, cpu, more):
    notes = b"".join(cpu_note(0x1000 * (n + 1), 0x6F0) for n in range(len(tables)))
    with opened(core(roots(**tables), notes)) as dump:
        address = 0x1000 * (cpu + 1)
        how = f"CPU {cpu}'s register {address:#x} in a QEMU note{more}"
        assert find_root(dump, registry.get("x86_64")) == (address, how, ())


def test_large_pages_count_and_are_no_tables(opened, registry):
    first, second = np.zeros(1024, "<u4"), np.zeros(1024, "<u4")
    first[[767, 768]] = 0x67, 0x4001E3
    second[[768, 769]] = 0x1E3, 0x8001E3
    page = np.full(1024, 0x67, "<u4")
    where = [(0x1000, first.tobytes()), (0x2000, second.tobytes()), (0x400000, page.tobytes())]
    with opened(core(where, cpu_note(0x1000, 0x690) + cpu_note(0x2000, 0x690), machine=3)) as dump:
        assert find_root(dump, registry.get("i386")).address == 0x2000


def test_a_32_byte_root_at_the_end_of_a_page_from_a_cpu_note(opened, registry):
    memory = [(0x63A8000, bytes(PAGE))]
    with opened(core(memory, cpu_note(0x63A8FE0 | 0x18, 0x6F0), machine=3)) as dump:
        root = find_root(dump, registry.get("i386-pae"))
        assert root == (0x63A8FE0, "CPU 0's register 0x63a8ff8 in a QEMU note", ())


def test_flags_in_the_register_are_no_address(opened, registry):
    memory = [(0x105000, bytes(PAGE))]
    with opened(core(memory, cpu_note(1 << 63 | 0x105000 | 0xFFF, 0x6F0))) as dump:
        assert find_root(dump, registry.get("x86_64")).address == 0x105000
        assert find_root(dump, registry.get("x86_64"), root=0x105018) == (
            0x105000,
            "given as 0x105018, without its low bits",
            (),
        )


def test_the_first_cpu_whose_root_is_there_counts(opened, registry):
    memory = [(0x105000, bytes(PAGE))]
    with opened(core(memory, cpu_note(0x9000, 0x6F0) + cpu_note(0x105000, 0x6F0))) as dump:
        assert find_root(dump, registry.get("x86_64")).how == "CPU 1's register 0x105000 in a QEMU note"


@pytest.mark.parametrize(
    ("arch", "cr4", "machine", "message"),
    [
        ("i386", 0x6F0, 3, "CR4.PAE is 1: three or more levels; records that fit: i386-pae, i386-pae-highmem"),
        ("i386-pae", 0x690, 3, "CR4.PAE is 0: two levels; records that fit: i386, i386-highmem; or give the root"),
        ("x86_64", 0x16F0, 62, "CR4.LA57 is 1: five levels; or give the root"),
    ],
)
def test_registers_of_another_kind_of_tables(opened, registry, arch, cr4, machine, message):
    with (
        opened(core([(0x105000, bytes(PAGE))], cpu_note(0x105000, cr4), machine=machine)) as dump,
        pytest.raises(RootError, match=message),
    ):
        find_root(dump, registry.get(arch), records=registry.architectures.values())


def test_a_note_too_short_for_the_registers_is_no_cpu_note(opened, registry):
    with (
        opened(core([(0x105000, bytes(PAGE))], note("QEMU", 0, bytes(100)))) as dump,
        pytest.raises(RootError, match="found neither"),
    ):
        find_root(dump, registry.get("x86_64"))


# ---- given


def test_a_given_root_must_be_in_the_dump(opened, registry):
    with opened(core([(0x4000, bytes(0x4000))], machine=40)) as dump:
        assert find_root(dump, registry.get("armv7"), root=0x406A).address == 0x4000
        with pytest.raises(RootError, match="the root that was given, 0x8000, is not in the dump"):
            find_root(dump, registry.get("armv7"), root=0x8000)
        with pytest.raises(RootError, match="is not in the dump"):
            find_root(dump, registry.get("armv7"), root=1 << 70)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bases": []}, "kernelimage: bases is empty, expected at least one"),
        ({"bases": [0], "roots": []}, "kernelimage: roots is empty, expected at least one"),
        ({"bases": [0], "root_align": 48}, "kernelimage: root_align is 0x30, expected a power of two"),
        ({"bases": "x"}, "kernelimage: bases is 'x', expected"),
    ],
)
def test_an_image_that_cannot_be_is_refused(change, message):
    with pytest.raises(ArchitectureError, match=message):
        KernelImage(machine=1, **change)
