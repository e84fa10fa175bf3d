"""The strong symbols: who defines what, and what each does to a small machine of dictionaries.

Sources: arch/x86/mm/fault_32.c, fault_64.c, include/asm-x86/tlbflush_*.h, arch/arm/mm/fault.c,
include/asm-arm/cacheflush.h, tlbflush.h, all of 2.6.24.
"""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import vmcore_arches
from attrs import evolve
from vmcore_arches.arm import family as arm
from vmcore_arches.x86 import family as x86
from vmcore_arches.x86 import i386_pae, x86_64

from vmcore.architecture import LayoutRequest, Symbols
from vmcore.linking import weak
from vmcore.linking.link import link
from vmcore.linking.registry import load

RECORDS = {arch.name: arch for arch in vmcore_arches.vmcore_architectures()}
X86_2, PAE = ("i386", "i386-highmem"), ("i386-pae", "i386-pae-highmem")
ARM = ("armv5", "armv7", "armv7-highmem")


# ---- who defines what


def linked(arch):
    registry = load(points=())
    registry.add(vmcore_arches, "builtin")
    return link(registry.manager, arch)


def test_the_plugin_brings_its_records_through_the_registry():
    registry = load(points=())
    registry.add(vmcore_arches, "builtin")
    assert dict(registry.architectures) == RECORDS
    assert vmcore_arches.vmcore_api == (1, 3)


@pytest.mark.parametrize("name", RECORDS)
def test_every_symbol_is_the_familys(name):
    found = linked(RECORDS[name])
    cache = arm.flush_cache if name in ARM else weak.flush_nothing
    assert (found.flush_cache_vmap, found.flush_cache_vunmap) == (cache, cache)
    flush = arm.flush_tlb_kernel_range_v6 if name.startswith("armv7") else arm.flush_tlb_kernel_range
    assert found.flush_tlb_kernel_range is (flush if name in ARM else x86.flush_tlb_kernel_range)


@pytest.mark.parametrize(
    ("names", "sync", "fault"),
    [
        (X86_2, x86.vmalloc_sync_all_32, x86.vmalloc_fault_32),
        (PAE, i386_pae.vmalloc_sync_all, x86.vmalloc_fault_32),
        (("x86_64",), x86_64.vmalloc_sync_all, x86_64.vmalloc_fault),
        (ARM, weak.vmalloc_sync_all, arm.vmalloc_fault),
    ],
)
def test_sync_and_fault(names, sync, fault):
    for name in names:
        found = linked(RECORDS[name])
        assert (found.vmalloc_sync_all, found.vmalloc_fault) == (sync, fault)


@pytest.mark.parametrize("name", RECORDS)
def test_an_evolved_record_keeps_the_symbols_of_its_name(name):
    assert linked(evolve(RECORDS[name], default_ram=1 << 28)) == linked(RECORDS[name])


def test_a_record_of_another_name_keeps_its_symbols():
    assert linked(evolve(RECORDS["i386"], name="stranger")) == linked(RECORDS["i386"])


def test_a_record_without_symbols_gets_the_weak_ones():
    stranger = linked(evolve(RECORDS["i386"], symbols=Symbols()))
    assert stranger.flush_tlb_kernel_range is weak.flush_nothing
    assert stranger.vmalloc_sync_all is weak.vmalloc_sync_all
    assert stranger.vmalloc_fault is weak.vmalloc_fault


# ---- a small machine


class Bug(Exception):
    pass


class Tables:
    """Page tables in a dictionary shared by all of them: physical address of a word to its value."""

    def __init__(self, memory, levels, root):
        self.memory, self.levels, self.root = memory, levels, root

    def entry(self, address, depth):
        table = self.root
        for at in self.levels[:depth]:
            found = self.memory.get(self._place(at, table, address), 0)
            if not found & at.present_mask:
                return None
            table = at.decode(found)
        place = self._place(self.levels[depth], table, address)
        return place, self.memory.get(place, 0)

    @staticmethod
    def _place(at, table, address):
        return table + at.offset + (address >> at.shift & at.entries - 1) * at.entry_bytes

    def set_entry(self, place, depth, word):
        at = self.levels[depth]
        for i, add in enumerate((0, *at.repeat)):
            self.memory[place + i * at.word_bytes] = word + add if word else 0

    def copy_entry(self, to, source, depth):
        at = self.levels[depth]
        for i in range(0, at.entry_bytes, at.word_bytes):
            self.memory[to + i] = self.memory.get(source + i, 0)

    def address_of(self, word, depth):
        return self.levels[depth].decode(word)

    def write(self, address, depth, target, flags=None):
        """Point the entry for an address to a table or page."""
        at = self.levels[depth]
        self.set_entry(
            self.entry(address, depth)[0], depth, at.encode(target, at.table_flags if flags is None else flags)
        )

    def word(self, address, depth):
        return self.entry(address, depth)[1]


class Kernel:
    """What link symbols may use, and a diary of what they did."""

    def __init__(self, name, processes=2, cpus=1):
        self.arch = RECORDS[name]
        self.layout = self.arch.lay_out(LayoutRequest(ram=128 << 20))
        self.cpus, self.statics, self.done, self.locked, self.locks = range(cpus), {}, [], False, 0
        self.memory = {}
        self.init_mm = Tables(self.memory, self.arch.levels, self.layout.swapper_pg_dir)
        roots = [0x1000000 + 0x10000 * i for i in range(processes)]
        self.pgd_list = [SimpleNamespace(tables=Tables(self.memory, self.arch.levels, root)) for root in roots]
        self.running = {}

    @property
    def pgd_lock(self):
        @contextmanager
        def held():
            assert not self.locked
            self.locked, self.locks = True, self.locks + 1
            yield
            self.locked = False

        return held()

    def current_mm(self, cpu):
        return self.running.get(cpu)

    def bug_on(self, condition, text, function):
        if condition:
            raise Bug(function, text)

    def flush_tlb_all(self, cpu):
        self.done.append(("tlb all", cpu))

    def flush_tlb_pages(self, cpu, start, end, every_cpu):
        self.done.append(("tlb pages", cpu, start, end, every_cpu))

    def flush_cache_all(self, cpu):
        self.done.append(("cache all", cpu))

    def map(self, address, frame=0x100, tables=(0x2000000, 0x2001000, 0x2002000)):
        """Map one page in init_mm through new tables, below what the machine prebuilt."""
        last = len(self.arch.levels) - 1
        for depth in range(last):
            if not self.init_mm.word(address, depth) & self.arch.levels[depth].present_mask:
                self.init_mm.write(address, depth, tables[depth])
        self.init_mm.write(address, last, frame << 12, self.arch.page_kernel)


def pae_kernel(shared, processes=2):
    """Return a PAE machine whose processes share the kernel's pmd table, or have a copy each."""
    kernel = Kernel("i386-pae-highmem", processes)
    for i, tables in enumerate([kernel.init_mm, *(mm.tables for mm in kernel.pgd_list)]):
        tables.write(0xC0000000, 0, 0x3000000 if shared else 0x3000000 + 0x1000 * i)
    return kernel


# ---- flushes


@pytest.mark.parametrize("name", [*X86_2, *PAE, "x86_64"])
def test_x86_flushes_all_and_ignores_the_range(name):
    kernel = Kernel(name, cpus=4)
    linked(kernel.arch).flush_tlb_kernel_range(kernel, 3, 0xF8800000, 0xF8803000)
    assert kernel.done == [("tlb all", 3)]


@pytest.mark.parametrize(
    ("name", "cpus", "everywhere"),
    [("armv5", 1, False), ("armv7", 1, False), ("armv7", 2, True), ("armv7-highmem", 4, True)],
)
def test_arm_flushes_page_by_page_on_every_cpu_of_smp(name, cpus, everywhere):
    kernel = Kernel(name, cpus=cpus)
    linked(kernel.arch).flush_tlb_kernel_range(kernel, 0, 0xC8800000, 0xC8803000)
    assert kernel.done == [("tlb pages", 0, 0xC8800000, 0xC8803000, everywhere)]


@pytest.mark.parametrize("name", ARM)
@pytest.mark.parametrize("symbol", ["flush_cache_vmap", "flush_cache_vunmap"])
def test_arm_cleans_the_whole_cache_of_this_cpu(name, symbol):
    kernel = Kernel(name, cpus=2)
    getattr(linked(kernel.arch), symbol)(kernel, 1, 0xC8800000, 0xC8803000)
    assert kernel.done == [("cache all", 1)]


# ---- 32-bit x86: fault

VA = 0xF8800000


def run_on(kernel, process, cpu=0):
    kernel.running[cpu] = kernel.pgd_list[process]
    return kernel.pgd_list[process].tables


@pytest.mark.parametrize("name", X86_2)
def test_a_fault_copies_the_directory_entry(name):
    kernel = Kernel(name)
    kernel.map(VA)
    tables = run_on(kernel, 1)
    assert x86.vmalloc_fault_32(kernel, 0, VA + 0x123, 0) is True
    assert tables.word(VA, 0) == kernel.init_mm.word(VA, 0) == 0x02000067
    assert kernel.pgd_list[0].tables.word(VA, 0) == 0
    assert kernel.locks == 0


@pytest.mark.parametrize(
    ("error_code", "handled"),
    [(0x0, True), (0x2, True), (0x10, True), (0x1, False), (0x3, False), (0x4, False), (0x8, False)],
)
def test_only_a_kernel_access_to_an_absent_page_is_repaired(error_code, handled):
    kernel = Kernel("i386")
    kernel.map(VA)
    tables = run_on(kernel, 0)
    assert x86.vmalloc_fault_32(kernel, 0, VA, error_code) is handled
    assert tables.word(VA, 0) == (0x02000067 if handled else 0)


def test_any_kernel_address_is_repaired_and_no_user_address():
    kernel = Kernel("i386")
    kernel.map(0xC0000000)
    kernel.map(0xBFFFF000, tables=(0x2005000,))
    tables = run_on(kernel, 0)
    assert x86.vmalloc_fault_32(kernel, 0, 0xC0000000, 0) is True
    assert x86.vmalloc_fault_32(kernel, 0, 0xBFFFF000, 0) is False
    assert (tables.word(0xC0000000, 0), tables.word(0xBFFFF000, 0)) == (0x02000067, 0)


def test_the_directory_entry_is_copied_even_if_the_page_is_absent():
    kernel = Kernel("i386")
    kernel.map(VA)
    tables = run_on(kernel, 0)
    assert x86.vmalloc_fault_32(kernel, 0, VA + 0x1000, 0) is False
    assert tables.word(VA, 0) == 0x02000067


def test_a_page_that_is_protnone_is_present():
    kernel = Kernel("i386")
    kernel.map(VA)
    kernel.init_mm.write(VA, 1, 0x100000, 0x080)
    run_on(kernel, 0)
    assert x86.vmalloc_fault_32(kernel, 0, VA, 0) is True


@pytest.mark.parametrize("reference", [0x0, 0x2000066])
def test_the_fault_is_real_where_init_mm_has_no_present_entry(reference):
    kernel = Kernel("i386")
    kernel.init_mm.set_entry(kernel.init_mm.entry(VA, 0)[0], 0, reference)
    tables = run_on(kernel, 0)
    assert x86.vmalloc_fault_32(kernel, 0, VA, 0) is False
    assert tables.word(VA, 0) == 0


def test_another_table_in_the_process_is_a_bug_and_other_flags_are_not():
    kernel = Kernel("i386")
    kernel.map(VA)
    tables = run_on(kernel, 0)
    tables.write(VA, 0, 0x2000000, 0x063)
    assert x86.vmalloc_fault_32(kernel, 0, VA, 0) is True
    assert tables.word(VA, 0) == 0x02000063
    tables.write(VA, 0, 0x2001000)
    with pytest.raises(Bug) as bug:
        x86.vmalloc_fault_32(kernel, 0, VA, 0)
    assert bug.value.args == ("vmalloc_sync_one", "pmd_page(*pmd) != pmd_page(*pmd_k)")


def test_a_cpu_without_a_process_faults_on_init_mm_itself():
    kernel = Kernel("i386")
    kernel.map(VA)
    assert x86.vmalloc_fault_32(kernel, 0, VA, 0) is True
    assert x86.vmalloc_fault_32(kernel, 0, VA + 0x400000, 0) is False


def test_a_pae_fault_finds_the_shared_pmd_equal():
    kernel = pae_kernel(shared=True)
    run_on(kernel, 0)
    assert x86.vmalloc_fault_32(kernel, 0, VA, 0) is False
    kernel.map(VA)
    before = dict(kernel.memory)
    assert x86.vmalloc_fault_32(kernel, 0, VA, 0) is True
    assert x86.vmalloc_fault_32(kernel, 0, VA + 0x1000, 0) is False
    assert kernel.memory == before


def test_a_pae_fault_copies_one_pmd_entry_where_it_is_not_shared():
    kernel = pae_kernel(shared=False)
    kernel.map(VA)
    tables = run_on(kernel, 1)
    before = dict(kernel.memory)
    assert x86.vmalloc_fault_32(kernel, 0, VA, 0) is True
    changed = {place: word for place, word in kernel.memory.items() if before.get(place) != word}
    assert changed == {tables.entry(VA, 1)[0]: 0x2001067}


# ---- 32-bit x86: sync


def test_sync_copies_every_present_directory_entry_to_every_process():
    kernel = Kernel("i386", processes=3)
    kernel.map(VA)
    kernel.map(0xC0000000, tables=(0x2003000,))
    kernel.map(0xBFC00000, tables=(0x2004000,))
    x86.vmalloc_sync_all_32(kernel)
    for mm in kernel.pgd_list:
        assert mm.tables.word(VA, 0) == 0x02000067
        assert mm.tables.word(0xC0000000, 0) == 0x02003067
        assert mm.tables.word(0xBFC00000, 0) == 0
    assert kernel.statics["vmalloc_sync_all.insync"] == {768, VA >> 22}
    assert kernel.statics["vmalloc_sync_all.start"] == 0xC0400000
    assert kernel.locks == 256


def test_a_synced_index_is_never_looked_at_again():
    kernel = Kernel("i386")
    kernel.map(0xC0000000)
    x86.vmalloc_sync_all_32(kernel)
    kernel.pgd_list[0].tables.write(0xC0000000, 0, 0x2009000)
    locks = kernel.locks
    x86.vmalloc_sync_all_32(kernel)
    assert kernel.locks == locks + 255
    assert kernel.pgd_list[0].tables.word(0xC0000000, 0) == 0x02009067


def test_start_moves_over_a_contiguous_prefix_only():
    kernel = Kernel("i386")
    kernel.map(0xC0400000)
    x86.vmalloc_sync_all_32(kernel)
    assert kernel.statics["vmalloc_sync_all.start"] == 0xC0000000
    kernel.map(0xC0000000, tables=(0x2003000,))
    x86.vmalloc_sync_all_32(kernel)
    assert kernel.statics["vmalloc_sync_all.start"] == 0xC0800000
    assert kernel.statics["vmalloc_sync_all.insync"] == {768, 769}


def test_an_empty_list_is_in_sync_for_ever():
    kernel = Kernel("i386", processes=0)
    x86.vmalloc_sync_all_32(kernel)
    assert kernel.statics["vmalloc_sync_all.insync"] == set(range(768, 1024))
    assert kernel.statics["vmalloc_sync_all.start"] == 0
    locks = kernel.locks
    x86.vmalloc_sync_all_32(kernel)
    assert kernel.locks == locks


def test_sync_is_a_bug_where_a_process_has_another_table():
    kernel = Kernel("i386")
    kernel.map(VA)
    kernel.pgd_list[1].tables.write(VA, 0, 0x2009000)
    with pytest.raises(Bug) as bug:
        x86.vmalloc_sync_all_32(kernel)
    assert bug.value.args == ("vmalloc_sync_one", "pmd_page(*pmd) != pmd_page(*pmd_k)")
    assert kernel.pgd_list[0].tables.word(VA, 0) == 0x02000067


def test_an_entry_that_vanishes_during_the_walk_is_a_bug(monkeypatch):
    kernel = Kernel("i386")
    answers = iter([True, False])
    monkeypatch.setattr(x86, "vmalloc_sync_one", lambda *_: next(answers))
    with pytest.raises(Bug) as bug:
        x86.vmalloc_sync_all_32(kernel)
    assert bug.value.args == ("vmalloc_sync_all", "page != pgd_list")


@pytest.mark.parametrize("name", PAE)
def test_sync_returns_at_once_where_the_kernel_pmd_is_shared(name):
    kernel = pae_kernel(shared=True)
    kernel.map(VA)
    linked(RECORDS[name]).vmalloc_sync_all(kernel)
    assert (kernel.locks, kernel.statics) == (0, {})


def test_sync_of_an_unshared_pae_kernel_visits_one_address():
    kernel = pae_kernel(shared=False)
    kernel.map(VA)
    kernel.map(0xC0000000, tables=(0, 0x2003000))
    x86.vmalloc_sync_all_32(kernel)
    assert [mm.tables.word(0xC0000000, 1) for mm in kernel.pgd_list] == [0x02003067] * 2
    assert [mm.tables.word(VA, 1) for mm in kernel.pgd_list] == [0, 0]
    assert kernel.statics["vmalloc_sync_all.insync"] == {3}
    assert (kernel.statics["vmalloc_sync_all.start"], kernel.locks) == (0, 1)


# ---- x86_64

VA64 = 0xFFFFC20000000000


def test_a_fault_copies_the_root_entry():
    kernel = Kernel("x86_64")
    kernel.map(VA64)
    tables = run_on(kernel, 0, cpu=2)
    assert x86_64.vmalloc_fault(kernel, 2, VA64 + 0xFFF, 0) is True
    assert tables.word(VA64, 0) == 0x02000067
    assert kernel.pgd_list[1].tables.word(VA64, 0) == 0
    assert x86_64.vmalloc_fault(kernel, 2, VA64, 2) is True
    assert kernel.locks == 0


def test_a_fault_of_a_cpu_without_a_process_changes_nothing():
    kernel = Kernel("x86_64")
    kernel.map(VA64)
    before = dict(kernel.memory)
    assert x86_64.vmalloc_fault(kernel, 0, VA64, 0) is True
    assert kernel.memory == before


@pytest.mark.parametrize(
    ("address", "error_code"),
    [(VA64, 0x1), (VA64, 0x4), (VA64, 0x8), (VA64 - 0x1000, 0), (0xFFFFE1FFFFFFFFFF, 0), (0xFFFFFFFF88000000, 0)],
)
def test_other_faults_are_not_vmallocs(address, error_code):
    kernel = Kernel("x86_64")
    for at in (VA64, address & ~0xFFF):
        kernel.map(at)
    tables = run_on(kernel, 0)
    assert x86_64.vmalloc_fault(kernel, 0, address, error_code) is False
    assert tables.word(address, 0) == 0


def test_the_last_address_of_the_window_but_one_is_vmallocs():
    kernel = Kernel("x86_64")
    kernel.map(0xFFFFE1FFFFFFF000)
    run_on(kernel, 0)
    assert x86_64.vmalloc_fault(kernel, 0, 0xFFFFE1FFFFFFFFFE, 0) is True


@pytest.mark.parametrize("absent", [0, 1, 2, 3])
def test_a_fault_gives_up_where_the_reference_is_absent(absent):
    kernel = Kernel("x86_64")
    kernel.map(VA64)
    kernel.init_mm.set_entry(kernel.init_mm.entry(VA64, absent)[0], absent, 0)
    tables = run_on(kernel, 0)
    assert x86_64.vmalloc_fault(kernel, 0, VA64, 0) is False
    assert tables.word(VA64, 0) == (0x02000067 if absent else 0)


def test_another_root_entry_is_a_bug():
    kernel = Kernel("x86_64")
    kernel.map(VA64)
    run_on(kernel, 0).write(VA64, 0, 0x5000000)
    with pytest.raises(Bug) as bug:
        x86_64.vmalloc_fault(kernel, 0, VA64, 0)
    assert bug.value.args == ("vmalloc_fault", "pgd_page_vaddr(*pgd) != pgd_page_vaddr(*pgd_ref)")


@pytest.mark.parametrize(
    ("depth", "word", "condition"),
    [
        (1, 0x0000000, "pud_none(*pud) || pud_page_vaddr(*pud) != pud_page_vaddr(*pud_ref)"),
        (1, 0x5000067, "pud_none(*pud) || pud_page_vaddr(*pud) != pud_page_vaddr(*pud_ref)"),
        (2, 0x0000000, "pmd_none(*pmd) || pmd_page(*pmd) != pmd_page(*pmd_ref)"),
        (2, 0x5000067, "pmd_none(*pmd) || pmd_page(*pmd) != pmd_page(*pmd_ref)"),
        (3, 0x0000000, "!pte_present(*pte) || pte_pfn(*pte) != pte_pfn(*pte_ref)"),
        (3, 0x0100062, "!pte_present(*pte) || pte_pfn(*pte) != pte_pfn(*pte_ref)"),
        (3, 0x0101163, "!pte_present(*pte) || pte_pfn(*pte) != pte_pfn(*pte_ref)"),
    ],
)
def test_lower_levels_that_differ_are_a_bug(monkeypatch, depth, word, condition):
    """They are the same memory, so only tables that lie can show it."""
    kernel = Kernel("x86_64")
    kernel.map(VA64)
    tables = run_on(kernel, 0)
    truth = tables.entry
    monkeypatch.setattr(tables, "entry", lambda va, at: (0x6000000, word) if at == depth else truth(va, at))
    with pytest.raises(Bug) as bug:
        x86_64.vmalloc_fault(kernel, 0, VA64, 0)
    assert bug.value.args == ("vmalloc_fault", condition)


def test_sync_copies_the_root_entries_of_the_vmalloc_window():
    kernel = Kernel("x86_64", processes=3)
    modules = 0xFFFFFFFF88000000
    far = VA64 + (63 << 39)
    for at, base in ((VA64, 0x2000000), (far, 0x2100000), (modules, 0x2200000), (VA64 + (64 << 39), 0x2300000)):
        kernel.map(at, tables=(base, base + 0x1000, base + 0x2000))
    x86_64.vmalloc_sync_all(kernel)
    for mm in kernel.pgd_list:
        assert (mm.tables.word(VA64, 0), mm.tables.word(far, 0)) == (0x02000067, 0x02100067)
        assert (mm.tables.word(modules, 0), mm.tables.word(VA64 + (64 << 39), 0)) == (0, 0)
    assert kernel.statics["vmalloc_sync_all.insync"] == {388, 451}
    assert kernel.statics["vmalloc_sync_all.start"] == VA64 + (1 << 39)
    assert kernel.locks == 2


def test_sync_skips_absent_references_and_goes_on():
    kernel = Kernel("x86_64")
    second = VA64 + (1 << 39)
    kernel.map(second)
    x86_64.vmalloc_sync_all(kernel)
    assert kernel.statics["vmalloc_sync_all.start"] == VA64
    assert kernel.pgd_list[0].tables.word(second, 0) == 0x02000067
    kernel.map(VA64, tables=(0x2100000, 0x2101000, 0x2102000))
    x86_64.vmalloc_sync_all(kernel)
    assert kernel.statics["vmalloc_sync_all.start"] == VA64 + (2 << 39)
    assert kernel.locks == 2


def test_sync_does_nothing_for_an_absent_reference_even_without_processes():
    kernel = Kernel("x86_64", processes=0)
    x86_64.vmalloc_sync_all(kernel)
    assert kernel.statics == {"vmalloc_sync_all.insync": set(), "vmalloc_sync_all.start": VA64}
    assert kernel.locks == 0


def test_sync_is_a_bug_where_a_process_has_another_root_entry():
    kernel = Kernel("x86_64")
    kernel.map(VA64)
    kernel.pgd_list[1].tables.write(VA64, 0, 0x5000000)
    with pytest.raises(Bug) as bug:
        x86_64.vmalloc_sync_all(kernel)
    assert bug.value.args == ("vmalloc_sync_all", "pgd_page_vaddr(*pgd) != pgd_page_vaddr(*pgd_ref)")


# ---- ARM

VA_ARM = 0xC8800000


@pytest.mark.parametrize("name", ARM)
def test_an_arm_fault_copies_both_words(name):
    kernel = Kernel(name)
    flags = kernel.arch.levels[0].table_flags
    kernel.init_mm.write(VA_ARM, 0, 0x2000000)
    tables = run_on(kernel, 0)
    assert arm.vmalloc_fault(kernel, 0, VA_ARM + 0x100123, 5) is True
    place = tables.entry(VA_ARM, 0)[0]
    assert (kernel.memory[place], kernel.memory[place + 4]) == (0x2000000 | flags, (0x2000000 | flags) + 0x400)
    assert kernel.pgd_list[1].tables.word(VA_ARM, 0) == 0


def test_an_arm_fault_does_not_ask_for_the_page_but_never_comes_twice():
    kernel = Kernel("armv5")
    kernel.init_mm.write(VA_ARM, 0, 0x2000000)
    run_on(kernel, 0)
    assert arm.vmalloc_fault(kernel, 0, VA_ARM, 5) is True
    assert arm.vmalloc_fault(kernel, 0, VA_ARM, 7) is False


def test_an_arm_fault_copies_whatever_init_mm_has():
    kernel = Kernel("armv7")
    kernel.init_mm.set_entry(kernel.init_mm.entry(VA_ARM, 0)[0], 0, 0x4000040E)
    tables = run_on(kernel, 0)
    assert arm.vmalloc_fault(kernel, 0, VA_ARM, 5) is True
    assert tables.word(VA_ARM, 0) == 0x4000040E


@pytest.mark.parametrize(
    ("address", "handled"), [(0xBF000000, True), (0xBEFFF000, False), (VA_ARM, True), (0xFFFF0000, True)]
)
def test_arm_kernel_addresses_begin_with_the_modules(address, handled):
    kernel = Kernel("armv5")
    kernel.init_mm.write(address, 0, 0x2000000)
    run_on(kernel, 0)
    assert arm.vmalloc_fault(kernel, 0, address, 5) is handled


def test_an_arm_fault_is_real_where_word_0_of_init_mm_is_0():
    kernel = Kernel("armv5")
    tables = run_on(kernel, 0)
    kernel.memory[kernel.init_mm.entry(VA_ARM, 0)[0] + 4] = 0x2000411
    assert arm.vmalloc_fault(kernel, 0, VA_ARM, 5) is False
    assert kernel.memory.get(tables.entry(VA_ARM, 0)[0] + 4, 0) == 0


def test_an_arm_cpu_without_a_process_has_nothing_to_copy():
    kernel = Kernel("armv7")
    kernel.init_mm.write(VA_ARM, 0, 0x2000000)
    assert arm.vmalloc_fault(kernel, 0, VA_ARM, 5) is False
