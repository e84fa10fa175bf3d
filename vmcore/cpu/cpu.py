"""A CPU: loads, stores and fetches through its TLB, the hardware's tables and its data cache."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from operator import index
from typing import Any

import numpy as np

from vmcore.architecture import Architecture, Layout
from vmcore.cpu.translation import Pages, TranslatingCpu
from vmcore.cpu.watchers import Board, Life
from vmcore.errors import ArgumentError
from vmcore.memory.physical import PhysicalMemory
from vmcore.paging.rights import CACHED, CLEAN, EXECUTE, NAMES, READ, WRITE, WRITE_BACK
from vmcore.wording import counted

# the flags that the cache's fast path needs of a page. A store also needs a page that is not CLEAN
_CACHED_READ = CACHED | READ
_CACHED_WRITE = CACHED | WRITE_BACK | WRITE | CLEAN


def as_bytes(data: object, function: str) -> memoryview:
    """Return a buffer as its bytes, for ``function`` to store.

    Raises:
        ArgumentError: It is no buffer, is not in one piece, or has items that are no plain numbers.
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


class Cpu(TranslatingCpu):
    """One CPU of a machine, as programs use it. `vmcore.cpu.translation` has its attributes."""

    def __init__(
        self, board: Board, life: Life, number: int, arch: Architecture, layout: Layout, memory: PhysicalMemory
    ) -> None:
        """Start on init_mm, with an empty TLB and an empty cache."""
        super().__init__(board, life, number, arch, layout, memory)
        # a load and a store look at these first
        self._reading, self._writing, self._places = self.tlb.reading, self.tlb.writing, self.tlb.places
        self._buffer: Any = memory.buffer

    def __repr__(self) -> str:
        runs = "init_mm" if self.mm is None else f"process {self.mm.number}"
        return f"<cpu {self.number} on {runs}, {counted(len(self.tlb), 'translation')}>"

    # ---- loads and stores of programs

    def load(self, address: int, size: int) -> bytes:
        """Load bytes.

        Args:
            address: virtual, bytes.
            size: Bytes, at least 1. They may cross pages.

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
        """Store bytes. If a page faults, the bytes in front of it stay stored.

        Args:
            address: virtual, bytes.
            data: At least one byte, or an array of uint8. It may cross pages.

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
        """Fetch instructions. It is like `load`, but the page must be executable and data caches are not used."""
        return self._load(address, size, EXECUTE)

    def physical(self, address: int, access: int = READ) -> int:
        """Return the physical address of an access, bytes. Like an access, it may fault and fills the TLB."""
        address, _ = self._check(address, 1)
        if access not in NAMES:
            raise ArgumentError(
                f"access: found {access!r}, expected READ, WRITE or EXECUTE of vmcore.paging.rights"
            )
        self._life.readable()
        try:
            slot = self.page(address >> self._shift, address, access)
            return self._physical[slot] + (address & self._inside)
        except BaseException as error:
            self._life.interrupted("physical", error)
            raise

    # ---- bytes

    def _no_number(self, address: object, size: object) -> ArgumentError:
        return ArgumentError(
            f"cpu {self.number}: found address {address!r} and size {size!r}, expected two whole numbers"
        )

    def _check(self, address: int, size: int) -> tuple[int, int]:
        """Return an address and a size as plain numbers.

        Raises:
            ArgumentError: They are no numbers, or the range is empty or leaves the address space.
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
        pages = self.translate(address, size, access)
        if pages.fault is not None:
            raise pages.take_fault()
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
        pages = self.translate(address, len(data), WRITE)
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
            raise pages.take_fault()

    def _alike(self, pages: Pages, address: int, size: int) -> Iterator[tuple[Pages, int, int]]:
        """Split an access where the caching of its pages changes. Yield pages, address and size."""
        kind = pages.flags & np.uint8(CACHED | WRITE_BACK)
        edges = [0, *(np.flatnonzero(np.diff(kind)) + 1).tolist(), len(kind)]
        first, end = address >> self._shift, address + size
        for a, b in pairwise(edges):
            start, stop = max(address, first + a << self._shift), min(end, first + b << self._shift)
            part = slice(a, b)
            yield Pages(pages.physical[part], pages.where[part], pages.flags[part]), start, stop - start

    def _read(self, pages: Pages, skip: int, size: int) -> bytes:
        """Read memory itself, from ``skip`` bytes into the first page on."""
        if len(pages.where) == 1:
            at = int(pages.where[0])
            if at >= 0:
                data: bytes = self._buffer[at + skip : at + skip + size]
                return data
        several: np.ndarray = self._memory.pages[self._rows(pages)].reshape(-1)
        return several[skip : skip + size].tobytes()

    def _rows(self, pages: Pages) -> np.ndarray:
        """Return the rows of the memory's pages. offsets() refuses an address without RAM."""
        if (pages.where < 0).any():
            self._memory.offsets(pages.physical)
        return pages.where >> self._shift

    def _write(self, pages: Pages, skip: int, data: np.ndarray) -> None:
        """Write memory itself: the first page from ``skip`` on, whole ones, the rest of the last."""
        page, memory, rows = self._page_size, self._memory.pages, self._rows(pages)
        head = min(page - skip, len(data))
        memory[rows[0], skip : skip + head] = data[:head]
        whole = (len(data) - head) // page
        memory[rows[1 : 1 + whole]] = data[head : head + whole * page].reshape(whole, page)
        if tail := len(data) - head - whole * page:
            memory[rows[1 + whole], :tail] = data[-tail:]

    def _lines(self, address: int, size: int, pages: Pages) -> np.ndarray:
        """Return the physical addresses of the cache lines an access touches."""
        assert self.cache is not None
        line = self.cache.line
        at = np.arange(address & -line, address + size, line)
        lines: np.ndarray = pages.physical[(at >> self._shift) - (address >> self._shift)] + (at & self._inside)
        return lines


def _repeat(pages: Pages) -> bool:
    """Tell whether two of the pages have the same frame."""
    frames = pages.physical
    return len(frames) > 1 and len(np.unique(frames)) < len(frames)
