"""The check of translations: TLB entries that are used after their page was unmapped or changed."""

from __future__ import annotations

import numpy as np

from vmcore.architecture import Architecture, Layout, Window
from vmcore.coherence.history import History
from vmcore.coherence.report import FRAME_IN_USE, STALE_TRANSLATION, UNREPAIRED_FAULT, Reports
from vmcore.cpu.watchers import CpuView
from vmcore.memory.physical import PhysicalMemory
from vmcore.paging.mmu import Mmu
from vmcore.paging.rights import CACHED, RIGHTS, SHARED, WRITE_BACK, Rights

_MAP, _TLB, _SYNC = "flush_cache_vmap", "flush_tlb_kernel_range", "vmalloc_sync_all"


class TranslationCheck:
    """The check of the translations of one machine's CPUs against its page tables."""

    def __init__(
        self,
        history: History,
        reports: Reports,
        arch: Architecture,
        layout: Layout,
        memory: PhysicalMemory,
        cpus: tuple[CpuView, ...],
    ) -> None:
        self._history, self._reports, self._cpus = history, reports, cpus
        self._shift, self._page = arch.page_shift, arch.page_size
        self._rights, self._init = Rights(arch), Mmu(arch, memory, layout.swapper_pg_dir)
        self._root, self._first_kernel = arch.levels[0], layout.first_kernel_pgd

    def reused(self, frames: np.ndarray) -> None:
        """Look for TLB entries that still translate to frames (int64) that are handed out."""
        for cpu in self._cpus:
            held = cpu.tlb.page >= 0
            stale = held & np.isin(cpu.tlb.physical >> self._shift, frames)
            for slot in np.flatnonzero(stale).tolist():
                address, physical = int(cpu.tlb.page[slot]) << self._shift, int(cpu.tlb.physical[slot])
                if self._truth(cpu, address)[0] != physical:
                    text = f"frame {physical >> self._shift:#x} is handed out again, and the TLB translates to it"
                    self._stale_page(FRAME_IN_USE, cpu, address, text)

    def _truth(self, cpu: CpuView, address: int) -> tuple[int | None, int]:
        """Return the physical address and the rights of a page.

        A kernel page is looked up below init_mm, any other below the tables that the CPU runs on.
        """
        walk = (self._init if self._kernels(address) else cpu.mmu).walk(address)
        return walk.physical, self._rights.of(walk)

    def _kernels(self, address: int) -> bool:
        return address >> self._root.shift & self._root.entries - 1 >= self._first_kernel

    def used(self, cpu: CpuView, address: int, physical: int, flags: int) -> None:
        """Judge one TLB entry that was used without a walk: the one for the page at ``address``."""
        found, rights = self._truth(cpu, address)
        more, otherwise = flags & RIGHTS & ~rights, (flags ^ rights) & (SHARED | CACHED | WRITE_BACK)
        if found == physical and not more and not otherwise:
            return
        now = "nowhere" if found is None else f"to {found:#x}"
        if found == physical:
            now = "there with fewer rights" if more else "there, and shared or cached in another way"
        text = f"the TLB translates to {physical:#x}, the page is mapped {now}"
        self._stale_page(STALE_TRANSLATION, cpu, address, text)

    def used_many(self, cpu: CpuView, addresses: np.ndarray, physical: np.ndarray, flags: np.ndarray) -> None:
        """Judge the TLB entries that one access used, for pages at ``addresses`` (uint64), as `used` does."""
        mmu = self._init if len(addresses) and self._kernels(int(addresses[0])) else cpu.mmu
        walks = mmu.walk_many(addresses)
        rights = self._rights.of_many(walks)
        wrong = (walks.physical != physical) | (flags & RIGHTS & ~rights != 0)
        wrong |= (flags ^ rights) & (SHARED | CACHED | WRITE_BACK) != 0
        for n in np.flatnonzero(wrong).tolist():
            self.used(cpu, int(addresses[n]), int(physical[n]), int(flags[n]))

    def _stale_page(self, kind: str, cpu: CpuView, address: int, text: str) -> None:
        if self._reports.repeats(kind, cpu.number, address, _TLB):
            return
        cleared = self._history.last("cleared", address, 0)
        window = Window(address, address + self._page) if cleared is None else Window(cleared.start, cleared.end)
        flush = self._history.last(_TLB, address, 0 if cleared is None else cleared.number)
        if flush is None:
            forgotten = cleared is None and self._history.forgets
            text += f"; {_TLB} was not called for it" + (", as far as is remembered" if forgotten else "")
        else:
            text += f"; {_TLB} on cpu {flush.cpu}: {flush.did}"
        self._reports.add(kind, cpu.number, address, window, _TLB, text)

    def faulted(self, cpu: CpuView, address: int, access: int) -> None:
        """Judge a fault that was not repaired: it is one of ours if init_mm maps the page with that right."""
        page = address & -self._page
        physical, rights = self._truth(cpu, page)
        if physical is None or not rights & access or not self._kernels(address):
            return
        runs = "init_mm" if cpu.mm is None else f"process {cpu.mm.number}"
        if cpu.mmu.walk(page).physical is not None:
            missing, why = _MAP, "its TLB keeps that the page is absent"
        else:
            missing, why = _SYNC, f"{runs} lacks an entry that vmalloc_fault did not copy"
        text = f"init_mm maps it to {physical:#x}, but {why}"
        self._reports.add(UNREPAIRED_FAULT, cpu.number, address, Window(page, page + self._page), missing, text)
