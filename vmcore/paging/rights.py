"""The rights that the entries of a walk give, by the `Access` records, and the bits that the MMU sets in them.

There is one form for a single walk in plain integers and one for many walks in arrays. Both give the same rights.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from vmcore.architecture import Access, Architecture, Pairs
from vmcore.memory.physical import PhysicalMemory
from vmcore.paging.mmu import End, Walk, Walks, WalkStep

READ: Final = 0x01
WRITE: Final = 0x02
EXECUTE: Final = 0x04
SHARED: Final = 0x08  #: the page is in every address space
CACHED: Final = 0x10
WRITE_BACK: Final = 0x20
CLEAN: Final = 0x40  #: the MMU has to set the entry's dirty bit before the page is written
RESERVED: Final = 0x80  #: a reserved bit is set, so every use faults
RIGHTS: Final = READ | WRITE | EXECUTE

NAMES = {READ: "read", WRITE: "write", EXECUTE: "execute"}
_MANAGER, _NO_ACCESS = 3, 0  #: fields of the domain register


class Mark(NamedTuple):
    """A word that the MMU stores back: its address, its bytes, and the word with accessed and dirty bits set."""

    address: int
    size: int
    word: int


def _holds(pairs: Pairs, word: int) -> bool:
    return any(word & mask == value for mask, value in pairs)


def _holding(pairs: Pairs, words: np.ndarray) -> np.ndarray:
    out = np.zeros(len(words), bool)
    for mask, value in pairs:
        out |= words & np.uint64(mask) == np.uint64(value)
    return out


def _access(step: WalkStep) -> Access:
    own = step.leaf.access if step.leaf is not None else None
    return step.level.access if own is None else own


class Rights:
    """The rights that an architecture's hardware takes from its entries.

    Flags are the rights READ to EXECUTE, the page's properties (SHARED, CACHED, WRITE_BACK, CLEAN), and RESERVED.
    """

    def __init__(self, arch: Architecture) -> None:
        """Use the hardware levels and the domain register of ``arch``."""
        self._levels, self._register = arch.hardware_levels, arch.hardware.domain_register

    def of(self, walk: Walk) -> int:
        """Return the flags of a walk that found a page, and 0 for one that did not."""
        if walk.end != End.MAPPED:
            return 0
        rights, domain, word = RIGHTS, 0, 0
        for step in walk.steps:
            assert step.word is not None  # the walk found a page
            word, access = step.word, _access(step)
            if word & access.reserved:
                return RESERVED
            if not _holds(access.read, word):
                rights &= ~READ
            if not _holds(access.write, word):
                rights &= ~WRITE
            if not _holds(access.execute, word):
                rights &= ~EXECUTE
            if access.domain is not None:
                domain = word >> access.domain & 0xF
        if self._register is not None:
            rights = _under(self._register >> 2 * domain & 3, rights)
        if _holds(access.shared, word):
            rights |= SHARED
        if _holds(access.cached, word):
            rights |= CACHED | (WRITE_BACK if _holds(access.write_back, word) else 0)
        return rights | (CLEAN if word & access.dirty != access.dirty else 0)

    def of_many(self, walks: Walks) -> np.ndarray:
        """Return the flags of many walks, uint8, shape ``(n,)``, and 0 where no page is mapped."""
        n = len(walks.physical)
        flags, domain = np.full(n, RIGHTS, np.uint8), np.zeros(n, np.uint64)
        reserved = np.zeros(n, bool)
        for depth, leaf, access in self._kinds():
            on = (walks.depth >= depth) if leaf is None else (walks.depth == depth) & (walks.leaf == leaf)
            if leaf is None:  # an entry that points to a table, or maps a page of a level that lists no leaves
                on &= (walks.depth > depth) | (walks.leaf < 0)
            who = np.flatnonzero(on & (walks.end == int(End.MAPPED)))
            if not len(who):
                continue
            words = walks.words[depth, who]
            reserved[who] |= words & np.uint64(access.reserved) != 0
            for right, pairs in ((READ, access.read), (WRITE, access.write), (EXECUTE, access.execute)):
                flags[who[~_holding(pairs, words)]] &= 0xFF ^ right
            if access.domain is not None:
                domain[who] = words >> np.uint64(access.domain) & np.uint64(0xF)
            page = walks.depth[who] == depth
            self._set_properties(flags, who[page], words[page], access)
        if self._register is not None:
            self._apply_domains(flags, domain)
        flags[reserved] = RESERVED
        flags[walks.end != int(End.MAPPED)] = 0
        return flags

    def shifts(self, walks: Walks) -> np.ndarray:
        """Return log2 of the bytes that each page's entry maps, uint8, and the level's where no page is mapped."""
        out = np.zeros(len(walks.depth), np.uint8)
        for depth, level in enumerate(self._levels):
            out[walks.depth == depth] = level.shift
            for n, leaf in enumerate(level.leaves):
                out[(walks.depth == depth) & (walks.leaf == n)] = leaf.shift
        return out

    def _kinds(self) -> list[tuple[int, int | None, Access]]:
        """Return (depth, leaf or None for any other entry, access), root first."""
        out: list[tuple[int, int | None, Access]] = []
        for depth, level in enumerate(self._levels):
            out.append((depth, None, level.access))
            for n, leaf in enumerate(level.leaves):
                out.append((depth, n, level.access if leaf.access is None else leaf.access))
        return out

    @staticmethod
    def _set_properties(flags: np.ndarray, who: np.ndarray, words: np.ndarray, access: Access) -> None:
        """Set the flags of pages by their entries."""
        cached = _holding(access.cached, words)
        flags[who[_holding(access.shared, words)]] |= SHARED
        flags[who[cached]] |= CACHED
        flags[who[cached & _holding(access.write_back, words)]] |= WRITE_BACK
        flags[who[words & np.uint64(access.dirty) != np.uint64(access.dirty)]] |= CLEAN

    def _apply_domains(self, flags: np.ndarray, domain: np.ndarray) -> None:
        assert self._register is not None
        field = np.uint64(self._register) >> np.uint64(2) * domain & np.uint64(3)
        flags[field == _MANAGER] |= RIGHTS
        flags[field == _NO_ACCESS] &= 0xFF ^ RIGHTS

    def marks(self, walk: Walk, write: bool) -> list[Mark]:
        """Return the words that the MMU stores when it uses a walk that found a page, root first."""
        out = []
        for step in walk.steps:
            access, word = _access(step), step.word
            assert word is not None
            bits = access.accessed | (access.dirty if write and step is walk.steps[-1] else 0)
            if word & bits != bits:
                out.append(Mark(step.entry_address, step.level.word_bytes, word | bits))
        return out

    def mark_many(self, walks: Walks, used: np.ndarray, write: bool, memory: PhysicalMemory) -> None:
        """Store the words that the MMU stores when it uses the walks with numbers ``used``, which found pages."""
        for depth, leaf, access in self._kinds():
            last = walks.depth[used] == depth
            on = last & (walks.leaf[used] == leaf) if leaf is not None else ~last | (walks.leaf[used] < 0)
            on &= walks.depth[used] >= depth
            bits = np.where(last, access.accessed | (access.dirty if write else 0), access.accessed)
            words = walks.words[depth, used]
            on &= words & bits.astype(np.uint64) != bits.astype(np.uint64)
            if on.any():
                marked = words[on] | bits[on].astype(np.uint64)
                memory.store_many(walks.entries[depth, used[on]], marked, self._levels[depth].word_bytes)


def _under(field: int, rights: int) -> int:
    """Return the rights that a field of the domain register leaves."""
    return RIGHTS if field == _MANAGER else 0 if field == _NO_ACCESS else rights


def error_code(flags: int, access: int) -> int:
    """Return the error code of an access that faulted, as `vmcore.hookspecs.vmcore_vmalloc_fault` documents it."""
    protection = 1 if flags else 0
    reserved = 8 if flags & RESERVED else 0
    return protection | (2 if access == WRITE else 0) | reserved | (16 if access == EXECUTE else 0)
