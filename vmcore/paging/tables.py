"""Building, filling and clearing page tables, as mm/vmalloc.c and mm/memory.c do it.

One record drives everything: no level count, shift or bit is known here. A range inside one last-level table
and a few pages long is handled word by word; anything longer in whole-array steps.

Sources: include/asm-generic/pgtable.h (p?d_addr_end, p?d_none_or_clear_bad), mm/memory.c (__pte_alloc_kernel,
apply_to_page_range, vmalloc_to_page), mm/vmalloc.c:30-146 for the order of things.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NoReturn, Protocol

import numpy as np
from attrs import define, frozen

from vmcore.architecture import Architecture, Leaf
from vmcore.arrays import readonly
from vmcore.errors import OutOfMemory
from vmcore.flags import NO_FRAME
from vmcore.memory.physical import PhysicalMemory
from vmcore.paging.linux import TableWalk

_FEW = 24  #: pages up to which word by word beats arrays
_FEW_TABLES = 16  #: tables up to which a walk for each beats arrays
_BLOCK = 1 << 16  #: tables that are looked up in one step
_BLOCK_TABLES = 256  #: tables of large pages that are filled in one step, to keep its arrays small
_WARN_CLEARED = ("!pte_none(ptent) && !pte_present(ptent)", "vunmap_pte_range")


class TableSource(Protocol):
    """What page tables come from."""

    def alloc_table(self) -> int | None:
        """Return the physical address of a zeroed page for a table, or None: out of memory."""
        ...

    def free_table(self, table: int) -> None:
        """Take back a table that another CPU was faster to install."""
        ...


class Reporter(Protocol):
    """Who is told of what page-table code says and does (the machine)."""

    def warn_on(self, condition: str, function: str) -> None:
        """WARN_ON fired."""
        ...

    def printk(self, line: str) -> None:
        """Log a line."""
        ...

    def oops(self, address: int, access: str) -> NoReturn:
        """Die of an access the machine cannot do."""
        ...


@frozen
class _Stretch:
    """Consecutive pages that are mapped in one step."""

    address: int
    pages: int
    overruns: bool  # the walk does not meet the end of the stretch and leaves its table
    in_one_table: bool


@define
class MapResult:
    """How far a map got.

    Attributes:
        done: entries written.
        ok: False: a table or a page was missing (C: -ENOMEM).
        what: "table" or "page", what was missing; "" if nothing was.
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
            arch: gives levels, encodings and the hardware mirror.
            memory: where the tables are.
            root: physical address, bytes.
            source: where new tables come from.
            reporter: is told of warnings and bad entries.
            on_table: event table_allocated, or None.
            on_mapped: event range_mapped, or None.
            on_cleared: event range_cleared, or None.
        """
        super().__init__(arch.levels, memory, root, arch.word_bits)
        self._source, self._reporter = source, reporter
        self._on_table, self._on_mapped, self._on_cleared = on_table, on_mapped, on_cleared
        self._page, self._few_bytes = arch.page_size, _FEW << arch.page_shift
        self._mirror, self._hardware = arch.hardware.mirror, arch.hardware_levels
        #: entries need no second encoding and nobody wants to see them
        self._in_place = self._last.simple and self._mirror is None and on_mapped is None
        if self._mirror is not None:  # words from an entry to the one the hardware reads
            self._mirror_away = (self._mirror.offset - self._last.offset) >> self._last.word_shift
        self._supported = arch.supported_pte_mask & ((1 << 8 * arch.levels[-1].word_bytes) - 1)
        self.tables = {level.name: 0 for level in arch.levels[1:]}
        self.lock = threading.Lock()

    # ---- allocation

    def _table(self, address: int) -> int | None:
        """Return the last-level table for an address, making what is missing; None: out of memory."""
        table, memory = self.root, self._memory
        for n, d in enumerate(self._upper):
            at = table + d.offset + (address >> d.shift & d.index_mask) * d.stride
            word = d.words[memory.offset(at) >> d.word_shift]
            if not word & d.missing_mask:
                made = self._allocate(n, at, address)
                if made is None:
                    return None
                word = made
            table = word & d.frame_mask if d.simple else d.level.decode(word)
        return table

    def _allocate(self, depth: int, entry_address: int, address: int) -> int | None:
        """Make the table below an entry (mm/memory.c __pud_alloc and its like); return the new entry."""
        child = self.levels[depth + 1].name
        table = self._source.alloc_table()
        if table is None:
            if self._on_table is not None:
                self._on_table(level=child, address=address, table=None)
            return None
        level, d = self.levels[depth], self._depths[depth]
        with self.lock:
            word: int = d.words[self._memory.offset(entry_address) >> d.word_shift]
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

    def prebuild(self, first: int) -> None:
        """Make the tables below pre-built levels, from root entry ``first`` to the last (boot).

        Raises:
            OutOfMemory: RAM is too small for them.
        """
        for depth, d in enumerate(self._upper):
            if not d.level.prebuilt:
                return
            root, top = self._depths[0], self._word_mask + 1
            address = top - (root.index_mask + 1 - first << root.shift)  # the kernel's half ends at the top
            while address < top:
                found = self.entry(address, depth)
                missing = found if found and not found[1] & d.level.present_mask else None
                if missing and self._allocate(depth, missing[0], address) is None:
                    raise OutOfMemory(
                        "table", f"no page for the {self.levels[depth + 1].name} of {address:#x} at boot"
                    )
                address += 1 << d.shift

    def map_linear(self, start: int, end: int, physical: int, leaf: Leaf, flags: int) -> None:
        """Map ``[start, end)`` by large pages of one kind, making the tables above them (boot).

        Args:
            start: virtual, bytes, at a multiple of the large page.
            end: virtual, bytes, likewise.
            physical: where ``start`` is to go, bytes.
            leaf: one of a hardware level's; the level begins where one of Linux' does, or above all of them.
            flags: bits of the entries.

        Raises:
            OutOfMemory: no page for a table.
        """
        depth = next(n for n, level in enumerate(self._hardware) if leaf in level.leaves)
        level = self._hardware[depth]
        step, span = 1 << level.shift, level.shift + level.bits  # bytes of an entry, log2 bytes of a table
        for first in range(start >> span, (end - 1 >> span) + 1, _BLOCK_TABLES):
            low, high = max(start, first << span), min(end, first + _BLOCK_TABLES << span)
            numbers = range(first, (high - 1 >> span) + 1)
            tables = np.array([self._upper_table(number << span, depth) for number in numbers], np.int64)
            entry = (low - (first << span) >> level.shift) + np.arange(len(range(low, high, step)))
            at = tables[entry >> level.bits] + level.offset + (entry & level.entries - 1) * level.entry_bytes
            physical_of = (low - start + physical) + (np.arange(len(entry)) << level.shift)
            whole = (physical_of & -(1 << leaf.shift)).view(np.uint64)
            self._memory.store_many(at, leaf.encode_array(whole, flags), level.word_bytes)

    def _upper_table(self, address: int, depth: int) -> int:
        """Return the table of a level above the last, making what is missing (boot)."""
        table = self.root
        for n in range(depth):
            found = self.entry(address, n)
            assert found is not None  # the levels above were made
            at, word = found
            if not word & self._depths[n].missing_mask:
                made = self._allocate(n, at, address)
                if made is None:
                    raise OutOfMemory(
                        "table", f"no page for the {self.levels[n + 1].name} of {address:#x} at boot"
                    )
                word = made
            table = self.address_of(word, n)
        return table

    # ---- map

    def map(self, start: int, end: int, frames: np.ndarray, prot: int) -> MapResult:
        """Enter frames over ``[start, end)`` (mm/vmalloc.c:95-163).

        One store per last-level table or run of tables, not per page. Entries written before a failure stay,
        as in C. An entry that is not none is warned about and overwritten.

        Args:
            start: virtual, bytes; ``start < end``.
            end: virtual, bytes.
            frames: int64, at least one per page; NO_FRAME is a NULL page.
            prot: protection bits of the last level.
        """
        if self._in_place and end - start <= self._few_bytes and self._map_few(start, end, frames, prot):
            return MapResult(end - start >> self._page_shift)
        done = 0
        for stretch in self._stretches(start, end):
            table = self._table(stretch.address)
            if table is None:
                return MapResult(done, "table")
            for address, at in self._pieces(stretch, table):
                if done == len(frames):  # C reads on behind the array; here that is a NULL page
                    return MapResult(done, "page")
                count = at.stop - at.start
                written = self._map_piece(address, at, frames[done : done + count], prot)
                done += written
                if written < count:
                    return MapResult(done, "page")
            if stretch.overruns:
                self._reporter.oops(0, "page-table overrun")
        return MapResult(done)

    def _map_piece(self, address: int, at: slice, frames: np.ndarray, prot: int) -> int:
        """Write the entries of consecutive words; return how many, fewer before a NULL page."""
        count = len(frames)
        stop = count if frames.min() >= 0 else int((frames == NO_FRAME).argmax())
        live = self._live(at)
        if stop == count and not len(live) and self._in_place:
            self._write_in_place(at, frames, prot)
            return stop
        entries = self._encode(frames[:stop], prot)
        self._store(slice(at.start, at.start + stop), entries)
        done = 0
        for n in live[live <= stop].tolist():
            self._mapped(address, entries, frames, done, n)
            self._reporter.warn_on("!pte_none(*pte)", "vmap_pte_range")
            done = n
        self._mapped(address, entries, frames, done, stop)
        return stop

    def _map_few(self, start: int, end: int, frames: np.ndarray, prot: int) -> bool:
        """Map a few pages of one table that exists word by word; False (and nothing done): not that simple."""
        if (start | end) & self._page - 1 or start >> self._span != end - 1 >> self._span:
            return False
        table = self._walk(start)
        if table is None:
            return False
        d, numbers = self._last, frames[: end - start >> self._page_shift].tolist()
        words, none, at = d.words, d.none_mask, self._index(table, start)
        if NO_FRAME in numbers:
            return False
        for n in range(at, at + len(numbers)):
            if words[n] & none:
                return False
        shift, supported = self._page_shift, self._supported
        for n, frame in enumerate(numbers, at):
            words[n] = (frame << shift | prot) & supported
        return True

    def _walk(self, address: int) -> int | None:
        """Return the last-level table for an address, None where one is missing on the way."""
        table, offset = self.root, self._memory.offset
        for d in self._upper:
            word = d.words[
                offset(table + d.offset + (address >> d.shift & d.index_mask) * d.stride) >> d.word_shift
            ]
            if not word & d.missing_mask:
                return None
            table = word & d.frame_mask if d.simple else d.level.decode(word)
        return table

    def _write_in_place(self, at: slice, frames: np.ndarray, prot: int) -> None:
        """Make the words of entries where they belong, without a copy in between."""
        words = self._last.array[at]
        kind = words.dtype.type
        np.left_shift(frames, self._page_shift, out=words, casting="unsafe")
        words |= kind(prot & self._supported)
        if self._supported != (1 << 8 * words.itemsize) - 1:
            words &= kind(self._supported)

    def _live(self, at: slice) -> np.ndarray:
        """Return the positions (int64) among some words whose entries are not none."""
        old = self._last.array[at]
        if not old.any():
            return np.empty(0, np.int64)
        return np.flatnonzero(old & old.dtype.type(self._last.none_mask))

    def _encode(self, frames: np.ndarray, prot: int) -> np.ndarray:
        """Make last-level words (mk_pte) for frames (int64)."""
        d = self._last
        if not d.simple:
            addresses = frames.view(np.uint64) << np.uint64(self._page_shift)
            return d.level.encode_array(addresses, prot & self._supported)
        wide = (frames << self._page_shift).view(np.uint64)
        wide |= np.uint64(prot)
        if self._supported != (1 << 64) - 1:
            wide &= np.uint64(self._supported)
        return wide if d.word_shift == 3 else wide.astype(np.uint32)

    def _mapped(self, address: int, entries: np.ndarray, frames: np.ndarray, first: int, end: int) -> None:
        if self._on_mapped is not None and end > first:
            at = address + (first << self._page_shift)
            self._on_mapped(address=at, entries=readonly(entries[first:end]), frames=readonly(frames[first:end]))

    # ---- where the words of a range are

    def _stretches(self, start: int, end: int) -> Iterator[_Stretch]:
        """Cut a range so that only the first table of each stretch may be missing.

        A few tables: one stretch each. Many: cut where one is missing, whichever level it is missing at. They are
        looked up a block at a time, because a range may be larger than what its caller has pages for.
        """
        span = self._span
        first, last = start >> span, end - 1 >> span
        if last - first < _FEW_TABLES or (start | end) & self._page - 1:
            yield from self._between([start, *(n << span for n in range(first + 1, last + 1)), end])
            return
        # the head and the tail share a table with others and stand alone
        yield from self._between([start, first + 1 << span])
        for block in range(first + 1, last, _BLOCK):
            stop = min(block + _BLOCK, last)
            missing = np.flatnonzero(self._tables(block, stop - block) < 0) + block
            yield from self._between([*(n << span for n in sorted({block, *missing.tolist()})), stop << span])
        yield from self._between([last << span, end])

    def _between(self, cuts: list[int]) -> Iterator[_Stretch]:
        """Yield the stretch from each cut to the next."""
        span, inside = self._span, self._page - 1
        for a, b in pairwise(cuts):
            yield _Stretch(a, -(-(b - a) >> self._page_shift), bool(b - a & inside), b - 1 >> span == a >> span)

    def _pieces(self, stretch: _Stretch, table: int) -> list[tuple[int, slice]]:
        """Return (first address, words) of a stretch whose tables exist, where those lie in one piece."""
        if stretch.in_one_table:
            index = self._index(table, stretch.address)
            return [(stretch.address, slice(index, index + stretch.pages))]
        first = stretch.address >> self._span
        last = stretch.address + (stretch.pages << self._page_shift) - 1 >> self._span
        pieces: list[tuple[int, slice]] = []
        address = stretch.address
        for at in self._whole(self._tables(first, last - first + 1)):
            pieces.append((address, at))
            address += at.stop - at.start << self._page_shift
        return pieces

    def _store(self, at: slice, entries: np.ndarray | int) -> None:
        """Store last-level words (0 clears), and what the hardware reads where that is another word."""
        d = self._last
        d.array[at] = entries
        if self._mirror is not None:  # it shares the table's page, so words in one piece are of one table
            away = self._mirror_away
            hard = entries if isinstance(entries, int) else self._mirror.encode(entries)
            d.array[at.start + away : at.stop + away] = hard

    # ---- unmap

    def unmap(self, start: int, end: int) -> None:
        """Clear ``[start, end)`` (mm/vmalloc.c:30-86); bad upper entries are logged and cleared.

        A cleared entry that was neither none nor present is warned about. Tables stay.
        """
        span, page = self._span, self._page
        first, last = start >> span, end - 1 >> span
        if first == last:
            if (table := self._walk_clearing(start)) is not None:
                self._unmap_part(table, start, end)
            return
        if last - first < _FEW_TABLES:
            cuts = [start, *(n << span for n in range(first + 1, last + 1)), end]
            for a, b in pairwise(cuts):
                if (table := self._walk_clearing(a)) is not None:
                    self._unmap_part(table, a, b)
            return
        addresses, tables = self._present_tables(start, end, self._clear_bad)
        whole = (addresses & np.uint64((1 << span) - 1) == 0) & (addresses >> np.uint64(span) != last)
        if self._on_cleared is not None or (start | end) & page - 1:
            whole[:] = False
        for a, table in zip(addresses[~whole].tolist(), tables[~whole].tolist(), strict=True):
            self._unmap_part(table, a, min(end, (a >> span) + 1 << span))
        if whole.any():
            for at in self._whole(tables[whole]):
                self._clear(at, 0)

    def _unmap_part(self, table: int, start: int, end: int) -> None:
        """Clear the entries for ``[start, end)`` in one table.

        C's loop ends where an address meets ``end``. That of a part of a page never does: it clears the table to
        its end and leaves it, which is an oops here.
        """
        ragged = bool(end - start & self._page - 1)
        rest = self._last.index_mask + 1 - (start >> self._page_shift & self._last.index_mask)
        count, at = rest if ragged else end - start >> self._page_shift, self._index(table, start)
        if count <= _FEW and self._on_cleared is None and self._mirror is None:
            self._unmap_few(at, count)
        else:
            self._clear(slice(at, at + count), start)
        if ragged:
            self._reporter.oops(0, "page-table overrun")

    def _unmap_few(self, at: int, count: int) -> None:
        words, none, present = self._last.words, self._last.none_mask, self._present
        for n in range(at, at + count):
            word = words[n]
            if word:
                words[n] = 0
                if word & none and not word & present:
                    self._reporter.warn_on(*_WARN_CLEARED)

    def _walk_clearing(self, address: int) -> int | None:
        """Return the last-level table, or None where an upper entry is none or was bad."""
        table = self.root
        for n, d in enumerate(self._upper):
            at = table + d.offset + (address >> d.shift & d.index_mask) * d.stride
            word = d.words[self._memory.offset(at) >> d.word_shift]
            if not word & d.none_mask:
                return None
            if word & d.bad_mask != d.good_value:
                self._clear_bad(n, at, word)
                return None
            table = word & d.frame_mask if d.simple else d.level.decode(word)
        return table

    def _clear_bad(self, depth: int, entry_address: int, word: int) -> None:
        """Log and clear a bad entry (mm/memory.c p?d_clear_bad; the text of asm/pgtable.h p?d_ERROR)."""
        level, digits = self.levels[depth], 2 * self.levels[depth].word_bytes
        value = f"{word:0{digits}x}"
        text = value if digits == 8 else f"{entry_address:0{self._word_bits // 4}x}({value})"
        self._reporter.printk(f"<3>mm/memory.c: bad {level.error_name} {text}.\n")
        self._memory.write(entry_address, bytes(level.entry_bytes))

    def _clear(self, at: slice, start: int) -> None:
        """Clear consecutive words; tell of runs that were not none, warn of those not present."""
        old = self._last.array[at].copy() if self._on_cleared is not None else self._last.array[at]
        kind = old.dtype.type
        odd = np.empty(0, np.int64)
        if not np.bitwise_and.reduce(old) & kind(self._present):  # not all present, or by different bits
            odd = np.flatnonzero((old & kind(self._present) == 0) & (old & kind(self._last.none_mask) != 0))
        self._store(at, 0)
        if self._on_cleared is not None:
            self._cleared(start, old, odd.tolist())
            return
        for _ in range(len(odd)):
            self._reporter.warn_on(*_WARN_CLEARED)

    def _cleared(self, start: int, old: np.ndarray, warned: list[int]) -> None:
        """Tell of each run of entries that were not none; a warned one ends its run."""
        assert self._on_cleared is not None
        live = (old & old.dtype.type(self._last.none_mask) != 0).astype(np.int8)
        edges = np.flatnonzero(np.diff(np.concatenate(([0], live, [0]))))
        for first, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
            cuts = sorted({first, *(n + 1 for n in warned if first <= n < end), end})
            for a, b in pairwise(cuts):
                self._on_cleared(address=start + (a << self._page_shift), entries=readonly(old[a:b]))
                if b - 1 in warned:
                    self._reporter.warn_on(*_WARN_CLEARED)

    # ---- the rest

    def populate(self, start: int, end: int) -> bool:
        """Make the tables for ``[start, end)`` (mm/memory.c apply_to_page_range); False: out of memory."""
        return all(self._table(stretch.address) is not None for stretch in self._stretches(start, end))

    # ---- for check(), and for a process that ends

    def table_addresses(self, end: int | None = None) -> dict[str, np.ndarray]:
        """Return the physical addresses (int64) of the tables that are reached, by level name.

        Args:
            end: look below the root entries in front of this one; None: below all.
        """
        found, table, size = {}, np.array([self.root], np.int64), end
        for n, d in enumerate(self._upper):
            entries = np.arange(d.index_mask + 1 if size is None else size)
            at, size = (table[:, None] + d.offset + entries * d.stride).ravel(), None
            words = self._words(d, at)
            table = self._decode(d, words[self._tables_in(d, words)])
            found[self.levels[n + 1].name] = table
        return found

    def broken_words(self) -> str:
        """Say which word contradicts the one it is derived from: hardware halves, repeated words; "" if none."""
        d = self._upper[0]
        at, words = self._memory.offset(self.root + d.offset) >> d.word_shift, 1 + len(d.level.repeat)
        entries = d.array[at : at + (d.index_mask + 1) * words].reshape(-1, words)
        for n, more in enumerate(d.level.repeat, 1):
            own = self._tables_in(d, entries[:, 0])  # other words map memory themselves
            wanted = np.where(own, entries[:, 0] + entries.dtype.type(more), entries[:, n])
            wanted[entries[:, 0] == 0] = 0
            if problem := _first_difference(entries[:, n], wanted):
                return f"word {n} of the {d.level.name} entries: {problem}"
        if self._mirror is None:
            return ""
        for table in self.table_addresses()[self.levels[-1].name].tolist():
            start = self._index(table, 0)
            linux = self._last.array[start : start + self._last.index_mask + 1]
            away = start + self._mirror_away
            hard = self._last.array[away : away + len(linux)]
            if problem := _first_difference(hard, self._mirror.encode(linux)):
                return f"hardware half of the table at {table:#x}: {problem}"
        return ""


def _first_difference(found: np.ndarray, wanted: np.ndarray) -> str:
    wrong = found != wanted
    if not wrong.any():
        return ""
    n = int(wrong.argmax())
    return f"entry {n} is {int(found[n]):#x}, expected {int(wanted[n]):#x}"
