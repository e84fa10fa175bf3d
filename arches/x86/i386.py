"""i386 without PAE: two levels, 32-bit frames.

Sources: include/asm-x86/pgtable-2level.h, pgtable-2level-defs.h, pgtable_32.h, of 2.6.24; Intel 64 and IA-32
Architectures Software Developer's Manual, volume 3, 4.3 (4 MiB pages, PSE-36).
"""

from __future__ import annotations

from attrs import evolve

from vmcore.architecture import Architecture, HardwareView, Leaf, Level, Zone

from . import family as x86

FRAME = ((12, 20, 12),)

#: The folded pud and pmd are this entry. Linux tests for a table with pmd_present, not with pmd_none.
PGD = Level(
    name="pgd",
    shift=22,
    bits=10,
    entry_bytes=4,
    frame=FRAME,
    missing_mask=x86.PRESENT,
    bad_mask=0xFFB,
    good_value=0x063,
    table_flags=x86.PAGE_TABLE,
    leaves=(x86.large_page("4 MiB page", 22, 32),),
    flag_names=x86.TABLE_FLAG_NAMES,
)
PTE = Level(
    name="pte",
    shift=12,
    bits=10,
    entry_bytes=4,
    frame=FRAME,
    present_mask=x86.PRESENT | x86.PROTNONE,
    flag_names=x86.PTE_FLAG_NAMES,
)
#: PSE-36: bits 20:13 of a large page are address bits 39:32, and bit 21 is reserved.
PSE36 = Leaf("4 MiB page", 0x081, 0x081, 22, ((22, 10, 22), (13, 8, 32)), evolve(x86.ACCESS_32, reserved=1 << 21))

I386 = Architecture(
    name="i386",
    aliases=("x86", "x86-32", "ia32", "i486", "i586", "i686"),
    description="32-bit x86, two levels, no highmem",
    word_bits=32,
    page_shift=12,
    levels=(PGD, PTE),
    page_kernel=0x163,
    page_kernel_exec=0x163,
    protections=x86.PROTECTIONS,
    zones=(Zone("DMA", 16 << 20), "NORMAL"),
    layout=x86.Layout32(name="i386", highmem=False, pae=False),
    hardware=HardwareView(levels=x86.as_the_mmu((PGD, PTE), 32, x86.ACCESS_32, (PSE36,), ())),
    symbols=x86.SYMBOLS_32,
    linear_map=x86.LINEAR_4M,
    image=x86.image_32(pae=False),
)

I386_HIGHMEM = evolve(
    I386,
    name="i386-highmem",
    description="32-bit x86, two levels, highmem up to 4 GiB",
    zones=(*I386.zones, "HIGHMEM"),
    layout=x86.Layout32(name="i386-highmem", highmem=True, pae=False),
)
