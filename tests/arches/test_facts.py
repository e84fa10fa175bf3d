"""What the built-in records say: geometry, composites, none and bad, zones; and every worked example.

Sources: include/asm-x86/pgtable*.h, include/asm-arm/pgtable*.h, of 2.6.24, and the manuals the records name.
"""

import numpy as np
import pytest
import vmcore_arches
from attrs import evolve
from vmcore_arches.arm.armv5 import XSCALE
from vmcore_arches.arm.armv7 import ALIASING_VIPT

from vmcore.architecture import Cache, LayoutRequest, Segment, Zone
from vmcore.units import Bank

RECORDS = {arch.name: arch for arch in vmcore_arches.vmcore_architectures()}
NX = 1 << 63
MIB = 1 << 20

X86_2 = ("i386", "i386-highmem")
PAE = ("i386-pae", "i386-pae-highmem")
ARM_ERA = ("armv5", "armv7")
ARM = (*ARM_ERA, "armv7-highmem")


def level(name, level_name):
    return next(found for found in RECORDS[name].levels if found.name == level_name)


def none(where, entry):
    return not entry & where.none_mask


def present(where, entry):
    return bool(entry & where.present_mask)


def missing(where, entry):
    return not entry & where.missing_mask


def bad(where, entry):
    return entry & where.bad_mask != where.good_value


# ---- geometry


def test_the_eight_names():
    assert list(RECORDS) == [*X86_2, *PAE, "x86_64", *ARM]


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        (X86_2, [("pgd", 22, 1024, 4, 4096), ("pte", 12, 1024, 4, 4096)]),
        (PAE, [("pgd", 30, 4, 8, 32), ("pmd", 21, 512, 8, 4096), ("pte", 12, 512, 8, 4096)]),
        (("x86_64",), [("pgd", 39, 512, 8, 4096), ("pud", 30, 512, 8, 4096), ("pmd", 21, 512, 8, 4096),
                       ("pte", 12, 512, 8, 4096)]),
        (ARM, [("pgd", 21, 2048, 8, 16384), ("pte", 12, 512, 4, 2048)]),
    ],
)  # fmt: skip
def test_linux_levels(names, rows):
    for name in names:
        found = [(v.name, v.shift, v.entries, v.entry_bytes, v.table_bytes) for v in RECORDS[name].levels]
        assert found == rows
        assert RECORDS[name].page_size == 4096
        assert RECORDS[name].root_bytes == rows[0][4]


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        (X86_2, [(22, 1024, 4, 0xFFFFF000), (12, 1024, 4, 0xFFFFF000)]),
        (
            PAE,
            [(30, 4, 8, 0x000FFFFFFFFFF000), (21, 512, 8, 0x000FFFFFFFFFF000), (12, 512, 8, 0x000FFFFFFFFFF000)],
        ),
        (("x86_64",), [(shift, 512, 8, 0x000FFFFFFFFFF000) for shift in (39, 30, 21, 12)]),
        (ARM, [(20, 4096, 4, 0xFFFFFC00), (12, 256, 4, 0xFFFFF000)]),
    ],
)
def test_hardware_levels(names, rows):
    for name in names:
        levels = RECORDS[name].hardware_levels
        assert [(v.shift, v.entries, v.entry_bytes, v.frame_mask) for v in levels] == rows


def test_frames_as_the_kernels_of_the_era_mask_them():
    assert [v.frame_mask for v in RECORDS["x86_64"].levels] == [0x00003FFFFFFFF000] * 4
    assert [v.frame_mask for v in RECORDS["i386-pae"].levels] == [0x0000000FFFFFF000] * 3
    assert [v.frame_mask for v in RECORDS["i386"].levels] == [0xFFFFF000] * 2
    assert [v.frame_mask for v in RECORDS["armv5"].levels] == [0xFFFFF800, 0xFFFFF000]
    assert [v.frame_mask for v in RECORDS["armv7-highmem"].levels] == [0xFFFFF000, 0xFFFFF000]


@pytest.mark.parametrize(
    ("name", "word_bits", "order", "cpus", "ram", "era"),
    [
        *((name, 32, 19, 32, 1024, "2.6.24") for name in X86_2 + PAE),
        ("x86_64", 64, 19, 32, 1024, "2.6.24"),
        ("armv5", 32, 24, 1, 256, "2.6.24"),
        ("armv7", 32, 24, 32, 1024, "2.6.24"),
        ("armv7-highmem", 32, 24, 32, 1024, "6.12"),
    ],
)  # fmt: skip
def test_machine_constants(name, word_bits, order, cpus, ram, era):
    arch = RECORDS[name]
    assert (arch.word_bits, arch.page_shift, arch.ioremap_max_order) == (word_bits, 12, order)
    assert (arch.max_cpus, arch.default_ram, arch.era) == (cpus, ram * MIB, era)


@pytest.mark.parametrize(
    ("name", "zones"),
    [
        *((name, [("DMA", 16 * MIB), ("NORMAL", None)]) for name in ("i386", "i386-pae")),
        *((name, [("DMA", 16 * MIB), ("NORMAL", None), ("HIGHMEM", None)])
          for name in ("i386-highmem", "i386-pae-highmem")),
        ("x86_64", [("DMA", 16 * MIB), ("DMA32", 4096 * MIB), ("NORMAL", None)]),
        *((name, [("DMA", None), ("NORMAL", None)]) for name in ARM_ERA),
        ("armv7-highmem", [("DMA", None), ("NORMAL", None), ("HIGHMEM", None)]),
    ],
)  # fmt: skip
def test_zones(name, zones):
    assert RECORDS[name].zones == tuple(Zone(*zone) for zone in zones)


@pytest.mark.parametrize(("name", "gfp"), [(n, 0xD4 if n == "x86_64" else 0xD0) for n in RECORDS])
def test_gfp_vmalloc32(name, gfp):
    assert RECORDS[name].gfp_vmalloc32 == gfp


def test_gfp_vmalloc32_of_a_64_bit_machine_without_dma32():
    arch = RECORDS["x86_64"]
    assert evolve(arch, zones=("DMA", "NORMAL")).gfp_vmalloc32 == 0xD1
    assert evolve(arch, zones=("NORMAL",)).gfp_vmalloc32 == 0xD0


# ---- composites


@pytest.mark.parametrize(
    ("name", "protection", "value"),
    [
        *((n, p, v) for n in X86_2 for p, v in [
            ("PAGE_KERNEL", 0x163), ("PAGE_KERNEL_EXEC", 0x163), ("PAGE_KERNEL_NOCACHE", 0x173),
            ("PAGE_KERNEL_RO", 0x161), ("PAGE_KERNEL_RX", 0x161), ("PAGE_KERNEL_LARGE", 0x1E3),
            ("PAGE_KERNEL_LARGE_EXEC", 0x1E3), ("IOREMAP", 0x063), ("IOREMAP_NOCACHE", 0x073),
            ("pgprot_noncached(PAGE_KERNEL)", 0x163 | 0x018)]),
        *((n, p, v) for n in PAE for p, v in [
            ("PAGE_KERNEL", 0x8000000000000163), ("PAGE_KERNEL_EXEC", 0x163),
            ("PAGE_KERNEL_NOCACHE", 0x8000000000000173), ("PAGE_KERNEL_RO", 0x8000000000000161),
            ("PAGE_KERNEL_RX", 0x161), ("PAGE_KERNEL_LARGE", 0x80000000000001E3),
            ("PAGE_KERNEL_LARGE_EXEC", 0x1E3), ("IOREMAP", 0x063), ("IOREMAP_NOCACHE", 0x073),
            ("pgprot_noncached(PAGE_KERNEL)", 0x800000000000017B)]),
        *(("x86_64", p, v) for p, v in [
            ("PAGE_KERNEL", 0x8000000000000163), ("PAGE_KERNEL_EXEC", 0x163),
            ("PAGE_KERNEL_NOCACHE", 0x8000000000000173), ("PAGE_KERNEL_RO", 0x8000000000000161),
            ("PAGE_KERNEL_LARGE", 0x80000000000001E3), ("__PAGE_KERNEL_LARGE_EXEC", 0x0E3),
            ("PAGE_KERNEL_VSYSCALL", 0x125), ("PAGE_KERNEL_VSYSCALL_NOCACHE", 0x135), ("IOREMAP", 0x163),
            ("IOREMAP_NOCACHE", 0x173), ("pgprot_noncached(PAGE_KERNEL)", 0x800000000000017B)]),
        *((n, p, v) for n in ARM_ERA for p, v in [
            ("PAGE_KERNEL", 0x0EF), ("PAGE_KERNEL_EXEC", 0x0EF), ("pgprot_noncached(PAGE_KERNEL)", 0x0E3),
            ("pgprot_writecombine(PAGE_KERNEL)", 0x0E7)]),
        ("armv5", "IOREMAP", 0x0A3), ("armv7", "IOREMAP", 0x0A7),
        *(("armv7-highmem", p, v) for p, v in [
            ("PAGE_KERNEL", 0x24F), ("PAGE_KERNEL_EXEC", 0x04F), ("PAGE_KERNEL_RO", 0x2CF),
            ("pgprot_noncached(PAGE_KERNEL)", 0x243), ("pgprot_writecombine(PAGE_KERNEL)", 0x247),
            ("IOREMAP", 0x653)]),
    ],
)  # fmt: skip
def test_protections(name, protection, value):
    assert RECORDS[name].protection(protection) == value


def test_x86_64_has_no_page_kernel_rx_and_arm_no_page_kernel_exec():
    assert "PAGE_KERNEL_RX" not in dict(RECORDS["x86_64"].protections)
    assert [RECORDS[name].page_kernel_exec for name in ARM_ERA] == [None, None]


@pytest.mark.parametrize(("name", "flags"), [(n, 0x410 if n == "armv7-highmem" else 0x400) for n in ARM[1:]])
def test_smp_marks_kernel_pages_shared(name, flags):
    assert RECORDS[name].smp_flags == flags


@pytest.mark.parametrize("name", [*X86_2, *PAE, "x86_64", "armv5"])
def test_no_smp_protections_elsewhere(name):
    assert RECORDS[name].smp_flags == 0


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        *((n, [0x067]) for n in X86_2), *((n, [0x001, 0x067]) for n in PAE), ("x86_64", [0x067, 0x067, 0x067]),
        ("armv5", [0x011]), ("armv7", [0x011]), ("armv7-highmem", [0x811]),
    ],
)  # fmt: skip
def test_table_flags(name, flags):
    assert [found.table_flags for found in RECORDS[name].levels[:-1]] == flags


def test_only_the_tables_below_the_pae_root_are_prebuilt():
    built = {(n, v.name) for n, arch in RECORDS.items() for v in arch.levels if v.prebuilt}
    assert built == {("i386-pae", "pgd"), ("i386-pae-highmem", "pgd")}


def test_names_in_bad_log_lines():
    assert {n: [v.error_name for v in arch.levels[:-1]] for n, arch in RECORDS.items()} == {
        "i386": ["pgd"], "i386-highmem": ["pgd"], "i386-pae": ["pgd", "pmd"], "i386-pae-highmem": ["pgd", "pmd"],
        "x86_64": ["pgd", "pud", "pmd"], "armv5": ["pmd"], "armv7": ["pmd"], "armv7-highmem": ["pmd"],
    }  # fmt: skip


# ---- none, present, bad

#: record, level, entry; none, present, a table is allocated, bad
TESTS = [
    *((n, "pgd", *row) for n in X86_2 for row in [
        (0x00000000, True, False, True, True),
        (0x00301067, False, True, False, False),
        (0x00301063, False, True, False, False),   # USER is not looked at
        (0x000001E3, False, True, False, True),    # a 4 MiB page
        (0x00301077, False, True, False, True),    # PCD
        (0x0030106F, False, True, False, True),    # PWT
        (0x00301047, False, True, False, True),    # not ACCESSED
        (0x00301027, False, True, False, True),    # not DIRTY
        (0x00301267, False, True, False, True),    # a software bit
        (0xFFFFF067, False, True, False, False),   # frame bits are not looked at
        (0x00301066, False, False, True, True),    # not PRESENT: replaced
        (0x00001000, False, False, True, True),
    ]),
    *((n, "pmd", *row) for n in PAE for row in [
        (0x0000000000000000, True, False, True, True),
        (0x8000000000000000, True, False, True, True),    # only the low word is looked at
        (0x0000000100000000, True, False, True, True),
        (0x0000000000302067, False, True, False, False),
        (0x8000000000302067, False, True, False, False),  # NX is not looked at
        (0x000FFFFFFFFFF063, False, True, False, False),
        (0x80000000000001E3, False, True, False, True),
        (0x0000000000302047, False, True, False, True),
        (0x0000000000001000, False, False, True, True),
    ]),
    *(("x86_64", where, *row) for where in ("pgd", "pud") for row in [
        (0x0000000000000000, True, False, True, False),
        (0x0000000000301067, False, True, False, False),
        (0x0000000000301063, False, True, False, False),  # boot: _KERNPG_TABLE
        (0x0000000000001000, False, False, False, False),  # neither none nor bad: followed
        (0x0000000000000001, False, True, False, False),
    ]),
    *(("x86_64", "pmd", *row) for row in [
        (0x0000000000000000, True, False, True, False),
        (0x0000000000301067, False, True, False, False),
        (0x0000000000001000, False, False, True, False),  # pte_alloc_kernel tests PRESENT
        (0x80000000000001E3, False, True, False, True),   # a 2 MiB page
    ]),
    *(("x86_64", where, 0x301067 | bit, False, True, False, True) for where in ("pgd", "pud", "pmd")
      for bit in (0x008, 0x010, 0x080, 0x100, 0x200, 0x400, 0x800, 1 << 46, 1 << 51, 1 << 62, 1 << 63)),
    *((n, "pgd", *row) for n in ARM for row in [
        (0x00000000, True, False, True, False),
        (0x00304011, False, True, False, False),
        (0x00304001, False, True, False, False),
        (0x00000010, False, True, False, False),
        (0x0000041E, False, True, False, True),    # a section
        (0x00304013, False, True, False, True),    # reserved
    ]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "where", "entry", "is_none", "is_present", "allocates", "is_bad"), TESTS)
def test_none_present_and_bad(name, where, entry, is_none, is_present, allocates, is_bad):
    at = level(name, where)
    assert (none(at, entry), present(at, entry), missing(at, entry), bad(at, entry)) == (
        is_none, is_present, allocates, is_bad,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "entry", "is_none", "is_present"),
    [
        *((n, 0x00000000, True, False) for n in RECORDS),
        *((n, 0x00100163, False, True) for n in (*X86_2, *PAE, "x86_64")),
        *((n, 0x00100080, False, True) for n in (*X86_2, *PAE, "x86_64")),  # PROTNONE
        *((n, 0x00100062, False, False) for n in (*X86_2, *PAE, "x86_64")),
        *((n, 0x8000000000000000, False, False) for n in (*PAE, "x86_64")),  # both halves count
        *((n, 0x00100001, False, True) for n in ARM),
        *((n, 0x001000EE, False, False) for n in ARM),
    ],
)
def test_none_and_present_of_pages(name, entry, is_none, is_present):
    at = level(name, "pte")
    assert (none(at, entry), present(at, entry), bad(at, entry)) == (is_none, is_present, False)


# ---- what the MMU recognises


def resolve(arch, depth, entry):
    """Say what the MMU makes of an entry: None, the address of a table, or a page's (shift, address)."""
    at, last = arch.hardware_levels[depth], depth == len(arch.hardware_levels) - 1
    if not present(at, entry):
        return None
    for leaf in at.leaves:
        if entry & leaf.mask == leaf.value:
            return leaf.shift, sum((entry & s.entry_mask) >> s.entry_bit << s.address_bit for s in leaf.frame)
    if bad(at, entry) or (last and at.leaves):
        return None
    return (at.shift, at.decode(entry)) if last else at.decode(entry)


@pytest.mark.parametrize(
    ("name", "depth", "entry", "result"),
    [
        *((n, 0, 0x00301067, 0x00301000) for n in X86_2),
        *((n, 0, 0x00301001, 0x00301000) for n in X86_2),  # the MMU has no bad entries
        *((n, 0, 0x38C001E3, (22, 0x38C00000)) for n in X86_2),
        *((n, 0, 0x00C021E3, (22, 0x100C00000)) for n in X86_2),  # PSE-36
        *((n, 0, 0x38C001E2, None) for n in X86_2),
        *((n, 1, 0x38000163, (12, 0x38000000)) for n in X86_2),
        *((n, 1, 0x38000080, None) for n in X86_2),  # PROTNONE is Linux' own
        *((n, 0, 0x00301001, 0x00301000) for n in PAE),
        *((n, 1, 0x80000001400001E3, (21, 0x140000000)) for n in PAE),
        *((n, 1, 0x8000000000302067, 0x00302000) for n in PAE),
        *((n, 2, 0x800FFFFFFFFFF163, (12, 0x000FFFFFFFFFF000)) for n in PAE),
        ("x86_64", 0, 0x00000000003010E7, 0x301000),  # PSE means nothing in the root
        ("x86_64", 1, 0x80000001400001E3, (30, 0x140000000)),
        ("x86_64", 2, 0x80000001402001E3, (21, 0x140200000)),
        ("x86_64", 3, 0x800FFFFFFFFFF163, (12, 0x000FFFFFFFFFF000)),
        *((n, 0, 0x00304011, 0x00304000) for n in ARM),
        *((n, 0, 0x00304411, 0x00304400) for n in ARM),
        *((n, 0, 0x48604861, 0x48604800) for n in ARM),
        *((n, 0, 0x00000000, None) for n in ARM),
        *((n, 0, 0x00304013, None) for n in ARM),  # fine or reserved
        *((n, 0, 0x0010041E, (20, 0x00100000)) for n in ARM),
        ("armv7", 0, 0x4011140E, (20, 0x40100000)),
        ("armv7-highmem", 0, 0x4001140E, (20, 0x40000000)),
        ("armv7", 0, 0x4004040E, (24, 0x40000000)),
        ("armv7", 0, 0x40F4040E, (24, 0xF40000000)),  # bits 35:32 of the address
        ("armv7", 0, 0x400405EE, (24, 0xF040000000)),  # bits 39:36
        ("armv5", 0, 0x4004040E, (20, 0x40000000)),  # no supersections
        *((n, 1, 0x00100001, (16, 0x00100000)) for n in ARM),
        *((n, 1, 0x001F0FF1, (16, 0x001F0000)) for n in ARM),
        *((n, 1, 0x00000000, None) for n in ARM),
        *((n, 1, 0x00101012, (12, 0x00101000)) for n in ARM),
        ("armv5", 1, 0x00101013, None),  # a tiny page, which no coarse table has
        ("armv7", 1, 0x00101013, (12, 0x00101000)),  # XN
        ("armv7-highmem", 1, 0x0010145F, (12, 0x00101000)),
    ],
)
def test_what_the_mmu_makes_of_an_entry(name, depth, entry, result):
    assert resolve(RECORDS[name], depth, entry) == result


def test_xscale_pages_are_extended_small_pages():
    arch = evolve(RECORDS["armv5"], hardware=XSCALE)
    assert resolve(arch, 1, 0x0010001F) == (12, 0x00100000)
    assert resolve(arch, 1, 0x0010001E) is None
    assert resolve(arch, 0, 0x00304011) == 0x00304000


def test_addresses_and_caches_of_the_hardware():
    assert {n: arch.hardware.canonical_bits for n, arch in RECORDS.items() if arch.hardware.canonical_bits} == {
        "x86_64": 48
    }  # fmt: skip
    caches = {n: arch.hardware.cache for n, arch in RECORDS.items() if arch.hardware.cache}
    virtual = Cache(kind="vivt", colours=0, size=32 << 10, ways=4, line=32, writes_back_by="virtual")
    assert caches == {"armv5": virtual}
    assert Cache(kind="vipt aliasing", colours=4, size=64 << 10, ways=4, line=32) == ALIASING_VIPT
    assert {n: arch.hardware.mirror.offset for n, arch in RECORDS.items() if arch.hardware.mirror} == {
        "armv5": 0x000, "armv7": 0x000, "armv7-highmem": 0x800,
    }  # fmt: skip
    assert {n: arch.levels[-1].offset for n, arch in RECORDS.items() if arch.hardware.mirror} == {
        "armv5": 0x800, "armv7": 0x800, "armv7-highmem": 0x000,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "depth", "entry", "names"),
    [
        ("i386", 1, 0x163, ["PRESENT", "RW", "ACCESSED", "DIRTY", "GLOBAL"]),
        ("i386", 0, 0x1E7, ["PRESENT", "RW", "USER", "ACCESSED", "DIRTY", "PSE", "GLOBAL"]),
        ("i386-pae", 0, 0x301001, ["PRESENT"]),
        ("i386-pae", 2, NX | 0x173, ["PRESENT", "RW", "PCD", "ACCESSED", "DIRTY", "GLOBAL", "NX"]),
        ("x86_64", 3, NX | 0x08D, ["PRESENT", "USER", "PWT", "PAT", "NX"]),
        ("armv5", 1, 0x0EF, ["PRESENT", "YOUNG", "BUFFERABLE", "CACHEABLE", "WRITE", "EXEC", "DIRTY"]),
        ("armv7", 1, 0x411, ["PRESENT", "USER", "SHARED"]),
        ("armv7-highmem", 1, 0x65F, ["PRESENT", "YOUNG", "MT", "DIRTY", "XN", "SHARED"]),
        ("armv5", 0, 0x00304011, ["table", "bit 4"]),
    ],
)
def test_bits_have_names_for_people(name, depth, entry, names):
    assert RECORDS[name].levels[depth].names(entry) == names


@pytest.mark.parametrize(
    ("name", "depth", "entry", "names"),
    [
        ("armv5", 1, 0x0010055E, ["B", "C", "AP0", "AP1", "AP2", "AP3"]),
        ("armv7", 1, 0x0010041E, ["B", "C", "AP0", "S"]),
        ("armv7", 1, 0x00100A63, ["XN", "AP1", "TEX", "APX", "nG"]),
        ("armv7-highmem", 1, 0x0010045F, ["XN", "B", "C", "AP0", "TEX", "S"]),
        ("armv7", 0, 0x0010043E, ["section", "B", "C", "bit 4", "domain"]),
        ("i386-pae", 1, 0x80000001400001E3, ["PRESENT", "RW", "ACCESSED", "DIRTY", "PSE", "GLOBAL", "NX"]),
    ],
)
def test_hardware_bits_have_names_for_people(name, depth, entry, names):
    assert RECORDS[name].hardware_levels[depth].names(entry) == names


# ---- worked examples: virtual address, tables, frames; then one row per entry written

FRAMES = (0x100, 0x101, 0x200)


def entries(arch, address, tables, prot, frames=FRAMES):
    """Compute what mapping ``frames`` at ``address`` writes: (entry physical address, value), in order.

    Args:
        arch: the record.
        address: first virtual address.
        tables: physical address of the table at each level, root first.
        prot: protection of the pages.
        frames: one per page.
    """
    rows = []
    for depth, at in enumerate(arch.levels[:-1]):
        entry = tables[depth] + at.offset + (address >> at.shift & at.entries - 1) * at.entry_bytes
        word = at.encode(tables[depth + 1], at.table_flags)
        rows += [(entry + i * at.word_bytes, word + add) for i, add in enumerate((0, *at.repeat))]
    last = arch.levels[-1]
    for page, frame in enumerate(frames):
        entry = tables[-1] + ((address >> 12) + page & last.entries - 1) * last.entry_bytes
        word = last.encode(frame << 12, prot & arch.supported_pte_mask)
        assert last.encode_array(numpy_addresses(frame), prot & arch.supported_pte_mask).tolist() == [word]
        rows.append((entry + last.offset, word))
        if (mirror := arch.hardware.mirror) is not None:
            hardware = mirror.encode(last.encode_array(numpy_addresses(frame), prot))
            rows.append((entry + mirror.offset, int(hardware[0])))
    return rows


def numpy_addresses(frame):
    return np.array([frame << 12], np.uint64)


def no_nx(arch):
    return evolve(arch, supported_pte_mask=0x7FFFFFFFFFFFFFFF)


I386_ROWS = [
    (0x00300F88, 0x00301067),
    (0x00301000, 0x00100163),
    (0x00301004, 0x00101163),
    (0x00301008, 0x00200163),
]
I386_NO_PGE = [
    (0x00300F88, 0x00301067),
    (0x00301000, 0x00100063),
    (0x00301004, 0x00101063),
    (0x00301008, 0x00200063),
]
PAE_ROWS = [
    (0x00300018, 0x0000000000301001), (0x00301E20, 0x0000000000302067), (0x00302000, 0x8000000000100163),
    (0x00302008, 0x8000000000101163), (0x00302010, 0x8000000000200163),
]  # fmt: skip
PAE_EXEC = [*PAE_ROWS[:2], (0x00302000, 0x100163), (0x00302008, 0x101163), (0x00302010, 0x200163)]
X86_64_ROWS = [
    (0x00300C20, 0x0000000000301067), (0x00301000, 0x0000000000302067), (0x00302000, 0x0000000000303067),
    (0x00303000, 0x8000000000100163), (0x00303008, 0x8000000000101163), (0x00303010, 0x8000000000200163),
]  # fmt: skip
X86_64_EXEC = [*X86_64_ROWS[:3], (0x00303000, 0x100163), (0x00303008, 0x101163), (0x00303010, 0x200163)]


@pytest.mark.parametrize("name", X86_2)
def test_worked_example_i386(name):
    arch = RECORDS[name]
    tables = (0x00300000, 0x00301000)
    assert arch.lay_out(LayoutRequest(ram=1 << 30)).vmalloc_start == 0xF8800000
    assert entries(arch, 0xF8800000, tables, arch.page_kernel) == I386_ROWS
    assert entries(arch, 0xF8800000, tables, arch.page_kernel_exec) == I386_ROWS
    assert entries(arch, 0xF8800000, tables, arch.page_kernel & ~0x100) == I386_NO_PGE
    highmem = entries(arch, 0xF8800000, tables, arch.page_kernel, frames=(0x38000,))
    assert highmem[1] == (0x00301000, 0x38000163)


@pytest.mark.parametrize("name", PAE)
def test_worked_example_pae(name):
    arch = RECORDS[name]
    tables = (0x00300000, 0x00301000, 0x00302000)
    assert entries(arch, 0xF8800000, tables, arch.page_kernel) == PAE_ROWS
    assert entries(arch, 0xF8800000, tables, arch.page_kernel_exec) == PAE_EXEC
    assert entries(no_nx(arch), 0xF8800000, tables, arch.page_kernel) == PAE_EXEC
    high = entries(arch, 0xF8800000, tables, arch.page_kernel, frames=(0x120000,))
    assert high[2] == (0x00302000, 0x8000000120000163)


def test_worked_example_x86_64():
    arch = RECORDS["x86_64"]
    tables = (0x00300000, 0x00301000, 0x00302000, 0x00303000)
    assert entries(arch, 0xFFFFC20000000000, tables, arch.page_kernel) == X86_64_ROWS
    assert entries(arch, 0xFFFFC20000000000, tables, arch.page_kernel_exec) == X86_64_EXEC
    assert entries(no_nx(arch), 0xFFFFC20000000000, tables, arch.page_kernel) == X86_64_EXEC


ARMV5_ROWS = [
    (0x00303220, 0x00304011), (0x00303224, 0x00304411), (0x00304800, 0x001000EF), (0x00304000, 0x0010055E),
    (0x00304804, 0x001010EF), (0x00304004, 0x0010155E), (0x00304808, 0x002000EF), (0x00304008, 0x0020055E),
]  # fmt: skip
ARMV5_LITERAL = [
    (0x00303220, 0x00301011), (0x00303224, 0x00301411), (0x00301800, 0x001000EF), (0x00301000, 0x0010055E),
    (0x00301804, 0x001010EF), (0x00301004, 0x0010155E), (0x00301808, 0x002000EF), (0x00301008, 0x0020055E),
]  # fmt: skip
XSCALE_ROWS = [
    (0x00303220, 0x00304011), (0x00303224, 0x00304411), (0x00304800, 0x001000EF), (0x00304000, 0x0010001F),
    (0x00304804, 0x001010EF), (0x00304004, 0x0010101F), (0x00304808, 0x002000EF), (0x00304008, 0x0020001F),
]  # fmt: skip
ARMV7_ROWS = [
    (0x00303220, 0x00304011), (0x00303224, 0x00304411), (0x00304800, 0x001000EF), (0x00304000, 0x0010001E),
    (0x00304804, 0x001010EF), (0x00304004, 0x0010101E), (0x00304808, 0x002000EF), (0x00304008, 0x0020001E),
]  # fmt: skip
ARMV7_SMP = [
    (0x00303220, 0x00304011), (0x00303224, 0x00304411), (0x00304800, 0x001004EF), (0x00304000, 0x0010041E),
    (0x00304804, 0x001014EF), (0x00304004, 0x0010141E), (0x00304808, 0x002004EF), (0x00304008, 0x0020041E),
]  # fmt: skip
ARMV7_LITERAL = [
    (0x00303220, 0x00301011), (0x00303224, 0x00301411), (0x00301800, 0x001000EF), (0x00301000, 0x0010001E),
    (0x00301804, 0x001010EF), (0x00301004, 0x0010101E), (0x00301808, 0x002000EF), (0x00301008, 0x0020001E),
]  # fmt: skip
REALISTIC, LITERAL = (0x00300000, 0x00304000), (0x00300000, 0x00301000)


@pytest.mark.parametrize(
    ("arch", "smp", "tables", "rows"),
    [
        (RECORDS["armv5"], False, REALISTIC, ARMV5_ROWS),
        (RECORDS["armv5"], False, LITERAL, ARMV5_LITERAL),
        (evolve(RECORDS["armv5"], hardware=XSCALE), False, REALISTIC, XSCALE_ROWS),
        (RECORDS["armv7"], False, REALISTIC, ARMV7_ROWS),
        (RECORDS["armv7"], True, REALISTIC, ARMV7_SMP),
        (RECORDS["armv7"], False, LITERAL, ARMV7_LITERAL),
    ],
    ids=["armv5", "armv5 overlapping", "xscale", "armv7", "armv7 smp", "armv7 overlapping"],
)
def test_worked_example_arm(arch, smp, tables, rows):
    assert arch.lay_out(LayoutRequest(ram=128 * MIB)).vmalloc_start == 0xC8800000
    prot = arch.page_kernel | (arch.smp_flags if smp else 0)
    assert entries(arch, 0xC8800000, tables, prot) == rows


def test_worked_example_of_a_later_arm():
    """The words of a 6.12 kernel on a Cortex-A15: pairs 0x811 and 0xc11, pages 0x45f in the upper half."""
    arch = RECORDS["armv7-highmem"]
    layout = arch.lay_out(LayoutRequest(ram=(Bank(0x40000000, 0xC0000000),)))
    assert entries(arch, layout.vmalloc_start, (0x40204000, 0x48604000), arch.page_kernel | arch.smp_flags) == [
        (0x40207C20, 0x48604811), (0x40207C24, 0x48604C11), (0x48604000, 0x0010065F), (0x48604800, 0x0010045F),
        (0x48604004, 0x0010165F), (0x48604804, 0x0010145F), (0x48604008, 0x0020065F), (0x48604808, 0x0020045F),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "table", "page"),
    [
        ("i386", 0x00301067, 0x00200163),
        ("i386-pae", 0x00302067, NX | 0x00200163),
        ("x86_64", 0x00303067, NX | 0x00200163),
        ("armv5", 0x00304011, 0x002000EF),
        ("armv7-highmem", 0x00304811, 0x0020024F),
    ],
)
def test_the_example_entries_decode_back(name, table, page):
    levels = RECORDS[name].levels
    assert (levels[-2].decode(table), levels[-1].decode(page)) == (table & ~0xFFF, 0x200000)


def test_large_pages_as_linux_sees_them():
    found = [(leaf.shift, leaf.mask, leaf.value, leaf.frame) for leaf in RECORDS["x86_64"].levels[2].leaves]
    assert found == [(21, 0x81, 0x81, (Segment(21, 25, 21),))]
    assert [leaf.shift for leaf in RECORDS["i386"].levels[0].leaves] == [22]
    assert [leaf.shift for leaf in RECORDS["i386-pae"].levels[1].leaves] == [21]
