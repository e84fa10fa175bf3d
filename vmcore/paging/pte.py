"""The levels of an architecture laid out for walks by the MMU, and the memory that tables are read from."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from vmcore.architecture import Leaf, Level, Segment


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

    def rows(self, starts: np.ndarray, row_bytes: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Return whole rows of aligned words, each row within one page, 0 where there are none.

        Args:
            starts: physical addresses, bytes, int64, shape ``(n,)``, multiples of ``row_bytes``.
            row_bytes: bytes of a row, a power of two.
            size: bytes of a word, 4 or 8.

        Returns:
            Words, unsigned, shape ``(n, row_bytes // size)``, and whether the row is there, bool, ``(n,)``.
        """
        ...


class Page(NamedTuple):
    """A kind of page at a level, laid out for the walk."""

    leaf: Leaf | None  # None: any entry of a last level that lists no leaves
    mask: int
    value: int
    shift: int
    address_mask: int  # of the address inside the page
    in_place: int  # mask of the frame, where it sits in the entry at its own bits; else 0
    frame: tuple[Segment, ...]

    def frames(self, words: np.ndarray) -> np.ndarray:
        """Return where the pages begin (physical, int64) that entries (uint64) of this kind map."""
        return decode_words(self.frame, words, self.in_place) & ~np.int64(self.address_mask)


class Depth(NamedTuple):
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
    pages: tuple[Page, ...]

    def tables(self, words: np.ndarray) -> np.ndarray:
        """Return the tables (physical, int64) that entries (uint64) point to."""
        return decode_words(self.level.frame, words, self.in_place)


def _in_place(frame: tuple[Segment, ...]) -> int:
    """Return the mask of a frame field that holds the address at its own bits, else 0."""
    fits = all(s.entry_bit == s.address_bit for s in frame)
    return sum(s.entry_mask for s in frame) if fits else 0


def decode(frame: tuple[Segment, ...], word: int) -> int:
    """Return the physical address (bytes) a frame field of a word holds."""
    return sum((word & s.entry_mask) >> s.entry_bit << s.address_bit for s in frame)


def decode_words(frame: tuple[Segment, ...], words: np.ndarray, in_place: int = 0) -> np.ndarray:
    """Return the physical addresses (bytes, int64) a frame field of words (uint64, any shape) holds.

    ``in_place`` is the mask of the field where it holds addresses at their own bits, else 0.
    """
    if in_place:
        return (words & np.uint64(in_place)).view(np.int64)
    out = np.zeros(words.shape, np.uint64)
    for s in frame:
        out |= (words & np.uint64(s.entry_mask)) >> np.uint64(s.entry_bit) << np.uint64(s.address_bit)
    return out.view(np.int64)


def _page(leaf: Leaf | None, level: Level) -> Page:
    if leaf is None:
        shift, frame = level.shift, level.frame
        return Page(None, 0, 0, shift, (1 << shift) - 1, _in_place(frame), frame)
    size = (1 << leaf.shift) - 1
    return Page(leaf, leaf.mask, leaf.value, leaf.shift, size, _in_place(leaf.frame), leaf.frame)


def lay_out(level: Level, last: bool) -> Depth:
    """Lay a level out; ``last`` tells that there is none below it."""
    pages = tuple(_page(leaf, level) for leaf in level.leaves)
    return Depth(
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
