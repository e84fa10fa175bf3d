"""ARMv4T and ARMv5: virtually indexed and tagged caches, one CPU.

The record describes an ARM926 with a write-back cache. Other cores of the family differ only in the hardware
words. For example, use ``attrs.evolve(ARMV5, hardware=XSCALE)``, or a `Mirror` with `arm926_writethrough`.

Sources: arch/arm/mm/proc-arm920.S, proc-arm926.S, proc-xscale.S, mmu.c, include/asm-arm/pgtable.h, of 2.6.24.
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
    Tlb,
    Words,
    Zone,
)

from . import family as arm

L_PTE_PRESENT, L_PTE_YOUNG, L_PTE_BUFFERABLE, L_PTE_CACHEABLE = 0x001, 0x002, 0x004, 0x008
L_PTE_USER, L_PTE_WRITE, L_PTE_EXEC, L_PTE_DIRTY, L_PTE_SHARED = 0x010, 0x020, 0x040, 0x080, 0x400

LINUX_NAMES = (
    ("PRESENT", L_PTE_PRESENT), ("YOUNG", L_PTE_YOUNG), ("BUFFERABLE", L_PTE_BUFFERABLE),
    ("CACHEABLE", L_PTE_CACHEABLE), ("USER", L_PTE_USER), ("WRITE", L_PTE_WRITE), ("EXEC", L_PTE_EXEC),
    ("DIRTY", L_PTE_DIRTY), ("SHARED", L_PTE_SHARED),
)  # fmt: skip

#: The frame has the bits that pmd_page_vaddr keeps. The Linux half is 2 KiB further on.
PGD = arm.pgd(frame=((11, 21, 11),), table_flags=0x011)
PTE = Level(
    name="pte", shift=12, bits=9, entry_bytes=4, frame=arm.LINUX_FRAME, offset=0x800, flag_names=LINUX_NAMES
)


def _kernel_or_user(words: Words, out: Words, user: int, write: int) -> Words:
    """Add access permissions. Set words to 0 that are not both PRESENT and YOUNG."""
    out[(words & L_PTE_USER) != 0] |= user
    out[words & (L_PTE_WRITE | L_PTE_DIRTY) == (L_PTE_WRITE | L_PTE_DIRTY)] |= write
    out[words & (L_PTE_PRESENT | L_PTE_YOUNG) != (L_PTE_PRESENT | L_PTE_YOUNG)] = 0
    return out


def arm926(words: Words) -> Words:
    """Convert Linux words to small pages (proc-arm920.S, proc-arm926.S, set_pte_ext).

    Args:
        words: shape ``(n,)``, uint32.

    Returns:
        Hardware words of the same shape and type.
    """
    return _kernel_or_user(words, words & np.uint32(0xFFFFF00C) | np.uint32(0x2), 0xAA0, 0x550)


def arm926_writethrough(words: Words) -> Words:
    """Convert as `arm926`, but without B for cacheable pages (CONFIG_CPU_DCACHE_WRITETHROUGH)."""
    out = arm926(words)
    out[out & 0xB == 0xA] &= 0xFFFFFFFB
    return out


def xscale(words: Words) -> Words:
    """Convert Linux words to extended small pages (proc-xscale.S, set_pte_ext).

    Pages that are cacheable but neither bufferable nor writable get X (TEX 1), the mini cache. Pages that users
    may only read get no B (erratum 40). Arguments and result are those of `arm926`.
    """
    cached = words & (L_PTE_CACHEABLE | L_PTE_WRITE)
    out = words & np.uint32(0xFFFFF00F) | np.uint32(0x3)
    out[(cached == L_PTE_CACHEABLE) & (words & L_PTE_BUFFERABLE == 0)] |= 0x040
    out[(cached == L_PTE_CACHEABLE) & (words & L_PTE_USER != 0)] &= 0xFFFFFFFB
    return _kernel_or_user(words, out, 0x020, 0x010)


def access(low: int) -> Access:
    """Return the rights that AP gives, two bits from bit ``low`` up. With the S bit the kernel may always read.

    An old small page has four APs for its quarters. Linux writes the same AP four times, and the first is read.
    """
    anything = tuple((0x3 << low, ap << low) for ap in (1, 2, 3))
    return Access(write=anything, cached=((arm.C, arm.C),), write_back=((arm.B, arm.B),))


LARGE_PAGE = Leaf("64 KiB page", 0x3, 0x1, 16, arm.LARGE_FRAME, access(4))
SMALL_PAGE = Leaf("4 KiB page", 0x3, 0x2, 12, arm.LINUX_FRAME, access(4))
EXTENDED_PAGE = Leaf("4 KiB page", 0x3, 0x3, 12, arm.LINUX_FRAME, access(4))
FIRST = arm.first_level(
    Leaf("1 MiB section", 0x3, 0x2, 20, arm.SECTION_FRAME, evolve(access(10), domain=arm.DOMAIN))
)
DACR = 0x1F  #: domains of kernel and user: manager; of I/O: client

ARM926 = HardwareView(
    levels=(
        FIRST,
        arm.second_level(
            LARGE_PAGE,
            SMALL_PAGE,
            (("B", 0x4), ("C", 0x8), ("AP0", 0x30), ("AP1", 0xC0), ("AP2", 0x300), ("AP3", 0xC00)),
        ),
    ),
    mirror=Mirror(0x000, arm926),
    cache=Cache(kind="vivt", colours=0, size=32 << 10, ways=4, writes_back_by="virtual"),
    tlb=Tlb(entries=64),
    domain_register=DACR,
)
XSCALE = evolve(
    ARM926,
    levels=(
        FIRST,
        arm.second_level(LARGE_PAGE, EXTENDED_PAGE, (("B", 0x4), ("C", 0x8), ("AP", 0x30), ("TEX", 0x1C0))),
    ),
    mirror=Mirror(0x000, xscale),
    cache=Cache(kind="vivt", colours=0, size=32 << 10, ways=32, writes_back_by="virtual"),
)

ARMV5 = Architecture(
    name="armv5",
    aliases=("arm", "armel", "armv5te", "armv5tel", "armv5tej", "armv5tejl", "arm926"),
    description="ARM926, virtually indexed and tagged cache, by default on Versatile",
    word_bits=32,
    page_shift=12,
    levels=(PGD, PTE),
    page_kernel=0x0EF,
    protections={
        "pgprot_noncached(PAGE_KERNEL)": 0x0E3,
        "pgprot_writecombine(PAGE_KERNEL)": 0x0E7,
        "IOREMAP": 0x0A3,
    },
    ioremap_max_order=24,
    zones=(Zone("DMA"), "NORMAL"),
    layout=arm.PlatformLayout(name="armv5", default="versatile"),
    platforms=arm.choices_from("versatile"),
    default_ram=256 << 20,
    max_cpus=1,
    hardware=ARM926,
    linear_map=LinearMap(leaf="1 MiB section", flags=0x41E),
    image=arm.IMAGE,
    symbols=arm.SYMBOLS,
)
