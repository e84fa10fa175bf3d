"""The processes of a machine: pgd_alloc(), pgd_free(), and which process a CPU runs."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from vmcore.architecture import Architecture, Layout
from vmcore.cpu.cpu import Cpu
from vmcore.errors import BrokenInvariant, ConfigurationError, OutOfMemory
from vmcore.machine.life import Life
from vmcore.machine.smp import Smp
from vmcore.memory.physical import PhysicalMemory
from vmcore.memory.zones import PageAllocator
from vmcore.paging.mm import Mm
from vmcore.paging.tables import PageTables


class Processes:
    """The processes of one machine, each a root table whose kernel half is init_mm's.

    Attributes:
        pgd_list: the processes, oldest first.
        pgd_lock: its lock.
    """

    def __init__(self, life: Life, smp: Smp, arch: Architecture, layout: Layout, memory: PhysicalMemory) -> None:
        self._life, self._smp, self._arch, self._layout, self._memory = life, smp, arch, layout, memory
        self.pgd_list: list[Mm] = []
        self.pgd_lock = threading.Lock()
        self._made, self._root_bytes = 0, max(arch.root_bytes, arch.page_size)

    def alloc(self, pages: PageAllocator, init_mm: PageTables, tables: Callable[[int], PageTables]) -> Mm:
        """Make a process: a root table with the kernel's entries copied from init_mm.

        Args:
            pages: gives the pages of its tables.
            init_mm: the kernel's tables.
            tables: makes the page tables below a root.

        Raises:
            OutOfMemory: no room for a root table, or for a copy of a table below it; nothing is kept then.
        """
        self._life.steps += 1
        root_level = self._arch.levels[0]
        skip = self._layout.first_kernel_pgd * root_level.entry_bytes
        root = pages.alloc_root(self._root_bytes)
        with self.pgd_lock:  # a sync must not fall between the copy and the list
            kernel_half = self._memory.read(init_mm.root + skip, root_level.table_bytes - skip)
            self._memory.write(root, bytes(skip) + kernel_half)
            try:
                self._copy_tables(root, pages)
            except OutOfMemory:
                pages.free_root(root, self._root_bytes)
                raise
            self._made += 1
            mm = Mm(self._made, tables(root))
            self.pgd_list.append(mm)
        return mm

    def _private_entries(self, root: int) -> list[int]:
        """Return the physical addresses of root entries whose tables each process has copies of.

        Most machines have none. PAE without a shared kernel pmd is one that has.
        """
        level, first = self._arch.levels[0], self._layout.first_kernel_pgd
        if not level.prebuilt or self._layout.shared_kernel_tables:
            return []
        places = range(root + first * level.entry_bytes, root + level.table_bytes, level.entry_bytes)
        return [at for at in places if self._memory.load(at, level.word_bytes) & level.present_mask]

    def _copy_tables(self, root: int, pages: PageAllocator) -> None:
        """Give a new root tables of its own below its kernel entries, copies of init_mm's (pgd_alloc())."""
        level, size, made = self._arch.levels[0], self._arch.page_size, list[int]()
        for at in self._private_entries(root):
            try:
                table = pages.alloc_root(size)
            except OutOfMemory:
                for copy in made:
                    pages.free_root(copy, size)
                raise
            made.append(table)
            word = self._memory.load(at, level.word_bytes)
            self._memory.write(table, self._memory.read(level.decode(word), size))
            self._memory.store(at, level.encode(table, level.table_flags), level.word_bytes)

    def free(self, mm: Mm, pages: PageAllocator) -> None:
        """Free a process that no CPU runs: its own tables and its root (exit_mmap() and pgd_free()).

        Raises:
            ConfigurationError: it is freed already, another kernel's, or a CPU runs it.
            BrokenInvariant: its tables are not pages of its own; nothing is freed then.
        """
        with self.pgd_lock:
            self._expect(mm)
            if runs := [str(cpu.number) for cpu in self._smp.cpus if cpu.mm is mm]:
                raise ConfigurationError(
                    f"mm_free: found process {mm.number} on CPU {', '.join(runs)}, expected one that no CPU runs; "
                    "call switch_mm() first"
                )
            own = self._own_tables(mm, pages)
            self._life.steps += 1
            self.pgd_list.remove(mm)
        for cpu in self._smp.cpus:  # tlb_finish_mmu()
            self._smp.dropped(cpu, "mm", 0, 0, cpu.tlb.drop_space(mm.number))
        pages.free(own)
        pages.free_root(mm.tables.root, self._root_bytes)

    def _own_tables(self, mm: Mm, pages: PageAllocator) -> np.ndarray:
        """Return the frames, int64, of the tables below a root that no other process has.

        Raises:
            BrokenInvariant: one of them is free, or is there twice.
        """
        level = self._arch.levels[0]
        entries = (self._memory.load(at, level.word_bytes) for at in self._private_entries(mm.tables.root))
        copies = [level.decode(entry) for entry in entries]
        below = mm.tables.table_addresses(self._layout.first_kernel_pgd)
        own = np.concatenate([*below.values(), np.array(copies, np.int64)]) >> self._arch.page_shift
        if len(np.unique(own)) != len(own) or not pages.allocated(own).all():
            raise BrokenInvariant(f"process {mm.number} has a page table in a page that is free, or has it twice")
        return own

    def switch(self, cpu: int | Cpu, mm: Mm | None) -> None:
        """Make a CPU run the address space of a process, or init_mm (None).

        Raises:
            ConfigurationError: there is no such CPU, or the process is another kernel's or freed.
        """
        one = self._smp.cpus[self._smp.number(cpu)]
        self._life.steps += 1
        with self.pgd_lock:  # so that it is not freed meanwhile
            if mm is not None:
                self._expect(mm)
            dropped = one.switch_mm(mm)
        self._smp.dropped(one, "switch", 0, 0, dropped)

    def _expect(self, mm: Mm) -> None:
        """Refuse an object that is no process of this kernel. pgd_lock is held.

        Raises:
            ConfigurationError: it is another kernel's, or freed.
        """
        if mm not in self.pgd_list:
            raise ConfigurationError(
                f"found {mm}, expected a process that mm_alloc() of this kernel made and mm_free() did not free"
            )
