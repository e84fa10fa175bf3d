"""Building and filling page tables, as mm/vmalloc.c and mm/memory.c do it.

`vmcore.paging.linux` reads the tables, `vmcore.paging.clear` clears entries, `vmcore.paging.boot` builds at boot.
A range of a few pages in one last-level table is handled word by word, a longer one in whole-array steps.

Sources: include/asm-generic/pgtable.h (p?d_addr_end, p?d_none_or_clear_bad), mm/memory.c (__pte_alloc_kernel,
apply_to_page_range, vmalloc_to_page), mm/vmalloc.c:30-146 for the order of things.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NoReturn, Protocol

import numpy as np
from attrs import define

from vmcore.architecture import Architecture, Leaf
from vmcore.arrays import readonly
from vmcore.flags import NO_FRAME
from vmcore.memory.physical import PhysicalMemory
from vmcore.paging import boot
from vmcore.paging.clear import clear_bad, clear_part, clear_range
from vmcore.paging.linux import TableWalk
from vmcore.paging.pte import LaidOutLevel, descend
from vmcore.paging.ptes import FEW, LastLevelEntries, broken_words
from vmcore.paging.stretches import pieces, stretches


class TableSource(Protocol):
    """Where pages for page tables come from."""

    def alloc_table(self) -> int | None:
        """Return the physical address of a zeroed page for a table, or None if memory is out."""
        ...

    def free_table(self, table: int) -> None:
        """Take a table back, because another CPU installed one first."""
        ...


class Reporter(Protocol):
    """Receives the messages of page-table code (the machine does)."""

    def warn_on(self, condition: str, function: str) -> None:
        """Log that WARN_ON fired."""
        ...

    def printk(self, line: str) -> None:
        """Log a line."""
        ...

    def oops(self, address: int, access: str) -> NoReturn:
        """Raise the error for an access that the machine cannot do."""
        ...


@define
class MapResult:
    """How much of a range was mapped.

    Attributes:
        done: entries written.
        what: "table" or "page", whichever was missing (C: -ENOMEM), or "" if neither was.
    """

    done: int
    what: str = ""

    @property
    def ok(self) -> bool:
        """Whether the whole range is mapped."""
        return not self.what


class PageTables(TableWalk):
    """The page tables below one root, as Linux builds, fills and clears them.

    Attributes:
        tables: tables allocated below the root, by level name.
        lock: page_table_lock.
        ptes: writes last-level entries.
        reporter: receives warnings and the lines about bad entries.
        on_cleared: event range_cleared, or None.
    """

    def __init__(
        self,
        arch: Architecture,
        memory: PhysicalMemory,
        root: int,
        source: TableSource,
        reporter: Reporter,
        on_table: Callable[..., Any] | None = None,
        on_mapped: Callable[..., Any] | None = None,
        on_cleared: Callable[..., Any] | None = None,
    ) -> None:
        """Walk below ``root``, which must be zeroed memory or a root that exists.

        Args:
            arch: gives levels, encodings and the hardware's words.
            memory: holds the tables.
            root: physical address, bytes.
            source: gives pages for new tables.
            reporter: receives warnings and the lines about bad entries.
            on_table: event table_allocated, or None.
            on_mapped: event range_mapped, or None.
            on_cleared: event range_cleared, or None.
        """
        super().__init__(arch.levels, memory, root, arch.word_bits)
        self._hardware, self._source, self.reporter = arch.hardware_levels, source, reporter
        self._on_table, self._on_mapped, self.on_cleared = on_table, on_mapped, on_cleared
        self._page, self._few_bytes = arch.page_size, FEW << arch.page_shift
        self.ptes = LastLevelEntries(arch, self)
        #: entries need no second encoding, and no listener wants them
        self._direct = self.ptes.plain and on_mapped is None
        self.tables = {level.name: 0 for level in arch.levels[1:]}
        self.lock = threading.Lock()

    # ---- allocation

    def allocate(self, depth: int, entry_address: int, address: int) -> int | None:
        """Make the table below an entry (mm/memory.c __pud_alloc and its like).

        Args:
            depth: the entry's level, 0 is the root's.
            entry_address: physical address of the entry.
            address: the virtual address that the table is for.

        Returns:
            The new word of the entry, or None if memory is out.
        """
        child = self.levels[depth + 1].name
        table = self._source.alloc_table()
        if table is None:
            if self._on_table is not None:
                self._on_table(level=child, address=address, table=None)
            return None
        level = self.levels[depth]
        with self.lock:
            word = self.memory.load(entry_address, level.word_bytes)
            if not word & level.present_mask:
                word = level.encode(table, level.table_flags)
                self.set_entry(entry_address, depth, word)
                self.tables[child] += 1
                table = None
        if table is not None:  # another CPU was faster
            self._source.free_table(table)
        elif self._on_table is not None:
            self._on_table(level=child, address=address, table=level.decode(word))
        return word

    def _make_table(self, address: int) -> int | None:
        """Return the last-level table for an address, and make the missing ones, or None if memory is out."""
        table = self.find_table(address)
        if table is not None:
            return table

        def follow(depth: int, level: LaidOutLevel, at: int) -> int | None:
            word = self.memory.load(at, level.size)
            return word if word & level.missing_mask else self.allocate(depth, at, address)

        return descend(self.upper, self.root, address, follow)

    def populate(self, start: int, end: int) -> bool:
        """Make the tables for ``[start, end)`` (mm/memory.c apply_to_page_range), or False if memory is out."""
        return all(self._make_table(stretch.address) is not None for stretch in stretches(self, start, end))

    def prebuild(self, first: int) -> None:
        """Make the tables below pre-built levels, from root entry ``first`` to the last (boot).

        Raises:
            OutOfMemory: RAM is too small for them.
        """
        boot.prebuild(self, first)

    def map_linear(self, start: int, end: int, physical: int, leaf: Leaf, flags: int) -> None:
        """Map ``[start, end)`` by large pages of one kind, and make the tables above them (boot).

        The arguments are those of `boot.map_linear`.

        Raises:
            OutOfMemory: no page for a table.
        """
        boot.map_linear(self, self._hardware, start, end, physical, leaf, flags)

    # ---- map and unmap

    def map(self, start: int, end: int, frames: np.ndarray, prot: int) -> MapResult:
        """Enter frames over ``[start, end)`` (mm/vmalloc.c:95-163).

        There is one store per last-level table or run of tables, not per page. Entries that were written before a
        failure stay, as in C. An entry that is not none is warned about and overwritten.

        Args:
            start: virtual, bytes; ``start < end``.
            end: virtual, bytes.
            frames: int64, at least one per page. NO_FRAME is a NULL page.
            prot: protection bits of the last level.
        """
        if self._direct and end - start <= self._few_bytes and self._map_few(start, end, frames, prot):
            return MapResult(end - start >> self.page_shift)
        done = 0
        for stretch in stretches(self, start, end):
            table = self._make_table(stretch.address)
            if table is None:
                return MapResult(done, "table")
            for address, at in pieces(self, stretch, table):
                if done == len(frames):  # C reads on behind the array; here that is a NULL page
                    return MapResult(done, "page")
                count = at.stop - at.start
                written = self._map_piece(address, at, frames[done : done + count], prot)
                done += written
                if written < count:
                    return MapResult(done, "page")
            if stretch.overruns:
                self.reporter.oops(0, "page-table overrun")
        return MapResult(done)

    def _map_few(self, start: int, end: int, frames: np.ndarray, prot: int) -> bool:
        """Map a few pages of one existing table. Return False, and change nothing, if the range needs more."""
        if (start | end) & self._page - 1 or start >> self.span != end - 1 >> self.span:
            return False
        table = self.find_table(start)
        if table is None:
            return False
        numbers = frames[: end - start >> self.page_shift].tolist()
        return self.ptes.fill_few(self.word_index(table, start), numbers, prot)

    def _map_piece(self, address: int, at: slice, frames: np.ndarray, prot: int) -> int:
        """Write the entries of consecutive words and return how many, fewer before a NULL page."""
        count = len(frames)
        stop = count if frames.min() >= 0 else int((frames == NO_FRAME).argmax())
        live = self.ptes.live(at)
        if stop == count and not len(live) and self._direct:
            self.ptes.fill(at, frames, prot)
            return stop
        entries = self.ptes.encode(frames[:stop], prot)
        self.ptes.store(slice(at.start, at.start + stop), entries)
        done = 0
        for n in live[live <= stop].tolist():
            self._emit_mapped(address, entries, frames, done, n)
            self.reporter.warn_on("!pte_none(*pte)", "vmap_pte_range")
            done = n
        self._emit_mapped(address, entries, frames, done, stop)
        return stop

    def _emit_mapped(self, address: int, entries: np.ndarray, frames: np.ndarray, first: int, end: int) -> None:
        if self._on_mapped is not None and end > first:
            at = address + (first << self.page_shift)
            self._on_mapped(address=at, entries=readonly(entries[first:end]), frames=readonly(frames[first:end]))

    def unmap(self, start: int, end: int) -> None:
        """Clear ``[start, end)`` (mm/vmalloc.c:30-86), bad upper entries, which are logged, included.

        A cleared entry that was neither none nor present is warned about. Tables stay.

        Args:
            start: virtual, bytes; ``start < end``.
            end: virtual, bytes.
        """
        if start >> self.span != end - 1 >> self.span:
            clear_range(self, start, end)
        elif (table := self.find_table(start, self.none_or_clear_bad)) is not None:
            clear_part(self, table, start, end)

    def none_or_clear_bad(self, _depth: int, level: LaidOutLevel, at: int) -> int | None:
        """Return the word of an upper entry, or None if it is none, or bad and now cleared (pgtable.h)."""
        word = self.memory.load(at, level.size)
        if not word & level.none_mask:
            return None
        if word & level.bad_mask != level.good_value:
            clear_bad(self, level, at, word)
            return None
        return word

    # ---- for check()

    def broken_words(self) -> str:
        """Name a word that contradicts the one from which it is derived, or return ""."""
        return broken_words(self, self.ptes)
