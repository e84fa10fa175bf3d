"""i386 with PAE: three levels, 64-bit entries, the kernel's pmd tables built at boot and shared.

Sources: include/asm-x86/pgtable-3level.h, pgtable-3level-defs.h, pgtable_32.h, arch/x86/mm/init_32.c,
fault_32.c, of 2.6.24; Intel SDM, volume 3, 4.4.
"""

from __future__ import annotations

from attrs import evolve

from vmcore.architecture import Access, Architecture, HardwareView, Level, Zone
from vmcore.host import Host

from . import family as x86

FRAME = ((12, 24, 12),)  # 64 GiB, what the kernel of the era uses

#: The page directory pointer table. pgd_none is a constant 0, because the tables below always exist.
PGD = Level(
    name="pgd",
    shift=30,
    bits=2,
    entry_bytes=8,
    frame=FRAME,
    table_flags=x86.PRESENT,
    prebuilt=True,
    flag_names=(("PRESENT", 0x001), ("PWT", 0x008), ("PCD", 0x010)),
)
#: pmd_none casts to unsigned long, so it tests the low word only. pmd_bad does the same.
PMD = Level(
    name="pmd",
    shift=21,
    bits=9,
    entry_bytes=8,
    frame=FRAME,
    none_mask=0xFFFFFFFF,
    missing_mask=x86.PRESENT,
    bad_mask=0xFFB,
    good_value=0x063,
    table_flags=x86.PAGE_TABLE,
    leaves=(x86.large_page("2 MiB page", 21, 36),),
    flag_names=x86.TABLE_FLAG_NAMES + x86.NX_NAME,
)
PTE = Level(
    name="pte",
    shift=12,
    bits=9,
    entry_bytes=8,
    frame=FRAME,
    present_mask=x86.PRESENT | x86.PROTNONE,
    flag_names=x86.PTE_FLAG_NAMES + x86.NX_NAME,
)

_AS_THE_MMU = x86.as_the_mmu(
    (PGD, PMD, PTE), 52, x86.ACCESS_PAE, (), (x86.large_page("2 MiB page", 21, 52, x86.ACCESS_PAE),), ()
)
#: An entry of the pointer table has no bits for rights, accessed or dirty (Intel SDM, volume 3, table 4-8).
MMU_LEVELS = (evolve(_AS_THE_MMU[0], access=Access()), *_AS_THE_MMU[1:])


def vmalloc_sync_all(kernel: Host) -> None:
    """Sync all processes, but return at once if all share the pmd table (fault_32.c, SHARED_KERNEL_PMD)."""
    if not kernel.layout.shared_kernel_tables:
        x86.vmalloc_sync_all_32(kernel)


I386_PAE = Architecture(
    name="i386-pae",
    aliases=("pae", "x86-pae", "i586-pae", "i686-pae", "686-pae", "x86", "i686"),
    description="32-bit x86 with PAE and NX, three levels, no highmem",
    word_bits=32,
    page_shift=12,
    levels=(PGD, PMD, PTE),
    page_kernel=x86.NX | 0x163,
    page_kernel_exec=0x163,
    protections=x86.with_nx(
        x86.PROTECTIONS, "PAGE_KERNEL_RX", "PAGE_KERNEL_LARGE_EXEC", "IOREMAP", "IOREMAP_NOCACHE"
    ),
    zones=(Zone("DMA", 16 << 20), "NORMAL"),
    layout=x86.Layout32(name="i386-pae", highmem=False, pae=True),
    platforms=x86.PAE_PLATFORMS,
    hardware=HardwareView(levels=MMU_LEVELS),
    linear_map=x86.LINEAR_2M,
    symbols=evolve(x86.SYMBOLS_32, vmalloc_sync_all=vmalloc_sync_all),
    image=x86.image_32(pae=True),
)

I386_PAE_HIGHMEM = evolve(
    I386_PAE,
    name="i386-pae-highmem",
    description="32-bit x86 with PAE and NX, three levels, highmem up to 64 GiB",
    zones=(*I386_PAE.zones, "HIGHMEM"),
    layout=x86.Layout32(name="i386-pae-highmem", highmem=True, pae=True),
)
