"""The lines of a data cache: slots in sets, filled from memory, written back, and dropped.

The set of a line follows from its virtual address. Its key there is the virtual line number in a VIVT cache, the
physical one in a VIPT cache. Whole ranges are handled in array steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from vmcore.architecture import Cache
from vmcore.memory.physical import PhysicalMemory


class CacheWatcher(Protocol):
    """The coherence checker. It is called for each line that is read, stored, filled or written back."""

    def lines_read(
        self,
        cache: CacheLines,
        virtual: np.ndarray,
        physical: np.ndarray,
        slots: np.ndarray,
        data: np.ndarray,
        asked: np.ndarray,
    ) -> None:
        """Judge lines that were read: ``data`` was found in ``slots`` (-1: in memory), ``asked`` is returned."""
        ...

    def lines_fetched(self, cache: CacheLines, slots: np.ndarray) -> None:
        """Note that slots were filled from memory."""
        ...

    def lines_stored(
        self, cache: CacheLines, physical: np.ndarray, slots: np.ndarray, skip: int, data: np.ndarray
    ) -> None:
        """Judge a store of bytes, from ``skip`` in the first line on, to slots (-1: none), to memory, or both."""
        ...

    def lines_written_back(self, cache: CacheLines, slots: np.ndarray, physical: np.ndarray) -> None:
        """Judge dirty slots that are about to be written to physical lines in turn, or to none (-1)."""
        ...


class CacheLines:
    """The lines of one CPU's data cache: where they are, and how they come and go.

    Attributes:
        cpu: CPU of the cache.
        line: Bytes of a line.
        keys: Key of the line in each slot, shape ``(sets, ways)``, int64. -1 if the slot is empty.
        virtual: Virtual line number that each slot was filled by, same shape.
        physical: Physical line number that each slot was filled from, same shape.
        dirty: Whether memory lacks the bytes of each slot, bool, same shape.
        data: Bytes of each slot, shape ``(sets * ways, line)``, uint8.
        others: Caches of the other CPUs, kept coherent line by line where keys and sets agree.
        watcher: Watcher of all accesses, or None.
    """

    def __init__(
        self, kind: Cache, cpu: int, memory: PhysicalMemory, translate: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        """Create an empty cache.

        Args:
            kind: Geometry and behaviour.
            cpu: CPU of the cache.
            memory: Memory below the cache.
            translate: Translates virtual to physical line numbers, -1 where nothing is mapped. It serves lines
                that are written back by their virtual address.
        """
        self.kind, self.cpu, self.line, self._memory, self._translate = kind, cpu, kind.line, memory, translate
        self._ways, self._by_virtual = kind.ways, kind.kind == "vivt"
        self.sets = kind.size // (kind.ways * kind.line)
        self.keys, self.virtual, self.physical = np.full((3, self.sets, kind.ways), -1, np.int64)
        self.dirty = np.zeros((self.sets, kind.ways), bool)
        self.data = np.zeros((self.sets * kind.ways, kind.line), np.uint8)
        self._next = np.zeros(self.sets, np.int64)  # way that is replaced next
        self._filled = False
        self._lines = np.frombuffer(memory.buffer, np.uint8).reshape(-1, kind.line)
        self._shift = kind.line.bit_length() - 1
        #: the same as plain numbers, many times faster to look at one by one
        self._slots: Any = self.keys.reshape(-1).data
        self._dirt: Any = self.dirty.reshape(-1).data
        self._bytes: Any = self.data.reshape(-1).data
        self.others: list[CacheLines] = []
        self.watcher: CacheWatcher | None = None

    def __len__(self) -> int:
        return int(np.count_nonzero(self.keys >= 0))

    # ---- finding a line

    def here(self, address: int, size: int, physical: int) -> int:
        """Return the offset in the cache's bytes of an access within one line, or -1 if the line is absent."""
        inside, line = address & self.line - 1, address >> self._shift
        if inside + size <= self.line:
            first = (line & self.sets - 1) * self._ways
            key = line if self._by_virtual else physical >> self._shift
            for slot in range(first, first + self._ways):
                if self._slots[slot] == key:
                    return (slot << self._shift) + inside
        return -1

    def look_up(self, virtual: np.ndarray, physical: np.ndarray) -> np.ndarray:
        """Return the slot of each line, or -1 where the line is absent."""
        sets = virtual & self.sets - 1
        hit = self.keys[sets] == (virtual if self._by_virtual else physical)[:, None]
        return np.where(hit.any(1), sets * self._ways + hit.argmax(1), -1)

    def rows(self, physical: np.ndarray) -> np.ndarray:
        """Return the rows, in memory's lines, of physical line numbers."""
        return self._memory.offsets(physical << self._shift) >> self._shift

    # ---- filling and writing back

    def fetch_one(self, address: int, physical: int) -> int:
        """Fill a slot with the line of one address and return where that is in the cache's bytes."""
        line, of = address >> self._shift, physical >> self._shift
        where = self._memory.offset(of << self._shift)
        first = line & self.sets - 1
        slot = first * self._ways + int(self._next[first])
        self._next[first] = (self._next[first] + 1) % self._ways
        if self._dirt[slot]:
            self.write_back(np.array([slot]))
        self._bytes[slot << self._shift : slot + 1 << self._shift] = self._memory.buffer[where : where + self.line]
        self._slots[slot] = line if self._by_virtual else of
        self.virtual.reshape(-1)[slot], self.physical.reshape(-1)[slot] = line, of
        self._filled = True
        return (slot << self._shift) + (address & self.line - 1)

    def fetch(self, virtual: np.ndarray, physical: np.ndarray, missing: np.ndarray) -> None:
        """Fill slots with missing lines. If more come than fit, the last ones stay."""
        missing = missing.copy()
        missing[: -self.sets * self._ways] = False
        v, p = virtual[missing], physical[missing]
        sets = v & self.sets - 1
        order = np.argsort(sets, kind="stable")
        first = np.searchsorted(sets[order], sets[order])
        turn = np.empty(len(v), np.int64)
        turn[order] = np.arange(len(v)) - first  # how many lines of the same set came before
        slots = sets * self._ways + (self._next[sets] + turn) % self._ways
        np.add.at(self._next, sets, 1)
        self._next %= self._ways
        self._filled = True
        self.write_back(slots)
        self.data[slots] = self._lines[self.rows(p)]
        keys, virtuals, physicals = (a.reshape(-1) for a in (self.keys, self.virtual, self.physical))
        keys[slots], virtuals[slots], physicals[slots] = (v if self._by_virtual else p), v, p
        if self.watcher is not None:
            self.watcher.lines_fetched(self, slots)

    def write_back(self, slots: np.ndarray) -> None:
        """Write the dirty slots among these to memory. Lines that are mapped nowhere are lost."""
        dirty = self.dirty.reshape(-1)
        slots = slots[dirty[slots]]
        if not len(slots):
            return
        physical = self.physical.reshape(-1)[slots]
        if self.kind.writes_back_by == "virtual" and self._by_virtual:
            physical = self._translate(self.virtual.reshape(-1)[slots])
        if self.watcher is not None:
            self.watcher.lines_written_back(self, slots, physical)
        kept = physical >= 0
        self._lines[self.rows(physical[kept])] = self.data[slots[kept]]
        dirty[slots] = False

    def clean_and_invalidate(self) -> int:
        """Write dirty lines back and empty the cache. Return how many lines it held."""
        if not self._filled:
            return 0
        self._filled = False
        held = np.flatnonzero(self.keys >= 0)
        self.write_back(held)
        self.keys.reshape(-1)[held] = -1
        return len(held)

    def forget(self, frames: np.ndarray, page_shift: int, away: int) -> None:
        """Drop, unwritten, the lines of frames that the kernel clears through its own mapping of them.

        Args:
            frames: int64.
            page_shift: log2 of the bytes of a page.
            away: from a physical address to the kernel's own virtual one, bytes.
        """
        held = np.flatnonzero(self.keys >= 0)
        physical, virtual = self.physical.reshape(-1)[held], self.virtual.reshape(-1)[held]
        own = physical + (away >> self._shift)
        same = own == virtual if self._by_virtual else (own ^ virtual) & self.sets - 1 == 0
        gone = held[same & np.isin(physical >> page_shift - self._shift, frames)]
        self.keys.reshape(-1)[gone] = -1
        self.dirty.reshape(-1)[gone] = False

    def ask_others(
        self, virtual: np.ndarray, physical: np.ndarray, wanted: np.ndarray, drop: bool = False
    ) -> None:
        """Make other CPUs write the same lines back, and drop them if this CPU stores to them."""
        for other in self.others:
            slots = other.look_up(virtual[wanted], physical[wanted])
            slots = slots[slots >= 0]
            other.write_back(slots)
            if drop:
                other.keys.reshape(-1)[slots] = -1
