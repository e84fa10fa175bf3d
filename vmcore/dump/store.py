"""An open dump, read as the memory that page tables are walked in.

The file is mapped and never read whole. Memory that a dump lacks is reported as missing. It is never taken for
zeros. ``Dump.problems`` lists the problems of the file.
"""

from __future__ import annotations

import mmap
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from struct import Struct
from types import TracebackType

import numpy as np

from vmcore.dump.index import RunIndex
from vmcore.dump.segments import Contents, Runs, settle
from vmcore.errors import DumpError, NotInDump
from vmcore.units import Bank

_UNPACK = {4: Struct("<I").unpack_from, 8: Struct("<Q").unpack_from}
_NEAR_SHIFT = 12  #: log2 of the bytes of a block whose run `Dump.word` remembers
_NEAR_MOST = 1 << 16  #: blocks that it remembers
_CHUNK = 1 << 24  #: bytes searched at once


class Dump:
    """Physical memory of a machine that was saved. A `vmcore.paging.mmu.TableMemory`.

    The file must not shrink while it is open.

    Attributes:
        name: of the file.
        problems: the faults of the file, with offsets and addresses; empty: nothing.
        notes: ELF notes.
        machine: ELF e_machine, 0 if the format has none.
        runs: Runs of memory in the dump.
        size: Bytes of memory in the dump.
    """

    def __init__(self, name: str, file: mmap.mmap, contents: Contents, problems: Sequence[str] = ()) -> None:
        """Read the ``contents`` of a mapped file.

        Raises:
            DumpError: The file has none of it.
        """
        self.name, self._file = name, file
        self.notes, self.machine = contents.notes, contents.machine
        self.runs: Runs = settle(contents, file)
        self.problems = (*problems, *self.runs.problems)
        self.size = int((self.runs.ends - self.runs.starts).sum())
        if not self.size:
            raise DumpError(name, None, "; ".join(self.problems) or "no memory", "some; copy the dump again")
        self._views: dict[str, np.ndarray] = {}
        self._near: dict[int, int] = {}
        self._index = RunIndex(self.runs)

    def close(self) -> None:
        """Unmap the file. Nothing can be read afterwards."""
        self._views.clear()
        self._file.close()

    def __enter__(self) -> Dump:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- runs and offsets

    @cached_property
    def banks(self) -> tuple[Bank, ...]:
        """The memory in the dump, in address order, in as few banks as possible."""
        starts, ends = self.runs.starts, self.runs.ends
        apart = np.append(True, starts[1:] != ends[:-1])
        firsts, lasts = starts[apart], ends[np.append(apart[1:], True)]
        return tuple(Bank(a, b) for a, b in zip(firsts.tolist(), lasts.tolist(), strict=True))

    def _view(self, kind: str) -> np.ndarray:
        """Return the file as items of a type: aligned items for ``u4`` and ``u8``, else an item at every byte."""
        view = self._views.get(kind)
        if view is None:
            dtype = np.dtype(kind.removeprefix("any "))
            count = len(self._file) - dtype.itemsize + 1
            if kind.startswith("any "):
                view = np.ndarray((max(count, 0),), dtype, self._file, strides=(1,))
            else:
                view = np.frombuffer(self._file, dtype, len(self._file) // dtype.itemsize)
            if len(self._views) > 16:
                self._views.clear()
            self._views[kind] = view
        return view

    # ---- many words

    def words(self, addresses: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Return aligned words of ``size`` (4 or 8) bytes, 0 where the dump has none.

        Args:
            addresses: physical, bytes, int64, shape ``(n,)``.
            size: bytes of a word.

        Returns:
            Words, unsigned, and whether each is there, bool, both of shape ``(n,)``.
        """
        run = self._index.runs_at(addresses)
        there = run >= 0
        if self._index.cells is None:
            there &= addresses + size <= self._index.ends[run]
        at = addresses + self._index.deltas.take(run)
        whole = bool(there.all())
        if not whole:
            at = np.where(there, at, 0)
        found = self._words_at(at, size)
        if whole:
            return found, there
        found = np.where(there, found, found.dtype.type(0))
        if self._index.odd_seams:
            for i in np.flatnonzero(~there & self._index.seams(addresses, size)).tolist():
                word = self._joined(int(addresses[i]), size)
                found[i], there[i] = word or 0, word is not None
        return found, there

    @cached_property
    def _skew(self) -> int:
        """All bits that are set in any difference of address and file offset."""
        return int(np.bitwise_or.reduce(self.runs.deltas))

    def _words_at(self, offsets: np.ndarray, size: int) -> np.ndarray:
        """Return the words at file offsets, all of which are in the file or, where nothing is read, 0."""
        if len(self._file) < size:
            return np.zeros(len(offsets), f"<u{size}")
        words: np.ndarray
        if self._skew & size - 1:
            words = self._view(f"any <u{size}")[offsets]
        else:
            words = self._view(f"<u{size}").take(offsets >> size.bit_length() - 1)
        return words

    def rows(self, starts: np.ndarray, row_bytes: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Return whole tables as rows of words, zeros where any byte of one is missing.

        Args:
            starts: physical addresses of the rows, bytes, int64, shape ``(n,)``.
            row_bytes: bytes of a row, a multiple of ``size``; a row lies within one page.
            size: bytes of a word, 4 or 8.

        Returns:
            Words, unsigned, shape ``(n, row_bytes // size)``, and whether each row is there, bool, ``(n,)``.
        """
        run = self._index.runs_at(starts)
        there = (run >= 0) & (starts + row_bytes <= self._index.ends[run])
        out = np.zeros(len(starts), f"V{row_bytes}")
        if there.all() and len(starts):
            out = self._view(f"any V{row_bytes}")[starts + self._index.deltas[run]]
        elif there.any():
            out[there] = self._view(f"any V{row_bytes}")[(starts + self._index.deltas[run])[there]]
        for i in np.flatnonzero(~there & self._index.seams(starts, row_bytes)).tolist():
            data, missing = self.read_partial(int(starts[i]), row_bytes)
            if not missing:
                out[i], there[i] = np.void(data), True
        return out.view(f"<u{size}").reshape(len(starts), row_bytes // size), there

    # ---- one word, and bytes

    def word(self, address: int, size: int) -> int | None:
        """Return the aligned word of ``size`` (4 or 8) bytes at a physical address, or None if it is missing."""
        delta = self._near.get(address >> _NEAR_SHIFT)
        if delta is None:
            delta = self._find(address, size)
            if delta is None:
                return self._joined(address, size) if self._index.odd_seams else None
        word: int = _UNPACK[size](self._file, address + delta)[0]
        return word

    def _joined(self, address: int, size: int) -> int | None:
        data, missing = self.read_partial(address, size)
        return None if missing else int.from_bytes(data, "little")

    def _find(self, address: int, size: int) -> int | None:
        """Return the delta of the run that has ``size`` bytes at an address. Remember it for the page."""
        run = self._index.run_of(address, size)
        if run is None:
            return None
        starts, ends, deltas = self._index.lists
        page = address >> _NEAR_SHIFT
        if starts[run] <= page << _NEAR_SHIFT and page + 1 << _NEAR_SHIFT <= ends[run]:
            if len(self._near) >= _NEAR_MOST:
                self._near.clear()
            self._near[page] = deltas[run]
        return deltas[run]

    def read(self, address: int, length: int) -> bytes:
        """Return ``length`` bytes at a physical address.

        Raises:
            NotInDump: Some bytes are missing. The error names the first missing address.
        """
        data, missing = self.read_partial(address, length)
        if missing:
            raise NotInDump(self.name, missing[0].start)
        return data

    def find(self, text: bytes, most: int) -> Iterator[int]:
        """Yield the physical addresses where a text begins, in address order, in the first ``most`` bytes."""
        self._file.madvise(mmap.MADV_SEQUENTIAL)
        try:
            for start, end, delta in zip(*self._index.lists, strict=True):
                stop = min(end, start + most)
                for at in range(start, stop, _CHUNK):
                    last = min(min(at + _CHUNK, stop) + len(text) - 1, end)
                    data = self._file[at + delta : last + delta]
                    hit = data.find(text)
                    while hit >= 0:
                        yield at + hit
                        hit = data.find(text, hit + 1)
                    self._forget(at + delta, last + delta)
                most -= stop - start
        finally:
            self._file.madvise(mmap.MADV_RANDOM)

    def _forget(self, start: int, end: int) -> None:
        """Unload the pages of a range of the file from this process. The host may keep them in its cache."""
        start -= start % mmap.PAGESIZE
        self._file.madvise(mmap.MADV_DONTNEED, start, end - start)

    def read_partial(self, address: int, length: int) -> tuple[bytes, tuple[Bank, ...]]:
        """Return ``length`` bytes at a physical address, zeros where they are missing, and the missing banks."""
        starts, ends, deltas = self._index.lists
        out, missing = bytearray(length), []
        at, stop = address, address + length
        run = max(bisect_right(starts, at) - 1, 0)
        while at < stop:
            while run < len(starts) and ends[run] <= at:
                run += 1
            begin = min(starts[run], stop) if run < len(starts) else stop
            if at < begin:
                missing.append(Bank(at, begin))
                at = begin
                continue
            end = min(ends[run], stop)
            out[at - address : end - address] = self._file[at + deltas[run] : end + deltas[run]]
            at = end
        return bytes(out), tuple(missing)
