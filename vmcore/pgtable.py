"""Page tables of 2 to 5 levels, in simulated memory, in the architecture's own bits.

One record drives everything: no level count, shift or bit is known here. A range inside one last-level table
and a few pages long is handled word by word; anything longer in whole-array steps.

Sources: include/asm-generic/pgtable.h (p?d_addr_end, p?d_none_or_clear_bad), mm/memory.c (__pte_alloc_kernel,
apply_to_page_range, vmalloc_to_page), mm/vmalloc.c:30-146 for the order of things.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NoReturn, Protocol

import numpy as np
from attrs import define, frozen

from vmcore.architecture import Architecture, Level
from vmcore.flags import NO_FRAME
from vmcore.memory import PhysicalMemory

_FEW = 24  #: pages up to which word by word beats arrays
_FEW_TABLES = 16  #: tables up to which a walk for each beats arrays
_WARN_CLEARED = ("!pte_none(ptent) && !pte_present(ptent)", "vunmap_pte_range")


def readonly(array: np.ndarray) -> np.ndarray:
    """Return a view that cannot be written through, for an event."""
    view = array.view()
    view.flags.writeable = False
    return view


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
class _Depth:
    """One level, laid out for the walk: plain ints and the words of the buffer."""

    level: Level
    shift: int
    index_mask: int
    stride: int  # bytes of an entry
    word_shift: int  # log2 bytes of a word
    words: Any  # the buffer as words: a memoryview of unsigned ints
    array: np.ndarray
    none_mask: int
    missing_mask: int
    bad_mask: int
    good_value: int
    frame_mask: int
    simple: bool  # the frame field holds the address in place
    offset: int


def _depth(level: Level, memory: PhysicalMemory) -> _Depth:
    wide = level.word_bytes == 8
    simple = len(level.frame) == 1 and level.frame[0].entry_bit == level.frame[0].address_bit
    return _Depth(
        level,
        level.shift,
        level.entries - 1,
        level.entry_bytes,
        3 if wide else 2,
        memory.words64 if wide else memory.words32,
        memory.array64 if wide else memory.array32,
        level.none_mask,
        level.missing_mask,
        level.bad_mask,
        level.good_value,
        level.frame_mask,
        simple,
        level.offset,
    )


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


class PageTables:
    """The page tables below one root, as Linux sees them.

    Attributes:
        root: physical address of the root table.
        levels: root first.
        tables: tables allocated below the root, by level name.
        fail_countdown: the n-th table allocation from now on fails; 0: none does.
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
        self.levels, self.root, self._memory = arch.levels, root, memory
        self._source, self._reporter = source, reporter
        self._on_table, self._on_mapped, self._on_cleared = on_table, on_mapped, on_cleared
        self._page_shift, self._page = arch.page_shift, arch.page_size
        self._few_bytes = _FEW << arch.page_shift
        self._word_bits, self._word_mask = arch.word_bits, arch.word_mask
        depths = [_depth(level, memory) for level in arch.levels]
        self._depths, self._upper, self._last = depths, depths[:-1], depths[-1]
        self._mirror = arch.hardware.mirror
        #: entries need no second encoding and nobody wants to see them
        self._in_place = self._last.simple and self._mirror is None and on_mapped is None
        if self._mirror is not None:  # words from an entry to the one the hardware reads
            self._mirror_away = (self._mirror.offset - self._last.offset) >> self._last.word_shift
        self._supported = arch.supported_pte_mask & ((1 << 8 * arch.levels[-1].word_bytes) - 1)
        self._span = self._upper[-1].shift  # log2 bytes one last-level table covers
        self._present = arch.levels[-1].present_mask
        self.tables = {level.name: 0 for level in arch.levels[1:]}
        self.fail_countdown = 0
        self.lock = threading.Lock()

    # ---- one entry

    def entry(self, address: int, depth: int) -> tuple[int, int] | None:
        """Return where the entry for a virtual address is at a level, and its (first) word.

        Args:
            address: virtual, bytes.
            depth: 0 is the root level.

        Returns:
            (physical address, word), or None when an entry above is none.
        """
        table = self.root
        for d in self._depths:
            at = table + d.offset + (address >> d.shift & d.index_mask) * d.stride
            word = d.words[self._memory.offset(at) >> d.word_shift]
            if d is self._depths[depth]:
                return at, word
            if not word & d.none_mask:
                return None
            table = word & d.frame_mask if d.simple else d.level.decode(word)
        raise IndexError(f"depth {depth}: these tables have levels 0 to {len(self.levels) - 1}")

    def set_entry(self, entry_address: int, depth: int, word: int) -> None:
        """Store an entry above the last level; further words of it are derived from the first."""
        d = self._depths[depth]
        at = self._memory.offset(entry_address, d.stride) >> d.word_shift
        d.words[at] = word
        for n, more in enumerate(d.level.repeat, 1):
            d.words[at + n] = word + more

    def copy_entry(self, to: int, source: int, depth: int) -> None:
        """Copy all bytes of an entry from one physical address to another."""
        self._memory.write(to, self._memory.read(source, self._depths[depth].stride))

    def address_of(self, word: int, depth: int) -> int:
        """Return the physical address the frame field of an entry holds."""
        return self.levels[depth].decode(word)

    def lookup(self, address: int) -> int | None:
        """Return the last-level word for a virtual address; None where no table is (mm/memory.c)."""
        found = self.entry(address, len(self._depths) - 1)
        return found[1] if found else None

    def frame(self, address: int) -> int | None:
        """Return the frame a virtual address maps to, None when it is not present (vmalloc_to_pfn)."""
        word = self.lookup(address)
        if word is None or not word & self._present:
            return None
        return self._last.level.decode(word) >> self._page_shift

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
        if self.fail_countdown:
            self.fail_countdown -= 1
            failed = not self.fail_countdown
        else:
            failed = False
        table = None if failed else self._source.alloc_table()
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

    def prebuild(self, start: int) -> None:
        """Make the tables below pre-built levels for every entry from virtual address ``start`` up (boot)."""
        for depth, d in enumerate(self._upper):
            if not d.level.prebuilt:
                return
            address = start >> d.shift << d.shift
            while address <= self._word_mask:
                found = self.entry(address, depth)
                if found and not found[1] & d.level.present_mask:
                    self._allocate(depth, found[0], address)
                address += 1 << d.shift

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

    def _stretches(self, start: int, end: int) -> list[_Stretch]:
        """Cut a range so that only the first table of each stretch may be missing.

        A few tables: one stretch each. Many: cut where one is missing, whichever level it is missing at.
        """
        span, page = self._span, self._page
        first, last = start >> span, end - 1 >> span
        if last - first < _FEW_TABLES or (start | end) & page - 1:
            cuts = [start, *(n << span for n in range(first + 1, last + 1)), end]
        else:
            missing = np.flatnonzero(self._tables(first + 1, last - first) < 0) + first + 1
            # the head and the tail share a table with others and stand alone
            edges = {first + 1, last, *missing.tolist()}
            cuts = [start, *(n << span for n in sorted(edges) if n <= last), end]
        return [_Stretch(a, -(-(b - a) >> self._page_shift), bool(b - a & page - 1), b - 1 >> span == a >> span)
                for a, b in pairwise(cuts)]  # fmt: skip

    def _tables(self, first: int, count: int) -> np.ndarray:
        """Return the last-level table (int64; -1: missing) of consecutive spans of the address space."""
        address = np.arange(first, first + count, dtype=np.uint64) << np.uint64(self._span)
        table = np.full(count, self.root, np.int64)
        alive = np.arange(count)
        for d in self._upper:
            index = (address[alive] >> np.uint64(d.shift) & np.uint64(d.index_mask)).astype(np.int64)
            words = self._words(d, table[alive] + d.offset + index * d.stride)
            there = words & words.dtype.type(d.missing_mask) != 0
            table[alive[~there]] = -1
            alive = alive[there]
            table[alive] = self._decode(d, words[there])
        return table

    def _words(self, d: _Depth, addresses: np.ndarray) -> np.ndarray:
        """Return the (first) words of entries at physical addresses (int64)."""
        words: np.ndarray = d.array[self._memory.offsets(addresses) >> d.word_shift]
        return words

    @staticmethod
    def _decode(d: _Depth, words: np.ndarray) -> np.ndarray:
        """Return the physical addresses (int64) that words hold."""
        if d.simple:
            words = words & words.dtype.type(d.frame_mask)
            return words.astype(np.int64)
        return d.level.decode_array(words).astype(np.int64)

    def _index(self, table: int, address: int) -> int:
        """Return the index, in words of the buffer, of an address' entry in its last-level table."""
        d = self._last
        entry = table + d.offset + (address >> d.shift & d.index_mask) * d.stride
        return self._memory.offset(entry) >> d.word_shift

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

    def _whole(self, tables: np.ndarray) -> list[slice]:
        """Return the words of whole last-level tables, tables that follow each other in memory as one."""
        d = self._last
        starts = self._memory.offsets(tables + d.offset) >> d.word_shift
        size = d.index_mask + 1
        edges = [0, *(np.flatnonzero(np.diff(starts) != size) + 1).tolist(), len(starts)]
        return [slice(int(starts[a]), int(starts[b - 1]) + size) for a, b in pairwise(edges)]

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
        addresses, tables = self._present_tables(start, end, clear_bad=True)
        whole = (addresses & np.uint64((1 << span) - 1) == 0) & (addresses >> np.uint64(span) != last)
        if self._on_cleared is not None or (start | end) & page - 1:
            whole[:] = False
        for a, table in zip(addresses[~whole].tolist(), tables[~whole].tolist(), strict=True):
            self._unmap_part(table, a, min(end, (a >> span) + 1 << span))
        if whole.any():
            for at in self._whole(tables[whole]):
                self._clear(at, 0)

    def _unmap_part(self, table: int, start: int, end: int) -> None:
        """Clear the entries for ``[start, end)`` in one table."""
        count, at = -(-(end - start) >> self._page_shift), self._index(table, start)
        if count <= _FEW and self._on_cleared is None and self._mirror is None:
            self._unmap_few(at, count)
        else:
            self._clear(slice(at, at + count), start)
        if end - start & self._page - 1:
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

    def _present_tables(self, start: int, end: int, clear_bad: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Descend level by level through what is present in ``[start, end)``.

        Returns:
            Two arrays of shape ``(n,)``: the first address of the range each last-level table serves (uint64),
            and the table (int64), in address order. Cost grows with the tables that exist, not with the range.
        """
        top = self._depths[0].shift + self._depths[0].level.bits
        address = np.array([start >> top << top], np.uint64)
        table = np.array([self.root], np.int64)
        for n, d in enumerate(self._upper):
            low, high = np.uint64(start >> d.shift), np.uint64(end - 1 >> d.shift)
            number = (address >> np.uint64(d.shift))[:, None] + np.arange(d.index_mask + 1, dtype=np.uint64)
            rows, columns = np.nonzero((number >= low) & (number <= high))
            at = table[rows] + d.offset + columns * d.stride
            words = self._words(d, at)
            keep = words & words.dtype.type(d.none_mask) != 0
            if d.bad_mask and clear_bad:
                bad = keep & (words & words.dtype.type(d.bad_mask) != words.dtype.type(d.good_value))
                for b in np.flatnonzero(bad).tolist():
                    self._clear_bad(n, int(at[b]), int(words[b]))
                keep &= ~bad
            address = number[rows[keep], columns[keep]] << np.uint64(d.shift)
            table = self._decode(d, words[keep])
        return np.maximum(address, np.uint64(start)), table

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

    def frames(self, start: int, count: int) -> np.ndarray:
        """Return the frames that consecutive pages map to.

        Args:
            start: virtual, bytes.
            count: pages.

        Returns:
            Shape ``(count,)``, int64; NO_FRAME where the page is not present.
        """
        d, span_pages = self._last, self._span - self._page_shift
        page = (start >> self._page_shift) + np.arange(count)
        first = int(page[0]) >> span_pages
        spans = (page >> span_pages) - first
        tables = self._tables(first, int(spans[-1]) + 1)[spans]
        there = np.flatnonzero(tables >= 0)
        words = self._words(d, tables[there] + d.offset + (page[there] & d.index_mask) * d.stride)
        present = words & words.dtype.type(self._present) != 0
        out = np.full(count, NO_FRAME, np.int64)
        out[there[present]] = self._decode(d, words[present]) >> self._page_shift
        return out

    def entries(self) -> tuple[np.ndarray, np.ndarray]:
        """Return every last-level entry that is not none.

        Returns:
            Virtual addresses (uint64, sign-extended from the top bit the tables know) and words, both of
            shape ``(n,)``, in order of the table indices.
        """
        d, bits = self._last, self._depths[0].shift + self._depths[0].level.bits
        address, table = self._present_tables(0, 1 << bits)
        if not len(table):
            return np.empty(0, np.uint64), np.empty(0, d.array.dtype)
        words = np.concatenate([d.array[at] for at in self._whole(table)]).reshape(len(table), -1)
        rows, columns = np.nonzero(words & words.dtype.type(d.none_mask))
        address = address[rows] + (columns.astype(np.uint64) << np.uint64(self._page_shift))
        if bits < self._word_bits:
            high = address >> np.uint64(bits - 1) != 0
            address[high] |= np.uint64(self._word_mask & ~((1 << bits) - 1))
        return address, words[rows, columns]
