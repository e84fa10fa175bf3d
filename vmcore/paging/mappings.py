"""Enumeration of all mappings below a root, level by level, in whole tables.

The work is limited, whatever the tables contain. For example, a table that points to itself is read as often as
it is reached, up to a limit. The result names the address at which a limit ended the search, and the tables that
are not in memory.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from attrs import define, field, frozen

from vmcore.errors import ArgumentError
from vmcore.paging.mmu import Mmu
from vmcore.paging.pte import LaidOutLevel, Page
from vmcore.wording import counted

#: Most mappings to find, if the caller gives no limit: 7 GiB in pages of 4 KiB. They take 280 MiB as a list.
LIMIT = 1_900_000
TABLES = 1 << 18  #: most tables to read at one level
_ENTRIES = 1 << 15  # entries a step, so that its arrays stay in the cache: ``test_enumerate`` in tests/bench
NO_LEAF = -1  #: ``leaf`` of a page at a last level that lists no leaves


@frozen(eq=False)
class Missing:
    """Tables that are not in memory, or such parts of a table of several pages, as arrays of shape ``(n,)``.

    Attributes:
        physical: the address that the memory lacks, bytes, int64.
        depth: level of the table, 0 is the root's, int8.
        start: the first virtual address that the table serves, uint64.
        last: the last virtual address that it serves, uint64.
    """

    physical: np.ndarray
    depth: np.ndarray
    start: np.ndarray
    last: np.ndarray

    def __len__(self) -> int:
        """Return the number of tables or parts."""
        return len(self.physical)


@frozen(eq=False)
class Mappings:
    """Mappings in address order, as arrays of shape ``(n,)``.

    Some pages have an entry that is repeated over several slots of their table. If all slots agree, the page is
    one mapping. If not, each slot is a mapping of its own size.

    Attributes:
        virtual: first virtual address, uint64, sign-extended.
        physical: the physical address that it maps to, bytes, int64.
        shift: log2 of the bytes mapped, uint8.
        depth: level of the entry, 0 is the root's, int8.
        leaf: index into ``levels[depth].leaves``, int8. -1 if the level lists none.
        word: the (first) entry, uint64.
        path: index into ``paths``, int32.
        paths: the entries above, root first, without their addresses, one tuple for each distinct set.
        missing: tables that are not in memory.
        stopped: the first address that was not searched because a limit was reached, or None.
    """

    virtual: np.ndarray
    physical: np.ndarray
    shift: np.ndarray
    depth: np.ndarray
    leaf: np.ndarray
    word: np.ndarray
    path: np.ndarray
    paths: tuple[tuple[int, ...], ...]
    missing: Missing
    stopped: int | None

    def __len__(self) -> int:
        """Return the number of mappings."""
        return len(self.virtual)

    @property
    def partial(self) -> tuple[str, ...]:
        """Reasons why there may be more mappings than these. Empty if these are all."""
        why = []
        if n := len(self.missing):
            tables = counted(n, "table is", "tables are")
            why.append(f"{tables} not in memory, the first at {int(self.missing.physical[0]):#x}")
        if self.stopped is not None:
            why.append(f"a limit was reached: nothing at and above {self.stopped:#x} was looked at")
        return tuple(why)


def find_mappings(mmu: Mmu, start: int = 0, end: int | None = None, limit: int = LIMIT) -> Mappings:
    """Find the mappings in ``[start, end)``. A page that only begins or ends there is found whole.

    Args:
        mmu: gives the root, the levels and the memory.
        start: virtual, bytes.
        end: virtual, bytes, or None for the end of the address space.
        limit: most mappings to find. With `TABLES` it also limits the work.

    Raises:
        ArgumentError: the root is not aligned to an entry.
    """
    if mmu.root % mmu.laid_out[0].stride:
        raise ArgumentError(
            f"root: found {mmu.root:#x}, expected a multiple of {mmu.laid_out[0].stride}, an entry"
        )
    start, last = max(start, 0), mmu.word_mask if end is None else min(end - 1, mmu.word_mask)
    search = _Search(mmu, start, last, limit) if start <= last else _Search(mmu, 0, -1, limit)
    tables = _Tables(np.zeros(1, np.uint64), np.array([mmu.root], np.int64), np.zeros(1, np.int32))
    if start <= last:
        for number in range(len(mmu.laid_out)):
            tables = search.read_level(number, tables)
    return search.result()


class _Tables(NamedTuple):
    """Tables to read, or parts of them, in address order. These are arrays of shape ``(n,)``."""

    start: np.ndarray  # the first virtual address that it serves, uint64
    at: np.ndarray  # physical address, int64
    path: np.ndarray  # index into the paths, int32


class _Leaves(NamedTuple):
    """Mappings that have the level, the leaf and the size in common."""

    number: int  # of the level
    leaf: int
    shift: int  # log2 of the bytes of each
    arrays: tuple[np.ndarray, ...]  # virtual, physical, word, path


@define
class _Search:
    """One enumeration: the range and the limit, and the results so far."""

    mmu: Mmu
    start: int
    last: int
    limit: int
    stopped: int | None = None
    leaves: list[_Leaves] = field(factory=list)
    missing: list[Missing] = field(factory=list)
    paths: list[tuple[int, ...]] = field(factory=lambda: [()])

    def read_level(self, number: int, tables: _Tables) -> _Tables:
        """Read all tables of one level and return the tables that they point to."""
        d, page = self.mmu.laid_out[number], 1 << self.mmu.page_shift
        tables, row = _rows(d, tables, page)
        per_row, room = row // d.stride, self.limit
        step = max(1, _ENTRIES // per_row)
        slots = np.arange(per_row, dtype=np.uint64) << np.uint64(d.shift)
        below: list[tuple[np.ndarray, ...]] = []
        found_tables = 0
        for at in range(0, len(tables.at), step):
            part = _Tables(*(x[at : at + step] for x in tables))
            rows = self._rows(number, part, row)
            virtual, word, path = self._present(number, part, rows, slots)
            rest = np.ones(len(word), bool)
            for position, kind in enumerate(d.pages):
                hit = rest & (word & np.uint64(kind.mask) == np.uint64(kind.value))
                rest &= ~hit
                room -= self._keep(number, position, kind, virtual, word, path, hit)
            if not d.last and rest.any():
                rest &= word & np.uint64(d.bad_mask) == np.uint64(d.good_value)
                below.append((virtual[rest], word[rest], path[rest]))
                found_tables += int(rest.sum())
            if (room < 0 or found_tables > TABLES) and at + step < len(tables.at):
                self._stop(int(self._sign_extend(tables.start[at + step : at + step + 1])[0]))
                break
        return self._descend(d, below)

    def _rows(self, number: int, part: _Tables, row: int) -> np.ndarray:
        """Return the first word (uint64) of each entry in these rows. Record rows that are not in memory."""
        d = self.mmu.laid_out[number]
        words, there = self.mmu.memory.rows(part.at, row, d.size)
        if not there.all():
            start, at = part.start[~there], part.at[~there]
            last = start + np.uint64((row // d.stride << d.shift) - 1)
            if number == 0:
                start, last = self._sign_extend(start), self._sign_extend(last)
            self.missing.append(Missing(at, np.full(len(at), number, np.int8), start, last))
        return words[:, :: d.stride // d.size].astype(np.uint64, copy=False)

    def _present(
        self, number: int, part: _Tables, rows: np.ndarray, slots: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return virtual address, word and path of the entries that are present and in the range."""
        d, flat = self.mmu.laid_out[number], rows.ravel()
        at = np.flatnonzero(flat & np.uint64(d.present))
        if len(at) == len(flat):
            virtual, word, path = (part.start[:, None] + slots).ravel(), flat, part.path.repeat(len(slots))
        else:
            row, column = np.divmod(at, len(slots))
            virtual, word, path = part.start[row] + slots[column], flat[at], part.path[row]
        if number == 0:
            virtual = self._sign_extend(virtual)
            keep = self.mmu.canonical_many(virtual)
            virtual, word, path = virtual[keep], word[keep], path[keep]
        if len(virtual) and not self.start <= int(virtual[0]) <= int(virtual[-1]) < self.last - (1 << d.shift):
            keep = self._overlap(virtual, max([d.shift, *(page.shift for page in d.pages)]))
            virtual, word, path = virtual[keep], word[keep], path[keep]
        return virtual, word, path

    def _sign_extend(self, virtual: np.ndarray) -> np.ndarray:
        """Extend the top bit of the addresses that the root's index has."""
        top = self.mmu.laid_out[0].shift + self.mmu.levels[0].bits
        high = self.mmu.word_mask & ~((1 << top) - 1)
        return np.where(virtual >> np.uint64(top - 1) != 0, virtual | np.uint64(high), virtual)

    def _overlap(self, virtual: np.ndarray, shift: int) -> np.ndarray:
        """Return which pages or tables of ``1 << shift`` bytes reach into the range, bool."""
        inside = np.uint64((1 << shift) - 1)
        keep: np.ndarray = virtual & ~inside <= np.uint64(self.last)
        keep &= virtual | inside >= np.uint64(self.start)
        return keep

    def _keep(
        self, number: int, position: int, kind: Page, virtual: np.ndarray, word: np.ndarray, path: np.ndarray,
        hit: np.ndarray,
    ) -> int:  # fmt: skip
        """Keep the mappings of one kind of page and return how many mappings there are."""
        if not hit.any():
            return 0
        if not hit.all():
            virtual, word, path = virtual[hit], word[hit], path[hit]
        physical = kind.starts(word)
        leaf, shift = position if kind.leaf else NO_LEAF, self.mmu.laid_out[number].shift
        if kind.shift > shift:
            physical |= virtual.view(np.int64) & np.int64(kind.address_mask)
            whole, first = _repeated(virtual, word, kind.shift, 1 << kind.shift - shift)
            alone = ~whole
            self._add(number, leaf, kind.shift, virtual[first], physical[first], word[first], path[first])
            virtual, physical, word, path = virtual[alone], physical[alone], word[alone], path[alone]
        self._add(number, leaf, min(kind.shift, shift), virtual, physical, word, path)
        return len(physical)

    def _add(self, number: int, leaf: int, shift: int, *arrays: np.ndarray) -> None:
        if len(arrays[0]):
            self.leaves.append(_Leaves(number, leaf, shift, arrays))

    def _stop(self, address: int) -> None:
        self.stopped = address if self.stopped is None else min(address, self.stopped)

    def _descend(self, d: LaidOutLevel, below: list[tuple[np.ndarray, ...]]) -> _Tables:
        """Return the tables that entries point to, each with the path of its entries."""
        if not below:
            return _Tables(np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int32))
        start, word, path = (np.concatenate(parts) for parts in zip(*below, strict=True))
        flags, which = np.unique(word & np.uint64(~d.level.frame_mask & (1 << 64) - 1), return_inverse=True)
        keys, new = np.unique(path.astype(np.int64) * len(flags) + which, return_inverse=True)
        first = len(self.paths)
        for key in keys.tolist():
            self.paths.append((*self.paths[key // len(flags)], int(flags[key % len(flags)])))
        return _Tables(start, d.tables(word), (new + first).astype(np.int32))

    def result(self) -> Mappings:
        """Return all mappings that were found, in address order, up to the limit."""
        parts = self.leaves
        sizes = [len(part.arrays[0]) for part in parts]
        kinds = [np.repeat(np.array([part[n] for part in parts], kind), sizes) for n, kind in enumerate(_SAME)]
        columns = [np.concatenate([np.empty(0, kind), *(part.arrays[n] for part in parts)])
                   for n, kind in enumerate(_EACH)]  # fmt: skip
        if (columns[0][1:] < columns[0][:-1]).any():
            order = np.argsort(columns[0], kind="stable")
            columns, kinds = [x[order] for x in columns], [x[order] for x in kinds]
        asked = self._asked(columns[0], kinds[2])
        virtual, physical, word, path = (x[asked] for x in columns)
        depth, leaf, shift = (x[asked] for x in kinds)
        return Mappings(
            virtual, physical, shift, depth, leaf, word, path, tuple(self.paths), self._missing(), self.stopped
        )

    def _asked(self, virtual: np.ndarray, shift: np.ndarray) -> slice:
        """Return the slice of mappings in the range, cut at the limit. Record where it was cut."""
        first = int(np.searchsorted(virtual, np.uint64(self.start), "right"))
        if first and int(virtual[first - 1]) + (1 << int(shift[first - 1])) > self.start:
            first -= 1
        end = int(np.searchsorted(virtual, np.uint64(max(self.last, 0)), "right"))
        if end - first > self.limit:
            end = first + self.limit
            self._stop(int(virtual[end]))
        if self.stopped is not None:
            end = min(end, int(np.searchsorted(virtual, np.uint64(self.stopped))))
        return slice(first, max(first, end))

    def _missing(self) -> Missing:
        """Return the tables that are not in memory and that serve the range, in address order."""
        last = self.last if self.stopped is None else min(self.last, self.stopped - 1)
        parts = self.missing or [_NOTHING]
        columns = [np.concatenate([getattr(part, name) for part in parts]) for name in _MISSING]
        start, end = columns[2], columns[3]
        keep = (start <= np.uint64(max(last, 0))) & (end >= np.uint64(self.start))
        order = np.flatnonzero(keep)[np.argsort(start[keep], kind="stable")]
        return Missing(*(column[order] for column in columns))


_SAME: tuple[Any, ...] = (np.int8, np.int8, np.uint8)  # number, leaf, shift
_EACH: tuple[Any, ...] = (np.uint64, np.int64, np.uint64, np.int32)  # virtual, physical, word, path
_MISSING = ("physical", "depth", "start", "last")
_NOTHING = Missing(*(np.empty(0, kind) for kind in (np.int64, np.int8, np.uint64, np.uint64)))


def _rows(d: LaidOutLevel, tables: _Tables, page: int) -> tuple[_Tables, int]:
    """Cut tables into rows that lie in one page each and return the rows, and the bytes of a row."""
    at = tables.at + d.offset
    bits = int(np.bitwise_or.reduce(at)) | d.level.table_bytes | page if len(at) else page
    row = bits & -bits
    parts = d.level.table_bytes // row
    if parts <= 1:
        return tables._replace(at=at), row
    number = np.tile(np.arange(parts), len(at))
    start = tables.start.repeat(parts) + (number * (row // d.stride << d.shift)).astype(np.uint64)
    return _Tables(start, at.repeat(parts) + number * row, tables.path.repeat(parts)), row


def _repeated(virtual: np.ndarray, word: np.ndarray, shift: int, times: int) -> tuple[np.ndarray, np.ndarray]:
    """Find pages of ``1 << shift`` bytes whose entry is repeated in all of its ``times`` slots.

    Returns:
        For each entry whether it is part of such a page, bool, and the index of the first entry of each page.
    """
    new = np.ones(len(virtual), bool)
    page = virtual >> np.uint64(shift)
    new[1:] = (page[1:] != page[:-1]) | (word[1:] != word[:-1])
    first = np.flatnonzero(new)
    count = np.diff(first, append=len(virtual))
    return (count == times).repeat(count), first[count == times]
