"""ARMv6 and ARMv7: extended page tables and several CPUs. Also ARMv7 with highmem, as in later kernels.

Sources: arch/arm/mm/proc-v6.S, proc-v7.S, mmu.c, include/asm-arm/pgtable.h, pgtable-hwdef.h, of 2.6.24. For
``armv7-highmem``: arch/arm/include/asm/pgtable-2level.h, pgtable.h, arch/arm/mm/proc-v7-2level.S, mmu.c, of 6.12.
"""

from __future__ import annotations

import numpy as np
from attrs import evolve

from vmcore.architecture import (
    Access,
    Architecture,
    Cache,
    HardwareView,
    Leaf,
    Level,
    LinearMap,
    Mirror,
    Pairs,
    Tlb,
    Words,
    Zone,
)

from . import family as arm
from .armv5 import L_PTE_DIRTY, L_PTE_EXEC, L_PTE_PRESENT, L_PTE_USER, L_PTE_WRITE, L_PTE_YOUNG, PGD, PTE

EXT_NG = 0x800  #: PTE_EXT_NG, the ``ext`` that set_pte_at passes for user addresses
XN, SMALL_AP0, AP1, TEX0, APX = 0x001, 0x012, 0x020, 0x040, 0x200


def v6_words(words: Words, ext: int = 0) -> Words:
    """Convert Linux words to extended small pages (set_pte_ext, the same rule in proc-v6.S and proc-v7.S).

    Args:
        words: shape ``(n,)``, uint32.
        ext: 0 for kernel addresses, `EXT_NG` below TASK_SIZE.

    Returns:
        Hardware words of the same shape and type.
    """
    out = words & np.uint32(0xFFFFFC0C) | np.uint32(ext | SMALL_AP0)
    readonly = words & (L_PTE_WRITE | L_PTE_DIRTY) != (L_PTE_WRITE | L_PTE_DIRTY)
    user = (words & L_PTE_USER) != 0
    out[readonly & ~user] |= APX
    out[user] |= AP1
    out[readonly & user] &= 0xFFFFFFEF  # AP 10: kernel read-write, user read-only
    out[words & L_PTE_YOUNG == 0] &= 0xFFFFFDCF  # no APX, no AP: no access
    out[words & L_PTE_EXEC == 0] |= XN
    out[words & L_PTE_PRESENT == 0] = 0
    return out


def v6(words: Words) -> Words:
    """Convert Linux words of kernel addresses to hardware words, see `v6_words`."""
    return v6_words(words)


def access(ap: int, apx: int, xn: int, ng: int, domain: int | None = None) -> Access:
    """Return the rights of the kernel on a page (ARM ARM, B3.7.1 of DDI 0406C, SCTLR.AFE 0).

    Args:
        ap: number of the lower of the two AP bits.
        apx: number of the bit APX, also called AP[2].
        xn: number of the bit XN.
        ng: number of the bit nG.
        domain: see `Access`.
    """

    def where(*values: int) -> Pairs:
        return tuple((3 << ap | 1 << apx, (v & 3) << ap | v >> 2 << apx) for v in values)

    read = where(0b001, 0b010, 0b011, 0b101, 0b110, 0b111)
    return Access(
        read=read,
        write=where(0b001, 0b010, 0b011),
        execute=tuple((mask | 1 << xn, value) for mask, value in read),  # an unreadable page may not execute
        shared=((1 << ng, 0),),
        cached=((arm.C, arm.C),),
        write_back=((arm.B, arm.B),),
        domain=domain,
    )


SECTIONS = (
    Leaf("16 MiB supersection", 0x40003, 0x40002, 24, ((24, 8, 24), (20, 4, 32), (5, 4, 36)),
         access(ap=10, apx=15, xn=4, ng=17)),
    Leaf("1 MiB section", 0x40003, 0x00002, 20, arm.SECTION_FRAME,
         access(ap=10, apx=15, xn=4, ng=17, domain=arm.DOMAIN)),
)  # fmt: skip
LARGE_PAGE = Leaf("64 KiB page", 0x3, 0x1, 16, arm.LARGE_FRAME, access(ap=4, apx=9, xn=15, ng=11))
SMALL_PAGE = Leaf("4 KiB page", 0x2, 0x2, 12, arm.LINUX_FRAME, access(ap=4, apx=9, xn=0, ng=11))
SECOND_LEVEL_NAMES = (
    ("XN", XN), ("B", 0x4), ("C", 0x8), ("AP0", 0x10), ("AP1", AP1), ("TEX", 0x1C0), ("APX", APX), ("S", 0x400),
    ("nG", EXT_NG),
)  # fmt: skip
#: Bit 0 of a small page is XN.
HARDWARE_LEVELS = (
    arm.first_level(*SECTIONS),
    arm.second_level(LARGE_PAGE, SMALL_PAGE, SECOND_LEVEL_NAMES),
)

#: The cache of an ARMv6 whose ways are larger than a page, for ``HardwareView.cache``.
ALIASING_VIPT = Cache(kind="vipt aliasing", colours=4, size=64 << 10, ways=4)
TLB = Tlb(entries=64, tagged=True)
DACR = 0x1F  #: domains of kernel and user: manager, so that rights are not checked; of I/O: client

ARMV7 = Architecture(
    name="armv7",
    aliases=("arm", "armhf", "armv6", "armv6l", "armv6hf", "armv7a", "armv7l", "armv7hl"),
    description="ARMv6/v7, cache that does not alias, by default on RealView",
    word_bits=32,
    page_shift=12,
    levels=(PGD, PTE),
    page_kernel=0x0EF,
    smp_flags=0x400,
    protections={
        "pgprot_noncached(PAGE_KERNEL)": 0x0E3,
        "pgprot_writecombine(PAGE_KERNEL)": 0x0E7,
        "IOREMAP": 0x0A7,
    },
    ioremap_max_order=24,
    zones=(Zone("DMA"), "NORMAL"),
    layout=arm.PlatformLayout(name="armv7", default="realview"),
    platforms=arm.choices_from("realview"),
    hardware=HardwareView(levels=HARDWARE_LEVELS, mirror=Mirror(0x000, v6), tlb=TLB, domain_register=DACR),
    linear_map=LinearMap(leaf="1 MiB section", flags=0x40E, smp_flags=0x10000),
    image=arm.IMAGE,
    symbols=evolve(arm.SYMBOLS, flush_tlb_kernel_range=arm.flush_tlb_kernel_range_v6),
)

# ---- later kernels: other halves, other L_PTE bits (DIRTY, RDONLY, USER, XN; four bits of memory type)

_LATE_NAMES = (
    ("PRESENT", 0x001), ("YOUNG", 0x002), ("MT", 0x03C), ("DIRTY", 0x040), ("RDONLY", 0x080), ("USER", 0x100),
    ("XN", 0x200), ("SHARED", 0x400), ("NONE", 0x800),
)  # fmt: skip
LATE_DACR = 0x51  #: CONFIG_CPU_SW_DOMAIN_PAN, in the kernel: its domain is client, so that rights are checked
LATE_PTE = Level(name="pte", shift=12, bits=9, entry_bytes=4, frame=arm.LINUX_FRAME, flag_names=_LATE_NAMES)


def v7_late(words: Words) -> Words:
    """Convert later kernels' Linux words to extended small pages (arch/arm/mm/proc-v7-2level.S, set_pte_ext).

    It is for kernel addresses. TEX, C and B remap memory types. Arguments and result are those of `v6_words`.
    """
    out = words & np.uint32(0xFFFFFC0C) | np.uint32(SMALL_AP0)
    out[words & 0x010 != 0] |= TEX0
    out[words & 0x0C0 != 0x040] |= APX  # RDONLY, or not DIRTY
    out[words & 0x100 != 0] |= AP1
    out[words & 0x200 != 0] |= XN
    out[(words & 0x3 != 0x3) | (words & 0x800 != 0)] = 0
    return out


ARMV7_HIGHMEM = evolve(
    ARMV7,
    name="armv7-highmem",
    description="ARMv7 of later kernels: highmem, vmalloc=, Linux half of a table first",
    levels=(arm.pgd(frame=arm.LINUX_FRAME, table_flags=0x811), LATE_PTE),
    page_kernel=0x24F,
    page_kernel_exec=0x04F,
    smp_flags=0x410,
    protections={
        "PAGE_KERNEL_RO": 0x2CF,
        "pgprot_noncached(PAGE_KERNEL)": 0x243,
        "pgprot_writecombine(PAGE_KERNEL)": 0x247,
        "IOREMAP": 0x653,
    },
    zones=(Zone("DMA"), "NORMAL", "HIGHMEM"),
    layout=arm.PlatformLayout(name="armv7-highmem", default="virt", reserve=240 << 20, highmem=True),
    platforms=("virt",),
    hardware=HardwareView(
        levels=HARDWARE_LEVELS, mirror=Mirror(0x800, v7_late), tlb=TLB, domain_register=LATE_DACR
    ),
    linear_map=LinearMap(leaf="1 MiB section", flags=0x1141E, kernel_flags=0x1140E),
    era="6.12",
)
