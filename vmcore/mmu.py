"""What the MMU sees: translating addresses by an architecture's hardware levels, large pages included.

Linux' own view is `vmcore.pgwalk`. This one is for CPUs, and for the memory of any machine that has been saved:
it asks its memory for words, and a memory may lack some. One address at a time in plain integers, many in
whole-array steps; a walk ends after as many steps as there are levels, whatever the tables say.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple, Protocol

import numpy as np
from attrs import frozen

from vmcore.architecture import Architecture, Leaf, Level, Segment


class TableMemory(Protocol):
    """Physical memory that page tables are read from; little-endian."""

    def word(self, address: int, size: int) -> int | None:
        """Return the aligned word of ``size`` (4 or 8) bytes at a physical address; None: it is not there."""
        ...

    def words(self, addresses: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Return aligned words at physical addresses (int64, shape ``(n,)``), 0 where there are none.

        Returns:
            Words, unsigned, and whether each is there, bool, both of shape ``(n,)``.
        """
        ...


class End(IntEnum):
    """How a walk ended."""

    MAPPED = 0
    NOT_PRESENT = 1  # an entry is not present
    NO_TABLE = 2  # an entry is present, but neither a table nor a page
    NOT_IN_MEMORY = 3  # an entry lies where the memory has nothing
    NOT_CANONICAL = 4  # the address is not sign-extended


class Step(NamedTuple):
    """One level of a walk: where its entry is, the word there (None: not in memory), and the leaf it is."""

    level: Level
    entry_address: int
    word: int | None
    leaf: Leaf | None = None


class Walk(NamedTuple):
    """A walk for one address: its steps, root first, how it ended, and the physical address or None."""

    steps: tuple[Step, ...]
    end: End
    physical: int | None


@frozen(eq=False)
class Walks:
    """Walks for many addresses, as arrays of shape ``(n,)``.

    Attributes:
        physical: bytes, int64; -1 where nothing is mapped.
        end: `End`, uint8.
        depth: the level the walk ended at, 0 is the root, int8; -1: it did not begin.
        leaf: index into ``levels[depth].leaves`` of the page found, int8; -1: none found, or the level lists none.
        entries: shape ``(levels, n)``: physical addresses of the entries that were read, int64; -1: not read.
        words: shape ``(levels, n)``: the words there, uint64; 0 where none was read.
    """

    physical: np.ndarray
    end: np.ndarray
    depth: np.ndarray
    leaf: np.ndarray
    entries: np.ndarray
    words: np.ndarray


class _Page(NamedTuple):
    """A kind of page at a level, laid out for the walk."""

    leaf: Leaf | None  # None: any entry of a last level that lists no leaves
    mask: int
    value: int
    shift: int
    address_mask: int  # of the address inside the page
    in_place: int  # mask of the frame, where it sits in the entry at its own bits; else 0
    frame: tuple[Segment, ...]


class _Depth(NamedTuple):
    """A level laid out for the walk."""

    level: Level
    shift: int
    index_mask: int
    stride: int
    offset: int
    size: int
    present: int
    bad_mask: int
    good: int
    last: bool
    in_place: int
    pages: tuple[_Page, ...]


def _in_place(frame: tuple[Segment, ...]) -> int:
    """Return the mask of a frame field that holds the address at its own bits, else 0."""
    fits = all(s.entry_bit == s.address_bit for s in frame)
    return sum(s.entry_mask for s in frame) if fits else 0


def _decode(frame: tuple[Segment, ...], word: int) -> int:
    return sum((word & s.entry_mask) >> s.entry_bit << s.address_bit for s in frame)


def decode_words(frame: tuple[Segment, ...], words: np.ndarray) -> np.ndarray:
    """Return the physical addresses (bytes, int64) a frame field of words (uint64, any shape) holds."""
    out = np.zeros(words.shape, np.uint64)
    for s in frame:
        out |= (words & np.uint64(s.entry_mask)) >> np.uint64(s.entry_bit) << np.uint64(s.address_bit)
    return out.view(np.int64)


def _page(leaf: Leaf | None, level: Level) -> _Page:
    if leaf is None:
        shift, frame = level.shift, level.frame
        return _Page(None, 0, 0, shift, (1 << shift) - 1, _in_place(frame), frame)
    size = (1 << leaf.shift) - 1
    return _Page(leaf, leaf.mask, leaf.value, leaf.shift, size, _in_place(leaf.frame), leaf.frame)


def _depth(level: Level, last: bool) -> _Depth:
    pages = tuple(_page(leaf, level) for leaf in level.leaves)
    return _Depth(
        level,
        level.shift,
        level.entries - 1,
        level.entry_bytes,
        level.offset,
        level.word_bytes,
        level.present_mask,
        level.bad_mask,
        level.good_value,
        last,
        _in_place(level.frame),
        pages or ((_page(None, level),) if last else ()),
    )


class Mmu:
    """The translation that hardware does below one root.

    Attributes:
        levels: the hardware's, root first.
        memory: what the tables are read from.
        root: physical address of the root table; may be changed.
    """

    def __init__(self, arch: Architecture, memory: TableMemory, root: int) -> None:
        """Translate by the hardware view of *arch*, below ``root``."""
        self.levels, self.memory, self.root = arch.hardware_levels, memory, root
        self.page_shift, self.word_mask = arch.page_shift, arch.word_mask
        self._depths = tuple(_depth(level, level is self.levels[-1]) for level in self.levels)
        bits = arch.hardware.canonical_bits
        #: (what to add so that canonical addresses are the low ones, how many those are)
        self._canonical = (1 << bits - 1, 1 << bits) if bits else None

    def canonical(self, address: int) -> bool:
        """Tell whether an address is sign-extended as the hardware wants it."""
        if self._canonical is None:
            return True
        half, size = self._canonical
        return address + half & self.word_mask < size

    def translate(self, address: int) -> int | None:
        """Return the physical address a virtual one maps to, bytes; None: nowhere (`walk` says why)."""
        if self._canonical is not None and not self.canonical(address):
            return None
        table, word_at = self.root, self.memory.word
        for d in self._depths:
            word = word_at(table + d.offset + (address >> d.shift & d.index_mask) * d.stride, d.size)
            if word is None or not word & d.present:
                return None
            for page in d.pages:
                if word & page.mask == page.value:
                    frame = word & page.in_place or _decode(page.frame, word)
                    return frame & ~page.address_mask | address & page.address_mask
            if d.last or word & d.bad_mask != d.good:
                return None
            table = word & d.in_place or _decode(d.level.frame, word)
        return None

    def walk(self, address: int) -> Walk:
        """Translate one virtual address, step by step.

        Args:
            address: virtual, bytes, 0 to the largest ``unsigned long``.
        """
        if not self.canonical(address):
            return Walk((), End.NOT_CANONICAL, None)
        table = self.root
        steps: list[Step] = []
        for d in self._depths:
            at = table + d.offset + (address >> d.shift & d.index_mask) * d.stride
            word = self.memory.word(at, d.size)
            if word is None:
                return Walk((*steps, Step(d.level, at, None)), End.NOT_IN_MEMORY, None)
            if not word & d.present:
                return Walk((*steps, Step(d.level, at, word)), End.NOT_PRESENT, None)
            for page in d.pages:
                if word & page.mask == page.value:
                    physical = _decode(page.frame, word) & ~page.address_mask | address & page.address_mask
                    return Walk((*steps, Step(d.level, at, word, page.leaf)), End.MAPPED, physical)
            steps.append(Step(d.level, at, word))
            if d.last or word & d.bad_mask != d.good:
                break
            table = _decode(d.level.frame, word)
        return Walk(tuple(steps), End.NO_TABLE, None)

    def walk_many(self, addresses: np.ndarray) -> Walks:
        """Translate many virtual addresses (uint64, shape ``(n,)``), level by level."""
        n, addresses = len(addresses), addresses.astype(np.uint64, copy=False)
        physical, end = np.full(n, -1, np.int64), np.full(n, End.NO_TABLE, np.uint8)
        depth, leaf = np.full(n, -1, np.int8), np.full(n, -1, np.int8)
        entries = np.full((len(self._depths), n), -1, np.int64)
        words = np.zeros((len(self._depths), n), np.uint64)
        alive = np.arange(n)
        if self._canonical is not None:
            half, size = self._canonical
            good = (addresses + np.uint64(half) & np.uint64(self.word_mask)) < np.uint64(size)
            end[~good] = End.NOT_CANONICAL
            alive = alive[good]
        table = np.full(len(alive), self.root, np.int64)
        for number, d in enumerate(self._depths):
            index = (addresses[alive] >> np.uint64(d.shift) & np.uint64(d.index_mask)).astype(np.int64)
            at = table + d.offset + index * d.stride
            found, there = self.memory.words(at, d.size)
            found = found.astype(np.uint64)
            depth[alive], entries[number, alive], words[number, alive] = number, at, found
            present = found & np.uint64(d.present) != 0
            end[alive[~there]] = End.NOT_IN_MEMORY
            end[alive[there & ~present]] = End.NOT_PRESENT
            rest = there & present
            for position, page in enumerate(d.pages):
                hit = rest & (found & np.uint64(page.mask) == np.uint64(page.value))
                rest &= ~hit
                who, inside = alive[hit], np.int64(page.address_mask)
                frame = decode_words(page.frame, found[hit]) & ~inside
                physical[who] = frame | addresses[who].view(np.int64) & inside
                end[who] = End.MAPPED
                leaf[who] = position if page.leaf is not None else -1
            if d.last:
                break
            rest &= found & np.uint64(d.bad_mask) == np.uint64(d.good)
            alive, table = alive[rest], decode_words(d.level.frame, found[rest])
        return Walks(physical, end, depth, leaf, entries, words)
