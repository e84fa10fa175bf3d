"""What vmalloc takes on every machine: num_physpages, kmalloc objects, and failures on request."""

import numpy as np
import pytest

from vmcore.errors import BrokenInvariant, ConfigurationError, KernelError, OutOfMemory
from vmcore.flags import GFP_KERNEL, ZERO_SIZE_PTR
from vmcore.memory.slab import Slab
from vmcore.port.structs import VmAreaStruct

MIB = 1 << 20
RAM = 64 * MIB


def test_num_physpages(arch, kernel):
    k = kernel(arch, ram=RAM)
    assert k.num_physpages == k.layout.banks[-1].end - (k.layout.phys_offset or 0) >> arch.page_shift
    k.num_physpages = 4
    with pytest.raises(OutOfMemory) as caught:
        k.vmalloc(4 * arch.page_size + 1)
    assert (caught.value.what, str(caught.value)) == (
        "num_physpages",
        "0x5 pages asked for, this machine has 0x4",
    )
    with pytest.raises(OutOfMemory, match="0x5 pages asked for"):
        k.vmap(np.arange(5), 5, 4, arch.page_kernel)
    assert (k.dmesg, k.slab.live_objects, len(k.vmlist)) == ([], 0, 0)
    k.vfree(k.vmalloc(4 * arch.page_size))
    k.check()


def test_kmalloc_is_accounted(arch, kernel):
    k = kernel(arch, ram=RAM)
    addr = k.vmalloc(3 * arch.page_size)
    assert (k.slab.live_objects, k.slab.live_bytes) == (2, arch.sizeof_vm_struct + 3 * arch.pointer_bytes)
    area = k.get_vm_area(arch.page_size, 1)
    assert (k.slab.live_objects, k.slab.live_bytes) == (3, 2 * arch.sizeof_vm_struct + 3 * arch.pointer_bytes)
    k.free_vm_area(area)
    k.vfree(addr)
    assert (k.slab.live_objects, k.slab.live_bytes) == (0, 0)


def test_a_slab_never_reuses_a_handle():
    slab = Slab()
    first = slab.alloc(10, GFP_KERNEL, -1)
    slab.free(first)
    second = slab.alloc(10, GFP_KERNEL, 0)
    assert (first, second, slab.lives(first), slab.lives(second)) == (32, 33, False, True)
    with pytest.raises(BrokenInvariant, match="kfree of object 32, which does not live"):
        slab.free(first)
    assert (slab.live_objects, slab.live_bytes) == (1, 10)


def test_zero_bytes_are_no_object():
    slab = Slab()
    assert slab.alloc(0, GFP_KERNEL, -1) == ZERO_SIZE_PTR == 16
    slab.free(ZERO_SIZE_PTR)
    assert (slab.live_objects, slab.lives(ZERO_SIZE_PTR)) == (0, True)


def state(k):
    return len(k.vmlist), k.pages.pages_in_use, k.slab.live_objects, k.slab.live_bytes


def without_tables(k):
    """Return `state` without the pages that page tables took, which stay."""
    areas, pages, *objects = state(k)
    return areas, pages - sum(k.init_mm.tables.values()), *objects


@pytest.mark.parametrize(
    ("kind", "nth", "what", "done"),
    [("kmalloc", 1, "kmalloc", 0), ("kmalloc", 2, "kmalloc", 0), ("alloc_page", 1, "page", 0),
     ("alloc_page", 3, "page", 2), ("pgtable", 1, "table", 0)],
)  # fmt: skip
def test_the_nth_call_fails_once(arch, kernel, kind, nth, what, done):
    k = kernel(arch, ram=RAM)
    before = without_tables(k)
    k.fail(kind, nth)
    with pytest.raises(OutOfMemory) as caught:
        k.vmalloc(4 * arch.page_size)
    assert (caught.value.what, caught.value.done) == (what, done)
    assert without_tables(k) == before
    addr = k.vmalloc(4 * arch.page_size)
    k.vfree(addr)
    assert without_tables(k) == before
    k.check()


@pytest.mark.parametrize("kind", ["alloc_page", "pgtable", "kmalloc", "insert"])
def test_a_failure_is_taken_back(arch, kernel, kind):
    k = kernel(arch, ram=RAM)
    k.fail(kind, 1)
    k.fail(kind, 0)
    addr = k.vmalloc_user(2 * arch.page_size)
    vma = VmAreaStruct(0x10 * arch.page_size, 0x12 * arch.page_size)
    k.remap_vmalloc_range(vma, addr, 0)
    assert vma.inserted.tolist() == k.find_vm_area(addr).pages.tolist()


def test_a_later_call_than_there_are_does_not_fail(arch, kernel):
    k = kernel(arch, ram=RAM)
    k.fail("alloc_page", 4)
    k.vmalloc(3 * arch.page_size)
    with pytest.raises(OutOfMemory):
        k.vmalloc(arch.page_size)
    k.vmalloc(arch.page_size)


def test_insertion_fails_at_its_page(arch, kernel):
    k, page = kernel(arch, ram=RAM), arch.page_size
    addr = k.vmalloc_user(3 * page)
    k.fail("insert", 2)
    vma = VmAreaStruct(page, 4 * page)
    with pytest.raises(KernelError) as caught:
        k.remap_vmalloc_range(vma, addr, 0)
    assert (caught.value.errno, vma.inserted[0], vma.inserted[1]) == (12, k.vmalloc_to_pfn(addr), -1)
    assert f"vm_insert_page at {2 * page:#x}: out of memory (after 1 page)" in str(caught.value)


def test_unknown_and_negative_failures(kernel):
    k = kernel("x86_64", ram=RAM)
    with pytest.raises(
        ConfigurationError, match=r"fail: unknown kind 'pages': .*valid: alloc_page, insert, kmalloc, pg"
    ):
        k.fail("pages", 1)
    with pytest.raises(ConfigurationError, match="fail kmalloc: found -1, expected 0"):
        k.fail("kmalloc", -1)


def test_real_exhaustion_leaves_nothing_behind(arch, kernel):
    k = kernel(arch, ram=RAM)
    k.num_physpages = 1 << 40
    k.vmalloc(64 * arch.page_size)
    before = without_tables(k)
    with pytest.raises(OutOfMemory) as caught:
        k.vmalloc(RAM)
    assert caught.value.what in ("page", "table")
    assert without_tables(k) == before
    k.check()
