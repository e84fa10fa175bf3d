"""vread, vwrite and remap_vmalloc_range on every machine: pages, gaps, guard pages, faults, errnos in order."""

from array import array

import numpy as np
import pytest

from vmcore.errors import ArgumentError, KernelDead, KernelError, KernelOops
from vmcore.flags import NO_FRAME, VM, VmaFlags
from vmcore.port.structs import VmAreaStruct

RAM = 64 << 20
EFAULT, EBUSY, EINVAL = 14, 16, 22


@pytest.fixture
def k(arch, kernel):
    return kernel(arch, ram=RAM)


def pattern(length, seed=0):
    return np.random.default_rng(seed).integers(0, 256, length, np.uint8).tobytes()


@pytest.mark.parametrize("skip", [0, 1, 4095, 4097])
def test_what_is_written_is_read_across_pages(k, skip):
    page = k.arch.page_size
    addr = k.vmalloc(5 * page)
    for length in (1, 7, page, page + 3, 3 * page, 5 * page - skip):
        data = pattern(length, length)
        assert k.vwrite(addr + skip, data) == length
        assert k.vread(addr + skip, length) == data
    frames = k.find_vm_area(addr).pages.tolist()
    k.flush_cache_all(0)
    whole = b"".join(k.memory.read(f << k.arch.page_shift, page) for f in frames)
    assert whole[skip:] == pattern(5 * page - skip, 5 * page - skip)


def test_gaps_and_guard_pages_read_as_zeros_and_swallow_writes(k):
    page = k.arch.page_size
    one, gone, three = (k.vmalloc(n * page) for n in (1, 2, 1))
    k.vfree(gone)
    length = three + page - one
    assert length == 6 * page
    assert k.vwrite(one, b"\xaa" * (length + 1000)) == length
    assert k.vread(one, length + 1000) == b"\xaa" * page + bytes(4 * page) + b"\xaa" * page
    assert k.vread(one + page - 2, 5) == b"\xaa\xaa\0\0\0"
    assert k.vread(three - 1, 3) == b"\0\xaa\xaa"
    assert k.vread(one - 4, 6) == b"\0\0\0\0\xaa\xaa"
    assert k.vwrite(one - 4, b"abcdef") == 6
    assert k.vread(one, 3) == b"ef\xaa"


def test_nothing_is_read_behind_the_last_area(k):
    page = k.arch.page_size
    assert (k.vread(k.layout.vmalloc_start, 10), k.vwrite(k.layout.vmalloc_start, b"x")) == (b"", 0)
    addr = k.vmalloc(page)
    assert (k.vread(addr + page, 10), k.vwrite(addr + page, b"x")) == (b"", 0)
    assert (k.vread(addr, 0), k.vwrite(addr, b"")) == (b"", 0)
    assert len(k.vread(addr, k.arch.word_mask)) == page


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_page_that_is_not_mapped_is_an_oops(k, missing):
    page = k.arch.page_size
    addr = k.vmalloc(3 * page)
    k.vwrite(addr, b"\x01" * (3 * page))
    k.unmap_kernel_range(addr + missing * page, page)
    with pytest.raises(KernelOops) as caught:
        k.vread(addr + 10, 3 * page - 10)
    at = addr + missing * page if missing else addr + 10
    assert (caught.value.address, caught.value.access) == (at, "read")
    assert str(caught.value) == f"kernel oops: read at {at:#x}"
    assert (k.dead, k.vmlist_lock.locked()) == (caught.value, False)
    with pytest.raises(KernelDead):
        k.vwrite(addr, b"x")


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_what_was_written_before_an_oops_stays(k, missing):
    page = k.arch.page_size
    addr = k.vmalloc(3 * page)
    frames = k.find_vm_area(addr).pages.tolist()
    k.vwrite(addr, bytes(3 * page))
    k.unmap_kernel_range(addr + missing * page, page)
    with pytest.raises(KernelOops) as caught:
        k.vwrite(addr + 10, b"\x77" * (3 * page - 10))
    assert caught.value.address == (addr + missing * page if missing else addr + 10)
    assert caught.value.access == "write"
    written = b"".join(k.memory.read(f << k.arch.page_shift, page) for f in frames)
    written_to = bytes(10) + b"\x77" * (missing * page - 10) if missing else b""
    assert written == written_to.ljust(3 * page, b"\0")


def test_an_ioremap_area_is_read_like_any_other(k):
    page = k.arch.page_size
    lent = k.vmalloc(page)
    k.vwrite(lent, b"registers")
    addr = k.ioremap((k.vmalloc_to_pfn(lent) << k.arch.page_shift) + 2, 4)
    assert k.vread(addr, 4) == b"gist"


# ---- remap_vmalloc_range


def user(k, first, pages, ragged=0):
    page = k.arch.page_size
    return VmAreaStruct(first * page, (first + pages) * page + ragged)


def test_a_user_mapping_gets_the_areas_pages(k):
    addr = k.vmalloc_user(5 * k.arch.page_size)
    frames = k.find_vm_area(addr).pages.tolist()
    vma = user(k, 16, 3)
    k.remap_vmalloc_range(vma, addr, 1)
    assert vma.inserted.tolist() == frames[1:4]
    assert vma.vm_flags == VmaFlags.RESERVED | VmaFlags.INSERTPAGE
    whole = user(k, 16, 5)
    k.remap_vmalloc_range(whole, addr, 0)
    assert whole.inserted.tolist() == frames


def refused(k, vma, addr, pgoff):
    with pytest.raises(KernelError) as caught:
        k.remap_vmalloc_range(vma, addr, pgoff)
    return caught.value.errno


def test_the_order_of_the_errnos(k):
    page = k.arch.page_size
    plain, addr = k.vmalloc(2 * page), k.vmalloc_user(2 * page)
    cases = [(user(k, 16, 1), addr + 1, 0), (user(k, 16, 1), plain, 0), (user(k, 16, 1), addr + page, 0),
             (user(k, 16, 3), addr, 0), (user(k, 16, 2), addr, 1), (user(k, 16, 1), addr, 2)]  # fmt: skip
    for vma, at, pgoff in cases:
        assert refused(k, vma, at, pgoff) == EINVAL
        assert (vma.vm_flags, vma.inserted.tolist()) == (0, [])
    assert k.dead is None
    k.remap_vmalloc_range(user(k, 16, 1), addr, 1 << k.arch.word_bits - k.arch.page_shift)


def test_a_page_that_is_there_already(k):
    addr = k.vmalloc_user(2 * k.arch.page_size)
    vma = user(k, 16, 2)
    k.remap_vmalloc_range(vma, addr, 0)
    before = vma.inserted.tolist()
    vma.vm_flags = 0
    assert refused(k, vma, addr, 0) == EBUSY
    assert (vma.inserted.tolist(), vma.vm_flags) == (before, VmaFlags.INSERTPAGE)


def test_a_ragged_or_empty_mapping_runs_past_its_end(k):
    addr = k.vmalloc_user(4 * k.arch.page_size)
    frames = k.find_vm_area(addr).pages.tolist()
    ragged = user(k, 16, 1, ragged=5)
    assert refused(k, ragged, addr, 0) == EFAULT
    assert (ragged.inserted[:2].tolist(), ragged.vm_flags) == (frames[:2], VmaFlags.INSERTPAGE)
    empty = user(k, 16, 0)
    assert (refused(k, empty, addr, 0), empty.vm_flags, empty.inserted.tolist()) == (EFAULT, 0, [])


def test_a_free_page_cannot_be_inserted(k):
    addr = k.vmalloc_user(3 * k.arch.page_size)
    frames = k.find_vm_area(addr).pages
    k.pages.free(frames[1:2])
    vma = user(k, 16, 3)
    assert refused(k, vma, addr, 0) == EINVAL
    assert vma.inserted[:2].tolist() == [frames[0], NO_FRAME]


def test_a_page_that_is_not_there_is_an_oops(k):
    page = k.arch.page_size
    addr = k.vmalloc_user(3 * page)
    k.unmap_kernel_range(addr + page, page)
    vma = user(k, 16, 3)
    with pytest.raises(KernelOops) as caught:
        k.remap_vmalloc_range(vma, addr, 0)
    assert (caught.value.address, caught.value.access) == (0, "read page_count(NULL)")
    assert vma.inserted[0] == k.vmalloc_to_pfn(addr)


def test_more_pages_than_one_step_looks_at(kernel):
    k = kernel("x86_64", ram=1 << 30)
    pages = (1 << 16) + 3
    area = k.get_vm_area(pages << 12, VM.ALLOC | VM.USERMAP)
    k.map_vm_area(area, k.page_kernel, k.pages.alloc(pages, 0xD2, -1))
    vma = user(k, 16, pages)
    k.remap_vmalloc_range(vma, area.addr, 0)
    assert (vma.inserted == k.init_mm.frames(area.addr, pages)).all()


# ---- buffers of other items


@pytest.mark.parametrize(
    "data",
    [
        array("I", range(1000)),
        np.arange(1000, dtype=np.uint32),
        np.arange(1000, dtype=">u4"),
        np.arange(500.0),
        np.arange(1000, dtype=np.int32).reshape(10, 100),
        memoryview(array("H", range(2000))),
        bytearray(4000),
    ],
    ids=["array", "uint32", "other byte order", "float64", "two dimensions", "memoryview", "bytearray"],
)
def test_all_bytes_of_wide_items_are_written(k, data):
    addr = k.vmalloc(2 * k.arch.page_size)
    assert k.vwrite(addr + 6, data) == 4000
    assert k.vread(addr + 6, 4000) == memoryview(data).tobytes()


@pytest.mark.parametrize("data", [b"", array("I"), np.empty((0, 3)), memoryview(b"")[::2]])
def test_nothing_to_write(k, data):
    assert k.vwrite(k.vmalloc(4096), data) == 0


@pytest.mark.parametrize("data", [np.arange(8)[::2], np.array([None]), "text", [1], np.zeros(2, "M8[s]"), 7])
def test_what_is_not_bytes_in_one_piece_is_refused(k, data):
    addr = k.vmalloc(4096)
    for store in (k.vwrite, k.cpu.store):
        with pytest.raises(ArgumentError, match=f": found {type(data).__name__}, expected bytes, or an array of "):
            store(addr, data)
    assert k.vread(addr, 64) == bytes(64)


# ---- a vma that ends where it starts, or below


@pytest.mark.parametrize("size", [0, -1, -2, -3, "wraps"])
def test_a_vma_that_ends_below_its_start_takes_no_page(k, size):
    page = k.arch.page_size
    addr = k.vmalloc_user(3 * page)
    start = k.arch.word_mask + 1 - page if size == "wraps" else 0x100000 * page
    vma = VmAreaStruct(start, 2 * page if size == "wraps" else start + size * page)
    usize = vma.vm_end - vma.vm_start & k.arch.word_mask
    refuses = refused(k, vma, addr, 0)
    assert refuses == (EFAULT if usize <= 3 * page else EINVAL)
    assert (vma.inserted.tolist(), vma.vm_flags, k.dead) == ([], 0, None)


# ---- a kernel that dies again


def test_a_second_oops_keeps_the_first_cause(k):
    addr = k.vmalloc(2 * k.arch.page_size)
    k.unmap_kernel_range(addr, 2 * k.arch.page_size)
    with pytest.raises(KernelOops) as first:
        k.vread(addr + k.arch.page_size, 1)
    with pytest.raises(KernelOops) as second:
        k.vread(addr, 1)
    assert (first.value.address, second.value.address) == (addr + k.arch.page_size, addr)
    assert k.dead == first.value
    with pytest.raises(KernelDead) as dead:
        k.vmalloc(1)
    assert dead.value.cause == first.value
