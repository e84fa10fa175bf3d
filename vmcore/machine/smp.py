"""The CPUs of a machine together: which one runs, and the flushes that reach them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from operator import index
from weakref import proxy

import numpy as np

from vmcore.architecture import Architecture, Layout
from vmcore.arrays import readonly
from vmcore.cpu.cpu import Cpu
from vmcore.cpu.watchers import CpuView, Watcher
from vmcore.errors import ConfigurationError
from vmcore.events import FlushAction
from vmcore.linking.link import Events
from vmcore.machine.life import Life
from vmcore.machine.symbols import Symbols
from vmcore.memory.physical import PhysicalMemory


class Smp:
    """The CPUs of one machine.

    Attributes:
        cpus: each `vmcore.cpu.cpu.Cpu`, by number.
        checker: watches the loads and stores of the CPUs, or None.
    """

    def __init__(
        self,
        life: Life,
        events: Events,
        symbols: Symbols,
        arch: Architecture,
        layout: Layout,
        memory: PhysicalMemory,
        count: int,
    ) -> None:
        """Start ``count`` CPUs on init_mm, with empty TLBs and caches."""
        self._life, self._events, self._symbols = life, events, symbols
        self._page_shift = arch.page_shift
        self._linear_offset = layout.page_offset - layout.phys_offset
        self._whole_tlb = FlushAction("tlb", "all", count)
        self._tlbs_hold = False  # the TLB of some CPU holds an entry
        self.checker: Watcher | None = None
        self.cpus = tuple(Cpu(self, life, number, arch, layout, memory) for number in range(count))
        life.tlbs += [cpu.tlb for cpu in self.cpus]
        caches = [cpu.cache for cpu in self.cpus if cpu.cache is not None]
        for cache in caches:
            cache.others = [proxy(other) for other in caches if other is not cache]
        if caches:
            smp = proxy(self)
            memory.zeroed = lambda frames: smp.drop_lines(frames)  # noqa: PLW0108  # a bound method would keep it

    # ---- the running CPU

    @property
    def cpu(self) -> Cpu:
        """The CPU that this Python thread runs on."""
        return self.cpus[self._life.threads.mine.running]

    @contextmanager
    def on_cpu(self, cpu: int | Cpu) -> Iterator[Cpu]:
        """Run on another CPU for a while. This affects only this Python thread.

        Raises:
            ConfigurationError: there is no such CPU.
        """
        thread, number = self._life.threads.mine, self.number(cpu)
        before, thread.running = thread.running, number
        try:
            yield self.cpus[number]
        finally:
            thread.running = before

    def number(self, cpu: int | Cpu) -> int:
        """Return the number of a CPU of this machine.

        Raises:
            ConfigurationError: there is no such CPU.
        """
        try:
            number = cpu.number if isinstance(cpu, Cpu) else index(cpu)
        except TypeError:
            number = -1
        if not 0 <= number < len(self.cpus) or (isinstance(cpu, Cpu) and self.cpus[number] is not cpu):
            raise ConfigurationError(
                f"found CPU {cpu!r}, expected 0 to {len(self.cpus) - 1}, or one of this kernel's"
            )
        return number

    # ---- flushes; outside of a flush symbol (in a plugin's own test, for example) no action is noted

    def flush_tlb_all(self, cpu: int) -> None:
        """Drop the whole TLB of every CPU: an IPI to the others, and a wait for them."""
        if self._events.ipi is not None:
            self._interrupt_others(cpu, "flush_tlb_all")
        if not self._tlbs_hold:
            actions = self._life.threads.mine.actions
            if actions is not None:
                actions.append(self._whole_tlb)
            return
        self._tlbs_hold = False  # first: a CPU that fills meanwhile sets it before and after
        dropped = sum(self.dropped(one, "all", 0, 0, one.tlb.drop_all()) for one in self.cpus)
        self._act(FlushAction("tlb", "all", len(self.cpus), dropped))

    def flush_tlb_pages(self, cpu: int, start: int, end: int, every_cpu: bool) -> None:
        """Drop TLB entries page by page, from ``start`` rounded down while below ``end``, at least one."""
        targets = self.cpus if every_cpu else self.cpus[cpu : cpu + 1]
        if every_cpu and self._events.ipi is not None:
            self._interrupt_others(cpu, "flush_tlb_pages")
        dropped = 0
        if self._tlbs_hold:
            first = start >> self._page_shift
            count = max(1, -(-end >> self._page_shift) - first)
            for one in targets:
                dropped += self.dropped(one, "pages", start, end, one.tlb.drop_pages(first, count))
        self._act(FlushAction("tlb", "pages", len(targets), dropped))

    def flush_cache_all(self, cpu: int) -> None:
        """Clean and invalidate the whole data cache of one CPU."""
        cache = self.cpus[cpu].cache
        self._act(FlushAction("cache", "all", 1, 0 if cache is None else cache.clean_and_invalidate()))

    def _act(self, action: FlushAction) -> None:
        actions = self._life.threads.mine.actions
        if actions is not None:
            actions.append(action)

    def _interrupt_others(self, cpu: int, reason: str) -> None:
        others = tuple(one.number for one in self.cpus if one.number != cpu)
        if self._events.ipi is not None and others:
            self._events.ipi(cpu=cpu, targets=others, reason=reason)

    def dropped(self, cpu: CpuView, scope: str, start: int, end: int, entries: int) -> int:
        """Announce that a CPU dropped TLB entries and return their number."""
        if self._events.tlb_dropped is not None and entries:
            self._events.tlb_dropped(cpu=cpu.number, scope=scope, start=start, end=end, entries=entries)
        return entries

    # ---- called by the CPUs and by memory

    def tlb_filling(self) -> None:
        """Note that a TLB is about to keep an entry: a flush from now on must look at it."""
        self._tlbs_hold = True

    def tlb_filled(self, cpu: CpuView, pages: np.ndarray, physical: np.ndarray) -> None:
        """Announce the translations that a CPU keeps from now on: page numbers and addresses, int64."""
        self._tlbs_hold = True
        if self._events.tlb_filled is not None:
            shift = np.uint64(self._page_shift)
            self._events.tlb_filled(
                cpu=cpu.number, addresses=readonly(pages.astype(np.uint64) << shift), physical=readonly(physical)
            )

    def fault(self, cpu: CpuView, address: int, access: str, error_code: int) -> bool:
        """Offer an address that faulted on a CPU to vmalloc_fault(). True means that it was repaired."""
        return self._symbols.vmalloc_fault(cpu.number, address, access, error_code)

    def drop_lines(self, frames: np.ndarray) -> None:
        """Drop the cache lines of frames that are about to be zeroed, which the kernel does in the linear map."""
        for cpu in self.cpus:
            if cpu.cache is not None:
                cpu.cache.forget(frames, self._page_shift, self._linear_offset)
        if self.checker is not None:
            self.checker.cleared(frames)
