"""A CPU's data cache whose lines are found by virtual address: two mappings of one frame can disagree in it.

An access looks up all its lines before it fetches any. Uncached accesses bypass the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from vmcore.cpu.lines import CacheLines

_BATCH = 1 << 14  # lines that are looked up in one step


class DataCache(CacheLines):
    """The data cache of one CPU: loads and stores over its lines."""

    def load(self, address: int, size: int, physical: np.ndarray, repeats: bool = False) -> np.ndarray:
        """Read bytes.

        Args:
            address: virtual, bytes.
            size: bytes, at least 1.
            physical: addresses of the lines touched, bytes, int64.
            repeats: Whether a line may come twice. Then the lines are handled one by one.

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
        """Write bytes (uint8, at least 1). With ``write_back``, cached lines need not go to memory."""
        for virtual, lines, skip, start, stop in self._batches(address, len(data), physical, repeats):
            self._write(virtual, lines, skip, data[start:stop], write_back)

    def loaded_past(self, address: int, data: np.ndarray, physical: np.ndarray) -> None:
        """Report bytes (uint8) that were read from memory itself to the watcher. See `load`."""
        if self.watcher is not None:
            for virtual, lines, skip, start, stop in self._batches(address, len(data), physical):
                whole, asked = np.zeros((len(lines), self.line), np.uint8), self._asked(lines, skip, stop - start)
                whole[asked] = data[start:stop]
                self.watcher.lines_read(self, virtual, lines, np.full(len(lines), -1), whole, asked)

    def stored_past(self, address: int, data: np.ndarray, physical: np.ndarray, repeats: bool = False) -> None:
        """Report bytes that were written to memory itself to the watcher. See `store`."""
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
        """Return cached bytes without filling a line, or None if the line is absent or the range leaves it."""
        at = self.here(address, size, physical)
        return None if at < 0 else self._bytes[at : at + size].tobytes()

    def word(self, address: int, size: int, physical: int) -> bytes | None:
        """Read a word within one line, or None if it crosses the line's end or other caches must be asked."""
        at = self.here(address, size, physical)
        if at < 0:
            if self.others or (address & self.line - 1) + size > self.line:
                return None
            at = self.fetch_one(address, physical)
        data: bytes = self._bytes[at : at + size].tobytes()
        return data

    def poke(self, address: int, data: Any, physical: int) -> bool:
        """Write a word within one line that is written back or absent, or False if that cannot be done here."""
        size = len(data)
        if (address & self.line - 1) + size > self.line:
            return False
        if any(other.here(address, size, physical) >= 0 for other in self.others):
            return False
        at = self.here(address, size, physical)
        if at >= 0:
            self._bytes[at : at + size] = data
            self._dirt[at >> self._shift] = True
            return True
        if self.kind.write_allocate:
            return False
        where = self._memory.offset(physical)
        self._memory.buffer[where : where + size] = data
        return True

    def _read(self, virtual: np.ndarray, physical: np.ndarray, skip: int, size: int) -> np.ndarray:
        slots = self.look_up(virtual, physical)
        missing = slots < 0
        here = ~missing
        out = np.empty((len(slots), self.line), np.uint8)
        out[here] = self.data[slots[here]]
        if here.any():
            self._tell_read(virtual, physical, slots, out, here, skip, size)
        if missing.any():
            self.ask_others(virtual, physical, missing)
            self.fetch(virtual, physical, missing)  # an evicted line may have the same bytes
            out[missing] = self._lines[self.rows(physical[missing])]
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
        """Report some lines of an access to the watcher."""
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
        slots = self.look_up(virtual, physical)
        missing = slots < 0
        if self.others:
            self.ask_others(virtual, physical, np.ones(len(virtual), bool), drop=True)
        if missing.any() and self.kind.write_allocate:
            self.fetch(virtual, physical, missing)
            slots = self.look_up(virtual, physical)
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
            self._lines[self.rows(physical[to_memory])] = lines[to_memory]
        if self.watcher is not None:
            self.watcher.lines_stored(self, physical, slots, skip, data)

    def _from_memory(self, physical: np.ndarray, some: np.ndarray) -> np.ndarray:
        """Return lines, shape ``(n, line)``: some from memory, the others undefined."""
        out = np.empty((len(physical), self.line), np.uint8)
        out[some] = self._lines[self.rows(physical[some])]
        return out
