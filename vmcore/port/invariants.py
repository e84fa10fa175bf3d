"""The invariants of a kernel: list, page tables and allocators, and that they agree with each other."""

from __future__ import annotations

from typing import Any

import numpy as np

from vmcore.architecture import Level
from vmcore.errors import BrokenInvariant
from vmcore.flags import NO_FRAME, VM
from vmcore.memory.slab import Slab
from vmcore.memory.zones import PageAllocator
from vmcore.paging.mm import Mm
from vmcore.placement.arealist import VmStruct
from vmcore.port.vmalloc import Vmalloc

_VPAGES = int(VM.VPAGES)


def check(kernel: Vmalloc, pages: PageAllocator, slab: Slab) -> None:
    """Check all invariants of a kernel over its allocators. See `vmcore.kernel.Kernel.check`.

    Raises:
        BrokenInvariant: the first that does not hold.
    """
    try:
        kernel.vmlist.check()
    except AssertionError as error:
        raise BrokenInvariant(str(error)) from error
    pages.check()
    for lock, name in ((kernel.vmlist_lock, "vmlist_lock"), (kernel.init_mm.lock, "page_table_lock")):
        if lock.locked():
            raise BrokenInvariant(f"{name} is held")
    _check_tables(kernel)
    _check_hardware(kernel, pages)
    _check_processes(kernel)
    _check_pages(kernel, pages, slab)


def _check_tables(kernel: Vmalloc) -> None:
    """No entry outside the data pages of an area. A vmalloc'ed area maps its own pages in order."""
    addresses, words = kernel.init_mm.entries()
    if not kernel.vmlist.orderly:
        return
    low, high = kernel.layout.page_offset, kernel.layout.high_memory
    linear = (addresses >= np.uint64(low)) & (addresses < np.uint64(high))
    addresses, words = addresses[~linear], words[~linear]
    areas = list(kernel.vmlist)
    starts = np.array([a.addr for a in areas], np.uint64)
    ends = np.array([a.addr + a.size - kernel.page_size for a in areas], np.uint64)
    owner = np.searchsorted(starts, addresses, "right") - 1
    stray = (owner < 0) | (addresses >= ends[owner]) if areas else np.ones(len(addresses), bool)
    if stray.any():
        n = int(stray.argmax())
        raise BrokenInvariant(f"page-table entry {int(words[n]):#x} at {int(addresses[n]):#x} is in no area")
    for area in areas:
        if area.pages is None or not area.nr_pages or area.flags & int(VM.IOREMAP):
            continue
        mapped = kernel.init_mm.frames(area.addr, area.nr_pages)
        wrong = (mapped != area.pages[: area.nr_pages]) & (mapped != NO_FRAME)
        if wrong.any():
            at = area.addr + (int(wrong.argmax()) << kernel.page_shift)
            raise BrokenInvariant(f"{at:#x} maps to another frame than its area's page array says")


def _check_hardware(kernel: Vmalloc, pages: PageAllocator) -> None:
    """The words beside Linux' own say the same: the hardware half, further words of an upper entry."""
    tables, shift = kernel.init_mm.table_addresses(), kernel.page_shift
    frames = [np.unique(table >> shift) for table in tables.values()]
    below = np.concatenate(frames) if frames else np.empty(0, np.int64)
    if len(np.unique(below)) != len(below) or not pages.allocated(below).all():
        raise BrokenInvariant("a page table lies in a page that is free, or in another table")
    if broken := kernel.init_mm.broken_words():
        raise BrokenInvariant(broken)


def _check_processes(kernel: Vmalloc) -> None:
    """A process' kernel half is empty, or that of init_mm (arch/*/mm/fault.c: BUG otherwise)."""
    level, first = kernel.arch.levels[0], kernel.layout.first_kernel_pgd
    private = level.prebuilt and not kernel.layout.shared_kernel_tables
    for mm in kernel.pgd_list:
        roots = kernel.init_mm.root, mm.tables.root
        if not private:
            _check_copy(kernel, mm, level, roots, first)
            continue
        for number in range(first, level.entries):
            entries = (root + number * level.entry_bytes for root in roots)
            own, copy = (level.decode(kernel.memory.load(at, level.word_bytes)) for at in entries)
            _check_copy(kernel, mm, kernel.arch.levels[1], (own, copy), 0)


def _check_copy(kernel: Vmalloc, mm: Mm, level: Level, tables: tuple[int, int], first: int) -> None:
    """An entry of a process, from entry ``first`` on, of init_mm's table and its own, is 0 or init_mm's."""
    skip, size = first * level.entry_bytes, level.table_bytes - first * level.entry_bytes
    kind = f"u{level.entry_bytes}"
    own, copy = (np.frombuffer(kernel.memory.read(table + skip, size), kind) for table in tables)
    if (wrong := (copy != 0) & (copy != own)).any():
        n = int(wrong.argmax())
        where = f"process {mm.number}: {level.name}[{first + n}]"
        raise BrokenInvariant(f"{where} is {int(copy[n]):#x}, init_mm has {int(own[n]):#x}")


def _check_pages(kernel: Vmalloc, pages: PageAllocator, slab: Slab) -> None:
    """No page belongs to two areas. Every area's pages are handed out. Objects and areas agree."""
    parts = [a.pages[: a.nr_pages] for a in kernel.vmlist if a.pages is not None]
    owned = np.concatenate([*parts, np.empty(0, np.int64)])
    if len(np.unique(owned)) != len(owned):
        raise BrokenInvariant("a page frame belongs to two areas")
    if not pages.allocated(owned).all():
        raise BrokenInvariant("an area holds a page frame that is free")
    handles = [h for a in kernel.vmlist for h in _handles(a) if h is not None]
    lost = [h for h in handles if not slab.lives(h)]
    if lost or len(set(handles)) != len(handles):
        raise BrokenInvariant(f"kmalloc objects {lost or handles} belong to an area but do not live, or to two")


def _handles(area: VmStruct) -> tuple[Any, ...]:
    return (area.handle,) if area.flags & _VPAGES else (area.handle, area.pages_handle)
