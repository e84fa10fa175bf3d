"""RAM dumps of real machines: open one, and read it as the memory that page tables are walked in.

ELF cores, LiME files and raw images, each also gzip or xz. The file is mapped and never read whole. What a dump
does not have is "not there"; it is never taken for zeros. What is wrong with a file is in ``Dump.problems``.
"""

from __future__ import annotations

import mmap
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from struct import Struct
from types import TracebackType

import numpy as np

from vmcore.dump import elf_headers as elf
from vmcore.dump.formats.elf import read_elf
from vmcore.dump.formats.lime import MAGIC as LIME_MAGIC
from vmcore.dump.formats.lime import read_lime
from vmcore.dump.formats.raw import read_flat, read_raw
from vmcore.dump.formats.refused import refuse_unknown
from vmcore.dump.mapped_file import map_file
from vmcore.dump.segments import Contents, Runs, settle
from vmcore.errors import DumpError, NotInDump
from vmcore.units import Bank

FORMATS = ("elf", "lime", "raw", "flat")
_UNPACK = {4: Struct("<I").unpack_from, 8: Struct("<Q").unpack_from}
_NEAR_SHIFT = 12  #: log2 of what `Dump.word` remembers the place of
_NEAR_MOST = 1 << 16  #: places it remembers
_CHUNK = 1 << 24  #: bytes searched at once
_CELLS_MOST = 1 << 24  #: entries of the table from address to run; more, and runs are searched instead


def open_dump(
    path: str | os.PathLike[str],
    *,
    base: int | None = None,
    banks: Sequence[Bank] | None = None,
    format: str | None = None,  # noqa: A002  # what the command line calls it
    name: str | None = None,
) -> Dump:
    """Open a dump of physical memory.

    Args:
        path: of an ELF core, a LiME file or a raw image, plain or packed by gzip or xz.
        base: physical address of a raw image's first byte.
        banks: where a raw image's bytes belong: "raw" has the banks one after the other, "flat" has byte ``x``
            of physical memory at ``x - base`` and holes between the banks.
        format: one of `FORMATS`; default: what the first bytes say, "raw" where ``base`` or ``banks`` is given.
        name: of the dump in messages; default: the path.

    Raises:
        DumpError: it cannot be read, or is of a format that must be converted first.
    """
    name = os.fspath(path) if name is None else name
    if format is not None and format not in FORMATS:
        raise DumpError(name, None, f"format {format!r}", f"one of {', '.join(FORMATS)}")
    file, problems = map_file(os.fspath(path))
    try:
        contents = _contents(name, file, base, banks, format)
        return Dump(name, file, contents, problems)
    except BaseException:
        file.close()
        raise


def _contents(
    name: str, file: mmap.mmap, base: int | None, banks: Sequence[Bank] | None, chosen: str | None
) -> Contents:
    head, raw = file[:4], base is not None or banks is not None
    if chosen is None:
        chosen = "elf" if head == elf.MAGIC else "lime" if head == LIME_MAGIC else "raw" if raw else None
    if chosen is None:
        refuse_unknown(name, file)
    if chosen in ("raw", "flat"):
        read = read_flat if chosen == "flat" else read_raw
        return read(name, file, base or 0, banks)
    if raw:
        raise DumpError(name, 0, f"a base or banks for the {chosen} format, which says them itself", "neither")
    magic, reader = (elf.MAGIC, read_elf) if chosen == "elf" else (LIME_MAGIC, read_lime)
    if head != magic:
        raise DumpError(name, 0, f"magic {head!r}", f"{magic!r} of the {chosen} format; leave the format out")
    return reader(name, file)


class Dump:
    """Physical memory of a machine that was saved; a `vmcore.paging.mmu.TableMemory`.

    The file must not shrink while it is open.

    Attributes:
        name: of the file.
        problems: what is wrong with the file, with offsets and addresses; empty: nothing.
        notes: ELF notes.
        machine: ELF e_machine; 0 where the format has none.
        runs: the memory that is there.
        size: bytes of it.
    """

    def __init__(self, name: str, file: mmap.mmap, contents: Contents, problems: Sequence[str] = ()) -> None:
        """Read what ``contents`` says is in a mapped file.

        Raises:
            DumpError: nothing of it is there.
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
        #: with one more at the end, for what is in no run
        self._deltas = np.append(self.runs.deltas, 0)
        self._ends = np.append(self.runs.ends, 0)
        #: where one run follows another in memory at once; whether a word may lie on both sides
        self._seam_at: np.ndarray = self.runs.starts[1:][self.runs.starts[1:] == self.runs.ends[:-1]]
        self._odd_seams = bool((self._seam_at & 7).any())

    def close(self) -> None:
        """Unmap the file; nothing can be read afterwards."""
        self._views.clear()
        self._file.close()

    def __enter__(self) -> Dump:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- where things are

    @cached_property
    def banks(self) -> tuple[Bank, ...]:
        """The memory that is there, in address order, as few banks as it can be."""
        starts, ends = self.runs.starts, self.runs.ends
        apart = np.append(True, starts[1:] != ends[:-1])
        firsts, lasts = starts[apart], ends[np.append(apart[1:], True)]
        return tuple(Bank(a, b) for a, b in zip(firsts.tolist(), lasts.tolist(), strict=True))

    def _view(self, kind: str) -> np.ndarray:
        """Return the file as items of a type: aligned ones for ``u4`` and ``u8``, else at every byte."""
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

    @cached_property
    def _bounds(self) -> int:
        """All bits that are set in any bound of a run."""
        return int(np.bitwise_or.reduce(self.runs.starts) | np.bitwise_or.reduce(self.runs.ends))

    @cached_property
    def _cells(self) -> tuple[int, int, np.ndarray] | None:
        """The run (int32, -1: none) of each cell of memory: (first address, log2 of a cell, runs), else None.

        A cell is as large as the bounds of all runs allow. Runs that begin at odd addresses, or far apart,
        have no such table.
        """
        shift = (self._bounds & -self._bounds).bit_length() - 1
        bounds = np.stack([self.runs.starts, self.runs.ends], axis=1).ravel() >> max(shift, 0)
        if shift < 3 or bounds[-1] - bounds[0] > _CELLS_MOST:
            return None
        runs = np.full(len(bounds) + 1, -1, np.int32)
        runs[1::2] = np.arange(len(bounds) // 2)
        cells = np.repeat(runs, np.diff(bounds, prepend=bounds[0], append=bounds[-1] + 1))
        return int(self.runs.starts[0]), shift, cells

    def _runs_at(self, addresses: np.ndarray) -> np.ndarray:
        """Return the number of the run each address (int64) is in; -1: none."""
        cells = self._cells
        if cells is not None:
            base, shift, table = cells
            index = (addresses - base >> shift).view(np.uint64)  # below the base: huge
            runs: np.ndarray = table.take(np.minimum(index, np.uint64(len(table) - 1)).view(np.int64))
            return runs
        run = np.searchsorted(self.runs.starts, addresses, "right") - 1
        return np.where(addresses < self._ends[run], run, -1)

    # ---- many words

    def words(self, addresses: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Return aligned words of ``size`` (4 or 8) bytes, 0 where there are none.

        Args:
            addresses: physical, bytes, int64, shape ``(n,)``.
            size: bytes of a word.

        Returns:
            Words, unsigned, and whether each is there, bool, both of shape ``(n,)``.
        """
        run = self._runs_at(addresses)
        there = run >= 0
        if self._cells is None:
            there &= addresses + size <= self._ends[run]
        at = addresses + self._deltas.take(run)
        whole = bool(there.all())
        if not whole:
            at = np.where(there, at, 0)
        found = self._words_at(at, size)
        if whole:
            return found, there
        found = np.where(there, found, found.dtype.type(0))
        if self._odd_seams:
            for i in np.flatnonzero(~there & self._seams(addresses, size)).tolist():
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
        run = self._runs_at(starts)
        there = (run >= 0) & (starts + row_bytes <= self._ends[run])
        out = np.zeros(len(starts), f"V{row_bytes}")
        if there.all() and len(starts):
            out = self._view(f"any V{row_bytes}")[starts + self._deltas[run]]
        elif there.any():
            out[there] = self._view(f"any V{row_bytes}")[(starts + self._deltas[run])[there]]
        for i in np.flatnonzero(~there & self._seams(starts, row_bytes)).tolist():
            data, missing = self.read_partial(int(starts[i]), row_bytes)
            if not missing:
                out[i], there[i] = np.void(data), True
        return out.view(f"<u{size}").reshape(len(starts), row_bytes // size), there

    def _seams(self, starts: np.ndarray, length: int) -> np.ndarray:
        """Tell which stretches cross from one run to another that follows it in memory at once."""
        at = self._seam_at
        return np.searchsorted(at, starts, "right") < np.searchsorted(at, starts + length, "left")

    # ---- one word, and bytes

    def word(self, address: int, size: int) -> int | None:
        """Return the aligned word of ``size`` (4 or 8) bytes at a physical address; None: it is not there."""
        delta = self._near.get(address >> _NEAR_SHIFT)
        if delta is None:
            delta = self._find(address, size)
            if delta is None:
                return self._joined(address, size) if self._odd_seams else None
        word: int = _UNPACK[size](self._file, address + delta)[0]
        return word

    def _joined(self, address: int, size: int) -> int | None:
        data, missing = self.read_partial(address, size)
        return None if missing else int.from_bytes(data, "little")

    @cached_property
    def _lists(self) -> tuple[list[int], list[int], list[int]]:
        return self.runs.starts.tolist(), self.runs.ends.tolist(), self.runs.deltas.tolist()

    def _find(self, address: int, size: int) -> int | None:
        """Return the delta of the run that has ``size`` bytes at an address; remember it for the page."""
        starts, ends, deltas = self._lists
        run = bisect_right(starts, address) - 1
        if run < 0 or address + size > ends[run]:
            return None
        page = address >> _NEAR_SHIFT
        if starts[run] <= page << _NEAR_SHIFT and page + 1 << _NEAR_SHIFT <= ends[run]:
            if len(self._near) >= _NEAR_MOST:
                self._near.clear()
            self._near[page] = deltas[run]
        return deltas[run]

    def read(self, address: int, length: int) -> bytes:
        """Return ``length`` bytes at a physical address.

        Raises:
            NotInDump: with the first address that is missing.
        """
        data, missing = self.read_partial(address, length)
        if missing:
            raise NotInDump(self.name, missing[0].start)
        return data

    def find(self, text: bytes, most: int) -> Iterator[int]:
        """Yield the physical addresses where a text begins, in address order, in the first ``most`` bytes."""
        self._file.madvise(mmap.MADV_SEQUENTIAL)
        try:
            for start, end, delta in zip(*self._lists, strict=True):
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
        """Take the pages of a stretch of the file out of this process. The host may keep them in its cache."""
        start -= start % mmap.PAGESIZE
        self._file.madvise(mmap.MADV_DONTNEED, start, end - start)

    def read_partial(self, address: int, length: int) -> tuple[bytes, tuple[Bank, ...]]:
        """Return ``length`` bytes at a physical address, zeros where they are missing, and what is missing."""
        starts, ends, deltas = self._lists
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
