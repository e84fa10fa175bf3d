"""The port at the edges of the address space and of its arguments."""

import numpy as np
import pytest

from tests.support.listening import Recorder
from vmcore.errors import ArgumentError, InvalidSize, KernelBug, KernelDead, KernelError, OutOfMemory
from vmcore.flags import NO_FRAME, VM, VmaFlags
from vmcore.hookspecs import hookimpl
from vmcore.port.structs import VmAreaStruct

RAM = 64 << 20
ENOMEM, EFAULT, EBUSY, EINVAL = 12, 14, 16, 22


@pytest.fixture
def k(arch, kernel):
    return kernel(arch, ram=RAM)


def area_at(k, start, pages):
    """Reserve and map an area outside the vmalloc window; return its address."""
    area = k.raw_get_vm_area(pages * k.page_size, int(VM.ALLOC), start, k.word_mask)
    return k.raw_vmalloc_area(area, 0xD2, k.page_kernel)


def test_reads_and_writes_from_address_zero(k):
    """addr + count does not overflow where addr is 0: nothing is cut off (mm/vmalloc.c:636, 674)."""
    assert (k.vread(0, 10), k.vwrite(0, b"x" * 10)) == (b"", 0)
    k.vmalloc(1)
    assert k.vread(0, 10) == bytes(10)
    assert k.vwrite(0, b"x" * 10) == 10
    for addr in (1, 9, 10, 11):
        assert (k.vread(addr, 10), k.vwrite(addr, b"x" * 10)) == (bytes(10), 10)


def test_reads_and_writes_at_the_top_of_the_address_space(k):
    """Where addr + count wraps the count ends at the last byte (mm/vmalloc.c:636, 674)."""
    page, top = k.page_size, k.word_mask + 1
    at = area_at(k, top - 4 * page, 2)
    assert at == top - 4 * page
    data = np.random.default_rng(3).integers(0, 256, 6 * page, np.uint8).tobytes()
    for skip in (0, 5, page + 1):
        whole = 2 * page - skip
        assert k.vwrite(at + skip, data) == whole  # up to the guard page
        assert k.vread(at + skip, 6 * page) == data[:whole]
        assert k.vread(at + skip, whole) == data[:whole]
        assert k.vwrite(at + skip, data[:7]) == 7
    assert k.vwrite(at - 3, b"abcdef") == 6
    assert k.vread(at - 3, 8 * page)[:6] == b"\0\0\0def"
    assert (k.vread(top - page, page), k.vwrite(top - page, bytes(2 * page))) == (b"", 0)
    assert (k.vread(top - 1, 2), k.vwrite(top - 1, b"xy")) == (b"", 0)


def test_a_read_of_more_than_any_caller_has_room_for_is_refused(k, monkeypatch):
    """Counted is what is read, to the end of the last area, and not what is asked for."""
    page = k.page_size
    assert k.vread(0, k.word_mask) == b""
    monkeypatch.setattr("vmcore.port.vmalloc._ANSWER_MOST", 4 * page)
    assert k.vread(k.layout.vmalloc_start, 5 * page) == b""
    at = k.vmalloc(4 * page)
    assert k.vread(at, k.word_mask) == bytes(4 * page)
    assert k.vread(at - 8, 4 * page) == bytes(4 * page)
    for addr, count in ((at - 1, k.word_mask), (at - 1, 4 * page + 1), (0, k.word_mask)):
        size = min(at + 4 * page - addr, count)
        with pytest.raises(
            ArgumentError, match=f"found {size:#x} bytes to read from {addr:#x} .* at most {4 * page:#x};"
        ):
            k.vread(addr, count)
    assert k.vread(at + page, 8) == bytes(8)


# ---- page arrays


def test_frames_that_are_not_to_be_mapped_are_not_looked_at(k):
    with pytest.raises(InvalidSize):
        k.vmap(np.array([-5]), 0, int(VM.MAP), k.page_kernel)
    at = k.vmap(np.array([1, -5]), 1, int(VM.MAP), k.page_kernel)
    assert k.vmalloc_to_pfn(at) == 1


@pytest.mark.parametrize("count", [1, 20])
def test_the_largest_frame_of_an_int64_is_one(k, count):
    """Entries lose its upper bits, as in C; a number above it is no frame."""
    frames = np.full(count, (1 << 63) - 1, np.uint64)
    at = k.vmap(frames, count, int(VM.MAP), k.page_kernel)
    assert k.vmalloc_to_pfn(at) == ((1 << 63) - 1) % (k.arch.levels[-1].physical_end >> k.page_shift)
    frames[-1] = 1 << 63
    with pytest.raises(ArgumentError, match=r"found 0x8000000000000000 in the page array, expected frames"):
        k.vmap(frames, count, int(VM.MAP), k.page_kernel)


def test_a_table_that_is_missing_is_named_with_its_address(k):
    page = k.page_size
    base = k.vmalloc(page)
    table = 1 << k.arch.levels[-2].shift
    pages = (-base & table - 1 or table) // page + 1  # reaches into the next table
    frames = k.pages.alloc(2, 0xD2, -1)
    area = k.get_vm_area(pages * page, int(VM.MAP))
    next_table = (area.addr | table - 1) + 1
    k.fail("pgtable", 1)
    done = next_table - area.addr >> k.page_shift
    with pytest.raises(OutOfMemory) as caught:
        k.map_vm_area(area, k.page_kernel, np.resize(frames, pages))
    told = f"no page table for {next_table:#x}, after {done:,} {'entry' if done == 1 else 'entries'}"
    assert (caught.value.what, caught.value.done, str(caught.value)) == ("table", done, told)


def test_the_first_page_of_a_large_area_is_missing(k):
    """Its array of page pointers is mapped already, and no pointer of it is read."""
    page = k.page_size
    pages = page // k.arch.pointer_bytes + 1
    tables = dict(k.init_mm.tables)
    used = k.pages.pages_in_use - sum(tables.values())
    k.fail("alloc_page", 3)  # the array has two pages of its own
    with pytest.raises(OutOfMemory) as caught:
        k.vmalloc(pages * page)
    assert (caught.value.what, caught.value.done) == ("page", 0)
    assert str(caught.value) == f"page 0 of {pages} could not be allocated"
    assert (len(k.vmlist), k.slab.live_objects, k.dead) == (0, 0, None)
    assert k.pages.pages_in_use - sum(k.init_mm.tables.values()) == used
    k.check()


def test_an_interrupt_in_the_flush_of_a_mapping_ends_the_kernel(arch, kernel):
    class Interrupts:
        @hookimpl
        def vmcore_flush(self, flush):
            if flush.symbol == "flush_cache_vmap":
                raise KeyboardInterrupt

    k = kernel(arch, ram=RAM, listeners=[Interrupts()])
    with pytest.raises(KeyboardInterrupt):
        k.vmap(np.array([1]), 1, int(VM.MAP), k.page_kernel)
    with pytest.raises(KernelDead):
        k.vmalloc(1)


# ---- remap_vmalloc_range


@pytest.mark.parametrize("pages", [1, 4, 5, 9])
def test_pages_are_inserted_in_steps(arch, kernel, monkeypatch, pages):
    monkeypatch.setattr("vmcore.port.user._BATCH", 4)
    heard = Recorder()
    k = kernel(arch, ram=RAM, listeners=[heard])
    page, first = k.page_size, 16
    addr = k.vmalloc_user(10 * page)
    frames = k.find_vm_area(addr).pages.tolist()
    vma = VmAreaStruct(first * page, (first + pages) * page, vm_flags=1)
    k.remap_vmalloc_range(vma, addr, 1)
    assert vma.inserted.tolist() == frames[1 : 1 + pages]
    assert vma.vm_flags == 1 | VmaFlags.RESERVED | VmaFlags.INSERTPAGE
    assert heard.of("page_inserted") == [
        ("page_inserted", (first + n) * page, frames[1 + n : 1 + min(n + 4, pages)], 0) for n in range(0, pages, 4)
    ]


@pytest.mark.parametrize("nth", [1, 4, 5, 7])
def test_an_insertion_fails_at_its_page_in_whichever_step(k, monkeypatch, nth):
    monkeypatch.setattr("vmcore.port.user._BATCH", 4)
    page = k.page_size
    addr = k.vmalloc_user(7 * page)
    frames = k.find_vm_area(addr).pages.tolist()
    vma = VmAreaStruct(16 * page, 23 * page)
    k.fail("insert", nth)
    message = rf"at {(15 + nth) * page:#x}: out of memory \(after {nth - 1} pages\)"
    with pytest.raises(KernelError, match=message) as caught:
        k.remap_vmalloc_range(vma, addr, 0)
    assert (caught.value.errno, vma.vm_flags) == (ENOMEM, VmaFlags.INSERTPAGE)
    assert vma.inserted[: nth - 1].tolist() == frames[: nth - 1]
    assert set(vma.inserted[nth - 1 :].tolist()) <= {NO_FRAME}
    vma.inserted[:] = NO_FRAME
    k.remap_vmalloc_range(vma, addr, 0)
    assert vma.inserted.tolist() == frames


def test_a_page_that_is_there_already_counts_as_an_insertion_and_a_free_one_does_not(k):
    """vm_insert_page() takes the table's lock, which may fail, before it looks at the entry (mm/memory.c)."""
    page = k.page_size
    addr = k.vmalloc_user(3 * page)
    frames = k.find_vm_area(addr).pages.tolist()

    def insert(errno, after, inserted=(NO_FRAME,) * 3):
        vma = VmAreaStruct(16 * page, 19 * page)
        vma.inserted = np.array(inserted, np.int64)
        with pytest.raises(KernelError, match=rf"after {after} pages?\b") as caught:
            k.remap_vmalloc_range(vma, addr, 0)
        assert caught.value.errno == errno

    k.fail("insert", 4)
    insert(EBUSY, 1, (NO_FRAME, frames[1], NO_FRAME))  # the first and the second
    insert(ENOMEM, 1)  # the third and the fourth
    k.fail("insert", 2)
    insert(ENOMEM, 1, (NO_FRAME, frames[1], NO_FRAME))
    k.pages.free(np.array(frames[1:2]))
    k.fail("insert", 3)
    insert(EINVAL, 1)  # the first
    insert(EINVAL, 1)  # the second
    k.pages.free(np.array(frames[:1]))
    insert(EINVAL, 0)


@pytest.mark.parametrize(("ragged", "pages"), [(1, 2), (5, 2), (0, 0)])
def test_the_insertion_outside_the_vma_is_heard_of_one_page(arch, kernel, ragged, pages):
    heard = Recorder()
    k = kernel(arch, ram=RAM, listeners=[heard])
    page = k.page_size
    addr = k.vmalloc_user(4 * page)
    frames = k.find_vm_area(addr).pages.tolist()
    vma = VmAreaStruct(16 * page, 16 * page + max(pages - 1, 0) * page + ragged)
    with pytest.raises(KernelError, match="it is outside the vma"):
        k.remap_vmalloc_range(vma, addr, 0)
    inserted = [("page_inserted", 16 * page, frames[:pages], 0)] if pages else []
    outside = ("page_inserted", (16 + pages) * page, frames[pages : pages + 1], -EFAULT)
    assert heard.of("page_inserted") == [*inserted, outside]


# ---- after a BUG


CALLS = {
    "unmap_kernel_range": lambda k, area: k.unmap_kernel_range(area.addr, k.page_size),
    "map_vm_area": lambda k, area: k.map_vm_area(area, k.page_kernel, area.pages),
    "__get_vm_area": lambda k, area: k.raw_get_vm_area(1, 2, k.layout.vmalloc_start, k.layout.vmalloc_end),
    "get_vm_area": lambda k, area: k.get_vm_area(1, 2),
    "get_vm_area_node": lambda k, area: k.get_vm_area_node(1, 2, -1, 0xD0),
    "remove_vm_area": lambda k, area: k.remove_vm_area(area.addr),
    "vfree": lambda k, area: k.vfree(area.addr),
    "vfree of NULL": lambda k, area: k.vfree(0),
    "vunmap": lambda k, area: k.vunmap(area.addr),
    "vunmap of NULL": lambda k, area: k.vunmap(0),
    "vmap": lambda k, area: k.vmap(area.pages, 1, 4, k.page_kernel),
    "__vmalloc_area": lambda k, area: k.raw_vmalloc_area(area, 0xD2, k.page_kernel),
    "__vmalloc": lambda k, area: k.raw_vmalloc(1, 0xD2, k.page_kernel),
    "vmalloc": lambda k, area: k.vmalloc(0),
    "vmalloc_node": lambda k, area: k.vmalloc_node(0, -1),
    "vmalloc_user": lambda k, area: k.vmalloc_user(1),
    "vwrite": lambda k, area: k.vwrite(area.addr, b""),
    "remap_vmalloc_range": lambda k, area: k.remap_vmalloc_range(VmAreaStruct(0, k.page_size), area.addr + 1, 0),
    "alloc_vm_area": lambda k, area: k.alloc_vm_area(1),
    "free_vm_area": lambda k, area: k.free_vm_area(area),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_kernel_that_is_dead_does_nothing_more(kernel, call):
    heard = Recorder()
    k = kernel("x86_64", ram=RAM, listeners=[heard])
    area = k.find_vm_area(k.vmalloc_user(1))
    with pytest.raises(KernelBug):
        k.unmap_kernel_range(area.addr, 0)
    heard.take()
    frames, areas = k.init_mm.frames(area.addr, 1).tolist(), list(k.vmlist)
    with pytest.raises(KernelDead):
        call(k, area)
    assert (heard.take(), k.init_mm.frames(area.addr, 1).tolist(), list(k.vmlist)) == ([], frames, areas)
