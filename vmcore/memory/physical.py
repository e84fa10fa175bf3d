"""Physical memory: one sparse, byte-exact buffer with banks and holes.

The host commits a page when it is touched. For example, a 64 GiB machine costs only as much as its tables and
data. If the host refuses the whole span, the banks are packed one behind the other in a smaller buffer. Callers
use physical addresses in both cases.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from typing import NoReturn

import numpy as np

from vmcore.errors import BusError, CannotCopy, HostMemoryError
from vmcore.units import Bank, format_size

_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # Linux; Python names it from 3.11 on some builds only
_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE  # private: a forked child has its own
_MANY_PAGES = 16  # pages from which on it is cheaper to give a run back to the host than to overwrite it


class PhysicalMemory:
    """RAM of one machine.

    Attributes:
        banks: The banks of RAM, in address order.
        page_shift: log2 of the page size, bytes.
        buffer: The host memory. Its byte ``offset(pa)`` is physical byte ``pa``.
        words32: the buffer as 32-bit words (memoryview); the same for ``words64``.
        array32: the buffer as a numpy array of shape ``(n,)``, uint32; the same for ``array64``.
        pages: the buffer as bytes, shape ``(pages, page size)``, uint8.
    """

    def __init__(self, banks: Sequence[Bank], page_shift: int, packed: bool = False) -> None:
        """Reserve, but do not commit, the memory.

        Args:
            banks: page-aligned, in order, disjoint.
            page_shift: log2 of the page size.
            packed: pack the banks even where the whole span could be had.

        Raises:
            BusError: there is no bank.
            HostMemoryError: the host has no room even for the packed banks.
        """
        if not banks:
            raise BusError("physical memory: found no bank, expected at least one")
        self.banks, self.page_shift = tuple(banks), page_shift
        self.buffer, starts = _reserve(self.banks, packed)
        #: (first address, end, what to subtract for a buffer offset) of each bank
        self._runs = [(b.start, b.end, b.start - at) for b, at in zip(self.banks, starts, strict=True)]
        view = memoryview(self.buffer)
        self.words32, self.words64 = view.cast("I"), view.cast("Q")
        self.array32 = np.frombuffer(self.buffer, np.uint32)
        self.array64 = np.frombuffer(self.buffer, np.uint64)
        self.pages = np.frombuffer(self.buffer, np.uint8).reshape(-1, 1 << page_shift)
        #: is called with frames before they are cleared, if the machine has caches that may hold them
        self.zeroed: Callable[[np.ndarray], None] | None = None
        self._first_start, self._first_end, self._first_delta = self._runs[0]
        self._bank_starts = np.array([r[0] for r in self._runs], np.int64)
        self._bank_ends = np.array([r[1] for r in self._runs], np.int64)
        self._deltas = np.array([r[2] for r in self._runs], np.int64)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise CannotCopy("simulated RAM")

    def offset(self, address: int, length: int = 1) -> int:
        """Return the buffer offset of ``length`` bytes at a physical address.

        Raises:
            BusError: Some of the bytes are in no bank.
        """
        if self._first_start <= address and address + length <= self._first_end:
            return address - self._first_delta
        for start, end, delta in self._runs:
            if start <= address and address + length <= end:
                return address - delta
        raise self._bus_error(address)

    def offsets(self, addresses: np.ndarray) -> np.ndarray:
        """Return buffer offsets of many physical addresses, both shape ``(n,)``, int64.

        Raises:
            BusError: One of the addresses is in no bank.
        """
        if len(self._runs) == 1:
            bad = (addresses < self._first_start) | (addresses >= self._first_end)
            if bad.any():
                raise self._bus_error(int(addresses[bad.argmax()]))
            return addresses - self._first_delta
        bank = np.searchsorted(self._bank_starts, addresses, "right") - 1
        bad = (bank < 0) | (addresses >= self._bank_ends[bank])
        if bad.any():
            raise self._bus_error(int(addresses[bad.argmax()]))
        return addresses - self._deltas[bank]

    def page_rows(self, frames: np.ndarray) -> np.ndarray:
        """Return the rows of `pages` that frames (int64, shape ``(n,)``) are in."""
        if len(self._runs) == 1:
            first = self._first_delta >> self.page_shift
            return frames - first if first else frames
        return self.offsets(frames << self.page_shift) >> self.page_shift

    def _bus_error(self, address: int) -> BusError:
        banks = ", ".join(str(bank) for bank in self.banks)
        return BusError(f"physical address {address:#x}: no RAM there; the banks are {banks}")

    def read(self, address: int, length: int) -> bytes:
        """Return bytes at a physical address. The stretch must lie in one bank."""
        at = self.offset(address, max(length, 1))
        return self.buffer[at : at + length]

    def write(self, address: int, data: bytes) -> None:
        """Store bytes at a physical address. The stretch must lie in one bank."""
        at = self.offset(address, max(len(data), 1))
        self.buffer[at : at + len(data)] = data

    def load(self, address: int, size: int) -> int:
        """Return the aligned little-endian word of ``size`` (4 or 8) bytes at a physical address."""
        if self._first_start <= address and address + size <= self._first_end:  # walks read most words: no call
            at = address - self._first_delta
        else:
            at = self.offset(address, size)
        return self.words64[at >> 3] if size == 8 else self.words32[at >> 2]

    def word(self, address: int, size: int) -> int | None:
        """Return the aligned word of ``size`` (4 or 8) bytes at a physical address, or None if there is no RAM."""
        for start, end, delta in self._runs:
            if start <= address < end:
                return self.words64[address - delta >> 3] if size == 8 else self.words32[address - delta >> 2]
        return None

    def words(self, addresses: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Return aligned words of ``size`` (4 or 8) bytes, 0 where no RAM is.

        Args:
            addresses: physical, bytes, int64, shape ``(n,)``.
            size: bytes of a word.

        Returns:
            Words, unsigned, and whether each is there, bool, both of shape ``(n,)``.
        """
        at, there = self._find(addresses)
        found = self.array64[at >> 3] if size == 8 else self.array32[at >> 2]
        if not there.all():
            found[~there] = 0
        return found, there

    def rows(self, starts: np.ndarray, row_bytes: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Return whole rows of words, such as page tables, 0 where no RAM is.

        Args:
            starts: physical addresses, bytes, int64, shape ``(n,)``, multiples of ``row_bytes``.
            row_bytes: bytes of a row, a power of two, at most a page.
            size: bytes of a word, 4 or 8.

        Returns:
            Words, unsigned, shape ``(n, row_bytes // size)``, and whether the row is there, bool, ``(n,)``.
        """
        at, there = self._find(starts)
        words = self.array64 if size == 8 else self.array32
        found = words.reshape(-1, row_bytes // size)[at // row_bytes]
        if not there.all():
            found[~there] = 0
        return found, there

    def _find(self, addresses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return buffer offsets of physical addresses (int64, shape ``(n,)``, 0: none), and where RAM is."""
        if len(self._runs) == 1:
            at = addresses - self._first_delta
            there = at.view(np.uint64) < self._first_end - self._first_start
        else:
            bank = np.searchsorted(self._bank_starts, addresses, "right") - 1
            there = (bank >= 0) & (addresses < self._bank_ends[bank])
            at = addresses - self._deltas[bank]
        return (at, there) if there.all() else (np.where(there, at, 0), there)

    def store(self, address: int, value: int, size: int) -> None:
        """Store an aligned little-endian word of ``size`` (4 or 8) bytes at a physical address."""
        at = self.offset(address, size)
        if size == 8:
            self.words64[at >> 3] = value
        else:
            self.words32[at >> 2] = value

    def store_many(self, addresses: np.ndarray, values: np.ndarray, size: int) -> None:
        """Store aligned words of ``size`` (4 or 8) bytes at physical addresses (int64), both shape ``(n,)``."""
        at = self.offsets(addresses)
        if size == 8:
            self.array64[at >> 3] = values
        else:
            self.array32[at >> 2] = values

    def places(self, addresses: np.ndarray) -> np.ndarray:
        """Return buffer offsets of physical addresses, both shape ``(n,)``, int64, and -1 where no RAM is."""
        at, there = self._find(addresses)
        return at if there.all() else np.where(there, at, -1)

    def place(self, address: int) -> int:
        """Return the buffer offset of a physical address, -1 where no RAM is."""
        for start, end, delta in self._runs:
            if start <= address < end:
                return address - delta
        return -1

    def release(self) -> None:
        """Give all memory back to the host. It reads as zeros afterwards."""
        self.buffer.madvise(mmap.MADV_DONTNEED)

    def zero_frames(self, frames: np.ndarray) -> None:
        """Clear whole pages (int64, shape ``(n,)``). Long runs give their memory back to the host."""
        if self.zeroed is not None:
            self.zeroed(frames)
        rows = self.page_rows(frames)
        n = len(rows)
        if n >= _MANY_PAGES and (low := _run_start(rows)) is not None:
            self.buffer.madvise(mmap.MADV_DONTNEED, low << self.page_shift, n << self.page_shift)
        else:
            self.pages[rows] = 0


def anonymous(size: int) -> mmap.mmap:
    """Return zeroed host memory that is committed when it is touched and private to this process.

    Args:
        size: bytes.

    Raises:
        OSError, OverflowError: the host has no room.
    """
    return mmap.mmap(-1, size, flags=_FLAGS)


def _run_start(rows: np.ndarray) -> int | None:
    """Return the lowest row if the rows are consecutive, rising or falling, or None."""
    steps = np.diff(rows)
    if (steps == 1).all():
        return int(rows[0])
    return int(rows[-1]) if (steps == -1).all() else None


def _reserve(banks: tuple[Bank, ...], packed: bool) -> tuple[mmap.mmap, list[int]]:
    base, span = banks[0].start, banks[-1].end - banks[0].start
    if not packed:
        try:
            return anonymous(span), [b.start - base for b in banks]
        except (OSError, OverflowError):
            pass  # the span, holes included, is too large for this host: pack the banks
    total = sum(bank.size for bank in banks)
    try:
        buffer = anonymous(total)
    except (OSError, OverflowError) as error:
        raise HostMemoryError(
            f"the host cannot reserve {format_size(total)} of address space for RAM: {error}; ask for less"
        ) from error
    ends = np.cumsum([bank.size for bank in banks]).tolist()
    return buffer, [0, *ends[:-1]]
