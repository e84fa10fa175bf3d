"""A CPU's data cache whose lines are found by virtual address: two mappings of one frame can disagree in it.

A line's set follows from its virtual address. Its key there is the virtual line number in a VIVT cache, the
physical one in a VIPT cache. Whole ranges are handled in array steps; an access looks up all its lines before it
fetches any. What is not cached at all is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

from vmcore.architecture import Cache
from vmcore.memory.physical import PhysicalMemory

_BATCH = 1 << 14  # lines that are looked up in one step


class CacheWatcher(Protocol):
    """Who is told what a cache does with its lines: the coherence checker."""

    def lines_read(
        self,
        cache: DataCache,
        virtual: np.ndarray,
        physical: np.ndarray,
        slots: np.ndarray,
        data: np.ndarray,
        asked: np.ndarray,
    ) -> None:
        """Lines were read: ``data`` was found in slots (-1: in memory), and its ``asked`` bytes are returned."""
        ...

    def lines_fetched(self, cache: DataCache, slots: np.ndarray) -> None:
        """Slots were filled from memory."""
        ...

    def lines_stored(
        self, cache: DataCache, physical: np.ndarray, slots: np.ndarray, skip: int, data: np.ndarray
    ) -> None:
        """Bytes were stored, from ``skip`` in the first line on: in slots (-1: not there), in memory, or both."""
        ...

    def lines_written_back(self, cache: DataCache, slots: np.ndarray, physical: np.ndarray) -> None:
        """Dirty slots are about to go to physical lines, one after the other; -1: nowhere."""
        ...


class DataCache:
    """The data cache of one CPU.

    Attributes:
        cpu: whose.
        line: bytes of a line.
        keys: what each slot holds, -1: nothing; shape ``(sets, ways)``, int64.
        virtual: virtual line number each slot was filled by, same shape.
        physical: physical line number each slot was filled from, same shape.
        dirty: slots that memory does not have yet, bool, same shape.
        data: bytes of each slot, shape ``(sets * ways, line)``, uint8.
        others: the caches of the other CPUs, kept coherent line by line where keys and sets agree.
        watcher: is told of everything, or None.
    """

    def __init__(
        self, kind: Cache, cpu: int, memory: PhysicalMemory, translate: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        """Be empty.

        Args:
            kind: geometry and behaviour.
            cpu: whose.
            memory: below it.
            translate: from virtual to physical line numbers, -1 where nothing is mapped; for lines that are
                written back by their virtual address.
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
        self.others: list[DataCache] = []
        self.watcher: CacheWatcher | None = None

    def __len__(self) -> int:
        return int(np.count_nonzero(self.keys >= 0))

    # ---- loads and stores

    def load(self, address: int, size: int, physical: np.ndarray, repeats: bool = False) -> np.ndarray:
        """Read bytes.

        Args:
            address: virtual, bytes.
            size: bytes, at least 1.
            physical: addresses of the lines touched, bytes, int64.
            repeats: some line may come twice, so that they must be taken one by one.

        Returns:
            Shape ``(size,)``, uint8.
        """
        parts = [
            self._read(virtual, lines, skip, stop - start)
            for virtual, lines, skip, start, stop in self._batches(address, size, physical, repeats)
        ]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def store(
        self, address: int, data: np.ndarray, physical: np.ndarray, write_back: bool, repeats: bool = False
    ) -> None:
        """Write bytes (uint8, at least 1); ``write_back``: lines that are here need not go to memory."""
        for virtual, lines, skip, start, stop in self._batches(address, len(data), physical, repeats):
            self._write(virtual, lines, skip, data[start:stop], write_back)

    def loaded_past(self, address: int, data: np.ndarray, physical: np.ndarray) -> None:
        """Tell the watcher of bytes (uint8) that were read from memory itself; see `load`."""
        if self.watcher is not None:
            for virtual, lines, skip, start, stop in self._batches(address, len(data), physical):
                whole, asked = np.zeros((len(lines), self.line), np.uint8), self._asked(lines, skip, stop - start)
                whole[asked] = data[start:stop]
                self.watcher.lines_read(self, virtual, lines, np.full(len(lines), -1), whole, asked)

    def stored_past(self, address: int, data: np.ndarray, physical: np.ndarray, repeats: bool = False) -> None:
        """Tell the watcher of bytes that were written to memory itself; see `store`."""
        if self.watcher is not None:
            for _, lines, skip, start, stop in self._batches(address, len(data), physical, repeats):
                self.watcher.lines_stored(self, lines, np.full(len(lines), -1), skip, data[start:stop])

    def _batches(
        self, address: int, size: int, physical: np.ndarray, repeats: bool = False
    ) -> Iterator[tuple[np.ndarray, np.ndarray, int, int, int]]:
        """Cut an access into steps of whole lines.

        Yields:
            Virtual and physical line numbers of a step, where in its first line its bytes begin, and which bytes
            of the access they are (start, stop).
        """
        skip, start = address & self.line - 1, 0
        virtual = np.arange(address >> self._shift, (address + size - 1 >> self._shift) + 1)
        step = 1 if repeats else _BATCH
        for n in range(0, len(virtual), step):
            v = virtual[n : n + step]
            stop = min(start + (len(v) << self._shift) - skip, size)
            yield v, physical[n : n + step] >> self._shift, skip, start, stop
            start, skip = stop, 0

    def peek(self, address: int, size: int, physical: int) -> bytes | None:
        """Look at bytes of one line that is here; None: it is not, or they are of two. Nothing is fetched."""
        at = self._here(address, size, physical)
        return None if at < 0 else self._bytes[at : at + size].tobytes()

    def word(self, address: int, size: int, physical: int) -> bytes | None:
        """Read bytes of one line; None: they are of two, or several CPUs must agree. For words; see `load`."""
        at = self._here(address, size, physical)
        if at < 0:
            if self.others or (address & self.line - 1) + size > self.line:
                return None
            at = self._fetch_one(address, physical)
        data: bytes = self._bytes[at : at + size].tobytes()
        return data

    def poke(self, address: int, data: Any, physical: int) -> bool:
        """Write bytes to one line that is written back, or not here; False: not done. For words; see `store`."""
        size = len(data)
        if (address & self.line - 1) + size > self.line:
            return False
        if any(other._here(address, size, physical) >= 0 for other in self.others):
            return False
        at = self._here(address, size, physical)
        if at >= 0:
            self._bytes[at : at + size] = data
            self._dirt[at >> self._shift] = True
            return True
        if self.kind.write_allocate:
            return False
        where = self._memory.offset(physical)
        self._memory.buffer[where : where + size] = data
        return True

    def _fetch_one(self, address: int, physical: int) -> int:
        """Fill a slot with the line of one address; return where that is in the cache's bytes."""
        line, of = address >> self._shift, physical >> self._shift
        where = self._memory.offset(of << self._shift)
        first = line & self.sets - 1
        slot = first * self._ways + int(self._next[first])
        self._next[first] = (self._next[first] + 1) % self._ways
        if self._dirt[slot]:
            self._write_back(np.array([slot]))
        self._bytes[slot << self._shift : slot + 1 << self._shift] = self._memory.buffer[where : where + self.line]
        self._slots[slot] = line if self._by_virtual else of
        self.virtual.reshape(-1)[slot], self.physical.reshape(-1)[slot] = line, of
        self._filled = True
        return (slot << self._shift) + (address & self.line - 1)

    def _here(self, address: int, size: int, physical: int) -> int:
        """Return where in the cache's bytes an access within one line is, -1: nowhere."""
        inside, line = address & self.line - 1, address >> self._shift
        if inside + size <= self.line:
            first = (line & self.sets - 1) * self._ways
            key = line if self._by_virtual else physical >> self._shift
            for slot in range(first, first + self._ways):
                if self._slots[slot] == key:
                    return (slot << self._shift) + inside
        return -1

    def _read(self, virtual: np.ndarray, physical: np.ndarray, skip: int, size: int) -> np.ndarray:
        slots = self._look_up(virtual, physical)
        missing = slots < 0
        here = ~missing
        out = np.empty((len(slots), self.line), np.uint8)
        out[here] = self.data[slots[here]]
        if here.any():
            self._tell_read(virtual, physical, slots, out, here, skip, size)
        if missing.any():
            self._ask_others(virtual, physical, missing)
            self._fetch(virtual, physical, missing)  # what it drives out may be a line of the same bytes
            out[missing] = self._lines[self._rows(physical[missing])]
            self._tell_read(virtual, physical, slots, out, missing, skip, size)
        return out.reshape(-1)[skip : skip + size]

    def _tell_read(
        self,
        virtual: np.ndarray,
        physical: np.ndarray,
        slots: np.ndarray,
        data: np.ndarray,
        some: np.ndarray,
        skip: int,
        size: int,
    ) -> None:
        """Tell the watcher of some lines of an access."""
        if self.watcher is not None:
            asked = self._asked(slots, skip, size)
            if not some.all():
                virtual, physical, slots, data, asked = (a[some] for a in (virtual, physical, slots, data, asked))
            self.watcher.lines_read(self, virtual, physical, slots, data, asked)

    def _asked(self, lines: np.ndarray, skip: int, size: int) -> np.ndarray:
        """Mark ``size`` bytes of lines from ``skip`` on, bool, shape ``(n, line)``."""
        asked = np.zeros((len(lines), self.line), bool)
        asked.reshape(-1)[skip : skip + size] = True
        return asked

    def _write(
        self, virtual: np.ndarray, physical: np.ndarray, skip: int, data: np.ndarray, write_back: bool
    ) -> None:
        slots = self._look_up(virtual, physical)
        missing = slots < 0
        if self.others:
            self._ask_others(virtual, physical, np.ones(len(virtual), bool), drop=True)
        if missing.any() and self.kind.write_allocate:
            self._fetch(virtual, physical, missing)
            slots = self._look_up(virtual, physical)
            missing = slots < 0
        here = slots[~missing]
        if len(here):
            lines = np.empty((len(slots), self.line), np.uint8)
            lines[~missing] = self.data[here]
            lines.reshape(-1)[skip : skip + len(data)] = data
            self.data[here] = lines[~missing]
        if write_back:
            self.dirty.reshape(-1)[here] = True
        # memory gets the bytes that are stored and no others: a line that is here may be old
        to_memory = missing if write_back else np.ones(len(slots), bool)
        if to_memory.any():
            lines = self._from_memory(physical, to_memory)
            lines.reshape(-1)[skip : skip + len(data)] = data
            self._lines[self._rows(physical[to_memory])] = lines[to_memory]
        if self.watcher is not None:
            self.watcher.lines_stored(self, physical, slots, skip, data)

    def _look_up(self, virtual: np.ndarray, physical: np.ndarray) -> np.ndarray:
        """Return the slot of each line, -1 where it is not here."""
        sets = virtual & self.sets - 1
        hit = self.keys[sets] == (virtual if self._by_virtual else physical)[:, None]
        return np.where(hit.any(1), sets * self._ways + hit.argmax(1), -1)

    def _rows(self, physical: np.ndarray) -> np.ndarray:
        return self._memory.offsets(physical << self._shift) >> self._shift

    def _from_memory(self, physical: np.ndarray, some: np.ndarray) -> np.ndarray:
        """Return lines, shape ``(n, line)``: some from memory, the others undefined."""
        out = np.empty((len(physical), self.line), np.uint8)
        out[some] = self._lines[self._rows(physical[some])]
        return out

    def _fetch(self, virtual: np.ndarray, physical: np.ndarray, missing: np.ndarray) -> None:
        """Fill slots with missing lines; of more than fit the last ones stay."""
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
        self._write_back(slots)
        self.data[slots] = self._lines[self._rows(p)]
        keys, virtuals, physicals = (a.reshape(-1) for a in (self.keys, self.virtual, self.physical))
        keys[slots], virtuals[slots], physicals[slots] = (v if self._by_virtual else p), v, p
        if self.watcher is not None:
            self.watcher.lines_fetched(self, slots)

    # ---- maintenance

    def _write_back(self, slots: np.ndarray) -> None:
        """Write dirty ones among slots to memory, or lose them."""
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
        self._lines[self._rows(physical[kept])] = self.data[slots[kept]]
        dirty[slots] = False

    def clean_and_invalidate(self) -> int:
        """Write back what is dirty and empty the cache; return how many lines it held."""
        if not self._filled:
            return 0
        self._filled = False
        held = np.flatnonzero(self.keys >= 0)
        self._write_back(held)
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

    def _ask_others(
        self, virtual: np.ndarray, physical: np.ndarray, wanted: np.ndarray, drop: bool = False
    ) -> None:
        """Have other CPUs write back, and drop where this one stores, the same lines under the same keys."""
        for other in self.others:
            slots = other._look_up(virtual[wanted], physical[wanted])
            slots = slots[slots >= 0]
            other._write_back(slots)
            if drop:
                other.keys.reshape(-1)[slots] = -1
