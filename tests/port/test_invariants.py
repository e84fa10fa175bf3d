"""What check() finds beside the area list: the hardware's words, tables, processes; and refused arguments."""

import numpy as np
import pytest

from vmcore import Kernel
from vmcore.errors import ArgumentError, BrokenInvariant, KernelBug, KernelDead, OutOfMemory
from vmcore.flags import VM

MIB = 1 << 20


@pytest.fixture
def arm(registry):
    k = Kernel("armv5", ram=64 * MIB, registry=registry)
    k.addr = k.vmalloc(3 << 12)
    k.check()
    return k


def test_the_hardware_half_says_what_linux_wrote(arm):
    at, _ = arm.init_mm.entry(arm.addr, 1)
    arm.memory.store(at - 0x800, 0xDEAD0002, 4)
    index, table = arm.addr >> 12 & 511, at & ~0xFFF
    with pytest.raises(
        BrokenInvariant, match=f"hardware half of the table at {table:#x}: entry {index} is 0xdead0002"
    ):
        arm.check()


@pytest.mark.parametrize("word", [0, 0x1234])
def test_the_second_word_of_a_pair_follows_the_first(arm, word):
    at, first = arm.init_mm.entry(arm.addr, 0)
    arm.memory.store(at + 4, word, 4)
    message = f"word 1 of the pgd entries: entry {arm.addr >> 21} is {word:#x}, expected {first + 0x400:#x}"
    with pytest.raises(BrokenInvariant, match=message):
        arm.check()


def test_a_table_that_is_free(arch, kernel):
    k = kernel(arch)
    addr = k.vmalloc(arch.page_size)
    k.check()
    _, word = k.init_mm.entry(addr, len(arch.levels) - 2)
    k.pages.free(np.array([k.init_mm.address_of(word, len(arch.levels) - 2) >> arch.page_shift]))
    with pytest.raises(BrokenInvariant, match="a page table lies in a page that is free, or in another table"):
        k.check()


def test_a_process_whose_kernel_half_differs(arch, kernel):
    k = kernel(arch)
    mm = k.mm_alloc()
    k.vmalloc(arch.page_size)
    k.check()  # an entry that has not reached the process yet is no damage
    level, last = arch.levels[0], arch.levels[0].entries - 1
    k.memory.store(mm.tables.root + last * level.entry_bytes, 0x1067, level.word_bytes)
    own = k.memory.load(k.init_mm.root + last * level.entry_bytes, level.word_bytes)
    with pytest.raises(
        BrokenInvariant, match=rf"process 1: {level.name}\[{last}\] is 0x1067, init_mm has {own:#x}"
    ):
        k.check()


def test_an_area_without_pages_is_nothing_to_look_at(arch, kernel):
    k = kernel(arch)
    area = k.find_vm_area(k.vmalloc(arch.page_size))
    area.nr_pages = 0
    k.check()


@pytest.mark.parametrize(("given", "shape"), [([], "(0,)"), ([1], "(1,)"), ([[1, 2], [3, 4]], "(2, 2)")])
def test_a_page_array_that_is_too_short(arch, kernel, given, shape):
    k = kernel(arch)
    before = k.slab.live_objects
    with pytest.raises(ArgumentError) as error:
        k.vmap(np.array(given, np.int64), 2, VM.MAP, k.page_kernel)
    assert str(error.value).startswith(
        f"vmap: found a page array of shape {shape}, expected one frame for each of the 2"
    )
    assert (len(k.vmlist), k.slab.live_objects) == (0, before)
    area = k.get_vm_area(2 * arch.page_size, VM.MAP)
    with pytest.raises(ArgumentError, match="map_vm_area: found a page array of shape"):
        k.map_vm_area(area, k.page_kernel, np.array(given, np.int64))
    assert k.flush_counts["flush_cache_vmap"].calls == 0


def test_numbers_of_numpy_are_numbers(arch, kernel):
    k, page = kernel(arch), arch.page_size
    addr = k.vmalloc(np.int64(page))
    assert type(addr) is int
    where = np.uint64(addr)
    assert k.vwrite(where, b"abc") == 3
    assert k.vread(where, np.int64(3)) == b"abc"
    area = k.alloc_vm_area(np.int64(page))
    k.free_vm_area(area)
    k.unmap_kernel_range(where, np.uint64(page))
    k.vfree(where)
    k.check()
    for call in (k.vmalloc, k.vfree):
        with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
            call("0x1000")


def test_a_count_is_an_unsigned_long(kernel, registry):
    k = kernel(registry.get("i386"))
    addr = k.vmalloc(4096)
    assert len(k.vread(addr, -5)) == 4096


def test_a_bug_carries_the_lines_of_its_call(registry):
    k = Kernel("i386", registry=registry)
    k.vfree(0x123)
    area = k.get_vm_area(0x1000, VM.ALLOC)
    k.memory.store(k.init_mm.entry(area.addr, 0)[0], 0x1E3, 4)
    k.kfree(k.remove_vm_area(area.addr).handle)
    assert k.lines() == ("<3>mm/memory.c: bad pgd 000001e3.\n",)
    with pytest.raises(KernelBug) as bug:
        k.free_vm_area(area)
    assert bug.value.lines == ()


def test_a_failed_map_carries_the_lines_of_its_call(arch, kernel):
    k = kernel(arch)
    k.vfree(1)
    k.fail("pgtable", 1)
    with pytest.raises(OutOfMemory) as error:
        k.vmalloc(arch.page_size)
    assert error.value.lines == ()
    k.vfree(1)
    assert k.lines() == (k.dmesg[-1],)


def test_a_dead_kernel_makes_no_process_and_syncs_none(arch, kernel):
    k = kernel(arch)
    with pytest.raises(KernelBug):
        k.unmap_kernel_range(k.layout.vmalloc_start, 0)
    for call in (k.mm_alloc, k.vmalloc_sync_all):
        with pytest.raises(KernelDead, match="this kernel is dead"):
            call()
