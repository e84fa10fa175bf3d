"""Boot a kernel: from an architecture and a selection to a running machine."""

from __future__ import annotations

from collections.abc import Iterable
from operator import index
from os import PathLike
from typing import Any, Self

import numpy as np

from vmcore.architecture import Architecture, Level, LinearMap
from vmcore.coherence.checker import Checker
from vmcore.dump.elf_headers import Note
from vmcore.dump.save import write_core
from vmcore.errors import (
    ArgumentError,
    BrokenInvariant,
    ConfigurationError,
    KernelClosed,
    OutOfMemory,
    VmcoreError,
)
from vmcore.flags import ANY_NODE, GFP_PGTABLE, NO_FRAME, VM
from vmcore.linking import registry as plugins
from vmcore.linking.link import assemble
from vmcore.linking.registry import Registry
from vmcore.linking.selection import select
from vmcore.machine.machine import mutating
from vmcore.memory.physical import PhysicalMemory
from vmcore.memory.slab import Slab
from vmcore.memory.zones import PageAllocator
from vmcore.paging.explain import explain, vmallocinfo
from vmcore.paging.mm import Mm
from vmcore.placement.arealist import VmStruct
from vmcore.port.vmalloc import Vmalloc
from vmcore.system.output import Output
from vmcore.texts.vmcoreinfo import write_vmcoreinfo

_VPAGES = int(VM.VPAGES)


class _TablePages:
    """Kernel page tables come from lowmem, zeroed (mm/memory.c, GFP_KERNEL | REPEAT | ZERO)."""

    def __init__(self, pages: PageAllocator, page_shift: int) -> None:
        self._pages, self._shift = pages, page_shift

    def alloc_table(self) -> int | None:
        frames = self._pages.alloc(1, GFP_PGTABLE, ANY_NODE)
        return int(frames[0]) << self._shift if len(frames) else None

    def free_table(self, table: int) -> None:
        self._pages.free(np.array([table >> self._shift], np.int64))


class Kernel(Vmalloc):
    """A booted kernel.

    Attributes:
        registry: the plugins it was linked with.
        coherence: the checker, where one was asked for.
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
        """Boot.

        What is not given comes from the environment or a configuration file, see `vmcore.linking.selection`.

        Args:
            arch: a name, or a record that need not be installed.
            ram: ``"1G"``, or banks ``"0-3G,4G-5G"``.
            vmalloc: ``vmalloc=``, bytes or ``"192M"``.
            platform: where the architecture has several.
            cpus: how many; more than one may select SMP protections.
            nodes: NUMA nodes the RAM is split over evenly.
            block: plugins to leave out.
            check_coherence: watch every load and store; `coherence` has what was found.
            listeners: objects or modules with hook implementations, for this kernel only.
            registry: plugins that are loaded already; then ``block`` does not apply.

        Raises:
            ConfigurationError: a selection that is not valid (`UnknownArchitecture` for the name).
            LayoutError: RAM, vmalloc= or platform do not fit the architecture.
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
        checker = Checker() if check_coherence else None
        listeners = (*listeners, checker.listener) if checker is not None else listeners
        linked, events, left_out = assemble(self.registry, record, listeners)
        memory = PhysicalMemory(layout.banks, record.page_shift)
        pages = PageAllocator(record, layout, memory, chosen.nodes)
        tables = _TablePages(pages, record.page_shift)
        last = layout.banks[-1].end >> record.page_shift
        physpages = last if layout.phys_offset == 0 else sum(b.size for b in layout.banks) >> record.page_shift
        super().__init__(record, layout, linked, events, memory, pages, tables, Slab(), physpages, chosen.cpus)
        self.dmesg += left_out
        self.printk_count += len(left_out)
        self._mms_made, self._root_bytes = 0, max(record.root_bytes, record.page_size)
        self.init_mm.prebuild(layout.first_kernel_pgd)
        if record.linear_map is not None:
            self._map_lowmem(record.linear_map)
        self.coherence = checker
        if checker is not None:
            checker.watch(self)

    def _map_lowmem(self, linear: LinearMap) -> None:
        """Map lowmem from PAGE_OFFSET up: large pages, and pages for what is left over at the end."""
        layout, init = self.layout, self.init_mm
        leaf = next(
            leaf for level in self.arch.hardware_levels for leaf in level.leaves if leaf.name == linear.leaf
        )
        flags = linear.flags | (linear.smp_flags if len(self.cpus) > 1 else 0)
        kernel_flags = flags if linear.kernel_flags is None else linear.kernel_flags
        depth = next(n for n, level in enumerate(self.arch.hardware_levels) if leaf in level.leaves)
        # an entry of Linux may be several of the hardware's, and cannot be half a table
        size, start = 1 << max(leaf.shift, self.arch.levels[depth].shift), layout.phys_offset
        whole = layout.lowmem_end - (layout.lowmem_end - start) % size
        kernel_end = min(whole, start + (layout.kernel_end - start + size - 1) // size * size)
        for first, end, bits in ((start, kernel_end, kernel_flags), (kernel_end, whole, flags)):
            if first < end:
                at = first - start + layout.page_offset
                init.map_linear(at, at + end - first, first, leaf, bits)
        if linear.image is not None:
            at, length, bits = linear.image
            init.map_linear(at, at + min(length, whole - start), start, leaf, bits)
        if whole < layout.lowmem_end:
            at = whole - start + layout.page_offset
            frames = np.arange(whole >> self.page_shift, layout.lowmem_end >> self.page_shift)
            result = init.map(at, at + layout.lowmem_end - whole, frames, self.page_kernel)
            if not result.ok:
                raise OutOfMemory("table", f"no page for the table of the end of lowmem, {at:#x}, at boot")

    # ---- processes

    @mutating
    def mm_alloc(self) -> Mm:
        """Make a process: a root table with the kernel's entries copied from init_mm (pgd_alloc()).

        Raises:
            OutOfMemory: no room for a root table, or for a copy of a table below it; nothing is kept then.
        """
        self.steps += 1
        root_level = self.arch.levels[0]
        skip = self.layout.first_kernel_pgd * root_level.entry_bytes
        root = self.pages.alloc_root(self._root_bytes)
        with self.pgd_lock:  # a sync must not fall between the copy and the list
            kernel_half = self.memory.read(self.init_mm.root + skip, root_level.table_bytes - skip)
            self.memory.write(root, bytes(skip) + kernel_half)
            try:
                self._copy_tables(root)
            except OutOfMemory:
                self.pages.free_root(root, self._root_bytes)
                raise
            self._mms_made += 1
            mm = Mm(self._mms_made, self._page_tables(root))
            self.pgd_list.append(mm)
        return mm

    def _private_entries(self, root: int) -> list[int]:
        """Return where the root entries are whose tables each process has copies of; mostly there are none."""
        level, first = self.arch.levels[0], self.layout.first_kernel_pgd
        if not level.prebuilt or self.layout.shared_kernel_tables:
            return []
        places = range(root + first * level.entry_bytes, root + level.table_bytes, level.entry_bytes)
        return [at for at in places if self.memory.load(at, level.word_bytes) & level.present_mask]

    def _copy_tables(self, root: int) -> None:
        """Give a new root tables of its own below its kernel entries, copies of init_mm's (pgd_alloc())."""
        level, size, made = self.arch.levels[0], self.arch.page_size, list[int]()
        for at in self._private_entries(root):
            try:
                table = self.pages.alloc_root(size)
            except OutOfMemory:
                for copy in made:
                    self.pages.free_root(copy, size)
                raise
            made.append(table)
            word = self.memory.load(at, level.word_bytes)
            self.memory.write(table, self.memory.read(level.decode(word), size))
            self.memory.store(at, level.encode(table, level.table_flags), level.word_bytes)

    @mutating
    def mm_free(self, mm: Mm) -> None:
        """Free a process that no CPU runs: its own tables and its root (exit_mmap() and pgd_free()).

        Frames that its user entries map stay their owners': nothing here counts references to pages. TLB
        entries of it are dropped, and its number is not used again.

        Raises:
            ConfigurationError: it is freed already, another kernel's, or a CPU runs it.
            BrokenInvariant: its tables are not pages of its own; nothing is freed then.
        """
        with self.pgd_lock:
            self._expect_mm(mm)
            if runs := [str(cpu.number) for cpu in self.cpus if cpu.mm is mm]:
                raise ConfigurationError(
                    f"mm_free: found process {mm.number} on CPU {', '.join(runs)}, expected one that no CPU runs; "
                    "call switch_mm() first"
                )
            own = self._own_tables(mm)
            self.steps += 1
            self.pgd_list.remove(mm)
        for cpu in self.cpus:  # tlb_finish_mmu()
            self._dropped(cpu, "mm", 0, 0, cpu.tlb.drop_space(mm.number))
        self.pages.free(own)
        self.pages.free_root(mm.tables.root, self._root_bytes)

    def _own_tables(self, mm: Mm) -> np.ndarray:
        """Return the frames, int64, of the tables below a root that no other process has.

        Raises:
            BrokenInvariant: one of them is not handed out, or there twice.
        """
        level = self.arch.levels[0]
        entries = (self.memory.load(at, level.word_bytes) for at in self._private_entries(mm.tables.root))
        copies = [level.decode(entry) for entry in entries]
        below = mm.tables.table_addresses(self.layout.first_kernel_pgd)
        own = np.concatenate([*below.values(), np.array(copies, np.int64)]) >> self.page_shift
        if len(np.unique(own)) != len(own) or not self.pages.allocated(own).all():
            raise BrokenInvariant(f"process {mm.number} has a page table in a page that is free, or has it twice")
        return own

    # ---- ioremap, as vmalloc's other big user

    @mutating
    def ioremap(self, phys: int, size: int, prot: int | None = None) -> int:
        """Map device memory: an area with VM_IOREMAP over given physical addresses (lib/ioremap.c).

        Args:
            phys: physical, bytes; its offset in the page is added to the result.
            size: bytes.
            prot: protection bits; default the record's IOREMAP, or PAGE_KERNEL where it has none.

        Raises:
            InvalidSize, OutOfMemory, OutOfVmallocSpace: as for `get_vm_area`.
            ArgumentError: the range leaves the physical addresses that a page-table entry can hold, or ``prot``
                has bits that no entry has.
        """
        page, shift, most = self.arch.page_size, self.arch.page_shift, self.arch.levels[-1].physical_end
        phys, size = index(phys), index(size)
        if not 0 <= phys <= phys + size <= most:
            raise ArgumentError(
                f"ioremap: found {size:#x} bytes at physical address {phys:#x}, expected a range within "
                f"0x0..{most:#x}, the addresses that a page-table entry of {self.arch.name} holds"
            )
        if prot is None:
            named = dict(self.arch.protections)
            prot = named.get("IOREMAP", self.arch.page_kernel) | self._smp_flags
        prot, offset = self._entry_bits(prot, "ioremap"), phys & page - 1
        area = self.get_vm_area((size + offset + page - 1) & -page if size else 0, int(VM.IOREMAP))
        area.phys_addr = phys - offset
        pages = area.size - page >> shift
        frames = (phys >> shift) + np.arange(pages, dtype=np.int64)
        try:
            self.map_vm_area(area, prot, frames)
        except VmcoreError:
            if self.dead is None:
                self.iounmap(area.addr)
            raise
        return area.addr + offset

    @mutating
    def iounmap(self, addr: int) -> None:
        """Undo `ioremap`: remove the area an address lies in the first page of, and free its descriptor."""
        addr = index(addr) & self.word_mask
        area = self.remove_vm_area(addr & -self.arch.page_size)
        if area is None:
            self.printk(f"<3>iounmap: bad address {addr:0{self.arch.word_bits // 4}x}\n")
            return
        self.kfree(area.handle)

    # ---- the end

    def close(self) -> None:
        """Give the RAM back to the host. Calls that need it raise `KernelDead` from now on.

        A kernel that is dropped without it gives its RAM back too, unless a BUG or an oops is kept with its
        traceback. Closing twice is allowed.
        """
        self.halt(KernelClosed())
        self.memory.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---- for people, and other tools

    def save(self, path: str | PathLike[str] | Output) -> None:
        """Write RAM as a sparse ELF core with a VMCOREINFO note (see `vmcore.dump.save`); all of it or nothing.

        Args:
            path: of the file, which is replaced if it exists; an `Output` knows which files it must not replace.

        Raises:
            KernelDead: the kernel was closed, or a call was interrupted.
            OutputError: it cannot be written, or is open as a dump.
        """
        self.readable()
        info = write_vmcoreinfo(self.arch, self.layout)
        machine = self.arch.image.machine if self.arch.image is not None else 0
        write_core(path, self.memory, [Note("VMCOREINFO", 0, info.encode())], machine)

    def explain(self, addr: int) -> str:
        """Return how an address is translated, level by level: entry address, raw value, decoded bits."""
        return explain(self, addr)

    def vmallocinfo(self) -> str:
        """Return the area list in the format of /proc/vmallocinfo."""
        self.readable()
        return vmallocinfo(self)

    # ---- invariants

    def check(self) -> None:
        """Check the invariants: list, page tables, allocators, and that they agree with each other.

        The list is in order and its index true. No entry lies outside an area, an area maps its own pages,
        what the hardware reads is what Linux wrote, each table is a page of its own that is handed out,
        and a process' kernel half is init_mm's. No page has two owners, no object of an area is freed.

        Raises:
            BrokenInvariant: with what is broken.
            KernelDead: a call was interrupted, or the kernel was closed.
        """
        self.readable()
        try:
            self.vmlist.check()
        except AssertionError as error:
            raise BrokenInvariant(str(error)) from error
        self.pages.check()
        for lock, name in ((self.vmlist_lock, "vmlist_lock"), (self.init_mm.lock, "page_table_lock")):
            if lock.locked():
                raise BrokenInvariant(f"{name} is held")
        self._check_tables()
        self._check_hardware()
        self._check_processes()
        self._check_pages()

    def _check_tables(self) -> None:
        """No entry outside the data pages of an area; a vmalloc'ed area maps its own pages in order."""
        addresses, words = self.init_mm.entries()
        if not self.vmlist.orderly:
            return
        low, high = self.layout.page_offset, self.layout.high_memory
        linear = (addresses >= np.uint64(low)) & (addresses < np.uint64(high))
        addresses, words = addresses[~linear], words[~linear]
        areas = list(self.vmlist)
        starts = np.array([a.addr for a in areas], np.uint64)
        ends = np.array([a.addr + a.size - self.arch.page_size for a in areas], np.uint64)
        owner = np.searchsorted(starts, addresses, "right") - 1
        stray = (owner < 0) | (addresses >= ends[owner]) if areas else np.ones(len(addresses), bool)
        if stray.any():
            n = int(stray.argmax())
            raise BrokenInvariant(f"page-table entry {int(words[n]):#x} at {int(addresses[n]):#x} is in no area")
        for area in areas:
            if area.pages is None or not area.nr_pages or area.flags & int(VM.IOREMAP):
                continue
            mapped = self.init_mm.frames(area.addr, area.nr_pages)
            wrong = (mapped != area.pages[: area.nr_pages]) & (mapped != NO_FRAME)
            if wrong.any():
                at = area.addr + (int(wrong.argmax()) << self.arch.page_shift)
                raise BrokenInvariant(f"{at:#x} maps to another frame than its area's page array says")

    def _check_hardware(self) -> None:
        """The words beside Linux' own say the same: the hardware half, further words of an upper entry."""
        tables, shift = self.init_mm.table_addresses(), self.arch.page_shift
        pages = [np.unique(table >> shift) for table in tables.values()]
        below = np.concatenate(pages) if pages else np.empty(0, np.int64)
        if len(np.unique(below)) != len(below) or not self.pages.allocated(below).all():
            raise BrokenInvariant("a page table lies in a page that is free, or in another table")
        if broken := self.init_mm.broken_words():
            raise BrokenInvariant(broken)

    def _check_processes(self) -> None:
        """A process' kernel half is empty, or what init_mm has (arch/*/mm/fault.c: BUG otherwise)."""
        level, first = self.arch.levels[0], self.layout.first_kernel_pgd
        private = level.prebuilt and not self.layout.shared_kernel_tables
        for mm in self.pgd_list:
            roots = self.init_mm.root, mm.tables.root
            if not private:
                self._check_copy(mm, level, roots, first)
                continue
            for number in range(first, level.entries):
                entries = (root + number * level.entry_bytes for root in roots)
                own, copy = (level.decode(self.memory.load(at, level.word_bytes)) for at in entries)
                self._check_copy(mm, self.arch.levels[1], (own, copy), 0)

    def _check_copy(self, mm: Mm, level: Level, tables: tuple[int, int], first: int) -> None:
        """What a process has from entry ``first`` on, of init_mm's table and its own, is 0 or init_mm's."""
        skip, size = first * level.entry_bytes, level.table_bytes - first * level.entry_bytes
        kind = f"u{level.entry_bytes}"
        own, copy = (np.frombuffer(self.memory.read(table + skip, size), kind) for table in tables)
        if (wrong := (copy != 0) & (copy != own)).any():
            n = int(wrong.argmax())
            where = f"process {mm.number}: {level.name}[{first + n}]"
            raise BrokenInvariant(f"{where} is {int(copy[n]):#x}, init_mm has {int(own[n]):#x}")

    def _check_pages(self) -> None:
        """No page belongs to two areas; every area's pages are handed out; objects and areas agree."""
        parts = [a.pages[: a.nr_pages] for a in self.vmlist if a.pages is not None]
        owned = np.concatenate([*parts, np.empty(0, np.int64)])
        if len(np.unique(owned)) != len(owned):
            raise BrokenInvariant("a page frame belongs to two areas")
        if not self.pages.allocated(owned).all():
            raise BrokenInvariant("an area holds a page frame that is free")
        handles = [h for a in self.vmlist for h in _handles(a) if h is not None]
        lost = [h for h in handles if not self.slab.lives(h)]
        if lost or len(set(handles)) != len(handles):
            raise BrokenInvariant(
                f"kmalloc objects {lost or handles} belong to an area but do not live, or to two"
            )


def _handles(area: VmStruct) -> tuple[Any, ...]:
    return (area.handle,) if area.flags & _VPAGES else (area.handle, area.pages_handle)
