"""Every function of mm/vmalloc.c on every machine: what it returns, changes, logs and refuses."""

import numpy as np
import pytest

from tests.support.listening import Recorder
from vmcore.errors import (
    ArgumentError,
    InvalidSize,
    KernelBug,
    KernelDead,
    KernelOops,
    OutOfMemory,
    OutOfVmallocSpace,
)
from vmcore.flags import NO_FRAME, VM

RAM = 64 << 20
NO_SPACE = "<4>allocation failed: out of vmalloc space - use vmalloc=<size> to increase size.\n"


@pytest.fixture
def k(arch, kernel):
    return kernel(arch, ram=RAM)


def state(k):
    """Return everything that a refused call must leave alone."""
    words = tuple(part.tobytes() for part in k.init_mm.entries())
    areas = [(a.addr, a.size, a.flags, a.nr_pages) for a in k.vmlist]
    return areas, words, k.pages.pages_in_use, k.slab.live_objects, k.slab.live_bytes


def prot_of(k, addr):
    """Return the protection bits of the entry for an address."""
    return k.init_mm.lookup(addr) & ~k.arch.levels[-1].frame_mask


@pytest.mark.parametrize("pages", [1, 2, 30, 1100])
def test_vmalloc_maps_fresh_pages_and_a_guard(k, pages):
    page = k.arch.page_size
    addr = k.vmalloc(pages * page - page + 1)
    area = k.find_vm_area(addr)
    assert addr == k.layout.vmalloc_start
    assert (area.size, area.nr_pages, area.flags & ~VM.VPAGES) == ((pages + 1) * page, pages, VM.ALLOC)
    frames = k.init_mm.frames(addr, pages + 1).tolist()
    assert frames == [*area.pages.tolist(), NO_FRAME]
    assert len(set(frames)) == pages + 1
    assert prot_of(k, addr) == k.page_kernel
    assert k.pages.allocated(area.pages).all()
    k.check()
    k.vfree(addr)
    assert (len(k.vmlist), k.slab.live_objects, k.pages.pages_in_use) == (0, 0, sum(k.init_mm.tables.values()))
    assert len(k.init_mm.entries()[0]) == 0
    k.check()


def test_the_next_area_begins_behind_the_guard_page(k):
    page, start = k.arch.page_size, k.layout.vmalloc_start
    addresses = [k.vmalloc(n * page) for n in (1, 3, 1)]
    assert addresses == [start, start + 2 * page, start + 6 * page]
    k.vfree(addresses[1])
    assert k.vmalloc(4 * page) == start + 8 * page
    assert k.vmalloc(2 * page) == start + 2 * page


@pytest.mark.parametrize("size", ["0", "the last page"])
def test_a_size_that_rounds_to_0(k, size):
    before, size = state(k), 0 if size == "0" else k.arch.word_mask
    for call in (k.vmalloc, k.vmalloc_user, k.vmalloc_32, k.vmalloc_exec, lambda n: k.get_vm_area(n, 2),
                 k.alloc_vm_area, lambda n: k.vmalloc_node(n, 0)):  # fmt: skip
        with pytest.raises(InvalidSize) as caught:
            call(size)
        assert (caught.value.size, caught.value.lines) == (size, ())
        assert str(caught.value).startswith(f"size {size:#x} rounds to 0 bytes")
    assert (state(k), k.dmesg) == (before, [])


def test_no_hole(k):
    page = k.arch.page_size
    whole = k.layout.vmalloc_end - k.layout.vmalloc_start
    first = k.get_vm_area(page, 2)
    before = state(k)
    with pytest.raises(OutOfVmallocSpace) as caught:
        k.get_vm_area(whole - 2 * page & -page, 2)
    error = caught.value
    assert (error.align, error.start, error.end) == (1, k.layout.vmalloc_start, k.layout.vmalloc_end)
    assert error.size == (whole - page & -page)
    assert (error.lines, k.dmesg) == ((NO_SPACE,), [NO_SPACE])
    assert state(k) == before
    k.printk_ratelimit = False
    with pytest.raises(OutOfVmallocSpace) as caught:
        k.get_vm_area(whole, 2)
    assert (caught.value.lines, k.dmesg) == ((), [NO_SPACE])
    k.free_vm_area(first)
    k.check()


def test_ioremap_areas_are_aligned_by_size(k):
    page = k.arch.page_size
    k.get_vm_area(page, 2)
    for pages in (1, 3, 64, 1 << 14):
        size = pages * page
        align = 1 << min(max(size.bit_length(), k.arch.page_shift), k.arch.ioremap_max_order)
        if 4 * align > k.layout.vmalloc.size:
            continue
        area = k.get_vm_area(size, VM.IOREMAP)
        assert area.addr % align == 0
        assert (area.addr, area.size) == (area.addr // align * align, size + page)
    k.check()


def test_a_window_of_ones_own(k):
    page, start = k.arch.page_size, k.layout.vmalloc_start + (64 << 20)
    window = start, start + 16 * page
    area = k.raw_get_vm_area(3 * page, 2, *window)
    assert (area.addr, k.raw_get_vm_area(page, 2, *window).addr) == (start, start + 4 * page)
    addr = k.raw_vmalloc_area(area, 0xD2, k.arch.protection("PAGE_KERNEL_EXEC"))
    assert (addr, area.nr_pages, prot_of(k, addr)) == (start, 3, k.arch.protection("PAGE_KERNEL_EXEC"))
    k.vfree(addr)
    k.check()


def test_areas_are_found_and_removed_by_their_first_address(k):
    page = k.arch.page_size
    area = k.get_vm_area(2 * page, 2)
    assert k.find_vm_area(area.addr) is area
    assert (k.find_vm_area(area.addr + page), k.remove_vm_area(area.addr + page)) == (None, None)
    assert k.remove_vm_area(area.addr) is area
    assert (area.size, len(k.vmlist), k.slab.live_objects) == (2 * page, 0, 1)
    k.kfree(area.handle)
    assert k.slab.live_objects == 0


@pytest.mark.parametrize("free", ["vfree", "vunmap"])
def test_a_bad_free_is_logged_and_changes_nothing(k, free):
    page, digits = k.arch.page_size, k.arch.word_bits // 4
    addr = k.vmalloc(2 * page)
    gone = k.vmalloc(page)
    k.vfree(gone)
    before, release = state(k), getattr(k, free)
    release(0)
    assert (k.dmesg, k.warnings) == ([], [])
    for bad, what in ((addr + 1, "bad address"), (addr + page, "nonexistent vm area"),
                      (gone, "nonexistent vm area")):  # fmt: skip
        k.dmesg.clear()
        k.warnings.clear()
        release(bad)
        assert k.dmesg == [f"<3>Trying to vfree() {what} ({bad:0{digits}x})\n"]
        assert k.warnings == [("1", "__vunmap")]
        assert state(k) == before
    k.check()


@pytest.mark.parametrize("call", [
    ("vfree", lambda k, a: k.vfree(a), "vfree"),
    ("vunmap", lambda k, a: k.vunmap(a), "vunmap"),
    ("vmalloc", lambda k, a: k.vmalloc(4096), "__get_vm_area_node"),
    ("get_vm_area", lambda k, a: k.get_vm_area(4096, 2), "__get_vm_area_node"),
], ids=lambda call: call[0])  # fmt: skip
def test_in_interrupt_it_is_a_bug_and_the_end(k, call):
    addr, (_, run, function) = k.vmalloc(k.arch.page_size), call
    before = state(k)
    k.in_interrupt = True
    with pytest.raises(KernelBug) as caught:
        run(k, addr)
    assert (caught.value.condition, caught.value.function) == ("in_interrupt()", function)
    assert str(caught.value) == f"kernel BUG: BUG_ON(in_interrupt()) in {function}()"
    assert (state(k), k.dead) == (before, caught.value)
    k.in_interrupt = False
    for again in (lambda: k.vmalloc(1), lambda: k.vfree(0), lambda: k.get_vm_area(1, 2), lambda: k.vunmap(0),
                  lambda: k.vwrite(addr, b"x"), lambda: k.alloc_vm_area(1),
                  lambda: k.remove_vm_area(addr), lambda: k.vmap([1], 1, 4, 1)):  # fmt: skip
        with pytest.raises(KernelDead, match=r"this kernel is dead .*; boot a new one") as dead:
            again()
        assert dead.value.cause is k.dead
    assert len(k.vread(addr, 8)) == 8


def test_vmap_maps_given_pages_and_vunmap_leaves_them(k):
    page = k.arch.page_size
    lent = k.vmalloc(40 * page)
    frames = k.find_vm_area(lent).pages[::-1].copy()
    used = k.pages.pages_in_use - sum(k.init_mm.tables.values())
    addr = k.vmap(frames, 40, VM.MAP, k.page_kernel)
    area = k.find_vm_area(addr)
    assert (area.flags, area.size, area.pages, area.nr_pages) == (VM.MAP, 41 * page, None, 0)
    assert k.init_mm.frames(addr, 41).tolist() == [*frames.tolist(), NO_FRAME]
    k.vwrite(addr, b"first")
    assert k.vread(lent + 39 * page, 5) == b"first"
    k.check()
    k.vunmap(addr)
    assert k.find_vm_area(addr) is None
    assert k.pages.pages_in_use - sum(k.init_mm.tables.values()) == used
    assert k.vread(lent + 39 * page, 5) == b"first"


def test_vmap_of_nothing_and_of_a_null_page(k):
    before = state(k)
    with pytest.raises(InvalidSize):
        k.vmap(np.empty(0, np.int64), 0, VM.MAP, k.page_kernel)
    assert state(k) == before
    with pytest.raises(OutOfMemory) as caught:
        k.vmap(np.array([0x900, NO_FRAME, 0x901]), 3, VM.MAP, k.page_kernel)
    assert (caught.value.what, caught.value.done) == ("page", 1)
    at = k.layout.vmalloc_start + k.arch.page_size
    assert str(caught.value) == f"no page (NULL in the page array) for {at:#x}, after 1 entry"
    assert (len(k.vmlist), len(k.init_mm.entries()[0]), k.slab.live_objects) == (0, 0, 0)


def test_mapping_by_hand(k):
    page, flushed = k.arch.page_size, k.flush_counts["flush_cache_vmap"]
    area = k.get_vm_area(3 * page, VM.MAP)
    frames = k.pages.alloc(3, 0xD0, -1)
    assert k.map_vm_area(area, k.page_kernel, frames) == 3
    assert k.init_mm.frames(area.addr, 4).tolist() == [*frames.tolist(), NO_FRAME]
    assert (flushed.calls, flushed.pages) == (1, 3)
    k.unmap_kernel_range(area.addr + page, page)
    assert k.init_mm.frames(area.addr, 3).tolist() == [frames[0], NO_FRAME, frames[2]]
    with pytest.raises(OutOfMemory) as caught:
        k.map_vm_area(area, k.page_kernel, np.array([frames[0], NO_FRAME, 0]))
    assert (caught.value.what, caught.value.done) == ("page", 1)
    assert k.warnings == [("!pte_none(*pte)", "vmap_pte_range")]
    k.free_vm_area(area)
    k.pages.free(frames)
    k.check()


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_empty_or_wrapping_range_is_a_bug(k, wrapped):
    size = k.arch.word_mask & -k.arch.page_size if wrapped else 0
    with pytest.raises(KernelBug) as caught:
        k.unmap_kernel_range(k.layout.vmalloc_start, size)
    assert (caught.value.condition, caught.value.function) == ("addr >= end", "unmap_kernel_range")


def test_an_area_freed_twice_is_a_bug(k):
    area = k.get_vm_area(k.arch.page_size, 2)
    k.free_vm_area(area)
    with pytest.raises(KernelBug) as caught:
        k.free_vm_area(area)
    assert (caught.value.condition, caught.value.function) == ("ret != area", "free_vm_area")


def test_locks_are_free_after_a_bug_with_vmlist_lock_held(k):
    area = k.get_vm_area(k.arch.page_size, 2)
    area.size = 0
    with pytest.raises(KernelBug, match="addr >= end"):
        k.remove_vm_area(area.addr)
    assert (k.vmlist_lock.locked(), k.init_mm.lock.locked()) == (False, False)
    assert k.find_vm_area(area.addr) is area


def test_alloc_vm_area_makes_tables_for_the_guard_page_too(k):
    page, shift = k.arch.page_size, k.arch.levels[-2].shift
    k.get_vm_area((1 << shift) - 2 * page - k.layout.vmalloc_start % (1 << shift), 2)
    area = k.alloc_vm_area(page)
    assert (area.flags, area.size) == (VM.IOREMAP, 2 * page)
    assert len(k.init_mm.entries()[0]) == 0
    last = area.addr + area.size - 1
    assert all(k.init_mm.lookup(at) == 0 for at in (area.addr, last))
    assert k.syncs == 1
    k.free_vm_area(area)
    k.check()


def test_alloc_vm_area_without_a_table_leaves_nothing(k):
    k.fail("pgtable", 1)
    with pytest.raises(OutOfMemory) as caught:
        k.alloc_vm_area(k.arch.page_size)
    assert (caught.value.what, len(k.vmlist), k.slab.live_objects, k.syncs) == ("table", 0, 0, 0)
    k.check()


def test_a_large_page_array_is_an_area_of_its_own(arch, kernel):
    heard = Recorder()
    k, page = kernel(arch, ram=RAM, listeners=[heard]), arch.page_size
    pages = page // arch.pointer_bytes + 1
    addr = k.vmalloc(pages * page)
    area = k.find_vm_area(addr)
    nested = k.find_vm_area(area.pages_addr)
    assert (area.flags, nested.flags) == (VM.ALLOC | VM.VPAGES, VM.ALLOC)
    assert (nested.addr, nested.nr_pages) == (addr + (pages + 1) * page, 2)
    assert area.pages_handle is None
    asked = [event[2] for event in heard.of("pages_allocated")]
    assert asked == [0x80D2, 0xD2]
    k.check()
    k.vfree(addr)
    assert (len(k.vmlist), k.slab.live_objects, k.pages.pages_in_use) == (0, 0, sum(k.init_mm.tables.values()))


def test_addresses_and_frames(k):
    page = k.arch.page_size
    addr = k.vmalloc(2 * page)
    area = k.find_vm_area(addr)
    assert k.vmalloc_to_pfn(addr + page + 5) == k.vmalloc_to_page(addr + page) == area.pages[1]
    assert (k.vmalloc_to_page(addr + 2 * page), k.vmalloc_to_pfn(k.layout.vmalloc_end - page)) == (None, None)


def test_a_further_alignment_is_capped_as_ioremaps_is(k):
    page, most = k.arch.page_size, 1 << k.arch.ioremap_max_order
    window = k.layout.vmalloc_start + page, k.layout.vmalloc_end
    for align, expected in ((4 * page, 4 * page), (4 * most, most)):
        area = k.raw_get_vm_area_node(page, VM.MAP, *window, -1, 0xD0, align)
        assert area.addr == -(-window[0] // expected) * expected
        k.free_vm_area(area)


def test_a_null_page_in_an_areas_array_is_a_bug(k):
    addr = k.vmalloc(3 * k.arch.page_size)
    area = k.find_vm_area(addr)
    frames = area.pages.tolist()
    area.pages[1] = NO_FRAME
    with pytest.raises(KernelBug) as caught:
        k.vfree(addr)
    assert (caught.value.condition, caught.value.function) == ("!area->pages[i]", "__vunmap")
    assert k.pages.allocated(np.array(frames)).tolist() == [False, True, True]


# ---- VM_VPAGES of the caller's own


@pytest.mark.parametrize("flags", [VM.ALLOC | VM.VPAGES, VM.VPAGES])
def test_a_callers_own_vpages_warns_at_vfree_and_goes_on(k, flags):
    page = k.arch.page_size
    area = k.get_vm_area(4 * page, int(flags))
    addr = k.raw_vmalloc_area(area, 0xD0, k.page_kernel)
    handle, used = area.pages_handle, k.pages.pages_in_use
    k.mem_map = (0x1000, 64)
    k.vfree(addr)  # C takes the object that holds the page array for an address: vfree(area->pages)
    digits = k.arch.word_bits // 4
    assert k.dmesg == [f"<3>Trying to vfree() bad address ({handle:0{digits}x})\n"]
    assert k.warnings == [("1", "__vunmap")]
    assert (k.dead, len(k.vmlist), used - k.pages.pages_in_use) == (None, 0, 4)
    assert k.slab.live_objects == 1  # the page array: nobody frees it in C, either
    k.check()


def test_a_callers_own_vpages_on_an_area_without_pages(k):
    area = k.get_vm_area(k.arch.page_size, int(VM.VPAGES))
    k.vfree(area.addr)
    assert (k.dmesg, k.slab.live_objects) == ([], 0)


def test_a_callers_own_vpages_and_an_array_that_is_vmalloced(kernel, registry):
    k = kernel("i386", ram=64 << 20)
    k.mem_map = (0x2000_0000, 32)
    area = k.get_vm_area(1100 * 4096, int(VM.VPAGES))
    k.vfree(k.raw_vmalloc_area(area, 0xD2, k.page_kernel))
    assert (k.dmesg, len(k.vmlist), k.slab.live_objects) == ([], 0, 0)


# ---- a range that is no whole number of pages


@pytest.mark.parametrize(("skip", "size"), [(1, 1), (1, 0x1001), (0, 0x7FF), (3, 0x2001)])
def test_an_odd_range_clears_its_table_to_the_end_and_runs_over(k, skip, size):
    page, table = k.arch.page_size, 1 << k.arch.levels[-1].shift + k.arch.levels[-1].bits
    addr = k.vmalloc(20 * page)
    assert addr % table + 20 * page < table
    with pytest.raises(KernelOops, match="page-table overrun"):
        k.unmap_kernel_range(addr + skip * page, size)
    assert (k.init_mm.frames(addr, 20) >= 0).tolist() == [n < skip for n in range(20)]
    assert isinstance(k.dead, KernelOops)


def test_an_odd_area_maps_a_page_for_its_part_and_runs_over(k):
    page, pages = k.arch.page_size, k.alloc_pages(3, 0xD0, -1)
    area = k.get_vm_area(3 * page, int(VM.MAP))
    area.size = 3 * page + 5  # two whole pages, a part of one, and the guard
    with pytest.raises(ArgumentError, match=r"shape \(2,\), expected one frame for each of the 3 pages"):
        k.map_vm_area(area, k.page_kernel, pages[:2])
    with pytest.raises(KernelOops, match="page-table overrun"):
        k.map_vm_area(area, k.page_kernel, pages)
    assert k.init_mm.frames(area.addr, 4).tolist() == [*pages.tolist(), NO_FRAME]


def test_an_odd_range_over_two_tables_clears_the_first_and_the_second_to_its_end(k):
    page, table = k.arch.page_size, 1 << k.arch.levels[-1].shift + k.arch.levels[-1].bits
    k.vmalloc(table - 12 * page - k.layout.vmalloc_start % table - page)
    addr = k.vmalloc(40 * page)
    before = table - addr % table >> k.arch.page_shift
    assert 0 < before < 40
    with pytest.raises(KernelOops, match="page-table overrun"):
        k.unmap_kernel_range(addr + page, before * page + 1)
    assert (k.init_mm.frames(addr, 40) >= 0).tolist() == [n < 1 for n in range(40)]
