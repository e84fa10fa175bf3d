"""Page tables as the MMU reads them: translation by an architecture's hardware levels, large pages included.

Linux' own view is `vmcore.paging.linux`. This one serves the simulated CPUs, and the saved memory of any
machine. A saved memory may lack some words, so a walk can end there. No walk has more steps than there are
levels, whatever the tables contain.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from attrs import frozen

from vmcore.architecture import Architecture, Leaf, Level
from vmcore.architecture.levels import decode
from vmcore.paging.pte import Descent, LaidOutLevel, TableMemory, descend, lay_out

_BLOCK = 1 << 15  # addresses a step, so that its arrays stay in the cache: ``test_translate_in_batches``


class End(IntEnum):
    """How a walk ended.

    Arrays are given plain integers, for example ``int(End.MAPPED)``. numpy asks an enum member for attributes.
    That runs Python code, and numpy drops an exception of a signal handler that arrives there.
    """

    MAPPED = 0
    NOT_PRESENT = 1  # an entry is not present
    NO_TABLE = 2  # an entry is present, but points to no table and maps no page
    NOT_IN_MEMORY = 3  # the memory lacks the entry
    NOT_CANONICAL = 4  # the address is not sign-extended


class WalkStep(NamedTuple):
    """One level of a walk: where its entry is, the word there (None: not in memory), and the leaf, if any."""

    level: Level
    entry_address: int
    word: int | None
    leaf: Leaf | None = None


class Walk(NamedTuple):
    """The walk for one address: its steps, root first, how it ended, and the physical address or None."""

    steps: tuple[WalkStep, ...]
    end: End
    physical: int | None


@frozen(eq=False)
class Walks:
    """The walks for many addresses, as arrays of shape ``(n,)``.

    Attributes:
        physical: bytes, int64. -1 where nothing is mapped.
        end: `End`, uint8.
        depth: the level at which the walk ended, int8. 0 is the root's. -1 if the walk did not begin.
        leaf: index into ``levels[depth].leaves`` of the page found, int8. -1 if none was, or the level lists none.
        entries: shape ``(levels, n)``: physical addresses of the entries that were read, int64. -1 for the others.
        words: shape ``(levels, n)``: the words there, uint64. 0 where none was read.
    """

    physical: np.ndarray
    end: np.ndarray
    depth: np.ndarray
    leaf: np.ndarray
    entries: np.ndarray
    words: np.ndarray


class Mmu:
    """The hardware's translation of addresses below one root.

    Attributes:
        levels: the hardware's, root first.
        laid_out: the same levels, laid out for walks.
        memory: holds the tables.
        root: physical address of the root table. It may be changed.
        page_shift: log2 of the page size, bytes.
        word_mask: the largest address, an ``unsigned long``.
    """

    def __init__(self, arch: Architecture, memory: TableMemory, root: int) -> None:
        """Translate by the hardware view of *arch*, below ``root``."""
        self.levels, self.memory, self.root = arch.hardware_levels, memory, root
        self.page_shift, self.word_mask = arch.page_shift, arch.word_mask
        self.laid_out = lay_out(self.levels)
        bits = arch.hardware.canonical_bits
        #: (number to add to make canonical addresses the lowest ones, how many of those there are)
        self._canonical = (1 << bits - 1, 1 << bits) if 0 < bits < arch.word_bits else None

    def canonical(self, address: int) -> bool:
        """Return whether an address is sign-extended as the hardware requires."""
        if self._canonical is None:
            return True
        half, size = self._canonical
        return address + half & self.word_mask < size

    def canonical_many(self, addresses: np.ndarray) -> np.ndarray:
        """Return whether each address (uint64, shape ``(n,)``) is sign-extended as the hardware requires."""
        if self._canonical is None:
            return np.ones(len(addresses), bool)
        half, size = self._canonical
        return (addresses + np.uint64(half) & np.uint64(self.word_mask)) < np.uint64(size)

    def translate(self, address: int) -> int | None:
        """Return the physical address (bytes) that a virtual one maps to, or None. `walk` says why there is none.

        This is a copy of `descend` and `walk` that keeps no steps: ``test_translate_one_by_one`` in tests/bench
        pays for it.
        """
        if self._canonical is not None and not self.canonical(address):
            return None
        table, word_at = self.root, self.memory.word
        for d in self.laid_out:
            word = word_at(table + d.offset + (address >> d.shift & d.index_mask) * d.stride, d.size)
            if word is None or not word & d.present:
                return None
            for page in d.pages:
                if word & page.mask == page.value:
                    frame = word & page.in_place or decode(page.frame, word)
                    return frame & ~page.address_mask | address & page.address_mask
            if d.last or word & d.bad_mask != d.good_value:
                return None
            table = word & d.in_place or d.table(word)
        return None

    def walk(self, address: int) -> Walk:
        """Translate one virtual address, and keep each step.

        Args:
            address: virtual, bytes, 0 to the largest ``unsigned long``.
        """
        if not self.canonical(address):
            return Walk((), End.NOT_CANONICAL, None)
        steps: list[WalkStep] = []
        end, physical = End.NO_TABLE, None

        def follow(_number: int, d: LaidOutLevel, at: int) -> int | None:
            nonlocal end, physical
            word, leaf = self.memory.word(at, d.size), None
            if word is None:
                end = End.NOT_IN_MEMORY
            elif not word & d.present:
                end = End.NOT_PRESENT
            else:
                for page in d.pages:
                    if word & page.mask == page.value:
                        end, leaf = End.MAPPED, page.leaf
                        physical = page.start(word) | address & page.address_mask
                        break
            steps.append(WalkStep(d.level, at, word, leaf))
            points = end is End.NO_TABLE and not d.last and word is not None and word & d.bad_mask == d.good_value
            return word if points else None

        descend(self.laid_out, self.root, address, follow)
        return Walk(tuple(steps), end, physical)

    def translate_many(self, addresses: np.ndarray) -> np.ndarray:
        """Return the physical addresses that many virtual ones map to. `walk_many` says why one maps to none.

        Args:
            addresses: virtual, bytes, uint64, shape ``(n,)``, in any order.

        Returns:
            Bytes, int64, shape ``(n,)``; -1 where nothing is mapped.
        """
        addresses = np.ascontiguousarray(addresses, np.uint64)
        out = np.full(len(addresses), -1, np.int64)
        for start in range(0, len(addresses), _BLOCK):
            self._translate_block(addresses[start : start + _BLOCK], out[start : start + _BLOCK])
        return out

    def _translate_block(self, addresses: np.ndarray, out: np.ndarray) -> None:
        """Translate some addresses into ``out``."""
        walk = Descent(self.root, addresses, self.canonical_many(addresses))
        for d in self.laid_out:
            found, there = self.memory.words(walk.entries(d), d.size)
            found = found.astype(np.uint64, copy=False)
            rest = there & (found & np.uint64(d.present) != 0)
            for page in d.pages:
                hit = rest & (found & np.uint64(page.mask) == np.uint64(page.value))
                if not hit.any():
                    continue
                rest &= ~hit
                here = hit[walk.node]
                values = page.starts(found)[walk.node] | walk.addresses.view(np.int64) & np.int64(
                    page.address_mask
                )
                out[walk.who[here]] = values[here]
            if d.last or not (rest := rest & (found & np.uint64(d.bad_mask) == np.uint64(d.good_value))).any():
                return
            walk.follow(d, found, rest)

    def walk_many(self, addresses: np.ndarray) -> Walks:
        """Translate many virtual addresses (uint64, shape ``(n,)``), and keep each step."""
        n, addresses = len(addresses), addresses.astype(np.uint64, copy=False)
        physical, end = np.full(n, -1, np.int64), np.full(n, int(End.NO_TABLE), np.uint8)
        depth, leaf = np.full(n, -1, np.int8), np.full(n, -1, np.int8)
        entries = np.full((len(self.laid_out), n), -1, np.int64)
        words = np.zeros((len(self.laid_out), n), np.uint64)
        canonical = self.canonical_many(addresses)
        end[~canonical] = int(End.NOT_CANONICAL)
        walk = Descent(self.root, addresses, canonical)
        for number, d in enumerate(self.laid_out):
            at = walk.entries(d)
            found, there = self.memory.words(at, d.size)
            found, who, node = found.astype(np.uint64, copy=False), walk.who, walk.node
            depth[who], entries[number, who], words[number, who] = number, at[node], found[node]
            present = found & np.uint64(d.present) != 0
            end[who[~there[node]]] = int(End.NOT_IN_MEMORY)
            end[who[(there & ~present)[node]]] = int(End.NOT_PRESENT)
            rest = there & present
            for position, page in enumerate(d.pages):
                hit = rest & (found & np.uint64(page.mask) == np.uint64(page.value))
                if not hit.any():
                    continue
                rest &= ~hit
                here = hit[node]
                mapped = who[here]
                inside = walk.addresses.view(np.int64) & np.int64(page.address_mask)
                physical[mapped] = (page.starts(found)[node] | inside)[here]
                end[mapped] = int(End.MAPPED)
                leaf[mapped] = position if page.leaf is not None else -1
            if d.last:
                break
            walk.follow(d, found, rest & (found & np.uint64(d.bad_mask) == np.uint64(d.good_value)))
        return Walks(physical, end, depth, leaf, entries, words)
