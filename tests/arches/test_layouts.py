"""Every layout table of the built-in architectures, and what their layouts refuse.

Sources: include/asm-x86/page_32.h, pgtable_32.h, highmem.h, fixmap_32.h, arch/x86/kernel/setup_32.c;
include/asm-x86/pgtable_64.h; include/asm-arm/memory.h, pgtable.h, arch-*/memory.h, arch-*/vmalloc.h; all of
2.6.24. armv7-highmem: a 6.12 kernel on a machine with 2 GiB.
"""

import re

import pytest
import vmcore_arches
from vmcore_arches.x86.family import permanent_slots, top_windows

from vmcore.architecture import LayoutRequest, Window
from vmcore.errors import LayoutError
from vmcore.units import Bank

RECORDS = {arch.name: arch for arch in vmcore_arches.vmcore_architectures()}
MIB, GIB = 1 << 20, 1 << 30


def lay_out(name, ram, vmalloc=None, platform=None):
    return RECORDS[name].lay_out(LayoutRequest(ram=ram, vmalloc=vmalloc, platform=platform))


def highmem_bytes(layout):
    return sum(bank.size for bank in layout.banks) - (layout.lowmem_end - layout.phys_offset)


# ---- 32-bit x86


@pytest.mark.parametrize(
    ("highmem", "nr_cpus", "slots", "fixmap", "pkmaps"),
    [
        (True, 1, 87, (0xFFFA8000, 0xFFF97000), (0xFF800000, 0xFFC00000)),
        (True, 2, 100, (0xFFF9B000, 0xFFF8A000), (0xFF800000, 0xFFC00000)),
        (True, 8, 178, (0xFFF4D000, 0xFFF3C000), (0xFF800000, 0xFFC00000)),
        (True, 32, 490, (0xFFE15000, 0xFFE04000), (0xFF800000, 0xFFC00000)),
        (False, 1, 74, (0xFFFB5000, 0xFFFA4000), None),
        (False, 32, 74, (0xFFFB5000, 0xFFFA4000), None),
    ],
)
def test_fixmap_and_pkmap_follow_from_the_slots(highmem, nr_cpus, slots, fixmap, pkmaps):
    start, boot_start = fixmap
    assert permanent_slots(highmem, nr_cpus) == slots
    for pae, size in ((False, 4 * MIB), (True, 2 * MIB)):
        windows = top_windows(highmem, pae, nr_cpus)
        assert windows["fixmap"] == Window(start, 0xFFFFF000)
        assert windows["boot fixmap"] == Window(boot_start, start)
        assert windows.get("pkmap") == (Window(pkmaps[pae], pkmaps[pae] + size) if highmem else None)


@pytest.mark.parametrize(
    ("ram", "name", "lowmem", "addresses", "rest"),
    [
        (256 * MIB, "i386", 256 * MIB, (0xD0000000, 0xD0800000, 0xFFFB3000, 0x2F7B3000), (0, 0)),
        (256 * MIB, "i386-pae", 256 * MIB, (0xD0000000, 0xD0800000, 0xFFFB3000, 0x2F7B3000), (0, 0)),
        (256 * MIB, "i386-highmem", 256 * MIB, (0xD0000000, 0xD0800000, 0xFF7FE000, 0x2EFFE000), (0, 0)),
        (256 * MIB, "i386-pae-highmem", 256 * MIB, (0xD0000000, 0xD0800000, 0xFFBFE000, 0x2F3FE000), (0, 0)),
        (GIB, "i386", 896 * MIB, (0xF8000000, 0xF8800000, 0xFFFB3000, 0x077B3000), (0, 128 * MIB)),
        (GIB, "i386-pae", 896 * MIB, (0xF8000000, 0xF8800000, 0xFFFB3000, 0x077B3000), (0, 128 * MIB)),
        (GIB, "i386-highmem", 896 * MIB, (0xF8000000, 0xF8800000, 0xFF7FE000, 0x06FFE000), (128 * MIB, 0)),
        (GIB, "i386-pae-highmem", 896 * MIB, (0xF8000000, 0xF8800000, 0xFFBFE000, 0x73FE000), (128 * MIB, 0)),
        (4 * GIB, "i386", 896 * MIB, (0xF8000000, 0xF8800000, 0xFFFB3000, 0x077B3000), (0, 3200 * MIB)),
        (4 * GIB, "i386-pae", 896 * MIB, (0xF8000000, 0xF8800000, 0xFFFB3000, 0x077B3000), (0, 3200 * MIB)),
        (4 * GIB, "i386-highmem", 896 * MIB, (0xF8000000, 0xF8800000, 0xFF7FE000, 0x06FFE000), (3200 * MIB, 0)),
        (4 * GIB, "i386-pae-highmem", 896 * MIB, (0xF8000000, 0xF8800000, 0xFFBFE000, 0x73FE000), (3200 * MIB, 0)),
    ],
)  # fmt: skip
def test_the_vmalloc_area_is_what_ram_leaves_over(ram, name, lowmem, addresses, rest):
    layout = lay_out(name, ram)
    window = layout.vmalloc
    assert layout.lowmem_end == lowmem
    assert (layout.high_memory, window.start, window.end, window.size) == addresses
    assert (highmem_bytes(layout), ram - sum(bank.size for bank in layout.banks)) == rest
    assert len(layout.notes) == (rest[1] > 0)


@pytest.mark.parametrize(
    ("vmalloc", "lowmem", "addresses", "highmem"),
    [
        (64 * MIB, 960, (0xFC000000, 0xFC800000, 0x2FFE000), 64),
        (128 * MIB, 896, (0xF8000000, 0xF8800000, 0x6FFE000), 128),
        (192 * MIB, 832, (0xF4000000, 0xF4800000, 0xAFFE000), 192),
        (256 * MIB, 768, (0xF0000000, 0xF0800000, 0xEFFE000), 256),
        (512 * MIB, 512, (0xE0000000, 0xE0800000, 0x1EFFE000), 512),
        (130 * MIB, 894, (0xF7E00000, 0xF8800000, 0x6FFE000), 130),
    ],
)
def test_vmalloc_replaces_the_reserve_of_i386_highmem(vmalloc, lowmem, addresses, highmem):
    layout = lay_out("i386-highmem", GIB, vmalloc)
    assert layout.lowmem_end == lowmem * MIB
    assert (layout.high_memory, layout.vmalloc_start, layout.vmalloc.size) == addresses
    assert layout.vmalloc_end == 0xFF7FE000
    assert highmem_bytes(layout) == highmem * MIB


def test_max_low_pfn_is_a_whole_page_whatever_vmalloc_says():
    assert lay_out("i386-highmem", GIB, 128 * MIB + 1).lowmem_end == 896 * MIB - 0x1000
    assert lay_out("i386-highmem", GIB, 128 * MIB - 1).lowmem_end == 896 * MIB


def test_a_small_vmalloc_is_harmless_where_ram_is_small():
    assert lay_out("i386", 256 * MIB, 0).vmalloc == Window(0xD0800000, 0xFFFB3000)


@pytest.mark.parametrize(
    ("name", "banks", "highmem", "end", "notes"),
    [
        ("i386-highmem", (Bank(0, 3 * GIB),), 2176 * MIB, 3 * GIB,
         ("<4>Warning: 1 GiB of RAM above 0x100000000 cannot be used: use a PAE enabled kernel.\n",)),
        ("i386-pae-highmem", (Bank(0, 3 * GIB), Bank(4 * GIB, 5 * GIB)), 3200 * MIB, 0x140000 << 12, ()),
    ],
)  # fmt: skip
def test_a_4_gib_machine_with_a_pci_hole(name, banks, highmem, end, notes):
    layout = lay_out(name, (Bank(0, 3 * GIB), Bank(4 * GIB, 5 * GIB)))
    assert (layout.banks, layout.notes) == (banks, notes)
    assert highmem_bytes(layout) == highmem
    assert layout.banks[-1].end == end
    assert layout.lowmem_end == 896 * MIB


def test_pae_ends_at_64_gib():
    layout = lay_out("i386-pae-highmem", 65 * GIB)
    assert layout.banks == (Bank(0, 64 * GIB),)
    assert layout.notes == (
        "<4>Warning: 1 GiB of RAM above 0x1000000000 cannot be used: PAE ends there.\n",
    )  # fmt: skip


def test_ram_without_highmem_is_cut_at_maxmem():
    layout = lay_out("i386", GIB)
    assert layout.banks == (Bank(0, 896 * MIB),)
    assert layout.notes == (
        "<4>Warning: 128 MiB of RAM above 0x38000000 cannot be used: use a HIGHMEM enabled kernel.\n",
    )


@pytest.mark.parametrize("name", ["i386", "i386-highmem"])
def test_the_rest_of_the_32_bit_map(name):
    layout = lay_out(name, GIB)
    assert (layout.page_offset, layout.phys_offset) == (0xC0000000, 0)
    assert (layout.swapper_pg_dir, layout.kernel_end, layout.first_kernel_pgd) == (0x300000, 0x400000, 768)
    assert layout.modules is None
    assert dict(layout.regions)["lowmem"] == Window(0xC0000000, 0xF8000000)
    assert ("pkmap" in dict(layout.regions)) == (name == "i386-highmem")


@pytest.mark.parametrize("name", ["i386-pae", "i386-pae-highmem"])
def test_the_kernel_has_one_root_entry_with_pae(name):
    assert lay_out(name, GIB).first_kernel_pgd == 3


# ---- x86_64


@pytest.mark.parametrize("ram", [64 * MIB, GIB, 64 * GIB])
def test_the_windows_of_x86_64_are_constants(ram):
    layout = lay_out("x86_64", ram)
    assert layout.page_offset == 0xFFFF810000000000
    assert (layout.vmalloc_start, layout.vmalloc_end) == (0xFFFFC20000000000, 0xFFFFE1FFFFFFFFFF)
    assert layout.vmalloc.size == (32 << 40) - 1
    assert (layout.vmalloc_start >> 39 & 511, layout.vmalloc_end >> 39 & 511) == (388, 451)
    assert layout.modules == Window(0xFFFFFFFF88000000, 0xFFFFFFFFFFF00000)
    assert layout.high_memory == 0xFFFF810000000000 + ram
    assert (layout.lowmem_end, layout.phys_offset, layout.first_kernel_pgd) == (ram, 0, 258)
    assert (layout.swapper_pg_dir, layout.kernel_end, layout.notes) == (0x300000, 0x400000, ())
    assert dict(layout.regions) == {
        "direct map": Window(0xFFFF810000000000, 0xFFFFC10000000000),
        "vmemmap": Window(0xFFFFE20000000000, 0xFFFFE30000000000),
    }


def test_high_memory_of_x86_64_is_above_the_last_bank():
    layout = lay_out("x86_64", (Bank(0, 3 * GIB), Bank(4 * GIB, 5 * GIB)))
    assert layout.high_memory == 0xFFFF810140000000
    assert layout.banks == (Bank(0, 3 * GIB), Bank(4 * GIB, 5 * GIB))


def test_ram_of_x86_64_is_cut_at_46_bits():
    layout = lay_out("x86_64", (1 << 46) + GIB)
    assert layout.banks == (Bank(0, 1 << 46),)
    assert layout.notes == (
        "<4>Warning: 1 GiB of RAM above 0x400000000000 cannot be used: MAXMEM is 46 bits.\n",
    )  # fmt: skip


# ---- ARM

#: PHYS_OFFSET and VMALLOC_END of every platform.
PLATFORMS = """
    aaec2000       0xf0000000 0xD0000000
    at91           0x20000000 0xFEE00000
    cl7500         0x10000000 0xDC000000
    clps711x       0xc0000000 0xD0000000
    davinci        0x80000000 0xFEA00000
    ebsa110        0x00000000 0xDF000000
    ebsa285        0x00000000 0xF0000000
    ebsa285-co285  0x00000000 0x80000000
    ep93xx         0x00000000 0xFE800000
    h720x          0x40000000 0xD0000000
    imx            0x08000000 0xD0000000
    integrator     0x00000000 0xD0000000
    iop13xx        0x00000000 0xFA000000
    iop32x         0xa0000000 0xFE000000
    iop33x         0x00000000 0xFE000000
    ixp2000        0x00000000 0xFB000000
    ixp23xx        0x00000000 0xEC000000
    ixp4xx         0x00000000 0xFF000000
    ks8695         0x00000000 0xF0000000
    l7200          0xf0000000 0xD0000000
    lh7a40x        0xc0000000 0xE8000000
    mx31           0x80000000 0xF4000000
    netx           0x80000000 0xD0000000
    ns9xxx         0x00000000 0xF0000000
    omap1          0x10000000 0xD0000000
    omap2          0x80000000 0xD0000000
    pnx4008        0x80000000 0xD0000000
    pxa            0xa0000000 0xE8000000
    realview       0x00000000 0xD8000000
    rpc            0x10000000 0xDC000000
    s3c2410        0x30000000 0xE0000000
    sa1100         0xc0000000 0xE8000000
    shark          0x08000000 0xD0000000
    versatile      0x00000000 0xD8000000
"""
ROWS = [(n, int(p, 16), int(v, 16)) for n, p, v in (line.split() for line in PLATFORMS.strip().splitlines())]
PAGE_OFFSETS = {"iop13xx": 0x40000000, "ebsa285-co285": 0x60000000}


@pytest.mark.parametrize("name", ["armv5", "armv7"])
@pytest.mark.parametrize(("platform", "phys_offset", "vmalloc_end"), ROWS)
def test_every_arm_platform(name, platform, phys_offset, vmalloc_end):
    layout = lay_out(name, 64 * MIB, platform=platform)
    page_offset = PAGE_OFFSETS.get(platform, 0xC0000000)
    assert (layout.phys_offset, layout.page_offset, layout.vmalloc_end) == (phys_offset, page_offset, vmalloc_end)
    assert layout.banks == (Bank(phys_offset, phys_offset + 64 * MIB),)
    assert layout.high_memory == page_offset + 0x04000000
    assert layout.vmalloc_start == page_offset + 0x04800000
    assert layout.modules == Window(page_offset - 0x1000000, page_offset)
    assert layout.first_kernel_pgd == (page_offset - 0x1000000) // 0x200000
    assert (layout.swapper_pg_dir, layout.kernel_end) == (phys_offset + 0x4000, phys_offset + 0x400000)
    assert layout.notes == ()


@pytest.mark.parametrize(("name", "default"), [("armv5", "versatile"), ("armv7", "realview")])
def test_the_default_platform_comes_first_and_all_are_there(name, default):
    assert RECORDS[name].platforms == (default, *(row[0] for row in ROWS if row[0] != default))
    assert lay_out(name, 64 * MIB) == lay_out(name, 64 * MIB, platform=default)


def test_the_overridden_page_offsets():
    assert lay_out("armv5", 64 * MIB, platform="iop13xx").first_kernel_pgd == 0x3F000000 >> 21
    assert lay_out("armv5", 64 * MIB, platform="ebsa285-co285").first_kernel_pgd == 0x5F000000 >> 21
    assert lay_out("armv5", 64 * MIB).first_kernel_pgd == 1528


@pytest.mark.parametrize(
    ("ram", "high_memory", "start"),
    [
        (7 * MIB, 0xC0700000, 0xC0800000),
        (8 * MIB, 0xC0800000, 0xC1000000),
        (9 * MIB, 0xC0900000, 0xC1000000),
        (64 * MIB, 0xC4000000, 0xC4800000),
        (128 * MIB, 0xC8000000, 0xC8800000),
        (255 * MIB, 0xCFF00000, 0xD0000000),
        (256 * MIB, 0xD0000000, 0xD0800000),
        (320 * MIB, 0xD4000000, 0xD4800000),
        (375 * MIB, 0xD7700000, 0xD7800000),
    ],
)
@pytest.mark.parametrize("name", ["armv5", "armv7"])
def test_vmalloc_start_rounds_down_on_arm(name, ram, high_memory, start):
    layout = lay_out(name, ram)
    assert (layout.high_memory, layout.vmalloc_start, layout.vmalloc_end) == (high_memory, start, 0xD8000000)
    assert layout.notes == ()


def test_arm_regions():
    assert dict(lay_out("armv5", 128 * MIB).regions) == {
        "lowmem": Window(0xC0000000, 0xC8000000),
        "consistent": Window(0xFFC00000, 0xFFE00000),
        "vectors": Window(0xFFFF0000, 0xFFFF1000),
    }
    assert dict(lay_out("armv7-highmem", GIB).regions) == {
        "lowmem": Window(0xC0000000, 0xF0000000),
        "pkmap": Window(0xBFE00000, 0xC0000000),
        "fixmap": Window(0xFFC80000, 0xFFF00000),
        "vectors": Window(0xFFFF0000, 0xFFFF1000),
    }


@pytest.mark.parametrize(
    ("name", "ram", "platform", "end", "lost"),
    [
        ("armv7", GIB, "realview", 0x10000000, "768 MiB"),
        ("armv5", 376 * MIB, "versatile", 0x10000000, "120 MiB"),
        ("armv5", 256 * MIB, "omap1", 0x18000000, "128 MiB"),
        ("armv5", GIB, "iop32x", 0xD6000000, "160 MiB"),
        ("armv5", 512 * MIB, "ebsa285-co285", 0x18000000, "128 MiB"),
    ],
)
def test_ram_that_leaves_no_window_is_cut_128_mib_below_vmalloc_end(name, ram, platform, end, lost):
    layout = lay_out(name, ram, platform=platform)
    assert layout.lowmem_end == layout.banks[-1].end == end
    assert layout.high_memory == layout.vmalloc_end - 0x08000000
    assert layout.vmalloc == Window(layout.vmalloc_end - 0x07800000, layout.vmalloc_end)
    assert layout.notes == (
        f"<4>Warning: {lost} of RAM above {end:#x} cannot be used: it would overlap the vmalloc area; "
        "there is no highmem.\n",
    )


def test_frames_beyond_32_bits_are_cut():
    layout = lay_out("armv5", 512 * MIB, platform="aaec2000")
    assert layout.notes[0] == (
        "<4>Warning: 256 MiB of RAM above 0x100000000 cannot be used: frames have 32 bits.\n"
    )  # fmt: skip
    assert layout.banks == (Bank(0xF0000000, 0xF8000000),)
    assert lay_out("armv7-highmem", 4 * GIB).banks == (Bank(0x40000000, 0x100000000),)


@pytest.mark.parametrize(
    ("name", "ram", "vmalloc", "lowmem_end", "window"),
    [
        ("armv5", 256 * MIB, 128 * MIB, 0x0F800000, Window(0xD0000000, 0xD8000000)),
        ("armv5", 256 * MIB, 256 * MIB, 0x07800000, Window(0xC8000000, 0xD8000000)),
        ("armv5", 64 * MIB, 256 * MIB, 0x04000000, Window(0xC4800000, 0xD8000000)),
        ("armv7", GIB, 16 * MIB, 0x16800000, Window(0xD7000000, 0xD8000000)),
        ("armv7", GIB, 344 * MIB, 0x02000000, Window(0xC2800000, 0xD8000000)),
        ("armv7-highmem", 2 * GIB, None, 0x70000000, Window(0xF0800000, 0xFF800000)),
        ("armv7-highmem", 512 * MIB, None, 0x60000000, Window(0xE0800000, 0xFF800000)),
        ("armv7-highmem", 2 * GIB, 512 * MIB, 0x5F000000, Window(0xDF800000, 0xFF800000)),
        ("armv7-highmem", 2 * GIB, 976 * MIB, 0x42000000, Window(0xC2800000, 0xFF800000)),
        ("armv7-highmem", 2 * GIB, 240 * MIB + 1, 0x6FFFF000, Window(0xF0000000, 0xFF800000)),
    ],
)
def test_vmalloc_ends_lowmem_8_mib_below_the_area(name, ram, vmalloc, lowmem_end, window):
    layout = lay_out(name, ram, vmalloc)
    assert layout.lowmem_end == lowmem_end
    assert layout.vmalloc == window


def test_armv7_highmem_is_laid_out_as_a_6_12_kernel_with_2_gib():
    layout = lay_out("armv7-highmem", 2 * GIB)
    assert layout.banks == (Bank(0x40000000, 0xC0000000),)
    assert (layout.page_offset, layout.phys_offset, layout.high_memory) == (0xC0000000, 0x40000000, 0xF0000000)
    assert layout.vmalloc == Window(0xF0800000, 0xFF800000)
    assert layout.modules == Window(0xBF000000, 0xBFE00000)
    assert highmem_bytes(layout) == 0xC0000000 - 0x70000000
    assert (layout.swapper_pg_dir, layout.kernel_end, layout.first_kernel_pgd) == (0x40004000, 0x40400000, 1528)
    assert layout.notes == ()
    assert RECORDS["armv7-highmem"].platforms == ("virt",)


# ---- refusals


@pytest.mark.parametrize(
    ("name", "ram", "vmalloc", "platform", "message"),
    [
        ("i386", GIB, GIB, None,
         "i386: vmalloc= is 0x40000000 (1 GiB), expected less than 0x3fc00000 (1020 MiB): kernel space is 1 "
         "GiB and "
         "lowmem must hold the kernel"),
        ("i386-highmem", GIB, 1020 * MIB, None,
         "i386-highmem: vmalloc= is 0x3fc00000 (1020 MiB), expected less than 0x3fc00000 (1020 MiB): kernel "
         "space is "
         "1 GiB and lowmem must hold the kernel"),
        ("i386-pae-highmem", 4 * GIB, 8 * GIB, None,
         "i386-pae-highmem: vmalloc= is 0x200000000 (8 GiB), expected less than 0x3fc00000 (1020 MiB): kernel "
         "space "
         "is 1 GiB and lowmem must hold the kernel"),
        ("i386-highmem", GIB, 0, None,
         "i386-highmem: the vmalloc window is 0x100800000..0xff7fe000, expected a window that is not empty within "
         "32 bits; give less RAM or another vmalloc="),
        ("i386-highmem", GIB, 16 * MIB, None,
         "i386-highmem: the vmalloc window is 0xff800000..0xff7fe000, expected a window that is not empty within "
         "32 bits; give less RAM or another vmalloc="),
        ("i386", 4 * MIB, None, None,
         "i386: RAM bank 0x0-0x400000 is 0x400000 bytes, expected more than 0x400000, which the kernel itself "
         "takes; "
         "give more RAM"),
        ("i386", 0, None, None,
         "i386: RAM bank 0x0-0x0 is 0x0 bytes, expected more than 0x400000, which the kernel itself takes; "
         "give more RAM"),
        ("i386", (), None, None,
         "i386: RAM is empty, expected 0x0 (PHYS_OFFSET); give a size, or banks from there"),
        ("i386", (Bank(1 * MIB, GIB),), None, None,
         "i386: RAM starts at 0x100000, expected 0x0 (PHYS_OFFSET); give a size, or banks from there"),
        ("i386-highmem", (Bank(0, 512 * MIB), Bank(768 * MIB, 2 * GIB)), None, None,
         "i386-highmem: RAM has a hole 0x20000000..0x30000000 below 0x38000000, the end of lowmem, expected none; "
         "move the bank down, or the hole above lowmem"),
        ("i386", 5 * MIB + 1, None, None,
         "i386: RAM bank 0x0-0x500001 is not page aligned, expected bounds that are multiples of 0x1000"),
        ("i386", GIB, None, "pc", "i386: unknown platform 'pc': valid: none"),
        ("x86_64", GIB, 256 * MIB, None,
         "x86_64: vmalloc= is 256 MiB, expected none: VMALLOC_START and VMALLOC_END are constants here (32 TiB); "
         "leave vmalloc= out"),
        ("x86_64", (Bank(GIB, 2 * GIB),), None, None,
         "x86_64: RAM starts at 0x40000000, expected 0x0 (PHYS_OFFSET); give a size, or banks from there"),
        ("x86_64", 3 * MIB, None, None,
         "x86_64: RAM bank 0x0-0x300000 is 0x300000 bytes, expected more than 0x400000, which the kernel itself "
         "takes; give more RAM"),
        ("armv5", (Bank(0, 64 * MIB),), None, "pxa",
         "armv5: RAM starts at 0x0, expected 0xa0000000 (PHYS_OFFSET); give a size, or banks from there"),
        ("armv5", (Bank(0, 64 * MIB), Bank(96 * MIB, 128 * MIB)), None, None,
         "armv5: RAM has a hole 0x4000000..0x6000000 below 0x8000000, the end of lowmem, expected none; move the "
         "bank down, or the hole above lowmem"),
        ("armv7", GIB, 8 * MIB, None,
         "armv7: vmalloc= is 0x800000 (8 MiB), expected 0x1000000 to 0x15800000 (344 MiB): VMALLOC_END is "
         "0xd8000000, and 32 MiB of lowmem must remain"),
        ("armv5", GIB, 345 * MIB, None,
         "armv5: vmalloc= is 0x15900000 (345 MiB), expected 0x1000000 to 0x15800000 (344 MiB): VMALLOC_END is "
         "0xd8000000, and 32 MiB of lowmem must remain"),
        ("armv7-highmem", 2 * GIB, 977 * MIB, None,
         "armv7-highmem: vmalloc= is 0x3d100000 (977 MiB), expected 0x1000000 to 0x3d000000 (976 MiB): "
         "VMALLOC_END "
         "is 0xff800000, and 32 MiB of lowmem must remain"),
        ("armv7-highmem", 2 * GIB, 2 * MIB, None,
         "armv7-highmem: vmalloc= is 0x200000 (2 MiB), expected 0x1000000 to 0x3d000000 (976 MiB): VMALLOC_END "
         "is 0xff800000, and 32 MiB of lowmem must remain"),
        ("armv7-highmem", 2 * GIB, None, "realview", "armv7-highmem: unknown platform 'realview': valid: virt"),
    ],
)  # fmt: skip
def test_what_cannot_be_laid_out_is_refused(name, ram, vmalloc, platform, message):
    with pytest.raises(LayoutError, match="^" + re.escape(message) + "$"):
        lay_out(name, ram, vmalloc, platform)


def test_an_unknown_platform_names_the_nearest():
    with pytest.raises(
        LayoutError, match=r"^armv5: unknown platform 'versatil': did you mean 'versatile'\? valid: "
    ):
        lay_out("armv5", GIB, platform="versatil")
