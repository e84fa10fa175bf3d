"""Mappings that belong together, as runs, and runs that are repeated."""

from __future__ import annotations

import numpy as np
from attrs import frozen

from vmcore.paging.mappings import PLAIN, Mappings
from vmcore.paging.mmu import Mmu


@frozen(eq=False)
class MappingRuns:
    """Mappings that follow each other, virtually and physically, with the same bits; arrays of shape ``(n,)``.

    Attributes:
        virtual: first address, uint64.
        physical: where that is, bytes, int64.
        size: bytes, uint64.
        count: mappings in it, int64.
        shift: log2 of the bytes of each, uint8.
        depth: the level their entries are at, int8.
        leaf: as in `Mappings`, int8.
        flags: their entries without the addresses, uint64.
        path: as in `Mappings`, int32.
        paths: as in `Mappings`.
    """

    virtual: np.ndarray
    physical: np.ndarray
    size: np.ndarray
    count: np.ndarray
    shift: np.ndarray
    depth: np.ndarray
    leaf: np.ndarray
    flags: np.ndarray
    path: np.ndarray
    paths: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.virtual)


def merge(mmu: Mmu, found: Mappings) -> MappingRuns:
    """Make runs of mappings: the next address, the next frame, the same page size and the same bits.

    The bits are those of the mapping's own entry and of the entries of the tables above: what an upper entry
    forbids (execution, say) is a difference. What they mean together is the architecture's business.
    """
    flags = leaf_flags(mmu, found)
    size = np.uint64(1) << found.shift.astype(np.uint64)
    new = np.ones(len(found), bool)
    new[1:] = found.virtual[1:] != found.virtual[:-1] + size[:-1]
    new[1:] |= found.physical[1:] != found.physical[:-1] + size[:-1].view(np.int64)
    for kind in (flags, found.shift, found.depth, found.leaf, found.path):
        new[1:] |= kind[1:] != kind[:-1]
    first = np.flatnonzero(new)
    count = np.diff(first, append=len(found))
    whole = count.astype(np.uint64) * size[first]
    columns = (found.shift, found.depth, found.leaf, flags, found.path)
    shift, depth, leaf, flags, path = (column[first] for column in columns)
    virtual, physical = found.virtual[first], found.physical[first]
    return MappingRuns(virtual, physical, whole, count, shift, depth, leaf, flags, path, found.paths)


def repeats(runs: MappingRuns) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find runs that are the same but for their address, at equal distances: one directory cloned many times.

    Returns:
        The index of the first of each such series, how many runs it has, both int64, and the distance in bytes,
        uint64; a run that is not repeated is a series of 1.
    """
    same = np.zeros(len(runs), bool)
    if len(runs):
        same[1:] = True
    for kind in (runs.physical, runs.size, runs.flags, runs.shift, runs.depth, runs.leaf, runs.path):
        same[1:] &= kind[1:] == kind[:-1]
    distance = np.zeros(len(runs), np.uint64)
    distance[1:] = runs.virtual[1:] - runs.virtual[:-1]
    other = np.zeros(len(runs), bool)
    other[1:] = same[1:] & same[:-1] & (distance[1:] != distance[:-1])
    # where one series follows another, the step between them is neither's: of breaks in a row each second counts
    place = np.arange(len(runs))
    since = place - np.maximum.accumulate(np.where(other, 0, place))
    first = np.flatnonzero(~same | other & (since % 2 == 1))
    times = np.diff(first, append=len(runs))
    return first, times, np.where(times > 1, distance[np.minimum(first + 1, max(len(runs) - 1, 0))], 0)


def leaf_flags(mmu: Mmu, found: Mappings) -> np.ndarray:
    """Return the entries of mappings without the bits that hold the address, uint64, shape ``(n,)``."""
    flags = found.word.copy()
    for number, d in enumerate(mmu.laid_out):
        for position, page in enumerate(d.pages):
            these = (found.depth == number) & (found.leaf == (position if page.leaf else PLAIN))
            mask = sum(s.entry_mask for s in page.frame)
            flags[these] &= np.uint64(~mask & (1 << 64) - 1)
    return flags
