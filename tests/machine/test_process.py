"""Processes' root tables: copied at birth, synced by vmalloc_sync_all, repaired by vmalloc_fault."""

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest
from attrs import evolve

from vmcore.architecture import Symbols
from vmcore.errors import BrokenInvariant, ConfigurationError, KernelBug, OutOfMemory
from vmcore.hookspecs import hookimpl
from vmcore.paging.mmu import Mmu

RAM = 64 << 20


def root_entries(k, root):
    size = k.arch.levels[0].entry_bytes
    raw = k.memory.read(root, k.arch.root_bytes)
    return [raw[n : n + size] for n in range(0, len(raw), size)]


def run(k, mm):
    k.switch_mm(0, mm)


def test_a_new_process_has_the_kernels_entries_and_no_others(arch, kernel):
    k = kernel(arch, ram=RAM)
    addr = k.vmalloc(arch.page_size)
    k.memory.write(k.layout.swapper_pg_dir, b"\x01")  # a user entry of init_mm, which nobody may inherit
    mm = k.mm_alloc()
    first, mine, theirs = (
        k.layout.first_kernel_pgd,
        root_entries(k, mm.tables.root),
        root_entries(k, k.init_mm.root),
    )
    assert mine[first:] == theirs[first:]
    assert set(mine[:first]) == {bytes(arch.levels[0].entry_bytes)}
    assert mm.tables.frame(addr) == k.vmalloc_to_pfn(addr)
    assert mm.tables.root % max(arch.root_bytes, arch.page_size) == 0
    assert (mm.number, k.pgd_list, k.mm_alloc().number) == (1, [mm, k.pgd_list[-1]], 2)
    k.memory.write(k.layout.swapper_pg_dir, b"\x00")
    k.check()


def test_no_room_for_a_process(arch, kernel):
    k = kernel(arch, ram=RAM)
    k.pages.alloc(1 << 20, 0xD0, -1)
    with pytest.raises(OutOfMemory, match=r"free page frames? in a row"):
        k.mm_alloc()
    assert k.pgd_list == []


# ---- exact entries


def test_sync_of_two_levels_copies_present_entries_of_kernel_space(kernel):
    k = kernel("i386-highmem", ram="1G")
    mm = k.mm_alloc()
    area = k.alloc_vm_area(0x1000)
    assert area.addr == 0xF8800000
    word = k.memory.load(0x300F88, 4)
    assert word & 0xFFF == 0x067
    assert k.memory.load(mm.tables.root + 0xF88, 4) == word
    lowmem = range(768, 768 + 224)  # of 4 MiB pages, 896 MiB
    assert [n for n in range(1024) if k.memory.load(mm.tables.root + 4 * n, 4)] == [*lowmem, 994]
    assert k.statics["vmalloc_sync_all.insync"] == {*lowmem, 994}
    assert k.statics["vmalloc_sync_all.start"] == 0xF8000000


def test_sync_of_four_levels_copies_root_entries_of_the_window(kernel):
    k = kernel("x86_64", ram=RAM)
    mm = k.mm_alloc()
    area = k.alloc_vm_area(0x1000)
    assert area.addr == 0xFFFFC20000000000
    word = k.memory.load(0x300C20, 8)
    assert word & 0xFFF == 0x067
    assert k.memory.load(mm.tables.root + 0xC20, 8) == word
    assert [n for n in range(512) if k.memory.load(mm.tables.root + 8 * n, 8)] == [258, 388, 511]
    assert k.statics["vmalloc_sync_all.insync"] == {388}
    assert k.statics["vmalloc_sync_all.start"] == 0xFFFFC28000000000


def test_a_shared_kernel_pmd_needs_no_sync(kernel):
    k = kernel("i386-pae-highmem", ram="1G")
    mm = k.mm_alloc()
    addr = k.alloc_vm_area(0x1000).addr
    assert "vmalloc_sync_all.insync" not in k.statics
    assert mm.tables.entry(addr, 1) == k.init_mm.entry(addr, 1)
    run(k, mm)
    assert k.linked.vmalloc_fault(k, 0, addr, 0) is False
    assert k.linked.vmalloc_fault(k, 0, k.vmalloc(1), 0) is True


def test_an_unshared_pae_kernel_syncs_one_slot_and_repairs_the_others(kernel):
    k = kernel("i386-pae-highmem", ram="1G", platform="paravirt")
    mm = k.mm_alloc()
    assert mm.tables.entry(0xC0000000, 0)[1] != k.init_mm.entry(0xC0000000, 0)[1]
    addr = k.vmalloc(0x1000)
    at, word = k.init_mm.entry(addr, 1)
    assert (addr, at & 0xFFF, word & 0xFFF) == (0xF8800000, 0xE20, 0x067)
    k.vmalloc_sync_all()
    assert mm.tables.entry(addr, 1)[1] == 0
    assert (k.statics["vmalloc_sync_all.start"], k.statics["vmalloc_sync_all.insync"]) == (0, {3})
    run(k, mm)
    assert k.linked.vmalloc_fault(k, 0, addr, 0) is True
    assert mm.tables.entry(addr, 1)[1] == word
    assert k.memory.load(k.init_mm.entry(0xC0000000, 1)[0], 8) == 0x1E3


@pytest.mark.parametrize(
    ("name", "depth", "offset"),
    [("i386-highmem", 0, 0xF88), ("x86_64", 0, 0xC20), ("armv5", 0, None), ("armv7", 0, None)],
)
def test_a_fault_copies_one_entry(kernel, name, depth, offset):
    k = kernel(name, ram="1G" if name == "i386-highmem" else "128M")
    mm = k.mm_alloc()
    addr = k.vmalloc(0x1000)
    reference, word = k.init_mm.entry(addr, depth)
    entry, before = mm.tables.entry(addr, depth)
    assert (before, offset or reference - k.init_mm.root) == (0, entry - mm.tables.root)
    born = root_entries(k, mm.tables.root)
    run(k, mm)
    assert k.linked.vmalloc_fault(k, 0, addr, 0) is True
    size = k.arch.levels[depth].entry_bytes
    assert k.memory.read(entry, size) == k.memory.read(reference, size) != bytes(size)
    if name.startswith("arm"):
        assert (k.memory.load(entry, 4), k.memory.load(entry + 4, 4)) == (word, word + 0x400)
    assert sum(a != b for a, b in zip(root_entries(k, mm.tables.root), born, strict=True)) == 1
    assert mm.tables.frame(addr) == k.vmalloc_to_pfn(addr)


@pytest.mark.parametrize("name", ["i386-highmem", "x86_64", "armv7"])
def test_a_fault_gives_up_where_init_mm_has_nothing(kernel, name):
    k = kernel(name, ram="128M")
    mm = k.mm_alloc()
    born = root_entries(k, mm.tables.root)
    run(k, mm)
    assert k.linked.vmalloc_fault(k, 0, k.layout.vmalloc_start, 0) is False
    assert root_entries(k, mm.tables.root) == born


def test_on_two_levels_the_entry_is_copied_although_the_page_is_absent(kernel):
    k = kernel("i386-highmem", ram="1G")
    mm = k.mm_alloc()
    addr = k.vmalloc(0x1000)
    run(k, mm)
    assert k.linked.vmalloc_fault(k, 0, addr + 0x1000, 0) is False
    assert mm.tables.entry(addr, 0)[1] == k.init_mm.entry(addr, 0)[1]


def test_another_table_in_a_process_is_a_bug(kernel):
    k = kernel("i386-highmem", ram="1G")
    mm = k.mm_alloc()
    mm.tables.set_entry(mm.tables.root + 0xF88, 0, 0x00FF1067)
    with pytest.raises(KernelBug) as caught:
        k.alloc_vm_area(0x1000)
    assert (caught.value.condition, caught.value.function) == (
        "pmd_page(*pmd) != pmd_page(*pmd_k)",
        "vmalloc_sync_one",
    )
    assert (k.pgd_lock.locked(), k.vmlist_lock.locked()) == (False, False)


def test_a_record_without_symbols_has_the_weak_ones(kernel):
    k = kernel(evolve(kernel("x86_64", ram=RAM).arch, symbols=Symbols()), ram=RAM)
    mm = k.mm_alloc()
    addr = k.alloc_vm_area(0x1000).addr
    assert (mm.tables.entry(addr, 0)[1], k.syncs, k.linked.vmalloc_fault(k, 0, addr, 0)) == (0, 1, False)


@pytest.mark.parametrize("name", ["i386", "x86_64"])
def test_a_slot_that_was_synced_once_is_never_looked_at_again(kernel, registry, name):
    k = kernel(registry.get(name), ram=RAM)
    mm = k.mm_alloc()
    addr = k.vmalloc(4096)
    k.vmalloc_sync_all()
    at, word = mm.tables.entry(addr, 0)
    assert word == k.init_mm.entry(addr, 0)[1] != 0
    mm.tables.set_entry(at, 0, 0)
    k.vmalloc_sync_all()
    assert mm.tables.entry(addr, 0) == (at, 0)
    assert k.mm_alloc().tables.entry(addr, 0)[1] == word


# ---- the end of a process


def everything(k):
    zones = [(zone.free, len(zone.given_back())) for node in k.pages.zones for zone in node]
    return k.pages.pages_in_use, [free for free, _ in zones], list(k.pgd_list), k.slab.live_objects


@pytest.mark.parametrize("platform", [0, -1])
def test_a_process_that_ends_gives_back_what_was_its_own(arch, kernel, platform):
    k = kernel(arch, ram=RAM, platform=arch.platforms[platform] if arch.platforms else None)
    before = everything(k)
    addr = k.vmalloc(4096)
    with_vmalloc = everything(k)
    mm = k.mm_alloc()
    k.vmalloc_sync_all()
    page = k.alloc_pages(1, 0xD0, -1)
    user = 1 << arch.levels[-2].shift
    for at in (user, 3 * user, user << arch.levels[-2].bits if len(arch.levels) > 2 else 5 * user):
        assert mm.tables.map(at, at + arch.page_size, page, arch.page_kernel).ok
    k.free_pages(page)
    k.mm_free(mm)
    assert everything(k) == with_vmalloc
    assert k.vread(addr, 1) is not None
    k.vfree(addr)
    k.check()
    assert before[1:] != with_vmalloc[1:]


def test_numbers_are_not_used_again(arch, kernel):
    k = kernel(arch, ram=RAM)
    one, two = k.mm_alloc(), k.mm_alloc()
    k.mm_free(two)
    assert [one.number, two.number, k.mm_alloc().number] == [1, 2, 3]
    assert [mm.number for mm in k.pgd_list] == [1, 3]


def test_a_process_may_come_and_go_for_ever(arch, kernel):
    k = kernel(arch, ram=RAM)
    left(k, 64)
    roots = set()
    for _ in range(65):
        mm = k.mm_alloc()
        roots.add(mm.tables.root)
        k.mm_free(mm)
    assert len(roots) == 1
    k.check()


def test_who_may_not_be_freed(arch, kernel):
    k, other = kernel(arch, ram=RAM, cpus=min(2, arch.max_cpus)), kernel(arch, ram=RAM)
    mm, foreign, last = k.mm_alloc(), other.mm_alloc(), len(k.cpus) - 1
    k.switch_mm(last, mm)
    before = everything(k)
    text = f"mm_free: found process 1 on CPU {last}, expected one that no CPU runs; call switch_mm"
    made = r"expected a process that mm_alloc\(\) of this kernel made"
    for victim, why in ((mm, text), (foreign, made), (None, f"found None, {made}")):
        with pytest.raises(ConfigurationError, match=why):
            k.mm_free(victim)
    assert everything(k) == before
    k.switch_mm(last, None)
    k.mm_free(mm)
    with pytest.raises(ConfigurationError, match=r"and mm_free\(\) did not free"):
        k.mm_free(mm)
    with pytest.raises(ConfigurationError, match=r"and mm_free\(\) did not free"):
        k.switch_mm(0, mm)
    assert k.current_mm(0) is None
    k.check()


def test_a_process_whose_table_is_free_is_not_freed(arch, kernel):
    k = kernel(arch, ram=RAM)
    mm, user = k.mm_alloc(), 1 << arch.levels[-2].shift
    page = k.alloc_pages(1, 0xD0, -1)
    mm.tables.map(user, user + arch.page_size, page, arch.page_kernel)
    table = mm.tables.table_addresses(k.layout.first_kernel_pgd)[arch.levels[1].name] >> arch.page_shift
    k.pages.free(table)
    before = everything(k)
    with pytest.raises(BrokenInvariant, match="process 1 has a page table in a page that is free"):
        k.mm_free(mm)
    assert everything(k) == before


def test_what_tlbs_keep_of_a_process_goes_with_it(kernel):
    class Heard:
        drops: ClassVar[list] = []

        @hookimpl
        def vmcore_tlb_dropped(self, cpu, scope, start, end, entries):
            self.drops.append((cpu, scope, start, end, entries))

    k = kernel("armv7", ram=RAM, cpus=2, check_coherence=True, listeners=[Heard()])
    one, two, user = k.mm_alloc(), k.mm_alloc(), 0x10000
    page = k.alloc_pages(1, 0xD0, -1)
    private = 0x0CF  # as PAGE_KERNEL; the hardware word gets nG below
    for mm in (one, two):
        assert mm.tables.map(user, user + 4096, page, private).ok
        at = Mmu(k.arch, k.memory, mm.tables.root).walk(user).steps[-1].entry_address
        k.memory.store(at, k.memory.load(at, 4) | 0x800, 4)
        k.switch_mm(0, mm)
        k.cpu.load(user, 1)
        k.switch_mm(0, None)
        k.cpu.load(k.layout.page_offset + 0x800000, 1)
    spaces = [entry.space for entry in k.cpus[0].tlb.entries() if entry.page == user >> 12]
    assert spaces == [two.number]
    Heard.drops.clear()
    k.mm_free(two)
    assert Heard.drops == [(0, "mm", 0, 0, 1)]
    k.free_pages(page)
    k.alloc_pages(1, 0xD0, -1)
    assert k.coherence.reports == []


def left(k, count):
    """Leave so many pages free."""
    free = sum(zone.free for node in k.pages.zones for zone in node)
    return k.pages.alloc(free - count, 0xD2, -1)


def test_a_process_that_cannot_be_made_whole_leaves_nothing(kernel):
    k = kernel("i386-pae", ram=RAM, platform="paravirt")
    taken = left(k, 1)  # for the root, and none for the copy of the kernel's table
    before = everything(k)
    with pytest.raises(OutOfMemory, match=r"free page frames? in a row"):
        k.mm_alloc()
    assert everything(k) == before
    k.pages.free(taken[-2:])
    with pytest.raises(OutOfMemory):  # what was given back page by page is no root table
        k.pages.alloc_root(4 * k.arch.page_size)
    k.check()
    k = kernel("i386-pae", ram=RAM, platform="paravirt")
    left(k, 2)
    assert k.mm_alloc().number == 1  # the failed one took no number


def test_the_second_copy_that_fails_takes_the_first_with_it(kernel, registry):
    arch = registry.get("i386-pae")
    k = kernel(evolve(arch, layout=lambda request: evolve(arch.layout(request), first_kernel_pgd=2)), ram=RAM,
               platform="paravirt")  # fmt: skip
    tables = k.init_mm.table_addresses()["pmd"]
    assert len(tables) == 2
    for free in (1, 2):
        k = kernel(k.arch, ram=RAM, platform="paravirt")
        left(k, free)
        before = everything(k)
        with pytest.raises(OutOfMemory):
            k.mm_alloc()
        assert everything(k) == before
        k.check()


def test_numbers_are_unique_under_threads(kernel):
    k = kernel("i386", ram=RAM)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda _: k.mm_alloc(), range(400)))
            freed = list(pool.map(k.mm_free, made[::2]))
    finally:
        sys.setswitchinterval(interval)
    assert sorted(mm.number for mm in made) == list(range(1, 401))
    assert [mm.number for mm in k.pgd_list] == sorted(mm.number for mm in made[1::2])
    assert len(freed) == 200
    k.check()
