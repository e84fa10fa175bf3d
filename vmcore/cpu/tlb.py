"""A CPU's translation lookaside buffer: it keeps translations until a flush drops them.

The record's `vmcore.architecture.Tlb` assigns each page to one slot. A new entry evicts the old one in its slot. A
page that is part of a larger page has a slot of its own. It is dropped when any part of the larger page is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from vmcore.architecture import Tlb
from vmcore.paging.rights import CLEAN, READ, RIGHTS, SHARED, WRITE

Ints = Any  # a memoryview of ints
_FEW = 8  # pages up to which slots are looked at one by one


class Translation(NamedTuple):
    """One entry: a page, its place, its rights, log2 of the bytes its entry maps, and its address space."""

    page: int
    physical: int
    flags: int
    shift: int
    space: int


class TranslationBuffer:
    """The TLB of one CPU.

    Attributes:
        slots: Number of slots.
        page: Page number in each slot, int64. Negative if the slot is empty.
        physical: Physical address of the page's first byte, int64. -1 if the entry says that the page is absent.
        flags: Flags of `vmcore.paging.rights`, uint8.
        shift: log2 of the bytes that the entry maps, uint8.
        space: Number of the address space, int32. 0 is init_mm's.
        where: Offset of the page in the memory's buffer, int64. -1 if there is no RAM.
        reads, writes: The page if a load or a store needs only ``where``, else negative, int64.
    """

    def __init__(self, kind: Tlb, page_shift: int) -> None:
        """Create an empty TLB."""
        self.slots, self._mask, self._page_shift, self._tagged = (
            kind.entries,
            kind.entries - 1,
            page_shift,
            kind.tagged,
        )
        #: by slot, the number of a page that belongs in another slot, which marks the slot as empty
        self._none = -1 - np.arange(kind.entries)
        self.page, self.reads, self.writes = np.tile(self._none, (3, 1))
        self.physical, self.where = np.full((2, kind.entries), -1, np.int64)
        self.flags, self.shift = np.zeros((2, kind.entries), np.uint8)
        self.space = np.zeros(kind.entries, np.int32)
        #: the columns as sequences of plain ints, many times faster to look at one by one
        self.pages: Ints = self.page.data
        self.reading: Ints = self.reads.data
        self.writing: Ints = self.writes.data
        self.places: Ints = self.where.data
        self._flags: Ints = self.flags.data
        self._space: Ints = self.space.data
        self.direct = True  #: loads and stores may go straight to memory
        self.filled = False
        self._large = False

    def __len__(self) -> int:
        return int(np.count_nonzero(self.page >= 0)) if self.filled else 0

    def entries(self) -> list[Translation]:
        """Return its entries, in order of pages."""
        kept = np.flatnonzero(self.page >= 0)
        columns = (self.page, self.physical, self.flags, self.shift, self.space)
        return sorted(Translation(*row) for row in zip(*(c[kept].tolist() for c in columns), strict=True))

    def slot(self, page: int, space: int) -> int:
        """Return the slot that holds a page for an address space, or -1 if none does."""
        n = page & self._mask
        if self.pages[n] != page:
            return -1
        return n if self._flags[n] & SHARED or self._space[n] == space else -1

    def hits(self, pages: np.ndarray, space: int) -> np.ndarray:
        """Tell for consecutive pages (int64, shape ``(n,)``) which are held, bool.

        They are looked up in order, each miss being filled at once: behind the first ``slots`` none can be.
        """
        slots = pages & self._mask
        held: np.ndarray = (self.page[slots] == pages) & (
            (self.flags[slots] & SHARED != 0) | (self.space[slots] == space)
        )
        held[self.slots :] = False
        return held

    def ready(self, access: int, slots: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Tell which slots (all of them) let an access pass without a walk, bool. See `allows`."""
        flags = self.flags[slots]
        ready: np.ndarray = flags & access != 0
        return ready & (flags & CLEAN == 0) if access == WRITE else ready

    def fill(self, entry: Translation, where: int) -> int:
        """Keep a translation, whose page is at offset ``where`` of the buffer. Return the slot."""
        page, flags = entry.page, entry.flags
        n = page & self._mask
        self.page[n], self.physical[n], self.flags[n], self.shift[n], self.space[n] = entry
        self.where[n] = where
        direct = self.direct and where >= 0
        self.reads[n] = page if direct and flags & READ else -1 - n
        self.writes[n] = page if direct and flags & (WRITE | CLEAN) == WRITE else -1 - n
        self.filled = True
        self._large |= entry.shift != self._page_shift
        return n

    def fill_many(
        self,
        pages: np.ndarray,
        physical: np.ndarray,
        flags: np.ndarray,
        shift: np.ndarray,
        space: int,
        where: np.ndarray,
    ) -> None:
        """Keep many translations, later ones in place of earlier ones. These are arrays of shape ``(n,)``."""
        last = slice(-self.slots, None) if len(pages) > self.slots else slice(None)
        pages, flags, where = pages[last], flags[last], where[last]
        n = pages & self._mask
        self.page[n], self.physical[n], self.flags[n], self.shift[n] = pages, physical[last], flags, shift[last]
        self.space[n], self.where[n] = space, where
        direct = (where >= 0) & self.direct
        self.reads[n] = np.where(direct & (flags & READ != 0), pages, -1 - n)
        self.writes[n] = np.where(direct & (flags & (WRITE | CLEAN) == WRITE), pages, -1 - n)
        self.filled = True
        self._large |= bool((shift[last] != self._page_shift).any())

    def drop_all(self) -> int:
        """Drop all entries and return their number."""
        if not self.filled:
            return 0
        dropped = len(self)
        self.filled = self._large = False  # first: who fills meanwhile says so after
        for column in (self.page, self.reads, self.writes):
            column[:] = self._none
        return dropped

    def drop_pages(self, first: int, count: int) -> int:
        """Drop the entries for consecutive pages, of any address space, and return their number."""
        if not self.filled:
            return 0
        if count <= _FEW and not self._large:
            slots = [n for page in range(first, first + count) if self.pages[n := page & self._mask] == page]
            return self._drop(np.array(slots, np.int64))
        more = self.shift.astype(np.int64) - self._page_shift
        start = self.page >> more << more
        inside = (self.page >= 0) & (start < first + count) & (start + (1 << more) > first)
        return self._drop(np.flatnonzero(inside))

    def switch(self, space: int) -> int:
        """Switch to another address space and return the number of entries that this drops."""
        if not self.filled:
            return 0
        private = (self.page >= 0) & (self.flags & SHARED == 0)
        if not self._tagged:
            return self._drop(np.flatnonzero(private))
        for column, right in ((self.reads, READ), (self.writes, WRITE)):
            back = private & (self.space == space) & (self.where >= 0) & self.ready(right)
            column[private] = self._none[private]
            if self.direct:
                column[back] = self.page[back]
        return 0

    def drop_space(self, space: int) -> int:
        """Drop an address space's own entries, for example when it ends, and return their number."""
        if not self.filled:
            return 0
        return self._drop(np.flatnonzero((self.page >= 0) & (self.flags & SHARED == 0) & (self.space == space)))

    def _drop(self, slots: np.ndarray) -> int:
        for column in (self.page, self.reads, self.writes):
            column[slots] = self._none[slots]
        return len(slots)

    def stop_stores(self) -> None:
        """Stop the fast path of stores, so that each store checks the machine."""
        self.direct = False
        self.writes[:] = self._none

    def stop(self) -> None:
        """Stop answering, because an interrupt may have left entries half filled."""
        self.stop_stores()
        self.filled = True
        self.drop_all()


def allows(flags: int, access: int) -> bool:
    """Tell whether flags of an entry let an access pass without a walk. A first store needs one."""
    return bool(flags & access & RIGHTS) and not (access == WRITE and flags & CLEAN)
