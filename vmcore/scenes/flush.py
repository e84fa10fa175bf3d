"""Scenes of stale copies: a TLB that was not flushed, a cache line that was not written back."""

from __future__ import annotations

import numpy as np

from vmcore.flags import ANY_NODE, GFP_KERNEL
from vmcore.scenes.stage import WORD, Stage, modelled

# ---- translations


def missing_tlb_flush(stage: Stage) -> None:
    """Free a page that every CPU has loaded from, and give its frame to a second owner."""
    kernel = stage.kernel
    old = stage.allocate("old", "a page for the first owner")
    stage.stand_behind()
    stage.store(0, "old", b"alice")
    for cpu in stage.numbers:
        stage.load(cpu, "old")
    frame = kernel.vmalloc_to_pfn(old)
    stage.act("CPU 0: vfree(old): the page is unmapped, its frame is free", lambda: kernel.vfree(old))
    for cpu in stage.numbers:
        stage.load(cpu, "old")
    _reuse(stage, frame)
    stage.store(0, "new", b"bobby")
    _write_stores_back(stage)
    stage.store(0, "old", b"wrong")
    _write_stores_back(stage)
    for cpu in stage.numbers:
        stage.load(cpu, "new")


def _reuse(stage: Stage, frame: int | None) -> None:
    """Vmalloc two pages elsewhere, and name the one whose frame is *frame*."""
    kernel, page = stage.kernel, stage.kernel.page_size

    def vmalloc() -> int:
        at = kernel.vmalloc(2 * page)
        stage.addresses["new"] = at + page if kernel.vmalloc_to_pfn(at + page) == frame else at
        return stage.addresses["new"]

    text = f"CPU 0: new = vmalloc({2 * page}), elsewhere, for a second owner, who gets that frame"
    stage.act(text, vmalloc, lambda at: f"new is {at:#x}")


def _write_stores_back(stage: Stage) -> None:
    """Write stores back to memory, where the cache allocates lines on stores and still holds them."""
    cache = stage.kernel.arch.hardware.cache
    if cache is not None and cache.modelled and cache.write_allocate:
        stage.write_back()


def guard_page_overrun(stage: Stage) -> None:
    """Store over the end of an area, into its guard page, which only a stale translation lets through."""
    kernel, page = stage.kernel, stage.kernel.page_size
    first, second = kernel.alloc_pages(2, GFP_KERNEL, ANY_NODE)
    wide = stage.map_frames("wide", np.array([first, second]), "two frames), end in its second page", end=page)
    stage.stand_behind()
    stage.store(0, "end", b"alice")
    stage.act("CPU 0: vunmap(wide): both pages are unmapped", lambda: kernel.vunmap(wide))
    stage.addresses = {}
    text = f"the first frame), at the same address; edge: its last {WORD} bytes, guard: behind them"
    stage.map_frames("area", np.array([first]), text, edge=page - WORD, guard=page)
    stage.map_frames("other", np.array([second, second]), "the second frame), elsewhere, for another owner")
    del stage.addresses["area"]
    stage.store(0, "other", b"bobby")
    stage.store(0, "edge", b"fits|over!")
    _write_stores_back(stage)
    stage.load(0, "other")
    stage.addresses = {}
    text = "both frames), without a guard page between them; edge and behind: the two sides of the boundary"
    stage.map_frames("joined", np.array([first, second]), text, edge=page - WORD, behind=page)
    del stage.addresses["joined"]
    stage.store(0, "edge", b"fits|over!")
    stage.load(0, "behind")


def use_after_vfree(stage: Stage) -> None:
    """Use a pointer after vfree(), when its frame has a new owner, and when its address has one too."""
    kernel = stage.kernel
    old = stage.allocate("kept", "a page whose pointer is kept after it is freed")
    stage.stand_behind()
    stage.store(0, "kept", b"alice")
    frame = kernel.vmalloc_to_pfn(old)
    stage.act("CPU 0: vfree(kept), and goes on using the pointer", lambda: kernel.vfree(old))
    stage.load(0, "kept")
    _reuse(stage, frame)
    stage.store(0, "new", b"bobby")
    _write_stores_back(stage)
    stage.load(0, "kept")
    stage.allocate("again", "the third owner gets the address that was freed")
    stage.store(0, "again", b"carol")
    _write_stores_back(stage)
    stage.load(0, "kept")
    stage.load(0, "new")


# ---- cache lines


def vivt_alias(stage: Stage) -> None:
    """Store through one address of a frame, map it at another, and load there."""
    frame = _other_address(stage)
    stage.load(0, "first")
    stage.store(0, "first", b"newer")
    stage.map_frames("second", np.array([frame]), "the same frame)")
    for cpu in stage.numbers:
        stage.load(cpu, "second")


def lost_dirty_line(stage: Stage) -> None:
    """Store through a mapping, remove the mapping, and load the data from the frame's other address."""
    frame = _other_address(stage)
    stage.map_frames("second", np.array([frame]), "the same frame)")
    stage.stand_behind()
    stage.load(0, "second")
    stage.store(0, "second", b"newer")
    at = stage.addresses["second"]
    stage.act("CPU 0: vunmap(second): the page is unmapped", lambda: stage.kernel.vunmap(at))
    stage.load(0, "first")
    stage.write_back()
    stage.load(0, "first")


def _other_address(stage: Stage) -> int:
    """Name an address of a frame that holds "older", with another cache colour than VMALLOC_START.

    The address is in the linear map or, where the record has none, that of an earlier vmap().

    Returns:
        The number of the frame.
    """
    kernel, layout = stage.kernel, stage.kernel.layout
    frames = kernel.alloc_pages(2, GFP_KERNEL, ANY_NODE)
    shift = kernel.page_shift

    def linear(frame: int) -> int:
        return (frame << shift) - layout.phys_offset + layout.page_offset

    cache = kernel.arch.hardware.cache
    colours = max(1, cache.size // cache.ways >> shift) if cache is not None and modelled(cache) else 1
    frame = next(
        (int(f) for f in frames if (linear(int(f)) ^ layout.vmalloc_start) >> shift & colours - 1), int(frames[0])
    )
    stage.fill_frame(frame, b"older")
    if kernel.arch.linear_map is not None:
        stage.addresses["first"] = linear(frame)
        stage.act('a frame holds "older"; first is its address in the linear map of all low memory', lambda: None)
    else:
        # three pages with the guard page, so that the next area has another colour
        stage.map_frames("first", np.array([frame, frame]), 'a frame that holds "older")')
    return frame
