"""Boot a kernel: from an architecture and a selection to a running machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from os import PathLike
from typing import NoReturn, Self

import numpy as np

from vmcore.architecture import Architecture
from vmcore.coherence.checker import Checker
from vmcore.cpu.cpu import Cpu
from vmcore.dump.elf_headers import Note
from vmcore.dump.save import write_core
from vmcore.errors import ConfigurationError, KernelClosed, KernelFailure
from vmcore.events import Flush, Warned
from vmcore.linking import registry as plugins
from vmcore.linking.link import Linked, assemble
from vmcore.linking.registry import Registry
from vmcore.linking.selection import select
from vmcore.machine.boot import TablePages, map_lowmem
from vmcore.machine.life import mutating
from vmcore.machine.symbols import FlushCount
from vmcore.memory.physical import PhysicalMemory
from vmcore.memory.slab import Slab
from vmcore.memory.zones import PageAllocator
from vmcore.paging.explain import explain, vmallocinfo
from vmcore.paging.mm import Mm
from vmcore.port import invariants, ioremap
from vmcore.port.vmalloc import Vmalloc
from vmcore.system.output import Output
from vmcore.texts.vmcoreinfo import write_vmcoreinfo


class Kernel(Vmalloc):
    """A booted kernel.

    Attributes:
        registry: the plugins it was linked with.
        coherence: the coherence checker; None if it was not requested.
    """

    pages: PageAllocator
    slab: Slab

    def __init__(
        self,
        arch: str | Architecture | None = None,
        *,
        ram: str | int | None = None,
        vmalloc: str | int | None = None,
        platform: str | None = None,
        cpus: int | None = None,
        nodes: int | None = None,
        block: Iterable[str] | None = None,
        check_coherence: bool = False,
        listeners: Iterable[object] = (),
        registry: Registry | None = None,
    ) -> None:
        """Boot the kernel.

        An argument left out comes from the environment or a file, see `vmcore.linking.selection`.

        Args:
            arch: a name, or a record, which need not be installed.
            ram: a size, for example ``"1G"``, or banks, for example ``"0-3G,4G-5G"``.
            vmalloc: the value of ``vmalloc=``: bytes, or a size such as ``"192M"``.
            platform: one of the architecture's platforms, if it has several.
            cpus: the number of CPUs; more than one may select SMP protections.
            nodes: the number of NUMA nodes; the RAM is split over them evenly.
            block: names of plugins to leave out.
            check_coherence: watch every load and store; `coherence` has the findings.
            listeners: objects or modules with hook implementations, for this kernel only.
            registry: plugins that are loaded already; then ``block`` does not apply.

        Raises:
            ConfigurationError: the selection is not valid; `UnknownArchitecture` if the name is unknown.
            LayoutError: RAM, vmalloc= or the platform does not fit the architecture.
            PluginError, LinkError: a plugin breaks the contract.
        """
        name = arch.name if isinstance(arch, Architecture) else arch
        chosen = select(
            arch=name, ram=ram, vmalloc=vmalloc, platform=platform, cpus=cpus, nodes=nodes, block=block
        )
        self.registry = registry if registry is not None else plugins.load(chosen.block)
        record = arch if isinstance(arch, Architecture) else self.registry.get(chosen.arch)
        layout = record.lay_out(chosen.request(record))
        if not 1 <= chosen.cpus <= record.max_cpus:
            raise ConfigurationError(f"{record.name}: cpus is {chosen.cpus}, expected 1 to {record.max_cpus}")
        checker = Checker(record.page_shift) if check_coherence else None
        listeners = (*listeners, checker.listener) if checker is not None else listeners
        linked, events, left_out = assemble(self.registry, record, listeners)
        memory = PhysicalMemory(layout.banks, record.page_shift)
        pages = PageAllocator(record, layout, memory, chosen.nodes)
        tables = TablePages(pages, record.page_shift)
        last = layout.banks[-1].end >> record.page_shift
        physpages = last if layout.phys_offset == 0 else sum(b.size for b in layout.banks) >> record.page_shift
        super().__init__(record, layout, linked, events, memory, pages, tables, Slab(), physpages, chosen.cpus)
        self.log.note((*left_out, *(f"<4>vmcore: {warning}\n" for warning in chosen.warnings)))
        self.init_mm.prebuild(layout.first_kernel_pgd)
        if record.linear_map is not None:
            map_lowmem(self.init_mm, record, layout, record.linear_map, self.page_kernel, chosen.cpus > 1)
        self.coherence = checker
        if checker is not None:
            checker.watch(self)

    # ---- the log

    @property
    def dmesg(self) -> list[str]:
        """The log lines that are kept, oldest first. `printk_count` counts all lines (`vmcore.machine.log`)."""
        return self.log.dmesg

    @property
    def printk_count(self) -> int:
        """The number of lines logged so far."""
        return self.log.printk_count

    @property
    def warnings(self) -> list[Warned]:
        """The WARN_ON records that are kept, oldest first. `warn_count` counts all of them."""
        return self.log.warnings

    @property
    def warn_count(self) -> int:
        """The number of WARN_ONs so far."""
        return self.log.warn_count

    def lines(self) -> tuple[str, ...]:
        """Return the lines logged since this thread's last call began."""
        return self.log.lines()

    def oops(self, address: int, access: str) -> NoReturn:
        """End the kernel because of an access that the machine cannot do."""
        self.log.oops(address, access)

    @property
    def dead(self) -> KernelFailure | None:
        """The BUG, oops, interrupted call or `close` that ended this kernel first. None while the kernel lives."""
        return self.life.dead

    # ---- allocators, and failures to inject

    def kmalloc(self, size: int, gfp: int, node: int) -> int | None:
        """Allocate a small object, see `vmcore.machine.allocators.Allocators.kmalloc`."""
        return self.allocators.kmalloc(size, gfp, node)

    def kfree(self, handle: int | None) -> None:
        """Free a small object. None is NULL."""
        self.allocators.kfree(handle)

    def alloc_pages(self, count: int, gfp: int, node: int) -> np.ndarray:
        """Allocate pages, see `vmcore.machine.allocators.Allocators.alloc_pages`."""
        return self.allocators.alloc_pages(count, gfp, node)

    def free_pages(self, frames: np.ndarray) -> None:
        """Free pages, in this order."""
        self.allocators.free_pages(frames)

    def fail(self, kind: str, nth: int) -> None:
        """Make the ``nth`` call of a kind from now on fail, see `vmcore.machine.faults.Faults.inject`."""
        self.faults.inject(kind, nth)

    # ---- symbols

    @property
    def linked(self) -> Linked:
        """The resolved link symbols."""
        return self.symbols.linked

    def flush(self, symbol: str, start: int, end: int) -> None:
        """Call a flush symbol by its name for ``[start, end)`` on the running CPU."""
        self.symbols.flush(symbol, start, end)

    @property
    def flush_log(self) -> list[Flush]:
        """The last calls of flush symbols, newest last (`vmcore.machine.symbols`)."""
        return self.symbols.flush_log

    @property
    def flush_counts(self) -> dict[str, FlushCount]:
        """The number of calls and of pages of each flush symbol, since boot."""
        return self.symbols.flush_counts

    @property
    def syncs(self) -> int:
        """The number of calls of vmalloc_sync_all()."""
        return self.symbols.syncs

    # ---- CPUs and processes

    @property
    def cpu(self) -> Cpu:
        """The CPU that this Python thread runs on."""
        return self.smp.cpu

    @contextmanager
    def on_cpu(self, cpu: int | Cpu) -> Iterator[Cpu]:
        """Run the block on another CPU, see `vmcore.machine.smp.Smp.on_cpu`."""
        with self.smp.on_cpu(cpu) as one:
            yield one

    @contextmanager
    def interrupt(self) -> Iterator[None]:
        """Run the block in interrupt context."""
        before, self.in_interrupt = self.in_interrupt, True
        try:
            yield
        finally:
            self.in_interrupt = before

    @mutating
    def mm_alloc(self) -> Mm:
        """Create a process: a root table with the kernel's entries copied from init_mm (pgd_alloc()).

        Raises:
            OutOfMemory: there is no room for a root table or for a copy of a table below it. Nothing is kept then.
        """
        return self.processes.alloc(self.pages, self.init_mm, self.tables_below)

    @mutating
    def mm_free(self, mm: Mm) -> None:
        """Free a process that no CPU runs: its own tables and its root (exit_mmap() and pgd_free()).

        The frames that its user entries map stay with their owners, because vmcore does not count references to
        pages. The TLB entries of the process are dropped. Its number is not used again.

        Raises:
            ConfigurationError: the process is freed already, belongs to another kernel, or runs on a CPU.
            BrokenInvariant: its tables are not pages of its own. Nothing is freed then.
        """
        self.processes.free(mm, self.pages)

    @mutating
    def switch_mm(self, cpu: int | Cpu, mm: Mm | None) -> None:
        """Switch a CPU to the address space of a process, or to init_mm (None).

        Raises:
            ConfigurationError: there is no such CPU, or the process is freed or belongs to another kernel.
        """
        self.processes.switch(cpu, mm)

    # ---- ioremap

    @mutating
    def ioremap(self, phys: int, size: int, prot: int | None = None) -> int:
        """Map device memory: an area with VM_IOREMAP over given physical addresses (lib/ioremap.c).

        Args:
            phys: physical, bytes; its offset in the page is added to the result.
            size: bytes.
            prot: protection bits; default: the record's IOREMAP, or PAGE_KERNEL if the record has no IOREMAP.

        Raises:
            InvalidSize, OutOfMemory, OutOfVmallocSpace: as for `get_vm_area`.
            ArgumentError: a page-table entry cannot hold all physical addresses of the range, or ``prot`` has bits
                that no entry has.
        """
        return ioremap.ioremap(self, phys, size, prot)

    @mutating
    def iounmap(self, addr: int) -> None:
        """Undo `ioremap`: remove the area whose first page contains the address, and free its descriptor."""
        ioremap.iounmap(self, addr)

    # ---- the end

    def close(self) -> None:
        """Return the RAM to the host. Calls that need it raise `KernelDead` from now on.

        A kernel that is dropped without `close` returns its RAM too, unless the program keeps a BUG or an oops
        with its traceback. Closing twice is allowed.
        """
        self.life.halt(KernelClosed())
        self.memory.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---- for people, and other tools

    def save(self, path: str | PathLike[str] | Output) -> None:
        """Write RAM as a sparse ELF core with a VMCOREINFO note (see `vmcore.dump.save`), all of it or nothing.

        Args:
            path: the path of the file, which is replaced if it exists. An `Output` also knows the files that it
                must not replace.

        Raises:
            KernelDead: the kernel was closed, or a call was interrupted.
            OutputError: the file cannot be written, or is open as a dump.
        """
        self.life.readable()
        info = write_vmcoreinfo(self.arch, self.layout)
        machine = self.arch.image.machine if self.arch.image is not None else 0
        write_core(path, self.memory, [Note("VMCOREINFO", 0, info.encode())], machine)

    def explain(self, addr: int) -> str:
        """Describe the translation of an address level by level: entry address, raw value and decoded bits."""
        return explain(self, addr)

    def vmallocinfo(self) -> str:
        """Return the area list in the format of /proc/vmallocinfo."""
        self.life.readable()
        return vmallocinfo(self)

    def check(self) -> None:
        """Check the invariants of the list, the page tables and the allocators, and that these agree.

        - The area list is in order, and its index agrees with it.
        - No entry lies outside an area, and an area maps its own pages.
        - The hardware's words follow from those of Linux.
        - Each table is an allocated page of its own.
        - The kernel half of a process is that of init_mm.
        - No page has two owners, and no object of an area is freed.

        Raises:
            BrokenInvariant: an invariant does not hold. The error describes the first.
            KernelDead: a call was interrupted, or the kernel was closed.
        """
        self.life.readable()
        invariants.check(self, self.pages, self.slab)
