"""What the MMU sees: translating addresses by an architecture's hardware levels, large pages included.

Linux' own view is `vmcore.paging.linux`. This one is for CPUs, and for the memory of any machine that has been
saved: it asks its memory for words, and a memory may lack some. One address at a time in plain integers, many in
whole-array steps; a walk ends after as many steps as there are levels, whatever the tables say.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from attrs import frozen

from vmcore.architecture import Architecture, Leaf, Level
from vmcore.paging.pte import Depth, TableMemory, decode, lay_out

_BLOCK = 1 << 15  # addresses translated at a time: the arrays in between stay in the cache


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


def _entries(d: Depth, tables: np.ndarray, node: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which entries of a level to read, each once if they are fewer than the addresses, and whose they are.

    Args:
        d: the level.
        tables: physical addresses of tables, int64, shape ``(m,)``.
        node: for each address the number of its table, int64, shape ``(n,)``.
        index: for each address that of its entry in the table, int64, shape ``(n,)``.

    Returns:
        Physical addresses of entries, int64, and for each address the number of its entry, shape ``(n,)``.
    """
    size = d.index_mask + 1
    if len(tables) * size > len(node):
        return tables[node] + (index * d.stride + d.offset), np.arange(len(node))
    key = node * size + index
    used = np.zeros(len(tables) * size, bool)
    used[key] = True
    entries = np.flatnonzero(used)
    number = np.empty(len(used), np.int64)
    number[entries] = np.arange(len(entries))
    return tables[entries // size] + (entries % size * d.stride + d.offset), number[key]


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
        #: the levels, laid out for walks
        self.depths = tuple(lay_out(level, level is self.levels[-1]) for level in self.levels)
        bits = arch.hardware.canonical_bits
        #: (what to add so that canonical addresses are the low ones, how many those are)
        self._canonical = (1 << bits - 1, 1 << bits) if 0 < bits < arch.word_bits else None

    def canonical(self, address: int) -> bool:
        """Tell whether an address is sign-extended as the hardware wants it."""
        if self._canonical is None:
            return True
        half, size = self._canonical
        return address + half & self.word_mask < size

    def canonical_many(self, addresses: np.ndarray) -> np.ndarray:
        """Tell for each address (uint64, shape ``(n,)``) whether it is sign-extended as the hardware wants it."""
        if self._canonical is None:
            return np.ones(len(addresses), bool)
        half, size = self._canonical
        return (addresses + np.uint64(half) & np.uint64(self.word_mask)) < np.uint64(size)

    def translate(self, address: int) -> int | None:
        """Return the physical address a virtual one maps to, bytes; None: nowhere (`walk` says why)."""
        if self._canonical is not None and not self.canonical(address):
            return None
        table, word_at = self.root, self.memory.word
        for d in self.depths:
            word = word_at(table + d.offset + (address >> d.shift & d.index_mask) * d.stride, d.size)
            if word is None or not word & d.present:
                return None
            for page in d.pages:
                if word & page.mask == page.value:
                    frame = word & page.in_place or decode(page.frame, word)
                    return frame & ~page.address_mask | address & page.address_mask
            if d.last or word & d.bad_mask != d.good:
                return None
            table = word & d.in_place or decode(d.level.frame, word)
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
        for d in self.depths:
            at = table + d.offset + (address >> d.shift & d.index_mask) * d.stride
            word = self.memory.word(at, d.size)
            if word is None:
                return Walk((*steps, Step(d.level, at, None)), End.NOT_IN_MEMORY, None)
            if not word & d.present:
                return Walk((*steps, Step(d.level, at, word)), End.NOT_PRESENT, None)
            for page in d.pages:
                if word & page.mask == page.value:
                    physical = decode(page.frame, word) & ~page.address_mask | address & page.address_mask
                    return Walk((*steps, Step(d.level, at, word, page.leaf)), End.MAPPED, physical)
            steps.append(Step(d.level, at, word))
            if d.last or word & d.bad_mask != d.good:
                break
            table = decode(d.level.frame, word)
        return Walk(tuple(steps), End.NO_TABLE, None)

    def translate_many(self, addresses: np.ndarray) -> np.ndarray:
        """Return the physical addresses that many virtual ones map to; `walk_many` says why one maps to none.

        Args:
            addresses: virtual, bytes, uint64, shape ``(n,)``, in any order.

        Returns:
            Bytes, int64, shape ``(n,)``; -1: nowhere.
        """
        addresses = np.ascontiguousarray(addresses, np.uint64)
        out = np.full(len(addresses), -1, np.int64)
        for start in range(0, len(addresses), _BLOCK):
            self._translate_block(addresses[start : start + _BLOCK], out[start : start + _BLOCK])
        return out

    def _translate_block(self, addresses: np.ndarray, out: np.ndarray) -> None:
        """Translate some addresses into ``out``; an entry that many of them share is read once.

        An address is at a *node*, which has the table to look into: its number is in ``node``.
        """
        who = np.arange(len(addresses))
        if not (good := self.canonical_many(addresses)).all():
            who, addresses = who[good], addresses[good]
        node, tables = np.zeros(len(who), np.int64), np.array([self.root], np.int64)
        for d in self.depths:
            index = (addresses >> np.uint64(d.shift) & np.uint64(d.index_mask)).view(np.int64)
            at, node = _entries(d, tables, node, index)
            found, there = self.memory.words(at, d.size)
            found = found.astype(np.uint64, copy=False)
            rest = there & (found & np.uint64(d.present) != 0)
            for page in d.pages:
                hit = rest & (found & np.uint64(page.mask) == np.uint64(page.value))
                if not hit.any():
                    continue
                rest &= ~hit
                here, inside = hit[node], np.int64(page.address_mask)
                values = page.frames(found)[node] | addresses.view(np.int64) & inside
                out[who[here]] = values[here]
            if d.last or not (rest := rest & (found & np.uint64(d.bad_mask) == np.uint64(d.good))).any():
                return
            tables = d.tables(found)
            if not rest.all():
                on = rest[node]
                who, addresses, node = who[on], addresses[on], node[on]

    def walk_many(self, addresses: np.ndarray) -> Walks:
        """Translate many virtual addresses (uint64, shape ``(n,)``), level by level."""
        n, addresses = len(addresses), addresses.astype(np.uint64, copy=False)
        physical, end = np.full(n, -1, np.int64), np.full(n, End.NO_TABLE, np.uint8)
        depth, leaf = np.full(n, -1, np.int8), np.full(n, -1, np.int8)
        entries = np.full((len(self.depths), n), -1, np.int64)
        words = np.zeros((len(self.depths), n), np.uint64)
        alive = np.arange(n)
        if self._canonical is not None:
            good = self.canonical_many(addresses)
            end[~good] = End.NOT_CANONICAL
            alive = alive[good]
        table = np.full(len(alive), self.root, np.int64)
        for number, d in enumerate(self.depths):
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
                physical[who] = page.frames(found[hit]) | addresses[who].view(np.int64) & inside
                end[who] = End.MAPPED
                leaf[who] = position if page.leaf is not None else -1
            if d.last:
                break
            rest &= found & np.uint64(d.bad_mask) == np.uint64(d.good)
            alive, table = alive[rest], d.tables(found[rest])
        return Walks(physical, end, depth, leaf, entries, words)
