"""The translation of a CPU: its TLB, the hardware's tables below the root it runs on, and its faults.

A page that is not in the TLB is looked up in the tables, marked accessed and dirty if the hardware does that, and
kept. A kernel address that faults is offered to ``vmalloc_fault`` once, and tried again if that repaired it. A
right that a kept page lacks is looked for in the tables once more, so that nothing here needs a flush for an entry
that has become more permissive.
"""

from __future__ import annotations

from weakref import proxy

import numpy as np
from attrs import define

from vmcore.architecture import Architecture, Layout
from vmcore.cpu.dcache import DataCache
from vmcore.cpu.tlb import Translation, TranslationBuffer, allows
from vmcore.cpu.watchers import Board, Life
from vmcore.errors import PageFault
from vmcore.memory.physical import PhysicalMemory
from vmcore.paging.mm import Mm
from vmcore.paging.mmu import End, Mmu, Walk
from vmcore.paging.rights import CLEAN, NAMES, RESERVED, RIGHTS, WRITE, Rights, error_code

_REASONS = {
    End.NOT_PRESENT: "is not present",
    End.NO_TABLE: "is neither a table nor a page",
    End.NOT_IN_MEMORY: "lies where no RAM is",
}
_BATCH = 1 << 16  # pages of one access that are translated in one step


@define
class FaultCounts:
    """Faults of one CPU: taken, and how many of them ``vmalloc_fault`` repaired."""

    taken: int = 0
    repaired: int = 0


@define(eq=False)
class Pages:
    """Consecutive pages that were translated, up to the first that faulted.

    Attributes:
        physical: address of each, bytes, int64.
        where: offset of each in the memory's buffer, int64; -1: no RAM.
        flags: of `vmcore.paging.rights`, uint8.
        fault: of the page behind them, or None.
    """

    physical: np.ndarray
    where: np.ndarray
    flags: np.ndarray
    fault: PageFault | None = None

    def take_fault(self) -> PageFault:
        """Return the fault to raise it. A frame that kept it would keep the kernel, in a cycle."""
        assert self.fault is not None
        fault, self.fault = self.fault, None
        return fault


class TranslatingCpu:
    """The translating part of a CPU.

    Attributes:
        number: Its number: 0, 1, 2 and so on.
        mm: The process that it runs, or None if it runs on init_mm.
        tlb: Its TLB.
        cache: Its data cache, or None if two mappings cannot disagree in it.
        mmu: Its walker, whose ``root`` is that of the address space that it runs.
        faults: Counts of its faults.
    """

    def __init__(
        self, board: Board, life: Life, number: int, arch: Architecture, layout: Layout, memory: PhysicalMemory
    ) -> None:
        """Start on init_mm, with an empty TLB and an empty cache."""
        self._life: Life = life
        self._board: Board = proxy(board)  # a CPU does not keep its machine
        self._memory, self.number, self._init_root = memory, number, layout.swapper_pg_dir
        hardware = arch.hardware
        self.mm: Mm | None = None
        self.mmu = Mmu(arch, memory, self._init_root)
        self.tlb = TranslationBuffer(hardware.tlb, arch.page_shift)
        self.cache: DataCache | None = None
        if hardware.cache is not None and hardware.cache.modelled:
            cpu = proxy(self)
            translate = lambda lines: cpu.physical_lines(lines)  # noqa: E731, PLW0108  # a bound method would keep it
            self.cache = DataCache(hardware.cache, number, memory, translate)
        self.tlb.direct = self.cache is None
        self.faults = FaultCounts()
        self._rights, self._keeps_absent = Rights(arch), hardware.tlb.keeps_absent
        self._space = 0
        self._shift, self._inside, self._page_size = arch.page_shift, arch.page_size - 1, arch.page_size
        self._slots, self._word_mask = hardware.tlb.entries - 1, arch.word_mask
        self._flags, self._physical = self.tlb.flags.data, self.tlb.physical.data

    def switch_mm(self, mm: Mm | None) -> int:
        """Run another address space (None: init_mm) and return the TLB entries that this costs."""
        if self.cache is not None and self.cache.kind.kind == "vivt":
            self.cache.clean_and_invalidate()  # cpu_switch_mm, while the old tables are there
        self.mm, self._space = mm, 0 if mm is None else mm.number
        self.mmu.root = self._init_root if mm is None else mm.tables.root
        return self.tlb.switch(self._space)

    def translate(self, address: int, size: int, access: int) -> Pages:
        """Translate the pages an access touches, in order, up to the first that faults."""
        first = address >> self._shift
        count = (address + size - 1 >> self._shift) - first + 1
        if count > 1:
            return self._many(first, count, address, access)
        try:
            slot = self.page(first, address, access)
        except PageFault as fault:
            none = np.empty(0, np.int64)
            return Pages(none, none, none.astype(np.uint8), fault.with_traceback(None))
        at, tlb = slice(slot, slot + 1), self.tlb
        return Pages(tlb.physical[at], tlb.where[at], tlb.flags[at])

    def page(self, page: int, address: int, access: int) -> int:
        """Return the TLB slot that holds a page, with a right.

        Raises:
            PageFault: it is not mapped, or lacks the right.
        """
        checker = self._board.checker
        slot = self.tlb.slot(page, self._space)
        if slot >= 0:
            kept = self._flags[slot]
            if allows(kept, access):
                if checker is not None:
                    checker.used(self, page << self._shift, self._physical[slot], kept)
                return slot
            if self._physical[slot] < 0:
                return self._absent(page, address, access)
        return self._walk(page, address, access, True)

    def _absent(self, page: int, address: int, access: int) -> int:
        """Fault on an entry that says that the page is absent. A repaired fault drops the entry."""
        walk = Walk((), End.NOT_PRESENT, None)
        if not self._repaired(address, access, 0):
            raise self._fault(address, access, walk, 0)
        self.tlb.drop_pages(page, 1)
        return self._walk(page, address, access, False)

    def _walk(self, page: int, address: int, access: int, may_repair: bool) -> int:
        walk = self.mmu.walk(page << self._shift)
        flags = self._rights.of(walk)
        if not flags & access & RIGHTS:
            if may_repair and self._repaired(address, access, error_code(flags, access)):
                return self._walk(page, address, access, False)
            if self._keeps_absent and walk.end == End.NOT_PRESENT:
                self._board.tlb_filling()
                self.tlb.fill(Translation(page, -1, 0, self._shift, self._space), -1)
            raise self._fault(address, access, walk, flags)
        for mark in self._rights.marks(walk, access == WRITE):
            self._memory.store(mark.address, mark.word, mark.size)
        if access == WRITE:
            flags &= ~CLEAN
        physical, last = walk.physical, walk.steps[-1]
        assert physical is not None
        shift = last.level.shift if last.leaf is None else last.leaf.shift
        self._board.tlb_filling()
        slot = self.tlb.fill(Translation(page, physical, flags, shift, self._space), self._memory.place(physical))
        self._board.tlb_filled(self, np.array([page]), np.array([physical]))
        return slot

    def _many(self, first: int, count: int, address: int, access: int) -> Pages:
        """Translate consecutive pages in array steps, again from a page whose fault was repaired."""
        done: list[Pages] = []
        tried = -1
        while count:
            part, walk = self._run(first, min(count, _BATCH), access)
            done.append(part)
            first, count = first + len(part.physical), count - len(part.physical)
            if walk is None:
                continue
            at, flags = max(address, first << self._shift), self._rights.of(walk)
            if tried == first or not self._repaired(at, access, error_code(flags, access)):
                fault = self._fault(at, access, walk, flags)
                return _joined(done, fault)
            self.tlb.drop_pages(first, 1)  # an entry that says it is absent
            tried = first
        return _joined(done, None)

    def _run(self, first: int, count: int, access: int) -> tuple[Pages, Walk | None]:
        """Translate consecutive pages until one faults. Return them, and the walk of the page that faulted."""
        tlb, board = self.tlb, self._board
        pages = np.arange(first, first + count)
        slots = pages & self._slots
        hit = tlb.hits(pages, self._space)
        absent = hit & (tlb.physical[slots] < 0)
        ready = hit & tlb.ready(access, slots)
        physical, flags = np.where(ready, tlb.physical[slots], -1), np.where(ready, tlb.flags[slots], 0)
        misses = np.flatnonzero(~ready)
        if len(misses):
            addresses = pages[misses].astype(np.uint64) << np.uint64(self._shift)
            walks = self.mmu.walk_many(addresses)
            found = self._rights.of_many(walks)
            bad = (found & np.uint8(access) == 0) | (found == RESERVED) | absent[misses]
            good = int(bad.argmax()) if bad.any() else len(misses)
            self._rights.mark_many(walks, np.arange(good), access == WRITE, self._memory)
            if access == WRITE:
                found &= 0xFF ^ CLEAN
            physical[misses[:good]], flags[misses[:good]] = walks.physical[:good], found[:good]
            board.tlb_filling()
            new, where = misses[:good], self._memory.places(walks.physical[:good])
            tlb.fill_many(
                pages[new],
                walks.physical[:good],
                found[:good],
                self._rights.shifts(walks)[:good],
                self._space,
                where,
            )
            if good:
                board.tlb_filled(self, pages[new], walks.physical[:good])
            count = int(misses[good]) if good < len(misses) else count
        kept = slice(0, count)
        if board.checker is not None:
            used = np.flatnonzero(ready[kept])
            at = pages[used].astype(np.uint64) << np.uint64(self._shift)
            board.checker.used_many(self, at, physical[used], flags[used])
        part = Pages(physical[kept], self._memory.places(physical[kept]), flags[kept].astype(np.uint8))
        if count == len(pages):
            return part, None
        if absent[count]:
            return part, Walk((), End.NOT_PRESENT, None)
        return part, self.mmu.walk(int(pages[count]) << self._shift)

    def physical_lines(self, lines: np.ndarray) -> np.ndarray:
        """Translate virtual line numbers for write-back: by the TLB, else by the tables. Give -1 if not mapped."""
        assert self.cache is not None
        line = self.cache.line
        addresses = lines * line
        pages = addresses >> self._shift
        slots = pages & self._slots
        held = (self.tlb.page[slots] == pages) & (self.tlb.physical[slots] >= 0)
        walked = self.mmu.walk_many(addresses.astype(np.uint64)).physical
        kept = self.tlb.physical[slots] + (addresses & self._inside)
        physical = np.where(held, kept, walked)
        return np.where((physical >= 0) & (self._memory.places(physical) >= 0), physical // line, -1)

    # ---- faults

    def _repaired(self, address: int, access: int, code: int) -> bool:
        """Offer a fault to ``vmalloc_fault``. Return whether the access should be tried again."""
        self.faults.taken += 1
        repaired = self._board.fault(self, address, NAMES[access], code)
        self.faults.repaired += repaired
        return repaired

    def _fault(self, address: int, access: int, walk: Walk, flags: int) -> PageFault:
        """Describe a fault that stands."""
        if walk.end == End.NOT_CANONICAL:
            why = "the address is not canonical"
        elif not walk.steps:
            why = "the TLB keeps that it is absent"
        else:
            last = walk.steps[-1]
            word = "" if last.word is None else f" {last.word:0{2 * last.level.word_bytes}x}"
            reason = _REASONS.get(walk.end, "has a reserved bit set" if flags & RESERVED else "does not allow it")
            why = f"the {last.level.name} entry{word} at {last.entry_address:#x} {reason}"
        fault = PageFault(address, NAMES[access], self.number, why)
        if self._board.checker is not None:
            self._board.checker.faulted(self, address, access)
        return fault


def _joined(parts: list[Pages], fault: PageFault | None) -> Pages:
    physical, where, flags = (
        np.concatenate([getattr(p, name) for p in parts]) for name in ("physical", "where", "flags")
    )
    return Pages(physical, where, flags, fault)
