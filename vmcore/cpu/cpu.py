"""A CPU: loads, stores and fetches through its TLB, the hardware's tables and its data cache.

A page that is not in the TLB is looked up in the tables of the address space the CPU runs, marked accessed and
dirty where the hardware does that, and kept. A kernel address that faults is offered to ``vmalloc_fault`` once;
what that repairs is tried again. A right that a kept page lacks is looked for in the tables once more: nothing
here needs a flush for what has become allowed.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from operator import index
from typing import Any
from weakref import proxy

import numpy as np
from attrs import define, frozen

from vmcore.architecture import Architecture, Layout
from vmcore.cpu.dcache import DataCache
from vmcore.cpu.tlb import Translation, TranslationBuffer, allows
from vmcore.cpu.watchers import Board, Life
from vmcore.errors import ArgumentError, PageFault
from vmcore.memory.physical import PhysicalMemory
from vmcore.paging.mm import Mm
from vmcore.paging.mmu import End, Mmu, Walk
from vmcore.paging.rights import (
    CACHED,
    CLEAN,
    EXECUTE,
    NAMES,
    READ,
    RESERVED,
    RIGHTS,
    WRITE,
    WRITE_BACK,
    Rights,
    error_code,
)
from vmcore.wording import counted

_REASONS = {
    End.NOT_PRESENT: "is not present",
    End.NO_TABLE: "is neither a table nor a page",
    End.NOT_IN_MEMORY: "lies where no RAM is",
}


# what the cache's fast path needs of a page, and for a store also that it is not CLEAN
_CACHED_READ = CACHED | READ
_CACHED_WRITE = CACHED | WRITE_BACK | WRITE | CLEAN


_BATCH = 1 << 16  # pages of one access that are translated in one step


def as_bytes(data: object, function: str) -> memoryview:
    """Return a buffer as its bytes, for ``function`` to store.

    Raises:
        ArgumentError: it is no buffer, not in one piece, or of items that are no plain numbers.
    """
    try:
        view = memoryview(data)  # type: ignore[arg-type]
        if view.format == "O":  # pointers of the host
            raise TypeError
        return view.cast("B") if view.nbytes else memoryview(b"")
    except (TypeError, ValueError, BufferError):
        raise ArgumentError(
            f"{function}: found {type(data).__name__}, expected bytes, or an array of plain numbers that lies in "
            "one piece"
        ) from None


@define
class FaultCounts:
    """Faults of one CPU: taken, and how many of them ``vmalloc_fault`` repaired."""

    taken: int = 0
    repaired: int = 0


@frozen(eq=False)
class _Pages:
    """Consecutive pages that were translated, up to the first that faulted.

    Attributes:
        physical: address of each, bytes, int64.
        where: offset of each in the memory's buffer, -1: no RAM; int64.
        flags: of `vmcore.paging.rights`, uint8.
        fault: of the page behind them, or None.
    """

    physical: np.ndarray
    where: np.ndarray
    flags: np.ndarray
    fault: PageFault | None = None


class Cpu:
    """One CPU of a machine.

    Attributes:
        number: 0, 1, 2 ...
        mm: the process it runs; None: it is on init_mm.
        tlb: its TLB.
        cache: its data cache; None where two mappings cannot disagree.
        mmu: its walker; ``root`` is that of the address space it runs.
        faults: counts.
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
        # what a load and a store look at first
        self._shift, self._inside, self._page_size = arch.page_shift, arch.page_size - 1, arch.page_size
        self._slots, self._word_mask = hardware.tlb.entries - 1, arch.word_mask
        self._reading, self._writing, self._places = self.tlb.reading, self.tlb.writing, self.tlb.places
        self._flags, self._physical = self.tlb.flags.data, self.tlb.physical.data
        self._buffer: Any = memory.buffer

    def __repr__(self) -> str:
        runs = "init_mm" if self.mm is None else f"process {self.mm.number}"
        return f"<cpu {self.number} on {runs}, {counted(len(self.tlb), 'translation')}>"

    # ---- what programs do

    def load(self, address: int, size: int) -> bytes:
        """Load bytes.

        Args:
            address: virtual, bytes.
            size: bytes, at least 1; they may cross pages.

        Raises:
            PageFault: a page is not mapped, or may not be read.
            BusError: a page is mapped to where no RAM is.
            ArgumentError: the range is empty or leaves the address space.
        """
        try:
            page, inside = address >> self._shift, address & self._inside
            slot = page & self._slots
            fits = 0 < size <= self._page_size - inside
        except TypeError:
            raise self._no_number(address, size) from None
        if self._reading[slot] == page and fits:
            at = self._places[slot] + inside
            data: bytes = self._buffer[at : at + size]
            return data
        if self.cache is not None and self._board.checker is None and fits:
            slot = self.tlb.slot(page, self._space)
            if slot >= 0 and self._flags[slot] & _CACHED_READ == _CACHED_READ:
                line = self.cache.word(address, size, self._physical[slot] + inside)
                if line is not None:
                    return line
        return self._load(address, size, READ)

    def store(self, address: int, data: bytes | np.ndarray) -> None:
        """Store bytes; those in front of a page that faults are stored.

        Args:
            address: virtual, bytes.
            data: at least one byte, or an array of uint8; they may cross pages.

        Raises:
            PageFault: a page is not mapped, or may not be written.
            BusError: a page is mapped to where no RAM is.
            ArgumentError: the range is empty or leaves the address space.
        """
        what: Any = data if data.__class__ is bytes else as_bytes(data, "store")
        size = len(what)
        try:
            page, inside = address >> self._shift, address & self._inside
            slot = page & self._slots
        except TypeError:
            raise self._no_number(address, size) from None
        if self._writing[slot] == page and 0 < size <= self._page_size - inside:
            at = self._places[slot] + inside
            self._buffer[at : at + size] = what
            return
        if self.cache is not None and self._board.checker is None and 0 < size <= self._page_size - inside:
            slot = self.tlb.slot(page, self._space)
            ready = slot >= 0 and self._flags[slot] & _CACHED_WRITE == _CACHED_WRITE - CLEAN
            try:
                if ready and self.cache.poke(address, what, self._physical[slot] + inside):
                    return
            except BaseException as error:
                self._life.interrupted("store", error)
                raise
        self._store(address, np.frombuffer(what, np.uint8))

    def fetch(self, address: int, size: int = 1) -> bytes:
        """Fetch instructions: as `load`, but the page must be executable. Data caches are not asked."""
        return self._load(address, size, EXECUTE)

    def physical(self, address: int, access: int = READ) -> int:
        """Return where an access goes, bytes; it is one, and faults and fills the TLB as such."""
        address, _ = self._check(address, 1)
        if access not in NAMES:
            raise ArgumentError(
                f"access: found {access!r}, expected READ, WRITE or EXECUTE of vmcore.paging.rights"
            )
        self._life.readable()
        try:
            slot = self._page(address >> self._shift, address, access)
            return self._physical[slot] + (address & self._inside)
        except BaseException as error:
            self._life.interrupted("physical", error)
            raise

    def switch_mm(self, mm: Mm | None) -> int:
        """Run another address space, None: init_mm; return the TLB entries it cost."""
        if self.cache is not None and self.cache.kind.kind == "vivt":
            self.cache.clean_and_invalidate()  # cpu_switch_mm, while the old tables are there
        self.mm, self._space = mm, 0 if mm is None else mm.number
        self.mmu.root = self._init_root if mm is None else mm.tables.root
        return self.tlb.switch(self._space)

    # ---- bytes

    def _no_number(self, address: object, size: object) -> ArgumentError:
        return ArgumentError(
            f"cpu {self.number}: found address {address!r} and size {size!r}, expected two whole numbers"
        )

    def _check(self, address: int, size: int) -> tuple[int, int]:
        """Return an address and a size as plain numbers.

        Raises:
            ArgumentError: they are none, or the range is empty or leaves the address space.
        """
        try:
            address, size = index(address), index(size)
        except TypeError:
            raise self._no_number(address, size) from None
        if size < 1 or not 0 <= address <= self._word_mask - (size - 1):
            raise ArgumentError(
                f"cpu {self.number}: found an access of {counted(size, 'byte')} at {address:#x}, expected "
                f"at least one, and none beyond {self._word_mask:#x}"
            )
        return address, size

    def _load(self, address: int, size: int, access: int) -> bytes:
        address, size = self._check(address, size)
        self._life.readable()
        try:
            return self._load_pages(address, size, access)
        except BaseException as error:
            self._life.interrupted("load", error)
            raise

    def _load_pages(self, address: int, size: int, access: int) -> bytes:
        pages = self._translate(address, size, access)
        if pages.fault is not None:
            raise pages.fault
        if self.cache is None or access == EXECUTE:
            return self._read(pages, address & self._inside, size)
        parts = []
        for some, at, count in self._alike(pages, address, size):
            if some.flags[0] & CACHED:
                parts.append(self.cache.load(at, count, self._lines(at, count, some), _repeat(some)).tobytes())
                continue
            parts.append(self._read(some, at & self._inside, count))
            if self.cache.watcher is not None:
                self.cache.loaded_past(at, np.frombuffer(parts[-1], np.uint8), self._lines(at, count, some))
        return b"".join(parts)

    def _store(self, address: int, data: np.ndarray) -> None:
        address, _ = self._check(address, len(data))
        self._life.refuse_dead()
        try:
            self._store_pages(address, data)
        except BaseException as error:
            self._life.interrupted("store", error)
            raise

    def _store_pages(self, address: int, data: np.ndarray) -> None:
        pages = self._translate(address, len(data), WRITE)
        size = min(len(data), max(0, len(pages.physical) * self._page_size - (address & self._inside)))
        if size and self.cache is None:
            self._write(pages, address & self._inside, data[:size])
        elif size and self.cache is not None:
            for some, at, count in self._alike(pages, address, size):
                part = data[at - address : at - address + count]
                if (flags := int(some.flags[0])) & CACHED:
                    write_back = bool(flags & WRITE_BACK)
                    self.cache.store(at, part, self._lines(at, count, some), write_back, _repeat(some))
                    continue
                self._write(some, at & self._inside, part)
                if self.cache.watcher is not None:
                    self.cache.stored_past(at, part, self._lines(at, count, some), _repeat(some))
        if pages.fault is not None:
            raise pages.fault

    def _alike(self, pages: _Pages, address: int, size: int) -> Iterator[tuple[_Pages, int, int]]:
        """Cut an access where pages begin to be cached in another way; yield pages, address and size."""
        kind = pages.flags & np.uint8(CACHED | WRITE_BACK)
        edges = [0, *(np.flatnonzero(np.diff(kind)) + 1).tolist(), len(kind)]
        first, end = address >> self._shift, address + size
        for a, b in pairwise(edges):
            start, stop = max(address, first + a << self._shift), min(end, first + b << self._shift)
            part = slice(a, b)
            yield _Pages(pages.physical[part], pages.where[part], pages.flags[part]), start, stop - start

    def _read(self, pages: _Pages, skip: int, size: int) -> bytes:
        """Read memory itself, from ``skip`` bytes into the first page on."""
        if len(pages.where) == 1:
            at = int(pages.where[0])
            if at >= 0:
                data: bytes = self._buffer[at + skip : at + skip + size]
                return data
        several: np.ndarray = self._memory.pages[self._rows(pages)].reshape(-1)
        return several[skip : skip + size].tobytes()

    def _rows(self, pages: _Pages) -> np.ndarray:
        """Return the rows of the memory's pages; offsets() refuses what is not RAM."""
        if (pages.where < 0).any():
            self._memory.offsets(pages.physical)
        return pages.where >> self._shift

    def _write(self, pages: _Pages, skip: int, data: np.ndarray) -> None:
        """Write memory itself: the first page from ``skip`` on, whole ones, the rest of the last."""
        page, memory, rows = self._page_size, self._memory.pages, self._rows(pages)
        head = min(page - skip, len(data))
        memory[rows[0], skip : skip + head] = data[:head]
        whole = (len(data) - head) // page
        memory[rows[1 : 1 + whole]] = data[head : head + whole * page].reshape(whole, page)
        if tail := len(data) - head - whole * page:
            memory[rows[1 + whole], :tail] = data[-tail:]

    def _lines(self, address: int, size: int, pages: _Pages) -> np.ndarray:
        """Return the physical addresses of the cache lines an access touches."""
        assert self.cache is not None
        line = self.cache.line
        at = np.arange(address & -line, address + size, line)
        lines: np.ndarray = pages.physical[(at >> self._shift) - (address >> self._shift)] + (at & self._inside)
        return lines

    # ---- translation

    def _translate(self, address: int, size: int, access: int) -> _Pages:
        """Translate the pages an access touches, in order, up to the first that faults."""
        first = address >> self._shift
        count = (address + size - 1 >> self._shift) - first + 1
        if count > 1:
            return self._many(first, count, address, access)
        try:
            slot = self._page(first, address, access)
        except PageFault as fault:
            none = np.empty(0, np.int64)
            return _Pages(none, none, none.astype(np.uint8), fault)
        at, tlb = slice(slot, slot + 1), self.tlb
        return _Pages(tlb.physical[at], tlb.where[at], tlb.flags[at])

    def _page(self, page: int, address: int, access: int) -> int:
        """Return the TLB slot that holds a page, with a right."""
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
        """Fault by an entry that says the page is absent; if that is repaired the entry goes."""
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

    def _many(self, first: int, count: int, address: int, access: int) -> _Pages:
        """Translate consecutive pages in array steps; again from a page whose fault was repaired."""
        done: list[_Pages] = []
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

    def _run(self, first: int, count: int, access: int) -> tuple[_Pages, Walk | None]:
        """Translate consecutive pages up to the first that faults; return the walk of that one, too."""
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
        part = _Pages(physical[kept], self._memory.places(physical[kept]), flags[kept].astype(np.uint8))
        if count == len(pages):
            return part, None
        if absent[count]:
            return part, Walk((), End.NOT_PRESENT, None)
        return part, self.mmu.walk(int(pages[count]) << self._shift)

    def physical_lines(self, lines: np.ndarray) -> np.ndarray:
        """Translate virtual line numbers for write-back: by the TLB, else by the tables; -1: not mapped."""
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
        """Take a fault: ask ``vmalloc_fault``; True: try again."""
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


def _repeat(pages: _Pages) -> bool:
    """Tell whether some frame comes twice among pages."""
    frames = pages.physical
    return len(frames) > 1 and len(np.unique(frames)) < len(frames)


def _joined(parts: list[_Pages], fault: PageFault | None) -> _Pages:
    physical, where, flags = (
        np.concatenate([getattr(p, name) for p in parts]) for name in ("physical", "where", "flags")
    )
    return _Pages(physical, where, flags, fault)
