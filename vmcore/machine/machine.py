"""The machine: a board that connects its parts and decides nothing.

The port (`vmcore.port.vmalloc`) stands on it, and link symbols are handed it as their `vmcore.host.Host`.
`vmcore.kernel` boots one from an architecture; `vmcore.testing.opscript` wires one with sources of its own.
"""

from __future__ import annotations

from typing import Any, NoReturn

from vmcore.architecture import Architecture, Layout
from vmcore.cpu.cpu import Cpu
from vmcore.errors import CannotCopy
from vmcore.linking.link import Events, Linked
from vmcore.machine.allocators import Allocators
from vmcore.machine.faults import Faults
from vmcore.machine.life import Life
from vmcore.machine.locks import VmlistLock
from vmcore.machine.log import Log
from vmcore.machine.process import Processes
from vmcore.machine.smp import Smp
from vmcore.machine.symbols import Symbols, guarded
from vmcore.memory.physical import PhysicalMemory
from vmcore.memory.slab import KmallocSource
from vmcore.memory.zones import PageSource
from vmcore.paging.mm import Mm
from vmcore.paging.tables import PageTables, TableSource
from vmcore.placement.arealist import AreaList


class Machine:
    """The parts of one machine, and the few values that all of them share.

    Attributes:
        arch: the record.
        layout: where everything is.
        memory: physical memory.
        life: whether the kernel lives.
        events: its event hooks, None for each without listeners.
        log: printk, WARN_ON, BUG_ON and oopses.
        faults: the failures to inject.
        allocators: alloc_page(), kmalloc() and their opposites, over the sources ``pages`` and ``slab``.
        symbols: its link symbols.
        smp: its CPUs together. ``cpus`` has each.
        processes: its processes, with ``pgd_list`` and ``pgd_lock``.
        init_mm: the kernel's page tables.
        vmlist: the area list. `lock_vmlist` takes its lock, ``vmlist_lock``.
        statics: function-static variables of link symbols.
        page_kernel: PAGE_KERNEL of this machine. Several CPUs may add a bit to the record's.
        page_size: PAGE_SIZE, bytes; ``page_shift``, ``word_mask`` (an ``unsigned long`` of ones) and the other
            numbers that follow from the record likewise.
        in_interrupt: the answer of in_interrupt().
        printk_ratelimit: the answer of printk_ratelimit().
        num_physpages: the kernel variable, pages.
        mem_map: (address of ``struct page`` 0, bytes of one): page arrays that are vmalloc'ed hold the pointers
            that C would store there. If it is None, their bytes stay zero.
    """

    def __init__(
        self,
        arch: Architecture,
        layout: Layout,
        linked: Linked,
        events: Events,
        memory: PhysicalMemory,
        pages: PageSource,
        tables: TableSource,
        slab: KmallocSource,
        num_physpages: int,
        cpus: int = 1,
    ) -> None:
        self.arch, self.layout, self.memory, self.pages, self.slab = arch, layout, memory, pages, slab
        self.life = Life()
        self.events = guarded(events, self.life.threads)
        self.log = Log(self.life, self.events)
        self.log.note(layout.notes)
        self.faults = Faults()
        self.allocators = Allocators(self.life, self.faults, self.events, pages, tables, slab, arch.zone_names)
        self.symbols = Symbols(self.life, linked, self.events, self, arch.page_shift, cpus > 1)
        self.smp: Smp = Smp(self.life, self.events, self.symbols, arch, layout, memory, cpus)
        self.cpus: tuple[Cpu, ...] = self.smp.cpus
        self.processes = Processes(self.life, self.smp, arch, layout, memory)
        self.pgd_list, self.pgd_lock = self.processes.pgd_list, self.processes.pgd_lock
        self.init_mm = self.tables_below(layout.swapper_pg_dir)
        self.vmlist, self.vmlist_lock = AreaList(arch.word_bits, arch.page_shift), VmlistLock()
        self.statics: dict[str, Any] = {}
        self.in_interrupt, self.printk_ratelimit = False, True
        self.num_physpages = num_physpages
        self.mem_map: tuple[int, int] | None = None
        self.smp_flags = arch.smp_flags if cpus > 1 else 0
        self.page_kernel = arch.page_kernel | self.smp_flags
        # the record's derived numbers, once: they are in every expression of the port
        self.page_size, self.page_shift, self.word_mask = arch.page_size, arch.page_shift, arch.word_mask
        self.pointer_bytes, self.sizeof_vm_struct = arch.pointer_bytes, arch.sizeof_vm_struct
        self.frames_end, self.entry_end, self.frame_mask = arch.frames_end, arch.entry_end, arch.frame_mask

    def tables_below(self, root: int) -> PageTables:
        """Return the page tables below a root, which make their tables from this machine's pages."""
        events = self.events.table_allocated, self.events.range_mapped, self.events.range_cleared
        return PageTables(self.arch, self.memory, root, self.allocators, self.log, *events)

    def protection(self, name: str) -> int:
        """Return a named protection of this machine.

        Raises:
            ArchitectureError: the record has none of that name.
        """
        return self.arch.protection(name) | self.smp_flags

    def lock_vmlist(self) -> VmlistLock:
        """Return vmlist_lock for a ``with`` statement.

        Raises:
            KernelBug: this thread holds it already: a plugin called back.
        """
        if self.vmlist_lock.held():
            self.log.refuse_recursion()
        self.life.steps += 1
        return self.vmlist_lock

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise CannotCopy(f"a {type(self).__name__}")

    # ---- as the host of symbols, see vmcore.host

    def current_mm(self, cpu: int) -> Mm | None:
        """Return the process that a CPU runs, or None if it runs on init_mm."""
        return self.cpus[self.smp.number(cpu)].mm

    def flush_tlb_all(self, cpu: int) -> None:
        """Drop the whole TLB of every CPU."""
        self.smp.flush_tlb_all(cpu)

    def flush_tlb_pages(self, cpu: int, start: int, end: int, every_cpu: bool) -> None:
        """Drop TLB entries page by page, see `vmcore.host.Host.flush_tlb_pages`."""
        self.smp.flush_tlb_pages(cpu, start, end, every_cpu)

    def flush_cache_all(self, cpu: int) -> None:
        """Clean and invalidate the whole data cache of one CPU."""
        self.smp.flush_cache_all(cpu)

    def printk(self, line: str) -> None:
        """Log one line, with its ``<n>`` level and newline."""
        self.log.printk(line)

    def bug_on(self, condition: bool, text: str, function: str) -> None:
        """End the kernel if ``condition`` is true, see `vmcore.host.Host.bug_on`."""
        self.log.bug_on(condition, text, function)
