"""The common parts of ARM machines: tables in pairs, hardware and Linux halves, address maps and strong symbols.

A root entry of Linux is two first-level words. Its table is one page with two halves. Linux reads the Linux half.
The MMU reads the hardware half, which is two tables of 256 entries.

Sources: include/asm-arm/pgtable.h, pgtable-hwdef.h, pgalloc.h, memory.h, cacheflush.h, tlbflush.h,
arch-*/memory.h, arch-*/vmalloc.h, arch/arm/mm/fault.c, mmu.c, of 2.6.24; ARM Architecture Reference Manual
(ARM DDI 0100I), B4.7.
"""

from __future__ import annotations

from attrs import frozen

from vmcore.architecture import (
    Access,
    KernelImage,
    Layout,
    LayoutRequest,
    Leaf,
    Level,
    Symbols,
    Window,
    cut_banks,
)
from vmcore.errors import LayoutError
from vmcore.host import Host
from vmcore.units import format_size

from ..lowmem import KERNEL_BYTES, banks_at, without_holes

# ---- tables

#: Pages of the Linux half of a table, with the names both eras share.
LINUX_FRAME = ((12, 20, 12),)

#: A coarse second-level table is 1 KiB, so its first-level entry has 22 address bits.
COARSE_FRAME = ((10, 22, 10),)

LARGE_FRAME = ((16, 16, 16),)
SECTION_FRAME = ((20, 12, 20),)

B, C = 0x4, 0x8  #: C: the page is cached; with B it is written back
DOMAIN = 5
TABLE_ACCESS = Access(domain=DOMAIN)


def pgd(frame: tuple[tuple[int, int, int], ...], table_flags: int) -> Level:
    """Return the root as Linux sees it: 2048 pairs of words. Linux tests only the first word of a pair."""
    return Level(
        name="pgd",
        shift=21,
        bits=11,
        entry_bytes=8,
        frame=frame,
        present_mask=0xFFFFFFFF,
        bad_mask=0x2,
        table_flags=table_flags,
        repeat=(0x400,),
        error_name="pmd",
        flag_names=FIRST_LEVEL_NAMES,
    )


FIRST_LEVEL_NAMES = (("table", 0x1), ("section", 0x2), ("B", 0x4), ("C", 0x8), ("bit 4", 0x10), ("domain", 0x1E0))


def first_level(*leaves: Leaf) -> Level:
    """Return the root as the MMU sees it. An entry that is neither a leaf nor of type 01 maps nothing."""
    return Level(
        name="first",
        shift=20,
        bits=12,
        entry_bytes=4,
        frame=COARSE_FRAME,
        present_mask=0x3,
        bad_mask=0x3,
        good_value=0x1,
        table_flags=0x011,
        leaves=leaves,
        flag_names=FIRST_LEVEL_NAMES,
        access=TABLE_ACCESS,
    )


def second_level(large: Leaf, small: Leaf, names: tuple[tuple[str, int], ...]) -> Level:
    """Return a coarse table as the MMU sees it. An entry that is no large and no small page maps nothing."""
    return Level(
        name="second",
        shift=12,
        bits=8,
        entry_bytes=4,
        frame=LINUX_FRAME,
        present_mask=0x3,
        leaves=(large, small),
        flag_names=names,
    )


# ---- dumps of ARM machines

#: arch/arm/kernel/vmcore_info.c; bases are those of CONFIG_VMSPLIT, and one platform's. Real kernels do not
#: print PHYS_OFFSET, and QEMU's dump-guest-memory writes no TTBR.
IMAGE = KernelImage(
    machine=40,
    root_align=0x4000,
    bases=(0xC0000000, 0xB0000000, 0x80000000, 0x60000000, 0x40000000),
    lines={"CONFIG_ARM_LPAE": ("",)},
)

# ---- address maps


VMALLOC_OFFSET = 8 << 20
#: The least vmalloc area if all RAM would leave none. 2.6.24 failed in this case, and 2.6.28 began to cut RAM.
VMALLOC_MIN = 128 << 20


@frozen
class Platform:
    """PHYS_OFFSET, VMALLOC_END and, where a platform overrides it, PAGE_OFFSET."""

    phys_offset: int
    vmalloc_end: int
    page_offset: int = 0xC0000000

    def virtual(self, physical: int) -> int:
        """Return __va(), without wrapping at 4 GiB."""
        return physical - self.phys_offset + self.page_offset

    def physical(self, virtual: int) -> int:
        """Return __pa()."""
        return virtual - self.page_offset + self.phys_offset

    def vmalloc_start(self, lowmem_end: int) -> int:
        """Return VMALLOC_START, which rounds down: the hole above lowmem is 8 MiB or less."""
        return self.virtual(lowmem_end) + VMALLOC_OFFSET & -VMALLOC_OFFSET


#: include/asm-arm/arch-*/memory.h and vmalloc.h; at91 is chip select 1, mx31 is CSD0.
PLATFORMS = {
    "aaec2000": Platform(0xF0000000, 0xD0000000),
    "at91": Platform(0x20000000, 0xFEE00000),
    "cl7500": Platform(0x10000000, 0xDC000000),
    "clps711x": Platform(0xC0000000, 0xD0000000),
    "davinci": Platform(0x80000000, 0xFEA00000),
    "ebsa110": Platform(0x00000000, 0xDF000000),
    "ebsa285": Platform(0x00000000, 0xF0000000),
    "ebsa285-co285": Platform(0x00000000, 0x80000000, 0x60000000),
    "ep93xx": Platform(0x00000000, 0xFE800000),
    "h720x": Platform(0x40000000, 0xD0000000),
    "imx": Platform(0x08000000, 0xD0000000),
    "integrator": Platform(0x00000000, 0xD0000000),
    "iop13xx": Platform(0x00000000, 0xFA000000, 0x40000000),
    "iop32x": Platform(0xA0000000, 0xFE000000),
    "iop33x": Platform(0x00000000, 0xFE000000),
    "ixp2000": Platform(0x00000000, 0xFB000000),
    "ixp23xx": Platform(0x00000000, 0xEC000000),
    "ixp4xx": Platform(0x00000000, 0xFF000000),
    "ks8695": Platform(0x00000000, 0xF0000000),
    "l7200": Platform(0xF0000000, 0xD0000000),
    "lh7a40x": Platform(0xC0000000, 0xE8000000),
    "mx31": Platform(0x80000000, 0xF4000000),
    "netx": Platform(0x80000000, 0xD0000000),
    "ns9xxx": Platform(0x00000000, 0xF0000000),
    "omap1": Platform(0x10000000, 0xD0000000),
    "omap2": Platform(0x80000000, 0xD0000000),
    "pnx4008": Platform(0x80000000, 0xD0000000),
    "pxa": Platform(0xA0000000, 0xE8000000),
    "realview": Platform(0x00000000, 0xD8000000),
    "rpc": Platform(0x10000000, 0xDC000000),
    "s3c2410": Platform(0x30000000, 0xE0000000),
    "sa1100": Platform(0xC0000000, 0xE8000000),
    "shark": Platform(0x08000000, 0xD0000000),
    "versatile": Platform(0x00000000, 0xD8000000),
}
VIRT = Platform(0x40000000, 0xFF800000)  #: of kernels with highmem; PHYS_OFFSET of QEMU's board

MODULES_BYTES = 16 << 20
PKMAP = Window(0xBFE00000, 0xC0000000)  #: one pmd, at the expense of the modules


def choices_from(default: str) -> tuple[str, ...]:
    """Return every platform name, the default first."""
    return (default, *(name for name in PLATFORMS if name != default))


@frozen(kw_only=True)
class PlatformLayout:
    """The address map of an ARM kernel (asm-arm/pgtable.h, memory.h), as a layout function.

    Attributes:
        name: the architecture, for messages.
        default: the platform if none is requested.
        reserve: the default of ``vmalloc=``; None: lowmem is all RAM, as before ARM had the option.
        highmem: CONFIG_HIGHMEM: frames above lowmem are used.
    """

    name: str
    default: str
    reserve: int | None = None
    highmem: bool = False

    def __call__(self, request: LayoutRequest) -> Layout:
        """Return the layout of the machine, see `vmcore.architecture.Layout`.

        Raises:
            LayoutError: ``vmalloc=`` is out of bounds, or RAM does not start at PHYS_OFFSET, is too small or
                has a hole.
        """
        board = VIRT if self.highmem else PLATFORMS[request.platform or self.default]
        banks, notes = cut_banks(banks_at(self.name, request, board.phys_offset), 1 << 32, "frames have 32 bits")
        size = self.reserve if request.vmalloc is None else request.vmalloc
        limit = self._lowmem_limit(size, board, banks[-1].end)
        if not self.highmem:
            banks, more = cut_banks(banks, limit, "it would overlap the vmalloc area; there is no highmem")
            notes += more
        lowmem_end = min(banks[-1].end, limit)
        without_holes(self.name, banks, lowmem_end)
        task_size = board.page_offset - MODULES_BYTES
        return Layout(
            page_offset=board.page_offset,
            phys_offset=board.phys_offset,
            lowmem_end=lowmem_end,
            vmalloc_start=board.vmalloc_start(lowmem_end),
            vmalloc_end=board.vmalloc_end,
            swapper_pg_dir=board.phys_offset + 0x4000,
            kernel_end=board.phys_offset + KERNEL_BYTES,
            first_kernel_pgd=task_size >> 21,
            banks=banks,
            modules=Window(task_size, PKMAP.start if self.highmem else board.page_offset),
            notes=notes,
            regions=(("lowmem", Window(board.page_offset, board.virtual(lowmem_end))), *self._regions()),
        )

    def _lowmem_limit(self, size: int | None, board: Platform, ram_end: int) -> int:
        """Return the greatest physical end of lowmem, bytes. ``size`` is the size of the vmalloc area, bytes."""
        if size is None:
            fits = board.vmalloc_start(ram_end) < board.vmalloc_end
            return ram_end if fits else board.physical(board.vmalloc_end - VMALLOC_MIN)
        most = board.vmalloc_end - board.page_offset - (32 << 20) - VMALLOC_OFFSET
        if not 16 << 20 <= size <= most:
            raise LayoutError(
                f"{self.name}: vmalloc= is {size:#x} ({format_size(size)}), expected 0x1000000 to {most:#x} "
                f"({format_size(most)}): VMALLOC_END is {board.vmalloc_end:#x}, and 32 MiB of lowmem must remain"
            )
        return board.physical(board.vmalloc_end - size - VMALLOC_OFFSET) & ~0xFFF

    def _regions(self) -> tuple[tuple[str, Window], ...]:
        vectors = ("vectors", Window(0xFFFF0000, 0xFFFF1000))
        if self.highmem:
            return ("pkmap", PKMAP), ("fixmap", Window(0xFFC80000, 0xFFF00000)), vectors
        return ("consistent", Window(0xFFC00000, 0xFFE00000)), vectors


# ---- symbols


def flush_cache(kernel: Host, cpu: int, start: int, end: int) -> None:
    """Clean and invalidate the whole cache of this CPU. The range is ignored (cacheflush.h, flush_cache_vmap)."""
    kernel.flush_cache_all(cpu)


def flush_tlb_kernel_range(kernel: Host, cpu: int, start: int, end: int) -> None:
    """Flush the TLB page by page. SMP machines flush on every CPU (tlbflush.h, arch/arm/kernel/smp.c)."""
    kernel.flush_tlb_pages(cpu, start, end, every_cpu=len(kernel.cpus) > 1)


def flush_tlb_kernel_range_v6(kernel: Host, cpu: int, start: int, end: int) -> None:
    """Flush as `flush_tlb_kernel_range`, but round ``end`` down, too.

    Both addresses are shifted to page numbers (tlb-v6.S, tlb-v7.S).
    """
    flush_tlb_kernel_range(kernel, cpu, start, end & -kernel.arch.page_size)


def vmalloc_fault(kernel: Host, cpu: int, address: int, error_code: int) -> bool:
    """Copy both words of init_mm's root entry (arch/arm/mm/fault.c, do_translation_fault).

    The page may be absent. A fault of the second level is not repaired here. The first-level entry of the CPU's
    own table tells the level of the fault.
    """
    mm = kernel.current_mm(cpu)
    task_size = kernel.layout.first_kernel_pgd << kernel.arch.levels[0].shift
    if mm is None or address < task_size:
        return False
    reference, entry = kernel.init_mm.entry(address, 0), mm.tables.entry(address, 0)
    if reference is None or entry is None or not reference[1] or entry[1] & 0x3:
        return False
    mm.tables.copy_entry(entry[0], reference[0], 0)
    return True


SYMBOLS = Symbols(
    flush_cache_vmap=flush_cache,
    flush_cache_vunmap=flush_cache,
    flush_tlb_kernel_range=flush_tlb_kernel_range,
    vmalloc_fault=vmalloc_fault,
)
