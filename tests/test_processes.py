"""Processes' root tables: copied at birth, synced by vmalloc_sync_all, repaired by vmalloc_fault."""

import pytest
from attrs import evolve

from vmcore.errors import KernelBug, OutOfMemory

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
    with pytest.raises(OutOfMemory, match="consecutive page frames for a root table"):
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


def test_a_record_of_another_name_keeps_the_weak_symbol(kernel):
    k = kernel(evolve(kernel("x86_64", ram=RAM).arch, name="someones"), ram=RAM)
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
