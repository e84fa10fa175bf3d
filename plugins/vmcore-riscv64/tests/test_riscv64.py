"""The record against the RISC-V Sv39 encoding, a worked example, and addresses of a running kernel."""

from importlib.metadata import PackageNotFoundError, distribution

import numpy as np
import pytest
from attrs import evolve

pytest.importorskip("vmcore_riscv64", reason="the distribution vmcore-riscv64 is not installed")

import vmcore_riscv64
from vmcore_riscv64 import RISCV64, flush_tlb_kernel_range

from vmcore.architecture import LayoutRequest, Window
from vmcore.errors import LayoutError
from vmcore.linking.link import link
from vmcore.linking.registry import load
from vmcore.units import Bank

PGD, PMD, PTE = RISCV64.levels
GIB = 1 << 30


def test_geometry():
    assert [(level.name, level.shift, level.entries, level.entry_bytes) for level in RISCV64.levels] == [
        ("pgd", 30, 512, 8),
        ("pmd", 21, 512, 8),
        ("pte", 12, 512, 8),
    ]
    assert (RISCV64.word_bits, RISCV64.page_size, RISCV64.root_bytes) == (64, 4096, 4096)
    assert (RISCV64.ioremap_max_order, RISCV64.hardware.canonical_bits, RISCV64.era) == (30, 39, "6.16")
    assert [level.prebuilt for level in RISCV64.levels] == [True, False, False]


# ---- root at 0x300000, tables at 0x301000 and 0x302000; pages 0x100, 0x101, 0x200 from VMALLOC_START on

EXAMPLE = [  # level, table, virtual address, address of the entry, what it points to, flags, word
    (PGD, 0x300000, 0xFFFF_FFC6_0000_0000, 0x3008C0, 0x301000, PGD.table_flags, 0xC0401),
    (PMD, 0x301000, 0xFFFF_FFC6_0000_0000, 0x301000, 0x302000, PMD.table_flags, 0xC0801),
    (PTE, 0x302000, 0xFFFF_FFC6_0000_0000, 0x302000, 0x100000, RISCV64.page_kernel, 0x400E7),
    (PTE, 0x302000, 0xFFFF_FFC6_0000_1000, 0x302008, 0x101000, RISCV64.page_kernel, 0x404E7),
    (PTE, 0x302000, 0xFFFF_FFC6_0000_2000, 0x302010, 0x200000, RISCV64.page_kernel, 0x800E7),
]


@pytest.mark.parametrize("line", EXAMPLE)
def test_worked_example(line):
    level, table, address, entry, target, flags, word = line
    index = address >> level.shift & level.entries - 1
    assert table + index * level.entry_bytes == entry
    assert level.encode(target, flags) == word
    assert level.decode(word) == target


def test_arrays_encode_as_words_do():
    words = PTE.encode_array(np.array([0x100000, 0x101000, 0x200000], np.uint64), 0xE7)
    assert words.dtype == np.uint64
    assert words.tolist() == [0x400E7, 0x404E7, 0x800E7]
    assert PTE.decode_array(words).tolist() == [0x100000, 0x101000, 0x200000]


def test_the_page_number_has_44_bits():
    assert PTE.frame_mask == 0x003F_FFFF_FFFF_FC00
    assert PTE.encode((1 << 56) - 4096, 0) == 0x003F_FFFF_FFFF_FC00
    assert PTE.decode(0xFFC0_0000_0000_03FF) == 0


def test_protections():
    assert {name: RISCV64.protection(name) for name in
            ("PAGE_KERNEL", "PAGE_KERNEL_EXEC", "PAGE_KERNEL_READ", "PAGE_KERNEL_READ_EXEC")} == {
        "PAGE_KERNEL": 0xE7, "PAGE_KERNEL_EXEC": 0xEF, "PAGE_KERNEL_READ": 0xE3, "PAGE_KERNEL_READ_EXEC": 0xEB,
    }  # fmt: skip
    assert PTE.names(0xE7) == ["V", "R", "W", "G", "A", "D"]
    assert PTE.names(1 << 61 | 0xE3) == ["V", "R", "G", "A", "D", "NC"]


def kind(level, word):
    """Say what a walker makes of an entry above the last level: a word, or address and size of a page."""
    if not word & level.present_mask:
        return "not present"
    for leaf in level.leaves:
        if word & leaf.mask == leaf.value:
            (segment,) = leaf.frame
            return (word & segment.entry_mask) >> segment.entry_bit << segment.address_bit, 1 << leaf.shift
    return "table"


@pytest.mark.parametrize(
    ("level", "word", "expected"),
    [
        (PGD, 0xC0401, "table"),
        (PGD, 0x200000E7, (0x80000000, GIB)),  # 1 GiB of the linear map
        (PMD, 0x200800E7, (0x80200000, 2 << 20)),
        (PMD, 0x200800E3, (0x80200000, 2 << 20)),
        (PMD, 0x20080069, (0x80200000, 2 << 20)),  # execute only
        (PMD, 0xC0801, "table"),
        (PMD, 0xE6, "not present"),
    ],
)
def test_any_of_r_w_x_makes_a_leaf(level, word, expected):
    assert kind(level, word) == expected


@pytest.mark.parametrize(
    ("level", "word", "bad"),
    [(PGD, 0xC0401, False), (PGD, 0xE7, False), (PGD, 0xC0400, True),
     (PMD, 0xC0801, False), (PMD, 0xE7, True), (PMD, 0x3, True), (PMD, 0x9, True), (PMD, 0xC0800, True)],
)  # fmt: skip
def test_bad(level, word, bad):
    assert (word & level.bad_mask != level.good_value) is bad


def test_present_counts_prot_none_for_linux_and_not_for_the_mmu():
    assert PTE.present_mask == 0x21
    assert [level.present_mask for level in RISCV64.hardware_levels] == [1, 1, 1]
    assert [level.shift for level in RISCV64.hardware_levels] == [30, 21, 12]


# ---- layout


def test_layout_of_two_gigabytes_is_that_of_the_running_kernel():
    """Debian 6.12.107 with Sv39 and 2 GiB in QEMU: /proc/kcore, /proc/iomem and kallsyms."""
    layout = RISCV64.lay_out(LayoutRequest(ram=2 * GIB))
    assert layout.vmalloc == Window(0xFFFF_FFC6_0000_0000, 0xFFFF_FFD6_0000_0000)
    assert layout.modules == Window(0xFFFF_FFFF_01E6_B000, 0xFFFF_FFFF_8000_0000)
    assert (layout.page_offset, layout.phys_offset) == (0xFFFF_FFD6_0000_0000, 0x8000_0000)
    assert layout.high_memory == 0xFFFF_FFD6_8000_0000
    assert (layout.swapper_pg_dir, layout.kernel_end) == (0x81FC_A000, 0x8220_0000)
    assert layout.banks == (Bank(0x8000_0000, 0x1_0000_0000),)
    assert (layout.first_kernel_pgd, layout.notes) == (256, ())
    assert dict(layout.regions) == {"vmemmap": Window(0xFFFF_FFC5_0000_0000, 0xFFFF_FFC6_0000_0000)}


def test_the_linear_map_begins_where_ram_begins():
    banks = (Bank(0x4020_0000, 0x8000_0000), Bank(0x1_0000_0000, 0x1_4000_0000))
    layout = RISCV64.lay_out(LayoutRequest(ram=banks))
    assert (layout.phys_offset, layout.lowmem_end) == (0x4020_0000, 0x1_4000_0000)
    assert layout.high_memory == 0xFFFF_FFD6_0000_0000 + 0xFFE0_0000


def test_ram_beyond_the_linear_map_is_cut_with_a_note():
    layout = RISCV64.lay_out(LayoutRequest(ram=130 * GIB))
    assert layout.banks == (Bank(0x8000_0000, 0x8000_0000 + 128 * GIB),)
    assert layout.notes == (
        "<4>Warning: 2 GiB of RAM above 0x2080000000 cannot be used: the linear map ends there.\n",
    )


def test_vmalloc_is_refused_with_the_reason():
    with pytest.raises(LayoutError) as caught:
        RISCV64.lay_out(LayoutRequest(ram=GIB, vmalloc=128 << 20))
    assert str(caught.value) == (
        "riscv64: found vmalloc=128 MiB, expected none: this kernel has no vmalloc=, "
        "its window is always 0xffffffc600000000..0xffffffd600000000"
    )


def test_zones():
    assert [(zone.name, zone.below) for zone in RISCV64.zones] == [("DMA32", 4 * GIB), ("NORMAL", None)]


# ---- flushes


class Harts:
    arch = RISCV64

    def __init__(self):
        self.log = []

    def flush_tlb_all(self, cpu):
        self.log.append(("all", cpu))

    def flush_tlb_pages(self, cpu, start, end, every_cpu):
        self.log.append((cpu, start, end, every_cpu))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (4096, (1, 0x1000, 0x2000, True)),
        (64 * 4096, (1, 0x1000, 0x41000, True)),
        (64 * 4096 + 1, ("all", 1)),
        (65 * 4096, ("all", 1)),
    ],
)
def test_up_to_64_pages_one_by_one_else_everything(size, expected):
    harts = Harts()
    flush_tlb_kernel_range(harts, 1, 0x1000, 0x1000 + size)
    assert harts.log == [expected]


# ---- discovery


def test_the_installed_entry_point_brings_the_architecture():
    try:
        installed = distribution("vmcore-riscv64")
    except PackageNotFoundError:
        pytest.skip("the distribution vmcore-riscv64 is not installed, only its module is importable")
    points = [point for point in installed.entry_points if point.group == "vmcore"]
    assert [(point.name, point.value) for point in points] == [("riscv64", "vmcore_riscv64")]
    registry = load()
    assert registry.broken.get("riscv64") is None
    assert registry.get("riscv64") is vmcore_riscv64.RISCV64
    assert registry.origin["riscv64"] == "riscv64"


def test_its_symbol_travels_with_its_record():
    registry = load(points=[])
    registry.add(vmcore_riscv64, "riscv64")
    assert link(registry.manager, RISCV64).flush_tlb_kernel_range is flush_tlb_kernel_range
    other = evolve(RISCV64, name="riscv64-other")
    assert link(registry.manager, other).flush_tlb_kernel_range is flush_tlb_kernel_range
