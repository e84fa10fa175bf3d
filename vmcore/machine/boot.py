"""Booting: the page tables that a kernel has before its first vmalloc()."""

from __future__ import annotations

import numpy as np

from vmcore.architecture import Architecture, Layout, LinearMap
from vmcore.errors import OutOfMemory
from vmcore.flags import ANY_NODE, GFP_PGTABLE
from vmcore.memory.zones import PageAllocator
from vmcore.paging.tables import PageTables


class TablePages:
    """The source of kernel page tables: zeroed pages of lowmem (mm/memory.c, GFP_KERNEL | REPEAT | ZERO)."""

    def __init__(self, pages: PageAllocator, page_shift: int) -> None:
        self._pages, self._shift = pages, page_shift

    def alloc_table(self) -> int | None:
        """Return the physical address of a zeroed page for a table, or None if no memory is left."""
        frames = self._pages.alloc(1, GFP_PGTABLE, ANY_NODE)
        return int(frames[0]) << self._shift if len(frames) else None

    def free_table(self, table: int) -> None:
        """Take back a table that another CPU was faster to install."""
        self._pages.free(np.array([table >> self._shift], np.int64))


def map_lowmem(
    init_mm: PageTables, arch: Architecture, layout: Layout, linear: LinearMap, page_kernel: int, several: bool
) -> None:
    """Map lowmem from PAGE_OFFSET up: by large pages, and by pages for the rest at its end.

    Args:
        init_mm: the kernel's tables.
        arch: the record.
        layout: where lowmem and the kernel's image are.
        linear: how the machine maps lowmem.
        page_kernel: protection of the pages at the end.
        several: there is more than one CPU.

    Raises:
        OutOfMemory: no page for a table.
    """
    leaf = next(leaf for level in arch.hardware_levels for leaf in level.leaves if leaf.name == linear.leaf)
    flags = linear.flags | (linear.smp_flags if several else 0)
    kernel_flags = flags if linear.kernel_flags is None else linear.kernel_flags
    depth = next(n for n, level in enumerate(arch.hardware_levels) if leaf in level.leaves)
    # an entry of Linux may be several of the hardware's, and cannot be half a table
    size, start = 1 << max(leaf.shift, arch.levels[depth].shift), layout.phys_offset
    whole = layout.lowmem_end - (layout.lowmem_end - start) % size
    kernel_end = min(whole, start + (layout.kernel_end - start + size - 1) // size * size)
    for first, end, bits in ((start, kernel_end, kernel_flags), (kernel_end, whole, flags)):
        if first < end:
            at = first - start + layout.page_offset
            init_mm.map_linear(at, at + end - first, first, leaf, bits)
    if linear.image is not None:
        at, length, bits = linear.image
        init_mm.map_linear(at, at + min(length, whole - start), start, leaf, bits)
    if whole < layout.lowmem_end:
        at = whole - start + layout.page_offset
        frames = np.arange(whole >> arch.page_shift, layout.lowmem_end >> arch.page_shift)
        result = init_mm.map(at, at + layout.lowmem_end - whole, frames, page_kernel)
        if not result.ok:
            raise OutOfMemory("table", f"no page for the table of the end of lowmem, {at:#x}, at boot")
